"""Patterns over keys: they match part by part, bind captures, and are filled with them again.

A pattern is never a regular expression: a key that it matches can be built again from what it captured,
and a key that it builds gives back the same captures. Rules that are good both ways rest on this.
"""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from bridge_core.errors import RuleError
from bridge_core.state import Key

__all__ = [
    "Any1",
    "AnyN",
    "Capture",
    "Captures",
    "COUNT",
    "Int",
    "Mixed",
    "NAME",
    "Pattern",
    "Segment",
    "Str",
]


@dataclass(frozen=True)
class Int:
    """Pattern segment: one part that is a decimal number, captured as ``name``."""

    name: str


@dataclass(frozen=True)
class Str:
    """Pattern segment: one part, captured as ``name``."""

    name: str


@dataclass(frozen=True)
class Any1:
    """Pattern segment ``*``: any one part."""


@dataclass(frozen=True)
class AnyN:
    """Pattern segment ``**``: any number of parts, none included."""


Capture = Int | Str

Captures = Mapping[str, str]


@dataclass(frozen=True)
class Mixed:
    """Pattern segment: one part made of literals and captures, as ``layers_{i:int}``.

    Every part has at most one reading: two captures never touch, one of them at most is a `Str`, and what
    stands between two holds more than digits.

    Raises:
        RuleError: A part could be read in several ways.
    """

    pieces: tuple[str | Capture, ...]

    def __post_init__(self) -> None:
        """Check that there is one reading."""
        if sum(isinstance(piece, Str) for piece in self.pieces) > 1:
            raise RuleError(
                f"pattern segment {_text(self)!r} has two captures of any text, so a name could be read in "
                "several ways; make one of them an {i:int}, or split the name at dots."
            )
        captures = [n for n, piece in enumerate(self.pieces) if not isinstance(piece, str)]
        for first, second in itertools.pairwise(captures):
            between = "".join(str(piece) for piece in self.pieces[first + 1 : second])
            if not between.strip("0123456789"):
                raise RuleError(
                    f"pattern segment {_text(self)!r}: {_text(self.pieces[first])} and "
                    f"{_text(self.pieces[second])} need something other than digits between them, or a name "
                    "could be read in several ways."
                )

    @functools.cached_property
    def expression(self) -> re.Pattern[str]:
        """The expression that reads one part; its groups are the captures in order."""
        texts = {Int: "([0-9]+)", Str: "(.+?)"}
        return re.compile(
            "".join(re.escape(p) if isinstance(p, str) else texts[type(p)] for p in self.pieces), re.DOTALL
        )


Segment = str | Int | Str | Any1 | AnyN | Mixed

_FIELD = re.compile(r"\{(\w+)(?::(int|str))?\}")


