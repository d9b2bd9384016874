"""The functions that users call: from inputs to a plan to a result."""

from typing import TYPE_CHECKING

from bridge_core.conversion.convert import convert as convert, plan_conversion as plan_conversion
from bridge_core.public import exports

if TYPE_CHECKING:
    from bridge_core.conversion.comparison import verify as verify
    from bridge_core.conversion.in_memory import from_neutral as from_neutral, to_neutral as to_neutral
    from bridge_core.conversion.in_parts import (
        finish_work as finish_work,
        make_work as make_work,
        run_part as run_part,
        work_status as work_status,
    )
    from bridge_core.conversion.inputs import (
        known_module as known_module,
        opened as opened,
        state_of as state_of,
    )
    from bridge_core.conversion.loading import TargetState as TargetState, target_state as target_state
    from bridge_core.conversion.model_factory import load_factory as load_factory
    from bridge_core.conversion.part_reports import PartReport as PartReport, WorkStatus as WorkStatus
    from bridge_core.conversion.recipes import (
        GivenRecipe as GivenRecipe,
        RecognisedRecipe as RecognisedRecipe,
        named_recipe as named_recipe,
        recognised_recipes as recognised_recipes,
    )
    from bridge_core.conversion.report import Report as Report
    from bridge_core.conversion.rule_checks import (
        layout_led_to as layout_led_to,
        plan_by_rules as plan_by_rules,
    )
    from bridge_core.conversion.selection import as_only as as_only
else:
    __getattr__, __dir__, __all__ = exports(
        __name__,
        {
            "comparison": "verify",
            "convert": "convert plan_conversion",
            "in_memory": "from_neutral to_neutral",
            "in_parts": "finish_work make_work run_part work_status",
            "inputs": "known_module opened state_of",
            "loading": "TargetState target_state",
            "model_factory": "load_factory",
            "part_reports": "PartReport WorkStatus",
            "recipes": "GivenRecipe RecognisedRecipe named_recipe recognised_recipes",
            "report": "Report",
            "selection": "as_only",
            "rule_checks": "layout_led_to plan_by_rules",
        },
    )
