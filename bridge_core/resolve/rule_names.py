"""What rules do to the keys of a source: rename, drop, or rearrange them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from bridge_core.axes import SizeLookup
from bridge_core.errors import RuleError
from bridge_core.messages import nearest
from bridge_core.ops import dtype_holds
from bridge_core.state import Key, TensorSpec, join_key

if TYPE_CHECKING:
    from bridge_core.rules import Rule

__all__ = [
    "applied_renames",
    "check_constant",
    "check_kind",
    "labels",
    "rule_holds",
    "rule_names",
    "Ruled",
    "unmatched_labels",
]


@dataclass
class Ruled:
    """What rules do to the keys of a source.

    Args:
        names: Key -> its new name.
        renamed: Key -> the rules that rename it, in their order.
        dropped: Key -> the reason.
        rearranged: Key -> the rule that takes it.
        unmatched: Rules that had to match something and did not.
        notes: What a reader should know about rules that their conditions keep from doing anything.
    """

    names: dict[Key, Key] = field(default_factory=dict)
    renamed: dict[Key, tuple[Rule, ...]] = field(default_factory=dict)
    dropped: dict[Key, str] = field(default_factory=dict)
    rearranged: dict[Key, Rule] = field(default_factory=dict)
    unmatched: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def rule_names(
    names: Mapping[Key, Key],
    specs: Mapping[Key, TensorSpec],
    rules: Sequence[Rule],
    config: Mapping[str, Any] | None,
    source_names: Mapping[Key, Key] | None = None,
    targets: Mapping[Key, TensorSpec] | None = None,
) -> Ruled:
    """Apply rules to the names of a source.

    Args:
        names: Key -> its name without a collection.
        specs: Key -> spec.
        rules: The rules, in the direction of the conversion.
        config: The checkpoint's config, if one is known.
        source_names: Of a neutral state, key -> key in what it was made from, for messages.
        targets: The target's names with their specs, for conditions on it; None if they are not known.

    Raises:
        RuleError: Two rules match one key, or two keys get one name.
    """
    ruled = Ruled()
    if not rules:
        return ruled
    from bridge_core.plan import name_with_source
    from bridge_core.resolve.rule_binding import keys_taken_by

    active = [r for r in rules if r.action in ("rename", "drop", "rearrange") and rule_holds(r, config)]
    limited = {
        number: rule
        for number, rule in enumerate(active)
        if rule.action == "rearrange" and rule.when.needs_shape
    }
    named_specs = {name: specs[key] for key, name in names.items()} if limited else {}
    taken = {number: keys_taken_by(rule, named_specs, config, targets) for number, rule in limited.items()}
    matching: set[int] = set()

    def shown(key: Key) -> Key | str:
        return name_with_source(key, source_names) if source_names and key in source_names else names[key]

    stages, fallbacks = (
        _Stages([(n, r) for n, r in enumerate(active) if r.fallback is fallback], matching, taken, shown)
        for fallback in (False, True)
    )
    for key, name in names.items():
        owner, renames = stages.of(name, key)
        if owner is None and not renames:
            owner, renames = fallbacks.of(name, key)
        else:
            fallbacks.note(name)
        if renames:
            ruled.names[key] = renames[-1][1]
            ruled.renamed[key] = tuple(rule for rule, _ in renames)
        elif owner is not None and owner.action == "drop":
            ruled.dropped[key] = (
                f"rule {owner.origin}: {owner.reason}" if owner.origin else f"rule: {owner.reason}"
            )
        elif owner is not None:
            ruled.rearranged[key] = owner
    ruled.unmatched = unmatched_labels(
        (rule, number in matching or rule.optional or rule.when.is_undecided)
        for number, rule in enumerate(active)
    )
    ruled.notes = (
        *(
            _unused(rule, "its conditions hold for none of the tensors that it matches")
            for number, rule in enumerate(active)
            if number in matching and not taken.get(number, (0,))
        ),
        *(
            _unused(rule, f"the config has no entry {entry!r}")
            for rule in rules
            if (entry := _missing_entry(rule, config))
        ),
    )
    _check_new(names, ruled, lambda key: name_with_source(key, source_names or {}))
    return ruled


def unmatched_labels(rules: Iterable[tuple[Rule, bool]]) -> tuple[str, ...]:
    """Return the labels of rules that had to match something and did not.

    Rules that a file writes as one, whose origin is the same, are unmatched only if none of them matched.

    Args:
        rules: Each rule, and whether it matched, or need not.
    """
    groups: dict[object, tuple[Rule, bool]] = {}
    for number, (rule, matched) in enumerate(rules):
        first, before = groups.get(rule.origin or number, (rule, False))
        groups[rule.origin or number] = (first, before or matched)
    return tuple(rule.full_label for rule, matched in groups.values() if not matched)


def _unused(rule: Rule, why: str) -> str:
    return f"rule {rule.full_label} is not used: {why}"


def _missing_entry(rule: Rule, config: Mapping[str, Any] | None) -> str | None:
    """Return the first entry of the config that a rule's conditions name and that is not there."""
    if config is None or not rule.when.config:
        return None
    from bridge_core.axes import config_entry

    names = (name for name, _ in rule.when.config)
    return next((name for name in names if config_entry(config, name.split(".")) is None), None)


