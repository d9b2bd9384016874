"""Bytes with a checksum, checked by the reading that is done anyway, in whatever order that is.

Archives state one CRC-32 for a whole tensor, and tensors are read in strips and boxes, out of order and by
several threads. So for every run of bytes that was read a CRC-32 is kept, and neighbours are joined: that of
both follows from those of each. Once one run is left, the tensor is proven or damaged, and no byte was read
twice for it. Other digests cannot be joined; files that have them have one for each block.
"""

from __future__ import annotations

import threading
import zlib
from abc import ABC, abstractmethod
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterator
from typing import Any, cast

from bridge_core.errors import IntegrityError
from bridge_core.io.crc32 import crc32_combine
from bridge_core.io.source_file import SourceFile
from bridge_core.state import FileTensor, TensorSpec

__all__ = ["CheckedBlocks", "CheckedRange", "CheckedSource"]

_CHUNK = 1 << 20
"""Bytes that are read and summed at once, while they are in the cache."""
_MOST_RUNS = 1 << 16
"""Runs take 20 bytes each."""


class CheckedSource(ABC):
    """A range of a file that is checked as it is read; tensors made here read through it.

    Args:
        file: The open file.
    """

    def __init__(self, file: SourceFile) -> None:
        self.name = file.name
        self._file = file

    def tensor(self, offset: int, spec: TensorSpec, *, big_endian: bool = False) -> FileTensor:
        """Return a tensor whose bytes stand within the range.

        Args:
            offset: Where in the file its first byte stands.
            spec: Shape and dtype.
            big_endian: The byte order in the file.
        """
        # FileTensor and those who plan its reading use what is defined here, and no more of a file.
        return FileTensor(cast("SourceFile", self), offset, spec, big_endian)

    def expect(self, offset: int, nbytes: int) -> None:
        """Tell the system that bytes of the file will be read soon."""
        self._file.expect(offset, nbytes)

    @abstractmethod
    def read_into(self, offset: int, buffer: Any) -> None:
        """Fill a writable contiguous buffer from ``offset`` in the file, within the range."""

    def read_runs(self, offset: int, pitch: int, nbytes: int, buffer: Any) -> None:
        """Fill a writable contiguous buffer with runs of ``nbytes``, which begin ``pitch`` bytes apart."""
        view = memoryview(buffer).cast("B")
        for at in range(0, len(view), nbytes):
            self.read_into(offset, view[at : at + nbytes])
            offset += pitch


