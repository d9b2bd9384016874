"""Neutral -> a framework's state: what rules order, then every layer, with a template or without one.

The two ways out differ in where the target's names and shapes come from. Both collect all problems in the
plan; `Plan.check` raises them at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from bridge_core.errors import UsageError
from bridge_core.ops import Fill
from bridge_core.plan import Plan, Step
from bridge_core.plugins import Registry
from bridge_core.resolve.evidence import PARAMETER
from bridge_core.resolve.neutral_layers import neutral_layers
from bridge_core.resolve.request import Ordered, Request
from bridge_core.resolve.rule_names import check_constant, rule_holds
from bridge_core.resolve.without_template import WithoutTemplate
from bridge_core.rules import Permissions
from bridge_core.state import FlatState, Key, TensorSpec, VariableCollections

if TYPE_CHECKING:
    from bridge_core.resolve.rule_instance import BoundRule
    from bridge_core.rules import Rule

__all__ = ["plan_from_neutral"]

_NOTHING_ALLOWED = Permissions()


def plan_from_neutral(
    state: FlatState,
    registry: Registry,
    to: str,
    *,
    like: FlatState | None = None,
    rules: Iterable[Rule] = (),
    permissions: Permissions = _NOTHING_ALLOWED,
    origin: Mapping[Key, Key] | None = None,
    config: Mapping[str, Any] | None = None,
) -> Plan:
    """Return the plan from a neutral state to a framework's, problems included.

    Args:
        state: The neutral state; a plain one without metadata is read by its names and shapes.
        registry: Where kinds, transforms and adapters are found.
        to: Name of the framework.
        like: A state of that framework whose names and shapes the result must have.
        rules: Rules that rearrange tensors or fill targets, and that fix the kinds of what is undecided, as
            they are read towards this framework.
        permissions: What may be guessed and left out.
        origin: Neutral key -> key in the original source, which the patterns also see.
        config: The checkpoint's config, if one is known.

    Raises:
        UsageError: There is no such framework.
        RuleError: A rule does not fit the tensors it takes or makes.
    """
    if to == "neutral":
        raise UsageError("a neutral state is neutral already.")
    rules = tuple(rules)
    framework = registry.framework(to)
    targets = None
    if like is not None:
        collections = VariableCollections.of_state(like, to, framework.collections)
        targets = {name: like.spec(key) for key, name in collections.names(like).items()}
    bound_rules, unmatched = _bind_rules(state, rules, targets, config)
    taken = {key for bound in bound_rules for key in bound.sources}
    fills, absent, unused = _fills(rules, targets, config, bound_rules)
    rest = state.select(lambda key: key not in taken) if taken else state
    request = Request(
        rest,
        registry,
        framework,
        neutral_layers(rest, registry, rules),
        permissions,
        origin or {},
        rules,
        Ordered(state, bound_rules, fills, absent),
    )
    if like is not None:
        from bridge_core.resolve.with_template import WithTemplate

        plan = WithTemplate(request).resolve(like, collections)
    else:
        plan = WithoutTemplate(request).resolve()
    return replace(plan, problems=replace(plan.problems, unmatched_rules=(*unmatched, *unused)))


def _bind_rules(
    state: FlatState,
    rules: Iterable[Rule],
    targets: Mapping[Key, TensorSpec] | None,
    config: Mapping[str, Any] | None,
) -> tuple[tuple[BoundRule, ...], tuple[str, ...]]:
    """Return the instances of rules that rearrange tensors, and the rules that matched nothing.

    If such rules were applied to a neutral state before, it holds their tensors as plain parameters, and they
    take no others from it.
    """
    if not rules:
        return (), ()
    from bridge_core.resolve.rule_binding import bind_rule, check_disjoint

    layers = state.metadata.layers.values()
    ruled_before = any(info.evidence == "rule" and info.kind == PARAMETER for info in layers)
    sources = _parameters(state) if ruled_before else state.specs()
    active = [rule for rule in rules if rule.action == "rearrange" and rule_holds(rule, config)]
    bound_rules: list[BoundRule] = []
    unmatched = []
    for rule in active:
        instances = bind_rule(rule, sources, targets, config)
        bound_rules += instances
        if not instances and not rule.optional and not _waits(rule, state):
            unmatched.append(rule.full_label)
    check_disjoint(bound_rules)
    return tuple(bound_rules), tuple(unmatched)


def _parameters(state: FlatState) -> dict[Key, TensorSpec]:
    """Return the tensors that are not leaves of a decided layer."""
    specs = {}
    for key, spec in state.specs().items():
        path, leaf = state.metadata.owner(key)
        info = state.metadata.layers.get(path)
        if info is None or leaf not in info.leaves or info.kind == PARAMETER:
            specs[key] = spec
    return specs


def _waits(rule: Rule, state: FlatState) -> bool:
    """Tell whether a rule's patterns match tensors, so that only its conditions keep it from taking them."""
    return bool(rule.when) and any(rule.bind(p, key) is not None for key in state for p in rule.sources)


def _fills(
    rules: Iterable[Rule],
    targets: Mapping[Key, TensorSpec] | None,
    config: Mapping[str, Any] | None,
    bound_rules: Iterable[BoundRule],
) -> tuple[dict[Key, Step], tuple[Key, ...], tuple[str, ...]]:
    """Return the targets that rules fill with constants, those they leave out, and the unmatched rules."""
    fills: dict[Key, Step] = {}
    absent: list[Key] = []
    unmatched = []
    owners = {key: bound.rule for bound in bound_rules for key in bound.targets}
    for rule in rules:
        if rule.action != "fill" or not rule_holds(rule, config):
            continue
        if targets is None:
            if rule.value is not None:
                raise rule.error("the target's shapes are not known; give them (--like FILE, or like=).")
            continue
        matching = [key for key in targets if any(p.match(key) is not None for p in rule.targets)]
        if not matching and not rule.optional:
            unmatched.append(rule.full_label)
        for key in matching:
            other = owners.setdefault(key, rule)
            if other is not rule:
                from bridge_core.resolve.rule_binding import rule_conflict

                raise rule_conflict(rule, other, "make", key)
            if rule.value is None:
                absent.append(key)
            else:
                check_constant(rule, targets[key].dtype, key)
                fill = Fill(rule.value, targets[key])
                fills[key] = Step((), (key,), (fill,), PARAMETER, "rule", rule=rule.label)
    return fills, tuple(absent), tuple(unmatched)
