"""Folders that files are written to one by one: on this machine, or at URLs of a store."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from bridge_core.checkpoint.destination_errors import shown_as
from bridge_core.checkpoint.locations import as_destined, writable
from bridge_core.checkpoint.write_options import Destined, as_location
from bridge_core.errors import LimitExceeded, SourceNotFound, UsageError
from bridge_core.io import (
    FileSystem,
    RemotePath,
    SourceFile,
    WritableFileSystem,
    is_plain_name,
    repeated,
    replacing_file,
    scratch_folder,
    shown_url,
    sweep,
    system_failures,
)
from bridge_core.plugins import Registry

__all__ = [
    "Destination",
    "LocalFolder",
    "StoreFolder",
    "destination_at",
    "sizes_at",
]


class Destination(Protocol):
    """A folder whose files appear one at a time, each at once and complete."""

    @property
    def name(self) -> str:
        """What messages call the folder."""
        ...

    def folder(self, name: str) -> Destination:
        """Return a folder in it, which need not exist yet.

        Args:
            name: Its name, without slashes.
        """
        ...

    def names(self) -> tuple[str, ...]:
        """Return the names of the files in it, sorted; none if there is no such folder."""
        ...

    def sizes(self) -> Mapping[str, int]:
        """Return the bytes of the files in it, by name; nothing if there is no such folder."""
        ...

    def size(self, name: str) -> int | None:
        """Return the bytes of a file; None if there is no such file.

        Args:
            name: Its name.
        """
        ...

    def read(self, name: str, most: int) -> bytes:
        """Return the content of a small file.

        Args:
            name: Its name.
            most: Bytes that it may have.

        Raises:
            SourceNotFound: There is no such file.
            LimitExceeded: It is larger.
        """
        ...

    def put(self, name: str, fill: Callable[[Path], None]) -> int:
        """Write a file, which replaces one of the same name; return its size.

        The folder is made if its parent exists. Nothing changes if ``fill`` raises an error.

        Args:
            name: Its name, without slashes.
            fill: Writes the content to a local temporary file, which exists and is empty.
        """
        ...

    def remove(self, name: str) -> None:
        """Remove a file, if it exists.

        Args:
            name: Its name.
        """
        ...

    def sweep(self, name: str) -> None:
        """Remove what killed writers of a file left in the folder.

        Args:
            name: The name of the file.
        """
        ...

    def remove_if_empty(self) -> None:
        """Remove the folder itself if it holds nothing."""
        ...


class LocalFolder:
    """A folder of this machine.

    Args:
        path: The folder, which need not exist yet; its parent must.
        parent: The folder that is made before it; None for one that exists.
    """

    def __init__(self, path: Path, parent: LocalFolder | None = None) -> None:
        self.path = path
        self._parent = parent

    @property
    def name(self) -> str:
        """Its path."""
        return str(self.path)

    def folder(self, name: str) -> LocalFolder:
        """Return a folder in it."""
        return LocalFolder(self.path / _plain(name), self)

    def names(self) -> tuple[str, ...]:
        """Return the names of its files."""
        return tuple(self.sizes())

    def sizes(self) -> Mapping[str, int]:
        """Return the bytes of its files."""
        with system_failures(self.path, "reading"):
            try:
                paths = sorted(self.path.iterdir())
            except FileNotFoundError:
                return {}
            return {path.name: path.stat().st_size for path in paths if path.is_file()}

    def size(self, name: str) -> int | None:
        """Return the bytes of a file."""
        path = self.path / _plain(name)
        with system_failures(path, "reading"):
            return path.stat().st_size if path.is_file() else None

    def read(self, name: str, most: int) -> bytes:
        """Return the content of a small file."""
        with SourceFile(self.path / _plain(name)) as file:
            return _small(file, most)

    def put(self, name: str, fill: Callable[[Path], None]) -> int:
        """Write a neighbour, sync it, and rename it."""
        self._make()
        final = self.path / _plain(name)
        with replacing_file(final, overwrite=True) as temporary, shown_as(temporary, final):
            fill(temporary)
            return temporary.stat().st_size

    def remove(self, name: str) -> None:
        """Remove a file."""
        path = self.path / _plain(name)
        with system_failures(path, "removing"):
            path.unlink(missing_ok=True)

    def sweep(self, name: str) -> None:
        """Remove temporary neighbours whose writers are gone."""
        with system_failures(self.path, "reading"):
            sweep((self.path / _plain(name)).absolute())

    def remove_if_empty(self) -> None:
        """Remove the folder if it is empty."""
        with contextlib.suppress(OSError):
            self.path.rmdir()

    def _make(self) -> None:
        if self._parent is not None:
            self._parent._make()
        with system_failures(self.path, "making the folder"):
            self.path.mkdir(exist_ok=True)


class StoreFolder:
    """A folder at a URL of a store; it exists as long as it holds a file.

    Args:
        system: The file system.
        url: The folder.
    """

    def __init__(self, system: WritableFileSystem, url: str) -> None:
        self.system = system
        self.url = url

    @property
    def name(self) -> str:
        """Its URL without credentials."""
        return shown_url(self.url)

    def folder(self, name: str) -> StoreFolder:
        """Return a folder in it."""
        return StoreFolder(self.system, self.place(name).url)

    def place(self, name: str) -> RemotePath:
        """Return where a file is, or will be; nothing that the server said before is remembered.

        Args:
            name: Its name.
        """
        return RemotePath(self.system, self.url) / _plain(name)

    def names(self) -> tuple[str, ...]:
        """Return the names of its files."""
        return tuple(self.sizes())

    def sizes(self) -> Mapping[str, int]:
        """Return the bytes of its files."""
        return sizes_at(self.system, self.url)

    def size(self, name: str) -> int | None:
        """Return the bytes of a file."""
        entry = self.place(name).entry()
        return entry.size if entry else None

    def read(self, name: str, most: int) -> bytes:
        """Return the content of a small file."""
        with self.place(name).open_source() as file:
            return _small(file, most)

    def put(self, name: str, fill: Callable[[Path], None]) -> int:
        """Write a local temporary file, upload it, and remove it."""
        place = self.place(name)
        with scratch_folder() as folder:
            local = folder / name
            with shown_as(local, place):
                local.touch()
                fill(local)
                size = local.stat().st_size
            self.upload(name, local)
        return size

    def upload(self, name: str, path: Path) -> None:
        """Upload a local file; a failed upload is repeated, as a failed request to read is.

        Args:
            name: Its name in the folder.
            path: The local file.
        """
        place = self.place(name)
        repeated(lambda: self.system.upload(place.url, path), "uploading the file", str(place))

    def remove(self, name: str) -> None:
        """Remove a file; a failed request is repeated."""
        place = self.place(name)
        repeated(lambda: self.system.remove(place.url), "removing the file", str(place))

    def sweep(self, name: str) -> None:
        """Do nothing: a store has no temporary files."""

    def remove_if_empty(self) -> None:
        """Do nothing: a folder without files does not exist."""


def destination_at(path: Destined, registry: Registry) -> Destination:
    """Return the folder at a path or URL.

    Args:
        path: A path, a ``file://`` URL, or a URL of a file system that can be written.
        registry: Where file systems are found.

    Raises:
        MissingDependency: The file system of the scheme is not installed.
        UsageError: It is not a path, no file system has the scheme, or the file system cannot be written.
    """
    place = as_location(as_destined(path, registry))
    if isinstance(place, RemotePath):
        return StoreFolder(writable(place), place.url)
    return LocalFolder(place)


def sizes_at(system: FileSystem, url: str) -> Mapping[str, int]:
    """Return the bytes of the files in a folder at a URL, by name; nothing if there is no such folder."""
    try:
        entries = repeated(lambda: system.entries(url), "listing the folder", shown_url(url)) or ()
    except SourceNotFound:
        return {}
    return dict(sorted((entry.name, entry.size) for entry in entries if entry.size is not None))


def _plain(name: str) -> str:
    if not is_plain_name(name):
        raise UsageError(
            f"{name!r} cannot be the name of a file: expected a name without slashes.",
            hint="Give a name such as 'model.safetensors'.",
        )
    return name


def _small(file: SourceFile, most: int) -> bytes:
    if file.size > most:
        raise LimitExceeded(f"expected a file of at most {most} bytes, got {file.size}.", path=file.name)
    return file.read(0, file.size)