class CheckedRange(CheckedSource):
    """A range with one CRC-32.

    The read that brings the last byte not yet seen compares the checksums, whatever was read before, by whom
    and how often. Before that nothing is proven: reading a part of the range checks nothing. Bytes that are
    read again are not summed again. A range that is read in very many pieces far apart is checked at once, by
    one read from front to back. Safe to use from several threads.

    Args:
        file: The open file.
        offset: Where the range stands.
        nbytes: Its length.
        expected: The CRC-32 that the file states.
        damaged: Makes the error for another CRC-32, which it is given.
    """

    def __init__(
        self,
        file: SourceFile,
        offset: int,
        nbytes: int,
        expected: int,
        damaged: Callable[[int], IntegrityError],
    ) -> None:
        super().__init__(file)
        self._offset = offset
        self._nbytes = nbytes
        self._expected = expected
        self._damaged = damaged
        self._lock = threading.Lock()
        self._runs = _Runs()
        self._proven = False

    def read_into(self, offset: int, buffer: Any) -> None:
        """Fill a writable contiguous buffer from ``offset`` in the file, within the range.

        Raises:
            IntegrityError: All of the range was read now, and its CRC-32 is another.
            TruncatedFile: The file ends first.
            SystemFailure: The system reports a read error.
        """
        view = memoryview(buffer).cast("B")
        while len(view):
            part = view if self._proven else view[:_CHUNK]
            self._file.read_into(offset, part)
            self.saw(offset, part)
            offset += len(part)
            view = view[len(part) :]

    def saw(self, offset: int, data: bytes | memoryview) -> None:
        """Take account of bytes of the range that were read from ``offset`` in the file.

        Raises:
            IntegrityError: They were the last, and the CRC-32 is another.
        """
        with self._lock:
            if not self._proven:
                self._sum(offset - self._offset, memoryview(data))
                if self._runs.covers(self._nbytes) or len(self._runs.starts) > _MOST_RUNS:
                    self._compare()

    def verify(self) -> None:
        """Check the range now; only what nobody has read yet is read for that.

        Raises:
            IntegrityError: Its CRC-32 is another.
            TruncatedFile: The file ends first.
            SystemFailure: The system reports a read error.
        """
        with self._lock:
            if not self._proven:
                self._compare()

    def _sum(self, start: int, data: memoryview) -> None:
        for begin, end in tuple(self._runs.gaps(start, start + len(data))):
            self._runs.add(begin, data[begin - start : end - start])

    def _compare(self) -> None:
        if len(self._runs.starts) > _MOST_RUNS:
            self._runs = _Runs()
        buffer = memoryview(bytearray(min(_CHUNK, self._nbytes)))
        for begin, end in tuple(self._runs.gaps(0, self._nbytes)):
            for at in range(begin, end, _CHUNK):
                part = buffer[: min(_CHUNK, end - at)]
                self._file.read_into(self._offset + at, part)
                self._runs.add(at, part)
        found = self._runs.sums[0] if self._nbytes else 0
        if found != self._expected:
            raise self._damaged(found)
        self._proven = True
        self._runs = _Runs()


class CheckedBlocks(CheckedSource):
    """A range in blocks, each with a digest of its own; nothing is handed out before its block was checked.

    A block is read whole and checked when anything of it is asked for first, and not again. Safe to use from
    several threads; two that ask for a new block at once may both check it.

    Args:
        file: The open file.
        offset: Where the range stands.
        nbytes: Its length.
        block: Length of a block; the last may be shorter.
        check: Called with a block's number and bytes; raises `IntegrityError` if they are damaged.
    """

    def __init__(
        self,
        file: SourceFile,
        offset: int,
        nbytes: int,
        block: int,
        check: Callable[[int, memoryview], None],
    ) -> None:
        super().__init__(file)
        self._offset = offset
        self._nbytes = nbytes
        self._block = block
        self._check = check
        self._proven = bytearray(-(-nbytes // block))

    def read_into(self, offset: int, buffer: Any) -> None:
        """Fill a writable contiguous buffer from ``offset`` in the file, within the range.

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
            if self._proven[number]:
                self._file.read_into(offset, part)
            else:
                whole = part if len(part) == length else memoryview(bytearray(length))
                self._file.read_into(offset - skip, whole)
                self._check(number, whole)
                self._proven[number] = True
                if whole is not part:
                    part[:] = whole[skip : skip + len(part)]
            offset += len(part)
            view = view[len(part) :]


class _Runs:
    """Disjoint runs of bytes, in order, with the CRC-32 of each; no two of them touch."""

    def __init__(self) -> None:
        self.starts = array("Q")
        self.stops = array("Q")
        self.sums = array("I")

    def covers(self, nbytes: int) -> bool:
        """Tell whether they are one run of this length."""
        return len(self.starts) == 1 and self.stops[0] - self.starts[0] == nbytes

    def gaps(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """Yield the parts of a range that no run holds."""
        place = bisect_right(self.stops, start)
        while start < stop:
            inside = place < len(self.starts)
            begin, end = (self.starts[place], self.stops[place]) if inside else (stop, stop)
            if start < begin:
                yield start, min(begin, stop)
            start = end
            place += 1

    def add(self, start: int, data: memoryview) -> None:
        """Add bytes that no run holds yet, and join what then touches."""
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
