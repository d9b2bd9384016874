"""How an equation is written: ``(q k v) in -> q in, k in, v in``, read into plain data.

Nobody should have to write permutation literals. The notation is that of einops, with several terms a side
and groups that concatenate; what a text means is settled in `structure`.
"""

from __future__ import annotations

import re
import string
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, NoReturn

from bridge_core.errors import RuleError

__all__ = ["ELLIPSIS", "ONE", "Equation", "Group", "ListAxes", "Member", "Term"]

ELLIPSIS = "..."
ONE = "1"

_TOKEN = re.compile(r"\s*(?:(?P<name>[A-Za-z_]\w*)|(?P<mark>->|\.\.\.|1(?!\w)|[(),])|(?P<end>$))", re.ASCII)
_LONGEST = 10_000
_DEEPEST = 20


@dataclass(frozen=True)
class Group:
    """Axes that make up one axis of a tensor: a product or a concatenation."""

    members: tuple[Member, ...]

    def __str__(self) -> str:
        """Return e.g. ``(q k v)``."""
        return f"({' '.join(map(str, self.members))})"


Member = str | Group
"""An axis: a name, ``1``, ``...`` or a group."""


@dataclass(frozen=True)
class Term:
    """The axes of one tensor, or of each tensor of a list."""

    axes: tuple[Member, ...]

    def __str__(self) -> str:
        """Return e.g. ``(q k v) in``."""
        return " ".join(map(str, self.axes))

    @property
    def names(self) -> tuple[str, ...]:
        """The axis names, in the order of the text."""
        return tuple(_names(self.axes))

    def position(self, name: str) -> int | None:
        """Return where an axis of that name stands by itself; from the end, negative, if behind ``...``."""
        if name not in self.axes or name in (ONE, ELLIPSIS):
            return None
        at = self.axes.index(name)
        return at - len(self.axes) if ELLIPSIS in self.axes[:at] else at


@dataclass(frozen=True)
class Equation:
    """Terms on two sides, one for each tensor or list of tensors; good both ways.

    >>> equation = Equation.parse("(q k v) in -> in q, in k, in v")
    >>> print(equation.inverse())
    in q, in k, in v -> (q k v) in
    >>> sorted(equation.axes)
    ['in', 'k', 'q', 'v']
    """

    left: tuple[Term, ...]
    right: tuple[Term, ...]

    @classmethod
    def parse(cls, text: str) -> Equation:
        """Read an equation.

        Raises:
            RuleError: It is not well formed; the message names the column.
        """
        return _Parser(text).equation()

    def __str__(self) -> str:
        """Return the text."""
        left, right = (", ".join(map(str, side)) for side in (self.left, self.right))
        return f"{left} -> {right}".strip()

    def inverse(self) -> Equation:
        """Return the equation with its sides swapped."""
        return Equation(self.right, self.left)

    @property
    def axes(self) -> frozenset[str]:
        """Every axis name."""
        return frozenset(name for term in (*self.left, *self.right) for name in term.names)


class ListAxes(NamedTuple):
    """For every term of both sides, the axes along which it is a list of tensors, outermost first."""

    left: tuple[tuple[str, ...], ...]
    right: tuple[tuple[str, ...], ...]

    @classmethod
    def none(cls, equation: Equation) -> ListAxes:
        """Return that every term is one tensor."""
        return cls(((),) * len(equation.left), ((),) * len(equation.right))

    def inverse(self) -> ListAxes:
        """Return the list axes with the sides swapped."""
        return ListAxes(self.right, self.left)


def _names(members: tuple[Member, ...]) -> Iterator[str]:
    for member in members:
        if isinstance(member, Group):
            yield from _names(member.members)
        elif member not in (ONE, ELLIPSIS):
            yield member


class _Parser:
    """Recursive descent over the tokens; the deepest group is bounded."""

    def __init__(self, text: str) -> None:
        self.text = text
        if len(text) > _LONGEST:
            raise RuleError(f"the equation is {len(text)} characters long; {_LONGEST} are the most.")
        self.tokens = list(self._read())
        self.at = 0

    def _read(self) -> Iterator[tuple[str, int]]:
        position = 0
        while True:
            found = _TOKEN.match(self.text, position)
            if found is None:
                start = len(self.text) - len(self.text[position:].lstrip(string.whitespace))
                wrong = re.match(r"\d+\w*|.", self.text[start:])
                self.fail(start, f"{wrong[0] if wrong else ''!r} is no axis: expected a name, 1 or ...")
            if found["end"] is not None:
                yield "", len(self.text)
                return
            yield found["name"] or found["mark"], found.end() - len(found["name"] or found["mark"])
            position = found.end()

    def fail(self, position: int, problem: str) -> NoReturn:
        raise RuleError(f"'{self.text}', column {position + 1}: {problem}.")

    @property
    def token(self) -> str:
        return self.tokens[self.at][0]

    @property
    def position(self) -> int:
        return self.tokens[self.at][1]

    def equation(self) -> Equation:
        left = self.side()
        if self.token != "->":
            self.fail(self.position, f"{self.found()} where '->' was expected")
        self.at += 1
        right = self.side()
        if self.token:
            self.fail(self.position, f"{self.found()} where the end was expected")
        return Equation(left, right)

    def found(self) -> str:
        return f"{self.token!r} stands" if self.token else "it ends"

    def side(self) -> tuple[Term, ...]:
        terms = [self.term()]
        start = self.position
        while self.token == ",":
            self.at += 1
            terms.append(self.term())
        if len(terms) > 1 and any(not term.axes for term in terms):
            self.fail(start, "a term beside a comma has no axes")
        return tuple(terms)

    def term(self) -> Term:
        axes: list[Member] = []
        while self.token not in ("", ",", "->", ")"):
            if self.token == ELLIPSIS and ELLIPSIS in axes:
                self.fail(self.position, "'...' stands twice in one term")
            axes.append(self.member(0))
        if self.token == ")":
            self.fail(self.position, "')' closes no group")
        return Term(tuple(axes))

    def member(self, depth: int) -> Member:
        token, start = self.tokens[self.at]
        self.at += 1
        if token != "(":
            if token == ELLIPSIS and depth:
                self.fail(start, "'...' may not stand in a group")
            return token
        if depth == _DEEPEST:
            self.fail(start, f"groups are nested more than {_DEEPEST} deep")
        members: list[Member] = []
        while self.token != ")":
            if self.token in ("", ",", "->"):
                self.fail(start, "the group is not closed")
            members.append(self.member(depth + 1))
        self.at += 1
        if not members:
            self.fail(start, "the group is empty; write 1 for an axis of size one")
        return Group(tuple(members))
