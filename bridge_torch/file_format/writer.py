"""The layout of a torch checkpoint that is to be written, made before any tensor is read."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from bridge_core import FileImage, FlatState, Key, KeyConflict, StateMetadata, UnsupportedFeature
from bridge_core.formats import NewMember, zip_image
from bridge_core.messages import count, listed
from bridge_core.state import dump_metadata, flat_names, is_unicode
from bridge_torch.file_format.archive import METADATA_RECORD
from bridge_torch.safe_pickle import Slot, write_pickle

__all__ = ["lay_out"]

_LAYOUT = "torch"
_ROOT = "archive"
_VERSION = b"3\n"
_PADDING_ID, _PADDING = 0x4246, b"Z"


def lay_out(state: FlatState, dtypes: frozenset[str]) -> FileImage:
    """Return all of the file except for the tensors' values; see `TorchFormat.write`.

    Args:
        state: The state to write.
        dtypes: Names of the dtypes that are allowed.

    Raises:
        UnsupportedFeature: A dtype is not allowed, or a name is not valid Unicode.
        KeyConflict: Two keys join to one name, or a part of a torch name contains a dot.
    """
    specs = state.specs()
    missing: dict[str, list[str]] = {}
    for key, spec in specs.items():
        if spec.dtype.name not in dtypes:
            missing.setdefault(spec.dtype.name, []).append(".".join(key))
    if missing:
        texts = (f"{dtype} ({listed(names)})" for dtype, names in missing.items())
        raise UnsupportedFeature(
            f"torch does not have the dtype of {count(sum(map(len, missing.values())), 'tensor')}: "
            f"{', '.join(texts)}.",
            hint='Pass dtype="float32" (--dtype), or write a format that has these dtypes.',
        )
    names, escaped = _names(state)
    damaged = [ascii(name) for name in names.values() if not is_unicode(name)]
    if damaged:
        raise UnsupportedFeature(
            f"torch files hold only names in valid Unicode, got {count(len(damaged), 'other name')}: "
            f"{listed(damaged)}.",
            hint='Rename them: pass rules="rules.toml" (--rules).',
        )
    owners = _owners(state)
    numbers: dict[Key, str] = {}
    slots: dict[Key, Slot] = {}
    for key, spec in specs.items():
        owner = owners.get(key, key)
        storage = numbers.setdefault(owner, str(len(numbers)))
        slots[key] = Slot(names[key], spec, storage, owner)
    text = dump_metadata(state.layout, state.metadata, escaped_names=escaped)
    bare = dump_metadata(state.layout, state.metadata.without_own_separator(state.layout))
    plain = state.layout in (None, _LAYOUT) and bare == dump_metadata(state.layout, StateMetadata())
    return _archive(slots, None if plain else text)


def _archive(slots: Mapping[Key, Slot], metadata: str | None) -> FileImage:
    """Return the archive of the pickle, the storages and, if there is any, the bridge's own metadata."""
    pickle = write_pickle(slots)
    identity = int.from_bytes(hashlib.sha256(pickle).digest()[:16], "big")
    members = [
        NewMember(f"{_ROOT}/data.pkl", pickle),
        NewMember(f"{_ROOT}/byteorder", b"little"),
        NewMember(f"{_ROOT}/version", _VERSION),
    ]
    members += [
        NewMember(f"{_ROOT}/data/{slot.storage}", b"", slot.spec.nbytes, key)
        for key, slot in slots.items()
        if slot.owner == key
    ]
    members.append(NewMember(f"{_ROOT}/.data/serialization_id", f"{identity:040d}".encode()))
    if metadata is not None:
        members.append(NewMember(f"{_ROOT}/{METADATA_RECORD}", metadata.encode("ascii")))
    return zip_image(members, padding_id=_PADDING_ID, padding=_PADDING)


def _names(state: FlatState) -> tuple[dict[Key, str], bool]:
    """Return the flat names, and whether dots in them are escaped, as layouts other than torch's may need.

    Raises:
        KeyConflict: Two keys join to one name, or a part of a torch name contains a dot.
    """
    names, escaped = flat_names(state)
    plain = state.layout in (None, "torch")
    odd = [repr(key) for key in state if not key or (plain and any("." in part for part in key))]
    if odd:
        raise KeyConflict(
            f"{count(len(odd), 'key')} cannot be written ({listed(odd)}): torch joins the parts of a key "
            "with dots, so a key needs a part, and no part may contain a dot.",
            hint='Rename them: pass rules="rules.toml" (--rules). Or write a format with nested names, as '
            "msgpack.",
        )
    return names, escaped


def _owners(state: FlatState) -> dict[Key, Key]:
    """Return, for tied keys that share one tensor object, the one that comes first in the state."""
    tied = {key for pair in state.metadata.ties.items() for key in pair}
    first: dict[int, Key] = {}
    return {key: first.setdefault(id(state.tensor(key)), key) for key in state if key in tied}
