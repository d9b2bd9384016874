"""Plans the conversion of a source, with what its folder and recipes add to the caller's options."""

from __future__ import annotations

from typing import Any

from bridge_core.conversion.library_guidance import guidance, guidance_of_file, with_config_way
from bridge_core.conversion.options import ConversionOptions
from bridge_core.conversion.planning import complete_plan
from bridge_core.messages import log
from bridge_core.plan import Plan
from bridge_core.plugins import Guidance, Registry
from bridge_core.state import FlatState

__all__ = ["plan_source"]


def plan_source(
    source: Any, state: FlatState, options: ConversionOptions, registry: Registry
) -> tuple[Guidance, FlatState, Plan]:
    """Return what is known of a source, its state as evidence, and the plan with its problems.

    A file is planned without its folder first; where that leaves something open, again with the folder's
    config.

    Args:
        source: The caller's source.
        state: Its state.
        options: The caller's options.
        registry: The plugins.

    Raises:
        RuleError: A rule does not fit the source or the template, or the recipe does not fit the source.
        UsageError: The options cannot be combined with this source.
    """
    if options.recipe is not None:
        from bridge_core.conversion.recipes import with_recipe

        state, options = with_recipe(state, options, registry)
    elif state.layout is None and registry.recipes:
        from bridge_core.conversion.recipes import refuse_if_recognised

        refuse_if_recognised(state, options, registry)
    plan_of = complete_plan
    if options.only:
        from bridge_core.conversion.partial_plan import plan_part

        plan_of, options = plan_part, options.with_part(state, registry)
    known = guidance(source, state, options, registry)
    planned, plan = plan_of(state, options.guided(known), registry)
    if not plan.ok:
        more = guidance_of_file(source, state, options, registry)
        if more is not None:
            log("conversion", "planning again with the config of the source's folder")
            known = more
            planned, plan = plan_of(state, options.guided(more), registry)
        if not plan.ok:
            plan = with_config_way(plan, source, options, known, registry)
    if options.recipe is None and registry.recipes:
        from bridge_core.conversion.recipes import with_named_recipes

        is_guided = any(each is not None for each in (known.model, known.like, known.recipe))
        plan = with_named_recipes(plan, state, options, registry, guided=is_guided)
    elif options.recipe not in (None, "none") and state.layout != "neutral":
        from bridge_core.conversion.recipe_fit import fitted

        plan = fitted(plan, planned, options, registry)
    return known, planned, plan
