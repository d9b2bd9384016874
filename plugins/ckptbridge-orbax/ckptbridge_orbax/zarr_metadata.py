"""The descriptions of zarr arrays, checked before tensorstore sees them.

tensorstore trusts a description: a chunk that is declared too large ends the process. So each field is
compared with what is known and with limits here, and tensorstore gets only descriptions that passed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from bridge_core import Key, LimitExceeded, MalformedFile, TensorSpec, UnsupportedFeature
from bridge_core.io import parse_json
from bridge_core.messages import nearest, shown
from bridge_core.state import DTYPES

__all__ = ["MAX_RANK", "STORED_DTYPES", "ZarrArray", "parse_array", "zarr2_name"]

STORED_DTYPES = frozenset(DTYPES) - {"float8_e4m3", "float6_e2m3fn", "float6_e3m2fn", "uint2", "uint4"}
"""Names of the dtypes that tensorstore has; versions before 0.1.84 do not have the last ones."""

MAX_RANK = 32
"""The largest number of axes in tensorstore."""
MAX_CHUNK = 64 << 30
"""Most bytes of one chunk; half of the machine's memory is a limit, too."""
_SMALL_CHUNK = 64 << 20
"""Bytes up to which a chunk may be larger than its array."""
_MAX_NBYTES = (1 << 63) - 1
_MAX_METADATA = 1 << 20
"""Most bytes of one description."""
_MAX_INNER_CHUNKS = 1 << 22
"""Most chunks in one shard, whose index has 16 bytes for each."""
_MAX_NESTING = 2
"""Most shards in shards."""

_ZARR2_DTYPE = re.compile(r"[<>|]([biufc])(\d{1,2})")
_NUMBERS = {"b": "bool", "i": "int", "u": "uint", "f": "float", "c": "complex"}
_ZARR2_FIELDS = (
    *("zarr_format", "shape", "chunks", "dtype", "compressor", "fill_value", "order", "filters"),
    "dimension_separator",
)
_ZARR3_FIELDS = (
    *("zarr_format", "node_type", "shape", "data_type", "chunk_grid", "chunk_key_encoding", "codecs"),
    "fill_value",
)
_ZARR3_IGNORED = ("attributes", "dimension_names", "storage_transformers")
_ZARR2_CODECS = ("blosc", "bz2", "gzip", "zlib", "zstd")
_ZARR3_CODECS = ("blosc", "bytes", "crc32c", "gzip", "sharding_indexed", "transpose", "zstd")


