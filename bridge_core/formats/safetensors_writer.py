"""Laying out a safetensors file before any tensor is read."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from typing import Any, NoReturn

from bridge_core.errors import KeyConflict, LimitExceeded, UnsupportedFeature
from bridge_core.formats.file_layout import Extent, FileImage
from bridge_core.formats.safetensors_codes import (
    CODES,
    DOTTED,
    FRAMEWORKS,
    HEADER_CAP,
    METADATA,
    NIBBLES,
    SEQUENCE,
    stored_bytes,
)
from bridge_core.messages import count, listed
from bridge_core.state import (
    DTYPES,
    MARKER,
    FlatState,
    Key,
    StateMetadata,
    Ties,
    dump_metadata,
    flat_names,
    is_unicode,
    join_key,
    separator_of,
)

__all__ = ["lay_out"]

_CODE_OF = {DTYPES[name]: code for code, name in CODES.items()}
_ORDER = {dtype: -place for place, dtype in enumerate(_CODE_OF)}
_MARKS = {layout: mark for mark, layout in FRAMEWORKS.items()}


def lay_out(state: FlatState) -> FileImage:
    """Return the layout of a file for a state; see `SafetensorsFormat.write`."""
    metadata = state.metadata
    ties = {key: other for key, other in metadata.ties.items() if other in state}
    metadata = metadata.with_(ties=ties)
    separator = metadata.separator(state.layout)
    names, escaped = flat_names(state, separator)
    _check_names(names, metadata)
    _check_dtypes(state)
    dropped = dict(Ties.aliases(state))

    header: dict[str, Any] = {}
    strings = _header_strings(state.layout, metadata, names, dropped, separator, escaped=escaped)
    specs = {key: state.spec(key) for key in state if key not in dropped}
    ordered = sorted(specs, key=lambda key: (_ORDER[specs[key].dtype], names[key]))
    if MARKER in strings and list(state) != ordered:
        numbers = {key: number for number, key in enumerate(sorted(state))}
        strings[SEQUENCE] = " ".join(str(numbers[key]) for key in state)
    if strings:
        header[METADATA] = strings
    position = 0
    extents: dict[Key, Extent] = {}
    for key in ordered:
        spec = specs[key]
        nbytes = stored_bytes(spec)
        header[names[key]] = {
            "dtype": _CODE_OF[spec.dtype],
            "shape": list(spec.shape),
            "data_offsets": [position, position + nbytes],
        }
        extents[key] = Extent(0, nbytes, position)
        position += nbytes
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    if len(text) > HEADER_CAP:
        raise LimitExceeded(
            f"expected a header of at most {HEADER_CAP} bytes, as readers accept, got {len(text)}.",
            hint='Write shards with max_shard_size="5GB" (--max-shard-size).',
        )
    start = 8 + len(text)
    return FileImage(
        size=start + position,
        segments=((0, struct.pack("<Q", len(text)) + text),),
        slots={key: (Extent(0, e.nbytes, start + e.offset),) for key, e in extents.items()},
        pack={key: 2 for key, spec in specs.items() if spec.dtype == NIBBLES},
    )


def _check_names(names: Mapping[Key, str], metadata: StateMetadata) -> None:
    for key, name in names.items():
        if not key:
            raise KeyConflict(
                "a tensor has the empty key (); safetensors needs a name.", hint="Rename the tensor."
            )
        if name == METADATA:
            raise KeyConflict(
                "this name is reserved in safetensors files.", key=name, hint="Rename the tensor."
            )
        _check_text(name, "the name of a tensor")
    for reserved in (MARKER, SEQUENCE):
        if reserved in metadata.extra:
            raise KeyConflict(
                f"the name {reserved!r} in metadata.extra is reserved for the bridge's metadata.",
                hint="Rename or remove it.",
            )
    for name, text in metadata.extra.items():
        _check_text(name, "a name in metadata.extra")
        _check_text(text, f"metadata.extra[{name!r}]")


def _check_text(text: str, what: str) -> None:
    if not is_unicode(text):
        raise UnsupportedFeature(
            f"{what}, {text!r}, holds a lone surrogate, which cannot be stored as UTF-8.",
            hint="Change the text.",
        )


def _check_dtypes(state: FlatState) -> None:
    wrong: list[str] = []
    for key, spec in state.specs().items():
        if spec.dtype not in _CODE_OF:
            wrong.append(f"{join_key(key)} ({spec.dtype.name})")
        elif spec.dtype == NIBBLES and spec.size % 2:
            wrong.append(f"{join_key(key)} ({spec}, an odd number of half bytes)")
    if wrong:
        _refuse_dtypes(wrong)


def _refuse_dtypes(wrong: list[str]) -> NoReturn:
    raise UnsupportedFeature(
        f"safetensors cannot store {count(len(wrong), 'tensor')}: {listed(wrong)}.",
        hint='Cast them, or write another format, such as format="npz" (--format).',
    )


def _header_strings(
    layout: str | None,
    metadata: StateMetadata,
    names: Mapping[Key, str],
    dropped: Mapping[Key, Key],
    separator: str,
    *,
    escaped: bool,
) -> dict[str, str]:
    strings = dict(metadata.extra)
    for key, canonical in dropped.items():
        strings.setdefault(names[key], names[canonical])
    if layout in _MARKS:
        strings["format"] = _MARKS[layout]
    plain = layout in (None, *_MARKS) and FRAMEWORKS.get(strings.get("format", "")) == layout
    written = {name for key, name in names.items() if key not in dropped}
    shown = "." if strings.get("format") in DOTTED else separator_of(written)
    lookalike = any(v in written and k not in written for k, v in metadata.extra.items())
    bare = metadata.without_own_separator(layout)
    nothing = dump_metadata(layout, bare) == dump_metadata(layout, StateMetadata())
    if not plain or escaped or lookalike or shown != separator or not nothing:
        strings[MARKER] = dump_metadata(layout, metadata, escaped_names=escaped)
    return dict(sorted(strings.items()))
