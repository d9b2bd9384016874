"""Lazy tensors: shape and dtype are known, values are read on request.

`Tensor` is the protocol; the classes are for arrays in memory, byte ranges of a file, strided views into such
a range, and values that a function reads by region.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from bridge_core.errors import MalformedFile, UnsupportedFeature
from bridge_core.io import ByteSource
from bridge_core.state import regions
from bridge_core.state.dtypes import dtype_named, native
from bridge_core.state.regions import Index, Region

__all__ = [
    "Array",
    "ArrayTensor",
    "FileTensor",
    "LazyTensor",
    "StridedFileTensor",
    "Tensor",
    "TensorSpec",
    "as_tensor",
    "checked_bools",
    "equal_values",
    "is_tensor",
    "read_index",
]

Array = np.ndarray[Any, np.dtype[Any]]

_SPAN = 4 << 20
"""Bytes that are read at once if only a part of them is needed."""
_MOST_SPAN = 16 << 20
_LONG_RUN = 4 << 10
"""Bytes from which on a run is read by itself; measured with ``benchmarks/memory.py``."""
_LONG_GAP = 16 << 10
"""Bytes between runs from which on reading over them takes longer than another read; see `_LONG_RUN`."""


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """Shape and dtype of a tensor.

    Args:
        shape: Sizes of the axes.
        dtype: A numpy dtype, those of ml_dtypes included; converted to native byte order.

    Raises:
        UnsupportedFeature: The dtype is not in `DTYPES`.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def __post_init__(self) -> None:
        """Turn the shape into a tuple of integers, and the dtype into one of native byte order."""
        object.__setattr__(self, "shape", tuple(map(int, self.shape)))
        try:
            dtype = np.dtype(self.dtype)
        except TypeError:  # numpy does not know all names of ml_dtypes
            dtype = dtype_named(str(self.dtype))
        object.__setattr__(self, "dtype", native(dtype))

    @property
    def size(self) -> int:
        """Number of elements."""
        return regions.size(self.shape)

    @property
    def nbytes(self) -> int:
        """Number of bytes in memory."""
        return self.size * self.dtype.itemsize

    def __str__(self) -> str:
        """Return e.g. ``float32[3, 4]``."""
        return f"{self.dtype.name}[{', '.join(map(str, self.shape))}]"


@runtime_checkable
class Tensor(Protocol):
    """A tensor by region. Implementations are immutable and safe to read from several threads."""

    @property
    def spec(self) -> TensorSpec:
        """Shape and dtype; reading it reads no values."""
        ...

    def read(self, region: Region) -> Array:
        """Return the region's values in native byte order; the caller must not write to them."""
        ...


@dataclass(frozen=True, eq=False, slots=True)
class ArrayTensor:
    """An array in memory, of any strides and either byte order; it is viewed, not copied."""

    array: Array

    @property
    def spec(self) -> TensorSpec:
        """Shape and dtype."""
        return TensorSpec(self.array.shape, self.array.dtype)

    def read(self, region: Region) -> Array:
        """Return a view, or a copy where the byte order differs."""
        index: tuple[Any, ...] = (*region, ...)  # with the ellipsis, no axes give an array, not a scalar
        part: Array = self.array[index]
        return part if part.dtype.isnative else part.astype(part.dtype.newbyteorder("="))


@dataclass(frozen=True, eq=False, slots=True)
class LazyTensor:
    """A tensor that a function reads.

    Args:
        spec: Shape and dtype.
        reader: Maps a region to an array of the region's shape.
        chunk_shape: Shape of the chunks that are read and decoded as one, from the tensor's origin on; empty
            if every region costs as much as its own bytes.
        filler: Reads a region into an array of its shape; None to copy what ``reader`` returns.
        source: A tensor of the same shape of which ``reader`` reads the same region; None if it is not known.
    """

    spec: TensorSpec
    reader: Callable[[Region], Array]
    chunk_shape: tuple[int, ...] = ()
    filler: Callable[[Region, Array], None] | None = None
    source: Tensor | None = None

    def read(self, region: Region) -> Array:
        """Call the reader."""
        return self.reader(region)

    def read_into(self, region: Region, out: Array) -> None:
        """Read the region into a C-contiguous array of its shape and this tensor's dtype."""
        if self.filler is not None:
            self.filler(region, out)
        else:
            out[...] = self.reader(region)


