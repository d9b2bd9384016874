"""Tensors that read their bytes on demand, made of the views that a pickle describes.

Every number of a view is checked against its storage before a tensor is made of it. Once all of a tensor has
been read, in pieces of any size, the CRC-32 of its complete record is compared, including those bytes of the
record that are not the tensor's. Reading only a part of a tensor compares nothing.
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
from bridge_torch.hints import FETCH_AGAIN
from bridge_torch.safe_pickle import TensorRef

__all__ = ["Bytes", "make_tensor"]

_FREE_EXPANSION = 64 << 20
_MAX_EXPANSION = 1000
_CAST = "Cast it with tensor.to(torch.float32), and save the state dict again."


@dataclass(frozen=True, eq=False)
class Bytes:
    """The bytes of one storage: a range of the file, or memory where the file has them compressed.

    Args:
        file: The open file.
        offset: Byte of the file at which they start.
        nbytes: Number of bytes.
        big_endian: Whether the values are big-endian.
        unpacked: The bytes themselves, if they cannot be read in place.
        checked: The range of the file with its CRC-32; None if it has none.
    """

    file: SourceFile
    offset: int
    nbytes: int
    big_endian: bool = False
    unpacked: bytes | None = None
    checked: ChecksummedRange | None = None

    def tensor(self, offset: int, spec: TensorSpec) -> FileTensor:
        """Return a tensor of the file that starts ``offset`` bytes into this storage."""
        return FileTensor(self.checked or self.file, self.offset + offset, spec, self.big_endian)


def make_tensor(ref: TensorRef, source: Bytes) -> Tensor:
    """Return the tensor that a view describes; no value is read.

    Raises:
        MalformedFile: The view leaves its storage, or has a negative stride or size.
        LimitExceeded: It repeats its storage into more memory than any weight needs.
        UnsupportedFeature: Its dtype is not read, or it has too many axes.
    """
    dtype = DTYPES.get(ref.dtype)
    if dtype is None:
        raise UnsupportedFeature(f"the dtype torch.{ref.dtype} is not read.", hint=_CAST)
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
    """Return how many elements a view covers from its first one on, without gaps; 0 where it has gaps."""
    reach = 1
    for step, n in sorted(zip(ref.strides, ref.shape, strict=True)):
        if n > 1:
            if step > reach:
                return 0
            reach += (n - 1) * step
    return reach


def _with_rest(tensor: Tensor, checked: ChecksummedRange) -> Tensor:
    """Return the tensor; once as many values were read as it has, the CRC-32 of its record is compared."""
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
        raise MalformedFile(
            f"the view is damaged: expected as many strides as axes, got {len(ref.strides)} strides for "
            f"{len(ref.shape)} axes.",
            hint=FETCH_AGAIN,
        )
    if len(ref.shape) > MAX_RANK:
        raise UnsupportedFeature(
            f"the tensor has {len(ref.shape)} axes; at most {MAX_RANK} are read.",
            hint="Reshape it and save the state dict again.",
        )
    if any(n < 0 for n in ref.shape) or any(step < 0 for step in ref.strides) or ref.offset < 0:
        raise MalformedFile(
            f"the view has a negative number: shape {list(ref.shape)}, strides {list(ref.strides)}, "
            f"offset {ref.offset}.",
            hint=FETCH_AGAIN,
        )
    if math.prod(n or 1 for n in ref.shape) * itemsize >= 1 << 63:
        raise LimitExceeded(
            f"the shape {list(ref.shape)} needs more bytes than a machine can address.", hint=FETCH_AGAIN
        )
    if 0 in ref.shape:
        return
    last = ref.offset + sum((n - 1) * step for n, step in zip(ref.shape, ref.strides, strict=True))
    if last >= count:
        raise MalformedFile(
            f"the view leaves its storage: it needs element {last}, and the storage has {count} elements.",
            hint=FETCH_AGAIN,
        )
    nbytes = math.prod(ref.shape) * itemsize
    if nbytes > _FREE_EXPANSION and nbytes > _MAX_EXPANSION * count * itemsize:
        raise LimitExceeded(
            f"the view repeats a storage of {count * itemsize} bytes into {nbytes} bytes.",
            hint="If that is meant, save tensor.contiguous() instead.",
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
        raise MalformedFile(
            "the view is marked as a complex conjugate: expected a complex dtype, got "
            f"{tensor.spec.dtype.name}.",
            hint=FETCH_AGAIN,
        )

    def read(region: Region) -> Array:
        values = tensor.read(region)
        if ref.conj:
            values = np.conj(values)
        return np.negative(values) if ref.neg else values

    return LazyTensor(tensor.spec, read)
