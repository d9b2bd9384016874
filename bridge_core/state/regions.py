"""Regions: parts of tensors, as one concrete slice for each axis.

All code below the public API works on regions of full rank with ``0 <= start <= stop`` and ``step >= 1``;
`normalize` turns Python's basic indices into these.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Iterator
from types import EllipsisType
from typing import SupportsIndex

__all__ = [
    "Index",
    "Region",
    "block_shape",
    "blocks",
    "boxes",
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
    """Return the region of a complete tensor."""
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
    """Return the strides of a contiguous tensor, in elements; a size of 0 counts as 1.

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
    """Resolve a basic index into a region, and an index to apply to the values of the region.

    Reading the region and then indexing the result with the second value equals indexing the complete
    tensor: the second value reverses axes with a negative step and drops axes indexed by a number.

    Raises:
        IndexError: As in numpy, there are too many indices, or one is out of bounds.

    >>> normalize((-1, slice(None, None, -2)), (3, 5))
    ((slice(2, 3, 1), slice(0, 5, 2)), (0, slice(None, None, -1)))
    """
    parts = index if isinstance(index, tuple) else (index,)
    indexed = sum(part is not Ellipsis for part in parts)
    if indexed > len(shape) or len(parts) - indexed > 1:
        raise IndexError(
            f"expected at most {len(shape)} indices and one ellipsis for shape {list(shape)}, got {index!r}"
        )
    if len(parts) == indexed:
        parts = (*parts, Ellipsis)
    at = next(i for i, part in enumerate(parts) if part is Ellipsis)
    padding = (slice(None),) * (len(shape) - indexed)
    full_index = (*parts[:at], *padding, *parts[at + 1 :])
    region: list[slice] = []
    after: list[slice | int] = []
    for axis, (part, n) in enumerate(zip(full_index, shape, strict=True)):
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
    """Return the region with stops just after the last element, and step 1 for one element."""
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


def block_shape(shape: tuple[int, ...], max_elements: int) -> tuple[int, ...]:
    """Return the shape of the largest row-major runs of at most ``max_elements`` elements.

    A run has at least one element.

    >>> block_shape((3, 4), 8)
    (2, 4)
    """
    inner = size(shape)
    for axis, n in enumerate(shape):
        inner //= n or 1
        if inner <= max_elements or axis == len(shape) - 1:
            return (1,) * axis + (max(1, min(n, max_elements // max(1, inner))), *shape[axis + 1 :])
    return shape


def boxes(shape: tuple[int, ...], box: tuple[int, ...]) -> Iterator[Region]:
    """Cut a tensor into regions of one shape, smaller at the ends, in row-major order.

    A tensor without elements has none; one without axes has one.
    """
    if 0 in shape:
        return
    starts = [range(0, n, step) for n, step in zip(shape, box, strict=True)]
    for corner in itertools.product(*starts):
        yield tuple(
            slice(start, min(start + step, n), 1) for start, step, n in zip(corner, box, shape, strict=True)
        )


def blocks(shape: tuple[int, ...], max_elements: int) -> Iterator[Region]:
    """Cut a tensor into regions that follow each other in row-major order.

    Every region is contiguous in the row-major layout and holds at most ``max_elements`` (at least
    one) elements. A tensor without elements has no blocks; one without axes has one.

    >>> [region_shape(r) for r in blocks((3, 4), 8)]
    [(2, 4), (1, 4)]
    """
    return boxes(shape, block_shape(shape, max_elements))