@dataclass(frozen=True)
class Pattern:
    """A pattern over keys: literals, ``{i:int}``, ``{name}``, ``*`` and ``**``.

    A part may mix literals and captures, as ``layers_{i:int}``. Captures are texts: a number is given back
    as it was written.

    Args:
        segments: What each part of a key must be.
        collection: The collection that the pattern was written with, which the segments leave out; empty if
            it was written without one.
        elsewhere: Keys, without a collection, that are in other collections, so that they do not match.

    >>> Pattern.parse("layers.{i:int}.*").match(("layers", "7", "bias"))
    {'i': '7', '*0': 'bias'}
    >>> Pattern.parse("blocks_{i}.*").fill({"i": "7", "*0": "bias"})
    ('blocks_7', 'bias')
    """

    segments: tuple[Segment, ...]
    collection: str = ""
    elsewhere: frozenset[Key] = field(default=frozenset(), compare=False, repr=False)

    @classmethod
    def parse(cls, text: str | Pattern | tuple[Segment, ...]) -> Pattern:
        """Read a dotted pattern.

        Raises:
            RuleError: A segment is not well formed.
        """
        if isinstance(text, Pattern):
            return text
        parts = tuple(text.split(".")) if isinstance(text, str) else text
        return cls(tuple(_segment(part) if isinstance(part, str) else part for part in parts))

    def __post_init__(self) -> None:
        """Check that captures are named once and ``**`` stands once."""
        names = [capture.name for capture in _captures(self.segments)]
        if len(names) != len(set(names)):
            raise RuleError(f"pattern {self}: a capture is named twice.")
        if sum(isinstance(s, AnyN) for s in self.segments) > 1:
            raise RuleError(f"pattern {self}: '**' may stand once.")

    def __str__(self) -> str:
        """Return the dotted form, as it was written."""
        return ".".join(_text(segment) for segment in self.as_written.segments)

    @property
    def as_written(self) -> Pattern:
        """The pattern with its collection as the first part."""
        return Pattern((self.collection, *self.segments)) if self.collection else self

    def within(self, collection: str, elsewhere: frozenset[Key]) -> Pattern:
        """Return the pattern without its first part, which is a collection.

        Args:
            collection: The collection.
            elsewhere: Keys, without a collection, that are in other collections.
        """
        return Pattern(self.segments[1:], collection, elsewhere)

    @property
    def captures(self) -> tuple[str, ...]:
        """The names that a match binds; wildcards are numbered ``*0``, ``*1`` and ``**``."""
        return tuple(name for names in self._names for name in names)

    @functools.cached_property
    def numbers(self) -> tuple[str, ...]:
        """The names of the captures that are numbers."""
        return tuple(capture.name for capture in _captures(self.segments) if isinstance(capture, Int))

    @functools.cached_property
    def is_literal(self) -> bool:
        """Whether it matches one key alone."""
        return all(isinstance(segment, str) for segment in self.segments)

    @functools.cached_property
    def shape(self) -> tuple[Segment, ...]:
        """The segments without names: equal for patterns that match the same keys."""

        def nameless(segment: Segment) -> Segment:
            if isinstance(segment, Mixed):
                return Mixed(tuple(p if isinstance(p, str) else replace(p, name="") for p in segment.pieces))
            if isinstance(segment, Int):
                return Int("")
            return Any1() if isinstance(segment, Str) else segment

        return tuple(map(nameless, self.segments))

    def with_numbers(self, names: Iterable[str]) -> Pattern:
        """Return the pattern with the captures of these names read as numbers."""
        known = frozenset(names)

        def typed(segment: Segment) -> Segment:
            if isinstance(segment, Mixed):
                return Mixed(
                    tuple(
                        Int(p.name) if isinstance(p, Str) and p.name in known else p for p in segment.pieces
                    )
                )
            return Int(segment.name) if isinstance(segment, Str) and segment.name in known else segment

        return replace(self, segments=tuple(map(typed, self.segments)))

    @functools.cached_property
    def _names(self) -> tuple[tuple[str, ...], ...]:
        """The names that each segment binds."""
        return tuple(_names(self.segments))

    @functools.cached_property
    def _outline(self) -> _Outline:
        places = list(range(len(self.segments)))
        wide = [isinstance(segment, AnyN) for segment in self.segments]
        if any(wide):
            after = wide.index(True) + 1
            places[after:] = range(after - len(wide), 0)
        rows = list(zip(places, self.segments, self._names, strict=True))
        return _Outline(
            len(wide) - sum(wide),
            any(wide),
            tuple((place, segment) for place, segment, _ in rows if isinstance(segment, str)),
            tuple((place, s, names) for place, s, names in rows if not isinstance(s, str)),
        )

    def match(self, key: Key) -> dict[str, str] | None:
        """Return the captures if the whole key fits, else None."""
        if self.elsewhere and key in self.elsewhere:
            return None
        outline = self._outline
        spare = len(key) - outline.least
        if spare < 0 or (spare and not outline.wide):
            return None
        for place, text in outline.literals:
            if key[place] != text:
                return None
        found: dict[str, str] = {}
        for place, segment, names in outline.others:
            if isinstance(segment, AnyN):
                found["**"] = "\0".join(key[place : place + spare])
                continue
            part = key[place]
            if isinstance(segment, Mixed):
                groups = segment.expression.fullmatch(part)
                if groups is None:
                    return None
                found.update(zip(names, groups.groups(), strict=True))
            elif isinstance(segment, Int) and not (part.isascii() and part.isdecimal()):
                return None
            else:
                found[names[0]] = part
        return found

    def fill(self, captures: Captures) -> Key:
        """Build the key that the captures stand for.

        Raises:
            RuleError: A capture of this pattern is not bound.
        """
        parts: list[str] = []
        for segment, names in zip(self.segments, self._names, strict=True):
            if any(name not in captures for name in names):
                raise RuleError(f"pattern {self}: nothing binds {_text(segment)}.")
            if isinstance(segment, str):
                parts.append(segment)
            elif isinstance(segment, AnyN):
                value = captures["**"]
                parts.extend(value.split("\0") if value else ())
            elif isinstance(segment, Mixed):
                parts.append("".join(p if isinstance(p, str) else captures[p.name] for p in segment.pieces))
            else:
                parts.append(captures[names[0]])
        return tuple(parts)


