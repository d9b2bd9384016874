"""Reading the blocks of a tensor, or all of it, into memory."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterable, Iterator
from typing import Any

from bridge_core.errors import OutOfMemory
from bridge_core.ops import OpTensor
from bridge_core.state import Array, FileTensor, Region, Tensor, regions
from bridge_core.transfer.block_plan import LARGE, STRIP, BlockPlan
from bridge_core.transfer.memory_order import MemoryOrder, chunk_shape_of
from bridge_core.transfer.scratch import Scratch
from bridge_core.transfer.transpose import copy_into, move_plane

__all__ = ["read_blocks", "read_into", "read_region", "read_whole"]

_FEWEST_BYTES = 256
"""The fewest contiguous bytes that a strip writes: a cache line is fetched for as many of them as possible.

Chosen with ``benchmarks/transpose_kernel.py``, contestant ``from file``.
"""

_LESS_MEMORY = 'Pass a smaller budget, for example max_ram="64MB" (--max-ram).'


def read_blocks(
    plan: BlockPlan,
    scratch: Scratch,
    blocks: Iterable[Region] | None = None,
    stop: threading.Event | None = None,
) -> Iterator[tuple[Region, Array]]:
    """Yield the region and the values of blocks, as C-contiguous arrays.

    An array is valid until the next one is yielded.

    Args:
        plan: The plan of the tensor.
        scratch: Memory for the arrays; nothing else may use it until the iterator ends.
        blocks: Which of the plan's blocks; None for all.
        stop: After it is set, the next block raises `KeyboardInterrupt`; None for never.

    Raises:
        OutOfMemory: A block does not fit into memory.
    """
    scratch.chunks.limit = plan.held_nbytes
    banded = blocks is None and plan.band_shape
    if banded:
        blocks = regions.boxes(plan.tensor.spec.shape, plan.band_shape)
    for region in plan.blocks if blocks is None else blocks:
        if stop is not None and stop.is_set():
            raise KeyboardInterrupt
        scratch.reset()
        try:
            block = _read_block(plan, region, scratch)
        except MemoryError as err:
            nbytes = regions.size(regions.region_shape(region)) * plan.tensor.spec.dtype.itemsize
            raise OutOfMemory(
                f"the system has no memory for a block of {nbytes} bytes.", hint=_LESS_MEMORY
            ) from err
        yield from _boxes_of(plan, region, block) if banded else ((region, block),)


def _boxes_of(plan: BlockPlan, band: Region, values: Array) -> Iterator[tuple[Region, Array]]:
    """Yield the boxes of a band, and their values."""
    for box in regions.boxes(values.shape, plan.block_shape):
        place = tuple(regions.shift(part, whole.start) for part, whole in zip(box, band, strict=True))
        yield place, values[box]


def read_whole(plan: BlockPlan, out: Array, scratch: Scratch) -> None:
    """Read all values into a C-contiguous array of the tensor's shape and dtype."""
    tensor, everything = plan.tensor, regions.full(plan.tensor.spec.shape)
    if isinstance(tensor, FileTensor):
        tensor.read_into(everything, out)
    elif plan.memory_order is not None and plan.nbytes >= LARGE:
        _fill_in_strips(tensor, everything, out, scratch, plan.memory_order)
    else:
        read_into(plan, plan.blocks, out, scratch)


def read_into(plan: BlockPlan, blocks: Iterable[Region], out: Array, scratch: Scratch) -> None:
    """Read blocks into their places in an array of the tensor's shape and dtype."""
    scratch.chunks.limit = plan.held_nbytes
    for region in blocks:
        scratch.reset()
        index: tuple[Any, ...] = (*region, ...)  # with the ellipsis, no axes give an array, not a scalar
        copy_into(out[index], _pulled(plan.tensor, region, scratch), scratch.kernel)


def read_region(tensor: Tensor, region: Region, scratch: Scratch) -> Array:
    """Return a region's values, valid until the scratch memory is reset; chunks are held for the next one."""
    return _pulled(tensor, region, scratch)


def _read_block(plan: BlockPlan, region: Region, scratch: Scratch) -> Array:
    tensor = plan.tensor
    if plan.memory_order is not None:
        shape, dtype = regions.region_shape(region), tensor.spec.dtype
        if regions.size(shape) * dtype.itemsize >= LARGE:
            out = scratch.take(shape, dtype)
            _fill_in_strips(tensor, region, out, scratch, plan.memory_order)
            return out
    values = _pulled(tensor, region, scratch)
    if values.flags.c_contiguous:
        return values
    out = scratch.take(values.shape, values.dtype)
    copy_into(out, values, scratch.kernel)
    return out


def _fill_in_strips(tensor: Tensor, region: Region, out: Array, scratch: Scratch, order: MemoryOrder) -> None:
    """Read strips that are contiguous in the source; transpose each while it is in the cache."""
    outer, inner = order.outer, order.inner
    sizes = list(regions.region_shape(region))
    for axis in order.stacked:
        sizes[axis] = 1
    row = regions.size(tuple(sizes)) * out.itemsize // max(1, sizes[outer])
    fewest = _FEWEST_BYTES // out.itemsize if outer == out.ndim - 1 else 1
    sizes[outer] = max(1, min(sizes[outer], max(STRIP // max(1, row), fewest)))
    if row * sizes[outer] > 2 * STRIP:
        sizes[inner] = max(1, sizes[inner] * STRIP // (row * sizes[outer]))
    for corner in itertools.product(*(range(0, n, k) for n, k in zip(out.shape, sizes, strict=True))):
        parts = [slice(at, min(at + k, n)) for at, k, n in zip(corner, sizes, out.shape, strict=True)]
        strip = tuple(
            slice(p.start + part.start * p.step, p.start + (part.stop - 1) * p.step + 1, p.step)
            for p, part in zip(region, parts, strict=True)
        )
        with scratch.returned():
            values = _pulled(tensor, strip, scratch, spread=scratch.kernel is None)
            target = out[tuple(parts)]
            if order.stacked:
                values, target = values.squeeze(order.stacked), target.squeeze(order.stacked)
            if values.ndim == 2:
                move_plane(target, values, scratch.kernel)
            else:
                copy_into(target, values, scratch.kernel)


def _pulled(tensor: Tensor, region: Region, scratch: Scratch, *, spread: bool = False) -> Array:
    """Return a region's values; those of files are in scratch memory, spread if asked for."""
    if isinstance(tensor, OpTensor):
        specs = tuple(source.spec for source in tensor.inputs)
        pulls = tensor.op.input_regions(tensor.output, region, specs)
        pieces = tuple(_pulled(tensor.inputs[p.input], p.region, scratch, spread=spread) for p in pulls)
        return tensor.op.compute(tensor.output, region, pieces, specs)
    if isinstance(tensor, FileTensor):
        out = scratch.take(regions.region_shape(region), tensor.spec.dtype)
        tensor.read_into(region, out)
        return scratch.spread(out) if spread else out
    if chunk_shape_of(tensor):
        return scratch.chunks.read(tensor, region)
    return tensor.read(region)
