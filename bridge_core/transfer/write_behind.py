"""Ranges go to the disk, are read back and leave the page cache while others are written.

What is written stays in memory until the system writes it to the disk. A file that is a good part of the
memory costs more per byte than a small one: the system has to find memory for it, takes it from files that
are in use, and at last makes the writer wait. So what was written some time ago is waited for and dropped
from the page cache, and its memory serves what is written next.

Values that are to be compared are read back just before that, since afterwards they would have to come from
the disk again; of smaller files too, where the processors would otherwise wait for the disk.
"""

from __future__ import annotations

import os
import threading
import zlib
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bridge_core.io import (
    SourceFile,
    can_drop_pages,
    crc32_combine,
    drop_pages,
    finish_writeback,
    memory_limit,
    read_all,
    start_writeback,
    system_failures,
)
from bridge_core.state import FileTensor, Key, Tensor

__all__ = ["RUN", "WriteBehind", "is_large", "is_worth_reading_behind"]

RUN = 32 << 20
"""Bytes that are waited for, read back and dropped at once."""

_WINDOW = 256 << 20
"""Bytes that may be on their way to the disk before a writer waits for the oldest.

It is enough for a disk to be busy all the time, and little enough for the memory to serve again soon.
"""

_LARGE_SHARE = 8
"""A checkpoint is large from this part of the memory on. The system begins to write at a tenth by itself."""

_LEAST = 64 << 20
"""Bytes of a checkpoint from which on reading back while the disk writes saves time."""

_PIECE = 1 << 20
"""Bytes that are read back at once, and summed while they are in the processor's cache."""


def is_worth_reading_behind(nbytes: int) -> bool:
    """Return whether so many bytes should be read back while others are written."""
    return nbytes >= _LEAST and can_drop_pages()


def is_large(nbytes: int) -> bool:
    """Return whether so many bytes should leave the page cache, and the system can drop them."""
    return nbytes >= memory_limit() // _LARGE_SHARE and can_drop_pages()


@dataclass(frozen=True, slots=True)
class _File:
    """An open file, of which ranges are waited for; the descriptor is a duplicate."""

    path: Path
    fd: int
    identity: tuple[int, int]


@dataclass(frozen=True, slots=True)
class _Range:
    file: _File
    key: Key
    offset: int
    nbytes: int


class WriteBehind:
    """Ranges of files on their way to the disk.

    Used by all threads that write, for any number of files.

    Args:
        reads_back: Whether each range is read again after it was written to the disk, and summed.
        drops: Whether each range is taken out of the page cache then.
        report: Called with (bytes, key) from any thread after a range was read again; None for no reports.
    """

    def __init__(
        self, *, reads_back: bool, drops: bool, report: Callable[[int, Key], None] | None = None
    ) -> None:
        self.reads_back = reads_back
        self.drops = drops
        self._report = report or (lambda _bytes, _key: None)
        self._files: dict[tuple[int, int], _File] = {}
        self._waiting: deque[_Range] = deque()
        self._nbytes = 0
        self._lock = threading.Lock()
        self._sums: dict[tuple[int, int], dict[int, tuple[int, int]]] = {}

    def add(self, path: Path, fd: int, key: Key, offset: int, nbytes: int) -> None:
        """Begin to write a range to the disk, and finish older ones if too much is on its way.

        The range must have been written completely, and must not be written again.

        Args:
            path: The file.
            fd: The file, open for reading and writing; it may be closed afterwards.
            key: The tensor.
            offset: First byte of the range.
            nbytes: Bytes of the range.

        Raises:
            SystemFailure: Writing or reading failed.
        """
        file = self._opened(path, fd)
        for begin in range(offset, offset + nbytes, RUN):
            run = _Range(file, key, begin, min(RUN, offset + nbytes - begin))
            start_writeback(fd, run.offset, run.nbytes)
            with self._lock:
                self._waiting.append(run)
                self._nbytes += run.nbytes
            self._finish_down_to(_WINDOW)

    def finish(self) -> None:
        """Finish all ranges.

        Raises:
            SystemFailure: Writing or reading failed.
        """
        self._finish_down_to(0)

    def forget(self) -> None:
        """Forget all ranges and checksums, and close the files: identities are used again."""
        self._waiting.clear()
        self._nbytes = 0
        self._sums.clear()
        files, self._files = self._files, {}
        for file in files.values():
            os.close(file.fd)

    def __del__(self, _close: Callable[[int], None] = os.close) -> None:
        """Close the files if an error came between writing and checking."""
        for file in self._files.values():
            _close(file.fd)
        self._files = {}

    def sum_of(self, tensor: Tensor) -> int | None:
        """Return the CRC-32 of the bytes of a tensor that was opened, as they were read back.

        Returns:
            None if its bytes were not read back, or if it is not one plain range of a file.
        """
        # What decodes or checks the bytes is not a FileTensor, or has a source that is not the file.
        if not isinstance(tensor, FileTensor) or not isinstance(tensor.file, SourceFile) or tensor.big_endian:
            return None
        runs = self._sums.get(tensor.file.identity, {})
        crc, offset, stop = 0, tensor.offset, tensor.offset + tensor.spec.nbytes
        while offset < stop:
            nbytes, of_run = runs.get(offset, (0, 0))
            if nbytes == 0 or offset + nbytes > stop:
                return None
            crc = crc32_combine(crc, of_run, nbytes)
            offset += nbytes
        return crc

    def _opened(self, path: Path, fd: int) -> _File:
        status = os.fstat(fd)
        identity = (status.st_dev, status.st_ino)
        with self._lock:
            if identity not in self._files:
                self._files[identity] = _File(path, os.dup(fd), identity)
            return self._files[identity]

    def _finish_down_to(self, most: int) -> None:
        while True:
            with self._lock:
                if self._nbytes <= most or not self._waiting:
                    return
                oldest = self._waiting.popleft()
                self._nbytes -= oldest.nbytes
            self._finish(oldest)

    def _finish(self, run: _Range) -> None:
        fd = run.file.fd
        with system_failures(run.file.path, "writing"):
            finish_writeback(fd, run.offset, run.nbytes)
            if self.reads_back:
                crc = _sum(fd, run)
                with self._lock:
                    self._sums.setdefault(run.file.identity, {})[run.offset] = (run.nbytes, crc)
        if self.drops:
            drop_pages(fd, run.offset, run.nbytes)
        if self.reads_back:
            self._report(run.nbytes, run.key)


def _sum(fd: int, run: _Range) -> int:
    crc = 0
    buffer = memoryview(bytearray(min(_PIECE, run.nbytes)))
    for begin in range(0, run.nbytes, _PIECE):
        piece = buffer[: min(_PIECE, run.nbytes - begin)]
        read_all(fd, piece, run.offset + begin)
        crc = zlib.crc32(piece, crc)
    return crc
