"""Patterns that are written as ``inspect`` prints names, or as a file has them: ``params.blocks_0.**``.

Rules see keys without their collection and their box. A pattern that matches no key is read in the other
ways in which its names may be written: its parts split at slashes, its last part as the box of the values,
and its first part as the collection that the keys are in. So a module with the name of a collection is
addressed by its path, or by its full printed name.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Container, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from bridge_core.errors import RuleError
from bridge_core.plugins import Registry, names_of
from bridge_core.rules import Any1, KeyIndex, Pattern, PatternIndex
from bridge_core.state import FlatState, Key, VariableCollections, join_key

if TYPE_CHECKING:
    from bridge_core.resolve.rule_instance import BoundRule
    from bridge_core.rules import Rule

__all__ = [
    "NamedSide",
    "neutral_side",
    "read_printed",
    "refuse_unclear_target",
    "share_default_paths",
    "side_of",
    "target_collections",
    "unseen_side",
    "unslashed",
    "without_collections",
]


class NamedSide:
    """The names of one side of a conversion, and the collections that patterns may write before them.

    Args:
        collections: The collections of the side's framework, the default first.
        names: The side's keys, without collections; empty if they are not known.
        elsewhere: Gives the names that are in other collections than one.
        boxes: The last parts of keys that only name the values in boxes.
        moved: Start of names in the file -> start of the side's keys in its place.
    """

    def __init__(
        self,
        collections: Collection[str],
        names: Iterable[Key] = (),
        elsewhere: Callable[[str], Iterable[Key]] = lambda _: (),
        boxes: Iterable[str] = (),
        moved: Mapping[Key, Key] | None = None,
    ) -> None:
        self.default = next(iter(collections), "")
        self.collections = frozenset(collections)
        self.names = names
        self.boxes = frozenset(boxes)
        self.moved = moved or {}
        self._elsewhere = elsewhere
        self._outside: dict[str, frozenset[Key]] = {}
        self._indices: dict[bool, KeyIndex] = {}
        self._with_dots: dict[str, Key] | None = None

    def read(self, pattern: Pattern, *, of_paths: bool = False) -> Pattern:
        """Return a pattern without the collection that it begins with, its box and its slashes.

        Args:
            pattern: The pattern.
            of_paths: Whether it is about the paths of layers, not about keys.

        Raises:
            RuleError: The pattern matches names with its slashes, and others where it is split at them.
        """
        pattern = self._unslashed(pattern, of_paths)
        if self.moved and not self._matches(pattern, of_paths):
            pattern = self.without_start(pattern)
        if pattern.is_literal and not of_paths:
            pattern = self._joined(pattern)
        if self.boxes and not of_paths:
            pattern = self._unboxed(pattern)
        head = pattern.segments[0] if pattern.segments else None
        if not isinstance(head, str) or head not in self.collections or pattern.collection:
            return pattern
        if (len(pattern.segments) == 1 and not of_paths) or self._index(of_paths).has_match(pattern):
            return pattern
        if head not in self._outside:
            self._outside[head] = frozenset(self._elsewhere(head))
        return pattern.within(head, self._outside[head])

    def _unslashed(self, pattern: Pattern, of_paths: bool) -> Pattern:
        split = pattern.slashed
        if split is None:
            return pattern
        if not self.names:
            return split if split.segments[0] in self.collections else pattern
        return unslashed(
            pattern,
            lambda one: any(
                self._matches(read, of_paths)
                for moved in (one, self.without_start(one))
                for read in (moved, self._opened(moved))
            ),
        )

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
        readings = [pattern]
        if pattern.segments and pattern.segments[0] in self.collections:
            readings.append(pattern.read_as(pattern.segments[1:]))
        index = self._index(of_paths)
        return any(index.has_match(one) for one in readings)

    def _index(self, of_paths: bool) -> KeyIndex:
        """Return the names, with the paths of layers above them if patterns are about paths."""
        index = self._indices.get(of_paths)
        if index is None:
            index = self._indices[of_paths] = KeyIndex(
                name[:depth]
                for name in self.names
                for depth in range(1 if of_paths else len(name), len(name) + 1)
            )
        return index


def unslashed(pattern: Pattern, is_of: Callable[[Pattern], bool]) -> Pattern:
    """Return a pattern with its parts split at slashes, if only so it matches a name.

    Args:
        pattern: The pattern.
        is_of: Whether a pattern matches a name.

    Raises:
        RuleError: It matches a name both ways.
    """
    split = pattern.slashed
    if split is None or not is_of(split):
        return pattern
    if is_of(pattern):
        dotted = ".".join(map(str, Pattern(split.segments).segments))
        raise RuleError(
            f"the pattern '{pattern}' has two meanings: names with a part that holds slashes, and "
            f"'{dotted}', names of several parts.",
            hint="Write a dot between parts, and * for a part that holds slashes.",
        )
    return split


def side_of(state: FlatState, registry: Registry) -> NamedSide:
    """Return the names of a framework's state."""
    framework = registry.frameworks.get(state.layout or "")
    if framework is None or not framework.collections:
        return NamedSide((), state)
    collections = names_of(state, framework)
    names = collections.names(state)
    recorded = state.metadata.collections

    def elsewhere(collection_name: str) -> Iterable[Key]:
        for key, name in names.items():
            collection = collections.split(key)[0] or recorded.get(key)
            if collection is None and collection_name != collections.default:
                collection = collections.of("", name[-1])  # a bare tree does not show it
            if collection not in (None, collection_name):
                yield name

    boxes = {key[-1] for key in collections.boxed}
    moved = starts_moved(state.metadata.source_names)
    return NamedSide(framework.collections, names.values(), elsewhere, boxes, moved)


