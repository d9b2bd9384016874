"""Reads ``only=``: which tensors of a source are converted, and of which only the first entries."""

from __future__ import annotations

import functools
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from bridge_core.errors import RuleError, UsageError
from bridge_core.messages import listed, shown
from bridge_core.plugins import Registry
from bridge_core.resolve import source_spellings, unslashed
from bridge_core.rules import AnyN, Int, KeyIndex, Mixed, Pattern, Segment, Str
from bridge_core.state import FlatState, Key, Selection, Ties, join_key, shortened

__all__ = ["Only", "Part", "as_only", "part_of_source"]

_NUMBER = re.compile(r"[1-9][0-9]{0,17}")
_AXIS = re.compile(r"(.+)\[([0-9]{1,2})\]", re.DOTALL)
_LONGEST_SHOWN = 200


@dataclass(frozen=True)
class Only:
    """One text of ``only=``, read.

    Args:
        text: The text.
        pattern: The pattern in it.
        number: How many entries or rows are taken; None for all that the pattern names.
        axis: The axis whose first entries are taken; None where the text names none.
    """

    text: str
    pattern: Pattern
    number: int | None = None
    axis: int | None = None

    @classmethod
    def parse(cls, text: str) -> Only:
        """Read ``PATTERN``, ``PATTERN=N`` or ``PATTERN[AXIS]=N``.

        Raises:
            UsageError: The pattern or the number is not valid.
        """
        before, sign, number = text.rpartition("=")
        if sign and not _NUMBER.fullmatch(number):
            raise UsageError(
                f"only= (--only): expected a number of at least 1 after '=', got {shown(number)} in "
                f"{shown(text, _LONGEST_SHOWN)}.",
                hint='Pass how many entries or rows to take, only="model.layers=2" (--only PATTERN=N).',
            )
        written = before if sign else text
        axis = _AXIS.fullmatch(written) if sign else None
        try:
            pattern = Pattern.parse(axis[1] if axis else written)
        except RuleError as err:
            raise UsageError(f"only= (--only): {err.message}", hint=err.hint) from err
        if pattern.may_be_absent:
            raise UsageError(
                f"only= (--only): the pattern '{pattern}' has a '?', which only patterns of rules may have.",
                hint="Write the pattern without it.",
            )
        return cls(text, pattern, int(number) if sign else None, int(axis[2]) if axis else None)


def as_only(value: Any) -> tuple[Only, ...]:
    """Return what a caller passes as ``only=``, read.

    Raises:
        UsageError: It is neither a text nor a list of texts, or one of them is not valid.
    """
    texts = [value] if isinstance(value, str) else value
    if isinstance(texts, Iterable) and not isinstance(texts, bytes | Mapping):
        texts = list(texts)
        if all(isinstance(text, str) for text in texts):
            return tuple(map(Only.parse, dict.fromkeys(texts)))
    raise UsageError(
        f"expected only= (--only) to be a pattern or a list of patterns, got {shown(value)}.",
        hint='Pass only="model.layers.0" or only=["model.layers=2"] (--only PATTERN[=N]).',
    )


@dataclass(frozen=True)
class Part:
    """The part of a source that is converted.

    Args:
        selection: What was chosen, as data.
        state: The source with only that.
        by_number: Keys that are left out because a ``PATTERN=N`` takes fewer.
    """

    selection: Selection
    state: FlatState
    by_number: frozenset[Key]


def part_of_source(state: FlatState, only: tuple[Only, ...], registry: Registry) -> Part | None:
    """Return the part of a source that ``only=`` chooses; None if it chooses nothing.

    Patterns without a number choose tensors; without one of these everything is chosen. Patterns with a
    number then take the first of what they name, and leave out the others.

    Raises:
        UsageError: A pattern names nothing, too little, or two things.
    """
    if not only:
        return None
    names = _Names(state, registry)
    chosen: set[Key] = set()
    left_out: set[Key] = set()
    sizes: dict[Key, dict[int, int]] = {}
    for one in only:
        if one.number is None:
            chosen |= names.below(one)
            continue
        first = names.first(one)
        chosen |= first.named
        left_out |= first.named - first.taken
        for key, size in first.sizes.items():
            _add_sizes(sizes.setdefault(key, {}), size, one, key)
    if all(one.number is not None for one in only):
        chosen = set(state)
    taken = chosen - left_out
    _tie_sizes(state, sizes, taken)
    view = state.select(taken)
    if sizes:
        made: dict[Any, Any] = {}
        tensors = dict(view.tensors())
        for key in tensors:
            if of_key := sizes.get(key):
                identity = (id(tensors[key]), *sorted(of_key.items()))
                if identity not in made:
                    made[identity] = (tensors[key], shortened(tensors[key], of_key))
                tensors[key] = made[identity][1]
        view = view.replace(tensors=tensors, metadata=view.metadata)
    selection = Selection(tuple(one.text for one in only), state.specs(), view.specs())
    return Part(selection, view, frozenset(left_out & chosen))


