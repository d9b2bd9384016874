"""The rules that a neutral state records: which are done, and what the others have still to do there.

A rule that rearranges tensors needs the target's shapes, so that the way to the neutral form only records it
with the tensors that wait for it. The way out of the neutral form does it, whether the same rules are given
again or not.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from bridge_core.plugins import Registry
from bridge_core.resolve.named_side import NamedSide
from bridge_core.resolve.printed_names import (
    neutral_side,
    refuse_unclear_target,
    side_of,
    unseen_side,
)
from bridge_core.resolve.rule_names import check_kind, rule_holds
from bridge_core.resolve.rule_reading import read_rules
from bridge_core.state import FlatState, Key, RecordedRule, StateMetadata

if TYPE_CHECKING:
    from bridge_core.rules import Pattern, Rule
    from bridge_core.rules.records import RuleIdentity

__all__ = [
    "NeutralRules",
    "TowardsFramework",
    "recorded_rules",
    "rules_from",
    "rules_towards",
    "towards",
    "with_fresh",
]


def rules_from(
    state: FlatState,
    rules: Iterable[Rule],
    registry: Registry,
    config: Mapping[str, Any] | None,
    to: str,
    like: FlatState | None,
) -> tuple[Rule, ...]:
    """Return the rules for a framework's state, without collections in their patterns, that may hold.

    The target's framework ``to`` is neutral if it is not known.

    Raises:
        RuleError: A rename may lead to a collection or to a module, or two rules are about the same layers.
    """
    source = side_of(state, registry)
    seen = None if like is None else side_of(like.replace(layout=to), registry)
    sided, layouts = [], []
    for rule in rules:
        check_kind(rule, registry.kinds, state.layout or "")
        layout = to if to != "neutral" or rule.layouts is None else rule.layouts[1]
        if rule.action != "layer" or rule_holds(rule, config):
            sided.append((rule, source, seen or unseen_side(layout, registry, state.metadata)))
            layouts.append(layout)
    read = read_rules(sided, config)
    for rule, layout in zip(read, layouts, strict=True):
        if layout == "neutral":
            refuse_unclear_target(rule, registry)
    _check_layers(read)
    return read


def _check_layers(rules: Iterable[Rule]) -> None:
    """Check that no two rules fix the kind of the same layers, however they write the path."""
    layer_rules = [rule for rule in rules if rule.action == "layer"]
    if any(pattern.collection for rule in layer_rules for pattern in rule.sources):
        from bridge_core.resolve.rule_binding import rule_conflict
        from bridge_core.rules import overlapping

        for first, second in overlapping(layer_rules):
            path = tuple(map(str, second.source.segments))
            raise rule_conflict(second, first, "match", path)


def recorded_rules(
    rules: Iterable[Rule],
    taken: Mapping[Key, Rule],
    names: Mapping[Key, Key],
    layout: str,
    config: Mapping[str, Any] | None,
) -> tuple[RecordedRule, ...]:
    """Return what the neutral state records of the rules that it is made with.

    ``taken`` are source keys with the rules that rearrange them, ``names`` source keys with their neutral
    keys.

    Raises:
        RuleError: A rule is to rearrange tensors for the neutral form.
    """
    rules = tuple(rules)
    if not rules:
        return ()
    from bridge_core.rules import recorded

    pending: dict[int, list[Key]] = {}
    for key, rule in taken.items():
        if rule.layouts is not None and rule.layouts[1] == "neutral":
            error = rule.error(
                "the rule rearranges tensors, and its target is the neutral form, which does not.",
                key,
            )
            error.hint = (
                'Write the framework that the rule leads to at the top of the rule file: target = "flax" '
                "(layouts=)."
            )
            raise error
        pending.setdefault(id(rule), []).append(names[key])
    return tuple(
        recorded(rule, layout, tuple(pending.get(id(rule), ())))
        for rule in rules
        if rule.action in ("layer", "fill") or rule_holds(rule, config)
    )


@dataclass(frozen=True)
class NeutralRules:
    """The rules that are given for a neutral state, by what is to be done with them.

    Args:
        fresh: Rules that rename, drop or rearrange tensors here.
        done: Rules without effect here, which the state is to record.
        waiting: Keys that no fresh rule but one that drops them may take.
    """

    fresh: tuple[Rule, ...]
    done: tuple[Rule, ...] = ()
    waiting: frozenset[Key] = frozenset()


def rules_towards(
    state: FlatState,
    rules: Iterable[Rule],
    registry: Registry,
    to: str,
    config: Mapping[str, Any] | None,
) -> NeutralRules:
    """Return which of the rules given for a neutral state are done already, and which are not.

    A state of before rules were recorded has been through the rules that name layouts; one that no conversion
    made has not.
    """
    rules = tuple(rules)
    if not rules:
        return NeutralRules(())
    from bridge_core.rules import identity_of_rule, recorded_pairs

    metadata = state.metadata
    records = _by_identity(metadata.rules or ())
    unrecorded = metadata.rules is None and bool(metadata.layers)
    fresh, done, given = [], [], set()
    for rule in rules:
        identity = identity_of_rule(rule)
        given.add(identity)
        if identity in records or _was_not_used(rule, state):
            continue
        if rule.action in ("layer", "fill"):
            done.append(rule)
        elif rule.layouts is not None and identity_of_rule(rule.reversed()) in records:
            if rule.action != "rearrange":  # what was to be rearranged is unchanged
                fresh.append(replace(rule, optional=True))
        elif unrecorded and rule.layouts is not None and rule.action != "rearrange":
            done.append(rule)
        elif rule.action != "rearrange" or not unrecorded or to == "neutral":
            fresh.append(rule)
    waiting = frozenset(
        key
        for identity, record in records.items()
        if record.layouts[0] == to and identity not in given
        for key in record.pending
    )
    free = [key for key in state if key not in waiting]
    side_from = functools.cache(lambda layout: neutral_side(state, free, layout, registry))
    sided = []
    for rule in fresh:
        layout, target = rule.layouts or ("", to)
        sided.append((rule, side_from(layout), unseen_side(target, registry, metadata)))
    read = read_rules(sided, config, recorded_pairs(metadata.rules or ()))
    return NeutralRules(read, tuple(done), waiting)


def _was_not_used(rule: Rule, state: FlatState) -> bool:
    """Return whether a rule that the state does not record did not fit the names that it was made from."""
    metadata = state.metadata
    is_converted = metadata.rules is not None and bool(metadata.rules or metadata.layers)
    return rule.when.names_sources and is_converted


def _by_identity(records: Iterable[RecordedRule]) -> dict[RuleIdentity, RecordedRule]:
    """Return the records by what they have in common with their rules; two of one rule become one."""
    from bridge_core.rules import identity_of_record

    merged: dict[RuleIdentity, RecordedRule] = {}
    for record in records:
        identity = identity_of_record(record)
        other = merged.get(identity)
        pending = record.pending if other is None else tuple(dict.fromkeys((*other.pending, *record.pending)))
        merged[identity] = replace(other or record, pending=pending)
    return merged


def with_fresh(
    metadata: StateMetadata, rules: NeutralRules, taken: Mapping[Key, Rule], config: Mapping[str, Any] | None
) -> StateMetadata:
    """Return the metadata of a neutral state with the rules that it went through here.

    ``taken`` are keys with the fresh rules that are to rearrange them.
    """
    records = tuple(
        replace(record, pending=tuple(key for key in record.pending if key not in taken))
        for record in metadata.rules or ()
    )
    added = recorded_rules((*rules.fresh, *rules.done), taken, {k: k for k in taken}, "neutral", config)
    return metadata.with_(rules=(*records, *added))


@dataclass(frozen=True)
class TowardsFramework:
    """What rules do on the way from a neutral state to a framework.

    Args:
        rules: The rules, those that only the state records included.
        sources: Place of a recorded rule among them -> the keys that wait for it; others may take the rest.
        refused: Key that waits for a rule that is not done here -> why.
        renamed: Patterns of the names that renames gave.
    """

    rules: tuple[Rule, ...]
    sources: Mapping[int, tuple[Key, ...]] = field(default_factory=dict)
    refused: Mapping[Key, str] = field(default_factory=dict)
    renamed: tuple[Pattern, ...] = ()


def towards(
    state: FlatState,
    given: Iterable[Rule],
    registry: Registry,
    to: str,
    like: FlatState | None,
    config: Mapping[str, Any] | None,
) -> TowardsFramework:
    """Return the rules that are to be done on the way to a framework."""
    given = tuple(given)
    records = state.metadata.rules or ()
    if not given and not records:
        return TowardsFramework(())
    from bridge_core.rules import identity_of_rule, read_recorded, recorded_pairs

    target = (
        unseen_side(to, registry, state.metadata)
        if like is None
        else side_of(like.replace(layout=to), registry)
    )
    by_identity = {identity_of_rule(rule): rule for rule in given}
    known = _by_identity(records)
    waiting = {key for record in records for key in record.pending}
    free = [key for key in state if key not in waiting]
    side_from = functools.cache(lambda layout: neutral_side(state, free, layout, registry))
    sided: list[tuple[Rule, NamedSide, NamedSide]] = []
    waits: list[tuple[RecordedRule, tuple[Key, ...]]] = []
    refused: dict[Key, str] = {}
    for identity, record in known.items():
        source, leads_to = record.layouts
        pending = tuple(key for key in record.pending if key in state)
        rule = by_identity.get(identity)
        if rule is None and source == to:
            continue  # the tensors still have the names and axes of that framework
        if rule is None and leads_to in ("", to):
            rule = read_recorded(record)
        if rule is None:
            refused.update(dict.fromkeys(pending, _why(record, "and is not given here")))
        elif pending or rule.action in ("layer", "fill"):
            is_moved = rule.action == "rearrange"
            side = neutral_side(state, pending, source, registry) if is_moved else side_from(source)
            sided.append((rule, side, target))
            waits.append((record, pending))
    for identity, rule in by_identity.items():
        turned = known.get(identity_of_rule(rule.reversed())) if rule.action == "rearrange" else None
        is_undone = turned is not None and turned.layouts[0] == to
        if identity not in known and not is_undone and not _was_not_used(rule, state):
            side = side_from(rule.layouts[0] if rule.layouts else "")
            sided.append((rule, side, target))
    rules = read_rules(sided, config, recorded_pairs(records), of_records=len(waits))
    sources: dict[int, tuple[Key, ...]] = {}
    for number, (rule, (record, pending)) in enumerate(zip(rules, waits, strict=False)):
        matches = {key: any(rule.bind(p, key) is not None for p in rule.sources) for key in pending}
        lost = [key for key, is_match in matches.items() if not is_match]
        refused.update(dict.fromkeys(lost, _why(record, "and does not match this name")))
        sources[number] = tuple(key for key, is_match in matches.items() if is_match)
    new_names: list[Pattern] = []
    if any(rule.action == "fill" and rule.fallback for rule in rules):
        done = (by_identity.get(identity) or read_recorded(record) for identity, record in known.items())
        renames = [rule for rule in (*done, *given) if rule is not None and rule.action == "rename"]
        new_names = [target.read(rule.targets[0], makes=True) for rule in renames if not rule.fallback]
    return TowardsFramework(rules, sources, refused, tuple(new_names))


def _why(record: RecordedRule, problem: str) -> str:
    source, target = record.layouts
    between = f" from {source} to {target}" if target else ""
    return (
        f"rule {record.label}{between} has not rearranged it yet, {problem}. Pass rules=... (--rules FILE) "
        "with the "
        "rules that the neutral form was made with, or drop the tensor by a rule"
    )