class _Indexed:
    """Numbered rules, found by the names that they may match."""

    def __init__(self, rules: Sequence[tuple[int, Rule]]) -> None:
        from bridge_core.rules import PatternIndex

        self._rules = rules
        self._index = PatternIndex(rule.sources for _, rule in rules)

    def candidates(self, name: Key) -> Iterator[tuple[int, Rule]]:
        """Return the rules that may match a name, in their order."""
        return map(self._rules.__getitem__, self._index.candidates(name))


class _Stages:
    """Rules by what they see: drops and rearrangements the source's names, renames those of lower stages.

    Args:
        rules: The rules, numbered.
        matching: Collects the numbers of rules that match a name.
        taken: Number of a rule -> the only names that its conditions on shapes let it take.
        shown: Gives the name of a key in messages.
    """

    def __init__(
        self,
        rules: Sequence[tuple[int, Rule]],
        matching: set[int],
        taken: Mapping[int, Container[Key]],
        shown: Callable[[Key], Key | str],
    ) -> None:
        self._shown = shown
        self._matching = matching
        self._taken = taken
        self._rules = _Indexed(rules)
        stages: dict[int, list[tuple[int, Rule]]] = {}
        for number, rule in rules:
            stages.setdefault(rule.stage if rule.action == "rename" else 0, []).append((number, rule))
        first = stages.pop(0, [])
        if min(stages, default=0) < 0:  # renames of stage 0 see other names than drops do
            stages[0] = [(number, rule) for number, rule in first if rule.action == "rename"]
            first = [(number, rule) for number, rule in first if rule.action != "rename"]
        self._first = _Indexed(first)
        self._later = [_Indexed(stages[stage]) for stage in sorted(stages)]

    def of(self, name: Key, key: Key) -> tuple[Rule | None, list[tuple[Rule, Key]]]:
        """Return the rule that drops or rearranges a tensor, or its renames with the names that they make."""
        renames: list[tuple[Rule, Key]] = []
        for stage in (self._first, *self._later):
            owner = self._owner(stage, renames[-1][1] if renames else name, key)
            if owner is None:
                continue
            rule, captures = owner
            if rule.action != "rename":  # only in the first
                if self._later:
                    self.note(name)
                return rule, []
            renames.append((rule, rule.build(rule.targets[0], captures)))
        return None, renames

    def note(self, name: Key) -> None:
        """Note the rules that match a name which another rule takes."""
        for number, rule in self._rules.candidates(name):
            if number not in self._matching and _captures(rule, name) is not None:
                self._matching.add(number)

    def _owner(self, rules: _Indexed, name: Key, key: Key) -> tuple[Rule, Mapping[str, str]] | None:
        owner: tuple[Rule, Mapping[str, str]] | None = None
        for number, rule in rules.candidates(name):
            captures = _captures(rule, name)
            if captures is None:
                continue
            self._matching.add(number)
            if name not in self._taken.get(number, (name,)):
                continue
            if owner is not None:
                from bridge_core.resolve.rule_binding import rule_conflict

                raise rule_conflict(rule, owner[0], "match", self._shown(key))
            owner = rule, captures
        return owner


