"""The parts in which a file at a URL is fetched: disjoint ranges, in order, each with its bytes.

Ranges that were announced are cut into parts of one request each; small reads get parts around them, since
a request costs more than a few kilobytes.
"""

from __future__ import annotations

import enum
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from typing import Any

__all__ = ["JOINED_GAP", "Part", "PartState", "Parts", "small_window"]

JOINED_GAP = 256 << 10
"""Bytes between two runs of one tensor that are fetched rather than making another request."""

_LEAST_WINDOW, _LARGEST_WINDOW = 4 << 10, 256 << 10
"""Bytes that a small read fetches at the beginning or the end of a file."""


class PartState(enum.Enum):
    """Whether the bytes of a part are there."""

    WAITING = enum.auto()
    STARTED = enum.auto()
    READY = enum.auto()
    GONE = enum.auto()


class Part:
    """A range that is fetched by one request.

    Args:
        owner: The file.
        start: First byte.
        stop: The byte after the last.
        promised: Bytes that were announced and not read yet; each announcement counts.

    Attributes:
        state: Whether the bytes are there.
        data: The bytes, if they are.
        error: Why the last request failed; None if it did not.
        pins: How many reads need it now.
        next: The part that was announced after it.
    """

    __slots__ = ("data", "error", "next", "owner", "pins", "promised", "start", "state", "stop", "touched")

    def __init__(self, owner: Any, start: int, stop: int, promised: int = 0) -> None:
        self.owner, self.start, self.stop, self.promised = owner, start, stop, promised
        self.state = PartState.WAITING
        self.data: memoryview | None = None
        self.error: BaseException | None = None
        self.pins = 0
        self.touched = False
        self.next: Part | None = None

    @property
    def nbytes(self) -> int:
        """Its bytes."""
        return self.stop - self.start


class Parts:
    """The parts of one file, which do not overlap."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._parts: list[Part] = []

    def __iter__(self) -> Iterator[Part]:
        return iter(tuple(self._parts))

    def at(self, offset: int) -> Part | None:
        """Return the part that holds a byte."""
        number = bisect_right(self._starts, offset) - 1
        part = self._parts[number] if number >= 0 else None
        return part if part is not None and offset < part.stop else None

    def around(self, offset: int, size: int) -> tuple[int, int]:
        """Return the range around a byte in no part that no part covers."""
        number = bisect_right(self._starts, offset)
        start = self._parts[number - 1].stop if number else 0
        return start, self._starts[number] if number < len(self._starts) else size

    def overlapping(self, start: int, stop: int) -> Iterator[Part]:
        """Yield the parts that overlap a range."""
        number = max(0, bisect_right(self._starts, start) - 1)
        while number < len(self._parts) and self._starts[number] < stop:
            if self._parts[number].stop > start:
                yield self._parts[number]
            number += 1

    def uncovered(self, start: int, stop: int) -> list[tuple[int, int]]:
        """Return the ranges in a range that no part covers."""
        ranges: list[tuple[int, int]] = []
        for part in self.overlapping(start, stop):
            if start < part.start:
                ranges.append((start, part.start))
            start = part.stop
        return [*ranges, (start, stop)] if start < stop else ranges

    def add(self, part: Part) -> None:
        """Add a part that overlaps no other."""
        number = bisect_right(self._starts, part.start)
        self._starts.insert(number, part.start)
        self._parts.insert(number, part)

    def remove(self, part: Part) -> None:
        """Remove a part."""
        number = bisect_left(self._starts, part.start)
        if number < len(self._parts) and self._parts[number] is part:
            del self._starts[number], self._parts[number]

    def clear(self) -> None:
        """Remove all parts."""
        self._starts.clear()
        self._parts.clear()


def small_window(offset: int, nbytes: int, size: int) -> tuple[int, int] | None:
    """Return the range that is fetched for a small read; None if the read is not small.

    At the beginning of a file its header follows, and at its end is a directory of what is in it.

    >>> small_window(0, 10, 1 << 20), small_window(1 << 19, 100, 1 << 20), small_window(0, 1 << 20, 1 << 20)
    ((0, 4096), (524288, 528384), None)
    """
    if nbytes > _LARGEST_WINDOW:
        return None
    window = min(max(size // 512, _LEAST_WINDOW), _LARGEST_WINDOW)
    if offset < window:
        return 0, min(size, max(window, offset + nbytes))
    if offset + nbytes > size - window:
        return min(offset, size - window), size
    return offset, min(size, offset + max(nbytes, _LEAST_WINDOW))
