"""Writing the bytes of a block to their places in a file."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np

from bridge_core.formats import Extent
from bridge_core.io import write_all
from bridge_core.state import Array, Region, regions

__all__ = ["Packer", "little_endian_bytes", "scatter", "scatter_box"]


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


def scatter(fd: int, data: memoryview, position: int, extents: tuple[Extent, ...]) -> None:
    """Write the bytes of a tensor from ``position`` on to their places by its extents."""
    stop = position + len(data)
    for extent in extents:
        begin = max(position, extent.start)
        end = min(stop, extent.start + extent.nbytes)
        if begin < end:
            write_all(fd, data[begin - position : end - position], extent.offset + begin - extent.start)


def scatter_box(
    fd: int, block: Array, shape: tuple[int, ...], region: Region, extents: tuple[Extent, ...]
) -> None:
    """Write a block that is several runs of the tensor."""
    data, item = little_endian_bytes(block), block.itemsize
    done = 0
    for start, length in _runs(shape, region):
        scatter(fd, data[done : done + length * item], start * item, extents)
        done += length * item


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
