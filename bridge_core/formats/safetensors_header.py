"""The header of a safetensors file: eight bytes of length, then a JSON object that is not to be trusted.

Everything that the library's parser checks is checked here, and what it lets pass (duplicate names) too;
a header of a million tensors must not take more than a few times its own size.
"""

from __future__ import annotations

import struct
import warnings
from collections.abc import Callable, Mapping
from typing import Any

from bridge_core.errors import FileWarning, LimitExceeded, MalformedFile, TruncatedFile, UnsupportedFeature
from bridge_core.formats.foreign import describe_foreign
from bridge_core.formats.safetensors_codes import CODES, HEADER_CAP, METADATA, NIBBLES, stored_bytes
from bridge_core.io import SourceFile, parse_json
from bridge_core.state import DTYPES, MAX_RANK, Tensor, TensorSpec, is_unicode, regions

__all__ = ["read_header"]

_UNREADABLE = ("F6_E2M3", "F6_E3M2")
_INTEGERS = {int}
_MAX_DEPTH = 100

_Entry = tuple[str, tuple[int, ...], int, int]


def read_header(
    file: SourceFile, make: Callable[[SourceFile, int, TensorSpec, str], Tensor]
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read and check a header.

    Args:
        file: The file.
        make: Called with the file, a tensor's first byte in it, its spec and its name.

    Returns:
        Name -> tensor, and the free metadata.

    Raises:
        BadInputError: It breaks a rule of the format, or needs what is not supported.
    """
    document, start = _document(file)
    strings = _strings(document.pop(METADATA, None), file)
    _tighten(document, file)
    _check_ranges(document, file, start)
    specs: dict[tuple[str, tuple[int, ...]], tuple[TensorSpec, int]] = {}
    tensors: dict[str, Tensor] = {}
    for name, (code, shape, begin, end) in document.items():
        known = specs.get((code, shape))
        if known is None:
            spec = _spec(code, shape, name, file)
            known = specs[code, shape] = (spec, stored_bytes(spec))
        spec, wanted = known
        if end - begin != wanted:
            raise MalformedFile(
                f"its data_offsets [{begin}, {end}] do not span the {wanted} bytes of {spec}.",
                path=file.name,
                key=name,
            )
        tensors[name] = make(file, start + begin, spec, name)
    return tensors, strings


def _document(file: SourceFile) -> tuple[dict[str, Any], int]:
    if file.size < 8:
        raise TruncatedFile(
            f"is {file.size} bytes long; a safetensors file starts with an eight-byte header length.",
            path=file.name,
        )
    (length,) = struct.unpack("<Q", file.read(0, 8))
    if length > HEADER_CAP:
        if foreign := describe_foreign(file):
            raise MalformedFile(f"is not a safetensors file, but {foreign}.", path=file.name)
        raise LimitExceeded(
            f"its first eight bytes claim a header of {length} bytes; at most {HEADER_CAP} are allowed.",
            path=file.name,
        )
    if length > file.size - 8:
        raise TruncatedFile(
            f"its header should end at byte {8 + length}, but the file is only {file.size} bytes long.",
            path=file.name,
        )
    raw = file.read(8, length)
    if raw[:1] != b"{":
        raise MalformedFile(f"its header starts with {raw[:1]!r}; '{{' was expected.", path=file.name)
    header = parse_json(raw, path=file.name, what="the header", shrink=_shrink)
    if b"\\u" in raw:
        _refuse_surrogates(header, file)
    return header, 8 + length


def _shrink(value: dict[str, Any]) -> Any:
    """Keep a tensor's entry as a tuple, a quarter of the memory."""
    return (_entry(value) if len(value) == 3 else None) or value


def _entry(value: dict[str, Any]) -> _Entry | None:
    dtype, shape, offsets = value.get("dtype"), value.get("shape"), value.get("data_offsets")
    if type(dtype) is not str or type(shape) is not list or type(offsets) is not list or len(offsets) != 2:
        return None
    # Booleans and floats are equal to integers, so the types are looked at.
    if set(map(type, offsets + shape)) != _INTEGERS:
        return None
    return (dtype, tuple(shape), offsets[0], offsets[1])


def _refuse_surrogates(header: Mapping[str, Any], file: SourceFile) -> None:
    strings = header.get(METADATA)
    texts: list[Any] = [*header, *(strings.values() if isinstance(strings, dict) else ())]
    texts += strings if isinstance(strings, dict) else ()
    for text in texts:
        if not is_unicode(str(text)):
            raise MalformedFile(f"its header holds {text!r}, which is no Unicode.", path=file.name)


def _strings(value: Any, file: SourceFile) -> dict[str, str]:
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise MalformedFile(f"its {METADATA} is no object of strings.", path=file.name)
    return value


def _tighten(document: dict[str, Any], file: SourceFile) -> None:
    """Leave nothing but entries in the header."""
    loose = [name for name, value in document.items() if type(value) is not tuple]
    for name in loose:
        document[name] = _loose_entry(name, document[name], file)
    if loose:
        warnings.warn(
            f"{file.name}: unknown fields beside dtype, shape and data_offsets were ignored, "
            f"in {len(loose)} tensors, {loose[0]!r} the first.",
            FileWarning,
            stacklevel=5,
        )


def _loose_entry(name: str, value: Any, file: SourceFile) -> _Entry:
    entry = _entry(value) if isinstance(value, dict) else None
    if entry is None or _depth(value) > _MAX_DEPTH:
        raise MalformedFile(
            "its header entry is not {dtype: text, shape: [integers], data_offsets: [begin, end]}.",
            path=file.name,
            key=name,
        )
    return entry


def _depth(value: Any) -> int:
    depth, level = 0, [value]
    while level and depth <= _MAX_DEPTH:
        depth += 1
        children: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                children.extend(item.values())
            elif isinstance(item, list | tuple):
                children.extend(item)
        level = children
    return depth


def _spec(code: str, shape: tuple[int, ...], name: str, file: SourceFile) -> TensorSpec:
    if code not in CODES:
        kind = "six-bit floats" if code in _UNREADABLE else f"dtype {code!r}"
        raise UnsupportedFeature(
            f"holds {kind}, which this ckptbridge does not read.",
            path=file.name,
            key=name,
            hint=f"Known are: {', '.join(CODES)}.",
        )
    if len(shape) > MAX_RANK:
        raise UnsupportedFeature(
            f"has {len(shape)} axes; numpy holds at most {MAX_RANK}.", path=file.name, key=name
        )
    dtype = DTYPES[CODES[code]]
    if any(n < 0 for n in shape) or regions.size(tuple(n for n in shape if n)) * dtype.itemsize >= 1 << 63:
        raise MalformedFile(f"its shape {list(shape)} is impossible.", path=file.name, key=name)
    spec = TensorSpec(shape, dtype)
    if spec.dtype == NIBBLES and spec.size % 2:
        raise MalformedFile(f"{spec} does not fill whole bytes.", path=file.name, key=name)
    return spec


def _check_ranges(entries: Mapping[str, _Entry], file: SourceFile, start: int) -> None:
    position = 0
    for begin, end, name in sorted((begin, end, name) for name, (_, _, begin, end) in entries.items()):
        if not 0 <= begin <= end < 1 << 63:
            raise MalformedFile(f"its data_offsets [{begin}, {end}] are no range.", path=file.name, key=name)
        if begin != position:
            what = "overlaps the tensor before it" if begin < position else "leaves a hole before it"
            raise MalformedFile(
                f"its data starts at {begin}, which {what}; {position} was expected.",
                path=file.name,
                key=name,
            )
        position = end
    found = file.size - start
    if position > found:
        raise TruncatedFile(
            f"its header declares tensor data through byte {start + position}, "
            f"but the file is only {file.size} bytes long.",
            path=file.name,
        )
    if position < found:
        raise MalformedFile(
            f"holds {found - position} bytes behind the last tensor, which ends at byte {start + position}.",
            path=file.name,
        )