def _add_sizes(known: dict[int, int], added: Mapping[int, int], one: Only, key: Key) -> None:
    for axis, size in added.items():
        if known.setdefault(axis, size) != size:
            raise UsageError(
                f"only= (--only): '{one.text}' takes {size} of axis {axis} of {join_key(key)!r}, and another "
                f"pattern takes {known[axis]}.",
                hint="Give one number for a tensor, and for those tied to it.",
            )


def _tie_sizes(state: FlatState, sizes: dict[Key, dict[int, int]], taken: Collection[Key]) -> None:
    """Shorten what is tied to a shortened tensor too, since both are one tensor."""
    if not sizes or not state.metadata.ties:
        return
    for root, tied in Ties(state.metadata.ties).groups().items():
        group = [key for key in (root, *tied) if key in state]
        of_group: dict[int, int] = {}
        for key in group:
            _add_sizes(of_group, sizes.get(key, {}), Only(join_key(key), Pattern(key)), key)
        for key in group if of_group else ():
            if key in taken and state.spec(key) == state.spec(group[0]):
                sizes[key] = of_group


@dataclass(frozen=True)
class _First:
    """What a ``PATTERN=N`` names, what it takes of it, and the sizes of what it shortens."""

    named: set[Key]
    taken: set[Key]
    sizes: dict[Key, dict[int, int]] = field(default_factory=dict)


class _Names:
    """The names that a user may write for the tensors of a source, and the paths above them."""

    def __init__(self, state: FlatState, registry: Registry) -> None:
        spellings = source_spellings(state, registry)
        self._state = state
        self._keys: dict[Key, list[Key]] = {}
        for key in state:
            for name in spellings(key):
                self._keys.setdefault(name, []).append(key)
        self._index = KeyIndex(self._keys)

    def below(self, one: Only) -> set[Key]:
        """Return the tensors that a pattern names; if none, those below the paths that it names."""
        pattern = self._read(one.pattern)
        tensors = self._tensors(pattern)
        if not tensors:
            tensors = {key for _, keys in self._below(pattern) for key in keys}
        if not tensors:
            raise self._unknown(one, "no tensor, and no path above one")
        return tensors

    def first(self, one: Only) -> _First:
        """Return what a pattern with a number names and takes.

        With a ``{i:int}`` it counts the numbers there. Else it names a list, ``layers`` for ``layers.0`` or
        ``layers_0`` and so on, or tensors, whose first rows are taken.
        """
        pattern = self._read(one.pattern)
        if pattern.numbers:
            if len(pattern.numbers) > 1:
                raise UsageError(
                    f"only= (--only): the pattern of '{one.text}' counts {len(pattern.numbers)} numbers.",
                    hint="Write {i:int} once, for what is counted, and * for other numbers.",
                )
            return self._entries(one, [pattern])
        tensors = self._tensors(pattern)
        lists = [other for other in _numbered(pattern) if any(self._below(other))]
        if len(lists) + bool(tensors) > 1:
            ways = [f"entries of {_list_text(other)}" for other in lists]
            ways += [f"rows of {pattern}"] if tensors else []
            raise UsageError(
                f"only= (--only): '{one.text}' has {len(ways)} meanings: {', '.join(ways)}.",
                path=self._where,
                hint=f"For entries write '{_counted(lists[0])}={one.number}'; for rows name the tensors exactly.",
            )
        if lists:
            return self._entries(one, lists)
        if not tensors:
            raise self._unknown(one, "no list of entries, and no tensor")
        return _First(tensors, tensors, {key: self._rows(one, key) for key in tensors})

    def _rows(self, one: Only, key: Key) -> dict[int, int]:
        shape, axis = self._state.spec(key).shape, one.axis or 0
        if axis >= len(shape) or shape[axis] < (one.number or 0):
            what = f"{shape[axis]} entries along axis {axis}" if axis < len(shape) else f"no axis {axis}"
            raise UsageError(
                f"only= (--only): '{one.text}' takes {one.number}, but {join_key(key)!r} of the shape "
                f"{list(shape)} has {what}.",
                path=self._where,
                hint="Give a smaller number, or leave out the pattern to take all.",
            )
        return {axis: one.number or 0} if one.number != shape[axis] else {}

    def _entries(self, one: Only, patterns: Iterable[Pattern]) -> _First:
        """Return the tensors below the entries of lists, and those below the first of each list."""
        if one.axis is not None:
            raise UsageError(
                f"only= (--only): '{one.text}' gives an axis, but its pattern names entries of a list.",
                hint="Leave out the axis.",
            )
        lists: dict[Key, dict[int, set[Key]]] = {}
        for pattern in patterns:
            for path, keys in self._below(pattern):
                where, number = _place(pattern, path)
                lists.setdefault(where, {}).setdefault(number, set()).update(keys)
        if not lists:
            raise self._unknown(one, "no entry of a list")
        named = {key for entries in lists.values() for keys in entries.values() for key in keys}
        taken: set[Key] = set()
        for where, entries in lists.items():
            if len(entries) < (one.number or 0):
                raise UsageError(
                    f"only= (--only): '{one.text}' takes {one.number} entries, but {join_key(where)!r} has "
                    f"{len(entries)}.",
                    path=self._where,
                    hint="Give a smaller number, or leave out the pattern to take all.",
                )
            for number in sorted(entries)[: one.number]:
                taken |= entries[number]
        return _First(named, taken)

    @property
    def _where(self) -> str | None:
        return self._state.metadata.provenance.get("path")

    def _read(self, pattern: Pattern) -> Pattern:
        """Return a pattern with its parts split at slashes, if only so it names something."""
        try:
            return unslashed(pattern, lambda one: bool(self._tensors(one)) or any(self._lists_or_paths(one)))
        except RuleError as err:
            raise UsageError(f"only= (--only): {err.message}", hint=err.hint) from err

    def _lists_or_paths(self, pattern: Pattern) -> Iterator[Key]:
        for one in (pattern, *_numbered(pattern)):
            yield from (path for path, _ in self._below(one))

    def _tensors(self, pattern: Pattern) -> set[Key]:
        literal = pattern.is_literal and self._keys.get(tuple(map(str, pattern.segments)))
        if literal:
            return set(literal)
        matching = (name for name in self._index.candidates(pattern) if pattern.match(name) is not None)
        named = {key for name in matching for key in self._keys[name]}
        if named or not pattern.is_literal:
            return named
        text = str(pattern)  # a part of a name may hold dots itself
        return {key for name, keys in self._keys.items() if join_key(name) == text for key in keys}

    def _below(self, pattern: Pattern) -> Iterator[tuple[Key, list[Key]]]:
        """Yield the paths, and names, that a pattern matches, each with the tensors below it."""
        for path in self._paths.candidates(pattern):
            if pattern.match(path) is not None:
                yield path, self._tree[path]

    @functools.cached_property
    def _tree(self) -> dict[Key, list[Key]]:
        """The tensors below each path, and below each name."""
        tree: dict[Key, list[Key]] = {}
        for name, keys in self._keys.items():
            for depth in range(1, len(name) + 1):
                tree.setdefault(name[:depth], []).extend(keys)
        return tree

    @functools.cached_property
    def _paths(self) -> KeyIndex:
        return KeyIndex(self._tree)

    def _unknown(self, one: Only, what: str) -> UsageError:
        import difflib  # only errors need it

        text = str(one.pattern).replace("/", ".")[:_LONGEST_SHOWN]
        names = {join_key(path)[:_LONGEST_SHOWN]: None for path in self._tree}
        names.pop(text, None)
        near = difflib.get_close_matches(text, list(names)[:20_000], n=1)
        first = listed(dict.fromkeys(name[0] for name in self._keys), 3)
        return UsageError(
            f"only= (--only): '{one.text}' matches {what}.",
            path=self._where,
            hint=f"Did you mean {near[0]!r}?" if near else f"Names begin with {first}.",
        )


