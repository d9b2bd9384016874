"""The keys of a checkpoint as a tree in which numbered parts that are alike are one node."""

from __future__ import annotations

import functools
import itertools
import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import cast

from bridge_core.state import FlatState, Key, TensorSpec, VariableCollections

__all__ = ["SLOT", "Node", "NodePath", "Side", "fold", "numbers_of", "slots_of", "texts_of"]

SLOT = "\0"
"""Stands for the number in the text of a numbered node."""

_NUMBERED = re.compile(r"(.*?)(0|[1-9][0-9]*)([^0-9]*)", re.DOTALL)


@dataclass(frozen=True, eq=False)
class Node:
    """A part of names; one node for all numbers below which everything has the same names and shapes.

    Args:
        text: The separator before the part (``.`` or ``/``) and the part, its number replaced by `SLOT`.
        numbers: The numbers, in order; empty if the part has none.
        children: The parts below; empty for a leaf.
        shape: A leaf's shape; None for others.
        sort: A leaf's sort of dtype: ``f`` for floating-point numbers, else numpy's letter.
        collection: A leaf's variable collection; empty if keys have none.
    """

    text: str
    numbers: tuple[int, ...] = ()
    children: tuple[Node, ...] = ()
    shape: tuple[int, ...] | None = None
    sort: str = "f"
    collection: str = ""

    @property
    def is_leaf(self) -> bool:
        """Whether it is a tensor."""
        return self.shape is not None

    @property
    def count(self) -> int:
        """How many parts it stands for."""
        return len(self.numbers) or 1

    @functools.cached_property
    def leaves(self) -> tuple[NodePath, ...]:
        """The paths from this node to each leaf."""
        if self.is_leaf:
            return ((self,),)
        return tuple((self, *path) for child in self.children for path in child.leaves)


NodePath = tuple[Node, ...]
"""Nodes from the root, or from another node, down to one."""


@dataclass(frozen=True, eq=False)
class Side:
    """One side of a matching.

    Args:
        layout: Its layout.
        roots: The top of its tree.
        keys: Text of a leaf -> its key.
        modules: Path without a collection -> names of the live module's types, where they are known.
    """

    layout: str
    roots: tuple[Node, ...]
    keys: Mapping[str, Key]
    modules: Mapping[Key, tuple[str, ...]] = field(default_factory=dict)

    def keys_of(self, path: NodePath) -> tuple[Key, ...]:
        """Return the keys that a path to a leaf stands for; the last number varies fastest."""
        return tuple(self.keys[text] for text in texts_of(path))

    def types_of(self, path: NodePath) -> frozenset[str]:
        """Return the types of the live module that owns a leaf; none if they are not known."""
        if not self.modules:
            return frozenset()
        text = next(texts_of(path[:-1]), "")
        return frozenset(self.modules.get(tuple(text[1:].split(".")) if text else (), ()))


def texts_of(path: NodePath) -> Iterator[str]:
    """Yield the text of each key that a path stands for."""
    choices = [[node.text.replace(SLOT, str(n)) for n in node.numbers] or [node.text] for node in path]
    return map("".join, itertools.product(*choices))


def slots_of(path: NodePath) -> str:
    """Return the text of a path with a `SLOT` for each number."""
    return "".join(node.text for node in path)


def numbers_of(path: NodePath) -> Iterator[tuple[int, ...]]:
    """Yield the numbers of each key that a path stands for, in the order of `Side.keys_of`."""
    return itertools.product(*(node.numbers for node in path if node.numbers))


def fold(
    state: FlatState, layout: str, collections: VariableCollections, leaf_names: Collection[str] = ()
) -> Side:
    """Return a state's keys as a tree.

    Args:
        state: The state; no value is read.
        layout: Its layout.
        collections: Its variable collections, which are left out of the tree where the rest is unique.
        leaf_names: Names of leaves whose numbers count nothing, such as ``original0``.
    """
    names = collections.names(state)
    if len(set(names.values())) < len(names):
        names = {key: key for key in state}
    tree: dict[str, object] = {}
    keys: dict[str, Key] = {}
    for key, spec in state.specs().items():
        parts = [sign + text for part in names[key] for sign, text in _split(part)]
        branch = tree
        for part in parts[:-1]:
            below = branch.setdefault(part, {})
            if not isinstance(below, dict):  # a leaf that has parts below it
                below = branch[part] = {"": below}
            branch = below
        collection = collections.split(key)[0] if names[key] is not key else ""
        leaf = (spec, collection)
        if isinstance(there := branch.get(parts[-1]), dict):
            there[""] = leaf
        else:
            branch[parts[-1]] = leaf
        keys["".join(parts)] = key
    modules = {path: info.types for path, info in state.metadata.modules.items()}
    return Side(layout, _folded(tree, {}, frozenset(leaf_names))[0], keys, modules)


def _split(part: str) -> Iterator[tuple[str, str]]:
    first, *rest = part.split("/")
    yield ".", first
    for text in rest:
        yield "/", text


_Signature = tuple[object, ...]


def _folded(
    tree: Mapping[str, object], known: dict[_Signature, int], leaf_names: frozenset[str]
) -> tuple[tuple[Node, ...], int]:
    """Return the nodes of a level, and the number of its signature."""
    groups: dict[tuple[str, str], dict[int, str]] = defaultdict(dict)
    for text in tree:
        match = _NUMBERED.fullmatch(text)
        if text[1:] in leaf_names and not isinstance(tree[text], dict):
            continue
        if match is not None and not match[1][-1:].isdigit():
            groups[match[1], match[3]][int(match[2])] = text
    numbered: dict[str, tuple[str, int]] = {}
    for (before, after), texts in groups.items():
        if _is_list(before, after, texts):
            for number, text in texts.items():
                numbered[text] = (f"{before}{SLOT}{after}", number)
    alike: dict[tuple[str, int], list[int]] = {}
    nodes: dict[tuple[str, int], Node] = {}
    for text, below in tree.items():
        node, signature = _node(text, below, known, leaf_names)
        pattern, number = numbered.get(text, (text, -1))
        at = (pattern, signature)
        nodes.setdefault(at, node)
        alike.setdefault(at, []).extend([number] if number >= 0 else [])
    folded = tuple(
        replace(nodes[at], text=at[0], numbers=tuple(sorted(numbers))) for at, numbers in alike.items()
    )
    content = tuple(sorted((node.text, node.numbers, at[1]) for node, at in zip(folded, nodes, strict=True)))
    return folded, known.setdefault(content, len(known))


def _node(
    text: str, below: object, known: dict[_Signature, int], leaf_names: frozenset[str]
) -> tuple[Node, int]:
    if isinstance(below, dict):
        children, signature = _folded(below, known, leaf_names)
        return Node(text, children=children), signature
    spec, collection = cast("tuple[TensorSpec, str]", below)
    kind = spec.dtype.kind
    sort = kind if kind in "iub" else "f"
    signature = known.setdefault((tuple(spec.shape), sort, collection), len(known))
    return Node(text, shape=tuple(spec.shape), sort=sort, collection=collection), signature


def _is_list(before: str, after: str, texts: Mapping[int, str]) -> bool:
    """Return whether numbers count, and are not a part of a name such as ``conv2d``.

    A number that is all of a part counts. Others do if they are a full range from 0 or 1.
    """
    if before in (".", "/") and not after:
        return True
    numbers = sorted(texts)
    return len(numbers) > 1 and numbers[0] in (0, 1) and numbers[-1] - numbers[0] == len(numbers) - 1
