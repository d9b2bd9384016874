"""What rules say of a source's names: which are renamed, left out, or taken by a rule that moves tensors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from bridge_core.errors import RuleError
from bridge_core.ops import dtype_holds
from bridge_core.resolve.rule_binding import claimed_twice, held_keys
from bridge_core.rules import Rule
from bridge_core.state import Key, TensorSpec, join_key

__all__ = ["check_constant", "rule_holds", "rule_names", "Ruled"]


@dataclass
class Ruled:
    """What rules say of keys.

    Args:
        names: Key -> its new name.
        renamed: Key -> the rule that renames it.
        dropped: Key -> the reason it is left out.
        claimed: Key -> the rule that moves it.
        idle: Rules that had to match something and did not.
    """

    names: dict[Key, Key] = field(default_factory=dict)
    renamed: dict[Key, Rule] = field(default_factory=dict)
    dropped: dict[Key, str] = field(default_factory=dict)
    claimed: dict[Key, Rule] = field(default_factory=dict)
    idle: tuple[str, ...] = ()


def rule_names(
    names: Mapping[Key, Key],
    specs: Mapping[Key, TensorSpec],
    rules: Iterable[Rule],
    config: Mapping[str, Any] | None,
) -> Ruled:
    """Apply rules to the names of a source.

    Args:
        names: Key -> its name without a collection head.
        specs: Key -> spec.
        rules: The rules, as they are read here.
        config: The checkpoint's config, if one is known.

    Raises:
        RuleError: Two rules claim one key, or two keys get one name.
    """
    ruled = Ruled()
    active = [r for r in rules if r.action in ("rename", "drop", "move") and rule_holds(r, config)]
    active.sort(key=lambda rule: rule.fallback)
    fired: set[int] = set()
    held = {
        number: held_keys(rule, {name: specs[key] for key, name in names.items()}, config)
        for number, rule in enumerate(active)
        if rule.action == "move" and (rule.when.rank is not None or rule.when.sizes)
    }
    for key, name in names.items():
        owner: Rule | None = None
        for number, rule in enumerate(active):
            captures = _captures(rule, name)
            if captures is None:
                continue
            fired.add(number)
            if name not in held.get(number, (name,)):
                continue
            if owner is not None:
                if rule.fallback and not owner.fallback:
                    break  # so are all that follow
                raise claimed_twice(rule, owner, "claim", name)
            owner = rule
            if rule.action == "rename":
                ruled.names[key] = rule.targets[0].fill(captures)
                ruled.renamed[key] = rule
            elif rule.action == "drop":
                ruled.dropped[key] = (
                    f"rule {rule.origin}: {rule.reason}" if rule.origin else f"rule: {rule.reason}"
                )
            else:
                ruled.claimed[key] = rule
    ruled.idle = tuple(
        rule.full_label for number, rule in enumerate(active) if number not in fired and not rule.optional
    )
    _check_new(names, ruled)
    return ruled


def _captures(rule: Rule, name: Key) -> Mapping[str, str] | None:
    if rule.action != "move":
        return rule.source.match(name)
    return next((c for p in rule.sources if (c := rule.bind(p, name)) is not None), None)


def rule_holds(rule: Rule, config: Mapping[str, Any] | None) -> bool:
    """Tell whether a rule's conditions on the config hold; where they do not, it is out, and not idle."""
    try:
        return replace(rule.when, rank=None, sizes=()).holds((), {}, config)
    except RuleError as err:
        raise rule.error(err.message) from err


def check_constant(rule: Rule, dtype: np.dtype[Any], key: Key) -> None:
    """Check that a dtype holds a rule's constant; floating-point numbers may be rounded.

    Raises:
        RuleError: It does not.
    """
    if rule.value is not None and not dtype_holds(dtype, rule.value):
        raise rule.error(f"{dtype.name} cannot hold {rule.value}.", key)


def _check_new(names: Mapping[Key, Key], ruled: Ruled) -> None:
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
                f"{join_key(other)!r} and {join_key(key)!r} are both named {join_key(new)!r} by the rules.",
                hint="Let the patterns keep them apart.",
            )