@dataclass(frozen=True, slots=True)
class ZarrArray:
    """What the description of an array declares.

    Args:
        spec: Shape and dtype.
        driver: ``"zarr"`` or ``"zarr3"``.
        metadata: The description, as tensorstore takes it.
        stored_shape: Shape of the part of the array that one file or entry of the database holds.
        chunk_shape: Shape of the part that is decoded as one; smaller than ``stored_shape`` in shards.
        has_fill: Whether parts that equal the fill value may be absent.
        prefix: What the names of the parts begin with.
        separator: What joins the indices in the names of the parts.
    """

    spec: TensorSpec
    driver: str
    metadata: Mapping[str, Any]
    stored_shape: tuple[int, ...]
    chunk_shape: tuple[int, ...]
    has_fill: bool
    prefix: str
    separator: str

    @property
    def grid(self) -> tuple[int, ...]:
        """How many parts there are along each axis."""
        return tuple(-(-n // step) for n, step in zip(self.spec.shape, self.stored_shape, strict=True))

    def part_index(self, name: str) -> tuple[int, ...] | None:
        """Return the index of a part by its name; None if the array has no such part."""
        grid = self.grid
        if not grid:
            return () if name == (self.prefix or "0") else None
        if self.prefix:
            if not name.startswith(self.prefix + self.separator):
                return None
            name = name[len(self.prefix) + 1 :]
        texts = name.split(self.separator)
        if len(texts) != len(grid) or not all(t.isascii() and t.isdecimal() for t in texts):
            return None
        index = tuple(map(int, texts))
        return index if all(i < n for i, n in zip(index, grid, strict=True)) else None

    def part_name(self, index: tuple[int, ...]) -> str:
        """Return the name of a part."""
        texts = ((self.prefix,) if self.prefix else ()) + tuple(map(str, index))
        return self.separator.join(texts) or "0"


def parse_array(text: bytes, driver: str, *, path: str, key: Key, memory: int) -> ZarrArray:
    """Return what a description declares, if it is safe to be opened.

    Args:
        text: The content of ``.zarray`` or ``zarr.json``.
        driver: ``"zarr"`` or ``"zarr3"``.
        path: The checkpoint, for errors.
        key: The tensor, for errors.
        memory: Bytes of the machine's memory.

    Raises:
        MalformedFile: It is not a description of an array, or contradicts itself.
        LimitExceeded: It declares a size that no checkpoint has a reason for.
        UnsupportedFeature: A dtype, codec or other extension is not supported.
    """
    checks = _Checks(path, key)
    if len(text) > _MAX_METADATA:
        raise LimitExceeded(
            f"the description of the array is {len(text)} bytes; at most {_MAX_METADATA} bytes are read.",
            path=path,
            key=key,
        )
    try:
        document = parse_json(text, path=path, what="the description of the array")
    except MalformedFile as err:
        err.key = key
        raise
    parsed = (_zarr2 if driver == "zarr" else _zarr3)(document, checks)
    checks.sizes(parsed, memory)
    return parsed


def zarr2_name(dtype: np.dtype[Any]) -> str:
    """Return zarr 2's name of a dtype: numpy's code, or the name that tensorstore adds to zarr's.

    >>> import numpy as np
    >>> zarr2_name(np.dtype("float32")), zarr2_name(DTYPES["bfloat16"])
    ('<f4', 'bfloat16')
    """
    return dtype.newbyteorder("<").str if _has_code(dtype.name) else dtype.name


def _has_code(name: str) -> bool:
    """Return whether numpy itself has a dtype."""
    return DTYPES[name].isbuiltin == 1


def _zarr2(document: dict[str, Any], checks: _Checks) -> ZarrArray:
    checks.equal(document, "zarr_format", 2)
    shape = checks.shape(document.get("shape"), "shape", least=0)
    chunks = checks.shape(document.get("chunks"), "chunks", least=1, rank=len(shape))
    if document.get("filters"):
        raise checks.unsupported(f"the filters {shown(document['filters'])} are not supported.")
    checks.one_of(document.get("order", "C"), "order", ("C", "F"))
    separator = document.get("dimension_separator", ".")
    checks.one_of(separator, "dimension_separator", (".", "/"))
    compressor = document.get("compressor", False)
    if compressor is False:
        raise checks.malformed("the description does not state its 'compressor'.")
    if compressor is not None:
        checks.codec(compressor, "id", _ZARR2_CODECS)
    if "fill_value" not in document:
        raise checks.malformed("the description does not state its 'fill_value'.")
    spec = TensorSpec(shape, DTYPES[checks.zarr2_dtype(document.get("dtype"))])
    has_fill = document["fill_value"] is not None
    known = {name: document[name] for name in _ZARR2_FIELDS if name in document}
    return ZarrArray(spec, "zarr", known, chunks, chunks, has_fill, "", separator)


def _zarr3(document: dict[str, Any], checks: _Checks) -> ZarrArray:
    checks.equal(document, "zarr_format", 3)
    checks.equal(document, "node_type", "array")
    if document.get("storage_transformers"):
        raise checks.unsupported("storage transformers are not supported.")
    shape = checks.shape(document.get("shape"), "shape", least=0)
    grid = checks.extension(document.get("chunk_grid"), "chunk_grid", ("regular",))
    chunks = checks.shape(grid.get("chunk_shape"), "chunk_shape", least=1, rank=len(shape))
    encoding = document.get("chunk_key_encoding")
    settings = checks.extension(encoding, "chunk_key_encoding", ("default", "v2"))
    is_default = isinstance(encoding, dict) and encoding.get("name") == "default"
    separator = settings.get("separator", "/" if is_default else ".")
    checks.one_of(separator, "separator", (".", "/"))
    dtype = checks.dtype(document.get("data_type"))
    if "fill_value" not in document:
        raise checks.malformed("the description does not state its 'fill_value'.")
    inner = _inner_chunks(document.get("codecs"), chunks, checks, 0)
    for name, value in document.items():
        optional = isinstance(value, dict) and value.get("must_understand") is False
        if name not in (*_ZARR3_FIELDS, *_ZARR3_IGNORED) and not optional:
            raise checks.unsupported(f"the field {shown(name)} of the description is not supported.")
    known = {name: document[name] for name in _ZARR3_FIELDS}
    prefix = "c" if is_default else ""
    spec = TensorSpec(shape, DTYPES[dtype])
    return ZarrArray(spec, "zarr3", known, chunks, inner, True, prefix, separator)


def _inner_chunks(codecs: Any, chunks: tuple[int, ...], checks: _Checks, depth: int) -> tuple[int, ...]:
    """Check a chain of codecs; return the shape of the chunks that it decodes as one."""
    if not isinstance(codecs, list) or not 0 < len(codecs) <= 8:
        raise checks.malformed(f"expected a list of 1 to 8 codecs, got {shown(codecs)}.")
    result = chunks
    for codec in codecs:
        settings = checks.extension(codec, "codec", _ZARR3_CODECS)
        if codec["name"] != "sharding_indexed":
            continue
        if depth == _MAX_NESTING:
            raise checks.limit(f"shards are nested more than {_MAX_NESTING} deep.")
        inner = checks.shape(settings.get("chunk_shape"), "chunk_shape of a shard", least=1, rank=len(chunks))
        if any(n % step for n, step in zip(chunks, inner, strict=True)):
            raise checks.malformed(f"the chunks {list(inner)} do not divide the shard {list(chunks)}.")
        count = math.prod(n // step for n, step in zip(chunks, inner, strict=True))
        if count > _MAX_INNER_CHUNKS:
            raise checks.limit(f"a shard has {count} chunks; at most {_MAX_INNER_CHUNKS} are read.")
        for index_codec in checks.listed(settings.get("index_codecs"), "index_codecs"):
            checks.extension(index_codec, "codec of an index", ("bytes", "crc32c"))
        checks.one_of(settings.get("index_location", "end"), "index_location", ("start", "end"))
        result = _inner_chunks(settings.get("codecs"), inner, checks, depth + 1)
    return result


@dataclass(frozen=True)
class _Checks:
    """Checks of single fields, whose errors name the checkpoint and the tensor."""

    path: str
    key: Key

    def malformed(self, problem: str) -> MalformedFile:
        return MalformedFile(problem, path=self.path, key=self.key)

    def unsupported(self, problem: str, hint: str | None = None) -> UnsupportedFeature:
        return UnsupportedFeature(problem, path=self.path, key=self.key, hint=hint)

    def limit(self, problem: str) -> LimitExceeded:
        return LimitExceeded(problem, path=self.path, key=self.key)

    def equal(self, document: dict[str, Any], name: str, expected: object) -> None:
        value = document.get(name)
        if value != expected or isinstance(value, bool):
            raise self.malformed(f"expected {name!r} to be {expected!r}, got {shown(value)}.")

    def one_of(self, value: object, name: str, known: tuple[str, ...]) -> None:
        if value not in known:
            raise self.unsupported(f"expected {name!r} to be one of {', '.join(known)}, got {shown(value)}.")

    def listed(self, value: Any, name: str) -> list[Any]:
        if not isinstance(value, list) or len(value) > 8:
            raise self.malformed(f"expected a list of at most 8 {name}, got {shown(value)}.")
        return value

    def extension(self, value: Any, what: str, known: tuple[str, ...]) -> dict[str, Any]:
        """Return the settings of a named extension of zarr 3."""
        name = value.get("name") if isinstance(value, dict) else None
        settings = value.get("configuration", {}) if isinstance(value, dict) else None
        if not isinstance(name, str) or not isinstance(settings, dict):
            raise self.malformed(f"expected a name and a configuration as {what}, got {shown(value)}.")
        if name not in known:
            raise self.unsupported(f"the {what} {shown(name)} is not supported.", nearest(name, known))
        return settings

    def codec(self, value: Any, field: str, known: tuple[str, ...]) -> None:
        name = value.get(field) if isinstance(value, dict) else None
        if not isinstance(name, str):
            raise self.malformed(f"expected a compressor with an {field!r}, got {shown(value)}.")
        if name not in known:
            raise self.unsupported(f"the compressor {shown(name)} is not supported.", nearest(name, known))

    def shape(self, value: Any, name: str, *, least: int, rank: int | None = None) -> tuple[int, ...]:
        if not isinstance(value, list) or not all(type(n) is int and n >= least for n in value):
            raise self.malformed(f"expected sizes of axes as {name!r}, got {shown(value)}.")
        if len(value) > MAX_RANK:
            raise self.unsupported(f"the array has {len(value)} axes; at most {MAX_RANK} are supported.")
        if rank is not None and len(value) != rank:
            raise self.malformed(f"expected {rank} sizes as {name!r}, got {len(value)}.")
        if any(n > _MAX_NBYTES for n in value):
            raise self.limit(f"{name!r} is larger than any machine can address: {shown(value)}.")
        return tuple(value)

    def dtype(self, name: Any) -> str:
        if not isinstance(name, str) or name not in STORED_DTYPES:
            hint = nearest(name, STORED_DTYPES) if isinstance(name, str) else None
            raise self.unsupported(f"the dtype {shown(name)} is not supported.", hint)
        return name

    def zarr2_dtype(self, name: Any) -> str:
        """Return our name of a dtype: numpy's code, or a name that tensorstore adds to zarr's."""
        match = _ZARR2_DTYPE.fullmatch(name) if isinstance(name, str) else None
        if match is None:
            if not isinstance(name, str) or name not in DTYPES or _has_code(name):
                raise self.unsupported(f"the dtype {shown(name)} is not supported.")
            return self.dtype(name)
        bits = "" if match[1] == "b" else str(8 * int(match[2]))
        numpy_name = _NUMBERS[match[1]] + bits
        if (match[1] == "b" and match[2] != "1") or (name[0] == "|" and match[2] != "1"):
            raise self.unsupported(f"the dtype {shown(name)} is not supported.")
        return self.dtype(numpy_name)

    def sizes(self, array: ZarrArray, memory: int) -> None:
        """Compare the bytes of the array and of a chunk with what a machine can hold."""
        itemsize = array.spec.dtype.itemsize
        nbytes = itemsize * math.prod(n or 1 for n in array.spec.shape)
        if nbytes > _MAX_NBYTES:
            raise self.malformed(f"the shape {array.spec} is larger than any machine can address.")
        chunk = itemsize * math.prod(array.chunk_shape)
        most = min(MAX_CHUNK, memory // 2)
        if chunk > most:
            raise self.limit(
                f"a chunk of shape {list(array.chunk_shape)} needs {chunk} bytes of memory; at most {most} "
                "bytes are read at once."
            )
        stored = itemsize * math.prod(array.stored_shape)
        if max(chunk, stored) > max(_SMALL_CHUNK, 4 * nbytes):
            raise self.limit(f"a chunk is {max(chunk, stored)} bytes, and the array {array.spec} {nbytes}.")
