"""Blocks of a result over sources with chunks: unions of complete chunks, or parts of one.

If a chunk exceeds a block, its blocks follow each other, and the chunk is held between them.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from bridge_core.state import Region, Tensor, regions
from bridge_core.transfer.chunk_grid import (
    ChunkRegion,
    Cuts,
    chunk_cuts,
    chunk_regions,
    copies,
    read_nbytes,
)
from bridge_core.transfer.memory_order import chunk_shape_of, chunked_sources

__all__ = ["ChunkBlocks", "chunk_blocks", "largest_chunk"]

_MOST_HELD = 4
"""How many chunks may be held together although they exceed a block."""


@dataclass(frozen=True, slots=True)
class ChunkBlocks:
    """How a result is cut.

    Args:
        sources: The sources that have chunks.
        cuts: Where each axis is cut.
        block_shape: Shape of the largest block; parts between two cuts that are larger are cut again.
        held_nbytes: Bytes of complete chunks that are held while the blocks are read.
    """

    sources: tuple[Tensor, ...]
    cuts: Cuts
    block_shape: tuple[int, ...]
    held_nbytes: int

    def largest_part(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of the largest part between cuts."""
        return regions.region_shape(_longest(shape, self.cuts))

    def groups(self, shape: tuple[int, ...]) -> Iterator[tuple[Region, tuple[Region, ...]]]:
        """Yield each part between cuts, and its blocks."""
        if 0 in shape:
            return
        axes = [tuple(_intervals(n, cuts)) for n, cuts in zip(shape, self.cuts, strict=True)]
        for cell in itertools.product(*axes):
            pieces = (_pieces(part, n) for part, n in zip(cell, self.block_shape, strict=True))
            yield cell, tuple(itertools.product(*pieces))

    def in_order(self, shape: tuple[int, ...]) -> Iterator[Region]:
        """Yield the blocks in row-major order, which those of `groups` may not have."""
        if 0 in shape:
            return
        axes = zip(shape, self.cuts, self.block_shape, strict=True)
        yield from itertools.product(
            *(
                [piece for part in _intervals(n, cuts) for piece in _pieces(part, most)]
                for n, cuts, most in axes
            )
        )


def chunk_blocks(tensor: Tensor, max_bytes: int, *, in_order: bool = False) -> ChunkBlocks | None:
    """Return how a result over sources with chunks is cut; None if no source has chunks.

    Args:
        tensor: The result.
        max_bytes: Bytes of a block, and of the chunks that it needs; a chunk may be larger.
        in_order: Whether each block must be a run of the result.
    """
    sources = chunked_sources(tensor)
    if not sources:
        return None
    shape, itemsize = tensor.spec.shape, tensor.spec.dtype.itemsize
    everything = regions.full(shape)
    uncut: Cuts = ((),) * len(shape)
    largest = largest_chunk(sources)
    if _cost(tensor, everything) <= max_bytes:
        return ChunkBlocks(sources, uncut, shape, max(max_bytes, largest))
    # The chunks, a copy that ops make, and the block are in memory at once: together twice ``max_bytes``.
    elements = max(1, (max_bytes // 2 if copies(tensor) else max_bytes) // itemsize)
    finest = chunk_cuts(tensor)
    if in_order:
        box = regions.block_shape(shape, elements)
        axis = next((a for a, n in enumerate(box) if n != 1), None)
        cuts = uncut
        if axis is not None and box[axis] != shape[axis]:
            cuts = (*uncut[:axis], _joined(finest[axis], shape[axis], box[axis]), *uncut[axis + 1 :])
        return ChunkBlocks(sources, cuts, box, max(max_bytes, largest))
    cuts = _grown(tensor, finest, max_bytes)
    cell = _longest(shape, cuts)
    box = cell_shape = regions.region_shape(cell)
    if _cost(tensor, cell) > max_bytes and regions.size(cell_shape) > elements:
        box = regions.block_shape(cell_shape, elements)
    whole = sum(part.nbytes for part in chunk_regions(tensor, cell))
    held = whole if whole <= _MOST_HELD * largest else largest
    return ChunkBlocks(sources, cuts, box, max(max_bytes, held))


def largest_chunk(sources: tuple[Tensor, ...]) -> int:
    """Return the bytes of the largest chunk."""
    return max(
        ChunkRegion(
            source,
            tuple(
                slice(0, min(n, c), 1) for n, c in zip(source.spec.shape, chunk_shape_of(source), strict=True)
            ),
        ).nbytes
        for source in sources
    )


def _cost(tensor: Tensor, region: Region) -> int:
    nbytes = regions.size(regions.region_shape(region)) * tensor.spec.dtype.itemsize
    return max(nbytes, read_nbytes(tensor, region))


def _grown(tensor: Tensor, cuts: Cuts, max_bytes: int) -> Cuts:
    """Return fewer cuts, so that blocks are as large as allowed; rows of the result grow first."""
    shape = tensor.spec.shape
    for axis in reversed(range(len(shape))):
        finest = cuts[axis]
        fits, exceeds = 1, len(finest) + 2
        while fits + 1 < exceeds:
            middle = (fits + exceeds) // 2 if exceeds <= len(finest) + 1 else len(finest) + 1
            joined = (*cuts[:axis], finest[middle - 1 :: middle], *cuts[axis + 1 :])
            if _cost(tensor, _longest(shape, joined)) <= max_bytes:
                fits = middle
            else:
                exceeds = middle
        cuts = (*cuts[:axis], finest[fits - 1 :: fits], *cuts[axis + 1 :])
    return cuts


def _joined(cuts: tuple[int, ...], size: int, most: int) -> tuple[int, ...]:
    """Return the fewest of some cuts between which no part exceeds ``most`` without need."""
    places: list[int] = []
    start = 0
    for at, following in itertools.pairwise((*cuts, size)):
        if following - start > most:
            places.append(at)
            start = at
    return tuple(places)


def _longest(shape: tuple[int, ...], cuts: Cuts) -> Region:
    """Return the largest part between cuts."""
    return tuple(
        max(_intervals(n, places), key=lambda part: part.stop - part.start)
        for n, places in zip(shape, cuts, strict=True)
    )


def _intervals(size: int, cuts: tuple[int, ...]) -> Iterator[slice]:
    for start, stop in itertools.pairwise((0, *cuts, size)):
        yield slice(start, stop, 1)


def _pieces(part: slice, most: int) -> Iterator[slice]:
    for start in range(part.start, part.stop, most):
        yield slice(start, min(start + most, part.stop), 1)
