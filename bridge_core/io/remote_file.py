"""A file at a URL, read by ranges."""

from __future__ import annotations

import copy
import threading
from collections.abc import Hashable
from typing import Any, Protocol

from bridge_core.errors import (
    BridgeError,
    IntegrityError,
    NeedsLocalPath,
    OutOfMemory,
    RemoteFailure,
    SourceIsFolder,
    SourceNotFound,
    SystemFailure,
)
from bridge_core.io.fetching import shared_fetcher
from bridge_core.io.file_system import FileSystem, RangeAnswer, RemoteEntry
from bridge_core.io.range_parts import JOINED_GAP, Parts, small_window
from bridge_core.io.retries import repeated
from bridge_core.io.source_file import SourceFile

__all__ = ["RemoteFile"]

_LARGEST_REMEMBERED = 16 << 20
"""Bytes of a file that is remembered once it was read at once: an index or a config is read several times."""


class _Place(Protocol):
    """Where a file is: a `RemotePath`, which opens files, and is not imported for that reason."""

    system: FileSystem
    url: str
    content: bytes | None

    def entry(self) -> RemoteEntry | None: ...


class RemoteFile(SourceFile):
    """A file at a URL, opened for positional reading as a local one.

    Small reads near the beginning and the end are served from one request each. Ranges that were announced
    with `prefetch` are fetched in parts of several megabytes, several at a time.

    Args:
        place: Where it is.

    Raises:
        SourceNotFound: There is no such file.
        SourceIsFolder: It is a folder.
        AccessDenied, RemoteFailure: The server does not give it.
    """

    identity: Hashable  # type: ignore[assignment]
    can_copy = False
    is_remote = True

    def __init__(self, place: _Place) -> None:
        self._open = False
        self.name = str(place)
        self.path = place  # type: ignore[assignment]
        self._place, self._known = place, place.content
        self._content = _Content(place)
        self.size = self._content.size
        self.identity = (place.url, self._content.entry.version)
        self._open = True

    def duplicate(self) -> RemoteFile:
        """Return the same file as an object that can be closed by itself."""
        self._check_open()
        self._content.share()
        return copy.copy(self)

    @property
    def fd(self) -> int:
        """Raise an error, since a file at a URL has no descriptor.

        Raises:
            NeedsLocalPath: Always.
        """
        raise NeedsLocalPath("expected a file on this machine; this one is at a URL.", path=self.name)

    def read_into(self, offset: int, buffer: Any) -> None:
        """Fill a writable contiguous buffer from ``offset``.

        Raises:
            TruncatedFile: The file ends first.
            IntegrityError: The file changed at the server since it was opened.
            AccessDenied, RemoteFailure: The server does not give the bytes.
        """
        view = memoryview(buffer).cast("B")
        self._check_range(offset, len(view))
        if self._known is None:
            shared_fetcher.read(self._content, offset, view)
        else:
            view[:] = self._known[offset : offset + len(view)]

    def read(self, offset: int, nbytes: int) -> bytes:
        """Return exactly ``nbytes`` bytes; a small file that is read at once is remembered.

        Raises:
            TruncatedFile, OutOfMemory, IntegrityError, AccessDenied, RemoteFailure: As `SourceFile.read`.
        """
        data = super().read(offset, nbytes)
        if nbytes == self.size <= _LARGEST_REMEMBERED and self.size:
            self._place.content = data
        return data

    def read_runs(self, offset: int, stride: int, nbytes: int, buffer: Any) -> None:
        """Fill a writable contiguous buffer with runs of ``nbytes``, one every ``stride`` bytes.

        Raises:
            TruncatedFile, IntegrityError, AccessDenied, RemoteFailure: As `read_into`.
        """
        view = memoryview(buffer).cast("B")
        starts = range(0, len(view), nbytes)
        if not starts:
            return
        span = (len(starts) - 1) * stride + nbytes
        self._check_range(offset, span)
        if stride - nbytes <= JOINED_GAP:
            shared_fetcher.announce(self._content, offset, span, only_new=True)
        else:
            for number in range(len(starts)):
                shared_fetcher.announce(self._content, offset + number * stride, nbytes, only_new=True)
        for number, at in enumerate(starts):
            begin = offset + number * stride
            shared_fetcher.read(self._content, begin, view[at : at + nbytes], counts=False)
        shared_fetcher.note_read(self._content, offset, offset + span)

    def read_ranges(self, ranges: Any) -> None:
        """Fill several buffers, each from its offset; they are fetched at the same time.

        Raises:
            TruncatedFile, IntegrityError, AccessDenied, RemoteFailure: As `read_into`.
        """
        views = [(offset, memoryview(buffer).cast("B")) for offset, buffer in ranges]
        for offset, view in views:
            self._check_range(offset, len(view))
            shared_fetcher.announce(self._content, offset, len(view), only_new=True)
        for offset, view in views:
            shared_fetcher.read(self._content, offset, view)

    def prefetch(self, offset: int, nbytes: int) -> None:
        """Announce that a range will be read, after those that were announced before.

        It is fetched when the reads come near, and nothing beyond it.
        """
        nbytes = min(nbytes, self.size - offset)
        if self._open and nbytes > 0 <= offset:
            shared_fetcher.announce(self._content, offset, nbytes)

    def prefetch_header(self) -> None:
        """Announce that the beginning will be read next, as much as one small read fetches."""
        window = small_window(0, 1, self.size) if self.size else None
        if self._open and window is not None:
            shared_fetcher.announce(self._content, *window, only_new=True)

    def copy_to(self, fd: int, offset: int, nbytes: int, position: int) -> bool:
        """Return False: the system copies nothing from a URL."""
        return False

    def check_unchanged(self) -> None:
        """Check that the bytes read belong to one version of the file.

        Where each answer had the version of the beginning, that is known. Otherwise the server is asked
        again.

        Raises:
            IntegrityError: The file has another size or version than when it was opened.
        """
        self._check_open()
        self._content.check_unchanged()

    def close(self) -> None:
        """Close, and free what was fetched; further reads fail."""
        if self._open:
            self._open = False
            self._content.release()

    def _check_open(self) -> None:
        if not self._open:
            raise SystemFailure(
                "the file was closed, and cannot be read any more.",
                path=self.name,
                hint="Read inside the 'with' block of open_state, or call close() later.",
            )

    def _check_range(self, offset: int, nbytes: int) -> None:
        self._check_open()
        if offset < 0 or offset + nbytes > self.size:
            raise self._truncated(offset + nbytes, self.size)

    def __enter__(self) -> RemoteFile:
        """Return itself."""
        return self

    def __del__(self) -> None:  # type: ignore[override]
        """Close when forgotten."""
        if getattr(self, "_open", False):
            self._open = False
            self._content.release(later=True)


