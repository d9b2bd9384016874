"""What an equation means, before any shape is known.

A group is a product if its members are in one term of the other side, and a concatenation if they are in
different terms. Concatenations cut a term into *pieces*: tensors with products as their only axes. A piece is
identified by the set of its axis names, list axes included; the pieces of both sides must be the same. If
several terms of one side have the same piece, they hold the same values.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from bridge_core.axes.equation import ELLIPSIS, ONE, Equation, Group, ListAxes, Member, Term
from bridge_core.axes.layout import Layout
from bridge_core.errors import RuleError
from bridge_core.messages import count, nearest

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
    """Check an equation as far as that needs no shapes.

    Args:
        equation: The equation.
        list_axes: The axes along which each term is a list of tensors; None if every term is one tensor.

    Raises:
        RuleError: An axis is only on one side or twice in one term, a group mixes a product and a
            concatenation, the terms of one side cannot be made from those of the other, or a list axis is
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
                    f"'{equation}': '{term}' on the {side.name} side is a tensor with the axes "
                    f"{_listed(piece)}, but no tensor on the other side has exactly these axes.",
                    hint="Name the same axes on both sides, and separate tensors by commas.",
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
                raise RuleError(
                    f"expected at most {_MOST_PIECES} pieces from the concatenations of one tensor, got more."
                )
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
        """Return the axes of every term, each group read as a product or as a concatenation."""
        term_axes = tuple(tuple(_factors(member, other) for member in term.axes) for term in self.terms)
        for axes in term_axes:
            _count(tuple(itertools.chain.from_iterable(axes)))
        return term_axes

    def pieces(self, axes: tuple[Axes, ...]) -> dict[frozenset[str], Term]:
        """Return the pieces, each with the first term that has it."""
        first_terms: dict[frozenset[str], Term] = {}
        for term, own, along in zip(self.terms, axes, self.list_axes, strict=True):
            for layout in layouts(own):
                names = [name for run in layout for name in run]
                twice = next((name for name in names if names.count(name) > 1), None)
                if twice is not None:
                    raise RuleError(
                        f"'{term}': expected each axis once in a tensor, got {twice!r} twice.",
                        hint="Give each axis a name of its own, also where sizes are equal.",
                    )
                first_terms.setdefault(frozenset((*names, *along)), term)
        return first_terms

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
    joined = separate = ""
    for (i, ones), (j, others) in itertools.combinations(enumerate(sets), 2):
        pair = f"{member.members[i]} and {member.members[j]}"
        for one, another in itertools.product(ones, others):
            if other.has(one | another):
                joined = joined or pair
            else:
                separate = separate or pair
    if not separate:
        return tuple(factor for factors in members for factor in factors)
    if not joined:
        return (Parts(tuple(members)),)
    raise RuleError(
        f"the group '{member}' mixes a product and a concatenation: on the {other.name} side {joined} are in "
        f"one tensor, but {separate} are not.",
        hint="Put the axes of one tensor in an inner group, as in '((q d) (k d)) in'.",
    )


def _check_names(equation: Equation, list_axes: ListAxes) -> None:
    sides = (("left", equation.left, list_axes.left), ("right", equation.right, list_axes.right))
    names: list[set[str]] = []
    listed: list[set[str]] = []
    for side, terms, own in sides:
        if len(own) != len(terms):
            raise RuleError(
                f"'{equation}': expected {count(len(own), 'tensor')} on the {side} side, one for each "
                f"pattern, got {len(terms)}."
            )
        for term, axes in zip(terms, own, strict=True):
            twice = sorted(set(axes) & set(term.names)) or [axis for axis in axes if axes.count(axis) > 1]
            if twice:
                raise RuleError(
                    f"'{term}' is one tensor for each {twice[0]}, so {twice[0]!r} cannot be one of its axes.",
                    hint=f"Remove {twice[0]} from '{term}'.",
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
                f"'{equation}': the {side} side is one tensor for each {axis}, but the other side has no "
                f"axis {axis!r}.",
                hint=f"Write {axis} there, as the axis that the tensors are stacked along.",
            )
        lonely = names[here] - names[there] - listed[there]
        if lonely:
            axis = min(lonely)
            likely = nearest(axis, sorted(names[there] - names[here]))
            hint = "Write it on both sides."
            if likely.startswith("Did"):
                hint = likely
            elif axis != ELLIPSIS:
                hint = "Write it on both sides, or write 1 for an axis of size one."
            raise RuleError(f"'{equation}': the axis {axis!r} is only on the {side} side.", hint=hint)


def _listed(piece: frozenset[str]) -> str:
    return ", ".join(sorted(piece)) or "no axes"
