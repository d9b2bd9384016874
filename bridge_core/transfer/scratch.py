"""Scratch memory that is used again for each block."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from bridge_core.errors import OutOfMemory
from bridge_core.state import Array, regions
from bridge_core.transfer.chunk_cache import ChunkCache
from bridge_core.transfer.transpose import Kernel

__all__ = ["Scratch", "ScratchPool"]

_LINE = 64
"""Bytes of a cache line."""


class Scratch:
    """Memory for one block at a time.

    Args:
        capacity: Bytes; an array that does not fit gets memory of its own. Untouched pages cost nothing.
        kernel: Transposes large planes; None for numpy.
    """

    def __init__(self, capacity: int = 0, kernel: Kernel | None = None) -> None:
        self.kernel = kernel
        self.chunks = ChunkCache()
        """What was decoded last, until the end of the job."""
        self._memory = np.empty(capacity, np.uint8)
        self._used = 0

    def reset(self) -> None:
        """Take back all arrays; they must not be used any more."""
        self._used = 0
        self.chunks.reset()

    @contextlib.contextmanager
    def returned(self) -> Iterator[None]:
        """Take back, at the end of the ``with`` block, the arrays that were taken within it."""
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
        """Return the array, or a copy with padded rows if columns share few cache sets."""
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
    """Scratch memory for several threads: each borrows a `Scratch` for a job.

    Args:
        kernel: Transposes large planes; None for numpy.
        capacity: Bytes of each `Scratch`.
    """

    def __init__(self, kernel: Kernel | None = None, capacity: int = 0) -> None:
        self._kernel = kernel
        self._capacity = capacity
        self._free: list[Scratch] = []

    def reserve(self, capacity: int) -> None:
        """Give each `Scratch` at least so many bytes from now on; none may be borrowed now."""
        if capacity > self._capacity:
            self._capacity = capacity
            self._free.clear()

    @contextlib.contextmanager
    def borrowed(self) -> Iterator[Scratch]:
        """Return a `Scratch` that no other thread uses within the ``with`` block.

        Raises:
            OutOfMemory: The system has no memory for it.
        """
        try:
            scratch = self._free.pop()
        except IndexError:
            scratch = self._new()
        try:
            yield scratch
        finally:
            scratch.reset()
            scratch.chunks.clear()
            self._free.append(scratch)

    def _new(self) -> Scratch:
        try:
            return Scratch(self._capacity, self._kernel)
        except MemoryError as err:
            raise OutOfMemory(
                f"the system has no memory for a block of {self._capacity} bytes.",
                hint='Pass a smaller budget, for example max_ram="64MB" (--max-ram).',
            ) from err