class _Content:
    """What is at the URL: requests for it, and the parts that were fetched."""

    def __init__(self, place: _Place) -> None:
        entry = place.entry()
        self.name = str(place)
        if entry is None:
            raise SourceNotFound(
                "cannot open the source: the file does not exist.", path=self.name, hint="Check the URL."
            )
        if entry.size is None:
            raise SourceIsFolder("expected a file, got a folder.", path=self.name)
        self.entry, self.size = entry, entry.size
        self.parts = Parts()
        self.needed = self.gaps = 0
        self._users = [None]
        self._system, self._url = place.system, place.url
        self._version = entry.version
        self._is_compared = True
        self._closed = threading.Event()

    def fetch(self, start: int, nbytes: int) -> memoryview:
        """Return a range; a request that fails for a time is repeated."""
        doing = f"reading bytes {start} to {start + nbytes - 1}"
        return repeated(lambda: self._asked(start, nbytes), doing, self.name, ended=self._closed)

    def _asked(self, start: int, nbytes: int) -> memoryview:
        try:
            answer = self._system.read(self._url, start, nbytes, self.entry)
            data = memoryview(answer.data).cast("B")
        except BridgeError:
            raise
        except MemoryError:
            raise OutOfMemory(f"the system has no memory for {nbytes} bytes.", path=self.name) from None
        except Exception as err:  # its text may hold a signed URL
            raise RemoteFailure(
                f"the file system {self._system.name} failed with {type(err).__name__}.", path=self.name
            ) from None
        self._compare(answer)
        if len(data) != nbytes:
            raise RemoteFailure(
                f"expected {nbytes} bytes from byte {start}, got {len(data)}.",
                path=self.name,
                is_temporary=True,
            )
        return data

    def _compare(self, answer: RangeAnswer) -> None:
        """Compare the version of an answer with that of the beginning."""
        if not answer.version:
            self._is_compared = False
        elif not self._version:
            self._version = answer.version  # the entry had none, and the first answer has one
        elif answer.version != self._version:
            raise self._changed()

    def check_unchanged(self) -> None:
        if self._is_compared and self._version:
            return
        now = repeated(lambda: self._system.entry(self._url), "asking for the size", self.name)
        if now is None or now.size != self.size or (self.entry.version and now.version != self.entry.version):
            raise self._changed()

    def _changed(self) -> IntegrityError:
        return IntegrityError(
            "the file changed at the server while it was read.",
            path=self.name,
            hint="Run the command again when nothing else writes to it.",
        )

    def share(self) -> None:
        """Count one more object that reads it."""
        self._users.append(None)

    def release(self, *, later: bool = False) -> None:
        """Count one object less that reads it; the last one frees what was fetched.

        Args:
            later: Whether to free it when something is read next, since the caller may hold locks.
        """
        self._users.pop()
        if not self._users:
            self._closed.set()
            (shared_fetcher.forget_later if later else shared_fetcher.forget)(self)
