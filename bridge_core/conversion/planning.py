"""Makes the plan of a conversion: one to the neutral layout and one from it, joined."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator
from dataclasses import replace

from bridge_core.checkpoint import config_beside
from bridge_core.conversion.inputs import known_module, template_of
from bridge_core.conversion.options import ConversionOptions
from bridge_core.conversion.target_dtypes import target_dtypes
from bridge_core.conversion.whole_layers import cast_keeping_scales, with_causes
from bridge_core.messages import log
from bridge_core.plan import Plan
from bridge_core.plugins import Registry, providers_of
from bridge_core.resolve import permitted_names, plan_from_neutral, plan_to_neutral
from bridge_core.rules import oriented
from bridge_core.state import FlatState, Key, check_given

__all__ = ["complete_plan", "joined_plan", "model_is_template"]

_MANY_OBJECTS = 100_000
"""Objects from which on a search in them takes longer than what avoids it."""


@contextlib.contextmanager
def _gc_paused() -> Iterator[None]:
    """Pause the garbage collector, which would look through the many small objects of a plan repeatedly.

    Planning makes no reference cycles. With 100,000 keys the search for them takes a third of the time, and
    its share grows with the number of keys.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            if gc.get_count()[0] > _MANY_OBJECTS and not gc.get_freeze_count():
                # The two together make all objects old; else the next one made would start a search in them.
                gc.freeze()
                gc.unfreeze()
            gc.enable()


@_gc_paused()
def complete_plan(state: FlatState, options: ConversionOptions, registry: Registry) -> tuple[FlatState, Plan]:
    """Return the source with the model as evidence, and the plan with its problems, cast included.

    Raises:
        RuleError: A rule does not fit the source or the template.
        UsageError: The options cannot be combined with this source.
    """
    like, source_ties = options.like, dict[Key, Key]()
    if options.model is not None:
        if like is None and model_is_template(options, state, registry):
            like = options.model
        else:
            may_be_target = options.to not in (state.layout, "neutral") and like is None
            known = known_module(state, options.model, registry, may_be_target=may_be_target)
            source_ties = {key: known.metadata.ties[key] for key in known if key not in state}
            state = known
    with template_of(like, options.to, registry) as template:
        plan = joined_plan(state, template, options, registry)
    planned = "planned %s -> %s, steps by evidence: %s"
    log("conversion", planned, state.layout, options.to, lambda: plan.evidence)
    notes = (*state.metadata.notes, *plan.notes, *options.notes)
    reason = state.metadata.provenance.get("layout", "")
    plan = replace(plan, source_ties=source_ties, notes=notes, layout_reason=reason)
    if state.layout != "neutral":  # a neutral state remembers what it was made from
        plan = replace(plan, branches=state.metadata.left_out)
    if options.dtype is not None and plan.ok:
        plan = cast_keeping_scales(plan, target_dtypes(plan, options.dtype, registry))
    return state, plan


def model_is_template(options: ConversionOptions, source: FlatState, registry: Registry) -> bool:
    """Return whether the model is one of the target's framework and not of the source's."""
    if options.model is None or options.to == source.layout:
        return False
    framework = registry.framework_of(options.model)
    return framework is not None and framework.name == options.to


@_gc_paused()
def joined_plan(
    state: FlatState, template: FlatState | None, options: ConversionOptions, registry: Registry
) -> Plan:
    """Return the plan from a state to the keys and shapes of a template, or to a usual form without one.

    Raises:
        RuleError: A rule does not fit the state or the template.
        UsageError: The source's layout or the target's framework is unknown, or the metadata that the caller
            gave is not valid.
    """
    check_given(state.metadata)
    doing = "take part in a conversion"
    with (
        registry.foreign_failures("frameworks", state.layout or "", doing),
        registry.foreign_failures("frameworks", options.to, doing),
    ):
        plan = _plan_there(state, template, options, registry)
        if plan.problems.proposal is not None:
            from bridge_core.conversion.proposals import with_tried_proposal

            plan = with_tried_proposal(
                plan,
                (state.layout or options.to, options.to),
                options.rules,
                lambda rules: _plan_there(state, template, replace(options, rules=rules), registry),
            )
    providers = providers_of(plan.metadata.layers.values(), state.metadata.providers, registry)
    if providers == plan.metadata.providers:
        return plan
    return replace(plan, metadata=plan.metadata.with_(providers=providers))


def _plan_there(
    state: FlatState, template: FlatState | None, options: ConversionOptions, registry: Registry
) -> Plan:
    permissions = options.permissions
    rules = oriented(options.rules, state.layout or options.to, options.to, registry.frameworks)
    config = config_beside(state, template) if rules or state.metadata.rules else None
    if options.to == "neutral":
        guesses = permissions.accept_guesses
        plan = plan_to_neutral(state, registry, rules=rules, accept_guesses=guesses, config=config)
        return with_causes(plan, state, permissions)
    named = {}
    if permissions.has_patterns:
        permissions, named["spellings"] = permitted_names(permissions, state, template, registry)
    first = plan_to_neutral(state, registry, rules=rules, config=config, to=options.to, like=template)
    unmatched = replace(first.problems, unmatched_rules=())
    second = plan_from_neutral(
        replace(first, problems=unmatched).apply(state),
        registry,
        options.to,
        like=template,
        rules=rules,
        permissions=permissions,
        origin=first.origin,
        config=config,
        **named,
    )
    return with_causes(first.then(second), state, permissions, **named)
