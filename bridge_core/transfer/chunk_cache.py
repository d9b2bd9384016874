"""The chunks that were decoded last, so that neighbouring blocks do not decode them again."""

from __future__ import annotations

from bridge_core.state import Array, Region, Tensor, regions
from bridge_core.transfer.chunk_grid import ChunkRegion, complete_chunks

__all__ = ["ChunkCache"]


class ChunkCache:
    """Complete chunks of sources, those that were used last; for one thread.

    `limit` is how many bytes may be held.
    """

    def __init__(self) -> None:
        self.limit = 0
        self._held: list[tuple[ChunkRegion, Array]] = []

    def read(self, tensor: Tensor, region: Region) -> Array:
        """Return a region of a source with chunks; nobody may write to it.

        If its complete chunks exceed the limit, only the region is read, and nothing is held of it.
        """
        for number, (held, values) in enumerate(self._held):
            if held.source is tensor and _covers(held.region, region):
                self._held.append(self._held.pop(number))
                return _part(values, held.region, region)
        whole = ChunkRegion(tensor, complete_chunks(tensor, region))
        if whole.nbytes > self.limit:
            self._make_room(ChunkRegion(tensor, region).nbytes)
            return tensor.read(region)
        self._make_room(whole.nbytes)
        values = tensor.read(whole.region)
        self._held.append((whole, values))
        return _part(values, whole.region, region)

    def clear(self) -> None:
        """Keep nothing any more."""
        self._held.clear()

    def _make_room(self, nbytes: int) -> None:
        """Forget what was used least recently, before more is read."""
        while self._held and sum(held.nbytes for held, _ in self._held) + nbytes > self.limit:
            del self._held[0]


def _covers(held: Region, region: Region) -> bool:
    parts = zip(held, regions.simplify(region), strict=True)
    return all(whole.start <= part.start and part.stop <= whole.stop for whole, part in parts)


def _part(values: Array, whole: Region, region: Region) -> Array:
    """Return the part of the values of a region that another region within it has."""
    index = tuple(
        slice(part.start - start, part.stop - start, part.step)
        for part, start in zip(regions.simplify(region), (w.start for w in whole), strict=True)
    )
    return values if index == regions.full(values.shape) else values[index]
