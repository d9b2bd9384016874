"""From the views that a pickle describes to tensors that read their bytes on demand.

Every number of a view is checked against its storage before a tensor is made of it. Reading a tensor whole,
in whatever pieces, proves the CRC of its record, with what the record holds beside it; reading a part of it
proves nothing.
"""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass
from typing import Any

import numpy as np

from bridge_core import (
    ArrayTensor,
    FileTensor,
    LimitExceeded,
    MalformedFile,
    SourceFile,
    Tensor,
    TensorSpec,
    UnsupportedFeature,
)
from bridge_core.io import ChecksummedRange
from bridge_core.state import DTYPES, MAX_RANK, Array, LazyTensor, Region, StridedFileTensor, regions
from bridge_torch.safe_pickle import TensorRef

__all__ = ["Bytes", "make_tensor"]

_FREE_EXPANSION = 64 << 20
_MAX_EXPANSION = 1000


@dataclass(frozen=True, eq=False)
class Bytes:
    """The bytes of one storage: a range of the file, or memory where the file has them compressed.

    Args:
        file: The open file.
        offset: Where they stand.
        nbytes: How many.
        big_endian: Their byte order.
        unpacked: The bytes themselves, if not readable in place.
        checked: What proves them, if anything.
    """

    file: SourceFile
    offset: int
    nbytes: int
    big_endian: bool = False
    unpacked: bytes | None = None
    checked: ChecksummedRange | None = None

    def tensor(self, offset: int, spec: TensorSpec) -> FileTensor:
        """Return values that stand in the file, from ``offset`` within these bytes."""
        return FileTensor(self.checked or self.file, self.offset + offset, spec, self.big_endian)


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
    strides = regions.row_major_strides(ref.shape)
    contiguous = 0 in ref.shape or all(
        n == 1 or step == usual for n, step, usual in zip(ref.shape, ref.strides, strides, strict=True)
    )
    tensor: Tensor
    if source.unpacked is not None:
        tensor = ArrayTensor(_view(source, ref, dtype))
    elif contiguous:
        tensor = source.tensor(ref.offset * dtype.itemsize, TensorSpec(ref.shape, dtype))
    else:
        base = source.tensor(0, TensorSpec((count,), dtype))
        tensor = StridedFileTensor(base, ref.offset, ref.shape, ref.strides)
    if source.checked is not None and 0 not in ref.shape and _reach(ref) * dtype.itemsize != source.nbytes:
        tensor = _with_rest(tensor, source.checked)
    return _with_flags(tensor, ref)


def _reach(ref: TensorRef) -> int:
    """Return how many elements a view has from its first one on, without gaps; 0 where it has gaps."""
    reach = 1
    for step, n in sorted(zip(ref.strides, ref.shape, strict=True)):
        if n > 1:
            if step > reach:
                return 0
            reach += (n - 1) * step
    return reach


def _with_rest(tensor: Tensor, checked: ChecksummedRange) -> Tensor:
    """Return a part of a record; once as many values of it were read as it has, so is the rest."""
    lock = threading.Lock()
    left = tensor.spec.size

    def read(region: Region) -> Array:
        nonlocal left
        values = tensor.read(region)
        with lock:
            left -= values.size
        if left <= 0:
            checked.verify()
        return values

    return LazyTensor(tensor.spec, read)


def _check_view(ref: TensorRef, count: int, itemsize: int) -> None:
    if len(ref.shape) != len(ref.strides):
        raise MalformedFile(f"has {len(ref.shape)} axes and {len(ref.strides)} strides.")
    if len(ref.shape) > MAX_RANK:
        raise UnsupportedFeature(f"has {len(ref.shape)} axes; at most {MAX_RANK} are read.")
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
