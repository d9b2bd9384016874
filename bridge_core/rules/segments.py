"""The parts of a pattern: literals, captures, wildcards and alternatives, and their texts."""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from bridge_core.errors import RuleError

__all__ = [
    "COUNT",
    "NAME",
    "Any1",
    "AnyN",
    "Capture",
    "Int",
    "Mixed",
    "OneOf",
    "Segment",
    "Str",
    "captures_in",
    "is_one_part",
    "names_in",
    "nameless",
    "parse_segment",
    "segment_text",
    "split_parts",
    "typed",
    "variants_of",
]

NAME = re.compile(r"[A-Za-z_]\w*", re.ASCII)

COUNT = re.compile(r"0|[1-9][0-9]{0,17}")


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


@dataclass(frozen=True)
class OneOf:
    """Alternatives ``{model|a.b|}``: one of these texts, each of some parts or none."""

    texts: tuple[str, ...]


Capture = Int | Str


@dataclass(frozen=True)
class Mixed:
    """Literals and captures, as ``layers_{i:int}``, or alternatives, as ``{enc|dec}``.

    A part matches in at most one way: two captures never follow each other, at most one of them is a `Str`,
    and the text between two has more than digits.

    Raises:
        RuleError: A part could match in several ways.
    """

    pieces: tuple[str | Capture | OneOf, ...]

    def __post_init__(self) -> None:
        """Check that a part matches in at most one way."""
        if self.is_open:
            return  # checked for each alternative
        if sum(isinstance(piece, Str) for piece in self.pieces) > 1:
            raise RuleError(
                f"the part {segment_text(self)!r} of the pattern has two captures of any text, so that a "
                "name can match in several ways: expected at most one.",
                hint="Make one of them a number, such as {i:int}, or write its text.",
            )
        captures = [n for n, piece in enumerate(self.pieces) if not isinstance(piece, str)]
        for first, second in itertools.pairwise(captures):
            between = "".join(str(piece) for piece in self.pieces[first + 1 : second])
            if not between.strip("0123456789"):
                raise RuleError(
                    f"the part {segment_text(self)!r} of the pattern can match in several ways: expected a "
                    f"text with more than digits between {_piece_text(self.pieces[first])} and "
                    f"{_piece_text(self.pieces[second])}.",
                    hint="Write one capture for both, or a separator such as _ between them.",
                )

    @functools.cached_property
    def is_open(self) -> bool:
        """Whether it has alternatives."""
        return any(isinstance(piece, OneOf) for piece in self.pieces)

    @functools.cached_property
    def expression(self) -> re.Pattern[str]:
        """The regular expression of the part; its groups are the captures in order."""
        texts = {Int: "([0-9]+)", Str: "(.+?)"}
        return re.compile(
            "".join(re.escape(p) if isinstance(p, str) else texts[type(p)] for p in self.pieces), re.DOTALL
        )


Segment = str | Int | Str | Any1 | AnyN | Mixed

_FIELD = re.compile(r"\{(?:(\w+)(?::(int|str))?|([^{}|]*\|[^{}]*))\}")
_REGULAR = re.compile(r"\\(?:[dw]|$)|[)\]][?*+]")
"""Signs of regular expressions that names do not have."""

_PART = re.compile(r"(?:\{[^{}|]*\|[^{}]*\}|[^.])*", re.DOTALL)


def split_parts(text: str) -> list[str]:
    """Return the parts of a dotted pattern; dots of alternatives do not separate parts.

    >>> split_parts("{model|a.b|}.norm")
    ['{model|a.b|}', 'norm']
    """
    if "|" not in text:
        return text.split(".")
    parts, at = [], 0
    while True:
        found = _PART.match(text, at)
        at = found.end() if found else at
        parts.append(found[0] if found else "")
        if at >= len(text):
            return parts
        at += 1


def parse_segment(text: str) -> Segment:
    """Read one part of a pattern.

    Raises:
        RuleError: It is not valid.
    """
    if text == "*":
        return Any1()
    if text == "**":
        return AnyN()
    pieces: list[str | Capture | OneOf] = []
    rest = 0
    for written in _FIELD.finditer(text):
        pieces.append(text[rest : written.start()])
        name, kind, alternatives = written.groups()
        if alternatives is not None:
            pieces.append(_alternatives(text, alternatives))
        else:
            pieces.append(Int(name) if kind == "int" else Str(name))
        rest = written.end()
    pieces.append(text[rest:])
    literals = "".join(piece for piece in pieces if isinstance(piece, str))
    is_regular = _REGULAR.search(literals) is not None
    if is_regular or any(character in literals for character in "{}*"):
        if is_regular:
            hint = "Write {i:int} for \\d+, {name} for any text, and {text.|} for (text.)?."
        elif "|" in literals:
            hint = "Write plain texts as alternatives, such as {model|model.text|}."
        elif "*" in literals:
            hint = "Write a capture to match within a part, such as layer_{i:int}."
        else:
            hint = (
                "Write {i:int} for a number, {name} for any text, and where = 'n = i + 1' for another number."
            )
        raise RuleError(
            f"the part {text!r} of the pattern is not valid: expected a name, '*', '**', '{{name}}', "
            "'{name:int}' or '{one|other}'.",
            hint=hint,
        )
    pieces = [piece for piece in pieces if piece != ""]
    if all(isinstance(piece, str) for piece in pieces):
        return text
    first = pieces[0]
    return first if len(pieces) == 1 and isinstance(first, Int | Str) else Mixed(tuple(pieces))