@dataclass(frozen=True, eq=False, slots=True)
class FileTensor:
    """A row-major tensor whose bytes are one range of a file or another byte source.

    Args:
        file: The file or other byte source.
        offset: First byte of the tensor in it.
        spec: Shape and dtype.
        big_endian: Whether the bytes in the file are in big-endian order.
    """

    file: ByteSource
    offset: int
    spec: TensorSpec
    big_endian: bool = False

    def read(self, region: Region) -> Array:
        """Read the region, and at most a few MiB around it, into a new array."""
        out = np.empty(regions.region_shape(region), self.spec.dtype)
        self.read_into(region, out)
        return out

    def read_into(self, region: Region, out: Array) -> None:
        """Read the region into a C-contiguous array of its shape and this tensor's dtype."""
        if out.size:
            self._fill(regions.simplify(region), out)
            if self.big_endian:
                _swap(out)

    def _fill(self, region: Region, out: Array) -> None:
        shape, itemsize = self.spec.shape, self.spec.dtype.itemsize
        strides = regions.row_major_strides(shape)
        first = sum(s.start * n for s, n in zip(region, strides, strict=True))
        last = sum((s.stop - 1) * n for s, n in zip(region, strides, strict=True))
        span = (last - first + 1) * itemsize
        start = self.offset + first * itemsize
        if last - first + 1 == out.size and out.flags.c_contiguous:
            self.file.read_into(start, _as_bytes(out))
        elif (runs := _far_runs(shape, region, itemsize)) is not None and out.flags.c_contiguous:
            self.file.read_runs(start, *runs, _as_bytes(out))
        elif span <= max(_SPAN, out.nbytes * 2) and span <= _MOST_SPAN:
            buffer = np.empty(last - first + 1, self.spec.dtype)
            self.file.read_into(start, _as_bytes(buffer))
            steps = tuple(s.step * n * itemsize for s, n in zip(region, strides, strict=True))
            _copy(out, _strided(buffer, out.shape, steps))
        else:
            axis = next(i for i, n in enumerate(out.shape) if n > 1)
            inner = out.nbytes // out.shape[axis]
            rows = 1 if inner >= _LONG_RUN else max(1, out.shape[axis] * _SPAN // span)
            taken = range(region[axis].start, region[axis].stop, region[axis].step)
            for begin in range(0, len(taken), rows):
                picked = taken[begin : begin + rows]
                part = slice(picked[0], picked[-1] + 1, picked.step)
                where = (*(slice(None),) * axis, slice(begin, begin + rows))
                self._fill(regions.simplify((*region[:axis], part, *region[axis + 1 :])), out[where])


@dataclass(frozen=True, eq=False, slots=True)
class StridedFileTensor:
    """A view with strides into a flat file tensor, as torch saves transposed or tied weights.

    Args:
        base: One-dimensional storage.
        start: First element.
        shape: Shape of the view.
        strides: In elements, not negative; zero repeats an element.
    """

    base: FileTensor
    start: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def spec(self) -> TensorSpec:
        """Shape and dtype."""
        return TensorSpec(self.shape, self.base.spec.dtype)

    def read(self, region: Region) -> Array:
        """Read the span of the region, and copy the region from it."""
        shape = regions.region_shape(region)
        dtype = self.base.spec.dtype
        if 0 in shape:
            return np.empty(shape, dtype)
        first = self.start + sum(s.start * n for s, n in zip(region, self.strides, strict=True))
        steps = tuple(s.step * n for s, n in zip(region, self.strides, strict=True))
        last = first + sum((n - 1) * step for n, step in zip(shape, steps, strict=True))
        flat = self.base.read((slice(first, last + 1, 1),))
        item = dtype.itemsize
        return np.array(_strided(flat, shape, tuple(step * item for step in steps)), order="C")


def as_tensor(value: Any) -> Tensor:
    """Return the value as a `Tensor`; arrays and numpy scalars are wrapped, never copied.

    Raises:
        UnsupportedFeature: The value is not a tensor, nor an array of numbers or booleans.
    """
    if isinstance(value, ArrayTensor | LazyTensor | FileTensor) or is_tensor(value):
        tensor: Tensor = value
        return tensor
    try:
        array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as err:  # of the object's own conversion, as of torch's
        raise UnsupportedFeature(
            f"expected an array, got a {type(value).__name__} that numpy cannot read: {err}.",
            hint="Convert live tensors with to_neutral of bridge_torch or bridge_flax.",
        ) from err
    wrapped = ArrayTensor(array)
    wrapped.spec  # noqa: B018 - raises for a dtype that holds no numbers
    return wrapped


def checked_bools(raw: Tensor, *, path: str, key: str | tuple[str, ...]) -> LazyTensor:
    """Return a bool tensor on the bytes of a file.

    Reading raises `MalformedFile` for bytes other than 0 and 1, for which numpy's results are undefined.

    Args:
        raw: The bytes, as ``uint8``.
        path: The file, for the error.
        key: The tensor, for the error.
    """

    def read(region: Region) -> Array:
        values = raw.read(region)
        if values.size and (most := values.max()) > 1:
            raise MalformedFile(f"expected 0 or 1 in a bool tensor, got the byte {most}.", path=path, key=key)
        return values.view(np.bool_)

    chunk_shape = getattr(raw, "chunk_shape", ())
    return LazyTensor(TensorSpec(raw.spec.shape, np.dtype(np.bool_)), read, chunk_shape, source=raw)


def is_tensor(value: Any) -> bool:
    """Return whether a value is a `Tensor`; each type is checked only once."""
    kind = type(value)
    known = _KNOWN.get(kind)
    if known is None:
        known = _KNOWN[kind] = isinstance(value, Tensor)
    return known


_KNOWN: weakref.WeakKeyDictionary[type, bool] = weakref.WeakKeyDictionary()


def equal_values(one: Tensor, other: Tensor) -> bool:
    """Return whether two tensors of one spec hold the same bits; reads blocks of both."""
    spec = one.spec
    for region in regions.blocks(spec.shape, max(1, _SPAN // spec.dtype.itemsize)):
        a, b = (np.ascontiguousarray(t.read(region)).reshape(-1).view(np.uint8) for t in (one, other))
        if not np.array_equal(a, b):
            return False
    return True


def read_index(tensor: Tensor, index: Index) -> Array:
    """Return what numpy's basic indexing would give, reading only the region that is needed."""
    region, after = regions.normalize(index, tensor.spec.shape)
    result: Array = tensor.read(region)[after]
    return result


def _far_runs(shape: tuple[int, ...], region: Region, itemsize: int) -> tuple[int, int] | None:
    """Return (stride, length) in bytes of evenly spaced runs that are best read one by one.

    None if the region does not consist of such runs.
    """
    axis = next((i for i, s in enumerate(region) if s.stop - s.start > 1), len(shape))
    inner, complete = 1, True
    for s, n in zip(reversed(region[axis + 1 :]), reversed(shape[axis + 1 :]), strict=True):
        if s.step > 1 or not (complete or s.stop - s.start == 1):
            return None
        inner *= s.stop - s.start
        complete = complete and s.stop - s.start == n
    if axis == len(shape):
        return None
    stride = region[axis].step * regions.size(shape[axis + 1 :]) * itemsize
    run = inner * itemsize
    return (stride, run) if run >= _LONG_RUN or stride - run >= _LONG_GAP else None


def _strided(flat: Array, shape: tuple[int, ...], steps: tuple[int, ...]) -> Array:
    """Return a view with steps in bytes; ``as_strided`` does not support all narrow dtypes."""
    return np.ndarray(shape, flat.dtype, flat.view(np.uint8).data, 0, steps)


def _as_bytes(array: Array) -> Array:
    return array.reshape(-1).view(np.uint8)


def _copy(out: Array, view: Array) -> None:
    integers = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}.get(out.dtype.itemsize)
    if integers is None:
        out[...] = view
    else:
        out.view(integers)[...] = view.view(integers)


def _swap(array: Array) -> None:
    width = array.dtype.itemsize // (2 if array.dtype.kind == "c" else 1)
    words = {2: np.uint16, 4: np.uint32, 8: np.uint64}.get(width)
    if words is not None:
        array.reshape(-1).view(words).byteswap(inplace=True)
