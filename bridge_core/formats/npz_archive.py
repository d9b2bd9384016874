"""What is in an npz archive: arrays, and what arrays cannot say.

Element types that numpy lacks stand as unsigned integers of the same width; their names, the layout and
the bridge's metadata travel in one more member, so that files of ours come back exactly.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from bridge_core.errors import KeyConflict, LimitExceeded, MalformedFile, UnsupportedFeature
from bridge_core.formats.file_layout import FileImage
from bridge_core.formats.npy import open_member
from bridge_core.formats.zip_archive import STORED, ZipMember, read_members
from bridge_core.formats.zip_layout import NewMember, zip_image
from bridge_core.io import SourceFile, parse_json
from bridge_core.messages import listed
from bridge_core.state import (
    DTYPES,
    FlatState,
    Key,
    StateMetadata,
    Tensor,
    TensorSpec,
    Ties,
    dump_metadata,
    flat_names,
    is_unicode,
    load_metadata,
    separator_of,
    split_name,
)

__all__ = ["lay_out", "open_archive"]

_SIDECAR = "__ckptbridge__"
_SIDECAR_CAP = 100_000_000
_SUFFIX = ".npy"
_UNSIGNED = {1: DTYPES["uint8"], 2: DTYPES["uint16"]}

_MAX_INFLATED = 4 << 30
_MAX_RATIO = 200
_SMALL = 256 << 20
_DEFLATE_LIMIT = 1032
"""No deflated stream grows by more than this factor."""


def open_archive(file: SourceFile) -> FlatState:
    """Open an archive lazily; see `NpzFormat.open`."""
    members = read_members(file)
    _check_inflated(members, file)
    layout, metadata, escaped, dtypes = _sidecar(members, file)
    tensors: dict[Key, Tensor] = {}
    sources: dict[Key, ZipMember] = {}
    restored: dict[tuple[str, str], list[str]] = {}
    separator = "."
    if all(member.name != _SIDECAR + _SUFFIX for member in members):
        separator = separator_of(member.name.removesuffix(_SUFFIX) for member in members)
    if separator != ".":
        metadata = metadata.with_(provenance={"separator": separator})
    for member in members:
        name = member.name.removesuffix(_SUFFIX)
        if name == _SIDECAR:
            continue
        if name == member.name:
            raise UnsupportedFeature("is no .npy member.", path=file.name, key=name)
        key = split_name(name, separator, escaped=escaped)
        if key in tensors:
            raise KeyConflict("two escaped names stand for this key.", path=file.name, key=key)
        tensors[key], stored_as = open_member(file, member._replace(name=name), dtypes.pop(name, None))
        sources[key] = member
        if stored_as is not None:
            restored.setdefault((stored_as, tensors[key].spec.dtype.name), []).append(name)
    if dtypes:
        raise MalformedFile(f"names the dtype of {next(iter(dtypes))!r}, which it lacks.", path=file.name)
    _share(tensors, sources, metadata)
    metadata = metadata.with_(notes=tuple(_restored(*types, names) for types, names in restored.items()))
    return FlatState(tensors, layout=layout, metadata=metadata, close=file.close)


def _restored(stored_as: str, dtype: str, names: list[str]) -> str:
    arrays = "1 array is" if len(names) == 1 else f"{len(names)} arrays are"
    return f"{arrays} stored as {stored_as}, as numpy writes {dtype}, and read as {dtype}: {listed(names)}"


def lay_out(state: FlatState) -> FileImage:
    """Return the whole file but for the tensors' values; see `NpzFormat.write`."""
    names, escaped = flat_names(state)
    _check_names(names)
    members: list[NewMember] = []
    dtypes: dict[str, str] = {}
    for key, name in names.items():
        spec = state.spec(key)
        stored = spec.dtype
        if stored.isbuiltin != 1:
            dtypes[name] = stored.name
            stored = _UNSIGNED[stored.itemsize]
        head = _npy_header(stored, spec.shape)
        members.append(NewMember(name + _SUFFIX, head, spec.nbytes, key))
    by_dots = separator_of(names.values()) == "."
    side = _sidecar_text(state, dtypes, escaped=escaped, by_dots=by_dots)
    if side:
        data = _npy_header(_UNSIGNED[1], (len(side),)) + side
        members.append(NewMember(_SIDECAR + _SUFFIX, data))
    return zip_image(members)


