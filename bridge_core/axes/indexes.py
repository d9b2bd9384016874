"""Numbers that others give: by a sum, ``i = block*6 + j``, by a list of starts, or by counting what exists.

An index is read as text first, and becomes numbers once the sizes and the config are known. Splitting a
number that no parts give returns None; joining parts that contradict the index is an error.
"""

from __future__ import annotations

import bisect
import itertools
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import NoReturn

from bridge_core.axes.expressions import Expression, Lookup, whole_number
from bridge_core.errors import RuleError
from bridge_core.messages import shown

__all__ = ["IndexCount", "IndexEquation", "MixedRadix", "Pairs", "Ranks", "parse_index"]

Pairs = tuple[tuple[int, ...], ...]
"""The numbers of parts that exist together, in order."""

_NAME = re.compile(r"[A-Za-z_]\w*", re.ASCII)
_MOST_COUNTED = 16
_COUNTS = re.compile(r"\s*(\w+)\s+counts\s+(.*)", re.DOTALL)
_EQUALS = re.compile(r"(?<![<>=!])=(?!=)")

_HINT = (
    "Write a name of one side, =, and names of the other side with whole numbers as factors, such as "
    "'i = block*6 + j', 'n = m + 1' or 'n = [0, 3, 7][s] + b'."
)


