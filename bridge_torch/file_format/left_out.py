"""The entries of a checkpoint that are not read, and how reports name them."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from bridge_core import state
from bridge_core.messages import count, listed
from bridge_torch.file_format.tensor_holders import ForeignKinds, TensorCounts, TensorSizes
from bridge_torch.safe_pickle import Opaque, TensorRef

__all__ = ["LeftOut", "choices", "is_training_state", "measured", "reading_notes", "shown_name"]

_TRAINING = frozenset(
    {
        "lr_scheduler",
        "lr_schedulers",
        "scheduler",
        "schedulers",
        "scaler",
        "grad_scaler",
        "amp",
        "callbacks",
        "loops",
    }
)
_KINDS_SHOWN = 3
_NAMES_SHOWN = 40
_LONGEST_SHOWN = 500


@dataclass(frozen=True)
class LeftOut:
    """An entry of a checkpoint that is not read.

    Args:
        path: The names that lead to it, joined by dots.
        value: Its value, as plain data.
        is_training: Whether it is the state of an optimizer, a schedule or the like.
        holds_tensors: Whether it holds tensors, in containers or objects of any kind.
    """

    path: str
    value: Any
    is_training: bool = False
    holds_tensors: bool = False


def is_training_state(key: Any, value: Any) -> bool:
    """Return whether an entry is the state of an optimizer, a schedule or the like, by name or content."""
    if isinstance(value, dict) and "state" in value and "param_groups" in value:
        return True
    return isinstance(key, str) and (key in _TRAINING or key.startswith("optim"))


def shown_name(name: Any) -> str:
    """Return a key as messages show it: printable, and at most 500 characters."""
    if isinstance(name, str):
        if len(name) > _LONGEST_SHOWN:
            name = f"{name[:_LONGEST_SHOWN]}..."
        return name if name.isprintable() and name else ascii(name)
    if isinstance(name, int | None):
        return str(name)
    return f"({shown_name(name.kind) if isinstance(name, Opaque) else type(name).__name__})"


def choices(left_out: Iterable[LeftOut]) -> dict[str, int]:
    """Return the paths of the entries that ``entry=`` can choose, each with the number of its tensors."""
    tensors = TensorCounts()
    counts = {left.path: 0 if left.is_training else tensors.of(left.value) for left in left_out}
    return {path: number for path, number in counts.items() if number}


def measured(left_out: Iterable[LeftOut], most: int) -> tuple[state.LeftOut, ...]:
    """Return the entries with what each is, and the number and bytes of its tensors.

    Args:
        left_out: The entries that are not read.
        most: Bytes of the file, which its tensors cannot exceed.
    """
    entries = tuple(left_out)
    numbers = choices(entries)
    sizes = TensorSizes()
    rows = []
    for left in entries:
        tensors, nbytes = sizes.of(left.value)
        reason = _reason(left, left.path in numbers, tensors)
        rows.append(state.LeftOut(left.path, reason, min(nbytes, most), tensors, left.path in numbers))
    return tuple(rows)


def _reason(left: LeftOut, is_choice: bool, tensors: int) -> str:
    if left.is_training:
        return "optimizer state" if _is_optimizer(left) else "state of the training"
    if is_choice:
        return "other tensors"
    if type(left.value) is TensorRef:
        return "a tensor"
    return f"tensors in {_type_name(left.value)}" if tensors else "no tensors"


def _is_optimizer(left: LeftOut) -> bool:
    last = left.path.rpartition(".")[2]
    value = left.value
    return last.startswith("optim") or (isinstance(value, dict) and "param_groups" in value)


def reading_notes(wrapper: str, left_out: tuple[LeftOut, ...], foreign: tuple[str, ...]) -> tuple[str, ...]:
    """Return the notes of a report on the entries of a file: which was read, and which were not.

    Args:
        wrapper: Path of the entry that was read; empty for the root.
        left_out: The others.
        foreign: Classes and functions in the file that are not known to be harmless.
    """
    notes = []
    if left_out:
        read = f"the weights were read from the entry {wrapper!r}; " if wrapper else "of the file's entries "
        verb = "not read" if wrapper else "these were not read"
        notes.append(f"{read}{verb}: {listed(_described(left_out, bool(foreign)))}")
    if foreign:
        names = listed(map(shown_name, foreign), _NAMES_SHOWN)
        notes.append(f"the file names code that weights do not need, and none of it was run: {names}")
    return tuple(notes)


def _type_name(value: Any) -> str:
    return f"an object of {value.kind}" if isinstance(value, Opaque) else f"a {type(value).__name__}"


def _described(left_out: tuple[LeftOut, ...], has_foreign: bool) -> list[str]:
    """Return the entries, each with what it holds; those that may be other weights come first."""
    numbers = choices(left_out)
    foreign = ForeignKinds()
    weights, objects, others = [], [], []
    for left in left_out:
        path = left.path
        kinds = foreign.of(left.value) if has_foreign else []
        if path in numbers:
            how = f"entry={json.dumps(path, ensure_ascii=False)}, --entry {shlex.quote(path)}"
            weights.append(f"{path} ({count(numbers[path], 'tensor')}; {how})")
        elif type(left.value) is TensorRef:
            weights.append(f"{path} (a tensor)")
        elif kinds:
            more = f" and {len(kinds) - _KINDS_SHOWN} more" if len(kinds) > _KINDS_SHOWN else ""
            objects.append(f"{path} ({', '.join(map(shown_name, kinds[:_KINDS_SHOWN]))}{more})")
        elif left.holds_tensors and not left.is_training:
            weights.append(f"{path} (tensors in {_type_name(left.value)})")
        else:
            others.append(path)
    return [*weights, *objects, *others]
