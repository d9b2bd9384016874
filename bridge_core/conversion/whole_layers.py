"""Keeps quantised layers and adapters whole: what says so in refusals, warnings and casts."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from bridge_core.checkpoint import config_beside
from bridge_core.errors import BridgeError
from bridge_core.messages import listed
from bridge_core.plan import Dropped, Plan, PlanWarning
from bridge_core.state import FlatState, Key, is_floating, join_key

if TYPE_CHECKING:
    from bridge_core.plan import Cause
    from bridge_core.rules import Permissions

__all__ = ["cast_keeping_scales", "settings_beside", "with_causes"]

_LEFT_OUT = "Left out are {}; the result's weights are not those of the model"
_COPIED = (
    "Copied unchanged are {}, and what is next to them gets the target's names and axes; nothing makes the "
    "model's weights of both there"
)

_UNNAMED_WAY = ". They are left out only where a pattern or a rule names them, never by a wildcard"

_UNNAMED = "\0"
"""A part of a name that only a wildcard matches."""


def with_causes(plan: Plan, state: FlatState, permissions: Permissions) -> Plan:
    """Return a plan that says what its source is, where problems or losses come from that.

    Scales, zero points and the parts of an adapter may be left out next to the weights that need them only
    where a pattern or a rule names them; then a warning names them. `True` and wildcards do not.

    Args:
        plan: A plan with its problems.
        state: Its source.
        permissions: What the caller allows.
    """
    from bridge_core.plan import causes_of, may_show_cause

    dropped = [drop for drop in plan.left_out if may_show_cause(drop.key)]
    crosses = "neutral" != plan.target_layout != plan.source_layout
    copied = [key for key in plan.unclaimed if may_show_cause(key)] if crosses else []
    concerned = _concerned(plan)
    if not (dropped or copied or concerned or plan.rivals):
        return plan
    causes = causes_of(plan.specs)
    if not causes:
        return plan
    moved = {key for step in plan.steps if step.targets for key in step.sources}
    refused = tuple(
        drop
        for drop in dropped
        if drop.reason == "allowed as unexpected"
        and not _is_named(drop.key, permissions)
        and any(_needs(cause, drop.key, moved) for cause in causes if cause.code != "scaled")
    )
    lost = [drop.key for drop in dropped if drop not in refused]
    warnings = (
        *_warnings(causes, lost, moved, _LEFT_OUT),
        *_warnings(causes, [key for key in copied if key not in plan.unexplained], moved, _COPIED),
    )
    plan = _explained(plan, state, causes, refused, concerned)
    if not warnings:
        return plan
    messages = (warning.message for warning in warnings)
    return replace(plan, warnings=(*plan.warnings, *warnings), notes=(*plan.notes, *messages))


def cast_keeping_scales(plan: Plan, dtype: Any) -> Plan:
    """Return a plan with its floating-point targets cast, but for codes and scales of quantised layers.

    A cast of codes would give numbers that no scale fits, and one of scales would lose their precision.

    Args:
        plan: A plan that can be run.
        dtype: The dtype.
    """
    from bridge_core.plan import causes_of, may_show_cause

    if not any(map(may_show_cause, plan.specs)):
        return plan.cast(dtype)
    causes = [cause for cause in causes_of(plan.specs) if cause.code == "quantised"]
    keep = {
        key
        for cause in causes
        for key in (*cause.keys, *cause.codes)
        if is_floating(plan.specs[key].dtype) and plan.specs[key].dtype != dtype
    }
    if not keep:
        return plan.cast(dtype)
    whats = ", ".join(cause.what for cause in causes)
    note = f"not cast, since the source is {whats}: {listed(map(join_key, sorted(keep)))}"
    made = plan.cast(dtype, keep)
    return replace(made, notes=(*made.notes, note))


def _concerned(plan: Plan) -> set[Key]:
    """Return the source keys that the problems are about."""
    problems = plan.problems
    return {
        *problems.unexpected,
        *(mismatch.source for mismatch in problems.mismatched),
        *problems.ambiguous,
        *problems.unsupported,
        *problems.unexplained,
    }


def _explained(
    plan: Plan, state: FlatState, causes: Iterable[Cause], refused: tuple[Dropped, ...], concerned: set[Key]
) -> Plan:
    """Return the plan with the causes of its problems, and with drops that are refused among them."""
    kept = {drop.key for drop in refused}
    concerned |= kept
    causes = [
        replace(cause, way=cause.way + _UNNAMED_WAY) if kept.intersection(cause.keys) else cause
        for cause in causes
        if plan.rivals or not concerned.isdisjoint((*cause.keys, *cause.codes))
    ]
    if not causes:
        return plan
    config, adapter = settings_beside(state, "config.json"), settings_beside(state, "adapter_config.json")
    problems = replace(
        plan.problems,
        unexpected=(*plan.problems.unexpected, *(drop.key for drop in refused)),
        causes=tuple(cause.described(config, adapter) for cause in causes),
    )
    dropped = tuple(drop for drop in plan.dropped if drop not in refused)
    return replace(plan, dropped=dropped, problems=problems)


def _needs(cause: Cause, key: Key, moved: Collection[Key]) -> bool:
    """Return whether tensors that are converted mean nothing without a key."""
    if key not in cause.keys:
        return False
    own = set(cause.keys)
    return any(other not in own and cause.holds(other) for other in moved)


def _is_named(key: Key, permissions: Permissions) -> bool:
    """Return whether a pattern that allows to leave a tensor out names what is special about it."""
    from bridge_core.plan import may_show_cause

    special = [part for part in key if may_show_cause((part,))]
    blank = tuple(_UNNAMED if part in special else part for part in key)
    return not permissions.may_leave_out(blank)


def _warnings(
    causes: Iterable[Cause], keys: Collection[Key], moved: Collection[Key], meaning: str
) -> Iterator[PlanWarning]:
    """Yield a warning for each cause that some keys show, next to tensors that need them."""
    for cause in causes:
        concerned = tuple(key for key in keys if _needs(cause, key, moved))
        if concerned:
            names = listed(map(join_key, concerned))
            message = f"{cause.statement}. {meaning.format(names)}. To have them, {cause.way}."
            yield PlanWarning(cause.code, message, concerned)


def settings_beside(state: FlatState, name: str) -> Mapping[str, Any] | None:
    """Return a file of settings next to the weights; what is damaged says nothing about a cause."""
    config = config_beside(state, name=name)
    try:
        return dict(config) if config is not None else None
    except BridgeError:
        return None
