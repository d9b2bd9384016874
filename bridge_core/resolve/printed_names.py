"""Patterns that are written as ``inspect`` prints names, or as a file has them: ``params.blocks_0.**``.

The names of both sides of a conversion are gathered, and every rule is read with them: `NamedSide` decides
how a pattern is meant, and its conditions on names are decided.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from bridge_core.errors import RuleError
from bridge_core.plugins import Registry, names_of
from bridge_core.resolve.named_side import NamedSide
from bridge_core.rules import PatternIndex
from bridge_core.state import FlatState, Key, StateMetadata, VariableCollections

if TYPE_CHECKING:
    from bridge_core.resolve.rule_instance import BoundRule
    from bridge_core.rules import Pattern, Rule

__all__ = [
    "decided",
    "neutral_side",
    "read_printed",
    "refuse_unclear_target",
    "share_default_paths",
    "side_of",
    "target_collections",
    "unseen_side",
]


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

    ``source_names`` gives keys their names in the file.
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

    ``keys`` are those that the rules may take, ``layout`` is the framework that the rules name.
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


def unseen_side(layout: str, registry: Registry, metadata: StateMetadata | None = None) -> NamedSide:
    """Return a framework's side without names, for a state that is not known.

    Args:
        layout: The framework's layout.
        registry: Where the framework is found.
        metadata: Of the state that it will be made from, if that is known.
    """
    framework = registry.frameworks.get(layout)
    slashed = metadata is not None and metadata.separator(layout) == "/"
    return NamedSide(framework.collections if framework is not None else (), slashed=slashed)


def decided(rule: Rule, source: NamedSide, target: NamedSide, *, recorded: bool = False) -> Rule:
    """Return a rule whose conditions on names are decided, as far as the names are known.

    A rule that is ``recorded`` is the proof that its conditions on the source's names held.
    """
    met = []
    for of_target, exists, missing in rule.when.by_side:
        side = target if of_target else source
        if (exists or missing) and side.names and (of_target or not recorded):
            met.append(all(map(side.has, exists)) and not any(map(side.has, missing)))
    return replace(rule, when=replace(rule.when, is_met=all(met))) if met else rule


def read_printed(rule: Rule, source: NamedSide, target: NamedSide) -> Rule:
    """Return a rule that is read with the names of both sides.

    Its patterns leave out the collections that they begin with, and are the first of their alternatives that
    match a name.
    """
    of_paths = rule.action == "layer"
    every = not rule.targets  # drops and layers make no names, so that no alternative has to be chosen
    try:
        sources = tuple(source.read(pattern, of_paths=of_paths, every=every) for pattern in rule.sources)
        targets = tuple(target.read(pattern, makes=True) for pattern in rule.targets)
    except RuleError as err:
        raise rule.error(err.message, hint=err.hint) from err
    if of_paths:
        # Layers are known by the names that rules give them, too.
        sources = tuple(target.read(pattern, of_paths=True, every=every) for pattern in sources)
    if rule.action == "rename":
        targets = (_written_alike(rule, sources[0], targets[0]),)
        if sources[0].written and not rule.source.is_open:
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
    split = new.slashed
    is_split = split is not None and target.segments == split.segments
    if not source.written or (target is not new and not is_split):
        return target
    if old.slashed is not None and split is not None:
        old, target = old.slashed, split
    is_boxed = len(target.segments) > 1 and source.segments[-1:] != old.segments[-1:]
    if is_boxed and target.segments[-1:] == old.segments[-1:]:
        target = target.read_as(target.segments[:-1])
    return target


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
