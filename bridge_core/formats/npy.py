"""A ``.npy`` member of an archive as a lazy tensor, verified when all of it was read."""

from __future__ import annotations

import ast
import re
import struct
import threading
import zlib
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from bridge_core.errors import IntegrityError, LimitExceeded, MalformedFile, UnsafeFile, UnsupportedFeature
from bridge_core.formats.zip_archive import STORED, ZipMember, read_member
from bridge_core.io import ChecksummedRange, SourceFile
from bridge_core.messages import count, nearest, shown
from bridge_core.state import (
    DTYPES,
    MAX_RANK,
    Array,
    FileTensor,
    LazyTensor,
    Region,
    Tensor,
    TensorSpec,
    native,
    regions,
)

__all__ = ["Member", "open_member"]

_MAGIC = b"\x93NUMPY"
_MAX_HEADER = 10_000
"""numpy's own limit."""
_USUAL_HEADER = 128
_NUMBERS = re.compile(r"[<>|=]?[biufc]\d{1,2}")
_STORED_AS = {"V2": "bfloat16"}
"""Types that numpy writes for only one dtype of ml_dtypes."""
_LOST = {
    "V1": "numpy writes V1 for every float8, float4 and int4 type, so the type is lost.",
    "f1": "numpy writes f1 for float8_e5m2, and cannot read it.",
    "W4": "numpy writes W4 for complex32, and cannot read it.",
}
"""Types that numpy writes for dtypes that cannot be known from them."""
_SAVE_AGAIN = (
    "Save the arrays again as safetensors, or as .npz with bridge_core.save_state: these record the type."
)
_DAMAGED = "The file is damaged: fetch or write it again."
_BOOL, _BYTE = DTYPES["bool"], DTYPES["uint8"]


class Member(NamedTuple):
    """An array, and the type in the file if that only stands for the array's dtype."""

    tensor: Tensor
    stored_as: str | None


@dataclass(frozen=True)
class _Header:
    """The content of a ``.npy`` header, and its size in bytes."""

    spec: TensorSpec
    fortran: bool
    big_endian: bool
    nbytes: int
    stored_as: str | None


def open_member(file: SourceFile, member: ZipMember, dtype_name: str | None) -> Member:
    """Open a member.

    Args:
        file: The archive.
        member: The member, under the tensor's name.
        dtype_name: The dtype of ml_dtypes that the file stores as unsigned integers; None for numpy's dtypes.

    Raises:
        BadInputError: The member is damaged, or holds what is not supported.
    """
    where = _Where(file, member.name)
    start = read_member(file, member, _USUAL_HEADER)
    header = _header(start, member, where)
    if header is None:
        start = read_member(file, member, _MAX_HEADER + 12)
        header = _header(start, member, where)
    if header is None:
        raise where.error(MalformedFile, f"the .npy header is cut off: the member is {_bytes(member.size)}")
    spec = header.spec
    if dtype_name is not None:
        if dtype_name not in DTYPES:
            raise where.error(
                UnsupportedFeature,
                f"the metadata declares the unknown dtype {dtype_name[:80]!r}",
                nearest(dtype_name[:80], DTYPES),
            )
        dtype = DTYPES[dtype_name]
        if spec.dtype.kind != "u" or spec.dtype.itemsize != dtype.itemsize:
            raise where.error(
                MalformedFile,
                f"the array is stored as {spec.dtype.name} ({_bytes(spec.dtype.itemsize)} per element), but "
                f"the metadata declares {dtype_name} ({_bytes(dtype.itemsize)})",
                _DAMAGED,
            )
        spec = TensorSpec(spec.shape, dtype)
    if member.method == STORED:
        return Member(_stored(where, member, header, spec, start), header.stored_as)
    return Member(LazyTensor(spec, _Inflated(where, member, header, spec).read), header.stored_as)


@dataclass(frozen=True)
class _Where:
    file: SourceFile
    name: str

    def error(self, kind: type[Any], message: str, hint: str | None = None) -> Any:
        return kind(f"{message}.", path=self.file.name, key=self.name, hint=hint)


def _bytes(number: int) -> str:
    return count(number, "byte")


def _stored(where: _Where, member: ZipMember, header: _Header, spec: TensorSpec, start: bytes) -> Tensor:
    """Return an array that is read in place; ``start`` is the first bytes of its member."""
    checked = ChecksummedRange(
        where.file, member.offset, member.size, member.crc, lambda crc: _damaged(crc, member, where)
    )
    checked.update(member.offset, start[: header.nbytes])
    raw = TensorSpec(
        spec.shape[::-1] if header.fortran else spec.shape, _BYTE if spec.dtype == _BOOL else spec.dtype
    )
    base = FileTensor(checked, member.offset + header.nbytes, raw, header.big_endian)
    if not header.fortran and spec.dtype != _BOOL:
        return base

    def read(region: Region) -> Array:
        values = _typed(base.read(region[::-1] if header.fortran else region), spec.dtype, where)
        return values.T if header.fortran else values

    return LazyTensor(spec, read)