def _check_inflated(members: list[ZipMember], file: SourceFile) -> None:
    total = 0
    for member in members:
        if member.method == STORED:
            continue
        total += member.size
        if member.size > member.stored * _DEFLATE_LIMIT + 64:
            raise LimitExceeded(
                f"claims {member.size} bytes, more than its {member.stored} compressed ones can hold.",
                path=file.name,
                key=member.name,
            )
    if total > _MAX_INFLATED or total > max(_SMALL, file.size * _MAX_RATIO):
        raise LimitExceeded(
            f"its compressed members claim {total} bytes, {total // file.size} times the file.",
            path=file.name,
            hint="Save it with numpy.savez, uncompressed, if that is right.",
        )


def _sidecar(
    members: list[ZipMember], file: SourceFile
) -> tuple[str | None, StateMetadata, bool, dict[str, str]]:
    """Return layout, metadata, whether names are escaped, and name -> dtype."""
    found = next((m for m in members if m.name == _SIDECAR + _SUFFIX), None)
    if found is None:
        return None, StateMetadata(), False, {}
    if found.size > _SIDECAR_CAP:
        raise LimitExceeded(f"its metadata takes {found.size} bytes.", path=file.name)
    text = _bytes_of(open_member(file, found._replace(name=_SIDECAR), None).tensor, file)
    document = parse_json(text, path=file.name, what="the bridge's own metadata")
    inner = document.get("metadata")
    dtypes, extra = document.get("dtypes", {}), document.get("extra", {})
    if not isinstance(inner, str) or not _is_texts(dtypes) or not _is_texts(extra):
        raise MalformedFile("carries damaged metadata.", path=file.name)
    layout, metadata, escaped = load_metadata(inner, path=file.name)
    return layout, metadata.with_(extra=extra), escaped, dict(dtypes)


def _bytes_of(tensor: Tensor, file: SourceFile) -> bytes:
    spec = tensor.spec
    if spec.dtype != _UNSIGNED[1] or len(spec.shape) != 1:
        raise MalformedFile(f"its metadata is {spec}; bytes were expected.", path=file.name)
    return tensor.read((slice(0, spec.size, 1),)).tobytes()


def _is_texts(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(text, str) for text in value.values())


def _share(tensors: dict[Key, Tensor], sources: Mapping[Key, ZipMember], metadata: StateMetadata) -> None:
    """Let tied keys with the same content share one tensor again."""

    def content(key: Key) -> tuple[int, int, TensorSpec]:
        return sources[key].crc, sources[key].size, tensors[key].spec

    ties = ((key, other) for key, other in metadata.ties.items() if key in sources and other in sources)
    for key, root in Ties({key: other for key, other in ties if content(key) == content(other)}):
        tensors[key] = tensors[root]


def _check_names(names: Mapping[Key, str]) -> None:
    for key, name in names.items():
        if not key:
            raise KeyConflict("a tensor has an empty key; npz needs a name.")
        if name == _SIDECAR:
            raise KeyConflict("the name is reserved for the bridge.", key=name, hint="Rename it.")
        if "\0" in name or not is_unicode(name):
            raise UnsupportedFeature(
                f"the name {name!r} holds a NUL or a lone surrogate, which no archive can.",
                hint="Rename it.",
            )


def _npy_header(dtype: np.dtype[Any], shape: tuple[int, ...]) -> bytes:
    out = io.BytesIO()
    descr = np.lib.format.dtype_to_descr(dtype.newbyteorder("<"))
    fields = {"descr": descr, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(out, fields)
    return out.getvalue()


def _sidecar_text(state: FlatState, dtypes: Mapping[str, str], *, escaped: bool, by_dots: bool) -> bytes:
    """Return what the arrays cannot say; nothing where they say everything."""
    inner = dump_metadata(state.layout, state.metadata, escaped_names=escaped)
    document = {
        "metadata": inner,
        "dtypes": dict(dtypes),
        "extra": dict(sorted(state.metadata.extra.items())),
    }
    plain = {"metadata": dump_metadata(None, StateMetadata()), "dtypes": {}, "extra": {}}
    # An archive without members is recognised by this one.
    if document == plain and by_dots and len(state):
        return b""
    text = json.dumps(document, separators=(",", ":")).encode()
    if len(text) > _SIDECAR_CAP:
        raise LimitExceeded(
            f"the metadata would take {len(text)} bytes; readers accept {_SIDECAR_CAP}.",
            hint="Write shards with --max-shard-size.",
        )
    return text