@dataclass(frozen=True)
class MixedRadix:
    """An equation with numbers: ``constant + starts[leading + shift] + factor*name + ...``.

    Args:
        constant: The constant; it may be negative.
        terms: Name and factor, the largest first; each factor is a multiple of the next.
        leading: The name that selects one of the starts; empty without them.
        starts: Increasing numbers.
        shift: What is added to ``leading`` for the place in ``starts``.
    """

    constant: int
    terms: tuple[tuple[str, int], ...]
    leading: str = ""
    starts: tuple[int, ...] = ()
    shift: int = 0

    def __post_init__(self) -> None:
        """Check that every number has parts in at most one way."""
        factors = [factor for _, factor in self.terms]
        if any(f < 1 for f in factors) or any(a % b or a == b for a, b in itertools.pairwise(factors)):
            raise RuleError(
                "expected factors that are each a multiple of the next smaller one, got "
                f"{', '.join(map(str, factors))}.",
                hint="Write as each factor how many values the later parts have together: in "
                "'i = a*12 + b*6 + c' c has 6 values, and b and c have 12.",
            )
        if any(a >= b for a, b in itertools.pairwise(self.starts)):
            raise RuleError(
                f"expected a list of increasing numbers, got {shown(list(self.starts))}.",
                hint="Write where each group of numbers starts, such as [0, 3, 7, 13].",
            )

    @property
    def sizes(self) -> dict[str, int]:
        """How many values each part has, except for the first."""
        return {name: before // factor for (_, before), (name, factor) in itertools.pairwise(self.terms)}

    @property
    def unit(self) -> int:
        """The smallest factor."""
        return self.terms[-1][1] if self.terms else 1

    def split(self, number: int) -> dict[str, int] | None:
        """Return the parts of a number; None if there are none."""
        rest = number - self.constant
        parts: dict[str, int] = {}
        if self.leading:
            place = bisect.bisect_right(self.starts, rest) - 1
            if place < 0:
                return None
            parts[self.leading] = place - self.shift
            rest -= self.starts[place]
        for name, factor in self.terms:
            parts[name], rest = divmod(rest, factor)
        return None if rest or any(part < 0 for part in parts.values()) else parts

    def join(self, parts: Mapping[str, int]) -> int:
        """Return the number of parts.

        Raises:
            RuleError: A part is not below its bound, or the parts give no number of 0 or more.
        """
        for name, bound in self.sizes.items():
            if parts[name] >= bound:
                raise RuleError(
                    f"expected {name} below {bound}, got {parts[name]}.",
                    hint=f"Write where groups start, as in [0, 3, 7][s] + {name}, or 'n counts s, {name}'.",
                )
        rest = sum(factor * parts[name] for name, factor in self.terms)
        if self.leading:
            number = parts[self.leading]
            place = number + self.shift
            if not 0 <= place < len(self.starts):
                first, last = max(-self.shift, 0), len(self.starts) - 1 - self.shift
                raise RuleError(
                    f"expected {self.leading} from {first} to {last}, got {number}.",
                    hint=f"Write [{self.leading} - 1] where {self.leading} counts from 1.",
                )
            start, after = self.starts[place], self.starts[place + 1 : place + 2]
            if after and start + rest >= after[0]:
                names = ", ".join(f"{name} = {parts[name]}" for name, _ in self.terms)
                most = after[0] - start
                raise RuleError(
                    f"expected at most {most} numbers for {self.leading} = {number}, got {names}."
                )
            rest += start
        if rest + self.constant < 0:
            raise RuleError(f"the parts give {rest + self.constant}: expected a number of 0 or more.")
        return rest + self.constant


@dataclass(frozen=True)
class Ranks:
    """A count with numbers: the places of parts among those that exist.

    Args:
        names: The names of the parts.
        pairs: The parts that exist, sorted.
    """

    names: tuple[str, ...]
    pairs: Pairs

    @property
    def sizes(self) -> dict[str, int]:
        """No part has a size of its own."""
        return {}

    def split(self, number: int) -> dict[str, int] | None:
        """Return the parts of a number; None if there are none."""
        return dict(zip(self.names, self.pairs[number], strict=True)) if number < len(self.pairs) else None

    def join(self, parts: Mapping[str, int]) -> int:
        """Return the number of parts.

        Raises:
            RuleError: They are not among those that exist.
        """
        wanted = tuple(parts[name] for name in self.names)
        place = bisect.bisect_left(self.pairs, wanted)
        if self.pairs[place : place + 1] != (wanted,):
            text = ", ".join(f"{name} = {parts[name]}" for name in self.names)
            raise RuleError(f"{text} is not among the {len(self.pairs)} that are counted.")
        return place


@dataclass(frozen=True)
class IndexEquation:
    """An equation, as text: ``i = constant + list[name] + factor*name + ...``.

    Args:
        text: Its text.
        result: The name of the number.
        constant: The constant.
        terms: Name and factor of each part; in their order if the factors are numbers.
        leading: Name, list and shift of the leading part, if it selects from a list.
    """

    text: str
    result: str
    constant: Expression
    terms: tuple[tuple[str, Expression], ...]
    leading: tuple[str, Expression, int] | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the parts, the outermost first."""
        first = (self.leading[0],) if self.leading is not None else ()
        return (*first, *(name for name, _ in self.terms))

    @property
    def size_names(self) -> frozenset[str]:
        """The names of sizes and of entries of the config."""
        items = (self.leading[1],) if self.leading is not None else ()
        return frozenset[str]().union(
            *(e.names for e in (self.constant, *items, *(f for _, f in self.terms)))
        )

    @property
    def bounded(self) -> tuple[str, ...]:
        """The parts whose sizes it states: all but the outermost of those with factors."""
        return tuple(name for name, _ in self.terms[1:])

    def numbers(self, lookup: Lookup) -> MixedRadix:
        """Return it with numbers.

        Raises:
            RuleError: A name has no value, or the numbers are not valid.
        """
        terms = sorted(((name, _integer(f, lookup)) for name, f in self.terms), key=lambda term: -term[1])
        constant = _integer(self.constant, lookup)
        if self.leading is None:
            return MixedRadix(constant, tuple(terms))
        name, items, shift = self.leading
        starts = items.value(lookup)
        if not isinstance(starts, tuple) or not all(type(start) is int for start in starts) or not starts:
            raise RuleError(f"expected a list of whole numbers, got '{items}' = {shown(starts)}.")
        numbers = tuple(int(str(start)) for start in starts)
        return MixedRadix(constant, tuple(terms), name, numbers, shift)


@dataclass(frozen=True)
class IndexCount:
    """A count, as text: ``n counts s, b``."""

    text: str
    result: str
    names: tuple[str, ...]
    size_names: frozenset[str] = frozenset()
    bounded: tuple[str, ...] = ()


def parse_index(text: str, sizes: Collection[str] = ()) -> IndexEquation | IndexCount | None:
    """Read an equation or a count; None if the text is neither.

    Args:
        text: The text.
        sizes: The names in it that are sizes.

    Raises:
        RuleError: It is not a valid one.
    """
    counts = _COUNTS.fullmatch(text)
    if counts is not None:
        names = tuple(name.strip() for name in counts[2].split(","))
        if not all(_NAME.fullmatch(name) for name in (counts[1], *names)):
            raise RuleError(f"expected a count such as 'n counts s, b', got {shown(text)}.")
        if len(names) > _MOST_COUNTED:
            raise RuleError(f"expected at most {_MOST_COUNTED} names to count, got {len(names)}.")
        count = IndexCount(f"{counts[1]} counts {', '.join(names)}", counts[1], names)
        _check_unique(count)
        return count
    equals = _EQUALS.search(re.sub(r"'[^']*'", lambda found: "'" * len(found[0]), text))
    if equals is None:
        return None
    whole, right = text[: equals.start()].strip(), text[equals.end() :]
    if not _NAME.fullmatch(whole):
        raise RuleError(f"expected an index such as 'i = block*6 + j', got {text!r}.", hint=_HINT)
    expression = Expression.parse(right)
    linear = _linear(expression, sizes, text)
    if linear.is_constant:
        hint = f"Write '{whole} == {expression}' for a condition. {_HINT}"
        raise RuleError(f"expected names of the other side in {text!r}, got none.", hint=hint)
    constant, terms = _number(linear.constant), linear.terms
    numbers = [(name, number) for name, factor in terms if (number := _number(factor)) is not None]
    shown_as = str(expression)
    if linear.leading is None and constant is not None and len(numbers) == len(terms):
        numbers.sort(key=lambda term: -term[1])
        terms = tuple((name, Expression.parse(factor)) for name, factor in numbers)
        shown_as = " + ".join(name if factor == 1 else f"{name}*{factor}" for name, factor in numbers)
        shown_as += "" if not constant else f" {'-' if constant < 0 else '+'} {abs(constant)}"
    equated = IndexEquation(f"{whole} = {shown_as}", whole, linear.constant, terms, linear.leading)
    _check_unique(equated)
    if not equated.size_names:
        equated.numbers(_no_lookup)
    return equated


def _check_unique(index: IndexEquation | IndexCount) -> None:
    names = (index.result, *index.names)
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise RuleError(f"expected each name once in '{index.text}', got {twice!r} twice.")


def _no_lookup(name: str) -> NoReturn:
    raise RuleError(f"{name} has no value.")


def _integer(expression: Expression, lookup: Lookup) -> int:
    return whole_number(expression.value(lookup), expression, signed=True)


def _number(expression: Expression) -> int | None:
    """Return the value of an expression without names; None for one with names."""
    return None if expression.names else _integer(expression, _no_lookup)


@dataclass(frozen=True)
class _Linear:
    """A constant and terms; the leading one selects from a list."""

    constant: Expression
    terms: tuple[tuple[str, Expression], ...] = ()
    leading: tuple[str, Expression, int] | None = None

    @property
    def is_constant(self) -> bool:
        return not self.terms and self.leading is None


def _linear(expression: Expression, sizes: Collection[str], text: str) -> _Linear:
    """Return an expression as a constant and terms; names that are neither sizes nor of the config are parts.

    Raises:
        RuleError: It is not such a sum.
    """
    if all(name in sizes or name.startswith("config.") for name in expression.names):
        return _Linear(expression)
    sign, arguments = expression.node.sign, tuple(map(Expression, expression.node.arguments))
    if sign == "name":
        return _Linear(Expression.parse(0), ((str(expression), Expression.parse(1)),))
    if sign in ("+", "-", "*", "index") and len(arguments) == 2:
        left, right = (_linear(side, sizes, text) for side in arguments)
        if sign == "index":
            shift = _number(right.constant)
            if left.is_constant and right.leading is None and len(right.terms) == 1 and shift is not None:
                ((name, factor),) = right.terms
                if _number(factor) == 1:
                    return _Linear(Expression.parse(0), (), (name, left.constant, shift))
        elif sign == "*":
            factor, inner = (left.constant, right) if left.is_constant else (right.constant, left)
            if (left.is_constant or right.is_constant) and inner.leading is None:
                scaled = ((name, _combined("*", factor, one)) for name, one in inner.terms)
                return _Linear(_combined("*", factor, inner.constant), tuple(scaled))
        elif (sign == "+" or right.is_constant) and not (left.leading and right.leading):
            constant = _combined(sign, left.constant, right.constant)
            return _Linear(constant, (*left.terms, *right.terms), left.leading or right.leading)
    raise RuleError(f"expected an index such as 'i = block*6 + j', got {text!r}.", hint=_HINT)


def _combined(sign: str, first: Expression, second: Expression) -> Expression:
    both = Expression.parse(f"({first}) {sign} ({second})")
    return both if both.names else Expression.parse(_integer(both, _no_lookup))
