"""safetensors, read by byte ranges and written header-first, without the library.

The library has no streaming writer, corrupts arrays that are not C-contiguous, accepts duplicate names
and reads whole tensors for a slice; hence a reader and a writer of our own. Files are byte for byte those
of the library while a state carries nothing that the library could not.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NoReturn

import numpy as np

from bridge_core.errors import KeyConflict, LimitExceeded, MalformedFile, UnsupportedFeature
from bridge_core.formats.base import Capabilities, ShardNames, WriteTarget
from bridge_core.formats.file_layout import Extent, FileImage
from bridge_core.formats.safetensors_header import (
    CODES,
    HEADER_CAP,
    METADATA,
    NIBBLES,
    read_header,
    stored_bytes,
)
from bridge_core.io import SourceFile
from bridge_core.state import (
    DTYPES,
    MARKER,
    Array,
    FileTensor,
    FlatState,
    Key,
    LazyTensor,
    Region,
    StateMetadata,
    Tensor,
    TensorSpec,
    Ties,
    checked_bools,
    dump_metadata,
    flat_names,
    join_key,
    load_metadata,
    regions,
    split_name,
)

__all__ = ["SafetensorsFormat"]

_CODE_OF = {DTYPES[name]: code for code, name in CODES.items()}
_ORDER = {dtype: -place for place, dtype in enumerate(_CODE_OF)}
_BOOL = DTYPES["bool"]
_LAYOUTS = {"pt": "torch", "flax": "flax"}
_MARKS = {layout: mark for mark, layout in _LAYOUTS.items()}

_SEQUENCE = f"{MARKER}.order"
"""Keeps the state's order of keys, as numbers into the sorted keys; a file sorts its tensors otherwise."""

_SPAN = 4 << 20


class SafetensorsFormat:
    """``.safetensors``: flat names, one byte range a tensor."""

    name = "safetensors"
    extensions: tuple[str, ...] = (".safetensors",)
    layout: str | None = None
    capabilities = Capabilities(
        lazy=True, sliceable=True, streaming_write=True, dtypes=frozenset(CODES.values()), metadata=True
    )
    names: ShardNames | None = ShardNames(
        "model.safetensors",
        "model-{index:05d}-of-{count:05d}.safetensors",
        "model.safetensors.index.json",
        ties="dropped",
    )

    def sniff(self, file: SourceFile) -> bool:
        """Tell whether a JSON object stands behind an eight-byte length."""
        if file.size < 10:
            return False
        head = file.read(0, 10)
        return head[8:] in (b'{"', b"{}", b"{ ", b"{\n", b"{\t", b"{\r") and any(head[:8])

    def open(self, file: SourceFile) -> FlatState:
        """Open lazily.

        Raises:
            BadInputError: The file is damaged, or holds what is not supported.
        """
        tensors, strings = read_header(file, _tensor)
        layout, metadata, keyed = _interpret(tensors, strings, file)
        return FlatState(keyed, layout=layout, metadata=metadata, close=file.close)

    def write(self, state: FlatState, target: WriteTarget) -> None:
        """Write header-first.

        Raises:
            KeyConflict: Two names would be one, or a name is reserved.
            UnsupportedFeature: A dtype or a name that safetensors cannot hold.
            LimitExceeded: The header would be larger than readers accept.
        """
        target.fill(state, _image(state))


def _tensor(file: SourceFile, offset: int, spec: TensorSpec, name: str) -> Tensor:
    if spec.dtype == NIBBLES:
        stored = FileTensor(file, offset, TensorSpec((stored_bytes(spec),), DTYPES["uint8"]))
        return LazyTensor(spec, lambda region: _read_nibbles(stored, spec, region))
    if spec.dtype == _BOOL:
        raw = FileTensor(file, offset, TensorSpec(spec.shape, DTYPES["uint8"]))
        return checked_bools(raw, path=file.name, key=name)
    return FileTensor(file, offset, spec)


