"""Rules that surely match the same keys, in every checkpoint."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

from bridge_core.rules.pattern_index import PatternIndex
from bridge_core.rules.patterns import Pattern
from bridge_core.rules.rule import Rule
from bridge_core.state import Key

__all__ = ["overlapping"]


def overlapping(rules: Iterable[Rule]) -> tuple[tuple[Rule, Rule], ...]:
    """Return the pairs of rules that certainly match the same key, by the first of their alternatives.

    These are rules with equal patterns, and rules for one key that another rule's pattern matches. Pairs with
    different conditions or other indexes are left out, or with the same conditions on axes of different
    equations, since these may exclude each other; so are pairs of a rule of layers and one of keys, since
    layers are matched by paths, and of rules of different stages, or of which only one is a fallback.
    """
    known = tuple(rules)
    alike: dict[tuple[object, ...], list[int]] = {}
    keys: list[tuple[Key, int]] = []
    wide: list[tuple[Pattern, int]] = []
    for number, rule in enumerate(known):
        for pattern in (pattern.options[0] for pattern in rule.sources):
            alike.setdefault(pattern.shape, []).append(number)
            if pattern.is_literal:
                keys.append((tuple(map(str, pattern.segments)), number))
            else:
                wide.append((pattern, number))
    pairs = {pair for numbers in alike.values() for pair in itertools.combinations(numbers, 2)}
    index = PatternIndex((pattern,) for pattern, _ in wide)
    pairs.update(
        (min(number, other), max(number, other))
        for key, other in keys
        for pattern, number in map(wide.__getitem__, index.candidates(key))
        if pattern.match(key) is not None
    )
    meeting = ((known[first], known[second]) for first, second in sorted(pairs) if first != second)
    return tuple((first, second) for first, second in meeting if _are_rivals(first, second))


def _are_rivals(first: Rule, second: Rule) -> bool:
    return (
        (first.action == "layer") == (second.action == "layer")
        and first.when == second.when
        and (first.equation == second.equation or not (first.when.sizes or first.when.comparisons))
        and first.stage == second.stage
        and first.fallback == second.fallback
        and first.layouts == second.layouts
        and first.where == second.where
        and (not first.where or first.sizes == second.sizes)
    )
