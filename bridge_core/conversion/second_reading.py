"""Plans a file again with what its folder tells of it, where the file by itself leaves something open."""

from __future__ import annotations

from typing import Any

from bridge_core.conversion.library_guidance import guidance_of_file, with_config_way
from bridge_core.conversion.options import ConversionOptions
from bridge_core.conversion.planning import complete_plan
from bridge_core.messages import log
from bridge_core.plan import Plan
from bridge_core.plugins import Guidance, Registry
from bridge_core.state import FlatState

__all__ = ["read_with_config"]


def read_with_config(
    source: Any,
    state: FlatState,
    planned: FlatState,
    plan: Plan,
    options: ConversionOptions,
    known: Guidance,
    registry: Registry,
) -> tuple[Guidance, FlatState, Plan]:
    """Return what is known, the state as evidence, and the plan: again, if the folder tells more of the file.

    Args:
        source: What the caller gave.
        state: Its state.
        planned: The state as evidence of the first plan.
        plan: The first plan, which cannot be run.
        options: What the caller asked for.
        known: What the first plan was made with.
        registry: Where libraries are found.

    Raises:
        RuleError: A rule does not fit.
        UsageError: The options make no sense for this source.
    """
    more = guidance_of_file(source, state, options, registry)
    if more is not None:
        log("conversion", "planning again with the config of the source's folder")
        known = more
        planned, plan = complete_plan(state, options.guided(more), registry)
    return known, planned, plan if plan.ok else with_config_way(plan, source, options, known, registry)
