"""How an equation is written: ``(q k v) in -> q in, k in, v in``, read into plain data.

The notation is that of einops, with several terms a side, groups that concatenate, and whole numbers for
axes along which the terms of the other side are stacked; `structure` decides what a text means.
"""

from __future__ import annotations

import re
import string
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, NoReturn

from bridge_core.errors import RuleError
from bridge_core.messages import shown

__all__ = ["ELLIPSIS", "ONE", "Equation", "Group", "ListAxes", "Member", "Term"]

ELLIPSIS = "..."
ONE = "1"

_TOKEN = re.compile(
    r"\s*(?:(?P<name>[A-Za-z_]\w*)|(?P<mark>->|\.\.\.|[1-9]\d{0,8}(?!\w)|[(),+])|(?P<end>$))", re.ASCII
)
_LONGEST = 10_000
_DEEPEST = 20


@dataclass(frozen=True)
class Group:
    """Axes that make up one axis of a tensor: a product or a concatenation.

    Args:
        members: The axes. A part of a concatenation that is a product of several axes is a group.
        marked: Whether it is written with ``+``, so that the members are concatenated whatever the other
            side is.
    """

    members: tuple[Member, ...]
    marked: bool = False

    def __str__(self) -> str:
        """Return e.g. ``(q k v)`` or ``(h q + h k)``."""
        if self.marked:
            return f"({' + '.join(map(_part_text, self.members))})"
        return f"({' '.join(map(str, self.members))})"


Member = str | Group
"""An axis: a name, a whole number, ``...`` or a group."""


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
        return tuple(axis for axis in _leaves(self.axes) if axis.isidentifier())

    @property
    def numbers(self) -> tuple[str, ...]:
        """The whole numbers of 2 or more, in the order of the text."""
        return tuple(axis for axis in _leaves(self.axes) if axis[0].isdigit() and axis != ONE)

    def position(self, name: str) -> int | None:
        """Return the index of an axis, negative if it comes after ``...``.

        None if the term has no such axis, or only as a part of a group.
        """
        if name not in self.axes or not name.isidentifier():
            return None
        at = self.axes.index(name)
        return at - len(self.axes) if ELLIPSIS in self.axes[:at] else at


@dataclass(frozen=True)
class Equation:
    """Terms on two sides, one for each tensor or list of tensors.

    An equation can be read in both directions.

    >>> equation = Equation.parse("(q k v) in -> in q, in k, in v")
    >>> print(equation.inverse())
    in q, in k, in v -> (q k v) in
    >>> sorted(equation.axes)
    ['in', 'k', 'q', 'v']
    >>> print(Equation.parse("((h q)+(h k)) in, (h v) in -> in (h (q+k+v))"))
    (h q + h k) in, (h v) in -> in (h (q + k + v))
    """

    left: tuple[Term, ...]
    right: tuple[Term, ...]

    @classmethod
    def parse(cls, text: str) -> Equation:
        """Read an equation.

        Raises:
            RuleError: The text is not an equation; the message names the column, counted from 1.
        """
        return _Parser(text).equation()

    def __str__(self) -> str:
        """Return the text."""
        left, right = (", ".join(map(str, side)).strip() for side in (self.left, self.right))
        return f"{left} -> {right}".strip()

    def inverse(self) -> Equation:
        """Return the equation with its sides swapped."""
        return Equation(self.right, self.left)

    @property
    def axes(self) -> frozenset[str]:
        """Every axis name; numbers are none."""
        return frozenset(name for term in (*self.left, *self.right) for name in term.names)


class ListAxes(NamedTuple):
    """For every term, the axes along which it is a list of tensors, outermost first."""

    left: tuple[tuple[str, ...], ...]
    right: tuple[tuple[str, ...], ...]

    @classmethod
    def none(cls, equation: Equation) -> ListAxes:
        """Return the value for an equation in which every term is one tensor."""
        return cls(((),) * len(equation.left), ((),) * len(equation.right))

    def inverse(self) -> ListAxes:
        """Return the list axes with the sides swapped."""
        return ListAxes(self.right, self.left)


def _leaves(members: tuple[Member, ...]) -> Iterator[str]:
    for member in members:
        if isinstance(member, Group):
            yield from _leaves(member.members)
        else:
            yield member


def _part_text(part: Member) -> str:
    bare = isinstance(part, Group) and not part.marked and len(part.members) > 1
    return str(part)[1:-1] if bare else str(part)


