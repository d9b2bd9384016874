"""The files of an item: every one is known before a library opens one of them by name.

tensorstore opens files by itself and follows symbolic links. So all entries are looked at first: a link that
leads out of the checkpoint, a special file and a circle of links are refused.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from bridge_core import IntegrityError, LimitExceeded, MalformedFile, SourceFile
from bridge_core.io import SourceFolder, system_failures

__all__ = ["ItemFiles"]

_MOST_ENTRIES = 2_000_000
_MOST_LEVELS = 64

Stamp = tuple[int, int, int, int]


class ItemFiles:
    """The files of an item by name, with what shows whether they change.

    Args:
        folder: The item.

    Raises:
        UnsafeFile: A symbolic link leads out of the checkpoint.
        MalformedFile: A special file is in it, or links lead in a circle.
        LimitExceeded: It has very many files or levels.
        SystemFailure: It cannot be listed.
    """

    def __init__(self, folder: SourceFolder) -> None:
        self.folder = folder
        self.path = folder.name
        self.root = folder.path.resolve().as_posix()
        """The path that tensorstore opens."""
        self._stamps: dict[str, Stamp] = {}
        self._folders: set[str] = set()
        self._count = 0
        self._has_links = False
        with system_failures(folder.path, "listing the folder"):
            self._walk(self.root, "", ())

    @property
    def stamps(self) -> Mapping[str, Stamp]:
        """Name -> device, inode, bytes and time of change; the parts of names are joined by slashes."""
        return self._stamps

    @property
    def nbytes(self) -> int:
        """Bytes of all files."""
        return sum(stamp[2] for stamp in self._stamps.values())

    def __contains__(self, name: str) -> bool:
        """Return whether the item has a file of this name."""
        return name in self._stamps

    def has_folder(self, name: str) -> bool:
        """Return whether the item has a folder of this name."""
        return name in self._folders

    @property
    def top_folders(self) -> list[str]:
        """Names of the folders directly in the item, sorted."""
        return sorted(name for name in self._folders if "/" not in name)

    def check_unchanged(self) -> None:
        """Check that all files are those that were there in the beginning.

        Raises:
            IntegrityError: A file was written to, replaced or removed.
        """
        for name, stamp in self._stamps.items():
            try:
                changed = _stamp(os.stat(f"{self.root}/{name}")) != stamp  # noqa: PTH116 - there are many
            except OSError:
                changed = True
            if changed:
                raise IntegrityError(
                    "the file was written to, replaced or removed while the checkpoint was read.",
                    path=self.folder.path / name,
                    hint="Run the conversion again when nothing else writes to it.",
                )

    def read(self, name: str, most: int) -> bytes:
        """Return the content of one of the files.

        Raises:
            LimitExceeded: It is larger than ``most`` bytes.
            IntegrityError: It is gone.
            SystemFailure: It cannot be read.
        """
        if self._stamps[name][2] > most:
            raise LimitExceeded(
                f"the file is {self._stamps[name][2]} bytes; at most {most} bytes are read of a file of this "
                "name.",
                path=self.folder.path / name,
            )
        with SourceFile(f"{self.root}/{name}", follow=self._has_links) as file:
            return file.read(0, min(file.size, most))

    def _walk(self, place: str, prefix: str, above: tuple[tuple[int, int], ...]) -> None:
        if len(above) > _MOST_LEVELS:
            raise LimitExceeded(f"folders are nested more than {_MOST_LEVELS} deep.", path=place)
        with os.scandir(place) as entries:
            children = list(entries)
        for entry in children:
            self._count += 1
            if self._count > _MOST_ENTRIES:
                raise LimitExceeded(f"the checkpoint has more than {_MOST_ENTRIES} files.", path=self.path)
            self._enter(entry, prefix + entry.name, above)

    def _enter(self, entry: os.DirEntry[str], name: str, above: tuple[tuple[int, int], ...]) -> None:
        if entry.is_symlink():
            self.folder.place(name)
            self._has_links = True
        if entry.is_dir():
            status = os.stat(entry.path)  # noqa: PTH116 - of an entry, Windows gives no device and inode
            identity = (status.st_dev, status.st_ino)
            if identity in above:
                raise MalformedFile("a symbolic link leads to a folder that contains it.", path=entry.path)
            self._folders.add(name)
            self._walk(entry.path, f"{name}/", (*above, identity))
        elif entry.is_file():
            self._stamps[name] = _stamp(os.stat(entry.path))  # noqa: PTH116 - as above
        elif entry.is_symlink():
            raise MalformedFile("the target of the symbolic link does not exist.", path=entry.path)
        else:
            raise MalformedFile("expected a file or folder, got a FIFO, socket or device.", path=entry.path)


def _stamp(status: os.stat_result) -> Stamp:
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