def _alternatives(part: str, text: str) -> OneOf:
    if "*" in text:
        raise RuleError(
            f"the part {part!r} of the pattern has a '*' in its alternatives: expected plain texts.",
            hint="Write the texts that are meant, or * outside of the braces.",
        )
    return OneOf(tuple(text.split("|")))


def variants_of(segment: Segment) -> tuple[tuple[Segment, ...], ...]:
    """Return what a segment is for each choice of its alternatives, in order.

    A part that becomes empty is left out.

    Raises:
        RuleError: A part could match in several ways.
    """
    if not isinstance(segment, Mixed) or not segment.is_open:
        return ((segment,),)
    choices = [piece.texts if isinstance(piece, OneOf) else (piece,) for piece in segment.pieces]
    variants = []
    for chosen in itertools.product(*choices):
        parts: list[list[str | Capture]] = [[]]
        for piece in chosen:
            texts = piece.split(".") if isinstance(piece, str) else [piece]
            parts[-1].append(texts[0])
            parts += [[text] for text in texts[1:]]
        merged = (_merged(part) for part in parts)
        variants.append(tuple(part for part in merged if part != ""))
    return tuple(dict.fromkeys(variants))


def _merged(pieces: Iterable[str | Capture]) -> Segment:
    """Return the segment of pieces, texts that follow each other as one."""
    merged: list[str | Capture | OneOf] = []
    for piece in pieces:
        last = merged[-1] if merged else None
        if isinstance(piece, str) and isinstance(last, str):
            merged[-1] = last + piece
        elif piece != "":
            merged.append(piece)
    if not merged:
        return ""
    first = merged[0]
    return first if len(merged) == 1 and not isinstance(first, OneOf) else Mixed(tuple(merged))


def segment_text(segment: Segment) -> str:
    """Return how a segment is written."""
    if isinstance(segment, Mixed):
        return "".join(map(_piece_text, segment.pieces))
    if isinstance(segment, Any1):
        return "*"
    return "**" if isinstance(segment, AnyN) else _piece_text(segment)


def _piece_text(piece: str | Capture | OneOf) -> str:
    match piece:
        case Int(name):
            return f"{{{name}:int}}"
        case Str(name):
            return f"{{{name}}}"
        case OneOf(texts):
            return f"{{{'|'.join(texts)}}}"
        case _:
            return piece


def captures_in(segments: Iterable[Segment]) -> Iterator[Capture]:
    """Yield the captures, in order."""
    for segment in segments:
        if isinstance(segment, Mixed):
            yield from (piece for piece in segment.pieces if isinstance(piece, Int | Str))
        elif isinstance(segment, Int | Str):
            yield segment


def names_in(segments: Iterable[Segment]) -> Iterator[tuple[str, ...]]:
    """Yield the names of each segment's values; those of wildcards are ``*0``, ``*1`` and ``**``."""
    count = 0
    for segment in segments:
        if isinstance(segment, AnyN):
            yield ("**",)
        elif isinstance(segment, Any1):
            yield (f"*{count}",)
            count += 1
        else:
            yield tuple(capture.name for capture in captures_in((segment,)))


def is_one_part(segment: Segment) -> bool:
    """Return whether a segment matches one part of a key, whatever it captures or chooses."""
    if isinstance(segment, Mixed):
        return all(isinstance(piece, str | Int | Str) for piece in segment.pieces)
    return isinstance(segment, str | Int | Str | Any1)


def nameless(segment: Segment) -> Segment:
    """Return a segment without names: equal for segments that match the same parts."""
    if isinstance(segment, Mixed):
        pieces = segment.pieces
        return Mixed(tuple(replace(p, name="") if isinstance(p, Int | Str) else p for p in pieces))
    if isinstance(segment, Int):
        return Int("")
    return Any1() if isinstance(segment, Str) else segment


def typed(segment: Segment, numbers: frozenset[str]) -> Segment:
    """Return a segment with the captures of these names read as numbers."""

    def number(piece: str | Capture | OneOf) -> str | Capture | OneOf:
        return Int(piece.name) if isinstance(piece, Str) and piece.name in numbers else piece

    if isinstance(segment, Mixed):
        return Mixed(tuple(map(number, segment.pieces)))
    return Int(segment.name) if isinstance(segment, Str) and segment.name in numbers else segment
