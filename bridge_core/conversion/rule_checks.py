"""What a conversion by some rules would refuse, as far as the files that are given can show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from bridge_core.checkpoint import config_beside
from bridge_core.conversion.convert import plan_conversion
from bridge_core.plan import Plan, PlanProblems

if TYPE_CHECKING:
    from bridge_core.plugins import Registry
    from bridge_core.rules import Rule
    from bridge_core.state import FlatState, Key

__all__ = ["layout_led_to", "plan_by_rules"]


def plan_by_rules(
    rules: Sequence[Rule],
    source: FlatState,
    like: FlatState | None,
    *,
    directed: Sequence[Rule] = (),
    registry: Registry | None = None,
) -> Plan | None:
    """Return the plan of a conversion by rules, with its problems.

    None if the target is not known.

    Args:
        rules: The rules, all from one file.
        source: The source.
        like: The target's template; None if it is not known yet. Rules that need its shapes are not tried
            then.
        directed: The rules in the direction from the source to the target.
        registry: The plugins; None for all that are installed.

    Raises:
        RuleError: A rule does not fit the source or the template, or matches no key.
        MismatchError: A rule renames a tensor to a name that the template does not have.
        KeyConflict: Rules give two tensors one name.
    """
    to = layout_led_to(rules, source, like)
    if to is None:
        return None
    if like is None:
        rules = _decided(rules, source)
    plan = plan_conversion(source, to=to, like=like, rules=rules, registry=registry, check=False)
    _refuse_unmatched(plan, directed)
    _refuse_renamed(plan, directed)
    return plan


def layout_led_to(rules: Sequence[Rule], source: FlatState, like: FlatState | None) -> str | None:
    """Return the layout to convert to; None if neither the files nor the rules show it.

    Args:
        rules: The rules, all from one file.
        source: The source.
        like: The target's template; None if it is not known yet.
    """
    if source.layout is None:
        return None
    if like is not None:
        return like.layout if like.layout != "neutral" else None
    layouts = next((rule.layouts for rule in rules if rule.layouts is not None), None)
    if layouts is None:
        return "neutral" if source.layout != "neutral" else None
    return layouts[0] if source.layout == layouts[1] else layouts[1]


def _decided(rules: Sequence[Rule], source: FlatState) -> list[Rule]:
    """Return the rules that need neither the target's shapes nor a config that does not exist."""
    has_config = config_beside(source) is not None
    return [rule for rule in rules if rule.action != "fill" and (has_config or not rule.when.config)]


def _refuse_unmatched(plan: Plan, rules: Sequence[Rule]) -> None:
    """Refuse rules that match no key; a layer rule of the other direction may match only the target.

    Raises:
        RuleError: A rule that had to match a key matches none.
    """
    backwards = {
        rule.full_label
        for rule in rules
        if rule.action == "layer" and rule.layouts is not None and rule.layouts[0] != plan.source_layout
    }
    unmatched = tuple(label for label in plan.unmatched_rules if label not in backwards)
    if unmatched:
        error = replace(plan.problems, unmatched_rules=unmatched).error(
            plan.target_layout, plan.specs, plan.unclaimed
        )
        assert error is not None
        raise error


def _refuse_renamed(plan: Plan, rules: Sequence[Rule]) -> None:
    """Refuse renames to names that the template does not have.

    Raises:
        MismatchError: A tensor is renamed to such a name.
    """
    renames = [rule for rule in rules if rule.action == "rename" and not (rule.optional or rule.when)]
    from bridge_core.rules import PatternIndex

    index = PatternIndex(rule.sources for rule in renames)

    def is_renamed(key: Key) -> bool:
        return any(
            renames[number].renamed(name) is not None
            for name in (key, key[1:])
            for number in index.candidates(name)
        )

    unexpected = tuple(key for key in plan.unexpected if is_renamed(key))
    error = PlanProblems(plan.missing if unexpected else (), unexpected).error(plan.target_layout)
    if error is not None:
        error.hint = (
            "Correct the name that the rule gives, or pass the weights of another model, like= (--like)."
        )
        raise error
