"""Cutting tensors into blocks, and reading a block into memory that is used again for the next.

A block is a region of the result. What it needs of the sources follows from the ops' `pull`. Where the
result runs across the source's grain, a tensor too large for one block is cut both ways, so that what is read
at a time and what is written at a time are both long runs.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from bridge_core import regions
from bridge_core.ops import OpTensor, Permute
from bridge_core.regions import Region
from bridge_core.tensors import Array, FileTensor, Tensor
from bridge_core.transpose import copy_into

__all__ = ["Cut", "Scratch", "cut", "is_plain_copy", "read_block", "read_whole", "runs"]

_ALIGN = 64


class Scratch:
    """Memory for one block at a time; it grows to what a block needed, and stays."""

    def __init__(self) -> None:
        self._memory = np.empty(0, np.uint8)
        self._used = 0
        self._wanted = 0

    def reset(self) -> None:
        """Forget the arrays given out; they must not be used any more."""
        if self._wanted > len(self._memory):
            self._memory = np.empty(0, np.uint8)  # let go before taking more
            self._memory = np.empty(self._wanted, np.uint8)
        self._used = self._wanted = 0

    def take(self, shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> Array:
        """Return an array whose values are undefined."""
        nbytes = regions.size(shape) * dtype.itemsize
        start = self._used
        padded = -(-nbytes // _ALIGN) * _ALIGN
        self._wanted += padded
        if start + nbytes > len(self._memory):
            return np.empty(shape, dtype)
        self._used += padded
        return self._memory[start : start + nbytes].view(dtype).reshape(shape)


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
    """Cut a tensor into blocks of at most ``max_bytes`` (and at least one element) each."""
    spec = tensor.spec
    elements = max(1, max_bytes // spec.dtype.itemsize)
    grain = _grain(tensor)
    last = len(spec.shape) - 1
    if spec.size <= elements or grain in (None, last):
        return Cut(regions.blocks(spec.shape, elements), ordered=True)
    return Cut(_boxes(spec.shape, grain or 0, elements), ordered=False)


def read_block(tensor: Tensor, region: Region, scratch: Scratch) -> Array:
    """Return a block as a C-contiguous array, in the scratch memory where possible."""
    found = _pulled(tensor, region, scratch)
    if found.flags.c_contiguous:
        return found
    out = scratch.take(found.shape, found.dtype)
    copy_into(out, found)
    return out


def read_whole(tensor: Tensor, out: Array, scratch: Scratch, max_bytes: int = 16 << 20) -> None:
    """Fill a C-contiguous array of the tensor's shape and dtype, with one pass over its values.

    Args:
        tensor: What to read.
        out: Where to.
        scratch: Memory for one block.
        max_bytes: How large a block may be.
    """
    if isinstance(tensor, FileTensor):
        tensor.read_into(regions.full(tensor.spec.shape), out)
        return
    for region in cut(tensor, max_bytes).regions:
        scratch.reset()
        index: tuple[Any, ...] = (*region, ...)  # the ellipsis keeps an array where no axes are
        copy_into(out[index], _pulled(tensor, region, scratch))


def is_plain_copy(tensor: Tensor) -> bool:
    """Tell whether the tensor's bytes stand in a file just as they are to be written."""
    return isinstance(tensor, FileTensor) and not tensor.big_endian


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
    strides = [regions.size(shape[axis + 1 :]) for axis in range(len(shape))]
    base = sum(part.start * stride for part, stride in zip(region, strides, strict=True))
    steps = [range(0, n * stride, stride) for n, stride in zip(sizes[:inner], strides[:inner], strict=True)]
    for offsets in itertools.product(*steps):
        yield base + sum(offsets), length


def _pulled(tensor: Tensor, region: Region, scratch: Scratch) -> Array:
    if isinstance(tensor, OpTensor):
        specs = tuple(source.spec for source in tensor.inputs)
        pulls = tensor.op.pull(tensor.output, region, specs)
        pieces = tuple(_pulled(tensor.inputs[p.input], p.region, scratch) for p in pulls)
        return tensor.op.assemble(tensor.output, region, pieces, specs)
    if isinstance(tensor, FileTensor):
        out = scratch.take(regions.region_shape(region), tensor.spec.dtype)
        tensor.read_into(region, out)
        return out
    return tensor.read(region)


def _grain(tensor: Tensor) -> int | None:
    """Return the axis of the result along which the source's bytes run, or None if it cannot be told."""
    axes: list[int] | None = None
    while isinstance(tensor, OpTensor):
        if len(tensor.inputs) != 1:
            return None
        if isinstance(tensor.op, Permute):
            axes = list(tensor.op.axes) if axes is None else [tensor.op.axes[a] for a in axes]
        elif tensor.inputs[0].spec.shape != tensor.spec.shape:
            return None
        tensor = tensor.inputs[0]
    return axes.index(len(axes) - 1) if axes else None


def _boxes(shape: tuple[int, ...], grain: int, elements: int) -> Iterator[Region]:
    last = len(shape) - 1
    box = [1] * len(shape)
    side = max(1, int(elements**0.5))
    box[last] = min(shape[last], max(side, elements // max(1, shape[grain])))
    box[grain] = min(shape[grain], max(1, elements // box[last]))
    spare = elements // (box[last] * box[grain])
    for axis in range(last - 1, -1, -1):
        if axis != grain:
            box[axis] = min(shape[axis], max(1, spare))
            spare //= box[axis]
    starts = [range(0, n, step) for n, step in zip(shape, box, strict=True)]
    for corner in itertools.product(*starts):
        yield tuple(
            slice(start, min(start + step, n), 1) for start, step, n in zip(corner, box, shape, strict=True)
        )
