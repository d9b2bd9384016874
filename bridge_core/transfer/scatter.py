"""Writing the bytes of a block to their places in a file."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np

from bridge_core.formats import Extent
from bridge_core.io import read_all, write_all
from bridge_core.state import Array, Region, regions

__all__ = ["Packer", "file_ranges", "little_endian_bytes", "scatter", "scatter_box"]

_SHORT_STRIDE = 4 << 10
"""Bytes between the starts of two runs below which reading and writing all of them takes less time."""
_MERGED = 4 << 20
"""Bytes that are read, changed and written at once."""
_INTEGERS = {1: "u1", 2: "u2", 4: "u4", 8: "u8"}


def little_endian_bytes(block: Array) -> memoryview:
    """Return the little-endian row-major bytes of a contiguous array, viewed if possible."""
    flat = block.reshape(-1)
    ordered = flat if np.little_endian else flat.astype(flat.dtype.newbyteorder("<"))
    return ordered.view(np.uint8).data


class Packer:
    """Packs narrow elements of consecutive blocks into bytes, the first into the lowest bits.

    Args:
        per_byte: Elements per byte.
    """

    def __init__(self, per_byte: int) -> None:
        self._per_byte = per_byte
        self._rest = np.empty(0, np.uint8)

    def pack(self, elements: memoryview) -> memoryview:
        """Return the packed bytes that these elements complete; each element is given as a byte."""
        bits = 8 // self._per_byte
        mask = np.uint8((1 << bits) - 1)
        narrow = np.concatenate([self._rest, np.frombuffer(elements, np.uint8) & mask])
        complete = len(narrow) // self._per_byte * self._per_byte
        self._rest = narrow[complete:]
        lanes = narrow[:complete].reshape(-1, self._per_byte)
        packed = np.zeros(len(lanes), np.uint8)
        for lane in range(self._per_byte):
            packed |= lanes[:, lane] << np.uint8(bits * lane)
        return packed.data


def file_ranges(start: int, stop: int, extents: tuple[Extent, ...]) -> Iterator[tuple[int, int, int]]:
    """Yield (first byte in the tensor, first byte in the file, bytes) of the parts of a tensor's bytes."""
    for extent in extents:
        begin = max(start, extent.start)
        end = min(stop, extent.start + extent.nbytes)
        if begin < end:
            yield begin, extent.offset + begin - extent.start, end - begin


def scatter(fd: int, data: memoryview, position: int, extents: tuple[Extent, ...]) -> None:
    """Write the bytes of a tensor from ``position`` on to their places by its extents."""
    for offset, part in _placed(data, position, extents):
        write_all(fd, part, offset)


def _placed(data: memoryview, position: int, extents: tuple[Extent, ...]) -> Iterator[tuple[int, memoryview]]:
    """Yield the parts of a tensor's bytes from ``position`` on, each with its place in the file."""
    for start, offset, nbytes in file_ranges(position, position + len(data), extents):
        yield offset, data[start - position : start - position + nbytes]


def scatter_box(
    fd: int, block: Array, shape: tuple[int, ...], region: Region, extents: tuple[Extent, ...]
) -> None:
    """Write a block that is several runs of the tensor; nobody else may write to the tensor meanwhile.

    Short runs near each other are put into what the file has there, which is read and written in one piece.
    """
    if block.size == 0:
        return
    data, item = little_endian_bytes(block), block.itemsize
    spread = _spread(shape, region)
    runs = list(itertools.islice(_runs(shape, region), 2))
    if len(runs) == 2 and spread * item < _SHORT_STRIDE * (block.size // runs[0][1]):
        values = np.frombuffer(data, _INTEGERS.get(item, f"V{item}")).reshape(block.shape)
        _merge_box(fd, values, shape, region, extents)
        return
    done = 0
    for start, length in _runs(shape, region):
        scatter(fd, data[done : done + length * item], start * item, extents)
        done += length * item


def _merge_box(
    fd: int, values: Array, shape: tuple[int, ...], region: Region, extents: tuple[Extent, ...]
) -> None:
    """Read the span of a box from the file, a few rows at a time; put the values in, and write it."""
    item = values.itemsize
    strides = regions.row_major_strides(shape)
    axis = next((a for a, n in enumerate(values.shape) if n > 1), 0)
    whole = _spread(shape, (*region[:axis], slice(0, 1, 1), *region[axis + 1 :]))
    rows = max(1, _MERGED // (strides[axis] * item))
    steps = tuple(n * item for n in strides)
    for begin in range(0, values.shape[axis], rows):
        part = values[(slice(None),) * axis + (slice(begin, begin + rows),)]
        if whole * item > _MERGED and part.size > 1 and axis + 1 < values.ndim:
            row = slice(region[axis].start + begin, region[axis].start + begin + 1, 1)
            _merge_box(fd, part, shape, (*region[:axis], row, *region[axis + 1 :]), extents)
            continue
        first = sum(p.start * n for p, n in zip(region, strides, strict=True)) + begin * strides[axis]
        span = bytearray(((part.shape[axis] - 1) * strides[axis] + whole) * item)
        for offset, placed in _placed(memoryview(span), first * item, extents):
            read_all(fd, placed, offset)
        np.ndarray(part.shape, part.dtype, span, 0, steps)[...] = part
        scatter(fd, memoryview(span), first * item, extents)


def _spread(shape: tuple[int, ...], region: Region) -> int:
    """Return the elements from the first one of a region to its last."""
    strides = regions.row_major_strides(shape)
    between: int = sum((p.stop - 1 - p.start) * n for p, n in zip(region, strides, strict=True))
    return 1 + between


def _runs(shape: tuple[int, ...], region: Region) -> Iterator[tuple[int, int]]:
    """Yield (start, length) in elements of the row-major runs of a region with steps of one."""
    sizes = regions.region_shape(region)
    inner = len(shape)
    length = 1
    while inner > 0:
        inner -= 1
        length *= sizes[inner]
        if sizes[inner] != shape[inner]:
            break
    strides = regions.row_major_strides(shape)
    base = sum(part.start * stride for part, stride in zip(region, strides, strict=True))
    steps = [range(0, n * stride, stride) for n, stride in zip(sizes[:inner], strides[:inner], strict=True)]
    for offsets in itertools.product(*steps):
        yield base + sum(offsets), length
