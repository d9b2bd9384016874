"""A conversion as data, complete before a value is read."""

from typing import TYPE_CHECKING

from bridge_core.public import exports

if TYPE_CHECKING:
    from bridge_core.plan.causes import (
        Cause as Cause,
        adapter_details as adapter_details,
        causes_of as causes_of,
        may_show_cause as may_show_cause,
    )
    from bridge_core.plan.compiled import CompiledPlan as CompiledPlan, compile_plan as compile_plan
    from bridge_core.plan.compose import join_keeps as join_keeps, join_steps as join_steps
    from bridge_core.plan.plan import Plan as Plan
    from bridge_core.plan.problems import PlanProblems as PlanProblems, once as once
    from bridge_core.plan.proposals import Proposal as Proposal, ProposedRename as ProposedRename
    from bridge_core.plan.recipe_problem import RecipeProblem as RecipeProblem
    from bridge_core.plan.rivals import Rivals as Rivals
    from bridge_core.plan.source_names import (
        name_with_source as name_with_source,
        shown_names as shown_names,
    )
    from bridge_core.plan.step import (
        Dropped as Dropped,
        Mismatch as Mismatch,
        Step as Step,
        quick_step as quick_step,
    )
    from bridge_core.plan.unmatched import closest_key as closest_key
    from bridge_core.plan.warning import PlanWarning as PlanWarning
else:
    __getattr__, __dir__, __all__ = exports(
        __name__,
        {
            "causes": "Cause adapter_details causes_of may_show_cause",
            "compiled": "CompiledPlan compile_plan",
            "compose": "join_keeps join_steps",
            "plan": "Plan",
            "problems": "PlanProblems once",
            "proposals": "Proposal ProposedRename",
            "recipe_problem": "RecipeProblem",
            "rivals": "Rivals",
            "source_names": "name_with_source shown_names",
            "step": "Dropped Mismatch Step quick_step",
            "unmatched": "closest_key",
            "warning": "PlanWarning",
        },
    )