def _read_nibbles(stored: FileTensor, spec: TensorSpec, region: Region) -> Array:
    out = np.empty(regions.region_shape(region), np.uint8)
    strides = [regions.size(spec.shape[axis + 1 :]) for axis in range(len(spec.shape))]

    def fill(part: Region, into: Array) -> None:
        first = sum(s.start * n for s, n in zip(part, strides, strict=True))
        last = sum((s.stop - 1) * n for s, n in zip(part, strides, strict=True))
        if last - first >= max(_SPAN, 2 * into.size):
            axis = next(i for i, n in enumerate(into.shape) if n > 1)
            s, half = part[axis], into.shape[axis] // 2
            middle = s.start + half * s.step
            where = (slice(None),) * axis
            for piece, rows in (
                (slice(s.start, middle, s.step), slice(None, half)),
                (slice(middle, s.stop, s.step), slice(half, None)),
            ):
                fill(regions.simplify((*part[:axis], piece, *part[axis + 1 :])), into[(*where, rows)])
            return
        pairs = stored.read((slice(first // 2, last // 2 + 1, 1),))
        flat = np.stack([pairs & 0xF, pairs >> 4], axis=-1).reshape(-1)[first % 2 :]
        steps = tuple(s.step * n for s, n in zip(part, strides, strict=True))
        into[...] = np.lib.stride_tricks.as_strided(flat, into.shape, steps, writeable=False)

    if out.size:
        fill(regions.simplify(region), out)
    return out.view(spec.dtype)


def _interpret(
    tensors: Mapping[str, Tensor], strings: Mapping[str, str], file: SourceFile
) -> tuple[str | None, StateMetadata, dict[Key, Tensor]]:
    """Turn names into keys, and the strings of the header into layout, ties and extras."""
    extra = dict(strings)
    text = extra.pop(MARKER, None)
    sequence = extra.pop(_SEQUENCE, None) if text is not None else None
    if text is None:
        layout, metadata, escaped = _LAYOUTS.get(extra.get("format", "")), StateMetadata(), False
        dropped = {
            name: kept
            for name, kept in strings.items()
            if name != "format" and kept in tensors and name not in tensors
        }
        ties = {tuple(name.split(".")): tuple(kept.split(".")) for name, kept in dropped.items()}
        metadata = metadata.with_(ties=ties)
    else:
        layout, metadata, escaped = load_metadata(text, path=file.name)
    keyed = dict(zip(_keys(tensors, escaped=escaped), tensors.values(), strict=True))
    if len(keyed) != len(tensors):
        raise KeyConflict("two of its escaped names stand for one key.", path=file.name)
    for key, kept_key in _missing_ends(metadata.ties, keyed, file).items():
        keyed[key] = keyed[kept_key]
        name, kept = (join_key(k, escape=escaped) for k in (key, kept_key))
        if extra.get(name) == kept:
            del extra[name]
    if layout in _MARKS and extra.get("format") == _MARKS[layout]:
        del extra["format"]
    if sequence is not None:
        keyed = {key: keyed[key] for key in _in_sequence(sequence, keyed, file)}
    return layout, metadata.with_(extra=extra), keyed


def _keys(names: Iterable[str], *, escaped: bool) -> Iterator[Key]:
    """Split names; parts that are equal share one string."""
    parts: dict[str, str] = {}
    for name in names:
        yield tuple([parts.setdefault(part, part) for part in split_name(name, escaped=escaped)])


def _in_sequence(sequence: str, keyed: Iterable[Key], file: SourceFile) -> list[Key]:
    keys = sorted(keyed)
    try:
        numbers = list(map(int, sequence.split(" ") if sequence else ()))
    except ValueError:
        numbers = []
    if sorted(numbers) != list(range(len(keys))):
        raise MalformedFile("does not name every tensor once in their order.", path=file.name)
    return [keys[number] for number in numbers]


def _missing_ends(ties: Mapping[Key, Key], present: Mapping[Key, Tensor], file: SourceFile) -> dict[Key, Key]:
    """Return, for each tied key that the file lacks, the key that it holds."""
    lacking = {key: other for key, other in ties.items() if key not in present}
    ends = Ties(lacking)
    for key in lacking:
        if ends.root(key) not in present:
            raise MalformedFile("is tied to a tensor that the file lacks.", path=file.name, key=key)
    return dict(ends)


def _image(state: FlatState) -> FileImage:
    metadata = state.metadata
    ties = {key: kept for key, kept in metadata.ties.items() if kept in state}
    metadata = metadata.with_(ties=ties)
    names, escaped = flat_names(state)
    _check_names(names, metadata)
    _check_dtypes(state)
    dropped = dict(Ties.aliases(state))

    header: dict[str, Any] = {}
    strings = _header_strings(state.layout, metadata, names, dropped, escaped=escaped)
    specs = {key: state.spec(key) for key in state if key not in dropped}
    ordered = sorted(specs, key=lambda key: (_ORDER[specs[key].dtype], names[key]))
    if MARKER in strings and list(state) != ordered:
        numbers = {key: number for number, key in enumerate(sorted(state))}
        strings[_SEQUENCE] = " ".join(str(numbers[key]) for key in state)
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
            f"the header would take {len(text)} bytes; readers accept {HEADER_CAP}.",
            hint="Write shards with --max-shard-size.",
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
            raise KeyConflict("a tensor has an empty key; safetensors needs a name.")
        if name == METADATA:
            raise KeyConflict("the name is reserved in safetensors files.", key=name, hint="Rename it.")
        _check_text(name, "the name of a tensor")
    for reserved in (MARKER, _SEQUENCE):
        if reserved in metadata.extra:
            raise KeyConflict(f"the metadata name {reserved!r} is reserved.", hint="Rename it.")
    for name, text in metadata.extra.items():
        _check_text(name, "a metadata name")
        _check_text(text, f"the metadata {name!r}")


def _check_text(text: str, what: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UnsupportedFeature(
            f"{what} holds a lone surrogate, {text!r}, which has no UTF-8 form.", hint="Rename it."
        ) from None


def _check_dtypes(state: FlatState) -> None:
    wrong: list[str] = []
    for key, spec in state.specs().items():
        if spec.dtype not in _CODE_OF:
            wrong.append(f"{join_key(key)} ({spec.dtype.name})")
        elif spec.dtype == NIBBLES and spec.size % 2:
            wrong.append(f"{join_key(key)} ({spec}, which does not fill whole bytes)")
    if wrong:
        _refuse_dtypes(wrong)


def _refuse_dtypes(wrong: list[str]) -> NoReturn:
    raise UnsupportedFeature(
        f"safetensors cannot hold {len(wrong)} of the tensors: {', '.join(wrong)}.",
        hint="Cast them, or write another format, such as npz.",
    )


def _header_strings(
    layout: str | None,
    metadata: StateMetadata,
    names: Mapping[Key, str],
    dropped: Mapping[Key, Key],
    *,
    escaped: bool,
) -> dict[str, str]:
    strings = dict(metadata.extra)
    for key, kept in dropped.items():
        strings.setdefault(names[key], names[kept])
    if layout in _MARKS:
        strings["format"] = _MARKS[layout]
    plain = layout in (None, *_MARKS) and _LAYOUTS.get(strings.get("format", "")) == layout
    written = {name for key, name in names.items() if key not in dropped}
    lookalike = any(v in written and k not in written for k, v in metadata.extra.items())
    nothing = dump_metadata(layout, metadata) == dump_metadata(layout, StateMetadata())
    if not plain or escaped or lookalike or not nothing:
        strings[MARKER] = dump_metadata(layout, metadata, escaped_names=escaped)
    return dict(sorted(strings.items()))
