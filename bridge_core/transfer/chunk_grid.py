"""Chunks: where a result may be cut so that each part needs complete chunks of its sources.

A source with chunks decodes every chunk that a region touches, completely. The boundaries of its chunks are
followed through the ops to the result; where an op mixes axes, only those stay that bound complete chunks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from bridge_core.ops import (
    Concat,
    Flip,
    Op,
    OpTensor,
    Pad,
    Permute,
    Reshape,
    Split,
    Stack,
    Unpad,
    Unstack,
    axis_groups,
)
from bridge_core.state import Region, Tensor, regions
from bridge_core.transfer.memory_order import chunk_shape_of

__all__ = [
    "ChunkRegion",
    "Cuts",
    "chunk_cuts",
    "chunk_regions",
    "copies",
    "read_nbytes",
    "complete_chunks",
]

Cuts = tuple[tuple[int, ...], ...]
"""For each axis, in ascending order, where it is cut; without its ends."""

_MOST_CUTS = 1 << 12
"""The most places where an axis of a source is cut; beyond it, several chunks count as one."""

_VIEWS = (Flip, Permute, Split, Unstack)
"""Ops whose result is a view of what was read."""


class ChunkRegion(NamedTuple):
    """A region of a source that a region of a result needs, in complete chunks."""

    source: Tensor
    region: Region

    @property
    def nbytes(self) -> int:
        """Bytes of the region."""
        return regions.size(regions.region_shape(self.region)) * self.source.spec.dtype.itemsize


def complete_chunks(tensor: Tensor, region: Region) -> Region:
    """Return a region of a source, made larger to complete chunks."""
    chunk = chunk_shape_of(tensor)
    if not chunk or 0 in regions.region_shape(region):
        return region
    return tuple(
        slice(part.start // c * c, min(n, -(-part.stop // c) * c), 1)
        for part, c, n in zip(regions.simplify(region), chunk, tensor.spec.shape, strict=True)
    )


def chunk_regions(tensor: Tensor, region: Region) -> Iterator[ChunkRegion]:
    """Yield what a region of a result needs of each source, in complete chunks."""
    if isinstance(tensor, OpTensor):
        specs = tuple(source.spec for source in tensor.inputs)
        for pull in tensor.op.input_regions(tensor.output, region, specs):
            yield from chunk_regions(tensor.inputs[pull.input], pull.region)
    else:
        yield ChunkRegion(tensor, complete_chunks(tensor, region))


def read_nbytes(tensor: Tensor, region: Region) -> int:
    """Return the bytes that are in memory once a region has been read: the chunks, and a copy by ops."""
    read = list(chunk_regions(tensor, region))
    nbytes = sum(part.nbytes for part in read)
    if len(read) > 1 or copies(tensor):
        nbytes += regions.size(regions.region_shape(region)) * tensor.spec.dtype.itemsize
    return nbytes


def copies(tensor: Tensor) -> bool:
    """Return whether an op may copy the values that were read."""
    while isinstance(tensor, OpTensor):
        if not isinstance(tensor.op, _VIEWS):
            return True
        tensor = tensor.inputs[0]
    return False


def chunk_cuts(tensor: Tensor) -> Cuts:
    """Return where a result may be cut so that each part needs complete chunks; the finest such cuts."""
    shape = tensor.spec.shape
    if isinstance(tensor, OpTensor):
        return _through(tensor.op, tensor.output, [chunk_cuts(t) for t in tensor.inputs], tensor)
    chunk = chunk_shape_of(tensor)
    return (
        tuple(_boundaries(n, c) for n, c in zip(shape, chunk, strict=True)) if chunk else ((),) * len(shape)
    )


def _boundaries(size: int, chunk: int) -> tuple[int, ...]:
    step = chunk * max(1, -(-size // (chunk * _MOST_CUTS)))
    return tuple(range(step, size, step))


def _through(op: Op, output: int, inputs: list[Cuts], tensor: OpTensor) -> Cuts:
    """Return the cuts of an op's output."""
    shape = tensor.spec.shape
    match op:
        case Permute(order):
            return tuple(inputs[0][axis] for axis in order)
        case Flip(axes):
            return tuple(
                tuple(n - at for at in reversed(cuts)) if axis in axes else cuts
                for axis, (n, cuts) in enumerate(zip(shape, inputs[0], strict=True))
            )
        case Split(axis, sizes):
            return _with(inputs[0], axis, _shifted(inputs[0][axis], -sum(sizes[:output]), shape[axis]))
        case Unstack(axis, _):
            return (*inputs[0][:axis], *inputs[0][axis + 1 :])
        case Concat(axis, sizes):
            places: list[int] = []
            offset = 0
            for n, cuts in zip(sizes, inputs, strict=True):
                places.extend((offset, *_shifted(cuts[axis], offset, shape[axis])))
                offset += n
            return _with(_union(inputs), axis, _shifted(places, 0, shape[axis]))
        case Stack(axis, count):
            both = _union(inputs)
            return (*both[:axis], tuple(range(1, count)), *both[axis:])
        case Reshape(source, target):
            return _reshaped(inputs[0], source, target)
        case Pad(axis) | Unpad(axis):
            return _with(inputs[0], axis, _shifted(inputs[0][axis], 0, shape[axis]))
        case _ if inputs and all(source.spec.shape == shape for source in tensor.inputs):
            return _union(inputs)
        case _:
            return ((),) * len(shape)


def _with(cuts: Cuts, axis: int, places: tuple[int, ...]) -> Cuts:
    return (*cuts[:axis], places, *cuts[axis + 1 :])


def _shifted(places: Iterable[int], offset: int, size: int) -> tuple[int, ...]:
    """Return the places after a shift that are within an axis."""
    return tuple(sorted({at + offset for at in places if 0 < at + offset < size}))


def _union(inputs: list[Cuts]) -> Cuts:
    return tuple(tuple(sorted(set().union(*places))) for places in zip(*inputs, strict=True))


def _reshaped(cuts: Cuts, source: tuple[int, ...], target: tuple[int, ...]) -> Cuts:
    """Follow cuts through a reshape: where axes are merged or split, only cuts of the outermost stay."""
    if 0 in source:
        return ((),) * len(target)
    result: list[tuple[int, ...]] = [()] * len(target)
    for before, after in axis_groups(source, target):
        if source[before] == target[after]:
            result[after] = cuts[before]
            continue
        outer = next((a for a in range(before.start, before.stop) if source[a] > 1), None)
        first = next((a for a in range(after.start, after.stop) if target[a] > 1), None)
        if outer is not None and first is not None:
            inner, step = (
                regions.size(source[outer + 1 : before.stop]),
                regions.size(target[first + 1 : after.stop]),
            )
            result[first] = tuple(at * inner // step for at in cuts[outer] if at * inner % step == 0)
    return tuple(result)
