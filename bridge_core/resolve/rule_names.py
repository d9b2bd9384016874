"""What rules do to the keys of a source: rename, drop, or rearrange them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from bridge_core.errors import RuleError
from bridge_core.messages import nearest
from bridge_core.ops import dtype_holds
from bridge_core.state import Key, TensorSpec, join_key

if TYPE_CHECKING:
    from bridge_core.rules import Rule

__all__ = ["check_constant", "check_kind", "rule_holds", "rule_names", "Ruled"]


@dataclass
class Ruled:
    """What rules do to the keys of a source.

    Args:
        names: Key -> its new name.
        renamed: Key -> the rule that renames it.
        dropped: Key -> the reason.
        rearranged: Key -> the rule that takes it.
        unmatched: Rules that had to match something and did not.
        notes: What a reader should know about rules that their conditions keep from doing anything.
    """

    names: dict[Key, Key] = field(default_factory=dict)
    renamed: dict[Key, Rule] = field(default_factory=dict)
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
) -> Ruled:
    """Apply rules to the names of a source.

    Args:
        names: Key -> its name without a collection.
        specs: Key -> spec.
        rules: The rules, in the direction of the conversion.
        config: The checkpoint's config, if one is known.
        source_names: Of a neutral state, key -> key in what it was made from, for messages.

    Raises:
        RuleError: Two rules match one key, or two keys get one name.
    """
    ruled = Ruled()
    if not rules:
        return ruled
    from bridge_core.plan import name_with_source
    from bridge_core.resolve.rule_binding import keys_taken_by, rule_conflict

    active = [r for r in rules if r.action in ("rename", "drop", "rearrange") and rule_holds(r, config)]
    active.sort(key=lambda rule: rule.fallback)
    matching: set[int] = set()
    taken = {
        number: keys_taken_by(rule, {name: specs[key] for key, name in names.items()}, config)
        for number, rule in enumerate(active)
        if rule.action == "rearrange" and (rule.when.rank is not None or rule.when.sizes)
    }
    for key, name in names.items():
        owner: Rule | None = None
        for number, rule in enumerate(active):
            captures = _captures(rule, name)
            if captures is None:
                continue
            matching.add(number)
            if name not in taken.get(number, (name,)):
                continue
            if owner is not None:
                if rule.fallback and not owner.fallback:
                    break  # so are all that follow
                shown = name_with_source(key, source_names) if source_names and key in source_names else name
                raise rule_conflict(rule, owner, "match", shown)
            owner = rule
            if rule.action == "rename":
                ruled.names[key] = rule.build(rule.targets[0], captures)
                ruled.renamed[key] = rule
            elif rule.action == "drop":
                ruled.dropped[key] = (
                    f"rule {rule.origin}: {rule.reason}" if rule.origin else f"rule: {rule.reason}"
                )
            else:
                ruled.rearranged[key] = rule
    ruled.unmatched = tuple(
        rule.full_label for number, rule in enumerate(active) if number not in matching and not rule.optional
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


def _unused(rule: Rule, why: str) -> str:
    return f"rule {rule.full_label} is not used: {why}"


def _missing_entry(rule: Rule, config: Mapping[str, Any] | None) -> str | None:
    """Return the first entry of the config that a rule's conditions name and that is not there."""
    if config is None or not rule.when.config:
        return None
    from bridge_core.rules import config_entry

    names = (name for name, _ in rule.when.config)
    return next((name for name in names if config_entry(config, name.split(".")) is None), None)


def _captures(rule: Rule, name: Key) -> Mapping[str, str] | None:
    for pattern in rule.sources:
        captures = rule.bind(pattern, name)
        if captures is not None:
            return captures
    return None


def rule_holds(rule: Rule, config: Mapping[str, Any] | None) -> bool:
    """Return whether a rule's conditions on the config hold; if not, it is neither used nor unmatched."""
    try:
        return replace(rule.when, rank=None, sizes=()).holds((), {}, config)
    except RuleError as err:
        raise rule.error(err.message, hint=err.hint) from err


def check_kind(rule: Rule, kinds: Iterable[str], framework: str = "") -> None:
    """Check that there is a kind of the name that a rule gives.

    This is checked even if the rule matches no layer.

    Args:
        rule: A rule.
        kinds: The kinds that there are.
        framework: The framework whose layers the rule is about, for the message.

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
