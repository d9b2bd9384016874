"""Which part of a checkpoint are the weights.

`torch.save` stores any object. Most checkpoints are a state dict, or a dict that holds one under a usual name
beside an optimizer, counters and options. The choice is fixed, or the caller's, and is reported, never silent.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from bridge_core import BridgeError, MalformedFile, UsageError
from bridge_core.messages import listed
from bridge_core.state import unknown_entry
from bridge_torch.file_format.left_out import LeftOut, choices, is_training_state, reading_notes, shown_name
from bridge_torch.file_format.state_dict import StateDict
from bridge_torch.file_format.tensor_holders import find_holders
from bridge_torch.safe_pickle import Opaque, TensorRef, Unpickled, UnsupportedTensor, unsafe_names

__all__ = ["WRAPPERS", "Weights", "find_weights"]

WRAPPERS = ("state_dict", "model_state_dict", "model_state", "model", "module", "net")
"""Usual names of the entry that holds the state dict; the first that holds tensors is taken."""


@dataclass(frozen=True)
class Weights:
    """The state dict of a checkpoint.

    Args:
        tensors: Dotted name -> view.
        wrapper: Path of the entry that holds them; empty if the root does.
        left_out: What else the file holds.
        foreign: Names in the file that only its own code could give a meaning.
        entry: The entry that the caller asked for; empty if none was.
    """

    tensors: Mapping[str, TensorRef]
    wrapper: str
    left_out: tuple[LeftOut, ...]
    foreign: tuple[str, ...]
    entry: str = ""

    def provenance(self) -> dict[str, str]:
        """Return where the weights were, and what was left out."""
        ignored = listed(left.path for left in self.left_out)
        said = {"entry": self.entry, "wrapper": self.wrapper, "ignored": ignored}
        return {name: text for name, text in said.items() if text}

    def notes(self) -> tuple[str, ...]:
        """Return what a reader of a report should know of the choice."""
        return reading_notes(self.wrapper, self.left_out, self.foreign)


def find_weights(pickle: Unpickled, *, path: str, entry: str | None = None) -> Weights:
    """Choose the weights in what a checkpoint holds.

    Entries named as in `WRAPPERS` are followed, one inside the other; below that, nested dicts are joined by
    dots. Optimizers, schedulers and values that are not tensors are left out by name.

    Args:
        pickle: What the checkpoint holds.
        path: The file, for messages.
        entry: The entry to begin at, its path joined by dots; None for the root.

    Raises:
        MalformedFile: The root is not a dict, a name is not a string, or there are no tensors.
        UnsafeFile: A weight, or what holds the weights, is an object of an unknown class.
        UnsupportedFeature: A weight is sparse, quantised or otherwise not read, or stands in a list.
        KeyConflict: Two weights have one name.
        LimitExceeded: Nested dicts repeat each other beyond measure.
        UsageError: There is no such entry, or it does not hold tensors by name.
    """
    if not isinstance(pickle.value, dict):
        raise MalformedFile(
            f"holds {_kind(pickle.value)}; a state dict was expected.",
            path=path,
            hint="Save module.state_dict().",
        )
    try:
        choice = _Choice(pickle)
        if entry is not None:
            choice.enter(entry)
        choice.unwrap()
        found = StateDict(choice.holders, path)
        found.read(choice.node, ".".join(choice.names))
        found.refuse(holds_module=pickle.holds_module)
    except BridgeError as err:
        err.path = err.path or path
        raise
    left_out = (*choice.left_out, *found.left_out)
    return Weights(found.tensors, ".".join(choice.names), left_out, pickle.foreign, entry or "")


class _Choice:
    """The dict that is taken for the state dict, the names that lead to it, and what was passed by."""

    def __init__(self, pickle: Unpickled) -> None:
        self.pickle = pickle
        self.node: dict[Any, Any] = pickle.value
        self.names: tuple[str, ...] = ()
        self.left_out: list[LeftOut] = []
        self.holders = find_holders(self.node)
        if self.node and id(self.node) not in self.holders:
            if pickle.foreign:
                raise unsafe_names(pickle.foreign, holds_module=pickle.holds_module)
            raise MalformedFile(f"holds no tensors; its entries are {listed(map(shown_name, self.node))}.")

    def enter(self, entry: str) -> None:
        """Go to an entry of the root, or else of the usual state dict."""
        steps = _steps(self.node, entry)
        if steps is None:
            self.unwrap()
            steps = _steps(self.node, entry)
        if steps is None:
            own = [".".join(self.names)] if self.names else []
            below = self._left_out(self.node)
            raise unknown_entry(entry, [*own, *choices([*self.left_out, *below])])
        for name, value in steps:
            self._take(name, value)

    def unwrap(self) -> None:
        """Go down through entries of usual names, to the dict that holds the weights."""
        while True:
            name = next((name for name in WRAPPERS if self._holds_weights(self.node.get(name))), None)
            if name is None:
                return
            self._take(name, self.node[name])

    def _holds_weights(self, value: Any) -> bool:
        return (type(value) is dict or _is_foreign(value)) and id(value) in self.holders

    def _take(self, name: str, value: Any) -> None:
        others = self._left_out(_others(self.node, name))
        path = ".".join((*self.names, name))
        if name not in self.node:
            self.holders |= find_holders(value)
        if type(value) is not dict or id(value) not in self.holders:
            raise self._not_weights(path, value, choices(others))
        self.left_out += others
        self.node, self.names = value, (*self.names, name)

    def _not_weights(self, path: str, value: Any, others: Iterable[str]) -> BridgeError:
        """Return the error for an entry that is not a dict of tensors."""
        names = listed(others)
        if _is_foreign(value):
            error = unsafe_names(
                [f"{value.kind} in {shown_name(path)}"], holds_module=self.pickle.holds_module
            )
            if names:
                error.hint = f"{error.hint} Or choose another entry with entry= (--entry): {names}."
            return error
        found = "a dict without tensors" if type(value) is dict else _kind(value)
        return UsageError(
            f"the entry {path!r} is {found}; a dict of tensors was expected.",
            hint=f"Entries that hold tensors: {names}." if names else None,
        )

    def _left_out(self, entries: Mapping[Any, Any]) -> list[LeftOut]:
        return [
            LeftOut(".".join((*self.names, shown_name(key))), value, is_training_state(key, value))
            for key, value in entries.items()
        ]


def _steps(node: dict[Any, Any], path: str) -> list[tuple[str, Any]] | None:
    """Return the names and values that lead to the entry of a path; None if there is none.

    Names in a dict may contain dots. Where no entry has the path, the names that begin with it are one.
    """
    return _nested_steps(node, path, False) or _nested_steps(node, path, True)


def _nested_steps(node: dict[Any, Any], path: str, joined: bool) -> list[tuple[str, Any]] | None:
    if path in node:
        return [(path, node[path])]
    if joined:
        start = f"{path}."
        below = {
            key.removeprefix(start): value
            for key, value in node.items()
            if isinstance(key, str) and key.startswith(start)
        }
        if below:
            return [(path, below)]
    parts = path.split(".")
    for at in range(len(parts) - 1, 0, -1):
        name = ".".join(parts[:at])
        child = node.get(name)
        deeper = _nested_steps(child, ".".join(parts[at:]), joined) if type(child) is dict else None
        if deeper is not None:
            return [(name, child), *deeper]
    return None


def _others(node: dict[Any, Any], name: str) -> dict[Any, Any]:
    """Return what a dict holds beside an entry; beside names that begin alike, as entries of that kind."""
    if name in node:
        return {key: value for key, value in node.items() if key != name}
    others: dict[Any, Any] = {}
    groups: dict[str, dict[str, Any]] = {}
    for key, value in node.items():
        first, dot, rest = key.partition(".") if isinstance(key, str) else (key, "", "")
        if not dot:
            others[key] = value
        elif not key.startswith(f"{name}."):
            groups.setdefault(first, {})[rest] = value
    return {**groups, **others}


def _is_foreign(value: Any) -> bool:
    return type(value) is Opaque and value.is_foreign


def _kind(value: Any) -> str:
    if isinstance(value, TensorRef | UnsupportedTensor):
        return "a single tensor"
    if isinstance(value, Opaque):
        return f"an object of {shown_name(value.kind)}"
    return f"a {type(value).__name__}" if value is not None else "None"
