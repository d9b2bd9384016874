"""Regions: which part of a tensor is meant, always as one concrete slice an axis.

Everything below the public API works on regions of full rank with ``0 <= start <= stop`` and
``step >= 1``; the freedom of Python's indexing is resolved once, here.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator
from types import EllipsisType
from typing import SupportsIndex

__all__ = [
    "Index",
    "Region",
    "blocks",
    "full",
    "normalize",
    "region_shape",
    "row_major_strides",
    "shift",
    "simplify",
    "size",
]

Region = tuple[slice, ...]
Part = SupportsIndex | slice | EllipsisType
Index = Part | tuple[Part, ...]


def full(shape: tuple[int, ...]) -> Region:
    """Return the region that is the whole tensor."""
    return tuple(slice(0, n, 1) for n in shape)


def region_shape(region: Region) -> tuple[int, ...]:
    """Return the shape of a region.

    >>> region_shape((slice(0, 10, 3), slice(2, 2, 1)))
    (4, 0)
    """
    return tuple(len(range(s.start, s.stop, s.step)) for s in region)


def size(shape: tuple[int, ...]) -> int:
    """Return the number of elements, in exact integers."""
    count = 1
    for n in shape:
        count *= n
    return count


def row_major_strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the strides of a contiguous tensor, in elements; as in numpy and torch, a size of 0 counts as 1.

    >>> row_major_strides((2, 3, 4))
    (12, 4, 1)
    """
    strides = []
    step = 1
    for n in reversed(shape):
        strides.append(step)
        step *= n or 1
    return tuple(reversed(strides))


def normalize(index: Index, shape: tuple[int, ...]) -> tuple[Region, tuple[slice | int, ...]]:
    """Resolve a basic index into a region, and what to apply to what the region gave.

    Reading the region and then indexing the result with the second value equals indexing the whole
    tensor: it reverses axes with a negative step and drops axes indexed by a number.

    Raises:
        IndexError: As numpy does, for too many indices or one out of bounds.

    >>> normalize((-1, slice(None, None, -2)), (3, 5))
    ((slice(2, 3, 1), slice(0, 5, 2)), (0, slice(None, None, -1)))
    """
    parts = index if isinstance(index, tuple) else (index,)
    given = sum(part is not Ellipsis for part in parts)
    if given > len(shape) or len(parts) - given > 1:
        raise IndexError(f"index {index!r} has too many parts for shape {shape}")
    if len(parts) == given:
        parts = (*parts, Ellipsis)
    at = next(i for i, part in enumerate(parts) if part is Ellipsis)
    padding = (slice(None),) * (len(shape) - given)
    whole = (*parts[:at], *padding, *parts[at + 1 :])
    region: list[slice] = []
    after: list[slice | int] = []
    for axis, (part, n) in enumerate(zip(whole, shape, strict=True)):
        if isinstance(part, slice):
            picked = range(*part.indices(n))
            if len(picked) == 0:
                region.append(slice(0, 0, 1))
                after.append(slice(None))
            elif picked.step > 0:
                region.append(slice(picked[0], picked[-1] + 1, picked.step))
                after.append(slice(None))
            else:
                region.append(slice(picked[-1], picked[0] + 1, -picked.step))
                after.append(slice(None, None, -1))
        elif isinstance(part, EllipsisType):
            raise IndexError("an index can only have one ellipsis")
        else:
            position = operator.index(part)
            if not -n <= position < n:
                raise IndexError(f"index {position} is out of bounds for axis {axis} of size {n}")
            position %= n
            region.append(slice(position, position + 1, 1))
            after.append(0)
    return tuple(region), tuple(after)


def simplify(region: Region) -> Region:
    """Return the region with stops just past the last element, and step 1 where one or none is taken."""
    result = []
    for s in region:
        n = len(range(s.start, s.stop, s.step))
        if n == 0:
            result.append(slice(s.start, s.start, 1))
        elif n == 1:
            result.append(slice(s.start, s.start + 1, 1))
        else:
            result.append(slice(s.start, s.start + (n - 1) * s.step + 1, s.step))
    return tuple(result)


def shift(part: slice, offset: int) -> slice:
    """Return the slice moved by ``offset``."""
    return slice(part.start + offset, part.stop + offset, part.step)


def blocks(shape: tuple[int, ...], max_elements: int) -> Iterator[Region]:
    """Cut a tensor into regions that follow each other in row-major order.

    Every region is contiguous in the row-major layout and holds at most ``max_elements`` (at least
    one) elements. A tensor without elements has no blocks; one without axes has one.

    >>> [region_shape(r) for r in blocks((3, 4), 8)]
    [(2, 4), (1, 4)]
    """
    if size(shape) == 0:
        return
    axis = 0
    inner = size(shape)
    while axis < len(shape) and inner // shape[axis] > max(1, max_elements):
        inner //= shape[axis]
        axis += 1
    if axis >= len(shape):
        axis = len(shape) - 1
    if not shape:
        yield ()
        return
    inner = size(shape[axis + 1 :])
    rows = max(1, max_elements // max(1, inner))
    tail = full(shape[axis + 1 :])
    outer = [range(n) for n in shape[:axis]]
    for lead in _product(outer):
        head = tuple(slice(i, i + 1, 1) for i in lead)
        for start in range(0, shape[axis], rows):
            yield (*head, slice(start, min(start + rows, shape[axis]), 1), *tail)


def _product(ranges: list[range]) -> Iterator[tuple[int, ...]]:
    if not ranges:
        yield ()
        return
    for first in ranges[0]:
        for rest in _product(ranges[1:]):
            yield (first, *rest)
