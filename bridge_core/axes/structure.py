"""What an equation means, before any shape is known.

Every group is a product or a concatenation, by where its members stand on the other side. Concatenations
cut a term into *pieces*: tensors whose axes are products alone. A piece is known by the set of its axis
names, list axes included; the pieces of both sides must be the same. Where several terms of one side have the
same piece, they hold the same values.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from bridge_core.axes.equation import ELLIPSIS, ONE, Equation, Group, ListAxes, Member, Term
from bridge_core.axes.layout import Layout
from bridge_core.errors import RuleError

__all__ = ["Axes", "Factors", "Parts", "Structure", "check_equation", "layouts", "structure_of"]

_MOST_PIECES = 256


@dataclass(frozen=True)
class Parts:
    """A concatenation along one axis."""

    members: tuple[Factors, ...]


Factors = tuple["str | Parts", ...]
"""One axis of a tensor: the row-major product of names and concatenations; empty for ``1``."""
Axes = tuple[Factors, ...]
"""The axes of one tensor."""


@dataclass(frozen=True)
class Structure:
    """The meaning of an equation: the axes of every term, and its list axes."""

    left: tuple[Axes, ...]
    right: tuple[Axes, ...]
    list_axes: ListAxes


def check_equation(equation: Equation, list_axes: ListAxes | None = None) -> None:
    """Check whatever can be checked without shapes.

    Args:
        equation: The equation.
        list_axes: The axes along which each term is a list of tensors; None if every term is one tensor.

    Raises:
        RuleError: An axis stands on one side only or twice in one term, a group mixes a product and a
            concatenation, the terms of one side cannot be made of those of the other, or a list axis is
            not used.
    """
    structure_of(equation, list_axes or ListAxes.none(equation))


@functools.lru_cache(maxsize=4096)
def structure_of(equation: Equation, list_axes: ListAxes) -> Structure:
    """Return the meaning of an equation.

    Raises:
        RuleError: As `check_equation`.
    """
    _check_names(equation, list_axes)
    left = _Side(equation.left, list_axes.left, "left")
    right = _Side(equation.right, list_axes.right, "right")
    structure = Structure(left.axes(right), right.axes(left), list_axes)
    pieces = left.pieces(structure.left), right.pieces(structure.right)
    for side, own, others in ((left, *pieces), (right, *pieces[::-1])):
        for piece, term in own.items():
            if piece not in others:
                raise RuleError(
                    f"'{equation}': '{term}' on the {side.name} side has the axes {_listed(piece)} together, "
                    "and no term of the other side has exactly these."
                )
    return structure


def layouts(axes: Axes) -> Iterator[Layout]:
    """Yield the pieces that the concatenations of a term cut it into."""
    for choice in itertools.product(*(list(_products(factors)) for factors in axes)):
        yield tuple(choice)


def _products(factors: Factors) -> Iterator[tuple[str, ...]]:
    options = [
        [(factor,)] if isinstance(factor, str) else [p for m in factor.members for p in _products(m)]
        for factor in factors
    ]
    for choice in itertools.product(*options):
        yield tuple(name for part in choice for name in part)


def _count(factors: Factors) -> int:
    count = 1
    for factor in factors:
        if isinstance(factor, Parts):
            count *= sum(_count(member) for member in factor.members)
            if count > _MOST_PIECES:
                raise RuleError(f"the concatenations of one term make more than {_MOST_PIECES} pieces.")
    return count


class _Side:
    """The terms of one side, and how they look from the other side."""

    def __init__(self, terms: tuple[Term, ...], list_axes: tuple[tuple[str, ...], ...], name: str) -> None:
        self.terms = terms
        self.list_axes = list_axes
        self.name = name
        self.together = [
            frozenset((*term.names, *(ELLIPSIS,) * (ELLIPSIS in term.axes), *own))
            for term, own in zip(terms, list_axes, strict=True)
        ]

    def axes(self, other: _Side) -> tuple[Axes, ...]:
        """Return the axes of every term, groups told apart."""
        found = tuple(tuple(_factors(member, other) for member in term.axes) for term in self.terms)
        for axes in found:
            _count(tuple(itertools.chain.from_iterable(axes)))
        return found

    def pieces(self, axes: tuple[Axes, ...]) -> dict[frozenset[str], Term]:
        """Return the pieces, each with the first term that has it."""
        found: dict[frozenset[str], Term] = {}
        for term, own, along in zip(self.terms, axes, self.list_axes, strict=True):
            for layout in layouts(own):
                names = [name for run in layout for name in run]
                twice = next((name for name in names if names.count(name) > 1), None)
                if twice is not None:
                    raise RuleError(f"the axis {twice!r} stands twice in '{term}'.")
                found.setdefault(frozenset((*names, *along)), term)
        return found

    def has(self, names: frozenset[str]) -> bool:
        return any(names <= term for term in self.together)


def _factors(member: Member, other: _Side) -> Factors:
    """Return an axis as a product.

    Raises:
        RuleError: A group mixes a product and a concatenation.
    """
    if not isinstance(member, Group):
        return () if member == ONE else (member,)
    members = [_factors(inner, other) for inner in member.members]
    for factors in members:
        _count(factors)
    sets = [[frozenset(names) for names in _products(factors)] for factors in members]
    joined = apart = ""
    for (i, ones), (j, others) in itertools.combinations(enumerate(sets), 2):
        pair = f"{member.members[i]} and {member.members[j]}"
        for one, another in itertools.product(ones, others):
            if other.has(one | another):
                joined = joined or pair
            else:
                apart = apart or pair
    if not apart:
        return tuple(factor for factors in members for factor in factors)
    if not joined:
        return (Parts(tuple(members)),)
    raise RuleError(
        f"the group '{member}' mixes a product and a concatenation: on the {other.name} side {joined} "
        f"stand in one term, {apart} do not. Put what belongs together in a group of its own."
    )


def _check_names(equation: Equation, list_axes: ListAxes) -> None:
    sides = (("left", equation.left, list_axes.left), ("right", equation.right, list_axes.right))
    names: list[set[str]] = []
    listed: list[set[str]] = []
    for side, terms, own in sides:
        if len(own) != len(terms):
            raise RuleError(
                f"'{equation}' has {len(terms)} terms on the {side} side; {len(own)} were expected, "
                "one for each pattern."
            )
        for term, axes in zip(terms, own, strict=True):
            twice = sorted(set(axes) & set(term.names)) or [axis for axis in axes if axes.count(axis) > 1]
            if twice:
                raise RuleError(
                    f"'{term}' is a list of tensors along {twice[0]!r}, so {twice[0]!r} is none of its axes."
                )
        dots = {ELLIPSIS} if any(ELLIPSIS in term.axes for term in terms) else set()
        names.append({name for term in terms for name in term.names} | dots)
        listed.append({name for axes in own for name in axes})
    for (side, _, _), here, there in (
        (sides[0], 0, 1),
        (sides[1], 1, 0),
    ):
        unused = listed[here] - names[there] - listed[there]
        if unused:
            axis = min(unused)
            raise RuleError(
                f"'{equation}': the {side} side is a list of tensors along {axis!r}, and nothing on the "
                f"other side uses it. Name {axis} there as the axis that the tensors are stacked along."
            )
        lonely = names[here] - names[there] - listed[there]
        if lonely:
            axis = min(lonely)
            advice = "" if axis == ELLIPSIS else " Write 1 for an axis of size one."
            raise RuleError(f"'{equation}': {axis!r} stands on the {side} side only.{advice}")


def _listed(piece: frozenset[str]) -> str:
    return ", ".join(sorted(piece)) or "no axes"
