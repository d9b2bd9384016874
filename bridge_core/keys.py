"""Keys name tensors; this module is all that the bridge knows about names.

A key is a tuple of parts. Formats with flat names join the parts; patterns match keys part by part
and are never regular expressions, so that they can be inverted.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from bridge_core.errors import KeyConflict, RuleError

__all__ = [
    "Any1",
    "AnyN",
    "Int",
    "Key",
    "Pattern",
    "Str",
    "as_key",
    "fold_names",
    "flat_names",
    "flatten_tree",
    "join_key",
    "natural_order",
    "split_name",
    "unflatten_tree",
]

Key = tuple[str, ...]

_ESCAPE = "\\"


def as_key(name: str | Iterable[str]) -> Key:
    """Return a key from a dotted name or from parts.

    >>> as_key("layers.0.weight")
    ('layers', '0', 'weight')
    """
    return tuple(name.split(".")) if isinstance(name, str) else tuple(name)


def join_key(key: Key, separator: str = ".", *, escape: bool = False) -> str:
    r"""Join a key into a flat name.

    >>> join_key(("a", "b.c"), escape=True)
    'a.b\\.c'
    """
    if not escape:
        return separator.join(key)
    return separator.join(
        part.replace(_ESCAPE, _ESCAPE * 2).replace(separator, _ESCAPE + separator) for part in key
    )


def split_name(name: str, separator: str = ".", *, escaped: bool = False) -> Key:
    r"""Split a flat name into a key; the inverse of `join_key`.

    >>> split_name("a.b\\.c", escaped=True)
    ('a', 'b.c')
    """
    if not escaped or _ESCAPE not in name:
        return tuple(name.split(separator))
    parts: list[str] = []
    part = ""
    characters = iter(name)
    for character in characters:
        if character == _ESCAPE:
            part += next(characters, _ESCAPE)
        elif character == separator:
            parts.append(part)
            part = ""
        else:
            part += character
    return (*parts, part)


def flat_names(keys: Iterable[Key], separator: str = ".") -> tuple[dict[Key, str], bool]:
    """Give every key a flat name.

    Returns:
        The names, and whether they had to be escaped because a part holds the separator.

    Raises:
        KeyConflict: Two keys join to one name.
    """
    keys = tuple(keys)
    names = {key: separator.join(key) for key in keys}
    owners: dict[str, Key] = {}
    for key, name in names.items():
        if name in owners:
            raise KeyConflict(
                f"the keys {owners[name]!r} and {key!r} both flatten to {name!r}.",
                key=key,
                hint="Rename one of them, or write a format that keeps nested names.",
            )
        owners[name] = key
    if not any(separator in part for key in keys for part in key):
        return names, False
    return {key: join_key(key, separator, escape=True) for key in keys}, True


_DIGITS = re.compile(r"(\d{1,4000})")  # Python refuses to read longer numbers
_FOLDED = re.compile(r"(?<![0-9])[0-9]{1,9}(?![0-9])")


def natural_order(key: Key) -> tuple[tuple[tuple[int, int, str], ...], ...]:
    """Sort key that puts ``layers.2`` before ``layers.10``.

    >>> sorted([("l", "10"), ("l", "2")], key=natural_order)
    [('l', '2'), ('l', '10')]
    """
    return tuple(
        tuple(
            (0, int(piece), piece) if piece.isdecimal() else (1, 0, piece)
            for piece in _DIGITS.split(part)
            if piece
        )
        for part in key
    )


def flatten_tree(
    tree: Mapping[Any, Any], is_leaf: Callable[[Any], bool] | None = None
) -> tuple[dict[Key, Any], tuple[Key, ...]]:
    """Flatten nested mappings to ``{key: leaf}``, and list the empty nodes.

    Args:
        tree: Nested mappings; integer names become strings.
        is_leaf: Says which mappings are leaves; by default none is.

    Raises:
        KeyConflict: A name is not a string or an integer, or two names are equal as strings.
    """
    leaves: dict[Key, Any] = {}
    empty: list[Key] = []
    pending: list[tuple[Key, Mapping[Any, Any]]] = [((), tree)]
    while pending:
        prefix, node = pending.pop()
        if not node:
            empty.append(prefix)
        nested: list[tuple[Key, Mapping[Any, Any]]] = []
        seen: set[str] = set()
        for name, child in node.items():
            if isinstance(name, bool) or not isinstance(name, str | int):
                raise KeyConflict(f"{name!r} is no name; a string was expected.", key=prefix)
            part = str(name)
            if part in seen:
                raise KeyConflict(f"two children are both named {part!r}.", key=prefix)
            seen.add(part)
            if isinstance(child, Mapping) and not (is_leaf and is_leaf(child)):
                nested.append(((*prefix, part), child))
            else:
                leaves[(*prefix, part)] = child
        pending.extend(reversed(nested))
    if empty == [()]:
        empty = []
    return leaves, tuple(empty)


def unflatten_tree(leaves: Mapping[Key, Any], empty: Iterable[Key] = ()) -> dict[str, Any]:
    """Nest ``{key: leaf}`` again; the inverse of `flatten_tree`.

    Raises:
        KeyConflict: One key is a prefix of another.
    """
    root: dict[str, Any] = {}
    nodes: dict[Key, dict[str, Any]] = {(): root}

    def node_at(path: Key) -> dict[str, Any]:
        found = nodes.get(path)
        if found is None:
            parent = node_at(path[:-1])
            if path[-1] in parent:
                raise KeyConflict("a tensor stands where others need a folder.", key=path)
            found = parent[path[-1]] = nodes[path] = {}
        return found

    for key, leaf in leaves.items():
        if not key:
            raise KeyConflict("a tensor has an empty key.", key=key)
        node = node_at(key[:-1])
        if key[-1] in node:
            raise KeyConflict("a tensor stands where others need a folder.", key=key)
        node[key[-1]] = leaf
    for path in empty:
        node_at(path)
    return root


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


Segment = str | Int | Str | Any1 | AnyN
Captures = Mapping[str, str]

_FIELD = re.compile(r"\{(\w+)(?::(int|str))?\}")


@dataclass(frozen=True)
class Pattern:
    """A pattern over keys: literals, ``{i:int}``, ``{name}``, ``*`` and ``**``.

    >>> Pattern.parse("layers.{i:int}.*").match(("layers", "7", "bias"))
    {'i': '7', '*0': 'bias'}
    >>> Pattern.parse("blocks.{i}.*").fill({"i": "7", "*0": "bias"})
    ('blocks', '7', 'bias')
    """

    segments: tuple[Segment, ...]

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
        names = [s.name for s in self.segments if isinstance(s, Int | Str)]
        if len(names) != len(set(names)):
            raise RuleError(f"pattern {self}: a capture is named twice.")
        if sum(isinstance(s, AnyN) for s in self.segments) > 1:
            raise RuleError(f"pattern {self}: '**' may stand once.")

    def __str__(self) -> str:
        """Return the dotted form."""
        return ".".join(_segment_text(segment) for segment in self.segments)

    @property
    def captures(self) -> tuple[str, ...]:
        """The names that a match binds; wildcards are numbered ``*0``, ``*1`` and ``**``."""
        return tuple(_capture_names(self.segments))

    def match(self, key: Key) -> dict[str, str] | None:
        """Return the captures if the whole key fits, else None."""
        spare = len(key) - len(self.segments)
        found: dict[str, str] = {}
        position = 0
        names = _capture_names(self.segments)
        for segment in self.segments:
            if isinstance(segment, AnyN):
                if spare < -1:
                    return None
                stop = position + spare + 1
                found[next(names)] = "\0".join(key[position:stop])
                position = stop
                continue
            if position >= len(key):
                return None
            part = key[position]
            position += 1
            if isinstance(segment, str):
                if part != segment:
                    return None
                continue
            if isinstance(segment, Int) and not (part.isascii() and part.isdecimal()):
                return None
            found[next(names)] = part
        return found if position == len(key) else None

    def fill(self, captures: Captures) -> Key:
        """Build the key that the captures stand for.

        Raises:
            RuleError: A capture of this pattern is not bound.
        """
        parts: list[str] = []
        names = _capture_names(self.segments)
        for segment in self.segments:
            if isinstance(segment, str):
                parts.append(segment)
                continue
            name = next(names)
            if name not in captures:
                raise RuleError(f"pattern {self}: nothing binds {_segment_text(segment)}.")
            value = captures[name]
            if isinstance(segment, AnyN):
                parts.extend(value.split("\0") if value else ())
            else:
                parts.append(value)
        return tuple(parts)


def _segment(text: str) -> Segment:
    if text == "*":
        return Any1()
    if text == "**":
        return AnyN()
    field = _FIELD.fullmatch(text)
    if field:
        return Int(field[1]) if field[2] == "int" else Str(field[1])
    if "{" in text or "}" in text or "*" in text:
        raise RuleError(f"pattern segment {text!r}: expected a name, '*', '**' or '{{name:int}}'.")
    return text


def _segment_text(segment: Segment) -> str:
    match segment:
        case Int(name):
            return f"{{{name}:int}}"
        case Str(name):
            return f"{{{name}}}"
        case Any1():
            return "*"
        case AnyN():
            return "**"
        case _:
            return segment


def _capture_names(segments: tuple[Segment, ...]) -> Iterator[str]:
    count = 0
    for segment in segments:
        if isinstance(segment, Int | Str):
            yield segment.name
        elif isinstance(segment, AnyN):
            yield "**"
        elif isinstance(segment, Any1):
            yield f"*{count}"
            count += 1


def fold_names(names: Iterable[str]) -> list[tuple[str, int]]:
    """Fold names that differ in their numbers alone, for reports.

    Returns:
        ``(folded name, how many it stands for)``, in order of first appearance.

    >>> fold_names(["h.0.w", "h.1.w", "h.2.w", "out"])
    [('h.{0..2}.w', 3), ('out', 1)]
    """
    groups: dict[tuple[tuple[str, ...], tuple[int, ...]], list[tuple[int, ...]]] = {}
    for name in names:
        numbers = _FOLDED.findall(name)
        padded = tuple(len(n) if n[0] == "0" and n != "0" else 0 for n in numbers)
        between = tuple(_FOLDED.split(name))
        groups.setdefault((between, padded), []).append(tuple(map(int, numbers)))
    folded = []
    for (between, padded), rows in groups.items():
        texts = [
            _numbers_text(sorted(set(c)), w) for c, w in zip(zip(*rows, strict=True), padded, strict=True)
        ]
        text = "".join(part for pair in zip(between, [*texts, ""], strict=True) for part in pair)
        folded.append((text, len(rows)))
    return folded


def _numbers_text(values: list[int], width: int) -> str:
    texts = [str(value).zfill(width) for value in values]
    if len(values) == 1:
        return texts[0]
    if values[-1] - values[0] == len(values) - 1:
        return f"{{{texts[0]}..{texts[-1]}}}"
    return "{" + ",".join([*texts[:6], "..."] if len(values) > 6 else texts) + "}"
