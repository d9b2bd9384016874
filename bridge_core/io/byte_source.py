"""The protocol of everything that tensors read their bytes from.

A tensor in a file knows its offset and asks a `ByteSource` for bytes. So the same tensor class reads plain
files, ranges that are checked while they are read, and values that a file holds in several pieces.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Any, Protocol

__all__ = ["ByteSource"]


class ByteSource(Protocol):
    """Bytes that are read by position, from several threads at once.

    A class that inherits from this protocol must define ``name``, ``size``, ``identity`` and `read_into`; the
    other methods call `read_into`, and a source that can do better overrides them.
    """

    name: str
    """What errors call the source, usually a path."""
    size: int
    """Number of bytes; offsets are below it."""
    identity: Hashable
    """What must not change while the source is read; equal for two sources over the same storage."""
    can_copy: bool = False
    """Whether `copy_to` is worth a try."""
    is_remote: bool = False
    """Whether a read takes a request to a server, so that ranges should be announced with `prefetch`."""

    def read_into(self, offset: int, buffer: Any) -> None:
        """Fill a writable contiguous buffer from ``offset``.

        Raises:
            TruncatedFile: The source ends first.
            SystemFailure: The system reports a read error.
        """
        ...

    def read_ranges(self, ranges: Iterable[tuple[int, Any]]) -> None:
        """Fill several buffers, each from its offset.

        A source with a high latency can fetch them at the same time.

        Args:
            ranges: Pairs of an offset and a writable contiguous buffer.

        Raises:
            TruncatedFile: The source ends first.
            SystemFailure: The system reports a read error.
        """
        for offset, buffer in ranges:
            self.read_into(offset, buffer)

    def read_runs(self, offset: int, stride: int, nbytes: int, buffer: Any) -> None:
        """Fill a writable contiguous buffer with runs of bytes from regular distances.

        Args:
            offset: The byte where the first run begins.
            stride: Bytes from the beginning of a run to that of the next.
            nbytes: Bytes of each run.
            buffer: Filled completely; its size is a multiple of ``nbytes``.

        Raises:
            TruncatedFile: The source ends first.
            SystemFailure: The system reports a read error.
        """
        view = memoryview(buffer).cast("B")
        starts = range(0, len(view), nbytes)
        self.read_ranges(
            (offset + number * stride, view[at : at + nbytes]) for number, at in enumerate(starts)
        )

    def prefetch(self, offset: int, nbytes: int) -> None:
        """Announce that a range will be read soon; by default nothing happens."""

    def copy_to(self, fd: int, offset: int, nbytes: int, position: int) -> bool:
        """Copy a range into the file ``fd`` at ``position`` without a buffer of this process.

        Returns:
            Whether the system can; if not, as by default, nothing was copied.
        """
        return False
