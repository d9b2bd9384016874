"""From the header of a safetensors file to a state."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from bridge_core.errors import KeyConflict, MalformedFile
from bridge_core.formats.safetensors_codes import DOTTED, FRAMEWORKS, NIBBLES, SEQUENCE, stored_bytes
from bridge_core.formats.safetensors_header import read_header
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
    join_key,
    load_metadata,
    regions,
    separator_of,
    split_name,
    split_names,
)

__all__ = ["open_file"]

_BOOL = DTYPES["bool"]
_SPAN = 4 << 20


def open_file(file: SourceFile) -> FlatState:
    """Open a file lazily; see `SafetensorsFormat.open`."""
    tensors, strings = read_header(file, _tensor)
    layout, metadata, keyed = _interpret(tensors, strings, file)
    return FlatState(keyed, layout=layout, metadata=metadata, close=file.close)


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
    strides = regions.row_major_strides(spec.shape)

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
    separator = "."
    sequence = extra.pop(SEQUENCE, None) if text is not None else None
    if text is None:
        layout, metadata, escaped = FRAMEWORKS.get(extra.get("format", "")), StateMetadata(), False
        dropped = {
            name: canonical
            for name, canonical in strings.items()
            if name != "format" and canonical in tensors and name not in tensors
        }
        if extra.get("format") not in DOTTED:
            separator = separator_of(tensors)
        ties = {split_name(name, separator): split_name(other, separator) for name, other in dropped.items()}
        own = {"": separator} if separator != "." else {}
        metadata = metadata.with_(ties=ties, separators=own)
    else:
        layout, metadata, escaped = load_metadata(text, path=file.name)
        separator = metadata.separator(layout)
    if separator != ".":
        metadata = metadata.with_(provenance={"separator": separator})
    keyed = dict(zip(split_names(tensors, separator, escaped=escaped), tensors.values(), strict=True))
    if len(keyed) != len(tensors):
        raise KeyConflict("two escaped names in the header give one key.", path=file.name)
    for key, canonical in _missing_ends(metadata.ties, keyed, file).items():
        keyed[key] = keyed[canonical]
        name, stored_name = (join_key(k, separator, escape=escaped) for k in (key, canonical))
        if extra.get(name) == stored_name:
            del extra[name]
    if layout is not None and FRAMEWORKS.get(extra.get("format", "")) == layout:
        del extra["format"]
    if sequence is not None:
        keyed = {key: keyed[key] for key in _in_sequence(sequence, keyed, file)}
    return layout, metadata.with_(extra=extra), keyed


def _in_sequence(sequence: str, keyed: Iterable[Key], file: SourceFile) -> list[Key]:
    keys = sorted(keyed)
    try:
        numbers = list(map(int, sequence.split(" ") if sequence else ()))
    except ValueError:
        numbers = []
    if sorted(numbers) != list(range(len(keys))):
        raise MalformedFile(
            f"expected each number from 0 to {len(keys) - 1} once in {SEQUENCE!r}, the order of the tensors.",
            path=file.name,
            hint="Another program may have edited the file: write it again without its metadata.",
        )
    return [keys[number] for number in numbers]


def _missing_ends(ties: Mapping[Key, Key], present: Mapping[Key, Tensor], file: SourceFile) -> dict[Key, Key]:
    """Return the canonical key of each tied key that is not stored in the file."""
    dropped = {key: other for key, other in ties.items() if key not in present}
    ends = Ties(dropped)
    for key in dropped:
        if (end := ends.root(key)) not in present:
            raise MalformedFile(
                f"the tensor is tied to {join_key(end)!r}, which is not in the file.", path=file.name, key=key
            )
    return dict(ends)
