"""Names as the rows of a tree: one row a path that branches, and siblings that differ in a number folded."""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from bridge_core.html.escaping import plain_text
from bridge_core.messages import fold_names

__all__ = ["Leaf", "TreeRows", "tree_rows", "visible"]

_DEEPEST = 48
"""Parts of a name that become levels; what follows stays together as one name."""
_FEWEST = 3
"""Number of siblings from which on they are folded."""
_NUMBER = re.compile(r"[0-9]{1,9}")


@dataclass(frozen=True)
class Leaf:
    """One name of a tree.

    Args:
        path: The parts of the name.
        info: What is shown next to it, such as ``float32[4, 3]``.
        alike: What two names must share, besides ``info``, so that their siblings may be folded.
    """

    path: tuple[str, ...]
    info: str = ""
    alike: Hashable = None


@dataclass(frozen=True)
class TreeRows:
    """The rows of a tree, from top to bottom.

    Args:
        depth: Level of each row; 0 for the top.
        name: Name of each row.
        leaf: Number of the row's leaf; -1 for a row with rows below it, -2 for one that folds its siblings.
    """

    depth: list[int] = field(default_factory=list)
    name: list[str] = field(default_factory=list)
    leaf: list[int] = field(default_factory=list)


def visible(name: str) -> str:
    """Return a name as text that can be seen: in quotes if it is empty, or begins or ends with a space.

    >>> visible(""), visible(" "), visible("a b")
    ("''", "' '", 'a b')
    """
    text = plain_text(name)
    return text if text and text == text.strip() else f"'{text}'"


class _Node:
    __slots__ = ("alike", "children", "fold", "leaf", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        self.leaf = -1
        self.fold = False
        self.children: dict[Any, _Node] = {}
        self.alike: Hashable = None


def tree_rows(leaves: Sequence[Leaf]) -> TreeRows:
    """Return the rows of a tree.

    Args:
        leaves: The names, in the order in which they are shown.

    >>> rows = tree_rows([Leaf(("layer", str(n), "w")) for n in range(3)])
    >>> rows.name
    ['layer.{0..2}', '0', 'w', '1', 'w', '2', 'w']
    """
    top = _Node("")
    for number, leaf in enumerate(leaves):
        path = leaf.path
        if len(path) > _DEEPEST:
            path = (*path[: _DEEPEST - 1], ".".join(path[_DEEPEST - 1 :]))
        node = top
        for part in path[:-1]:
            below = node.children.get(part)
            if below is None:
                below = node.children[part] = _Node(part)
            node = below
        # A leaf may have the name of a node: the tensor "a" next to the tensor "a.b".
        last = path[-1] if path else ""
        child = node.children[(last, number)] = _Node(last)
        child.leaf, child.alike = number, (leaf.info, leaf.alike)
    _fold(top)
    rows = TreeRows()
    for child in top.children.values():
        _write(child, 0, rows)
    return rows


def _fold(node: _Node) -> None:
    """Fold children that are alike, from the bottom; note what each node is alike by."""
    if not node.children:
        return
    for child in node.children.values():
        _fold(child)
    groups: dict[Hashable, list[tuple[Any, _Node]]] = {}
    for key, child in node.children.items():
        pattern = _NUMBER.sub("#", child.name)
        groups.setdefault(pattern if pattern != child.name else id(child), []).append((key, child))
    if len(groups) < len(node.children):
        node.children = dict(member for group in groups.values() for member in _folded(group))
    node.alike = _Alike.of(
        (child.name, child.fold, len(child.children) if child.fold else 0, child.alike)
        for child in node.children.values()
    )


def _folded(group: list[tuple[Any, _Node]]) -> list[tuple[Any, _Node]]:
    """Return siblings that differ in numbers, in their order, folded where alike."""
    group.sort(key=lambda member: _numbers(member[1].name))
    alike: dict[Hashable, list[tuple[Any, _Node]]] = {}
    for member in group:
        alike.setdefault(member[1].alike, []).append(member)
    result: list[tuple[Any, _Node]] = []
    for members in alike.values():
        if len(members) < _FEWEST:
            result += members
            continue
        fold = _Node(", ".join(text for text, _ in fold_names(child.name for _, child in members)))
        fold.fold, fold.children = True, dict(members)
        result.append((("", id(fold)), fold))
    first = {
        id(node): _numbers((next(iter(node.children.values())) if node.fold else node).name)
        for _, node in result
    }
    return sorted(result, key=lambda member: first[id(member[1])])


def _numbers(name: str) -> list[int]:
    return list(map(int, _NUMBER.findall(name)))


class _Alike:
    """What a node is alike by: its children, with a hash that is computed once."""

    __slots__ = ("children", "number")

    def __init__(self, children: tuple[Any, ...]) -> None:
        self.children = children
        self.number = hash(children)

    @classmethod
    def of(cls, children: Iterable[Any]) -> _Alike:
        return cls(tuple(children))

    def __hash__(self) -> int:
        return self.number

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Alike) and self.number == other.number and self.children == other.children


def _write(node: _Node, depth: int, rows: TreeRows) -> None:
    names = [node.name]
    while len(node.children) == 1 and not node.fold:
        (only,) = node.children.values()
        if only.leaf >= 0:
            break
        node = only
        names.append(node.name)
    rows.depth.append(depth)
    rows.name.append(".".join(map(visible, names)))
    rows.leaf.append(node.leaf if node.leaf >= 0 else -2 if node.fold else -1)
    for child in node.children.values():
        _write(child, depth + 1, rows)
