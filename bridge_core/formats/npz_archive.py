"""The content of an npz archive: arrays, and one member of metadata.

Dtypes that numpy does not have are stored as unsigned integers of the same width. Their names, the layout and
the bridge's metadata are in one more member, so that files of the bridge are restored exactly.
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

_METADATA_MEMBER = "__ckptbridge__"
_LARGEST_METADATA = 100_000_000
"""Bytes."""
_SUFFIX = ".npy"
_UNSIGNED = {1: DTYPES["uint8"], 2: DTYPES["uint16"]}

_MAX_INFLATED = 4 << 30
"""Bytes of all compressed members together."""
_MAX_RATIO = 200
"""Bytes of all compressed members for each byte of the file, unless they are `_SMALL`."""
_SMALL = 256 << 20
_DEFLATE_LIMIT = 1032
"""A deflated stream cannot grow by more than this factor."""


def open_archive(file: SourceFile) -> FlatState:
    """Open an archive lazily; see `NpzFormat.open`."""
    members = read_members(file)
    _check_inflated(members, file)
    layout, metadata, escaped, dtypes = _own_metadata(members, file)
    tensors: dict[Key, Tensor] = {}
    sources: dict[Key, ZipMember] = {}
    restored: dict[tuple[str, str], list[str]] = {}
    separator = metadata.separator(layout)
    if all(member.name != _METADATA_MEMBER + _SUFFIX for member in members):
        separator = separator_of(member.name.removesuffix(_SUFFIX) for member in members)
        metadata = metadata.with_(separators={"": separator} if separator != "." else {})
    if separator != ".":
        metadata = metadata.with_(provenance={"separator": separator})
    for member in members:
        name = member.name.removesuffix(_SUFFIX)
        if name == _METADATA_MEMBER:
            continue
        if name == member.name:
            raise UnsupportedFeature(
                f"expected an .npz archive, which holds only .npy members, got a zip archive with {name!r}.",
                path=file.name,
                hint="Unpack the archive, and give the file of weights in it.",
            )
        key = split_name(name, separator, escaped=escaped)
        if key in tensors:
            raise KeyConflict("two escaped names in the archive give this key.", path=file.name, key=key)
        tensors[key], stored_as = open_member(file, member._replace(name=name), dtypes.pop(name, None))
        sources[key] = member
        if stored_as is not None:
            restored.setdefault((stored_as, tensors[key].spec.dtype.name), []).append(name)
    if dtypes:
        raise MalformedFile(
            f"the metadata declares a dtype for {listed(dtypes)}, but the archive does not have "
            f"{'this member' if len(dtypes) == 1 else 'these members'}.",
            path=file.name,
        )
    _share(tensors, sources, metadata)
    metadata = metadata.with_(notes=tuple(_restored(*types, names) for types, names in restored.items()))
    return FlatState(tensors, layout=layout, metadata=metadata, close=file.close)


def _restored(stored_as: str, dtype: str, names: list[str]) -> str:
    arrays = "1 array is" if len(names) == 1 else f"{len(names)} arrays are"
    return f"{arrays} stored as {stored_as}, as numpy writes {dtype}, and read as {dtype}: {listed(names)}"


def lay_out(state: FlatState) -> FileImage:
    """Return the layout of a file for a state; see `NpzFormat.write`."""
    separator = state.metadata.separator(state.layout)
    names, escaped = flat_names(state, separator)
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
    shown = separator_of(names.values()) == separator
    text = _metadata_text(state, dtypes, escaped=escaped, shown=shown)
    if text:
        data = _npy_header(_UNSIGNED[1], (len(text),)) + text
        members.append(NewMember(_METADATA_MEMBER + _SUFFIX, data))
    return zip_image(members)


def _check_inflated(members: list[ZipMember], file: SourceFile) -> None:
    total = 0
    for member in members:
        if member.method == STORED:
            continue
        total += member.size
        if member.size > member.stored * _DEFLATE_LIMIT + 64:
            raise LimitExceeded(
                f"the member declares {member.size} bytes, more than its {member.stored} compressed bytes "
                "can hold.",
                path=file.name,
                key=member.name,
            )
    if total > _MAX_INFLATED or total > max(_SMALL, file.size * _MAX_RATIO):
        raise LimitExceeded(
            f"the compressed members declare {total} bytes, {total // file.size} times the size of the file.",
            path=file.name,
            hint="If the file is right, save it uncompressed, with numpy.savez.",
        )


def _own_metadata(
    members: list[ZipMember], file: SourceFile
) -> tuple[str | None, StateMetadata, bool, dict[str, str]]:
    """Return layout, metadata, whether names are escaped, and name -> dtype."""
    member = next((m for m in members if m.name == _METADATA_MEMBER + _SUFFIX), None)
    if member is None:
        return None, StateMetadata(), False, {}
    if member.size > _LARGEST_METADATA:
        raise LimitExceeded(
            f"expected metadata of at most {_LARGEST_METADATA} bytes, got {member.size} bytes.",
            path=file.name,
        )
    text = _bytes_of(open_member(file, member._replace(name=_METADATA_MEMBER), None).tensor, file)
    document = parse_json(text, path=file.name, what="the bridge's own metadata")
    inner = document.get("metadata")
    dtypes, extra = document.get("dtypes", {}), document.get("extra", {})
    if not isinstance(inner, str) or not _is_texts(dtypes) or not _is_texts(extra):
        raise MalformedFile(
            f"the metadata in the member {_METADATA_MEMBER + _SUFFIX!r} is damaged: expected a text "
            "'metadata', and objects of texts 'dtypes' and 'extra'.",
            path=file.name,
            hint="Fetch or write the file again.",
        )
    layout, metadata, escaped = load_metadata(inner, path=file.name)
    return layout, metadata.with_(extra=extra), escaped, dict(dtypes)


def _bytes_of(tensor: Tensor, file: SourceFile) -> bytes:
    spec = tensor.spec
    if spec.dtype != _UNSIGNED[1] or len(spec.shape) != 1:
        raise MalformedFile(f"expected the metadata as uint8 with one axis, got {spec}.", path=file.name)
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
            raise KeyConflict("a tensor has the empty key (); npz needs a name.", hint="Rename the tensor.")
        if name == _METADATA_MEMBER:
            raise KeyConflict(
                "this name is reserved for the bridge's metadata.", key=name, hint="Rename the tensor."
            )
        if "\0" in name or not is_unicode(name):
            raise UnsupportedFeature(
                f"the name {name!r} holds a NUL or a lone surrogate, which a zip archive cannot store.",
                hint="Rename the tensor.",
            )


def _npy_header(dtype: np.dtype[Any], shape: tuple[int, ...]) -> bytes:
    out = io.BytesIO()
    descr = np.lib.format.dtype_to_descr(dtype.newbyteorder("<"))
    fields = {"descr": descr, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(out, fields)
    return out.getvalue()


def _metadata_text(state: FlatState, dtypes: Mapping[str, str], *, escaped: bool, shown: bool) -> bytes:
    """Return what the arrays cannot express, as JSON; empty if they express everything."""
    metadata, layout = state.metadata, state.layout
    if shown and layout is None:  # the names show it
        metadata = metadata.without_own_separator(layout)
    inner = dump_metadata(layout, metadata, escaped_names=escaped)
    document = {
        "metadata": inner,
        "dtypes": dict(dtypes),
        "extra": dict(sorted(state.metadata.extra.items())),
    }
    plain = {"metadata": dump_metadata(None, StateMetadata()), "dtypes": {}, "extra": {}}
    # An archive without arrays is recognised as npz by its metadata member.
    if document == plain and shown and len(state):
        return b""
    text = json.dumps(document, separators=(",", ":")).encode()
    if len(text) > _LARGEST_METADATA:
        raise LimitExceeded(
            f"expected metadata of at most {_LARGEST_METADATA} bytes, which is what readers accept, got "
            f"{len(text)}.",
            hint="Save parts of the state, state.select(...), as files of their own.",
        )
    return text
