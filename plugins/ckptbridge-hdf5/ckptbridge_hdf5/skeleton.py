"""The HDF5 structure of a new file, made by libhdf5 in memory.

libhdf5 only decides the place of everything; it sees no tensor data and no disk. So a full disk cannot fail
inside of it, tensors are streamed without it, and the bytes of the structure are known before the first one
is written.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from bridge_core import MissingDependency, TensorSpec, UnsupportedFeature
from ckptbridge_hdf5.layout import USER_BLOCK

__all__ = ["Skeleton", "build"]

_PAGE = 4096


class Skeleton(io.RawIOBase):
    """A sparse file in memory that holds the pages that were written to.

    Attributes:
        size: Bytes of the file, tensors included.
        offsets: First byte of each tensor in the file; 0 for one without elements.
        index_offset: First byte of the index in the file.
    """

    def __init__(self) -> None:
        super().__init__()
        self.size = 0
        self.offsets: tuple[int, ...] = ()
        self.index_offset = 0
        self._pages: dict[int, bytearray] = {}
        self._position = 0

    def segments(self) -> Iterator[tuple[int, bytes]]:
        """Yield ``(offset, bytes)`` of what was written; the tensors' own bytes may be part of it."""
        for number, page in sorted(self._pages.items()):
            start = number * _PAGE
            yield start, bytes(page[: self.size - start])

    def content(self, start: int, stop: int) -> bytes:
        """Return the bytes of a range."""
        data = bytearray(stop - start)
        for page, inside, outside in _pieces(start, stop):
            if page in self._pages:
                data[outside] = self._pages[page][inside]
        return bytes(data)

    def seekable(self) -> bool:
        """Return True."""
        return True

    def readable(self) -> bool:
        """Return True."""
        return True

    def writable(self) -> bool:
        """Return True."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move the position, and return it."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self.size}[whence]
        self._position = base + offset
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer, and return its length; bytes that were never written are zeros."""
        view = memoryview(buffer).cast("B")
        view[:] = self.content(self._position, self._position + len(view))
        self._position += len(view)
        return len(view)

    def write(self, data: Any) -> int:
        """Store the bytes at the position, and return how many they are."""
        view = memoryview(data).cast("B")
        stop = self._position + len(view)
        for page, inside, outside in _pieces(self._position, stop):
            self._pages.setdefault(page, bytearray(_PAGE))[inside] = view[outside]
        self._position = stop
        self.size = max(self.size, stop)
        return len(view)

    def truncate(self, size: int | None = None) -> int:
        """Set the size, by default to the position, and return it."""
        self.size = self._position if size is None else size
        return self.size


def _pieces(start: int, stop: int) -> Iterator[tuple[int, slice, slice]]:
    """Yield the parts of a range, cut at pages: page, slice of the page, slice of the range."""
    position = start
    while position < stop:
        page, skip = divmod(position, _PAGE)
        take = min(_PAGE - skip, stop - position)
        yield page, slice(skip, skip + take), slice(position - start, position - start + take)
        position += take


def build(specs: Sequence[TensorSpec], index_size: Callable[[tuple[int, ...]], int]) -> Skeleton:
    """Lay out a file.

    Args:
        specs: The tensors, in order.
        index_size: Given the tensors' offsets, returns the bytes of the index.

    Raises:
        UnsupportedFeature: HDF5 cannot hold such tensors.
        MissingDependency: h5py cannot be imported.
    """
    try:
        import h5py
    except ImportError as err:
        raise MissingDependency(
            f"writing HDF5 files needs h5py, and importing it failed: {err}.",
            hint="Run: pip install --force-reinstall h5py",
        ) from err
    skeleton = Skeleton()
    try:
        with h5py.File(
            skeleton, "w", userblock_size=USER_BLOCK, libver=("earliest", "v110"), track_order=False
        ) as file:
            group = file.create_group("t", track_order=False).id
            # All headers first and then all data, so that a reader finds the structure in one piece.
            datasets = [
                _create(h5py, group, f"{number:06d}", _type(h5py, spec), spec.shape)
                for number, spec in enumerate(specs)
            ]
            skeleton.offsets = tuple(
                _place(h5py, dataset, spec.dtype) if spec.size else 0
                for dataset, spec in zip(datasets, specs, strict=True)
            )
            size = index_size(skeleton.offsets)
            index = _create(h5py, file.id, "ckptbridge", h5py.h5t.STD_U8LE, (size,))
            skeleton.index_offset = _place(h5py, index, np.dtype("uint8"))
            del datasets, group, index
    except (OSError, OverflowError, RuntimeError, TypeError, ValueError) as err:
        raise UnsupportedFeature(
            f"HDF5 cannot store these {len(specs)} tensors: libhdf5 reports: {err}."
        ) from err
    return skeleton


def _create(h5py: Any, group: Any, name: str, kind: Any, shape: tuple[int, ...]) -> Any:
    settings = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    settings.set_layout(h5py.h5d.CONTIGUOUS)
    settings.set_alloc_time(h5py.h5d.ALLOC_TIME_LATE)
    settings.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    settings.set_obj_track_times(False)
    space = h5py.h5s.create_simple(shape) if shape else h5py.h5s.create(h5py.h5s.SCALAR)
    return h5py.h5d.create(group, name.encode("ascii"), kind, space, settings)


def _place(h5py: Any, dataset: Any, dtype: np.dtype[Any]) -> int:
    """Write one zero, which makes libhdf5 reserve the complete dataset, and return its first byte."""
    space = dataset.get_space()
    rank = space.get_simple_extent_ndims()
    if rank:
        space.select_elements(np.zeros((1, rank), np.uint64))
    raw = np.zeros((), np.dtype((np.void, dtype.itemsize)))
    dataset.write(h5py.h5s.create(h5py.h5s.SCALAR), space, raw, dataset.get_type())
    return int(dataset.get_offset())


def _type(h5py: Any, spec: TensorSpec) -> Any:
    if spec.dtype.name == "bfloat16":
        kind = h5py.h5t.IEEE_F32LE.copy()
        kind.set_fields(15, 7, 8, 0, 7)
        kind.set_size(2)
        kind.set_precision(16)
        kind.set_ebias(127)
        return kind
    if spec.dtype.isbuiltin == 1:
        return h5py.h5t.py_create(spec.dtype.newbyteorder("<"))
    return h5py.h5t.STD_U8LE
