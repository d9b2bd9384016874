"""How an array is cut into chunks, which are stored one by one, and into boxes, which are written at once.

Who restores on several devices reads slices of an array: a half, a quarter or an eighth along one of its
largest axes. Chunks end where such slices end, so that a slice reads little more than its own bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

__all__ = ["LARGEST_BOX", "SMALLEST_CHUNK", "cut"]

SMALLEST_CHUNK = 128 << 10
"""Bytes; an array is not cut into smaller chunks unless the memory demands it.

Chunks of 64 KiB take half as much time again to read.
"""

LARGEST_BOX = 64 << 20
"""Bytes of the largest box, however much memory there is."""

_PARTS = 8
"""How many chunks lie along each of the two largest axes of a large array; a power of two."""

_SEARCHED = 4
"""How many times as many parts as are needed may be made so that chunks end where halves end."""

Shape = tuple[int, ...]


def cut(shape: Shape, itemsize: int, max_nbytes: int) -> tuple[Shape, Shape]:
    """Return the shape of an array's chunks, and of its boxes.

    A box consists of entire chunks, and is one run of the array's row-major values. Those at the ends of an
    axis may be smaller.

    Args:
        shape: Shape of the array.
        itemsize: Bytes of an element in memory.
        max_nbytes: Bytes of the largest box; a box has at least one element.

    >>> cut((1024, 4096), 4, 1 << 25)
    ((128, 512), (1024, 4096))
    >>> cut((1024, 4096), 4, 1 << 22)
    ((128, 512), (256, 4096))
    >>> cut((32, 1024, 4096), 2, 1 << 20)
    ((1, 128, 512), (1, 128, 4096))
    >>> cut((50, 3), 4, 1 << 22)
    ((50, 3), (50, 3))
    """
    if 0 in shape:
        return (1,) * len(shape), (1,) * len(shape)
    elements = max(1, min(max_nbytes, LARGEST_BOX) // itemsize)
    axis, most = _slab(shape, elements)
    chunk = [1] * axis + list(shape[axis:])
    if axis < len(shape):
        chunk[axis] = _at_most(shape[axis], most)
    _cut_large_axes(shape, chunk, axis, SMALLEST_CHUNK // itemsize)
    box = list(shape)
    if axis < len(shape):
        box[:axis] = [1] * axis
        box[axis] = min(shape[axis], most // chunk[axis] * chunk[axis])
    return tuple(chunk), tuple(box)


def _slab(shape: Shape, elements: int) -> tuple[int, int]:
    """Return the axis along which a box ends, and how many of its indices fit into the box."""
    inner = prod(shape)
    for axis, n in enumerate(shape):
        inner //= n
        if inner <= elements:
            return axis, min(n, elements // inner)
    return 0, 1


def _cut_large_axes(shape: Shape, chunk: list[int], first: int, smallest: int) -> None:
    """Cut the two largest axes in turn, the one that has fewer parts first, until chunks are small."""
    largest = sorted(range(len(shape)), key=lambda axis: (-shape[axis], axis))[:2]
    sizes = {axis: _sizes(shape[axis]) for axis in largest if axis >= first}
    while True:
        cuts = []
        for axis, smaller in sizes.items():
            size = next((n for n in smaller if n < chunk[axis]), None)
            if size is not None and prod(chunk) // chunk[axis] * size >= smallest:
                cuts.append((shape[axis] / chunk[axis], axis, size))
        if not cuts:
            return
        _, axis, size = min(cuts)
        chunk[axis] = size


def _sizes(n: int) -> list[int]:
    """Return the sizes of chunks that an axis may be cut into, in descending order.

    >>> _sizes(4096), _sizes(100), _sizes(50257), _sizes(3)
    ([2048, 1024, 512], [50, 25, 5], [25129, 12565, 6283], [])
    """
    even = _even_parts(n)
    if even == 1:
        return [-(-n // parts) for parts in (2, 4, 8)] if n >= _PARTS**2 else []
    sizes = [n // parts for parts in (2, 4, 8) if parts <= even]
    if even < _PARTS:
        divisor = next(_divisors(n // even, -(-n // _PARTS)), None)
        sizes += [divisor] if divisor is not None else []
    return sizes


def _at_most(n: int, most: int) -> int:
    """Return the size of the largest chunks of at most ``most`` that end where slices end, if there are any.

    >>> _at_most(4096, 5000), _at_most(4096, 300), _at_most(100, 13), _at_most(2 * 101, 13), _at_most(3, 2)
    (4096, 256, 5, 13, 1)
    """
    if n <= most:
        return n
    even = _even_parts(n)
    for parts in (2, 4, 8):
        if parts <= even and n // parts <= most:
            return n // parts
    divides = even > 1 or n < _PARTS**2
    size = next(_divisors(n // even, most), None) if divides else None
    return -(-n // -(-n // most)) if size is None else size


def _even_parts(n: int) -> int:
    """Return the largest power of two that divides an axis, of those that matter."""
    return next(parts for parts in (_PARTS, 4, 2, 1) if n % parts == 0)


def _divisors(n: int, most: int) -> Iterator[int]:
    """Yield divisors of at most ``most`` and not much less, in descending order."""
    fewest = -(-n // most)
    return (n // parts for parts in range(fewest, _SEARCHED * fewest + 1) if n % parts == 0)
