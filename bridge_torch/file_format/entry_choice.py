"""The entry of a checkpoint that is taken for the state dict: the usual one, or the one that is asked for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from bridge_core import BridgeError, MalformedFile, UnsupportedFeature, UsageError
from bridge_core.messages import listed
from bridge_core.state import unknown_entry
from bridge_torch.file_format.left_out import LeftOut, choices, is_training_state, shown_name
from bridge_torch.file_format.tensor_holders import array_paths, find_holders, holds_module
from bridge_torch.safe_pickle import Opaque, TensorRef, Unpickled, UnsupportedTensor, unsafe_names

__all__ = ["WRAPPERS", "Choice", "kind_of"]

WRAPPERS = ("state_dict", "model_state_dict", "model_state", "model", "module", "net")
"""Usual names of the entry that holds the state dict; the first that holds tensors is taken."""


class Choice:
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
            arrays = array_paths(self.node)
            if arrays:
                names = listed(map(shown_name, arrays))
                raise UnsupportedFeature(
                    f"holds no tensors, but numpy arrays, which are not read: {names}.",
                    hint="Load it where you trust it, and save torch.from_numpy(array) of each by "
                    "torch.save, or the arrays by numpy.savez.",
                )
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
            has_tensors = any(type(value) is TensorRef for value in self.node.values())
            without = "all tensors are at the top" if has_tensors else "no entry holds tensors by name"
            raise unknown_entry(entry, [*own, *choices([*self.left_out, *below])], without=without)
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
                [f"{value.kind} (in {shown_name(path)})"], holds_module=holds_module([value])
            )
            if names:
                error.hint = f"{error.hint} Or choose another entry with entry= (--entry): {names}."
            return error
        found = "a dict without tensors" if type(value) is dict else kind_of(value)
        return UsageError(
            f"the entry {path!r} is {found}; a dict of tensors was expected.",
            hint=f"Entries that hold tensors: {names}." if names else None,
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


def kind_of(value: Any) -> str:
    """Return what a value is that is not the dict that was expected."""
    if isinstance(value, TensorRef | UnsupportedTensor):
        return "a single tensor"
    if isinstance(value, Opaque):
        return f"an object of {shown_name(value.kind)}"
    if value is None:
        return "None"
    name = type(value).__name__
    return f"an {name}" if name[0] in "aeiou" else f"a {name}"
