"""Checking rules against the names and shapes of both sides, as a conversion would, all problems at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from bridge_core.errors import RuleError
from bridge_core.resolve.rule_binding import bind_rule, check_disjoint
from bridge_core.resolve.rule_instance import BoundRule
from bridge_core.resolve.rule_names import rule_holds, rule_names
from bridge_core.rules import Rule
from bridge_core.state import Key, TensorSpec

__all__ = ["rule_problems"]


def rule_problems(
    rules: Iterable[Rule],
    sources: Mapping[Key, TensorSpec],
    targets: Mapping[Key, TensorSpec],
    config: Mapping[str, Any] | None,
) -> list[RuleError]:
    """Return what a conversion by these rules would refuse, there or back.

    Args:
        rules: Rules, read from source to target.
        sources: The source's names without a collection, with their specs.
        targets: The target's.
        config: The checkpoint's config, if one is known.
    """
    problems: list[RuleError] = []
    known = tuple(rules)

    def attempt(call: Callable[[], object]) -> None:
        try:
            call()
        except RuleError as err:
            problems.append(err)

    back = [rule.reversed() for rule in known]
    attempt(lambda: rule_names({name: name for name in sources}, sources, known, config, targets=targets))
    attempt(lambda: rule_names({name: name for name in targets}, targets, back, config, targets=sources))
    bound_rules: list[BoundRule] = []
    for rule in known:
        if rule.action == "rearrange" and _holds(rule, config):
            attempt(lambda rule=rule: bound_rules.extend(bind_rule(rule, sources, targets, config)))  # type: ignore[misc]
    attempt(lambda: check_disjoint(bound_rules))
    return problems


def _holds(rule: Rule, config: Mapping[str, Any] | None) -> bool:
    """Return whether a rule's conditions hold; that a config is missing is reported elsewhere."""
    try:
        return rule_holds(rule, config)
    except RuleError:
        return False
