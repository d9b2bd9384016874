"""One ``.npy`` member of an archive as a lazy tensor; reading all of it proves its checksum."""

from __future__ import annotations

import ast
import re
import struct
import threading
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from bridge_core.errors import IntegrityError, LimitExceeded, MalformedFile, UnsafeFile, UnsupportedFeature
from bridge_core.formats.zip_archive import STORED, ZipMember, read_member
from bridge_core.io import ChecksummedRange, SourceFile
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

__all__ = ["open_member"]

_MAGIC = b"\x93NUMPY"
_MAX_HEADER = 10_000
"""numpy's own limit."""
_USUAL_HEADER = 128
_NUMBERS = re.compile(r"[<>|=]?[biufc]\d{1,2}")
_BOOL, _BYTE = DTYPES["bool"], DTYPES["uint8"]


@dataclass(frozen=True)
class _Header:
    """What a ``.npy`` header says, and the bytes it takes."""

    spec: TensorSpec
    fortran: bool
    big_endian: bool
    nbytes: int


def open_member(file: SourceFile, member: ZipMember, dtype_name: str | None) -> Tensor:
    """Open a member.

    Args:
        file: The archive.
        member: Where it is, under the tensor's name.
        dtype_name: Its dtype, where numpy has none and unsigned integers stand for it.

    Raises:
        BadInputError: It is damaged, or holds what is not supported.
    """
    where = _Where(file, member.name)
    start = read_member(file, member, _USUAL_HEADER)
    header = _header(start, member, where)
    if header is None:
        start = read_member(file, member, _MAX_HEADER + 12)
        header = _header(start, member, where)
    if header is None:
        raise where.error(MalformedFile, "ends within its .npy header")
    spec = header.spec
    if dtype_name is not None:
        if dtype_name not in DTYPES:
            raise where.error(UnsupportedFeature, f"has the dtype {dtype_name!r}, which is not known")
        dtype = DTYPES[dtype_name]
        if spec.dtype.kind != "u" or spec.dtype.itemsize != dtype.itemsize:
            raise where.error(MalformedFile, f"stands as {spec.dtype.name}, and should hold {dtype_name}")
        spec = TensorSpec(spec.shape, dtype)
    if member.method == STORED:
        return _stored(where, member, header, spec, start)
    return LazyTensor(spec, _Inflated(where, member, header, spec).read)


@dataclass(frozen=True)
class _Where:
    file: SourceFile
    name: str

    def error(self, kind: type[Any], message: str) -> Any:
        return kind(f"{message}.", path=self.file.name, key=self.name)


def _stored(where: _Where, member: ZipMember, header: _Header, spec: TensorSpec, start: bytes) -> Tensor:
    """Return an array that is read in place, from the first bytes of its member."""
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
    """Inflates a compressed array at its first use, and keeps it."""

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
        IntegrityError, f"has the checksum {crc:08x}, and the archive says {member.crc:08x}: it is damaged"
    )
    return error


def _typed(raw: Array, dtype: np.dtype[Any], where: _Where) -> Array:
    if dtype == _BOOL and raw.size and raw.max() > 1:
        raise where.error(MalformedFile, f"holds the byte {raw.max()}, and a bool is 0 or 1")
    return raw.view(dtype)


def _header(start: bytes, member: ZipMember, where: _Where) -> _Header | None:
    """Read a header; None where it is longer than the bytes given."""
    if len(start) < 12 or not start.startswith(_MAGIC):
        raise where.error(MalformedFile, "is no .npy array: its first bytes are wrong")
    version = (start[6], start[7])
    if version not in ((1, 0), (2, 0), (3, 0)):
        raise where.error(UnsupportedFeature, f"is in version {version[0]}.{version[1]} of the .npy format")
    code, begin = ("<H", 10) if version == (1, 0) else ("<I", 12)
    (length,) = struct.unpack_from(code, start, 8)
    if length > _MAX_HEADER:
        raise where.error(LimitExceeded, f"has a .npy header of {length} bytes, above {_MAX_HEADER}")
    end = begin + length
    if end > len(start):
        return None
    text = start[begin:end].decode("utf-8" if version == (3, 0) else "latin-1", "replace")
    if "|O" in text:
        raise where.error(UnsafeFile, "holds pickled Python objects, which can run code; they are never read")
    descr, fortran, shape = _fields(text, where)
    spec, big_endian = _spec(descr, shape, where)
    if member.size - end != spec.nbytes:
        raise where.error(
            MalformedFile, f"holds {member.size - end} bytes of data; {spec} takes {spec.nbytes}"
        )
    return _Header(spec, fortran and len(shape) > 1, big_endian, end)


def _fields(text: str, where: _Where) -> tuple[Any, bool, tuple[int, ...]]:
    try:
        fields = ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as err:
        raise where.error(MalformedFile, f"has a .npy header that is no literal ({err})") from err
    if not isinstance(fields, dict) or set(fields) != {"descr", "fortran_order", "shape"}:
        raise where.error(MalformedFile, "has a .npy header without descr, fortran_order and shape alone")
    descr, fortran, shape = fields["descr"], fields["fortran_order"], fields["shape"]
    if type(fortran) is not bool or type(shape) is not tuple or not set(map(type, shape)) <= {int}:
        raise where.error(MalformedFile, "has a .npy header with values of a wrong type")
    return descr, fortran, shape


def _spec(descr: Any, shape: tuple[int, ...], where: _Where) -> tuple[TensorSpec, bool]:
    kind = f"numpy type {descr[:40]!r}" if isinstance(descr, str) else "record type"
    try:
        if not isinstance(descr, str) or not _NUMBERS.fullmatch(descr):
            raise TypeError
        stored = np.dtype(descr)
        dtype = native(stored)
    except (TypeError, ValueError, UnsupportedFeature):
        raise where.error(
            UnsupportedFeature, f"holds elements of a {kind}, which are no plain numbers"
        ) from None
    if len(shape) > MAX_RANK:
        raise where.error(UnsupportedFeature, f"has {len(shape)} axes; numpy holds at most {MAX_RANK}")
    if any(n < 0 for n in shape) or regions.size(tuple(n for n in shape if n)) * dtype.itemsize >= 1 << 63:
        raise where.error(MalformedFile, "has an impossible shape")
    return TensorSpec(shape, dtype), not stored.isnative and stored.itemsize > 1
