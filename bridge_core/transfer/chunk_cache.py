"""The chunks that were decoded last, so that neighbouring blocks do not decode them again."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bridge_core.state import Array, Region, Tensor, regions
from bridge_core.transfer.chunk_grid import ChunkRegion, complete_chunks

__all__ = ["ChunkCache"]

_WORTH_REUSING = 1 << 20
"""Bytes from which on the memory of an array is used again.

The system clears new memory before its first use. Chosen with ``benchmarks/orbax_checkpoints.py``.
"""


@dataclass(eq=False, slots=True)
class _Held:
    """Chunks in memory.

    Args:
        chunks: What they are.
        values: Their values.
        memory: The memory of the values; None if it is not used again.
        block: Number of the last block that needs them.
    """

    chunks: ChunkRegion
    values: Array
    memory: Array | None
    block: int


class ChunkCache:
    """Complete chunks of sources, those that were used last; for one thread.

    An array that `read` returns is valid until `reset`. `limit` is how many bytes may be held.
    """

    def __init__(self) -> None:
        self.limit = 0
        self._held: list[_Held] = []
        self._block = 0
        self._retired: list[Array] = []
        """Memory that arrays of this block may still be in."""
        self._spare: list[Array] = []

    def read(self, tensor: Tensor, region: Region) -> Array:
        """Return a region of a source with chunks; nobody may write to it.

        If its complete chunks exceed the limit, only the region is read, and nothing is held of it.
        """
        for number, held in enumerate(self._held):
            if held.chunks.source is tensor and _covers(held.chunks.region, region):
                self._held.append(self._held.pop(number))
                held.block = self._block
                return _part(held.values, held.chunks.region, region)
        chunks = ChunkRegion(tensor, complete_chunks(tensor, region))
        if chunks.nbytes > self.limit:
            self._make_room(ChunkRegion(tensor, region).nbytes)
            values, memory = self._values(tensor, region)
            if memory is not None:
                self._retired.append(memory)
            return values
        self._make_room(chunks.nbytes)
        values, memory = self._values(tensor, chunks.region)
        self._held.append(_Held(chunks, values, memory, self._block))
        return _part(values, chunks.region, region)

    def reset(self) -> None:
        """Begin another block; arrays of the last one must not be used any more."""
        self._block += 1
        self._spare += self._retired
        self._retired.clear()

    def clear(self) -> None:
        """Hold no chunks any more."""
        while self._held:
            self._evict()
        self.reset()

    def _make_room(self, nbytes: int) -> None:
        """Forget what was used least recently, before more is read."""
        while self._held and sum(held.chunks.nbytes for held in self._held) + nbytes > self.limit:
            self._evict()

    def _evict(self) -> None:
        held = self._held.pop(0)
        if held.memory is not None:
            (self._retired if held.block == self._block else self._spare).append(held.memory)

    def _values(self, tensor: Tensor, region: Region) -> tuple[Array, Array | None]:
        """Return the values of a region, and their memory if it can be used again."""
        shape, dtype = regions.region_shape(region), tensor.spec.dtype
        nbytes = regions.size(shape) * dtype.itemsize
        fill = getattr(tensor, "read_into", None)
        if fill is None or nbytes < _WORTH_REUSING:
            return tensor.read(region), None
        memory = self._memory(nbytes)
        values = memory[:nbytes].view(dtype).reshape(shape)
        fill(region, values)
        return values, memory

    def _memory(self, nbytes: int) -> Array:
        fitting = [memory for memory in self._spare if memory.nbytes >= nbytes]
        if not fitting:
            self._spare.clear()
            return np.empty(nbytes, np.uint8)
        best = min(fitting, key=lambda memory: memory.nbytes)
        self._spare = [memory for memory in self._spare if memory is not best]
        return best


def _covers(held: Region, region: Region) -> bool:
    parts = zip(held, regions.simplify(region), strict=True)
    return all(chunk.start <= part.start and part.stop <= chunk.stop for chunk, part in parts)


def _part(values: Array, chunks: Region, region: Region) -> Array:
    """Return the part of the values of a region that another region within it has."""
    index = tuple(
        slice(part.start - start, part.stop - start, part.step)
        for part, start in zip(regions.simplify(region), (chunk.start for chunk in chunks), strict=True)
    )
    return values if index == regions.full(values.shape) else values[index]
