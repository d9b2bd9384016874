"""A number that is computed from others, as by `numpy.ravel_multi_index`."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from bridge_core.errors import RuleError
from bridge_core.rules.patterns import COUNT, NAME

__all__ = ["FlatIndex"]


@dataclass(frozen=True)
class FlatIndex:
    """A number that is computed from parts, the outermost first: ``i = block*6 + j``.

    Args:
        whole: The name of the number.
        parts: Name and bound of each part; a part is less than its bound, and the first has no bound (None).

    Raises:
        RuleError: A name occurs twice, or a bound is missing.

    >>> FlatIndex.parse("i = block*6 + j")
    FlatIndex(whole='i', parts=(('block', None), ('j', 6)))
    >>> FlatIndex.parse("i = block*6 + j").split("20")
    {'block': '3', 'j': '2'}
    """

    whole: str
    parts: tuple[tuple[str, int | None], ...]

    @classmethod
    def parse(cls, text: str) -> FlatIndex:
        """Parse ``i = a*12 + b*6 + c``.

        Raises:
            RuleError: The text is not such a sum, or a factor is not a multiple of the next smaller one.
        """
        whole, equals, sum_ = (side.strip() for side in text.partition("="))
        terms = [_factor(term) for term in sum_.split("+")]
        known = [term for term in terms if term is not None]
        if not equals or not NAME.fullmatch(whole) or len(known) != len(terms) or len(terms) < 2:
            raise RuleError(
                f"where: expected a sum such as 'i = block*6 + j', got {text!r}.",
                hint="Write a capture of one side, =, and names with integer factors that are added up.",
            )
        known.sort(key=lambda term: -term[1])
        steps = [step for _, step in known]
        if steps[-1] != 1 or any(a % b or a == b for a, b in itertools.pairwise(steps)):
            raise RuleError(
                f"where = {text!r}: expected factors that are each a multiple of the next smaller one, down "
                f"to 1, got {', '.join(map(str, steps))}.",
                hint="Write as each factor how many values the later parts have together: in "
                "'i = a*12 + b*6 + c' c has 6 values, and b and c have 12.",
            )
        bounds = [None, *(a // b for a, b in itertools.pairwise(steps))]
        return cls(whole, tuple((name, bound) for (name, _), bound in zip(known, bounds, strict=True)))

    def __post_init__(self) -> None:
        """Check that names are unique, and that each part after the first has a bound."""
        names = (self.whole, *self.names)
        bounds = [bound for _, bound in self.parts]
        if len(set(names)) != len(names):
            twice = next(name for name, number in Counter(names).items() if number > 1)
            raise RuleError(f"where = '{self}': expected each name once, got {twice!r} twice.")
        if len(names) < 3 or bounds[0] is not None or any(not bound for bound in bounds[1:]):
            raise RuleError(
                f"where: expected two parts of {self.whole} or more, with a bound for each but the first, "
                f"got {self.parts}."
            )

    def __str__(self) -> str:
        """Return the text that `parse` reads."""
        texts, step = [], 1
        for name, bound in reversed(self.parts):
            texts.append(name if step == 1 else f"{name}*{step}")
            step *= bound or 1
        return f"{self.whole} = {' + '.join(reversed(texts))}"

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the parts, the outermost first."""
        return tuple(name for name, _ in self.parts)

    @property
    def sizes(self) -> dict[str, int]:
        """How many values each part has, except for the first."""
        return {name: bound for name, bound in self.parts if bound is not None}

    def join(self, captures: Mapping[str, str]) -> str:
        """Return the number that the parts make.

        Raises:
            RuleError: A part is missing, is not a decimal number, or is not below its bound.
        """
        total = 0
        for name, bound in self.parts:
            part = _number(name, captures.get(name), self)
            if bound is not None and part >= bound:
                raise RuleError(f"where = '{self}': expected {name} below {bound}, got {part}.")
            total = total * (bound or 1) + part
        return str(total)

    def split(self, text: str) -> dict[str, str]:
        """Return the parts of the number.

        Raises:
            RuleError: The text is not a decimal number, or has leading zeros.
        """
        rest = _number(self.whole, text, self)
        parts: dict[str, str] = {}
        for name, bound in reversed(self.parts):
            parts[name] = str(rest if bound is None else rest % bound)
            rest //= bound or 1
        return {name: parts[name] for name in self.names}


def _factor(text: str) -> tuple[str, int] | None:
    pieces = [piece.strip() for piece in text.split("*")]
    if len(pieces) == 2 and COUNT.fullmatch(pieces[0]):
        pieces.reverse()
    if len(pieces) > 2 or not NAME.fullmatch(pieces[0]) or not all(map(COUNT.fullmatch, pieces[1:])):
        return None
    step = int(pieces[1]) if pieces[1:] else 1
    return (pieces[0], step) if step else None


def _number(name: str, text: str | None, index: FlatIndex) -> int:
    if text is None:
        raise RuleError(
            f"where = '{index}': {name} has no value, so that {index.whole} cannot be computed.",
            hint=f"Write {{{name}:int}} in the patterns of the side without {index.whole}.",
        )
    if not COUNT.fullmatch(text):
        raise RuleError(
            f"where = '{index}': expected a number without leading zeros for {name}, got {text!r}."
        )
    return int(text)
