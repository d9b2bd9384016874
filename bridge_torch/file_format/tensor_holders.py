"""Which containers and objects of a checkpoint hold tensors, found without recursion."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from bridge_core.state import DTYPES
from bridge_torch.safe_pickle import Global, Opaque, Storage, TensorRef, UnsupportedTensor, parts_of

__all__ = [
    "ForeignKinds",
    "TensorCounts",
    "TensorSizes",
    "array_paths",
    "find_holders",
    "holds_module",
    "is_numpy_array",
]

_VALUES = frozenset({TensorRef, UnsupportedTensor, Storage})
_CONTAINERS = frozenset({dict, list, tuple, Opaque})
_MAX_SEARCHED = 1_000_000


def find_holders(root: Any) -> frozenset[int]:
    """Return the identities of the containers and objects that hold a tensor, at any depth.

    Objects may hold each other.
    """
    holders: set[int] = set()
    above: dict[int, list[int]] = {id(root): []}
    waiting = [root]
    while waiting:
        node = waiting.pop()
        own = id(node)
        for child in parts_of(node) or ():
            kind = type(child)
            if kind in _VALUES:
                holders.add(own)
            elif kind in _CONTAINERS:
                places = above.get(id(child))
                if places is None:
                    places = above[id(child)] = []
                    waiting.append(child)
                if not places or places[-1] != own:
                    places.append(own)
    spread = list(holders)
    while spread:
        for holder in above[spread.pop()]:
            if holder not in holders:
                holders.add(holder)
                spread.append(holder)
    return frozenset(holders)


def is_numpy_array(value: Any) -> bool:
    """Return whether a value is a numpy array, which is not read: its bytes are within the pickle."""
    return type(value) is Opaque and value.kind == "numpy.ndarray"


def array_paths(root: dict[Any, Any]) -> list[str]:
    """Return the dotted names of numpy arrays in nested dicts; each dict is searched once."""
    paths: list[str] = []
    met = {id(root)}
    waiting: list[tuple[str, dict[Any, Any]]] = [("", root)]
    while waiting:
        prefix, node = waiting.pop()
        for key, value in node.items():
            if isinstance(key, str) and is_numpy_array(value):
                paths.append(prefix + key)
            elif isinstance(key, str) and type(value) is dict and id(value) not in met:
                met.add(id(value))
                waiting.append((f"{prefix}{key}.", value))
    return paths


class TensorCounts:
    """The number of tensors in nested dicts; each dict is counted once, however often a file refers to it.

    Dicts are compared by identity, so those that are counted must live as long as the counts.
    """

    def __init__(self) -> None:
        self._counts: dict[int, int] = {}

    def of(self, node: Any) -> int:
        """Return the number for a dict; values of other kinds are not searched."""
        if type(node) is not dict:
            return 0
        known = self._counts.get(id(node))
        if known is not None:
            return known
        count = 0
        for child in node.values():
            kind = type(child)
            count += self.of(child) if kind is dict else kind in (TensorRef, UnsupportedTensor)
        self._counts[id(node)] = count
        return count


class TensorSizes:
    """The number and the stored bytes of tensors in values; at most 1,000,000 parts are searched in all."""

    def __init__(self) -> None:
        self._left = _MAX_SEARCHED

    def of(self, root: Any) -> tuple[int, int]:
        """Return the number of tensors in a value, and the bytes of their storages, each counted once."""
        number, storages = 0, dict[str, int]()
        met = {id(root)}
        waiting = [root]
        while waiting and self._left > 0:
            node = waiting.pop()
            self._left -= 1
            if type(node) is TensorRef:
                number += 1
                itemsize = DTYPES[node.dtype].itemsize if node.dtype in DTYPES else 1
                storages[node.storage.key] = node.storage.numel * itemsize
            elif type(node) is UnsupportedTensor:
                number += 1
            else:
                for part in parts_of(node) or ():
                    if id(part) not in met:
                        met.add(id(part))
                        waiting.append(part)
        return number, sum(storages.values())


class ForeignKinds:
    """The unknown classes and functions in values; at most 1,000,000 parts are searched in all."""

    def __init__(self) -> None:
        self._left = _MAX_SEARCHED

    def of(self, value: Any) -> list[str]:
        """Return the names in a value, each once; beyond the bound, only those of the value itself."""
        return list(dict.fromkeys(self._names(value)))

    def _names(self, root: Any) -> Iterator[str]:
        met = {id(root)}
        waiting = [root]
        while waiting:
            node = waiting.pop()
            kind = type(node)
            if kind is Opaque and node.is_foreign:
                yield node.kind
            elif kind is Global and node.is_foreign:
                yield node.path
            if self._left <= 0:
                return
            for child in parts_of(node) or ():
                self._left -= 1
                if id(child) not in met and (type(child) in _CONTAINERS or type(child) is Global):
                    met.add(id(child))
                    waiting.append(child)


def holds_module(values: Iterable[Any]) -> bool:
    """Return whether one of some values is, or holds, a pickled `torch.nn.Module`."""
    return any(kind.startswith("torch.nn.modules.") for kind in ForeignKinds().of(list(values)))
