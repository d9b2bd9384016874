"""The entry of a checkpoint that is read as the state dict: the usual one, or the caller's choice."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from typing import Any

from bridge_core import BridgeError, MalformedFile, UnsupportedFeature, UsageError
from bridge_core.messages import count, listed
from bridge_core.state import unknown_entry
from bridge_torch.file_format.left_out import LeftOut, choices, is_training_state, shown_name
from bridge_torch.file_format.tensor_holders import array_paths, find_holders, holds_module
from bridge_torch.hints import SAVE_WEIGHTS
from bridge_torch.safe_pickle import Opaque, TensorRef, Unpickled, UnsupportedTensor, unsafe_names

__all__ = ["WRAPPERS", "Choice", "kind_of"]

WRAPPERS = ("state_dict", "model_state_dict", "model_state", "model", "module", "net")
"""Usual names of the entry that is the state dict, in order; the first that holds tensors is read."""


class Choice:
    """The dict that is read as the state dict, the names that lead to it, and the entries on the way.

    Args:
        pickle: The pickle of a checkpoint, whose root is a dict.

    Raises:
        UnsafeFile: The root holds no tensors, but objects of unknown classes.
        UnsupportedFeature: It holds no tensors, but numpy arrays.
        MalformedFile: It holds no tensors.
    """

    def __init__(self, pickle: Unpickled) -> None:
        self.pickle = pickle
        self.node: dict[Any, Any] = pickle.value
        self.names: tuple[str, ...] = ()
        self.left_out: list[LeftOut] = []
        self.holders = find_holders(self.node)
        if self.node and id(self.node) not in self.holders:
            if pickle.foreign:
                raise unsafe_names(pickle.foreign, holds_module=pickle.holds_module)
            arrays = array_paths(self.node)
            if arrays:
                names = listed(map(shown_name, arrays))
                raise UnsupportedFeature(
                    f"the file holds no tensors, but {count(len(arrays), 'numpy array')}: {names}. Arrays "
                    "in a pickle are not read.",
                    hint="If you trust the file, load it, and write the arrays with numpy.savez, or "
                    "torch.from_numpy(array) of each with torch.save.",
                )
            shown = listed(map(shown_name, self.node))
            holds = f"{count(len(self.node), 'other value')} ({shown})" if shown else "an empty dict"
            raise MalformedFile(
                f"the file holds no weights: expected a state dict of tensors, got {holds}.",
                hint=f"Save the weights: {SAVE_WEIGHTS}.",
            )

    def enter(self, entry: str) -> None:
        """Go to an entry of the root, or else of the usual state dict.

        Raises:
            UsageError: There is no such entry, or it is not a dict of tensors.
            UnsafeFile: It is an object of an unknown class.
        """
        steps = _steps(self.node, entry)
        if steps is None:
            self.unwrap()
            steps = _steps(self.node, entry)
        if steps is None:
            own = [".".join(self.names)] if self.names else []
            below = self._left_out(self.node)
            has_tensors = any(type(value) is TensorRef for value in self.node.values())
            without = "all tensors are at the top" if has_tensors else "no entry is a dict of tensors"
            raise unknown_entry(entry, [*own, *choices([*self.left_out, *below])], without=without)
        for name, value in steps:
            self._take(name, value)

    def unwrap(self) -> None:
        """Go down through entries of usual names to the dict that holds the weights.

        Raises:
            UnsafeFile: An entry of a usual name is an object of an unknown class that holds tensors.
        """
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

    def _not_weights(self, path: str, value: Any, others: Mapping[str, int]) -> BridgeError:
        """Return the error for an entry that is not a dict of tensors."""
        if _is_foreign(value):
            error = unsafe_names(
                [f"{value.kind} (in {shown_name(path)})"], holds_module=holds_module([value])
            )
            if others:
                error.hint = f"{_other_entries(others)} {error.hint}"
            return error
        kind = "a dict without tensors" if type(value) is dict else kind_of(value)
        return UsageError(
            f"the entry {path!r} is not a state dict: expected a dict of tensors, got {kind}.",
            hint=_other_entries(others) if others else None,
        )

    def _left_out(self, entries: Mapping[Any, Any]) -> list[LeftOut]:
        return [
            LeftOut(
                ".".join((*self.names, shown_name(key))),
                value,
                is_training_state(key, value),
                id(value) in self.holders,
            )
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
    """Return what a dict holds other than an entry; names that share a first part count as one entry."""
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


def _other_entries(paths: Mapping[str, int]) -> str:
    """Return how to choose one of some entries: the call for the first, and the names of the others."""
    first, *rest = paths
    more = f" Other entries that hold weights: {listed(rest)}." if rest else ""
    choice = f"entry={json.dumps(first, ensure_ascii=False)} (--entry {shlex.quote(first)})"
    return f"Pass {choice} to read an entry that holds weights.{more}"


def _is_foreign(value: Any) -> bool:
    return type(value) is Opaque and value.is_foreign


def kind_of(value: Any) -> str:
    """Return the kind of a value, with its article, for messages.

    >>> kind_of([])
    'a list'
    """
    if isinstance(value, TensorRef | UnsupportedTensor):
        return "a single tensor"
    if isinstance(value, Opaque):
        return f"an object of {shown_name(value.kind)}"
    if value is None:
        return "None"
    name = type(value).__name__
    return f"an {name}" if name[0] in "aeiou" else f"a {name}"
