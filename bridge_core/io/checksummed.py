"""Ranges whose checksums are compared while they are read, in any order, without reading a byte twice.

Archives state one CRC-32 for each tensor, and tensors are read in parts, out of order and by several threads.
So a CRC-32 is stored for every run of bytes that was read, and the CRC-32s of adjacent runs are joined into
that of both. Once only one run is left, the range is verified or damaged. Other digests cannot be joined:
files with such digests have one for each block.
"""

from __future__ import annotations

import threading
import zlib
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterator
from typing import Any

from bridge_core.errors import IntegrityError
from bridge_core.io.byte_source import ByteSource
from bridge_core.io.crc32 import crc32_combine
from bridge_core.public import renamed

__all__ = ["ChecksummedBlocks", "ChecksummedRange"]

_CHUNK = 1 << 20
"""Bytes that are read and summed at once, while they are in the cache."""
_MOST_RUNS = 1 << 16
"""Runs take 20 bytes each."""


class _Checksummed(ByteSource):
    """A range of another source that is checked while it is read; offsets are those of that source.

    Args:
        source: What the range is read from.
        offset: The byte where the range begins.
        nbytes: Bytes of the range.
    """

    def __init__(self, source: ByteSource, offset: int, nbytes: int) -> None:
        self.name = source.name
        self.size = source.size
        self.identity = source.identity
        self.is_remote = getattr(source, "is_remote", False)  # not all classes inherit from the protocol
        self._source = source
        self._offset = offset
        self._nbytes = nbytes

    def prefetch(self, offset: int, nbytes: int) -> None:
        """Announce that bytes of the source will be read soon."""
        self._source.prefetch(offset, nbytes)


@renamed(saw="update", expect="prefetch", file="source")
class ChecksummedRange(_Checksummed):
    """A range with one CRC-32.

    The read that brings the last missing byte compares the checksums, whatever was read before, by which
    thread and how often. Until then nothing is verified: reading a part of the range checks nothing. Bytes
    that are read again are not summed again. A range of which more than 65536 separate pieces were read is
    checked at once, by one read from front to back. Safe to use from several threads.

    Args:
        source: What the range is read from.
        offset: The byte where the range begins.
        nbytes: Bytes of the range.
        expected: The CRC-32 that the file states.
        damaged: Called with the CRC-32 that was computed, if it is not the expected one; returns the error to
            raise.
    """

    def __init__(
        self,
        source: ByteSource,
        offset: int,
        nbytes: int,
        expected: int,
        damaged: Callable[[int], IntegrityError],
    ) -> None:
        super().__init__(source, offset, nbytes)
        self._expected = expected
        self._damaged = damaged
        self._lock = threading.Lock()
        self._runs = _Runs()
        self._verified = False

    def read_into(self, offset: int, buffer: Any) -> None:
        """Fill a writable contiguous buffer from ``offset`` of the source, within the range.

        Raises:
            IntegrityError: The last missing byte was read, and the CRC-32 is not the expected one.
            TruncatedFile: The file ends first.
            SystemFailure: The system reports a read error.
        """
        view = memoryview(buffer).cast("B")
        while len(view):
            part = view if self._verified or self.is_remote else view[:_CHUNK]
            self._source.read_into(offset, part)
            self.update(offset, part)
            offset += len(part)
            view = view[len(part) :]

    def update(self, offset: int, data: bytes | memoryview) -> None:
        """Add bytes of the range that were read from ``offset`` of the source.

        Raises:
            IntegrityError: They were the last missing ones, and the CRC-32 is not the expected one.
        """
        with self._lock:
            if not self._verified:
                self._sum(offset - self._offset, memoryview(data))
                if self._runs.covers(self._nbytes) or len(self._runs.starts) > _MOST_RUNS:
                    self._compare()

    def verify(self) -> None:
        """Check the range now; reads only what has not been read yet.

        Raises:
            IntegrityError: The CRC-32 is not the expected one.
            TruncatedFile: The file ends first.
            SystemFailure: The system reports a read error.
        """
        with self._lock:
            if not self._verified:
                self._compare()

    def _sum(self, start: int, data: memoryview) -> None:
        for begin, end in tuple(self._runs.gaps(start, start + len(data))):
            self._runs.add(begin, data[begin - start : end - start])

    def _compare(self) -> None:
        if len(self._runs.starts) > _MOST_RUNS:
            self._runs = _Runs()
        buffer = memoryview(bytearray(min(_CHUNK, self._nbytes)))
        for begin, end in tuple(self._runs.gaps(0, self._nbytes)):
            if self.is_remote:
                self._source.prefetch(self._offset + begin, end - begin)
            for at in range(begin, end, _CHUNK):
                part = buffer[: min(_CHUNK, end - at)]
                self._source.read_into(self._offset + at, part)
                self._runs.add(at, part)
        crc = self._runs.sums[0] if self._nbytes else 0
        if crc != self._expected:
            raise self._damaged(crc)
        self._verified = True
        self._runs = _Runs()


