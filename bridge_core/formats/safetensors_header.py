"""The header of a safetensors file: eight bytes of length, then an untrusted JSON object.

All that the library's parser checks is checked, and duplicate names, which it accepts, too. A header of a
million tensors must not take more memory than a few times its own size.
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
from bridge_core.messages import count, listed, nearest, shown
from bridge_core.state import DTYPES, MAX_RANK, Tensor, TensorSpec, is_unicode, regions

__all__ = ["read_header"]

_UNREADABLE = ("F6_E2M3", "F6_E3M2")
_INTEGERS = {int}
_MAX_DEPTH = 100
_FETCH_AGAIN = "The file was cut off: fetch it again."

_Entry = tuple[str, tuple[int, ...], int, int]


def read_header(
    file: SourceFile, make: Callable[[SourceFile, int, TensorSpec, str], Tensor]
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read and check a header.

    Args:
        file: The file.
        make: Called with the file, the offset of a tensor's first byte, its spec and its name.

    Returns:
        Name -> tensor, and the free metadata.

    Raises:
        BadInputError: The header breaks a rule of the format, or needs what is not supported.
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
        spec, nbytes = known
        if end - begin != nbytes:
            raise MalformedFile(
                f"expected data_offsets over the {count(nbytes, 'byte')} of {spec}, got [{begin}, {end}].",
                path=file.name,
                key=name,
            )
        tensors[name] = make(file, start + begin, spec, name)
    return tensors, strings


def _document(file: SourceFile) -> tuple[dict[str, Any], int]:
    if file.size < 8:
        raise TruncatedFile(
            f"expected 8 bytes of header length, got a file of {count(file.size, 'byte')}.",
            path=file.name,
            hint=_FETCH_AGAIN,
        )
    (length,) = struct.unpack("<Q", file.read(0, 8))
    if length > HEADER_CAP:
        if foreign := describe_foreign(file, text=True):
            raise MalformedFile(f"expected a safetensors file, got {foreign}.", path=file.name)
        raise LimitExceeded(
            f"the first 8 bytes declare a header of {length} bytes; expected at most {HEADER_CAP}.",
            path=file.name,
            hint="The file is damaged, or is not a safetensors file.",
        )
    if length > file.size - 8:
        raise TruncatedFile(
            f"the header ends at byte {8 + length}, but the file is only {count(file.size, 'byte')}.",
            path=file.name,
            hint=_FETCH_AGAIN,
        )
    raw = file.read(8, length)
    if raw[:1] != b"{":
        raise MalformedFile(f"expected a header that begins with '{{', got {raw[:1]!r}.", path=file.name)
    header = parse_json(raw, path=file.name, what="the header", shrink=_shrink)
    if b"\\u" in raw:
        _refuse_surrogates(header, file)
    return header, 8 + length


def _shrink(value: dict[str, Any]) -> Any:
    """Return a tensor's entry as a tuple, which takes a quarter of the memory."""
    return (_entry(value) if len(value) == 3 else None) or value


def _entry(value: dict[str, Any]) -> _Entry | None:
    dtype, shape, offsets = value.get("dtype"), value.get("shape"), value.get("data_offsets")
    if type(dtype) is not str or type(shape) is not list or type(offsets) is not list or len(offsets) != 2:
        return None
    # True and 1.0 are equal to 1, so the types are compared.
    if set(map(type, offsets + shape)) != _INTEGERS:
        return None
    return (dtype, tuple(shape), offsets[0], offsets[1])


def _refuse_surrogates(header: Mapping[str, Any], file: SourceFile) -> None:
    strings = header.get(METADATA)
    texts: list[Any] = [*header, *(strings.values() if isinstance(strings, dict) else ())]
    texts += strings if isinstance(strings, dict) else ()
    for text in texts:
        if not is_unicode(str(text)):
            raise MalformedFile(
                f"the text {text!r} in the header holds a lone surrogate, which is not valid Unicode.",
                path=file.name,
            )


def _strings(value: Any, file: SourceFile) -> dict[str, str]:
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise MalformedFile(
            f"expected an object of strings as {METADATA} in the header, got {shown(value)}.",
            path=file.name,
        )
    return value


def _tighten(document: dict[str, Any], file: SourceFile) -> None:
    """Turn the entries that have unknown fields into tuples as well, with a warning."""
    loose = [name for name, value in document.items() if type(value) is not tuple]
    for name in loose:
        document[name] = _loose_entry(name, document[name], file)
    if loose:
        warnings.warn(
            f"{file.name}: fields other than dtype, shape and data_offsets were ignored in "
            f"{count(len(loose), 'tensor')}: {listed(loose)}.",
            FileWarning,
            stacklevel=5,
        )


def _loose_entry(name: str, value: Any, file: SourceFile) -> _Entry:
    entry = _entry(value) if isinstance(value, dict) else None
    if entry is None or _depth(value) > _MAX_DEPTH:
        raise MalformedFile(
            "expected {dtype: text, shape: [integers], data_offsets: [begin, end]} in the header, got "
            f"{shown(value)}.",
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
        if code in _UNREADABLE:
            text, hint = f"6-bit floats ({code}) are not supported.", "Save the tensor as F8_E4M3 or F16."
        else:
            text, hint = f"the dtype {code[:40]!r} is not known.", nearest(code[:40], CODES)
        raise UnsupportedFeature(text, path=file.name, key=name, hint=hint)
    if len(shape) > MAX_RANK:
        raise UnsupportedFeature(
            f"expected at most {MAX_RANK} axes, as in numpy, got {len(shape)}.", path=file.name, key=name
        )
    dtype = DTYPES[CODES[code]]
    if any(n < 0 for n in shape) or regions.size(tuple(n for n in shape if n)) * dtype.itemsize >= 1 << 63:
        raise MalformedFile(
            f"the shape {shown(list(shape))} is not valid: a size is negative or too large.",
            path=file.name,
            key=name,
        )
    spec = TensorSpec(shape, dtype)
    if spec.dtype == NIBBLES and spec.size % 2:
        raise MalformedFile(
            f"{spec} has an odd number of elements; two are stored in a byte.", path=file.name, key=name
        )
    return spec


def _check_ranges(entries: Mapping[str, _Entry], file: SourceFile, start: int) -> None:
    position = 0
    for begin, end, name in sorted((begin, end, name) for name, (_, _, begin, end) in entries.items()):
        if not 0 <= begin <= end < 1 << 63:
            raise MalformedFile(
                f"expected data_offsets [begin, end] with 0 <= begin <= end, got {shown([begin, end])}.",
                path=file.name,
                key=name,
            )
        if begin != position:
            what = "overlaps the tensor before it" if begin < position else "leaves a gap before it"
            raise MalformedFile(
                f"expected data at byte {position} of the tensors' bytes, got byte {begin}, which {what}.",
                path=file.name,
                key=name,
            )
        position = end
    end = start + position
    if end > file.size:
        raise TruncatedFile(
            f"the last tensor ends at byte {end}, but the file is only {count(file.size, 'byte')}.",
            path=file.name,
            hint=_FETCH_AGAIN,
        )
    if end < file.size:
        raise MalformedFile(
            f"the last tensor ends at byte {end}, but {count(file.size - end, 'byte')} more are in the file.",
            path=file.name,
        )