def starts_moved(source_names: Mapping[Key, Key]) -> dict[Key, Key]:
    """Return the starts of names in a file -> the starts of keys in their place.

    Args:
        source_names: Key -> name in the file.
    """
    starts: dict[Key, Key] = {}
    for key, name in source_names.items():
        same = 0
        while same < min(len(key), len(name)) and key[-1 - same] == name[-1 - same]:
            same += 1
        starts[name[: len(name) - same]] = key[: len(key) - same]
    return starts


def neutral_side(state: FlatState, keys: Iterable[Key], layout: str, registry: Registry) -> NamedSide:
    """Return the names of a neutral state for rules that write them as a framework does.

    Args:
        state: The neutral state.
        keys: Those of its keys that the rules may take.
        layout: The framework that the rules name.
        registry: Where the framework is found.
    """
    framework = registry.frameworks.get(layout)
    if framework is None or not framework.collections:
        return NamedSide((), keys)
    collections = VariableCollections(framework.collections)
    metadata = state.metadata

    def elsewhere(collection_name: str) -> Iterable[Key]:
        for key in keys:
            collection = metadata.collections.get(key)
            if collection is None:
                path, leaf = metadata.owner(key)
                info = metadata.layers.get(path)
                of_layer = info is not None and leaf in info.leaves
                collection = collections.of(info.kind if info is not None and of_layer else None, leaf)
            if collection != collection_name:
                yield key

    return NamedSide(framework.collections, keys, elsewhere, set(metadata.boxes.values()))


def unseen_side(layout: str, registry: Registry) -> NamedSide:
    """Return a framework's side without names, for a state that is not known."""
    framework = registry.frameworks.get(layout)
    return NamedSide(framework.collections if framework is not None else ())


def read_printed(rule: Rule, source: NamedSide, target: NamedSide) -> Rule:
    """Return a rule whose patterns leave out the collections that they begin with.

    Args:
        rule: The rule, in the direction of the conversion.
        source: The names that its sources are about.
        target: The names that its targets are about.
    """
    of_paths = rule.action == "layer"
    sources = tuple(source.read(pattern, of_paths=of_paths) for pattern in rule.sources)
    targets = tuple(target.read(pattern) for pattern in rule.targets)
    if of_paths:
        # Layers are known by the names that rules give them, too.
        sources = tuple(target.read(pattern, of_paths=True) for pattern in sources)
    if rule.action == "rename":
        targets = (_written_alike(rule, sources[0], targets[0]),)
        if sources[0].written:
            targets = (source.without_start(targets[0]),)
        # Names of one framework on both sides of a rule, whichever the other framework is.
        (old,), (new,) = sources, targets
        if old.collection:
            targets = (NamedSide(source.collections, target.names).read(new),)
        elif new.collection:
            sources = (NamedSide(target.collections, source.names).read(old),)
    if (sources, targets) == (rule.sources, rule.targets):
        return rule
    return replace(rule, sources=sources, targets=targets)


