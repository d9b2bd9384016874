"""Putting a block's bytes where a file has its place for them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from bridge_core.formats import Extent
from bridge_core.io import write_all
from bridge_core.state import Array, Region
from bridge_core.transfer.block_plan import runs

__all__ = ["little", "packed", "scatter", "scatter_box"]


def little(block: Array) -> memoryview:
    """Return the little-endian bytes of a contiguous array."""
    ordered = block if np.little_endian else block.astype(block.dtype.newbyteorder("<"))
    return ordered.view(np.uint8).data


def packed(blocks: Iterator[Array], per_byte: int) -> Iterator[Array]:
    """Pack narrow elements, the first into the lowest bits."""
    if per_byte == 1:
        yield from blocks
        return
    bits = 8 // per_byte
    rest = np.empty(0, np.uint8)
    for block in blocks:
        nibbles = np.concatenate([rest, block.view(np.uint8) & ((1 << bits) - 1)])
        whole = len(nibbles) // per_byte * per_byte
        rest = nibbles[whole:]
        lanes = nibbles[:whole].reshape(-1, per_byte)
        packed = np.zeros(len(lanes), np.uint8)
        for lane in range(per_byte):
            packed |= lanes[:, lane] << np.uint8(bits * lane)
        yield packed


def scatter(fd: int, data: memoryview, position: int, extents: tuple[Extent, ...]) -> None:
    """Write bytes [position, position + len) of a tensor to wherever its extents place them."""
    stop = position + len(data)
    for extent in extents:
        begin = max(position, extent.start)
        end = min(stop, extent.start + extent.nbytes)
        if begin < end:
            write_all(fd, data[begin - position : end - position], extent.offset + begin - extent.start)


def scatter_box(
    fd: int, block: Array, shape: tuple[int, ...], region: Region, extents: tuple[Extent, ...]
) -> None:
    """Write a block that is no single run of the tensor."""
    data, item = little(block.reshape(-1)), block.itemsize
    done = 0
    for start, length in runs(shape, region):
        scatter(fd, data[done : done + length * item], start * item, extents)
        done += length * item
