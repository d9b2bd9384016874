"""Which containers and objects of a checkpoint hold tensors, found without recursion."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from bridge_torch.safe_pickle import Global, Opaque, Storage, TensorRef, UnsupportedTensor, parts_of

__all__ = ["find_holders", "foreign_kinds", "holds_module", "tensor_count"]

_VALUES = frozenset({TensorRef, UnsupportedTensor, Storage})
_CONTAINERS = frozenset({dict, list, tuple, Opaque})


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


def tensor_count(node: Any) -> int:
    """Return how many tensors nested dicts hold; values of other kinds are not searched."""
    counts: dict[int, int] = {}

    def visit(node: dict[Any, Any]) -> int:
        if id(node) not in counts:
            counts[id(node)] = 0
            for child in node.values():
                kind = type(child)
                counts[id(node)] += visit(child) if kind is dict else kind in (TensorRef, UnsupportedTensor)
        return counts[id(node)]

    return visit(node) if type(node) is dict else 0


def foreign_kinds(value: Any) -> list[str]:
    """Return the names of unknown classes and functions in a value, each once."""
    return list(dict.fromkeys(_foreign(value)))


def holds_module(value: Any) -> bool:
    """Tell whether a value is, or holds, a pickled `torch.nn.Module`."""
    return any(kind.startswith("torch.nn.modules.") for kind in foreign_kinds(value))


def _foreign(root: Any) -> Iterator[str]:
    met = {id(root)}
    waiting = [root]
    while waiting:
        node = waiting.pop()
        kind = type(node)
        if kind is Opaque and node.is_foreign:
            yield node.kind
        elif kind is Global and node.is_foreign:
            yield node.path
        for child in parts_of(node) or ():
            if id(child) not in met and (type(child) in _CONTAINERS or type(child) is Global):
                met.add(id(child))
                waiting.append(child)
