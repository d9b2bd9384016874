"""Plans the conversion of a part of a source, as ``only=`` chooses it.

The entire source is planned, since all of its names are evidence, and the steps that read only what was
chosen remain: so each tensor becomes what it is in a conversion of everything. Where a step reads tensors of
a list of which only the first entries are taken, or changes a tensor that is shortened, the part is planned
by itself, and nothing may count as proven in it that the entire source leaves open.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import TypeVar

from bridge_core.conversion.options import ConversionOptions
from bridge_core.conversion.planning import complete_plan
from bridge_core.conversion.selection import Part
from bridge_core.conversion.target_dtypes import target_dtypes
from bridge_core.conversion.whole_layers import cast_keeping_scales
from bridge_core.errors import UsageError
from bridge_core.messages import listed
from bridge_core.plan import Plan, PlanProblems, Step
from bridge_core.plugins import Registry
from bridge_core.state import FlatState, Key, join_key, restricted_metadata

__all__ = ["plan_part"]

T = TypeVar("T")

_PROVEN = frozenset({"rule", "module", "template", "metadata"})
"""Evidence that does not depend on the names and shapes of other tensors of the source."""


def plan_part(state: FlatState, options: ConversionOptions, registry: Registry) -> tuple[FlatState, Plan]:
    """Return the state that is converted, as evidence, and its plan with its problems.

    Args:
        state: The entire source.
        options: The options; without a part, everything is planned.
        registry: The plugins.

    Raises:
        RuleError: A rule does not fit the source or the template.
        UsageError: A step needs tensors that are left out.
    """
    part = options.part
    if part is None or not part.selection.is_partial:
        planned, plan = complete_plan(state, options, registry)
        return planned, plan if part is None else _described(plan, part)
    if options.describes_part:
        planned, plan = complete_plan(part.state, options, registry)
        return planned, _described(plan, part)
    _, whole = complete_plan(state, replace(options, dtype=None), registry)
    planned, restricted = part.state, _restricted(whole, part, has_template=options.like is not None)
    if restricted is not None:
        plan = restricted
    else:
        planned, plan = complete_plan(part.state, replace(options, dtype=None), registry)
        plan = _without_new_certainty(plan, whole, part)
    if options.dtype is not None and plan.ok:
        plan = cast_keeping_scales(plan, target_dtypes(plan, options.dtype, registry))
    return planned, _described(plan, part)


def _described(plan: Plan, part: Part) -> Plan:
    selection = part.selection
    return replace(
        plan,
        branches=(*plan.branches, *selection.left_out()),
        notes=(selection.note(), *plan.notes),
        selection=selection,
    )


def _restricted(whole: Plan, part: Part, *, has_template: bool) -> Plan | None:
    """Return the plan of the entire source with only what reads the part; None if it has to be planned anew.

    Raises:
        UsageError: A step reads tensors of the part and others.
    """
    taken = _with_tied(whole, part)
    changed = part.selection.shortened.keys()
    if any(problem.source in changed for problem in whole.mismatched):
        return None
    steps: list[Step] = []
    gone: list[Key] = []
    anew = False
    for step in whole.steps:
        inside = [key for key in step.sources if key in taken]
        if step.sources and not inside:
            gone += step.targets
        elif len(inside) < len(step.sources):
            _check_mixed(step, taken, part)
            anew = True
        elif step.ops and not changed.isdisjoint(step.sources):
            anew = True
        else:
            steps.append(step)
    if anew or _splits_ties(whole, taken):
        return None
    steps, constants = _without_lone_constants(steps, gone)
    filled = {key for step in steps for key in step.targets}
    ties = {key: other for key, other in whole.ties.items() if other in filled}
    if not ties.keys().isdisjoint(_ties_left_out(whole, taken)):
        return None
    targets = {key for step in whole.steps for key in step.targets} | whole.ties.keys()
    kept = filled | ties.keys()
    metadata = restricted_metadata(whole.metadata, whole.target_layout, targets, kept)
    specs = {key: part.selection.taken.get(key, spec) for key, spec in whole.specs.items() if key in taken}
    unfilled = [*gone, *constants, *(key for key in whole.ties if key not in ties)] if has_template else []
    return replace(
        whole,
        specs=specs,
        steps=tuple(steps),
        dropped=tuple(drop for drop in whole.dropped if drop.key in taken),
        ties=ties,
        problems=_restricted_problems(whole.problems, taken),
        allowed_missing=(*whole.allowed_missing, *unfilled),
        metadata=metadata,
        keeps=tuple(step for step in whole.keeps if taken.issuperset(step.sources)),
        source_ties={key: other for key, other in whole.source_ties.items() if key in taken},
        warnings=tuple(w for w in whole.warnings if not w.keys or not taken.isdisjoint(w.keys)),
        source_names={key: name for key, name in whole.source_names.items() if key in taken},
    )


def _with_tied(whole: Plan, part: Part) -> set[Key]:
    """Return the keys that are taken, with those that a model ties to them and the source does not store."""
    taken = set(part.selection.taken)
    return taken | {key for key, other in whole.source_ties.items() if other in taken}


def _check_mixed(step: Step, taken: Collection[Key], part: Part) -> None:
    """Check that what a step reads in addition to the part are other entries of a list.

    Raises:
        UsageError: It needs tensors that were not chosen.
    """
    absent = [key for key in step.sources if key not in taken and key not in part.by_number]
    if absent:
        inside = [key for key in step.sources if key in taken]
        made, needed = (listed(map(join_key, keys)) for keys in (step.targets, absent))
        raise UsageError(
            f"only= (--only): {made} is made from {listed(map(join_key, inside))} and from {needed}, which "
            "is left out.",
            hint='Name all of them, or the first entries of a list: only="model.layers=2" (--only PATH=N).',
        )


def _splits_ties(whole: Plan, taken: Collection[Key]) -> bool:
    """Return whether a tensor is taken, and its canonical one is not."""
    return any(d.key in taken and d.tied_to is not None and d.tied_to not in taken for d in whole.dropped)


def _ties_left_out(whole: Plan, taken: Collection[Key]) -> set[Key]:
    """Return the targets of ties whose sources are left out while the tensor that they share is taken."""
    made_from = {step.targets[0]: step.sources[0] for step in whole.steps if step.sources and step.targets}
    without = {d.tied_to for d in whole.dropped if d.tied_to is not None and d.key not in taken}
    return {key for key, other in whole.ties.items() if made_from.get(other) in without}


def _without_lone_constants(steps: list[Step], gone: list[Key]) -> tuple[list[Step], list[Key]]:
    """Return the steps without constants of modules of which nothing else is made, and their targets."""
    filled_paths = {key[:-1] for step in steps if step.sources for key in step.targets}
    alone = {key[:-1] for key in gone} - filled_paths
    remaining: list[Step] = []
    constants: list[Key] = []
    for step in steps:
        if not step.sources and step.targets and all(key[:-1] in alone for key in step.targets):
            constants += step.targets
        else:
            remaining.append(step)
    return remaining, constants


def _restricted_problems(problems: PlanProblems, taken: Collection[Key]) -> PlanProblems:
    return replace(
        problems,
        unexpected=tuple(key for key in problems.unexpected if key in taken),
        mismatched=tuple(pair for pair in problems.mismatched if pair.source in taken),
        ambiguous=_within(problems.ambiguous, taken),
        unsupported=_within(problems.unsupported, taken),
        unexplained=_within(problems.unexplained, taken),
        derived=frozenset(key for key in problems.derived if key in taken),
    )


def _within(values: Mapping[Key, T], keys: Collection[Key]) -> dict[Key, T]:
    return {key: value for key, value in values.items() if key in keys}


def _without_new_certainty(plan: Plan, whole: Plan, part: Part) -> Plan:
    """Return the plan of a part with what is open in the plan of everything, and without what that explains.

    What the left out tensors would make is not missing, and a rule that matches one of them is not unused.
    """
    taken = part.selection.taken
    moved = {key: step for step in plan.steps for key in step.sources if step.evidence not in _PROVEN}
    elsewhere = {
        target
        for step in whole.steps
        if step.sources and not any(key in taken for key in step.sources)
        for target in step.targets
    }
    problems = plan.problems
    kinds = {key: step.kind for step in whole.steps for key in step.sources}
    ambiguous = {
        **_within(_within(whole.ambiguous, taken), moved),
        **{
            key: tuple(sorted({step.kind, kinds[key]}))
            for key, step in moved.items()
            if kinds.get(key, step.kind) != step.kind
        },
        **problems.ambiguous,
    }
    unexplained = {**_within(_within(whole.unexplained, taken), moved), **problems.unexplained}
    return replace(
        plan,
        problems=replace(
            problems,
            ambiguous=ambiguous,
            unexplained=unexplained,
            missing=tuple(key for key in problems.missing if key not in elsewhere),
            unmatched_rules=tuple(text for text in problems.unmatched_rules if text in whole.unmatched_rules),
        ),
        allowed_missing=(*plan.allowed_missing, *(key for key in problems.missing if key in elsewhere)),
    )
