"""What concerns several rules or patterns at once: overlaps, sizes, and patterns as options."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from typing import Any

from bridge_core.errors import RuleError
from bridge_core.keys import Key
from bridge_core.patterns import Pattern
from bridge_core.rules.rule import Rule

__all__ = ["as_patterns", "matches", "overlapping", "resolve_sizes"]


def as_patterns(value: bool | Iterable[str | Pattern]) -> tuple[Pattern, ...]:
    """Return key patterns; True stands for every key.

    Raises:
        RuleError: A pattern is not well formed.
    """
    if value is True:
        return (Pattern.parse("**"),)
    if value is False:
        return ()
    return tuple(Pattern.parse(pattern) for pattern in ([value] if isinstance(value, str) else value))


def matches(patterns: Iterable[Pattern], key: Key) -> bool:
    """Tell whether any pattern fits the key."""
    return any(pattern.match(key) is not None for pattern in patterns)


def resolve_sizes(rule: Rule, config: Mapping[str, Any] | None = None) -> dict[str, int]:
    """Return the sizes that a rule gives, those that its ``where`` bounds included.

    Raises:
        RuleError: A size stands in the config, which is not known or lacks it.
    """
    sizes = dict(rule.radix.sizes) if rule.radix is not None else {}
    for name, size in rule.sizes.items():
        try:
            sizes[name] = size.value(config)
        except RuleError as err:
            raise rule.error(f"sizes.{name}: {err.message}") from err
    return sizes


def overlapping(rules: Iterable[Rule]) -> tuple[tuple[Rule, Rule], ...]:
    """Return the pairs of rules that would take one key for certain, whatever the keys are.

    These are rules of one pattern, and of a key that another's pattern fits. Rules whose conditions differ
    may exclude each other, and rules of layers are about paths, not keys.
    """
    known = tuple(rules)
    alike: dict[tuple[object, ...], list[int]] = {}
    keys: list[tuple[Key, int]] = []
    wide: list[tuple[Pattern, int]] = []
    for number, rule in enumerate(known):
        for pattern in rule.sources:
            alike.setdefault(pattern.shape, []).append(number)
            if pattern.is_literal:
                keys.append((tuple(map(str, pattern.segments)), number))
            else:
                wide.append((pattern, number))
    pairs = {pair for numbers in alike.values() for pair in itertools.combinations(numbers, 2)}
    pairs.update(
        (min(number, other), max(number, other))
        for pattern, number in wide
        for key, other in keys
        if pattern.match(key) is not None
    )
    found = ((known[first], known[second]) for first, second in sorted(pairs) if first != second)
    return tuple((first, second) for first, second in found if _are_rivals(first, second))


def _are_rivals(first: Rule, second: Rule) -> bool:
    return (
        (first.action == "layer") == (second.action == "layer")
        and first.when == second.when
        and first.layouts == second.layouts
    )
