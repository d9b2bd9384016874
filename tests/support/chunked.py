"""A source whose values are stored in chunks, which counts how often each is decoded."""

from __future__ import annotations

import itertools
import math
import threading
from collections import Counter

from bridge_core.state.tensors import LazyTensor, TensorSpec


class ChunkedSource:
    """An array that is read as a chunked file is: every chunk that a region touches, completely.

    Args:
        values: The array.
        chunk: Shape of the chunks.
        codec: A compressor with ``compress`` and ``decompress``, whose work each chunk then costs; None for
            none.
    """

    def __init__(self, values, chunk, codec=None):
        self.values, self.chunk, self.codec = values, chunk, codec
        self.decoded = Counter()
        self.regions = []
        self._lock = threading.Lock()
        self._stored = {}
        if codec is not None:
            for place in self._places(tuple(slice(0, n, 1) for n in values.shape)):
                part = values[tuple(slice(i * c, i * c + c) for i, c in zip(place, chunk, strict=True))]
                self._stored[place] = codec.compress(part.tobytes(), 1)

    @property
    def tensor(self):
        return LazyTensor(TensorSpec(self.values.shape, self.values.dtype), self.read, self.chunk)

    def read(self, region):
        places = list(self._places(region))
        with self._lock:
            self.regions.append(region)
            self.decoded.update(places)
        for place in places if self.codec is not None else ():
            self.codec.decompress(self._stored[place])
        read = self.values[(*region, ...)].copy()
        read.flags.writeable = False
        return read

    def _places(self, region):
        if any(part.start >= part.stop for part in region):
            return []
        return itertools.product(
            *(range(p.start // c, (p.stop - 1) // c + 1) for p, c in zip(region, self.chunk, strict=True))
        )

    @property
    def chunks(self):
        """How many chunks there are."""
        return len(list(self._places(tuple(slice(0, n, 1) for n in self.values.shape))))

    @property
    def chunk_nbytes(self):
        """Bytes of the largest chunk."""
        sizes = zip(self.values.shape, self.chunk, strict=True)
        return self.values.itemsize * math.prod(min(n, c) for n, c in sizes)

    @property
    def largest_read(self):
        """Bytes of the largest region that was asked for."""
        sizes = [1]
        for region in self.regions:
            size = self.values.itemsize
            for part in region:
                size *= len(range(part.start, part.stop, part.step))
            sizes.append(size)
        return max(sizes)
