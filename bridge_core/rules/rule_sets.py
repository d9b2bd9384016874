"""Any input to rules, and their direction."""

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
    """What callers may hand over: the path of a rule file, a rule, or rules."""
else:
    Rules = Any  # most conversions have no rules, and need not load what rules are


def oriented(
    rules: Iterable[Rule], layout: str, to: str, frameworks: Collection[str] = ()
) -> tuple[Rule, ...]:
    """Return rules as they are read in a conversion from one layout to another.

    Rules without layouts are read from source to target.

    Args:
        rules: The rules.
        layout: The layout of the conversion's source.
        to: That of its target.
        frameworks: The names that layouts may have; none for any.

    Raises:
        RuleError: A rule is about other frameworks, or about one that is not known.
    """
    found = []
    for rule in rules:
        if rule.layouts is None:
            found.append(rule)
            continue
        source, target = rule.layouts
        unknown = [
            f"its {side} layout {name!r} is not known. {nearest(name, frameworks)}"
            for side, name in (("source", source), ("target", target))
            if frameworks and name not in (*frameworks, "neutral")
        ]
        if layout in (source, "neutral") and to in (target, "neutral"):
            found.append(rule)
        elif layout in (target, "neutral") and to in (source, "neutral"):
            found.append(rule.reversed())
        else:
            error = rule.error(
                f"it is between {source} and {target}; the conversion is from {layout} to {to}."
            )
            if unknown:
                error.hint = unknown[0][0].upper() + unknown[0][1:]
            elif target == "neutral" and layout in (source, "neutral"):
                error.hint = f"Write target = {to!r} at the top of the rule file (layouts=)."
            raise error
        if unknown:
            raise rule.error(unknown[0])
    return tuple(found)


def as_rules(value: Rules) -> tuple[Rule, ...]:
    """Return the rules of whatever a caller may hand over: the path of a rule file, a rule, or rules.

    Raises:
        UsageError: It is none of these.
        RuleError: As `load_rules`.
    """
    if value == ():
        return ()
    from bridge_core.rules.rule import Rule
    from bridge_core.rules.toml_file import load_rules

    if isinstance(value, str | os.PathLike):
        return load_rules(value)
    if isinstance(value, Rule):
        return (value,)
    expected = "the path of a rule file, a Rule or several were expected."
    if not isinstance(value, Iterable) or isinstance(value, Mapping | bytes):
        raise UsageError(f"rules= is a {type(value).__name__}; {expected}")
    rules = tuple(value)
    for number, rule in enumerate(rules):
        if not isinstance(rule, Rule):
            raise UsageError(f"rules= has a {type(rule).__name__} at place {number}; {expected}")
    return rules
