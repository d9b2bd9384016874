"""The chunks that were decoded last, so that neighbouring blocks do not decode them again."""

from __future__ import annotations

from bridge_core.state import Array, Region, Tensor, regions
from bridge_core.transfer.chunk_grid import ChunkRegion, whole_chunks

__all__ = ["ChunkCache"]


class ChunkCache:
    """Whole chunks of sources, those that were used last; for one thread.

    `limit` is how many bytes may be kept.
    """

    def __init__(self) -> None:
        self.limit = 0
        self._kept: list[tuple[ChunkRegion, Array]] = []

    def read(self, tensor: Tensor, region: Region) -> Array:
        """Return a region of a source with chunks; nobody may write to it.

        If its whole chunks exceed the limit, only the region is read, and nothing is kept of it.
        """
        for number, (kept, values) in enumerate(self._kept):
            if kept.source is tensor and _covers(kept.region, region):
                self._kept.append(self._kept.pop(number))
                return _part(values, kept.region, region)
        whole = ChunkRegion(tensor, whole_chunks(tensor, region))
        if whole.nbytes > self.limit:
            self._make_room(ChunkRegion(tensor, region).nbytes)
            return tensor.read(region)
        self._make_room(whole.nbytes)
        values = tensor.read(whole.region)
        self._kept.append((whole, values))
        return _part(values, whole.region, region)

    def clear(self) -> None:
        """Keep nothing any more."""
        self._kept.clear()

    def _make_room(self, nbytes: int) -> None:
        """Forget what was used least recently, before more is read."""
        while self._kept and sum(kept.nbytes for kept, _ in self._kept) + nbytes > self.limit:
            del self._kept[0]


def _covers(kept: Region, region: Region) -> bool:
    parts = zip(kept, regions.simplify(region), strict=True)
    return all(whole.start <= part.start and part.stop <= whole.stop for whole, part in parts)


def _part(values: Array, whole: Region, region: Region) -> Array:
    """Return the part of the values of a region that another region within it has."""
    index = tuple(
        slice(part.start - start, part.stop - start, part.step)
        for part, start in zip(regions.simplify(region), (w.start for w in whole), strict=True)
    )
    return values if index == regions.full(values.shape) else values[index]