def _captures(rule: Rule, name: Key) -> Mapping[str, str] | None:
    for pattern in rule.sources:
        captures = rule.bind(pattern, name)
        if captures is not None:
            return captures
    return None


def applied_renames(rules: Iterable[Rule], name: Key) -> list[tuple[Rule, Key]]:
    """Return the renames that apply to a name, in their order, with the name that each makes.

    Rules that drop or rearrange a tensor of this name are left aside; of two renames of one stage the first
    applies.
    """
    renames = sorted((rule for rule in rules if rule.action == "rename"), key=lambda rule: rule.stage)
    for fallback in (False, True):
        applied: list[tuple[Rule, Key]] = []
        for rule in renames:
            seen = applied[-1][1] if applied else name
            done = bool(applied) and applied[-1][0].stage == rule.stage
            if done or rule.fallback is not fallback or rule.when.is_met is False:
                continue
            new = rule.renamed(seen)
            if new is not None:
                applied.append((rule, new))
        if applied:
            return applied
    return []


def labels(rules: Iterable[Rule]) -> str:
    """Return the labels of the rules that apply to one tensor."""
    return ", ".join(rule.label for rule in rules)


def rule_holds(rule: Rule, config: Mapping[str, Any] | None) -> bool:
    """Return whether a rule's conditions on config and stated sizes hold; else it is not used."""
    try:
        if not rule.when.without_shape().holds((), {}, config):
            return False
    except RuleError as err:
        raise rule.error(err.message, hint=err.hint) from err
    lookup = SizeLookup(rule.sizes, config)
    for comparison in rule.when.comparisons:
        with contextlib.suppress(RuleError):  # decided by the shapes of each tensor
            if all(map(lookup.states, comparison.names)) and not comparison.holds(lookup):
                return False
    return True


def check_kind(rule: Rule, kinds: Iterable[str], framework: str = "") -> None:
    """Check that there is a kind of the name that a rule gives.

    This is checked even if the rule matches no layer.

    Raises:
        RuleError: The kind is unknown.
    """
    known = (*kinds, "parameter")
    if rule.kind is not None and rule.kind not in known:
        error = rule.error(f"unknown kind {rule.kind!r} of layers{f' in {framework}' if framework else ''}.")
        error.hint = nearest(rule.kind, known)
        raise error


def check_constant(rule: Rule, dtype: np.dtype[Any], key: Key) -> None:
    """Check that a dtype holds a rule's constant; floating-point numbers may be rounded.

    Raises:
        RuleError: The dtype does not hold it.
    """
    truth = isinstance(rule.value, bool) and dtype != np.bool_
    if rule.value is not None and (truth or not dtype_holds(dtype, rule.value)):
        raise rule.error(f"the target's dtype {dtype.name} cannot hold {rule.value}.", key)


def _check_new(names: Mapping[Key, Key], ruled: Ruled, shown: Callable[[Key], str]) -> None:
    if not ruled.names:
        return
    seen: dict[Key, Key] = {}
    for key, name in names.items():
        if key in ruled.dropped:
            continue
        new = ruled.names.get(key, name)
        other = seen.setdefault(new, key)
        if other != key:
            raise RuleError(
                f"the rules give {shown(other)!r} and {shown(key)!r} one name: {join_key(new)!r}.",
                hint="Make the patterns disjoint, or give one of the two another name.",
            )
