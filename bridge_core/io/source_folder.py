"""A folder that is read: its entries by name, and nothing outside of it."""

from __future__ import annotations

import os
from pathlib import Path

from bridge_core.errors import LimitExceeded, MalformedFile, UnsafeFile
from bridge_core.io.source_file import SourceFile
from bridge_core.io.system_errors import system_failures

__all__ = ["SourceFolder", "is_inside"]

_MOST_ENTRIES = 2_000_000
"""Entries of one folder from which on it is not listed."""


class SourceFolder:
    """A folder whose files are opened by name.

    Names are relative, their parts joined by slashes. A name that leads out of the folder is refused, and so
    is a symbolic link whose target is outside of the folder that the user gave.

    Args:
        path: The folder.
        follow_links: Whether symbolic links in it may lead out of it.
        root: The folder that links must stay in; None for ``path`` itself.

    Raises:
        SystemFailure: The folder cannot be listed.
    """

    def __init__(self, path: Path, *, follow_links: bool = False, root: Path | None = None) -> None:
        self.path = path
        self.follow_links = follow_links
        self._root = root or path
        self._files: frozenset[str] | None = None
        self._folders: frozenset[str] | None = None

    @property
    def name(self) -> str:
        """The path as errors show it."""
        return str(self.path)

    @property
    def files(self) -> frozenset[str]:
        """Names of the regular files directly in the folder, and of links to such files."""
        self._list()
        return self._files or frozenset()

    @property
    def folders(self) -> frozenset[str]:
        """Names of the folders directly in the folder, links to folders included."""
        self._list()
        return self._folders or frozenset()

    def _list(self) -> None:
        if self._files is not None:
            return
        files, folders = [], []
        with system_failures(self.path, "listing the folder"), os.scandir(self.path) as entries:
            for count, entry in enumerate(entries):
                if count > _MOST_ENTRIES:
                    raise LimitExceeded(
                        f"the folder has more than {_MOST_ENTRIES} entries.",
                        path=self.path,
                        hint="Give the file or folder of weights in it.",
                    )
                if entry.is_dir():
                    folders.append(entry.name)
                elif entry.is_file():
                    files.append(entry.name)
        self._files, self._folders = frozenset(files), frozenset(folders)

    def place(self, name: str) -> Path:
        """Return the path of an entry, which need not exist.

        Args:
            name: The relative name, its parts joined by slashes.

        Raises:
            UnsafeFile: The name or a symbolic link in it leads out of the folder.
        """
        parts = name.split("/")
        if not all(is_inside(part) for part in parts):
            raise UnsafeFile(
                f"the name {name!r} leads out of the folder, or is not a valid name.", path=self.path
            )
        path = self.path.joinpath(*parts)
        if not self.follow_links:
            try:
                target = path.resolve()
                allowed = _within(self._root.resolve())
            except (OSError, RuntimeError) as err:  # links in a circle
                raise MalformedFile("the symbolic link leads to itself.", path=path) from err
            if not any(target.is_relative_to(folder) for folder in allowed):
                raise UnsafeFile(
                    f"the symbolic link leads out of the checkpoint, to {target}.",
                    path=path,
                    hint="Pass follow_links=True (--follow-links) if you trust it.",
                )
        return path

    def open(self, name: str) -> SourceFile:
        """Open a file of the folder.

        Args:
            name: As in `place`.

        Returns:
            The file, which the caller closes.

        Raises:
            UnsafeFile: As in `place`.
            MalformedFile: It is a special file.
            SourceNotFound: It does not exist.
            SystemFailure: The system refuses to open it.
        """
        return SourceFile(self.place(name))

    def read(self, name: str, most: int) -> bytes:
        """Return the content of a file of the folder.

        Args:
            name: As in `place`.
            most: Largest number of bytes that is read.

        Raises:
            LimitExceeded: The file is larger.
            BadInputError, SystemFailure: As in `open`.
        """
        with self.open(name) as file:
            if file.size > most:
                raise LimitExceeded(
                    f"the file is {file.size} bytes; at most {most} bytes are read of a file of this name.",
                    path=file.name,
                )
            return file.read(0, file.size)

    def folder(self, name: str) -> SourceFolder:
        """Return a folder in the folder.

        Args:
            name: As in `place`.

        Raises:
            UnsafeFile: As in `place`.
        """
        return SourceFolder(self.place(name), follow_links=self.follow_links, root=self._root)


def _within(root: Path) -> list[Path]:
    """Return the folders that links may lead to: the root, and for Hugging Face's cache the model's blobs."""
    snapshots = [parent for parent in root.parents if parent.name == "snapshots"]
    return [root, *(parent.parent / "blobs" for parent in snapshots)]


def is_inside(part: str) -> bool:
    """Return whether one part of a name is an entry of a folder and nothing else.

    >>> [is_inside(part) for part in ("w", "", "..", "a\\0b")]
    [True, False, False, False]
    """
    return bool(part) and part not in (".", "..") and "\0" not in part and "/" not in part
