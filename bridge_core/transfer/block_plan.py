"""Cutting tensors into blocks, and reading a block into memory that is used again for the next.

A block is a region of the result. What it needs of the sources follows from the ops' `input_regions`. Where the
result runs across the source's grain, a tensor too large for one block is cut both ways, so that what is read
at a time and what is written at a time are both long runs.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeGuard

from bridge_core.io import SourceFile
from bridge_core.state import FileTensor, Region, Tensor, regions
from bridge_core.transfer.memory_order import Grain, first_source, grain_of

__all__ = ["Cut", "cut", "is_plain_copy", "runs", "scratch_bytes"]

STRIP = 1 << 20
"""Bytes that are read at once and then moved across the grain while they are in the cache."""

_BESIDE = 4 * STRIP
"""Bytes of strips that are in memory beside a block."""

_SHORT_RUN = 1536
"""Bytes that are read at once at least, so that a block can be one run of the target."""

_GOOD_RUN = 4 << 10
"""Bytes of a read from which on longer ones gain little."""

_WRITE_COST = 4
"""How much longer than reading a run it takes to write one."""

_STACKED_BLOCK = 16 << 20
"""Larger blocks over many sources gain nothing: each source is read by itself."""


def scratch_bytes(tensor: Tensor, block: int) -> int:
    """Return how much scratch the blocks of a tensor need at most."""
    if is_plain_copy(tensor):
        return 0
    nbytes = tensor.spec.nbytes
    room = block if nbytes <= block else _room(tensor, grain_of(tensor), block)
    return min(nbytes, room) + _BESIDE


@dataclass(frozen=True)
class Cut:
    """How a tensor is cut.

    Args:
        regions: The blocks.
        ordered: Whether they follow each other in row-major order, each contiguous in it.
    """

    regions: tuple[Region, ...] | Iterator[Region]
    ordered: bool


def cut(tensor: Tensor, max_bytes: int) -> Cut:
    """Cut a tensor into blocks of at most ``max_bytes`` (and at least one element) each.

    Where only strips of the source are in memory beside a block, blocks may be half as large again if that
    makes them runs of the target.
    """
    spec = tensor.spec
    grain = grain_of(tensor) if spec.nbytes > max_bytes else None
    elements = max(1, _room(tensor, grain, max_bytes) // spec.dtype.itemsize)
    if spec.size <= elements or grain is None or not runs_across(tensor, grain):
        return Cut(regions.blocks(spec.shape, elements), ordered=True)
    box = _box(spec.shape, grain.inner, elements, spec.dtype.itemsize)
    return Cut(_boxes(spec.shape, box), ordered=_is_run(spec.shape, box))


def _room(tensor: Tensor, grain: Grain | None, block: int) -> int:
    """Return the bytes of a tensor's largest block, where a worker may have two of ``block`` bytes."""
    spec = tensor.spec
    if grain is None or not runs_across(tensor, grain):
        return block
    if grain.stacked:
        return min(block, _STACKED_BLOCK)
    if first_source(tensor) is None:
        return block
    most = min(block * 3 // 2, 2 * block - _BESIDE)
    useful = spec.shape[-1] * _SHORT_RUN <= most
    return max(block, min(most, spec.shape[-1] * _GOOD_RUN)) if useful else block


def runs_across(tensor: Tensor, grain: Grain) -> bool:
    return grain.inner != len(tensor.spec.shape) - 1


def is_plain_copy(tensor: Tensor) -> TypeGuard[FileTensor]:
    """Tell whether the tensor's bytes stand in a file just as they are to be written."""
    return isinstance(tensor, FileTensor) and not tensor.big_endian and isinstance(tensor.file, SourceFile)


def runs(shape: tuple[int, ...], region: Region) -> Iterator[tuple[int, int]]:
    """Yield (start, length) in elements of the row-major runs that a region with steps of one makes up."""
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


def _box(shape: tuple[int, ...], grain: int, elements: int, itemsize: int) -> tuple[int, ...]:
    """Return the sizes of boxes that are long both along the target's last axis and the source's.

    Writing a run costs more than reading one, and boxes that are runs of the target cost least.
    """
    last = len(shape) - 1
    box = [1] * len(shape)
    long = min(shape[grain], max(1, int((elements // _WRITE_COST) ** 0.5)))
    short = min(long, max(1, _SHORT_RUN // itemsize))
    fits = shape[last] * short <= elements
    parts = 1 if fits else -(-shape[last] * long // elements)
    box[last] = -(-shape[last] // parts)
    box[grain] = min(shape[grain], max(1, elements // box[last]))
    spare = elements // (box[last] * box[grain])
    for axis in range(last - 1, -1, -1):
        if axis != grain:
            box[axis] = min(shape[axis], max(1, spare))
            spare //= box[axis]
    return tuple(box)


def _is_run(shape: tuple[int, ...], box: tuple[int, ...]) -> bool:
    """Tell whether each box is one run of the tensor: it is cut along one axis, and single before that."""
    cut_at = next((axis for axis, n in enumerate(box) if n != 1), len(box))
    return box[cut_at + 1 :] == shape[cut_at + 1 :]


def _boxes(shape: tuple[int, ...], box: tuple[int, ...]) -> Iterator[Region]:
    starts = [range(0, n, step) for n, step in zip(shape, box, strict=True)]
    for corner in itertools.product(*starts):
        yield tuple(
            slice(start, min(start + step, n), 1) for start, step, n in zip(corner, box, shape, strict=True)
        )