@renamed(expect="prefetch", file="source")
class ChecksummedBlocks(_Checksummed):
    """A range in blocks with one digest each.

    No byte is returned before its block was checked.

    When a part of a block is first read, the entire block is read and checked, and not again. Safe to use
    from several threads; two that read a new block at the same time may both check it.

    Args:
        source: What the range is read from.
        offset: The byte where the range begins.
        nbytes: Bytes of the range.
        block: Bytes of a block; the last may be shorter.
        check: Called with a block's number and bytes; raises `IntegrityError` if they are damaged.
    """

    def __init__(
        self,
        source: ByteSource,
        offset: int,
        nbytes: int,
        block: int,
        check: Callable[[int, memoryview], None],
    ) -> None:
        super().__init__(source, offset, nbytes)
        self._block = block
        self._check = check
        self._verified = bytearray(-(-nbytes // block))

    def read_into(self, offset: int, buffer: Any) -> None:
        """Fill a writable contiguous buffer from ``offset`` of the source, within the range.

        Raises:
            IntegrityError: A block is damaged.
            TruncatedFile: The file ends first.
            SystemFailure: The system reports a read error.
        """
        view = memoryview(buffer).cast("B")
        while len(view):
            number, skip = divmod(offset - self._offset, self._block)
            length = min(self._block, self._nbytes - number * self._block)
            part = view[: length - skip]
            if self._verified[number]:
                self._source.read_into(offset, part)
            else:
                block = part if len(part) == length else memoryview(bytearray(length))
                self._source.read_into(offset - skip, block)
                self._check(number, block)
                self._verified[number] = True
                if block is not part:
                    part[:] = block[skip : skip + len(part)]
            offset += len(part)
            view = view[len(part) :]


class _Runs:
    """Disjoint runs of bytes, in order, with the CRC-32 of each; no two of them touch."""

    def __init__(self) -> None:
        self.starts = array("Q")
        self.stops = array("Q")
        self.sums = array("I")

    def covers(self, nbytes: int) -> bool:
        """Return whether the runs are one run of this length."""
        return len(self.starts) == 1 and self.stops[0] - self.starts[0] == nbytes

    def gaps(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """Yield the parts of a range that are in no run."""
        number = bisect_right(self.stops, start)
        while start < stop:
            is_run = number < len(self.starts)
            begin, end = (self.starts[number], self.stops[number]) if is_run else (stop, stop)
            if start < begin:
                yield start, min(begin, stop)
            start = end
            number += 1

    def add(self, start: int, data: memoryview) -> None:
        """Add bytes that are in no run yet, and join the runs that then touch."""
        stop = start + len(data)
        first = last = bisect_right(self.starts, start)
        crc = 0
        if first and self.stops[first - 1] == start:
            first -= 1
            start, crc = self.starts[first], self.sums[first]
        crc = zlib.crc32(data, crc)
        if last < len(self.starts) and self.starts[last] == stop:
            crc = crc32_combine(crc, self.sums[last], self.stops[last] - stop)
            stop = self.stops[last]
            last += 1
        self.starts[first:last] = array("Q", (start,))
        self.stops[first:last] = array("Q", (stop,))
        self.sums[first:last] = array("I", (crc,))
