"""Cutting a region along the chunks that it touches."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

from bridge_core.state import Region

__all__ = ["crossings", "pieces"]

Crossing = tuple[int, slice, slice]
"""Index of a chunk on an axis, the part of the region in it, and where that is in the result."""


def crossings(
    region: Region, chunk_shape: tuple[int, ...]
) -> Iterator[tuple[tuple[int, ...], Region, Region]]:
    """Yield the chunks that a region touches: index, region in the chunk, and where it is in the result.

    >>> list(crossings((slice(1, 7, 2),), (4,)))
    [((0,), (slice(1, 4, 2),), (slice(0, 2, 1),)), ((1,), (slice(5, 6, 2),), (slice(2, 3, 1),))]
    """
    axes = [_crossed(part, step) for part, step in zip(region, chunk_shape, strict=True)]
    for combination in itertools.product(*axes):
        yield (
            tuple(index for index, _, _ in combination),
            tuple(inner for _, inner, _ in combination),
            tuple(outer for _, _, outer in combination),
        )


def pieces(
    region: Region, chunk_shape: tuple[int, ...], itemsize: int, most: int
) -> Iterator[tuple[Region, Region]]:
    """Cut a region into pieces whose chunks are at most ``most`` bytes together, or one chunk.

    Yields:
        The piece, and where it is in the result.

    >>> [outer for _, outer in pieces((slice(0, 6, 1), slice(0, 4, 1)), (2, 4), 1, 16)]
    [(slice(0, 4, 1), slice(0, 4, 1)), (slice(4, 6, 1), slice(0, 4, 1))]
    """
    axes = [_crossed(part, step) for part, step in zip(region, chunk_shape, strict=True)]
    yield from _grouped(axes, itemsize * math.prod(chunk_shape), most)


def _grouped(
    axes: list[list[Crossing]], chunk_nbytes: int, most: int, first: int = 0
) -> Iterator[tuple[Region, Region]]:
    total = chunk_nbytes * math.prod(map(len, axes))
    axis = next((i for i in range(first, len(axes)) if len(axes[i]) > 1), len(axes))
    if total <= most or axis == len(axes):
        yield tuple(_joined(axis, 1) for axis in axes), tuple(_joined(axis, 2) for axis in axes)
        return
    crossed = axes[axis]
    rows = max(1, most // (total // len(crossed)))
    for start in range(0, len(crossed), rows):
        group = [*axes[:axis], crossed[start : start + rows], *axes[axis + 1 :]]
        yield from _grouped(group, chunk_nbytes, most, axis + 1)


def _joined(crossed: list[Crossing], which: int) -> slice:
    begin, end = crossed[0][which], crossed[-1][which]
    assert isinstance(begin, slice)
    assert isinstance(end, slice)
    return slice(begin.start, end.stop, begin.step)


def _crossed(part: slice, step: int) -> list[Crossing]:
    """Return the chunks that one axis of a region touches."""
    picked = range(part.start, part.stop, part.step)
    result = []
    at = 0
    while at < len(picked):
        index = picked[at] // step
        end = len(range(part.start, min(part.stop, (index + 1) * step), part.step))
        result.append((index, slice(picked[at], picked[end - 1] + 1, part.step), slice(at, end, 1)))
        at = end
    return result