class _Parser:
    """Recursive descent over the tokens; the deepest group is bounded."""

    def __init__(self, text: str) -> None:
        self.text = text
        if len(text) > _LONGEST:
            raise RuleError(
                f"the equation is too long: expected at most {_LONGEST} characters, got {len(text)}."
            )
        self.tokens = list(self._read())
        self.at = 0

    def _read(self) -> Iterator[tuple[str, int]]:
        position = 0
        while True:
            match = _TOKEN.match(self.text, position)
            if match is None:
                start = len(self.text) - len(self.text[position:].lstrip(string.whitespace))
                wrong = re.match(r"\d+\w*|.", self.text[start:])
                self.fail(
                    start,
                    f"expected an axis (a name, a number or ...), got {shown(wrong[0] if wrong else '')}",
                    "Separate axes by spaces, tensors by commas and the two sides by ->.",
                )
            if match["end"] is not None:
                yield "", len(self.text)
                return
            yield match["name"] or match["mark"], match.end() - len(match["name"] or match["mark"])
            position = match.end()

    def fail(self, position: int, problem: str, hint: str | None = None) -> NoReturn:
        start = max(0, position - 100)
        excerpt = self.text[start : position + 100]
        around = f"{'...' if start else ''}{excerpt}{'...' if len(self.text) > position + 100 else ''}"
        raise RuleError(f"'{around}', column {position + 1}: {problem}.", hint=hint)

    @property
    def token(self) -> str:
        return self.tokens[self.at][0]

    @property
    def position(self) -> int:
        return self.tokens[self.at][1]

    def equation(self) -> Equation:
        left = self.side()
        if self.token != "->":
            self.fail(
                self.position,
                f"expected '->', got {repr(self.token) if self.token else 'the end'}",
                "Write the sources' axes, -> and the targets' axes, as in 'out in -> in out'.",
            )
        self.at += 1
        right = self.side()
        if self.token:
            self.fail(self.position, f"expected the end, got {self.token!r}", "Write one -> only.")
        self.check_commas(left, right, 0)
        self.check_commas(right, left, self.text.index("->"))
        return Equation(left, right)

    def check_commas(self, terms: tuple[Term, ...], others: tuple[Term, ...], start: int) -> None:
        """Check that commas separate axes; only tensors without axes that are stacked have none."""
        stacked = any(term.numbers for term in others)
        if len(terms) > 1 and not all(term.axes for term in terms):
            if stacked and not any(term.axes for term in terms):
                return
            self.fail(
                self.text.index(",", start),
                "expected axes before and after each comma, got none",
                "Remove the comma, or name the axes.",
            )

    def side(self) -> tuple[Term, ...]:
        terms = [self.term()]
        while self.token == ",":
            self.at += 1
            terms.append(self.term())
        return tuple(terms)

    def term(self) -> Term:
        axes: list[Member] = []
        while self.token not in ("", ",", "->", ")"):
            if self.token == ELLIPSIS and ELLIPSIS in axes:
                self.fail(self.position, "expected '...' once for each tensor, got it twice")
            axes.append(self.member(0))
        if self.token == ")":
            self.fail(self.position, "expected '(' before this ')', got none")
        return Term(tuple(axes))

    def member(self, depth: int) -> Member:
        token, start = self.tokens[self.at]
        self.at += 1
        if token != "(":
            if token == ELLIPSIS and depth:
                self.fail(
                    start, "expected an axis name in the group, got '...'", "Write ... outside of groups."
                )
            if token == "+":
                self.fail(
                    start,
                    "expected an axis, got '+'",
                    "Write + between the parts of one axis, in a group, as in '(q + k) in'.",
                )
            return token
        if depth == _DEEPEST:
            self.fail(start, f"expected at most {_DEEPEST} groups inside each other, got more")
        parts: list[Member] = []
        members: list[Member] = []
        while self.token != ")":
            if self.token in ("", ",", "->"):
                self.fail(start, "expected ')' to close this group, got none")
            if self.token == "+":
                parts.append(self.part(members, "before"))
                members = []
                self.at += 1
            else:
                members.append(self.member(depth + 1))
        if parts:
            parts.append(self.part(members, "after"))
        self.at += 1
        if not members:
            self.fail(start, "expected axes in the group, got none", "Write 1 for an axis of size one.")
        return Group(tuple(parts), marked=True) if parts else Group(tuple(members))

    def part(self, members: list[Member], where: str) -> Member:
        """Return a part of a concatenation."""
        if not members:
            self.fail(
                self.position if where == "before" else self.tokens[self.at - 1][1],
                f"expected an axis {where} this '+', got none",
                "Write a part of the axis before and after each +, as in '(q + k) in'.",
            )
        return members[0] if len(members) == 1 else Group(tuple(members))
