"""Pairing what two trees of names have left over, where labels, siblings and numbers leave one way only.

Names that are equal belong together. Below such a pair, what is left is paired by the names inside it, or
else by its labels, and only if nothing else there could be meant.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field

from bridge_core.state import Key

__all__ = ["Leftover", "pair_leftovers", "split_numbers"]

_NUMBERED = re.compile(r"(.*?)_?(\d+)")


@dataclass(frozen=True)
class Leftover:
    """A layer, or a leaf, that has no partner.

    Args:
        path: Its path.
        label: Equal for all that might be partners by their shapes.
    """

    path: Key
    label: Hashable


@dataclass(slots=True, eq=False)
class _Node:
    """A part of a name; each item is at a child without a name."""

    parent: _Node | None
    children: dict[str, _Node] = field(default_factory=dict)
    item: int = -1
    count: int = 0
    labels: int = 0
    names: int = 0


def split_numbers(path: Key) -> Key:
    """Return a path with every number at the end of a part as a part of its own.

    >>> split_numbers(("layers_0", "norm1", "conv1d"))
    ('layers', '0', 'norm', '1', 'conv1d')
    """
    parts: list[str] = []
    for part in path:
        tail: list[str] = []
        while part and (match := _NUMBERED.fullmatch(part)):
            part = match[1]
            tail.append(match[2])
        parts += [part] if part else []
        parts += reversed(tail)
    return tuple(parts)


def pair_leftovers(
    source: Sequence[Leftover], target: Sequence[Leftover], fits: Callable[[int, int], bool]
) -> dict[int, int]:
    """Return which of the source's belongs to which of the target's, by their numbers; the time is linear.

    Args:
        source: What the source has left, in its order.
        target: What the target is missing, named as the source names what both have.
        fits: Returns whether two of one label fit each other.
    """
    known: dict[object, int] = {}
    pairs: dict[int, int] = {}
    stack = [(_tree(source, known), _tree(target, known))]
    while stack:
        for one, other in _children_pairs(*stack.pop()):
            if one.item < 0 or other.item < 0:
                stack.append((one, other))
            elif source[one.item].label == target[other.item].label and fits(one.item, other.item):
                pairs[one.item] = other.item
    return {**pairs, **_pairs_of_rest(source, target, pairs, fits)}


def _tree(items: Sequence[Leftover], known: dict[object, int]) -> _Node:
    """Return the root of a tree of names, its nodes described by what is below them."""
    root = _Node(None)
    nodes = [root]
    for number, item in enumerate(items):
        node = root
        for part in (*split_numbers(item.path), ""):
            child = node.children.get(part)
            if child is None:
                child = node.children[part] = _Node(node)
                nodes.append(child)
            node = child
        node.item, node.count = number, 1
        node.labels = hash(("label", item.label))
        node.names = known.setdefault(item.label, len(known))
    for node in reversed(nodes):
        if node.item < 0:
            rows = [(name, child.names) for name, child in _ranked(node)]
            node.names = known.setdefault(tuple(rows), len(known))
        if node.parent is not None:
            node.parent.count += node.count
            node.parent.labels += node.labels
    return root


def _ranked(node: _Node) -> list[tuple[str, _Node]]:
    """Return the children by name; numbers count by their order only."""
    numbers = sorted((name for name in node.children if name.isdigit()), key=int)
    rest = sorted(name for name in node.children if not name.isdigit())
    return [
        *((f"#{rank}", node.children[name]) for rank, name in enumerate(numbers)),
        *((name, node.children[name]) for name in rest),
    ]


def _children_pairs(source: _Node, target: _Node) -> Iterator[tuple[_Node, _Node]]:
    """Yield the children of a pair that belong together: by name, by the names in them, by labels."""
    left, right = dict(source.children), dict(target.children)
    for names in _numbers(left, right):
        yield left.pop(names[0]), right.pop(names[1])
    for name in [name for name in left if name in right]:
        yield left.pop(name), right.pop(name)
    for one, other in _singles(left, right, lambda node: ("names", node.names) if node.count > 1 else None):
        yield left.pop(one), right.pop(other)
    for one, other in _singles(
        left, right, lambda node: (node.count, node.labels) if node.count > 1 else None
    ):
        yield left.pop(one), right.pop(other)
    inside = {
        labels
        for rest in (left, right)
        for node in rest.values()
        if node.count > 1
        for labels in _inside(node)
    }
    for one, other in _singles(left, right, lambda node: node.labels if node.count == 1 else None):
        if left[one].labels not in inside:
            yield _only(left.pop(one)), _only(right.pop(other))


def _numbers(left: dict[str, _Node], right: dict[str, _Node]) -> list[tuple[str, str]]:
    """Return the numbers of two lists of one length by their order."""
    one, other = (sorted((name for name in side if name.isdigit()), key=int) for side in (left, right))
    return list(zip(one, other, strict=True)) if len(one) == len(other) else []


def _singles(
    left: dict[str, _Node], right: dict[str, _Node], key: Callable[[_Node], Hashable]
) -> list[tuple[str, str]]:
    """Return the names of the pairs that share a value of the key with no other."""
    sides = [{name: key(node) for name, node in side.items()} for side in (left, right)]
    counts = [Counter(values.values()) for values in sides]
    names = {value: name for name, value in sides[1].items()}
    return [
        (name, names[value])
        for name, value in sides[0].items()
        if value is not None and counts[0][value] == counts[1][value] == 1
    ]


def _inside(node: _Node) -> Iterator[int]:
    stack = [node]
    while stack:
        node = stack.pop()
        if node.item >= 0:
            yield node.labels
        stack += node.children.values()


def _only(node: _Node) -> _Node:
    """Return the item of a node that holds one."""
    while node.item < 0:
        (node,) = node.children.values()
    return node


def _pairs_of_rest(
    source: Sequence[Leftover],
    target: Sequence[Leftover],
    pairs: dict[int, int],
    fits: Callable[[int, int], bool],
) -> dict[int, int]:
    """Return pairs of what is left in other places, if all of it can be paired in one way only."""
    taken = set(pairs.values())
    sides = (
        _families(source, [i for i in range(len(source)) if i not in pairs]),
        _families(target, [i for i in range(len(target)) if i not in taken]),
    )
    if sides[0].keys() != sides[1].keys():
        return {}
    rest: dict[int, int] = {}
    for label, families in sides[0].items():
        others = sides[1][label]
        if len(families) != 1 or len(others) != 1:
            return {}
        (one,), (other,) = families.values(), others.values()
        if len(one) != len(other) or not all(map(fits, one, other)):
            return {}
        rest.update(zip(one, other, strict=True))
    return rest


def _families(items: Sequence[Leftover], numbers: Sequence[int]) -> dict[Hashable, dict[Key, list[int]]]:
    """Return label -> path without numbers -> items in the order of their numbers."""
    families_of: dict[Hashable, dict[Key, list[tuple[tuple[int, ...], int]]]] = {}
    for number in numbers:
        parts = split_numbers(items[number].path)
        family = tuple("#" if part.isdigit() else part for part in parts)
        order = tuple(int(part) for part in parts if part.isdigit())
        families_of.setdefault(items[number].label, {}).setdefault(family, []).append((order, number))
    return {
        label: {family: [number for _, number in sorted(rows)] for family, rows in families.items()}
        for label, families in families_of.items()
    }
