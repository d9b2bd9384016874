"""What an equation means, before any shape is known.

A group with ``+`` is a concatenation. Another one is a product if its members are in one term of the other
side, in one part of its concatenations with ``+``, and a concatenation if they are not. Concatenations cut a
term into *pieces*: tensors with products as their only axes. A piece is identified by the set of its axis
names, list axes included and repeated axes left out; the pieces of both sides must be the same. If several
terms of one side have the same piece, they hold the same values. A whole number is a list axis of the other
side, whose terms are the places along it.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

from bridge_core.axes.equation import ONE, Equation, Group, ListAxes, Member, Term
from bridge_core.axes.layout import Layout
from bridge_core.axes.usage import check_list_axes, lone_axes, repeated_axes, stacked_number
from bridge_core.errors import RuleError

__all__ = [
    "Axes",
    "Factors",
    "Parts",
    "Structure",
    "check_equation",
    "layouts",
    "structure_of",
]

_MOST_PIECES = 256


@dataclass(frozen=True)
class Parts:
    """A concatenation along one axis.

    Args:
        members: The parts.
        marked: Whether it is written with ``+``.
    """

    members: tuple[Factors, ...]
    marked: bool = False


Factors = tuple["str | Parts", ...]
"""One axis of a tensor: the row-major product of names and concatenations; empty for ``1``."""
Axes = tuple[Factors, ...]
"""The axes of one tensor."""


@dataclass(frozen=True)
class Structure:
    """The meaning of an equation.

    Args:
        left: The axes of every term on the left.
        right: The axes of every term on the right.
        list_axes: The list axes of every term; a number is one of the terms that are stacked along it.
        number: The whole number that is an axis; None if there is none.
        repeated: The axes of one side along which the values are repeated.
        hidden: The names that are only in parts of concatenations with ``+``, so that no shape shows their
            sizes; these are never guessed.
    """

    left: tuple[Axes, ...]
    right: tuple[Axes, ...]
    list_axes: ListAxes
    number: str | None = None
    repeated: frozenset[str] = frozenset()
    hidden: frozenset[str] = frozenset()


def check_equation(
    equation: Equation, list_axes: ListAxes | None = None, stated: Collection[str] = ()
) -> None:
    """Check an equation as far as that needs no shapes.

    Args:
        equation: The equation.
        list_axes: The axes along which each term is a list of tensors; None if every term is one tensor.
        stated: Names of the axes whose sizes the rule states; those of one side only are repeated.

    Raises:
        RuleError: An axis is only on one side and has no stated size, or is twice in one term; a group mixes
            a product and a concatenation; the terms of one side cannot be made from those of the other; a
            list axis is not used; or a number is not how many terms the other side has.
    """
    structure_of(equation, list_axes or ListAxes.none(equation), stated)


def structure_of(equation: Equation, list_axes: ListAxes, stated: Collection[str] = ()) -> Structure:
    """Return the meaning of an equation.

    Raises:
        RuleError: As `check_equation`.
    """
    structure = _structure(equation, list_axes)
    if structure is None:
        return _with_repeats(equation, list_axes, repeated_axes(equation, list_axes, stated))
    return structure


@functools.lru_cache(maxsize=4096)
def _structure(equation: Equation, list_axes: ListAxes) -> Structure | None:
    """Return the meaning of an equation, or None if it has axes of one side only."""
    lone = lone_axes(equation, list_axes)
    return None if any(lone) else _read(equation, list_axes, frozenset())


@functools.lru_cache(maxsize=4096)
def _with_repeats(equation: Equation, list_axes: ListAxes, repeated: frozenset[str]) -> Structure:
    return _read(equation, list_axes, repeated)


def _read(equation: Equation, own_axes: ListAxes, repeated: frozenset[str]) -> Structure:
    check_list_axes(equation, own_axes)
    number, list_axes = stacked_number(equation, own_axes)
    left = _Side(equation.left, list_axes.left, "left", repeated)
    right = _Side(equation.right, list_axes.right, "right", repeated)
    left_axes, right_axes = left.axes(right), right.axes(left)
    hidden = _hidden(itertools.chain(*left_axes, *right_axes))
    structure = Structure(left_axes, right_axes, list_axes, number, repeated, hidden)
    pieces = left.pieces(structure.left), right.pieces(structure.right)
    for side, own, others in ((left, *pieces), (right, *pieces[::-1])):
        for piece, term in own.items():
            if piece not in others:
                raise RuleError(
                    f"'{equation}': '{term}' on the {side.name} side is a tensor with the axes "
                    f"{_listed(piece)}, but no tensor on the other side has exactly these axes.",
                    hint="Name the same axes on both sides, and separate tensors by commas and the parts of "
                    "one axis by +, as in '(q + k) in'.",
                )
    return structure


def layouts(axes: Axes) -> Iterator[Layout]:
    """Yield the pieces that the concatenations of a term cut it into."""
    for choice in itertools.product(*(list(_products(factors)) for factors in axes)):
        yield tuple(choice)


def _hidden(axes: Iterable[Factors]) -> frozenset[str]:
    """Return the names that are only in parts of concatenations with ``+``."""
    marked: set[str] = set()
    shown: set[str] = set()
    for factor in itertools.chain.from_iterable(axes):
        if isinstance(factor, str):
            shown.add(factor)
        elif factor.marked:
            marked.update(name for names in _products((factor,)) for name in names)
    return frozenset(marked - shown)


def _products(factors: Factors) -> Iterator[tuple[str, ...]]:
    options = [
        [(factor,)] if isinstance(factor, str) else [p for m in factor.members for p in _products(m)]
        for factor in factors
    ]
    for choice in itertools.product(*options):
        yield tuple(name for part in choice for name in part)


def _check_count(axes: Axes) -> None:
    if _count(tuple(itertools.chain.from_iterable(axes))) > _MOST_PIECES:
        raise RuleError(
            f"expected at most {_MOST_PIECES} pieces from the concatenations of one tensor, got more."
        )


def _count(factors: Factors) -> int:
    count = 1
    for factor in factors:
        if isinstance(factor, Parts):
            count *= sum(_count(member) for member in factor.members)
    return count


class _Side:
    """The terms of one side, and how they look from the other side."""

    def __init__(
        self,
        terms: tuple[Term, ...],
        list_axes: tuple[tuple[str, ...], ...],
        name: str,
        repeated: frozenset[str],
    ) -> None:
        self.terms = terms
        self.list_axes = list_axes
        self.name = name
        self.repeated = repeated
        self.together: set[frozenset[str]] = set()
        for term, own in zip(terms, list_axes, strict=True):
            axes = tuple(_factors(member, None) for member in term.axes)
            _check_count(axes)
            self.together.update(frozenset((*itertools.chain(*layout), *own)) for layout in layouts(axes))

    def axes(self, other: _Side) -> tuple[Axes, ...]:
        """Return the axes of every term, each group read as a product or as a concatenation."""
        term_axes = tuple(tuple(_factors(member, other) for member in term.axes) for term in self.terms)
        for axes in term_axes:
            _check_count(axes)
        return term_axes

    def pieces(self, axes: tuple[Axes, ...]) -> dict[frozenset[str], Term]:
        """Return the pieces, each with the first term that has it."""
        first_terms: dict[frozenset[str], Term] = {}
        for term, own, along in zip(self.terms, axes, self.list_axes, strict=True):
            in_term = set()
            for layout in layouts(own):
                names = [name for run in layout for name in run]
                twice = next((name for name in names if names.count(name) > 1), None)
                if twice is not None:
                    raise RuleError(
                        f"'{term}': expected each axis once in a tensor, got {twice!r} twice.",
                        hint="Give each axis a name of its own, also where sizes are equal; write + between "
                        "parts of a concatenation, as in '(h a) + (h b)'.",
                    )
                piece = frozenset((*names, *along)) - self.repeated
                if piece in in_term:
                    raise RuleError(
                        f"'{term}' has two parts with the axes {_listed(piece)}: expected parts of different "
                        "axes, because parts of the same axes hold the same values.",
                        hint="Give each part a name of its own, as in '(f1 + f2)', or write a whole number "
                        "for a stack of the other side's tensors, as in '(2 f)'.",
                    )
                in_term.add(piece)
                first_terms.setdefault(piece, term)
        return first_terms

    def has(self, names: frozenset[str]) -> bool:
        """Return whether the names are in one tensor; repeated axes are in any."""
        names -= self.repeated
        return any(names <= piece for piece in self.together)


def _factors(member: Member, other: _Side | None) -> Factors:
    """Return the factors of an axis; what a group without ``+`` is depends on the other side.

    Args:
        member: The axis.
        other: The other side; None to read each group without ``+`` as a product.

    Raises:
        RuleError: A group mixes a product and a concatenation.
    """
    if not isinstance(member, Group):
        return () if member == ONE else (member,)
    if member.marked:
        return (Parts(tuple(_part(part, other) for part in member.members), marked=True),)
    members = [_factors(inner, other) for inner in member.members]
    product = tuple(factor for factors in members for factor in factors)
    if other is None:
        return product
    for factors in members:
        _check_count((factors,))
    sets = [[frozenset(names) for names in _products(factors)] for factors in members]
    joined: list[tuple[int, int]] = []
    separate: list[tuple[int, int]] = []
    for (i, ones), (j, others) in itertools.combinations(enumerate(sets), 2):
        for one, another in itertools.product(ones, others):
            pairs = joined if other.has(one | another) else separate
            pairs.append((i, j))
    if not separate:
        return product
    if not joined:
        return (Parts(tuple(members)),)
    near, apart = (" and ".join(str(member.members[i]) for i in pairs[0]) for pairs in (joined, separate))
    raise RuleError(
        f"the group '{member}' mixes a product and a concatenation: on the {other.name} side {near} are in "
        f"one tensor, but {apart} are not.",
        hint=f"Write + between the parts, as in '{_with_marks(member, joined)}', on both sides.",
    )


def _part(part: Member, other: _Side | None) -> Factors:
    """Return the factors of a part between ``+``: a product, whatever the other side is."""
    if isinstance(part, Group) and not part.marked:
        return tuple(factor for inner in part.members for factor in _factors(inner, other))
    return _factors(part, other)


def _with_marks(group: Group, joined: list[tuple[int, int]]) -> Group:
    """Return the group with ``+`` between members, but not between neighbours that are in one tensor."""
    runs: list[list[Member]] = []
    for i, member in enumerate(group.members):
        if i and (i - 1, i) in joined:
            runs[-1].append(member)
        else:
            runs.append([member])
    if len(runs) == 1:
        runs = [[member] for member in group.members]
    return Group(tuple(run[0] if len(run) == 1 else Group(tuple(run)) for run in runs), marked=True)


def _listed(piece: frozenset[str]) -> str:
    return ", ".join(sorted(piece)) or "no axes"
