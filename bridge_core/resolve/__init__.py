"""From names, shapes and evidence to a plan."""

from typing import TYPE_CHECKING

from bridge_core.public import exports

if TYPE_CHECKING:
    from bridge_core.resolve.from_neutral import plan_from_neutral as plan_from_neutral
    from bridge_core.resolve.module_evidence import with_model_evidence as with_model_evidence
    from bridge_core.resolve.named_side import NamedSide as NamedSide, unslashed as unslashed
    from bridge_core.resolve.names_of_file import TreeNames as TreeNames, tree_names as tree_names
    from bridge_core.resolve.printed_names import decided as decided, side_of as side_of
    from bridge_core.resolve.rule_checks import rule_problems as rule_problems
    from bridge_core.resolve.rule_names import applied_renames as applied_renames, check_kind as check_kind
    from bridge_core.resolve.rule_reading import without_collections as without_collections
    from bridge_core.resolve.tensor_axes import axis_names as axis_names
    from bridge_core.resolve.to_neutral import plan_to_neutral as plan_to_neutral
    from bridge_core.resolve.written_names import (
        keys_named as keys_named,
        permitted_names as permitted_names,
        source_spellings as source_spellings,
        spellings_in_plan as spellings_in_plan,
    )
else:
    __getattr__, __dir__, __all__ = exports(
        __name__,
        {
            "from_neutral": "plan_from_neutral",
            "module_evidence": "with_model_evidence",
            "named_side": "NamedSide unslashed",
            "names_of_file": "TreeNames tree_names",
            "written_names": "keys_named permitted_names source_spellings spellings_in_plan",
            "printed_names": "decided side_of",
            "rule_checks": "rule_problems",
            "rule_names": "applied_renames check_kind",
            "rule_reading": "without_collections",
            "tensor_axes": "axis_names",
            "to_neutral": "plan_to_neutral",
        },
    )
