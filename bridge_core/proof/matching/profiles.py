"""What must be conserved: how many elements of each class of shapes a part of a tree holds."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from math import prod
from typing import Any

from bridge_core.proof.matching.folding import Node, NodePath, Side

__all__ = ["Profile", "Profiles", "elements_of"]

Colour = tuple[Any, ...]
Profile = tuple[tuple[int, int], ...]
"""Class -> elements, in order."""


def elements_of(path: NodePath) -> int:
    """Return how many elements the tensors of a path to a leaf have."""
    return prod(path[-1].shape or ()) * prod(node.count for node in path)


def colour_of(leaf: Node) -> Colour:
    """Return what cannot change: the sort of dtype, and the sizes of axes in any order."""
    return (leaf.sort, *sorted(n for n in leaf.shape or () if n != 1))


class Profiles:
    """Classes of leaves that may be one another, and the profile of each node."""

    def __init__(self, source: Side, target: Side) -> None:
        """Make classes of both sides' leaves.

        Args:
            source: One side.
            target: The other.
        """
        self._parent: dict[Colour, Colour] = {}
        sides = [[path for root in side.roots for path in root.leaves] for side in (source, target)]
        ours, theirs = ({colour_of(path[-1]) for path in paths} for paths in sides)
        for one, other in _with_equal_product(ours, theirs):
            if _joins(one[1:], other[1:]):
                self._unite(one, other)
        self._unite_stacked(*sides)
        self._unite_fused(*sides)
        totals = self._totals(sides)
        self.balanced = {name for name, (one, other) in totals.items() if one == other}
        self._one_sided = {name for name, (one, other) in totals.items() if not one or not other}
        self._numbers: dict[Colour, int] = {}
        self._cache: dict[tuple[int, int], Profile] = {}
        self._kept: list[Node] = []

    def class_of(self, leaf: Node) -> Colour:
        """Return the class of a leaf."""
        return self._root(colour_of(leaf))

    def is_balanced(self, leaf: Node) -> bool:
        """Return whether both sides have as many elements of a leaf's class."""
        return self.class_of(leaf) in self.balanced

    def is_one_sided(self, leaf: Node) -> bool:
        """Return whether the other side has nothing that a leaf could be."""
        return self.class_of(leaf) in self._one_sided

    def of(self, path: NodePath, *, reduced: bool = False) -> Profile:
        """Return the elements of each class below a path, all numbers of the path counted.

        Args:
            path: From the root.
            reduced: Whether only classes count of which both sides have the same number of elements.
        """
        outer = prod(node.count for node in path)
        return tuple((name, n * outer) for name, n in self._of_node(path[-1], reduced=reduced))

    def _of_node(self, node: Node, *, reduced: bool) -> Profile:
        at = (id(node), int(reduced))
        known = self._cache.get(at)
        if known is None:
            counts: Counter[int] = Counter()
            if node.is_leaf:
                name = self.class_of(node)
                if not reduced or name in self.balanced:
                    counts[self._numbers.setdefault(name, len(self._numbers))] += prod(node.shape or ())
            for child in node.children:
                for number, n in self._of_node(child, reduced=reduced):
                    counts[number] += n * child.count
            known = self._cache[at] = tuple(sorted(counts.items()))
            self._kept.append(node)  # an id is unique only while its node exists
        return known

    def _root(self, colour: Colour) -> Colour:
        while (parent := self._parent.get(colour, colour)) != colour:
            colour = parent
        return colour

    def _unite(self, one: Colour, other: Colour) -> None:
        first, second = self._root(one), self._root(other)
        if first != second:
            self._parent[second] = first

    def _totals(self, sides: list[list[NodePath]]) -> dict[Colour, tuple[int, int]]:
        counts: list[Counter[Colour]] = []
        for paths in sides:
            counts.append(Counter())
            for path in paths:
                counts[-1][self.class_of(path[-1])] += elements_of(path)
        return {name: (counts[0][name], counts[1][name]) for name in {*counts[0], *counts[1]}}

    def _unite_stacked(self, ours: list[NodePath], theirs: list[NodePath]) -> None:
        """Unite leaves where numbers of one side are an axis of the other."""
        for stacked, single in ((theirs, ours), (ours, theirs)):
            known = {colour_of(path[-1]) for path in stacked}
            for path in single:
                counts = [node.count for node in path if node.count > 1]
                colour = colour_of(path[-1])
                for number in range(1, len(counts) + 1):
                    for some in itertools.combinations(counts, number):
                        for sizes in {some, (prod(some),)}:
                            taller: Colour = (colour[0], *sorted((*colour[1:], *sizes)))
                            for other in known:
                                if other[0] == taller[0] and (
                                    other == taller
                                    or (prod(other[1:]) == prod(taller[1:]) and _joins(taller[1:], other[1:]))
                                ):
                                    self._unite(colour, other)

    def _unite_fused(self, ours: list[NodePath], theirs: list[NodePath]) -> None:
        """Unite two or three classes whose surpluses cancel: one side may hold them in one tensor."""
        totals = self._totals([ours, theirs])
        surplus = {
            name: one - other for name, (one, other) in totals.items() if one != other and name[0] == "f"
        }
        names = sorted(surplus, key=lambda name: (abs(surplus[name]), str(name)))[:40]
        for number in (2, 3):
            for some in itertools.combinations(names, number):
                if all(name in surplus for name in some) and sum(surplus[name] for name in some) == 0:
                    if not _may_fuse(some):
                        continue
                    for name in some:
                        self._unite(some[0], name)
                        del surplus[name]


def _may_fuse(colours: Iterable[Colour]) -> bool:
    """Return whether shapes differ in one axis, which may be heads and their size, or have one axis more."""
    shapes = [Counter(colour[1:]) for colour in colours]
    first = shapes[0]
    return all(sum(((first - other) + (other - first)).values()) <= 4 for other in shapes[1:])


def _with_equal_product(ours: set[Colour], theirs: set[Colour]) -> Iterator[tuple[Colour, Colour]]:
    by_size: dict[tuple[object, int], list[Colour]] = defaultdict(list)
    for colour in theirs:
        by_size[colour[0], prod(colour[1:])].append(colour)
    for colour in ours:
        for other in by_size[colour[0], prod(colour[1:])]:
            yield colour, other


def _joins(one: tuple[int, ...], other: tuple[int, ...]) -> bool:
    """Return whether axes of each are complete groups of axes of the other."""
    first, second = Counter(one), Counter(other)
    return _grouped(sorted((first - second).elements()), sorted((second - first).elements()))


def _grouped(one: list[int], other: list[int]) -> bool:
    if not one and not other:
        return True
    if not one or not other:
        return False
    wide, narrow = (one, other) if one[-1] >= other[-1] else (other, one)
    biggest = wide[-1]
    for number in range(1, len(narrow) + 1):
        for some in itertools.combinations(range(len(narrow)), number):
            if prod(narrow[i] for i in some) == biggest:
                rest = [n for i, n in enumerate(narrow) if i not in some]
                if _grouped(wide[:-1], rest):
                    return True
    return False
