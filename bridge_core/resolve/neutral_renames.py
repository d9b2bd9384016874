"""The plan of a state that is in neutral form already: rules rename and drop its keys, and no value moves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from bridge_core.plan import Dropped, Plan, PlanProblems, Step
from bridge_core.resolve.evidence import PARAMETER
from bridge_core.resolve.rule_names import labels, rule_names
from bridge_core.state import FlatState, renamed_metadata

if TYPE_CHECKING:
    from bridge_core.resolve.recorded_rules import NeutralRules

__all__ = ["plan_renames"]


def plan_renames(state: FlatState, rules: NeutralRules | None, config: Mapping[str, Any] | None) -> Plan:
    """Return the plan of a neutral state, in which rules only rename and drop keys."""
    fresh = rules.fresh if rules is not None else ()
    names_of_source = state.metadata.source_names
    ruled = rule_names({key: key for key in state}, state.specs(), fresh, config, names_of_source)
    for key in rules.waiting if rules is not None else ():
        for keys in (ruled.names, ruled.renamed, ruled.rearranged):
            keys.pop(key, None)
    metadata = state.metadata
    steps = []
    for key in state:
        if key in ruled.dropped:
            continue
        path, leaf = metadata.owner(key)
        info = metadata.layers.get(path)
        kind = info.kind or "undecided" if info and leaf in info.leaves else PARAMETER
        evidence = info.evidence if info else "name"
        label = labels(ruled.renamed.get(key, ()))
        steps.append(Step((key,), (ruled.names.get(key, key),), (), kind, evidence, rule=label))
    if rules is not None:
        from bridge_core.resolve.recorded_rules import with_fresh

        metadata = with_fresh(metadata, rules, ruled.rearranged, config)
        state = state.replace(metadata=metadata)
    if ruled.names or ruled.dropped:
        metadata = state.select(lambda key: key not in ruled.dropped).metadata
    if ruled.names:
        names = {key: ruled.names.get(key, key) for key in state if key not in ruled.dropped}
        metadata = renamed_metadata(metadata, state.layout, names)
    return Plan(
        "neutral",
        "neutral",
        state.specs(),
        tuple(steps),
        tuple(Dropped(key, reason) for key, reason in ruled.dropped.items()),
        metadata=metadata,
        problems=PlanProblems(unmatched_rules=ruled.unmatched),
        notes=ruled.notes,
        source_names=names_of_source,
    )
