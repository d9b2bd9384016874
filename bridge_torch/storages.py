"""From the views that a pickle describes to tensors that read their bytes on demand.

Every number of a view is checked against its storage before a tensor is made of it; reading a tensor whole
proves the CRC of its record, at once or block by block.
"""

from __future__ import annotations

import math
import threading
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bridge_core import (
    DTYPES,
    Array,
    ArrayTensor,
    FileTensor,
    IntegrityError,
    LazyTensor,
    LimitExceeded,
    MalformedFile,
    Region,
    SourceFile,
    StridedFileTensor,
    Tensor,
    TensorSpec,
    UnsupportedFeature,
)
from bridge_torch.pickle_values import TensorRef

__all__ = ["Bytes", "Checksum", "CheckedTensor", "make_tensor"]

_MAX_RANK = 64 if int(np.__version__.partition(".")[0]) >= 2 else 32
_FREE_EXPANSION = 64 << 20
_MAX_EXPANSION = 1000
_CHUNK = 4 << 20


@dataclass(eq=False)
class Checksum:
    """The CRC-32 of a byte range; proven once.

    Args:
        file: The open file.
        offset: Where the range stands.
        nbytes: Its length.
        expected: What the file says.
        damaged: Makes the error to raise.
    """

    file: SourceFile
    offset: int
    nbytes: int
    expected: int
    damaged: Callable[[], IntegrityError]
    proven: bool = field(default=False, init=False)

    def compare(self, found: int) -> None:
        """Raise unless ``found`` is what the file says."""
        if found != self.expected:
            raise self.damaged()
        self.proven = True

    def verify(self) -> None:
        """Read the range and check it, unless that was done."""
        if self.proven:
            return
        crc = 0
        for start in range(0, self.nbytes, _CHUNK):
            crc = zlib.crc32(self.file.read(self.offset + start, min(_CHUNK, self.nbytes - start)), crc)
        self.compare(crc)


@dataclass(frozen=True, eq=False)
class Bytes:
    """The bytes of one storage: a range of the file, or memory where the file has them compressed.

    Args:
        file: The open file.
        offset: Where they stand.
        nbytes: How many.
        big_endian: Their byte order.
        unpacked: The bytes themselves, if not readable in place.
        checksum: What proves them, if anything.
    """

    file: SourceFile
    offset: int
    nbytes: int
    big_endian: bool = False
    unpacked: bytes | None = None
    checksum: Checksum | None = None


class CheckedTensor:
    """A tensor that proves its record's CRC when it has been read whole.

    Reads that follow each other from the first value to the last count as one; other partial reads are
    not checked, since that would mean reading everything.

    Args:
        tensor: What is read.
        checksum: The CRC of its record.
        covers: Whether the tensor's row-major bytes are the record's bytes.
    """

    def __init__(self, tensor: Tensor, checksum: Checksum, *, covers: bool) -> None:
        self._tensor = tensor
        self._checksum = checksum
        self._covers = covers
        self._lock = threading.Lock()
        self._position = 0
        self._crc = 0

    @property
    def spec(self) -> TensorSpec:
        """Shape and dtype."""
        return self._tensor.spec

    def read(self, region: Region) -> Array:
        """Read a region.

        Raises:
            IntegrityError: The last value of a whole read came in, and the CRC differs.
        """
        values = self._tensor.read(region)
        if not self._checksum.proven and values.size:
            run = _run(region, self.spec.shape)
            if run is not None:
                self._advance(run, values)
        return values

    def _advance(self, run: tuple[int, int], values: Array) -> None:
        start, stop = run
        with self._lock:
            if start == 0:
                self._crc = 0
            elif start != self._position:
                return
            if self._covers:
                self._crc = zlib.crc32(values.reshape(-1).view(np.uint8).data, self._crc)
            self._position = stop
            crc = self._crc
        if stop == self.spec.size:
            if self._covers:
                self._checksum.compare(crc)
            else:
                self._checksum.verify()


