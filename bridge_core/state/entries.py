"""One entry of a checkpoint: the tensors below a path, under their names below it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from bridge_core.errors import UsageError
from bridge_core.messages import count, listed, shown
from bridge_core.state.flat_state import FlatState
from bridge_core.state.keys import Key
from bridge_core.state.left_out import LeftOut

__all__ = ["mapping_entry", "read_from_entry", "require_entry_path", "select_entry", "unknown_entry"]

_LONGEST_SHOWN = 200


def select_entry(state: FlatState, entry: str) -> FlatState:
    """Return the tensors of an entry, without its path in their names, and their metadata.

    >>> state = FlatState({("params", "w"): 1.0, ("ema", "w"): 2.0, ("step",): 3})
    >>> chosen = select_entry(state, "ema")
    >>> list(chosen), chosen.metadata.notes
    ([('w',)], ("the weights were read from the entry 'ema'; not read: params (1 tensor), step (1 tensor)",))

    Args:
        state: A state.
        entry: The path, its parts joined by dots, or by slashes.

    Raises:
        UsageError: No tensor's name begins with the path.
    """
    lengths = {key: length for key in state if (length := _length(key, entry))}
    if not lengths and "/" in entry:
        return select_entry(state, entry.replace("/", "."))
    if not lengths:
        raise unknown_entry(entry, dict.fromkeys(key[0] for key in state if len(key) > 1))
    first, length = next(iter(lengths.items()))
    others: dict[str, LeftOut] = {}
    for key in state:
        if key not in lengths:
            name = _branch(key, first[:length])
            known = others.get(name, LeftOut(name, "not in the entry that was chosen"))
            others[name] = replace(
                known, tensors=known.tensors + 1, nbytes=known.nbytes + state.spec(key).nbytes
            )
    chosen = state.select(lengths).rename({key: key[length:] for key, length in lengths.items()})
    names = [f"{name} ({count(left.tensors, 'tensor')})" for name, left in others.items()]
    above = chosen.metadata
    metadata = above.with_(left_out=(*above.left_out, *others.values()))
    return read_from_entry(chosen.replace(metadata=metadata), entry, names)


def require_entry_path(entry: object) -> None:
    """Check the argument ``entry=`` before a file is opened.

    Raises:
        UsageError: The value is neither None nor a string.
    """
    if entry is not None and not isinstance(entry, str):
        raise UsageError(
            f"expected entry= to be a path of names joined by dots, got {shown(entry)}.",
            hint='Pass entry="ckpt.model_ema" (--entry).',
        )


def mapping_entry(value: Mapping[Any, Any], entry: str) -> Mapping[Any, Any] | None:
    """Return the mapping at a path of nested mappings; None if there is none.

    >>> mapping_entry({"ckpt": {"model_ema": {"w": 1}}}, "ckpt.model_ema")
    {'w': 1}
    """
    if entry in value:
        child = value[entry]
        return child if isinstance(child, Mapping) else None
    parts = entry.split(".")
    for at in range(len(parts) - 1, 0, -1):
        child = value.get(".".join(parts[:at]))
        inner = mapping_entry(child, ".".join(parts[at:])) if isinstance(child, Mapping) else None
        if inner is not None:
            return inner
    return None


def read_from_entry(state: FlatState, entry: str, left_out: Iterable[str]) -> FlatState:
    """Return the state of an entry, with a note about the entry and what was not read."""
    others = listed(left_out)
    note = f"the weights were read from the entry {entry!r}" + (f"; not read: {others}" if others else "")
    metadata = state.metadata
    provenance = {**metadata.provenance, "entry": entry}
    return state.replace(metadata=metadata.with_(provenance=provenance, notes=(*metadata.notes, note)))


def unknown_entry(
    entry: str, entries: Iterable[str], *, without: str = "all tensors are at the top"
) -> UsageError:
    """Return the error for an unknown entry, with those that exist and the nearest of them.

    Args:
        entry: The path that the caller gave.
        entries: The paths of the entries that hold tensors.
        without: What the message has in place of the list if there are no entries.
    """
    import difflib  # only errors need it

    names = list(entries)
    near = difflib.get_close_matches(entry[:_LONGEST_SHOWN], names, n=1)
    known = f"the entries with tensors are: {listed(names)}" if names else without
    hint = f"Did you mean {near[0]!r}?" if near else None
    return UsageError(f"unknown entry {shown(entry, _LONGEST_SHOWN)}: {known}.", hint=hint)


def _length(key: Key, entry: str) -> int:
    """Return how many parts of a key are the entry's path; 0 if the key is not below it."""
    if not key or not entry.startswith(key[0]):
        return 0
    return next((n for n in range(1, len(key)) if ".".join(key[:n]) == entry), 0)


def _branch(key: Key, chosen: Key) -> str:
    """Return the shortest path above a key that is not a path above the chosen one."""
    common = 0
    while common < min(len(key), len(chosen)) and key[common] == chosen[common]:
        common += 1
    return ".".join(key[: common + 1])