def _written_alike(rule: Rule, source: Pattern, target: Pattern) -> Pattern:
    """Return the target of a rename read as its source is, where both are written in one way."""
    old, new = rule.source, rule.targets[0]
    if target is not new or not source.written:
        return target
    split = new.slashed
    if old.slashed is not None and split is not None:
        old, target = old.slashed, split
    is_boxed = len(target.segments) > 1 and source.segments[-1:] != old.segments[-1:]
    if is_boxed and target.segments[-1:] == old.segments[-1:]:
        target = target.read_as(target.segments[:-1])
    return target


def without_collections(
    rules: Iterable[Rule], source: FlatState | None, target: FlatState | None, registry: Registry
) -> tuple[Rule, ...]:
    """Return rules whose patterns leave out the collections that they begin with.

    Args:
        rules: The rules, in the direction from the source to the target.
        source: The source; None if it is not known.
        target: The target, or its template; None if it is not known.
        registry: Where frameworks are found.
    """
    known = [None if state is None else side_of(state, registry) for state in (source, target)]
    read, defaults = [], set()
    for rule in rules:
        layouts = rule.layouts or ("", "")
        sides = [side or unseen_side(layout, registry) for side, layout in zip(known, layouts, strict=True)]
        defaults.add(sides[0].default)
        read.append(read_printed(rule, *sides))
    return share_default_paths(read, defaults)


def share_default_paths(rules: Sequence[Rule], defaults: Container[str]) -> tuple[Rule, ...]:
    """Let renames in the default collection also rename what no rule for another collection does.

    A module has its leaves in several collections, and is one layer with all of them.

    Args:
        rules: Rules that `read_printed` returned.
        defaults: The default collections of their sources.
    """
    others = [p for rule in rules for p in rule.sources if p.collection and p.collection not in defaults]
    index = PatternIndex((pattern,) for pattern in others)
    shared = []
    for rule in rules:
        pattern = rule.sources[0] if rule.action == "rename" else None
        if pattern is not None and pattern.elsewhere and pattern.collection in defaults:
            taken = (
                name
                for name in pattern.elsewhere
                if any(others[number].match(name) is not None for number in index.candidates(name))
            )
            rule = replace(rule, sources=(replace(pattern, elsewhere=frozenset(taken)),))
        shared.append(rule)
    return tuple(shared)


def refuse_unclear_target(rule: Rule, registry: Registry) -> None:
    """Refuse a rename of which it is unclear whether its target begins with a collection or with a module.

    Args:
        rule: A rule on the way to the neutral form that names no layouts.
        registry: Where frameworks are found.

    Raises:
        RuleError: The target's first part is a collection of a framework that may follow.
    """
    if rule.action != "rename" or rule.targets[0].collection or not rule.targets[0].segments:
        return
    head = rule.targets[0].segments[0]
    for framework in registry.frameworks.values():
        if head in framework.collections:
            error: RuleError = rule.error(
                f"the target begins with {head!r}, which is a collection in {framework.name} and a module in "
                "others, and the framework that follows the neutral form is not known."
            )
            error.hint = "Write source = ... and target = ... at the top of the rule file (layouts=)."
            raise error


def target_collections(bound_rules: Iterable[BoundRule]) -> dict[Key, str]:
    """Return the collections that rules write before the names of the tensors that they make."""
    return {
        name: pattern.collection
        for bound in bound_rules
        for pattern in bound.rule.targets
        if pattern.collection
        for name in bound.targets
        if bound.rule.bind(pattern, name) is not None
    }
