"""Patterns over keys: they match a key part by part, capture values, and make a key from captured values.

A pattern is never a regular expression: a key that it matches can be made again from what it captured, and
matching a key that it made gives the same captures. So rules can be read in both directions.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from bridge_core.errors import RuleError
from bridge_core.messages import shown
from bridge_core.rules.segments import (
    AnyN,
    Int,
    Mixed,
    OneOf,
    Segment,
    captures_in,
    is_one_part,
    nameless,
    names_in,
    parse_segment,
    segment_text,
    split_parts,
    typed,
    variants_of,
)
from bridge_core.state import Key

__all__ = ["Captures", "Pattern"]

Captures = Mapping[str, str]

_MOST_OPTIONS = 64
"""How many plain patterns the alternatives of one may give."""

_OPEN = AnyN()
"""What `_Outline` has in place of the segments of a pattern with alternatives."""


@dataclass(frozen=True)
class Pattern:
    """A pattern over keys: texts, ``{i:int}``, ``{name}``, ``{one|other}``, ``*`` and ``**``.

    A part may mix literals and captures, as ``layers_{i:int}``. Captured values are texts, numbers too.
    Alternatives, as ``{model|model.text|}``, capture nothing: the first that matches is used, and the first
    makes the key where none was fixed.

    Args:
        segments: What each part of a key must be.
        collection: The collection that the pattern was written with, which the segments leave out; empty if
            it was written without one.
        elsewhere: Keys, without a collection, that are in other collections, so that they do not match.
        written: The segments as they were written, where those that match are others.
        may_be_absent: Whether the tensor may be absent, written as ``?`` at the end.

    >>> Pattern.parse("layers.{i:int}.*").match(("layers", "7", "bias"))
    {'i': '7', '*0': 'bias'}
    >>> Pattern.parse("blocks_{i}.*").fill({"i": "7", "*0": "bias"})
    ('blocks_7', 'bias')
    >>> Pattern.parse("{model|}.norm.*").match(("norm", "bias"))
    {'*0': 'bias'}
    """

    segments: tuple[Segment, ...]
    collection: str = ""
    elsewhere: frozenset[Key] = field(default=frozenset(), compare=False, repr=False)
    written: tuple[Segment, ...] = field(default=(), compare=False, repr=False)
    may_be_absent: bool = field(default=False, repr=False)

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
        may_be_absent = isinstance(text, str) and text.endswith("?")
        parts = split_parts(text.removesuffix("?")) if isinstance(text, str) else text
        try:
            segments = tuple(parse_segment(part) if isinstance(part, str) else part for part in parts)
            return cls(segments, may_be_absent=may_be_absent)
        except RuleError:
            if isinstance(text, str) and "/" in text:
                return cls.parse(text.replace("/", "."))
            raise

    def __post_init__(self) -> None:
        """Check that each capture, and ``**``, is in the pattern at most once; read the alternatives."""
        names = [capture.name for capture in captures_in(self.segments)]
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
        if self.is_open:
            self._check_options()

    def _check_options(self) -> None:
        pieces = (piece for s in self.segments if isinstance(s, Mixed) for piece in s.pieces)
        number = math.prod(len(piece.texts) for piece in pieces if isinstance(piece, OneOf))
        if number > _MOST_OPTIONS:
            raise RuleError(
                f"the alternatives of the pattern '{self}' give {number} patterns: expected at most "
                f"{_MOST_OPTIONS}.",
                hint="Write several rules, each with fewer alternatives.",
            )
        if not all(option.segments for option in self.options):
            raise RuleError(
                f"the pattern '{self}' has no part left where its alternatives are empty.",
                hint="Remove the empty alternative, or write a part next to it.",
            )

    def __str__(self) -> str:
        """Return the dotted form, as it was written."""
        return ".".join(map(segment_text, self._written)) + "?" * self.may_be_absent

    @property
    def as_written(self) -> Pattern:
        """The pattern as it was written, with its collection as the first part."""
        if not self.written and not self.collection:
            return self
        return Pattern(self._written, may_be_absent=self.may_be_absent)

    @property
    def _written(self) -> tuple[Segment, ...]:
        return self.written or ((self.collection, *self.segments) if self.collection else self.segments)

    @functools.cached_property
    def is_open(self) -> bool:
        """Whether it has alternatives of which none was chosen."""
        return any(isinstance(segment, Mixed) and segment.is_open for segment in self.segments)

    @functools.cached_property
    def options(self) -> tuple[Pattern, ...]:
        """The plain patterns: one for each choice of its alternatives, in order."""
        if not self.is_open:
            return (self,)
        variants = itertools.product(*map(variants_of, self.segments))
        chosen = (tuple(itertools.chain.from_iterable(variant)) for variant in variants)
        return tuple(map(self.read_as, dict.fromkeys(chosen)))

    def within(self, collection: str, elsewhere: frozenset[Key]) -> Pattern:
        """Return the pattern without its first part, which is the name of a collection.

        Args:
            collection: The collection.
            elsewhere: Keys, without a collection, that are in other collections.
        """
        return replace(self, segments=self.segments[1:], collection=collection, elsewhere=elsewhere)

    def read_as(self, segments: tuple[Segment, ...]) -> Pattern:
        """Return the pattern with other segments; it still shows those it was written with."""
        return replace(self, segments=segments, written=self._written)

    @functools.cached_property
    def slashed(self) -> Pattern | None:
        """The pattern with parts split at slashes; None without one, or where it was read."""
        text = str(self)
        if self.written or self.collection or "/" not in text or len(split_parts(text)) > len(self.segments):
            return None
        return self.read_as(Pattern.parse(text.replace("/", ".")).segments)

    @functools.cached_property
    def captures(self) -> tuple[str, ...]:
        """The names of a match's values; those of wildcards are ``*0``, ``*1`` and ``**``."""
        return tuple(name for names in self._names for name in names)

    @functools.cached_property
    def numbers(self) -> tuple[str, ...]:
        """The names of the captures that are numbers."""
        return tuple(capture.name for capture in captures_in(self.segments) if isinstance(capture, Int))

    @functools.cached_property
    def is_literal(self) -> bool:
        """Whether the pattern matches only one key."""
        return all(isinstance(segment, str) for segment in self.segments)

    @functools.cached_property
    def literals(self) -> tuple[tuple[int, str], ...]:
        """The literal parts whose place is known, with that place, negative if it is from the end."""
        wide = [place for place, segment in enumerate(self.segments) if not is_one_part(segment)]
        first, last = (wide[0], wide[-1]) if wide else (len(self.segments), len(self.segments))
        return tuple(
            (place if place < first else place - len(self.segments), segment)
            for place, segment in enumerate(self.segments)
            if isinstance(segment, str) and not first <= place <= last
        )

    @functools.cached_property
    def shape(self) -> tuple[Segment, ...]:
        """The segments without names: equal for patterns that match the same keys."""
        return tuple(map(nameless, self.segments))

    def with_numbers(self, names: Iterable[str]) -> Pattern:
        """Return the pattern with the captures of these names read as numbers."""
        known = frozenset(names)
        return replace(self, segments=tuple(typed(segment, known) for segment in self.segments))

    @functools.cached_property
    def _names(self) -> tuple[tuple[str, ...], ...]:
        """The names of each segment's captures."""
        return tuple(names_in(self.segments))

    @functools.cached_property
    def _outline(self) -> _Outline:
        if self.is_open:
            return _Outline(0, True, (), ((0, _OPEN, ()),))
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
                if segment is _OPEN:
                    return self._match_options(key)
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

    def _match_options(self, key: Key) -> dict[str, str] | None:
        # A method of its own: variables that an expression closes over would be slower for every match.
        matches = (option.match(key) for option in self.options)
        return next((found for found in matches if found is not None), None)

    def fill(self, captures: Captures) -> Key:
        """Return the key that has these captured values, by the first of alternatives.

        Raises:
            RuleError: A capture of this pattern has no value.
        """
        if self.is_open:
            return self.options[0].fill(captures)
        parts: list[str] = []
        for segment, names in zip(self.segments, self._names, strict=True):
            if any(name not in captures for name in names):
                raise RuleError(
                    f"the pattern '{self}' makes no key: {segment_text(segment)} has no value.",
                    hint=f"Write {segment_text(segment)} in the pattern of the other side too.",
                )
            if isinstance(segment, str):
                parts.append(segment)
            elif isinstance(segment, AnyN):
                value = captures["**"]
                parts.extend(value.split("\0") if value else ())
            elif isinstance(segment, Mixed):
                values = (captures[name] for name in names)
                parts.append("".join(p if isinstance(p, str) else next(values) for p in segment.pieces))
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