class _Inflated:
    """A compressed array: inflated at its first use, and then held in memory."""

    def __init__(self, where: _Where, member: ZipMember, header: _Header, spec: TensorSpec) -> None:
        self._where = where
        self._member = member
        self._header = header
        self._dtype = spec.dtype
        self._lock = threading.Lock()
        self._array: Array | None = None

    def read(self, region: Region) -> Array:
        with self._lock:
            if self._array is None:
                self._array = self._whole()
        return self._array[region]

    def _whole(self) -> Array:
        data = read_member(self._where.file, self._member)
        if (crc := zlib.crc32(data)) != self._member.crc:
            raise _damaged(crc, self._member, self._where)
        header = self._header
        dtype = _BYTE if self._dtype == _BOOL else header.spec.dtype
        flat = np.frombuffer(
            data, dtype.newbyteorder(">" if header.big_endian else "<"), offset=header.nbytes
        )
        values = _typed(flat.astype(dtype, copy=False), self._dtype, self._where)
        return values.reshape(header.spec.shape, order="F" if header.fortran else "C")


def _damaged(crc: int, member: ZipMember, where: _Where) -> IntegrityError:
    error: IntegrityError = where.error(
        IntegrityError, f"expected the CRC-32 {member.crc:08x} of the archive, got {crc:08x}", _DAMAGED
    )
    return error


def _typed(raw: Array, dtype: np.dtype[Any], where: _Where) -> Array:
    if dtype == _BOOL and raw.size and raw.max() > 1:
        raise where.error(MalformedFile, f"expected 0 or 1 in a bool array, got the byte {raw.max()}")
    return raw.view(dtype)


def _header(start: bytes, member: ZipMember, where: _Where) -> _Header | None:
    """Read a header; None if it is longer than ``start``."""
    if len(start) < 12 or not start.startswith(_MAGIC):
        raise where.error(
            MalformedFile, f"expected a .npy array, which begins with {_MAGIC!r}, got {start[:6]!r}"
        )
    version = (start[6], start[7])
    if version not in ((1, 0), (2, 0), (3, 0)):
        raise where.error(
            UnsupportedFeature, f"expected version 1.0, 2.0 or 3.0 of .npy, got {version[0]}.{version[1]}"
        )
    code, begin = ("<H", 10) if version == (1, 0) else ("<I", 12)
    (length,) = struct.unpack_from(code, start, 8)
    if length > _MAX_HEADER:
        raise where.error(
            LimitExceeded, f"expected a .npy header of at most {_MAX_HEADER} bytes, got {length}"
        )
    end = begin + length
    if end > len(start):
        return None
    text = start[begin:end].decode("utf-8" if version == (3, 0) else "latin-1", "replace")
    if "|O" in text:
        raise where.error(
            UnsafeFile,
            "the array holds pickled Python objects, which can run code and are never read",
            "Convert the array to a numeric dtype where it was made, and save it again.",
        )
    descr, fortran, shape = _fields(text, where)
    stored, dtype = _dtypes(descr, where)
    spec = _spec(dtype, shape, where)
    if member.size - end != spec.nbytes:
        raise where.error(
            MalformedFile, f"expected {_bytes(spec.nbytes)} of data for {spec}, got {member.size - end}"
        )
    big_endian = descr.startswith(">") and dtype.itemsize > 1
    return _Header(spec, fortran and len(shape) > 1, big_endian, end, stored)


def _fields(text: str, where: _Where) -> tuple[Any, bool, tuple[int, ...]]:
    try:
        fields = ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as err:
        raise where.error(MalformedFile, f"the .npy header is not a Python literal: {err}") from err
    if not isinstance(fields, dict) or set(fields) != {"descr", "fortran_order", "shape"}:
        raise where.error(
            MalformedFile,
            "expected a dict with 'descr', 'fortran_order' and 'shape' as the .npy header, got "
            f"{shown(fields)}",
        )
    descr, fortran, shape = fields["descr"], fields["fortran_order"], fields["shape"]
    if type(fortran) is not bool or type(shape) is not tuple or not set(map(type, shape)) <= {int}:
        raise where.error(
            MalformedFile,
            "expected a bool 'fortran_order' and a tuple of integers 'shape' in the .npy header, got "
            f"{shown(fortran)} and {shown(shape)}",
        )
    return descr, fortran, shape


def _dtypes(descr: Any, where: _Where) -> tuple[str | None, np.dtype[Any]]:
    """Return the type in the file if it only stands for that of the elements, and theirs."""
    if not isinstance(descr, str):
        raise where.error(
            UnsupportedFeature,
            "expected numbers, got elements of a record type",
            "Save each field as an array of its own.",
        )
    code = descr.lstrip("<>|=")
    if len(descr) - len(code) < 2 and code in _STORED_AS:
        return descr, DTYPES[_STORED_AS[code]]
    try:
        if not _NUMBERS.fullmatch(descr):
            raise TypeError
        return None, native(np.dtype(descr))
    except (TypeError, ValueError, UnsupportedFeature):
        raise where.error(
            UnsupportedFeature,
            f"expected numbers, got elements of the numpy type {descr[:40]!r}",
            f"{_LOST[code]} {_SAVE_AGAIN}" if code in _LOST else None,
        ) from None


def _spec(dtype: np.dtype[Any], shape: tuple[int, ...], where: _Where) -> TensorSpec:
    if len(shape) > MAX_RANK:
        raise where.error(
            UnsupportedFeature, f"expected at most {MAX_RANK} axes, as in numpy, got {len(shape)}"
        )
    if any(n < 0 for n in shape) or regions.size(tuple(n for n in shape if n)) * dtype.itemsize >= 1 << 63:
        raise where.error(
            MalformedFile, f"the shape {shown(list(shape))} is not valid: a size is negative or too large"
        )
    return TensorSpec(shape, dtype)
