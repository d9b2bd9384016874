"""Patterns over keys: they match a key part by part, capture values, and make a key from captured values.

A pattern is never a regular expression: a key that it matches can be made again from what it captured, and
matching a key that it made gives the same captures. So rules can be read in both directions.
"""

from __future__ import annotations

import functools
import itertools
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from bridge_core.errors import RuleError
from bridge_core.messages import shown
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

    A part matches in at most one way: two captures never follow each other, at most one of them is a `Str`,
    and the text between two has more than digits.

    Raises:
        RuleError: A part could match in several ways.
    """

    pieces: tuple[str | Capture, ...]

    def __post_init__(self) -> None:
        """Check that a part matches in at most one way."""
        if sum(isinstance(piece, Str) for piece in self.pieces) > 1:
            raise RuleError(
                f"the part {_text(self)!r} of the pattern has two captures of any text, so that a name can "
                "match in several ways: expected at most one.",
                hint="Make one of them a number, such as {i:int}, or write its text.",
            )
        captures = [n for n, piece in enumerate(self.pieces) if not isinstance(piece, str)]
        for first, second in itertools.pairwise(captures):
            between = "".join(str(piece) for piece in self.pieces[first + 1 : second])
            if not between.strip("0123456789"):
                raise RuleError(
                    f"the part {_text(self)!r} of the pattern can match in several ways: expected a text "
                    f"with more than digits between {_text(self.pieces[first])} and "
                    f"{_text(self.pieces[second])}.",
                    hint="Write one capture for both, or a separator such as _ between them.",
                )

    @functools.cached_property
    def expression(self) -> re.Pattern[str]:
        """The regular expression of the part; its groups are the captures in order."""
        texts = {Int: "([0-9]+)", Str: "(.+?)"}
        return re.compile(
            "".join(re.escape(p) if isinstance(p, str) else texts[type(p)] for p in self.pieces), re.DOTALL
        )


Segment = str | Int | Str | Any1 | AnyN | Mixed

_FIELD = re.compile(r"\{(\w+)(?::(int|str))?\}")


@dataclass(frozen=True)
class Pattern:
    """A pattern over keys: literals, ``{i:int}``, ``{name}``, ``*`` and ``**``.

    A part may mix literals and captures, as ``layers_{i:int}``. Captured values are texts, numbers too.

    Args:
        segments: What each part of a key must be.
        collection: The collection that the pattern was written with, which the segments leave out; empty if
            it was written without one.
        elsewhere: Keys, without a collection, that are in other collections, so that they do not match.
        written: The segments as they were written, where those that match are others.

    >>> Pattern.parse("layers.{i:int}.*").match(("layers", "7", "bias"))
    {'i': '7', '*0': 'bias'}
    >>> Pattern.parse("blocks_{i}.*").fill({"i": "7", "*0": "bias"})
    ('blocks_7', 'bias')
    """

    segments: tuple[Segment, ...]
    collection: str = ""
    elsewhere: frozenset[Key] = field(default=frozenset(), compare=False, repr=False)
    written: tuple[Segment, ...] = field(default=(), compare=False, repr=False)

    @classmethod
    def parse(cls, text: str | Pattern | tuple[Segment, ...]) -> Pattern:
        """Parse a dotted pattern, or one with slashes if it is not dotted; return a `Pattern`.

        Raises:
            RuleError: It is not a text, a part is not a valid pattern, or a capture is named twice.
        """
        if isinstance(text, Pattern):
            return text
        if not isinstance(text, str | tuple):
            raise RuleError(f"expected a pattern of keys, such as 'fc.*', got {shown(text)}.")
        parts = tuple(text.split(".")) if isinstance(text, str) else text
        try:
            return cls(tuple(_segment(part) if isinstance(part, str) else part for part in parts))
        except RuleError:
            if isinstance(text, str) and "/" in text:
                return cls.parse(text.replace("/", "."))
            raise

    def __post_init__(self) -> None:
        """Check that each capture, and ``**``, is in the pattern at most once."""
        names = [capture.name for capture in _captures(self.segments)]
        twice = next((name for name, number in Counter(names).items() if number > 1), None)
        if twice is not None:
            raise RuleError(
                f"the pattern '{self}' has the capture {{{twice}}} twice: expected each capture once.",
                hint="Give one of them another name.",
            )
        wide = sum(isinstance(s, AnyN) for s in self.segments)
        if wide > 1:
            raise RuleError(
                f"the pattern '{self}' has '**' {wide} times: expected it at most once.",
                hint="Write * for a single part.",
            )

    def __str__(self) -> str:
        """Return the dotted form, as it was written."""
        return ".".join(_text(segment) for segment in self.as_written.segments)

    @property
    def as_written(self) -> Pattern:
        """The pattern as it was written, with its collection as the first part."""
        if self.written:
            return Pattern(self.written)
        return Pattern((self.collection, *self.segments)) if self.collection else self

    def within(self, collection: str, elsewhere: frozenset[Key]) -> Pattern:
        """Return the pattern without its first part, which is the name of a collection.

        Args:
            collection: The collection.
            elsewhere: Keys, without a collection, that are in other collections.
        """
        return replace(self, segments=self.segments[1:], collection=collection, elsewhere=elsewhere)

    def read_as(self, segments: tuple[Segment, ...]) -> Pattern:
        """Return the pattern with other segments; it still shows those it was written with."""
        return replace(self, segments=segments, written=self.written or self.as_written.segments)

    @functools.cached_property
    def slashed(self) -> Pattern | None:
        """The pattern with parts split at slashes; None without one, or where it was read."""
        text = str(self)
        if self.written or self.collection or "/" not in text or text.count(".") >= len(self.segments):
            return None
        return self.read_as(Pattern.parse(text.replace("/", ".")).segments)

    @property
    def captures(self) -> tuple[str, ...]:
        """The names of a match's values; those of wildcards are ``*0``, ``*1`` and ``**``."""
        return tuple(name for names in self._names for name in names)

    @functools.cached_property
    def numbers(self) -> tuple[str, ...]:
        """The names of the captures that are numbers."""
        return tuple(capture.name for capture in _captures(self.segments) if isinstance(capture, Int))

    @functools.cached_property
    def is_literal(self) -> bool:
        """Whether the pattern matches only one key."""
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
        """The names of each segment's captures."""
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
        """Return the captured values, or None if the key does not match entirely."""
        if self.elsewhere and key in self.elsewhere:
            return None
        outline = self._outline
        spare = len(key) - outline.least
        if spare < 0 or (spare and not outline.wide):
            return None
        for place, text in outline.literals:
            if key[place] != text:
                return None
        captures: dict[str, str] = {}
        for place, segment, names in outline.others:
            if isinstance(segment, AnyN):
                captures["**"] = "\0".join(key[place : place + spare])
                continue
            part = key[place]
            if isinstance(segment, Mixed):
                groups = segment.expression.fullmatch(part)
                if groups is None:
                    return None
                captures.update(zip(names, groups.groups(), strict=True))
            elif isinstance(segment, Int) and not (part.isascii() and part.isdecimal()):
                return None
            else:
                captures[names[0]] = part
        return captures

    def fill(self, captures: Captures) -> Key:
        """Return the key that has these captured values.

        Raises:
            RuleError: A capture of this pattern has no value.
        """
        parts: list[str] = []
        for segment, names in zip(self.segments, self._names, strict=True):
            if any(name not in captures for name in names):
                raise RuleError(
                    f"the pattern '{self}' makes no key: {_text(segment)} has no value.",
                    hint=f"Write {_text(segment)} in the pattern of the other side too.",
                )
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
    """The tests of `Pattern.match`, ordered so that most keys fail the first one.

    Args:
        least: The lowest number of parts of a key that matches.
        wide: Whether a key may have more.
        literals: Index of a part of the key, negative after ``**``, and the literal there.
        others: Index, segment, and the names of its captures.
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
            f"the part {text!r} of the pattern is not valid: expected a name, '*', '**', '{{name}}' or "
            "'{name:int}'.",
            hint="Write a capture to match within a part, such as layer_{i:int}."
            if "*" in literals
            else "Write {i:int} for a number, and {name} for any text.",
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
    """Yield the names of each segment's captures."""
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
