"""The forms of trees, whatever their names: trees of one form may belong together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from math import prod

from bridge_core.proof.matching.folding import Node, NodePath
from bridge_core.proof.matching.profiles import Profiles

__all__ = ["TreeForms"]


class TreeForms:
    """Numbers for the forms of the trees of both sides."""

    def __init__(self, profiles: Profiles) -> None:
        """Begin without a form.

        Args:
            profiles: The profiles of both sides.
        """
        self._profiles = profiles
        self._known: dict[tuple[int, bool], int] = {}
        self._inside: dict[tuple[int, bool], frozenset[int]] = {}
        self._kinds: dict[int, frozenset[tuple[Hashable, int]]] = {}
        self._numbers: dict[Hashable, int] = {}
        self._kept: list[Node] = []  # an id is unique only while its node exists

    def forms_inside(self, node: Node, *, common: bool) -> frozenset[int]:
        """Return the forms of all trees below a node."""
        at = (id(node), common)
        if at not in self._inside:
            self._inside[at] = frozenset(
                form
                for child in node.children
                for form in (self.form(child, common=common), *self.forms_inside(child, common=common))
            )
            self._kept.append(node)
        return self._inside[at]

    def types(self, path: NodePath) -> frozenset[Hashable]:
        """Return the classes of the leaves below a path, each with how many elements a pattern has."""
        outer = prod(node.count for node in path)
        return frozenset((name, n * outer) for name, n in self._types_of(path[-1]))

    def _types_of(self, node: Node) -> frozenset[tuple[Hashable, int]]:
        known = self._kinds.get(id(node))
        if known is None:
            if node.is_leaf:
                known = frozenset({(self._profiles.class_of(node), prod(node.shape or ()))})
            else:
                known = frozenset(
                    (name, n * child.count) for child in node.children for name, n in self._types_of(child)
                )
            self._kinds[id(node)] = known
            self._kept.append(node)
        return known

    def form(self, node: Node, *, common: bool) -> int:
        """Return a number for what is below a node, whatever the names; -1 for nothing.

        Args:
            node: The node.
            common: Whether to leave out classes of which the sides have different amounts.
        """
        at = (id(node), common)
        known = self._known.get(at)
        if known is None:
            known = self._new_form(node, common=common)
            self._known[at] = known
            self._kept.append(node)
        return known

    def _new_form(self, node: Node, *, common: bool) -> int:
        content: Hashable
        if node.is_leaf:
            name = self._profiles.class_of(node)
            if common and name not in self._profiles.balanced:
                return -1
            content = ("leaf", name, prod(node.shape or ()))
        else:
            alike: Counter[int] = Counter()  # as numbers of one name, or as names of their own
            for child in node.children:
                alike[self.form(child, common=common)] += child.count
            content = tuple(sorted((below, n) for below, n in alike.items() if below != -1))
            if not content:
                return -1
            if len(content) == 1 and content[0][1] == 1:
                return content[0][0]
        return self._numbers.setdefault(content, len(self._numbers))
