"""Names that an Orbax checkpoint can store, checked before anything is written."""

from __future__ import annotations

from collections.abc import Iterable

from bridge_core import FlatState, Key, KeyConflict, LimitExceeded, UnsupportedFeature, UsageError, join_key
from bridge_core.messages import count, listed, shown
from bridge_core.state import is_unicode, unflatten_tree
from ckptbridge_orbax.array_names import array_name
from ckptbridge_orbax.file_names import ARRAY_FILES, MANIFEST, TEMPORARY
from ckptbridge_orbax.zarr_metadata import MAX_RANK, STORED_DTYPES

__all__ = ["check_item", "check_state", "check_step"]

_END_OF_STEPS = 10**18
_MAX_PARTS = 128
_MAX_NAME = 4096
_RESERVED_FOR_ORBAX = ("_", ".", "ocdbt.", MANIFEST)
"""Beginnings of names that Orbax uses itself for what is not an item."""
_RESERVED = (*ARRAY_FILES, ".zattrs", ".zgroup")


def check_state(state: FlatState) -> None:
    """Check that names, dtypes and shapes can be stored.

    Raises:
        KeyConflict: Two tensors have one name in Orbax, or one is the beginning of another.
        UnsupportedFeature: A name, dtype or number of axes cannot be stored.
        LimitExceeded: A name is too long or has too many parts.
    """
    for key in (*state, *(path for path in state.metadata.empty if path)):
        _check_key(key)
    unflatten_tree({key: key for key in state}, state.metadata.empty)
    _check_collisions(state)
    wrong = [
        f"{join_key(key)} ({spec})"
        for key, spec in state.specs().items()
        if spec.dtype.name not in STORED_DTYPES or len(spec.shape) > MAX_RANK
    ]
    if wrong:
        raise UnsupportedFeature(
            f"Orbax checkpoints cannot store the dtype or the number of axes of "
            f"{count(len(wrong), 'tensor')}: {listed(wrong)}. At most {MAX_RANK} axes are supported.",
            hint='Cast them, or write another format, such as format="npz" (--format).',
        )


def check_item(item: str) -> None:
    """Check the name of an item, which is the name of its folder.

    Raises:
        UsageError: It is not the plain name of a folder.
    """
    plain = item not in ("", ".", "..") and not set(item) & set('/\\\0:*?"<>|') and is_unicode(item)
    reserved = item.startswith(_RESERVED_FOR_ORBAX) or TEMPORARY.strip(".") in item
    if not plain or reserved or len(item.encode()) > 128:
        why = "Orbax uses such names itself" if plain and reserved else "it is the name of a folder"
        raise UsageError(
            f"{shown(item)} cannot be the name of an item: {why}.",
            hint='Pass a name such as to_item="params" (--to-item params).',
        )


def check_step(step: int | None) -> None:
    """Check the number of a step, which is the name of its folder.

    Raises:
        UsageError: It is so large that the step would not be read.
    """
    if step is not None and step >= _END_OF_STEPS:
        raise UsageError(
            f"expected a step below 10^18, got {shown(str(step))}.",
            hint="Pass a smaller number as to_step= (--to-step).",
        )


def _check_key(key: Key) -> None:
    if len(key) > _MAX_PARTS:
        raise LimitExceeded(
            f"the name has {len(key)} parts; Orbax checkpoints with at most {_MAX_PARTS} are supported.",
            key=(*key[:8], "..."),
            hint="Rename the tensor.",
        )
    for part in key:
        if not is_unicode(part):
            raise UnsupportedFeature(
                f"the name {shown(part)} contains a lone surrogate, which UTF-8 cannot encode.",
                hint="Rename the tensor.",
            )
        unsafe = [piece for piece in part.split("/") if piece in ("", ".", "..", *_RESERVED)]
        if unsafe or "\0" in part:
            raise UnsupportedFeature(
                f"the part {shown(part)} of the name cannot be stored, since names are paths in Orbax: "
                f"expected no {shown(unsafe[0]) if unsafe else 'zero byte'} between its slashes.",
                key=key,
                hint="Rename the tensor.",
            )
    if (length := len(array_name(key).encode())) > _MAX_NAME:
        raise LimitExceeded(
            f"the name {shown(array_name(key), 40)} is {length} bytes; at most {_MAX_NAME} are supported.",
            hint="Rename the tensor.",
        )


def _check_collisions(keys: Iterable[Key]) -> None:
    """Check that no two tensors have one name once their parts are joined by dots, which are not escaped."""
    names: dict[str, Key] = {}
    for key in keys:
        other = names.setdefault(array_name(key), key)
        if other != key:
            raise KeyConflict(
                f"Orbax stores the tensor under the name {array_name(key)!r}, and {other!r} under the same.",
                key=key,
                hint="Rename one of them: Orbax joins the parts of a name by dots.",
            )