def make_tensor(ref: TensorRef, source: Bytes) -> Tensor:
    """Return the tensor that a view describes.

    Raises:
        MalformedFile: The view leaves its storage, or has a negative stride or size.
        LimitExceeded: It repeats its storage into more memory than any weight needs.
        UnsupportedFeature: The bridge cannot carry its dtype or rank.
    """
    dtype = DTYPES.get(ref.dtype)
    if dtype is None:
        raise UnsupportedFeature(f"dtype torch.{ref.dtype} is not read.")
    count = source.nbytes // dtype.itemsize
    _check_view(ref, count, dtype.itemsize)
    strides = _row_major(ref.shape)
    contiguous = 0 in ref.shape or all(
        n == 1 or step == usual for n, step, usual in zip(ref.shape, ref.strides, strides, strict=True)
    )
    tensor: Tensor
    if source.unpacked is not None:
        tensor = ArrayTensor(_view(source, ref, dtype))
    elif contiguous:
        offset = source.offset + ref.offset * dtype.itemsize
        tensor = FileTensor(source.file, offset, TensorSpec(ref.shape, dtype), source.big_endian)
    else:
        base = FileTensor(source.file, source.offset, TensorSpec((count,), dtype), source.big_endian)
        tensor = StridedFileTensor(base, ref.offset, ref.shape, ref.strides)
    if source.checksum is not None and source.unpacked is None and 0 not in ref.shape:
        size = tensor.spec.nbytes
        covers = contiguous and ref.offset == 0 and size == source.nbytes and not source.big_endian
        tensor = CheckedTensor(tensor, source.checksum, covers=covers)
    return _with_flags(tensor, ref)


def _check_view(ref: TensorRef, count: int, itemsize: int) -> None:
    if len(ref.shape) != len(ref.strides):
        raise MalformedFile(f"has {len(ref.shape)} axes and {len(ref.strides)} strides.")
    if len(ref.shape) > _MAX_RANK:
        raise UnsupportedFeature(f"has {len(ref.shape)} axes; at most {_MAX_RANK} are read.")
    if any(n < 0 for n in ref.shape) or any(step < 0 for step in ref.strides) or ref.offset < 0:
        raise MalformedFile(
            f"has a negative number: shape {list(ref.shape)}, strides {list(ref.strides)}, "
            f"offset {ref.offset}."
        )
    if math.prod(n or 1 for n in ref.shape) * itemsize >= 1 << 63:
        raise LimitExceeded(f"has the shape {list(ref.shape)}, which no machine can hold.")
    if 0 in ref.shape:
        return
    last = ref.offset + sum((n - 1) * step for n, step in zip(ref.shape, ref.strides, strict=True))
    if last >= count:
        raise MalformedFile(f"needs element {last} of a storage that has {count}.")
    nbytes = math.prod(ref.shape) * itemsize
    if nbytes > _FREE_EXPANSION and nbytes > _MAX_EXPANSION * count * itemsize:
        raise LimitExceeded(
            f"repeats a storage of {count * itemsize} bytes into {nbytes} bytes.",
            hint="Save tensor.contiguous() if that is meant.",
        )


def _view(source: Bytes, ref: TensorRef, dtype: np.dtype[Any]) -> Array:
    data = np.frombuffer(source.unpacked or b"", np.uint8)
    data = data[: len(data) // dtype.itemsize * dtype.itemsize]
    if source.big_endian:
        width = dtype.itemsize // (2 if dtype.kind == "c" else 1)
        data = data.view(f"u{width}").byteswap().view(np.uint8)
    if 0 in ref.shape:
        return np.empty(ref.shape, dtype)
    steps = tuple(step * dtype.itemsize for step in ref.strides)
    return np.ndarray(ref.shape, dtype, data.data, ref.offset * dtype.itemsize, steps)


def _with_flags(tensor: Tensor, ref: TensorRef) -> Tensor:
    if not ref.conj and not ref.neg:
        return tensor
    if ref.conj and tensor.spec.dtype.kind != "c":
        raise MalformedFile(f"is marked as a conjugate, but is {tensor.spec.dtype.name}.")

    def read(region: Region) -> Array:
        values = tensor.read(region)
        if ref.conj:
            values = np.conj(values)
        return np.negative(values) if ref.neg else values

    return LazyTensor(tensor.spec, read)


def _row_major(shape: tuple[int, ...]) -> tuple[int, ...]:
    strides = []
    step = 1
    for n in reversed(shape):
        strides.append(step)
        step *= n
    return tuple(reversed(strides))


def _run(region: Region, shape: tuple[int, ...]) -> tuple[int, int] | None:
    """Return the row-major positions that a region covers, if they follow each other."""
    first = last = 0
    count = 1
    for part, step in zip(region, _row_major(shape), strict=True):
        taken = range(part.start, part.stop, part.step)
        first += taken[0] * step
        last += taken[-1] * step
        count *= len(taken)
    return (first, last + 1) if last - first + 1 == count else None
