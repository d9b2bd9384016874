"""Rules that surely match the same keys, in every checkpoint."""

from __future__ import annotations

from collections.abc import Iterable

from bridge_core.rules.pattern_index import PatternIndex
from bridge_core.rules.patterns import Pattern
from bridge_core.rules.rule import Rule
from bridge_core.state import Key

__all__ = ["overlapping"]


def overlapping(rules: Iterable[Rule]) -> tuple[tuple[Rule, Rule], ...]:
    """Return the pairs of rules that certainly match the same key.

    These are rules with equal patterns, each with the first of them, and rules for one key that another
    rule's pattern matches; of alternatives only the first is compared. Left out are pairs that may exclude
    each other, by conditions, indexes, stages, or as the only fallback, and pairs of a rule of layers and one
    of keys, since layers are matched by paths.
    """
    known = tuple(rules)
    rivalries = [_rivalry(rule) for rule in known]
    first_of: dict[tuple[object, ...], int] = {}
    pairs: set[tuple[int, int]] = set()
    keys: list[tuple[Key, int]] = []
    wide: list[tuple[Pattern, int]] = []
    for number, rule in enumerate(known):
        for pattern in (pattern.options[0] for pattern in rule.sources):
            pairs.add((first_of.setdefault((pattern.shape, *rivalries[number]), number), number))
            if pattern.is_literal:
                keys.append((tuple(map(str, pattern.segments)), number))
            else:
                wide.append((pattern, number))
    index = PatternIndex((pattern,) for pattern, _ in wide)
    pairs.update(
        (min(number, other), max(number, other))
        for key, other in keys
        for pattern, number in map(wide.__getitem__, index.candidates(key))
        if rivalries[number] == rivalries[other] and pattern.match(key) is not None
    )
    return tuple((known[first], known[second]) for first, second in sorted(pairs) if first != second)


def _rivalry(rule: Rule) -> tuple[object, ...]:
    """Return what two rules for one key have in common if both are surely used."""
    return (
        rule.action == "layer",
        rule.when,
        rule.equation if rule.when.sizes or rule.when.comparisons else None,
        rule.stage,
        rule.fallback,
        rule.layouts,
        rule.where,
        tuple(sorted((name, str(size)) for name, size in rule.sizes.items())) if rule.where else (),
    )
