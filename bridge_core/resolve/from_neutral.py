"""Neutral -> a framework's state: with a template, match and settle; without one, write what is decided.

All problems are gathered into the plan; `Plan.check` raises them together.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from typing import Any

from bridge_core.errors import UsageError
from bridge_core.ops import Fill
from bridge_core.plan import Plan, Step
from bridge_core.plugins import Framework, Registry
from bridge_core.resolve.evidence import PARAMETER
from bridge_core.resolve.grouping import has_heads
from bridge_core.resolve.neutral_layers import neutral_layers
from bridge_core.resolve.plan_builder import Ordered, Request
from bridge_core.resolve.rule_binding import bind_rule, check_claims, claimed_twice
from bridge_core.resolve.rule_instance import Claim
from bridge_core.resolve.rule_names import check_constant, rule_holds
from bridge_core.resolve.with_template import Templated
from bridge_core.resolve.without_template import Plain
from bridge_core.rules import Permissions, Rule
from bridge_core.state import FlatState, Key, TensorSpec

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
        rules: Rules that move tensors or fill targets, and that fix the kinds of what is still undecided, as
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
    wanted = _names_of(like, framework) if like is not None else None
    claims, idle = _claims(state, rules, wanted, config)
    taken = {key for claim in claims for key in claim.sources}
    fills, absent, unused = _constants(rules, wanted, config, claims)
    rest = state.select(lambda key: key not in taken) if taken else state
    request = Request(
        rest,
        registry,
        framework,
        neutral_layers(rest, registry, rules),
        permissions,
        origin or {},
        rules,
        Ordered(state, claims, fills, absent),
    )
    made = Templated(request).resolve(like) if like is not None else Plain(request).resolve()
    return replace(made, problems=replace(made.problems, unmatched_rules=(*idle, *unused)))


def _names_of(like: FlatState, framework: Framework) -> dict[Key, TensorSpec]:
    heads = has_heads(like, framework)
    return {key[1:] if heads else key: like.spec(key) for key in like}


def _claims(
    state: FlatState,
    rules: Iterable[Rule],
    wanted: Mapping[Key, TensorSpec] | None,
    config: Mapping[str, Any] | None,
) -> tuple[tuple[Claim, ...], tuple[str, ...]]:
    """Return the uses of rules that move tensors, and the rules that found nothing to move.

    A neutral state that such rules went over already holds their tensors as plain parameters; they take no
    others from it.
    """
    layers = state.metadata.layers
    aside = {path for path, info in layers.items() if info.evidence == "rule" and info.kind == PARAMETER}
    moves = [rule for rule in rules if rule.action == "move" and rule_holds(rule, config)]
    claims: list[Claim] = []
    idle = []
    free = _free(state, aside)
    for rule in moves:
        found = bind_rule(rule, free, wanted, config)
        claims += found
        if not found and not rule.optional and not _waits(rule, state):
            idle.append(rule.full_label)
    check_claims(claims)
    return tuple(claims), tuple(idle)


def _free(state: FlatState, aside: Collection[Key]) -> dict[Key, TensorSpec]:
    """Return what rules may take: all that is no leaf of a decided layer, where rules went before."""
    layers = state.metadata.layers
    if not aside:
        return state.specs()
    specs = {}
    for key, spec in state.specs().items():
        info = layers.get(key[:-1])
        if info is None or key[-1] not in info.leaves or info.kind == PARAMETER:
            specs[key] = spec
    return specs


def _waits(rule: Rule, state: FlatState) -> bool:
    """Tell whether tensors are there for a rule, and only its conditions keep it from taking them."""
    return bool(rule.when) and any(rule.bind(p, key) is not None for key in state for p in rule.sources)


def _constants(
    rules: Iterable[Rule],
    wanted: Mapping[Key, TensorSpec] | None,
    config: Mapping[str, Any] | None,
    claims: Iterable[Claim],
) -> tuple[dict[Key, Step], tuple[Key, ...], tuple[str, ...]]:
    """Return the targets that rules fill with constants, those they leave out, and the rules without any."""
    fills: dict[Key, Step] = {}
    absent: list[Key] = []
    idle = []
    owners = {key: claim.rule for claim in claims for key in claim.targets}
    for rule in rules:
        if rule.action != "constant" or not rule_holds(rule, config):
            continue
        if wanted is None:
            if rule.value is not None:
                raise rule.error("the target's shapes are not known; give them (--like FILE, or like=).")
            continue
        found = [key for key in wanted if any(p.match(key) is not None for p in rule.targets)]
        if not found and not rule.optional:
            idle.append(rule.full_label)
        for key in found:
            other = owners.setdefault(key, rule)
            if other is not rule:
                raise claimed_twice(rule, other, "make", key)
            if rule.value is None:
                absent.append(key)
            else:
                check_constant(rule, wanted[key].dtype, key)
                fill = Fill(rule.value, wanted[key])
                fills[key] = Step((), (key,), (fill,), PARAMETER, "rule", rule=rule.label)
    return fills, tuple(absent), tuple(idle)
