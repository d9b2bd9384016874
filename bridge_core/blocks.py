"""Cutting tensors into blocks, and reading a block into memory that is used again for the next.

A block is a region of the result. What it needs of the sources follows from the ops' `pull`. Where the
result runs across the source's grain, a tensor too large for one block is cut both ways, so that what is read
at a time and what is written at a time are both long runs.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeGuard

import numpy as np

from bridge_core import regions
from bridge_core.errors import LimitExceeded
from bridge_core.files import SourceFile
from bridge_core.grain import Grain, first_source, grain_of
from bridge_core.ops import OpTensor
from bridge_core.regions import Region
from bridge_core.tensors import Array, FileTensor, Tensor
from bridge_core.transpose import Kernel, copy_into, move_plane

__all__ = [
    "Cut",
    "Scratch",
    "ScratchPool",
    "cut",
    "is_plain_copy",
    "read_block",
    "read_whole",
    "runs",
    "scratch_bytes",
]

_LINE = 64
"""Bytes of a cache line."""
_STRIP = 1 << 20
"""Bytes that are read at once and then moved across the grain while they are in the cache."""
_BESIDE = 4 * _STRIP
"""Bytes of strips that are in memory beside a block."""
_FEWEST_BYTES = 256
"""Bytes that a strip writes side by side at least, or lines of the cache are fetched for little."""
_SHORT_RUN = 1536
"""Bytes that are read at once at least, so that a block can be one run of the target."""
_GOOD_RUN = 4 << 10
"""Bytes of a read from which on longer ones gain little."""
_WRITE_COST = 4
"""How much longer than reading a run it takes to write one."""
_WHOLE = 16 << 20
_STACKED_BLOCK = 16 << 20
"""Larger blocks over many sources gain nothing: each source is read by itself."""


class Scratch:
    """Memory for one block at a time.

    Args:
        capacity: Bytes; what does not fit gets memory of its own. Pages that no block touches cost nothing.
        kernel: What transposes large planes on the way; numpy if there is none.
    """

    def __init__(self, capacity: int = 0, kernel: Kernel | None = None) -> None:
        self.kernel = kernel
        self._memory = np.empty(capacity, np.uint8)
        self._used = 0

    def reset(self) -> None:
        """Forget the arrays given out; they must not be used any more."""
        self._used = 0

    @contextlib.contextmanager
    def returned(self) -> Iterator[None]:
        """Take back, at the end of the block, what was given out within it."""
        used = self._used
        try:
            yield
        finally:
            self._used = used

    def take(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        """Return a C-contiguous array whose values are undefined."""
        nbytes = regions.size(shape) * dtype.itemsize
        return self._bytes(nbytes).view(dtype).reshape(shape)

    def spread(self, array: Array) -> Array:
        """Return the array, or a copy with rows so apart that a walk down a column meets new cache sets."""
        row = array.nbytes // max(1, len(array))
        if row % _LINE or row // _LINE % 2 or not array.flags.c_contiguous:
            return array
        rows = self._bytes((row + _LINE) * len(array)).reshape(len(array), row + _LINE)[:, :row]
        np.copyto(rows, array.reshape(-1).view(np.uint8).reshape(rows.shape))
        return rows.view(array.dtype).reshape(array.shape)

    def _bytes(self, nbytes: int) -> Array:
        start = self._used
        if start + nbytes > len(self._memory):
            return np.empty(nbytes, np.uint8)
        self._used += -(-nbytes // _LINE) * _LINE
        return self._memory[start : start + nbytes]


class ScratchPool:
    """Scratch memory for several workers: each borrows one for a job, and the next job uses it again."""

    def __init__(self, capacity: int = 0, kernel: Kernel | None = None) -> None:
        self._capacity = capacity
        self._kernel = kernel
        self._free: list[Scratch] = []

    @contextlib.contextmanager
    def borrowed(self) -> Iterator[Scratch]:
        """Give a scratch that nobody else uses within the block.

        Raises:
            LimitExceeded: There is not enough memory.
        """
        try:
            scratch = self._free.pop()
        except IndexError:
            scratch = self._new()
        try:
            yield scratch
        finally:
            scratch.reset()
            self._free.append(scratch)

    def _new(self) -> Scratch:
        try:
            return Scratch(self._capacity, self._kernel)
        except MemoryError as err:
            raise LimitExceeded(
                f"a block of {self._capacity} bytes does not fit into memory.", hint="Lower --max-ram."
            ) from err


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
    if spec.size <= elements or grain is None or not _runs_across(tensor, grain):
        return Cut(regions.blocks(spec.shape, elements), ordered=True)
    box = _box(spec.shape, grain.inner, elements, spec.dtype.itemsize)
    return Cut(_boxes(spec.shape, box), ordered=_is_run(spec.shape, box))


def read_block(tensor: Tensor, region: Region, scratch: Scratch) -> Array:
    """Return a block as a C-contiguous array, in the scratch memory where possible."""
    grain = _across(tensor, region)
    if grain is not None:
        out = scratch.take(regions.region_shape(region), tensor.spec.dtype)
        _fill_across(tensor, region, out, scratch, grain)
        return out
    found = _pulled(tensor, region, scratch)
    if found.flags.c_contiguous:
        return found
    out = scratch.take(found.shape, found.dtype)
    copy_into(out, found, scratch.kernel)
    return out


def read_whole(tensor: Tensor, out: Array, scratch: Scratch) -> None:
    """Fill a C-contiguous array of the tensor's shape and dtype, with one pass over its values."""
    whole = regions.full(tensor.spec.shape)
    grain = _across(tensor, whole)
    if isinstance(tensor, FileTensor):
        tensor.read_into(whole, out)
    elif grain is not None:
        _fill_across(tensor, whole, out, scratch, grain)
    else:
        for region in regions.blocks(tensor.spec.shape, _WHOLE // tensor.spec.dtype.itemsize):
            scratch.reset()
            index: tuple[Any, ...] = (*region, ...)  # the ellipsis keeps an array where no axes are
            copy_into(out[index], _pulled(tensor, region, scratch), scratch.kernel)


def _room(tensor: Tensor, grain: Grain | None, block: int) -> int:
    """Return the bytes of a tensor's largest block, where a worker may have two of ``block`` bytes."""
    spec = tensor.spec
    if grain is None or not _runs_across(tensor, grain):
        return block
    if grain.stacked:
        return min(block, _STACKED_BLOCK)
    if first_source(tensor) is None:
        return block
    most = min(block * 3 // 2, 2 * block - _BESIDE)
    useful = spec.shape[-1] * _SHORT_RUN <= most
    return max(block, min(most, spec.shape[-1] * _GOOD_RUN)) if useful else block


def _runs_across(tensor: Tensor, grain: Grain) -> bool:
    return grain.inner != len(tensor.spec.shape) - 1


def _across(tensor: Tensor, region: Region) -> Grain | None:
    """Return the grain of a large region, where its file runs along another axis than the last; else None."""
    large = regions.size(regions.region_shape(region)) * tensor.spec.dtype.itemsize >= 2 * _STRIP
    if not large or first_source(tensor) is None:
        return None
    grain = grain_of(tensor)
    return grain if grain is not None and _runs_across(tensor, grain) else None


def _fill_across(tensor: Tensor, region: Region, out: Array, scratch: Scratch, grain: Grain) -> None:
    """Read strips along the source's grain, and move each into place while it is in the cache."""
    outer, inner = grain.outer, grain.inner
    sizes = list(regions.region_shape(region))
    for axis in grain.stacked:
        sizes[axis] = 1
    row = regions.size(tuple(sizes)) * out.itemsize // max(1, sizes[outer])
    fewest = _FEWEST_BYTES // out.itemsize if outer == out.ndim - 1 else 1
    sizes[outer] = max(1, min(sizes[outer], max(_STRIP // max(1, row), fewest)))
    if row * sizes[outer] > 2 * _STRIP:
        sizes[inner] = max(1, sizes[inner] * _STRIP // (row * sizes[outer]))
    for corner in itertools.product(*(range(0, n, k) for n, k in zip(out.shape, sizes, strict=True))):
        parts = [slice(at, min(at + k, n)) for at, k, n in zip(corner, sizes, out.shape, strict=True)]
        wanted = tuple(
            slice(p.start + part.start * p.step, p.start + (part.stop - 1) * p.step + 1, p.step)
            for p, part in zip(region, parts, strict=True)
        )
        with scratch.returned():
            found = _pulled(tensor, wanted, scratch, spread=scratch.kernel is None)
            target = out[tuple(parts)]
            if grain.stacked:
                found, target = found.squeeze(grain.stacked), target.squeeze(grain.stacked)
            if found.ndim == 2:
                move_plane(target, found, scratch.kernel)
            else:
                copy_into(target, found, scratch.kernel)


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
    strides = [regions.size(shape[axis + 1 :]) for axis in range(len(shape))]
    base = sum(part.start * stride for part, stride in zip(region, strides, strict=True))
    steps = [range(0, n * stride, stride) for n, stride in zip(sizes[:inner], strides[:inner], strict=True)]
    for offsets in itertools.product(*steps):
        yield base + sum(offsets), length


def _pulled(tensor: Tensor, region: Region, scratch: Scratch, *, spread: bool = False) -> Array:
    if isinstance(tensor, OpTensor):
        specs = tuple(source.spec for source in tensor.inputs)
        pulls = tensor.op.pull(tensor.output, region, specs)
        pieces = tuple(_pulled(tensor.inputs[p.input], p.region, scratch, spread=spread) for p in pulls)
        return tensor.op.assemble(tensor.output, region, pieces, specs)
    if isinstance(tensor, FileTensor):
        out = scratch.take(regions.region_shape(region), tensor.spec.dtype)
        tensor.read_into(region, out)
        return scratch.spread(out) if spread else out
    return tensor.read(region)


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
