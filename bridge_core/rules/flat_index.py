"""A number that is computed from others, as by `numpy.ravel_multi_index`."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

from bridge_core.errors import RuleError
from bridge_core.rules.patterns import COUNT, NAME

__all__ = ["FlatIndex"]


@dataclass(frozen=True)
class FlatIndex:
    """A number that is computed from its parts, the outermost first: ``i = block*6 + j``.

    Args:
        whole: The name of the number.
        parts: Name and bound of each part; the first has none.

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
        """Read ``whole = a*12 + b*6 + c``.

        Raises:
            RuleError: It is none, or its factors do not nest.
        """
        whole, equals, sum_ = (side.strip() for side in text.partition("="))
        terms = [_factor(term) for term in sum_.split("+")]
        known = [term for term in terms if term is not None]
        if not equals or not NAME.fullmatch(whole) or len(known) != len(terms) or len(terms) < 2:
            raise RuleError(f"where = {text!r} is not of the form 'i = block*6 + j'.")
        known.sort(key=lambda term: -term[1])
        steps = [step for _, step in known]
        if steps[-1] != 1 or any(a % b or a == b for a, b in itertools.pairwise(steps)):
            raise RuleError(
                f"where = {text!r}: the factors {', '.join(map(str, steps))} do not nest; each must be a "
                "multiple of the next and more than it, and the last number stands alone, "
                "as in 'i = a*12 + b*6 + c'."
            )
        bounds = [None, *(a // b for a, b in itertools.pairwise(steps))]
        return cls(whole, tuple((name, bound) for (name, _), bound in zip(known, bounds, strict=True)))

    def __post_init__(self) -> None:
        """Check that names are unique, and that all parts but the first have a bound."""
        names = (self.whole, *self.names)
        bounds = [bound for _, bound in self.parts]
        if len(set(names)) != len(names):
            raise RuleError(f"where = '{self}': a name occurs twice.")
        if len(names) < 3 or bounds[0] is not None or any(not bound for bound in bounds[1:]):
            raise RuleError(f"where: all parts of {self.whole} but the first need a bound.")

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
        """The bounds that are known: how many values a part takes."""
        return {name: bound for name, bound in self.parts if bound is not None}

    def join(self, captures: Mapping[str, str]) -> str:
        """Return the whole that the parts make.

        Raises:
            RuleError: A part is missing, no plain number, or not below its bound.
        """
        total = 0
        for name, bound in self.parts:
            part = _number(name, captures.get(name))
            if bound is not None and part >= bound:
                raise RuleError(f"{name} is {part}; with '{self}' it must be below {bound}.")
            total = total * (bound or 1) + part
        return str(total)

    def split(self, text: str) -> dict[str, str]:
        """Return the parts of the whole.

        Raises:
            RuleError: It is no plain number.
        """
        rest = _number(self.whole, text)
        found: dict[str, str] = {}
        for name, bound in reversed(self.parts):
            found[name] = str(rest if bound is None else rest % bound)
            rest //= bound or 1
        return {name: found[name] for name in self.names}


def _factor(text: str) -> tuple[str, int] | None:
    pieces = [piece.strip() for piece in text.split("*")]
    if len(pieces) == 2 and COUNT.fullmatch(pieces[0]):
        pieces.reverse()
    if len(pieces) > 2 or not NAME.fullmatch(pieces[0]) or not all(map(COUNT.fullmatch, pieces[1:])):
        return None
    step = int(pieces[1]) if pieces[1:] else 1
    return (pieces[0], step) if step else None


def _number(name: str, text: str | None) -> int:
    if text is None:
        raise RuleError(f"nothing binds {name}.")
    if not COUNT.fullmatch(text):
        raise RuleError(f"{name} is {text!r}; a plain number without leading zeros was expected.")
    return int(text)