@dataclass(frozen=True)
class _Outline:
    """What `Pattern.match` goes by, so that most keys are refused after one look.

    Args:
        least: The least number of parts of a key that fits.
        wide: Whether a key may have more.
        literals: Place in a key, counted from the end after ``**``, and the literal there.
        others: Place, segment, and the names that it binds.
    """

    least: int
    wide: bool
    literals: tuple[tuple[int, str], ...]
    others: tuple[tuple[int, Segment, tuple[str, ...]], ...]


def _segment(text: str) -> Segment:
    if text == "*":
        return Any1()
    if text == "**":
        return AnyN()
    pieces: list[str | Capture] = []
    rest = 0
    for found in _FIELD.finditer(text):
        pieces.append(text[rest : found.start()])
        pieces.append(Int(found[1]) if found[2] == "int" else Str(found[1]))
        rest = found.end()
    pieces.append(text[rest:])
    literals = "".join(piece for piece in pieces if isinstance(piece, str))
    if any(character in literals for character in "{}*"):
        raise RuleError(
            f"pattern segment {text!r}: expected a name, '*', '**', '{{name}}' or '{{name:int}}'."
        )
    pieces = [piece for piece in pieces if piece != ""]
    if not any(isinstance(piece, Int | Str) for piece in pieces):
        return text
    return pieces[0] if len(pieces) == 1 else Mixed(tuple(pieces))


def _text(segment: Segment) -> str:
    match segment:
        case Int(name):
            return f"{{{name}:int}}"
        case Str(name):
            return f"{{{name}}}"
        case Any1():
            return "*"
        case AnyN():
            return "**"
        case Mixed(pieces):
            return "".join(map(_text, pieces))
        case _:
            return segment


def _captures(segments: Iterable[Segment]) -> Iterator[Capture]:
    for segment in segments:
        if isinstance(segment, Mixed):
            yield from (piece for piece in segment.pieces if not isinstance(piece, str))
        elif isinstance(segment, Int | Str):
            yield segment


def _names(segments: Iterable[Segment]) -> Iterator[tuple[str, ...]]:
    """Yield the names that each segment binds."""
    count = 0
    for segment in segments:
        if isinstance(segment, AnyN):
            yield ("**",)
        elif isinstance(segment, Any1):
            yield (f"*{count}",)
            count += 1
        else:
            yield tuple(capture.name for capture in _captures((segment,)))


NAME = re.compile(r"[A-Za-z_]\w*", re.ASCII)

COUNT = re.compile(r"0|[1-9][0-9]{0,17}")