def _numbered(pattern: Pattern) -> list[Pattern]:
    """Return the patterns of the entries of the list that a pattern names: ``h.0``, ``h_0`` and ``h0``."""
    *above, last = pattern.segments
    entry = Int("entry")
    if isinstance(last, AnyN):
        return [Pattern((*above, entry))]
    if not isinstance(last, str):
        return [Pattern((*above, last, entry))]
    return [
        Pattern((*above, last, entry)),
        Pattern((*above, Mixed((f"{last}_", entry)))),
        Pattern((*above, Mixed((last, entry)))),
    ]


def _list_text(entries: Pattern) -> str:
    return _counted(entries).replace("{i:int}", "0")


def _counted(entries: Pattern) -> str:
    """Return the pattern of entries as a user may write it."""
    return str(entries).replace("{entry:int}", "{i:int}")


def _place(pattern: Pattern, path: Key) -> tuple[Key, int]:
    """Return the list that a path belongs to, the parts up to its number without it, and the number."""
    plain = next(one for one in pattern.options if one.match(path) is not None)
    at = next(n for n, segment in enumerate(plain.segments) if _number_in(segment) is not None)
    segment = plain.segments[at]
    if any(isinstance(other, AnyN) for other in plain.segments[:at]):
        at += len(path) - len(plain.segments)
    part = path[at]
    if not isinstance(segment, Mixed):
        return path[:at], int(part)
    groups = segment.expression.fullmatch(part)
    group = _number_in(segment)
    if groups is None or group is None:
        raise AssertionError(f"{part!r} does not match {segment}")
    start, end = groups.span(group + 1)
    return (*path[:at], (part[:start] + part[end:]).rstrip("_")), int(part[start:end])


def _number_in(segment: Segment) -> int | None:
    """Return which capture of a segment is the number; None if none is."""
    pieces = segment.pieces if isinstance(segment, Mixed) else (segment,)
    captures = [piece for piece in pieces if isinstance(piece, Int | Str)]
    return next((n for n, capture in enumerate(captures) if isinstance(capture, Int)), None)
