"""What callers may pass as rules, and the direction in which rules are read."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from bridge_core.errors import UsageError
from bridge_core.messages import nearest

__all__ = ["as_rules", "oriented", "Rules"]

if TYPE_CHECKING:
    from bridge_core.rules.rule import Rule

    Rules = str | os.PathLike[str] | Rule | Iterable[Rule]
    """What callers may pass: the path of a rule file, a rule, or rules."""
else:
    Rules = Any  # most conversions have no rules, and need not import their modules


def oriented(
    rules: Iterable[Rule], layout: str, to: str, frameworks: Collection[str] = ()
) -> tuple[Rule, ...]:
    """Return rules in the direction of a conversion from one layout to another.

    Rules without layouts are read from source to target.

    Args:
        rules: The rules.
        layout: The layout of the conversion's source.
        to: The layout of its target.
        frameworks: The names of the frameworks that are installed; if empty, layouts are not checked.

    Raises:
        RuleError: A rule is for other layouts, or for one that is unknown.
    """
    directed = []
    for rule in rules:
        if rule.layouts is None:
            directed.append(rule)
            continue
        source, target = rule.layouts
        unknown = [
            (f"unknown {side} layout {name!r}.", nearest(name, (*frameworks, "neutral")))
            for side, name in (("source", source), ("target", target))
            if frameworks and name not in (*frameworks, "neutral")
        ]
        if layout in (source, "neutral") and to in (target, "neutral"):
            directed.append(rule)
        elif layout in (target, "neutral") and to in (source, "neutral"):
            directed.append(rule.reversed())
        else:
            hint = "Remove the rule, or correct source and target at the top of the rule file (layouts=)."
            if unknown:
                hint = f"The {unknown[0][0].removeprefix('unknown ')[:-1]} is unknown. {unknown[0][1]}"
            elif target == "neutral" and layout in (source, "neutral"):
                hint = f"Write target = {to!r} at the top of the rule file (layouts=)."
            raise rule.error(
                f"the rule is for {source} and {target}, but the conversion is from {layout} to {to}.",
                hint=hint,
            )
        if unknown:
            raise rule.error(unknown[0][0], hint=unknown[0][1])
    return tuple(directed)


def as_rules(value: Rules) -> tuple[Rule, ...]:
    """Return the rules that a caller passed: the path of a rule file, a rule, or rules.

    Raises:
        UsageError: The value is of another type, or an empty path.
        SourceNotFound: The rule file does not exist.
        RuleError: As `load_rules`.
    """
    if value == ():
        return ()
    from bridge_core.rules.rule import Rule
    from bridge_core.rules.rule_groups import load_rules

    if isinstance(value, str | os.PathLike):
        return load_rules(value)
    if isinstance(value, Rule):
        return (value,)
    hint = 'Pass rules="rules.toml" (--rules) or rules=[Rule.rename("old.*", "new.*")].'
    if not isinstance(value, Iterable) or isinstance(value, Mapping | bytes):
        got = type(value).__name__
        raise UsageError(
            f"expected rules= to be the path of a rule file, a Rule or a list of them, got {got}.", hint=hint
        )
    rules = tuple(value)
    for number, rule in enumerate(rules):
        if not isinstance(rule, Rule):
            raise UsageError(f"expected rules[{number}] to be a Rule, got {type(rule).__name__}.", hint=hint)
    return rules
