"""The names of one side of a conversion, and how patterns are read that were written in other ways.

Rules see keys without their collection and their box. A pattern that matches no key is read in the other
ways in which its names may be written: its parts split at slashes, its last part as the box of the values,
and its first part as the collection that the keys are in. So a module with the name of a collection is
addressed by its path, or by its full printed name. Of alternatives the first that matches a name is used.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

from bridge_core.errors import RuleError
from bridge_core.rules import Any1, KeyIndex, Pattern
from bridge_core.state import Key, join_key

__all__ = ["NamedSide", "unslashed"]


class NamedSide:
    """The names of one side of a conversion, and what patterns may write before them.

    Args:
        collections: The collections of the side's framework, the default first.
        names: The side's keys, without collections; empty if they are not known.
        elsewhere: Gives the names that are in other collections than one.
        boxes: The last parts of keys that only name the values in boxes.
        moved: Start of names in the file -> start of the side's keys in its place.
        slashed: Whether the file will have slashes between parts; asked where no names are known.
    """

    def __init__(
        self,
        collections: Collection[str],
        names: Iterable[Key] = (),
        elsewhere: Callable[[str], Iterable[Key]] = lambda _: (),
        boxes: Iterable[str] = (),
        moved: Mapping[Key, Key] | None = None,
        slashed: bool = False,
    ) -> None:
        self.default = next(iter(collections), "")
        self.collections = frozenset(collections)
        self.names = names
        self.boxes = frozenset(boxes)
        self.moved = moved or {}
        self._slashed = slashed
        self._elsewhere = elsewhere
        self._outside: dict[str, frozenset[Key]] = {}
        self._indices: dict[bool, KeyIndex] = {}
        self._with_dots: dict[str, Key] | None = None

    def read(
        self, pattern: Pattern, *, of_paths: bool = False, makes: bool = False, every: bool = False
    ) -> Pattern:
        """Return a pattern without its collection, its box, its slashes and alternatives.

        Args:
            pattern: The pattern.
            of_paths: Whether it is about the paths of layers, not about keys.
            makes: Whether it makes names, so that it is the first of its alternatives where none matches.
            every: Whether all its alternatives are meant, not the first that matches.

        Raises:
            RuleError: The pattern matches names with its slashes, and others where it is split at them.
        """
        pattern = self._unslashed(pattern, of_paths)
        if every or not pattern.is_open:
            return self._read(pattern, of_paths)
        readings = [self._read(option, of_paths) for option in pattern.options]
        chosen = next((one for one in readings if self._matches(one, of_paths)), None)
        if chosen is not None and "**" not in str(pattern):
            self._check_only(pattern, chosen, readings)
        if chosen is None and makes:
            # A rename may give the name of a leaf that the target's layer has under another one.
            chosen = next((one for one in readings if self._matches(_parent(one), True)), readings[0])
        return chosen or pattern

    def with_names(self, new_name: Callable[[Key], Key]) -> NamedSide:
        """Return the side with other names, those in other collections included."""
        if not self.names:
            return self
        names = {name: new_name(name) for name in self.names}
        side = NamedSide(
            (self.default, *self.collections),
            names.values(),
            lambda collection: (names.get(name, name) for name in self._elsewhere(collection)),
            self.boxes,
            self.moved,
        )
        side.collections = self.collections
        return side

    def has(self, pattern: Pattern) -> bool:
        """Return whether a pattern matches a name, in whichever way it is written."""
        return any(self._matches(self._read(one, False)) for one in self._unslashed(pattern, False).options)

    def _check_only(self, pattern: Pattern, chosen: Pattern, readings: Iterable[Pattern]) -> None:
        """Check that no name is left to other alternatives than the one that all names are read with."""
        index = self._index(False)
        for other in readings:
            for name in index.candidates(other) if other != chosen else ():
                if other.match(name) is not None and chosen.match(name) is None:
                    first = Pattern(chosen.segments)
                    raise RuleError(
                        f"the pattern '{pattern}' is read as '{first}', but {join_key(name)!r} matches "
                        "another alternative: expected names with one of them.",
                        hint="Write a table, [tables] x = [...], and {x} in the patterns of both sides.",
                    )

    def _read(self, pattern: Pattern, of_paths: bool) -> Pattern:
        if self.moved and not self._matches(pattern, of_paths):
            pattern = self.without_start(pattern)
        if pattern.is_literal and not of_paths:
            pattern = self._joined(pattern)
        if self.boxes and not of_paths:
            pattern = self._unboxed(pattern)
        head = pattern.segments[0] if pattern.segments else None
        if not isinstance(head, str) or head not in self.collections or pattern.collection:
            return pattern
        if (len(pattern.segments) == 1 and not of_paths) or self._has(pattern, of_paths):
            return pattern
        if head not in self._outside:
            self._outside[head] = frozenset(self._elsewhere(head))
        return pattern.within(head, self._outside[head])

    def _unslashed(self, pattern: Pattern, of_paths: bool) -> Pattern:
        split = pattern.slashed
        if split is None:
            return pattern
        if not self.names:
            return split if self._slashed or split.segments[0] in self.collections else pattern
        return unslashed(pattern, lambda one: any(self._matches(read, of_paths) for read in self._ways(one)))

    def _ways(self, pattern: Pattern) -> Iterator[Pattern]:
        """Yield the ways to read a pattern: as keys begin, and without the box."""
        moved = self.without_start(pattern)
        for read in (pattern,) if moved is pattern else (pattern, moved):
            yield read
            opened = self._opened(read)
            if opened is not read:
                yield opened

    def _joined(self, pattern: Pattern) -> Pattern:
        """Return a literal pattern with the parts of the only name that is printed so, if parts hold dots."""
        if self._with_dots is None:
            self._with_dots = {
                join_key(name): name for name in self.names if any("." in part for part in name)
            }
        if not self._with_dots or self._matches(pattern):
            return pattern
        parts = tuple(map(str, pattern.segments))
        head = parts[:1] if parts[0] in self.collections else ()
        for start in dict.fromkeys(((), head)):
            name = self._with_dots.get(join_key(parts[len(start) :]))
            if name is not None:
                return pattern.read_as((*start, *name))
        return pattern

    def without_start(self, pattern: Pattern) -> Pattern:
        """Return a pattern that begins as names in the file do as one that begins as keys do."""
        for old, new in self.moved.items():
            if pattern.segments[: len(old)] == old and len(pattern.segments) > len(old):
                return pattern.read_as((*new, *pattern.segments[len(old) :]))
        return pattern

    def _unboxed(self, pattern: Pattern) -> Pattern:
        """Return a pattern without its last part if that matches the box of values, and no name."""
        opened = self._opened(pattern)
        return opened if not self._matches(pattern) and self._matches(opened) else pattern

    def _opened(self, pattern: Pattern) -> Pattern:
        """Return a pattern without its last part if that may match a box."""
        last = pattern.segments[-1:]
        may_be_box = len(pattern.segments) > 1 and (last == (Any1(),) or self.boxes.issuperset(last))
        return pattern.read_as(pattern.segments[:-1]) if self.boxes and may_be_box else pattern

    def _matches(self, pattern: Pattern, of_paths: bool = False) -> bool:
        """Return whether a pattern matches a name of the side, which it may begin with a collection."""
        if self._has(pattern, of_paths):
            return True
        begins = pattern.segments and pattern.segments[0] in self.collections and not pattern.collection
        return bool(begins) and self._has(pattern.read_as(pattern.segments[1:]), of_paths)

    def _has(self, pattern: Pattern, of_paths: bool) -> bool:
        """Return whether a pattern matches a name, or the path of a layer above one."""
        return self._index(of_paths).has_match(pattern)

    def _index(self, of_paths: bool) -> KeyIndex:
        index = self._indices.get(of_paths)
        if index is None:
            index = self._indices[of_paths] = KeyIndex(
                name[:depth]
                for name in self.names
                for depth in range(1 if of_paths else len(name), len(name) + 1)
            )
        return index


def _parent(pattern: Pattern) -> Pattern:
    return pattern.read_as(pattern.segments[:-1])


def unslashed(pattern: Pattern, is_of: Callable[[Pattern], bool]) -> Pattern:
    """Return a pattern with its parts split at slashes, if only so it matches a name.

    Raises:
        RuleError: It matches a name both ways.
    """
    split = pattern.slashed
    if split is None or not is_of(split):
        return pattern
    own = {option.segments for option in pattern.options}
    if not any(option.segments not in own and is_of(option) for option in split.options):
        return pattern
    if is_of(pattern):
        raise RuleError(
            f"the pattern '{pattern}' has two meanings: names with a part that holds slashes, and "
            f"'{Pattern(split.segments)}', names of several parts.",
            hint="Write a dot between parts, and * for a part that holds slashes.",
        )
    return split
