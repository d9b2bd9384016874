"""A file at a URL, read by ranges."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

from bridge_core.errors import (
    IntegrityError,
    NeedsLocalPath,
    RemoteFailure,
    SourceIsFolder,
    SourceNotFound,
    SystemFailure,
)
from bridge_core.io.remote_path import RemotePath
from bridge_core.io.source_file import SourceFile

__all__ = ["RemoteFile"]


class RemoteFile(SourceFile):
    """A file at a URL, opened for positional reading as a local one.

    Args:
        place: Where it is.

    Raises:
        SourceNotFound: There is no such file.
        SourceIsFolder: It is a folder.
        AccessDenied, RemoteFailure: The server does not give it.
    """

    identity: Hashable  # type: ignore[assignment]
    can_copy = False

    def __init__(self, place: RemotePath) -> None:
        self.name = str(place)
        self.path = place  # type: ignore[assignment]
        entry = place.entry()
        if entry is None:
            raise SourceNotFound("cannot open the source: the file does not exist.", path=self.name)
        if entry.size is None:
            raise SourceIsFolder("expected a file, got a folder.", path=self.name)
        self._place, self._entry = place, entry
        self.size = entry.size
        self.identity = (place.url, entry.version)
        self._open = True

    def duplicate(self) -> RemoteFile:
        """Return the same file as an object that can be closed by itself."""
        return RemoteFile(self._place)

    @property
    def fd(self) -> int:
        """There is no descriptor.

        Raises:
            NeedsLocalPath: Always.
        """
        raise NeedsLocalPath("expected a file on this machine; this one is at a URL.", path=self.name)

    def read_into(self, offset: int, buffer: Any) -> None:
        """Fill a writable contiguous buffer from ``offset``."""
        if not self._open:
            raise SystemFailure("the file was closed, and cannot be read any more.", path=self.name)
        view = memoryview(buffer).cast("B")
        if not len(view):
            return
        if offset + len(view) > self.size:
            raise self._truncated(offset + len(view), self.size)
        answer = self._place.system.read(self._place.url, offset, len(view), self._entry)
        if answer.version != self._entry.version:
            raise IntegrityError("the file changed while it was read.", path=self.name)
        data = memoryview(answer.data).cast("B")
        if len(data) != len(view):
            raise RemoteFailure(f"expected {len(view)} bytes, got {len(data)}.", path=self.name)
        view[:] = data

    def read_runs(self, offset: int, stride: int, nbytes: int, buffer: Any) -> None:
        """Fill a writable contiguous buffer with runs of ``nbytes``, one every ``stride`` bytes."""
        view = memoryview(buffer).cast("B")
        for number, at in enumerate(range(0, len(view), nbytes)):
            self.read_into(offset + number * stride, view[at : at + nbytes])

    def prefetch(self, offset: int, nbytes: int) -> None:
        """Announce that a range will be read soon."""

    def copy_to(self, fd: int, offset: int, nbytes: int, position: int) -> bool:
        """Return False: the system copies nothing from a URL."""
        return False

    def check_unchanged(self) -> None:
        """Do nothing: every answer is compared with the version at the start."""

    def close(self) -> None:
        """Close; further reads fail."""
        self._open = False

    def __enter__(self) -> RemoteFile:
        """Return itself."""
        return self

    def __del__(self) -> None:  # type: ignore[override]
        """There is no descriptor to close."""
