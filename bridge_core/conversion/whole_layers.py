"""Refuses conversions of only a part of a quantised layer or an adapter, and warns of allowed ones."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
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

_LEFT_OUT = "Since these tensors are left out, the result's weights are not those of the model: {}"
_NOT_COMPUTED = "the target does not compute the model's weights from them"
_COPIED = f"These tensors are copied unchanged, and {_NOT_COMPUTED}: {{}}"
_GUESSED = f"These tensors are guessed to be layers, and {_NOT_COMPUTED}: {{}}"

_UNNAMED_WAY = ". They are left out only where a pattern or a rule names them, never by a wildcard"

_PARTS_OF = {"quantised": "a quantised layer", "adapter": "an adapter"}

_UNNAMED = "\0"
"""A part of a name that only a wildcard matches."""


def with_causes(
    plan: Plan,
    state: FlatState,
    permissions: Permissions,
    spellings: Callable[[Key], tuple[Key, ...]] = lambda key: (key,),
) -> Plan:
    """Return a plan that names quantised layers and adapters, where problems or losses come from them.

    The tensors of a quantised layer and the parts of an adapter are copied to another framework only if the
    caller allows that. While other tensors that need them are converted, they are left out only if a pattern
    or a rule names them; `True` and wildcards do not. A warning names what is copied or left out.

    Args:
        plan: A plan with its problems.
        state: Its source.
        permissions: What the caller allows.
        spellings: Gives the names that a caller may write for a source key.
    """
    from bridge_core.plan import causes_of, may_show_cause

    dropped = [drop for drop in plan.left_out if may_show_cause(drop.key)]
    crosses = "neutral" != plan.target_layout != plan.source_layout
    copied = [key for key in plan.unclaimed if may_show_cause(key)] if crosses else []
    guessed = [key for key in _guessed(plan) if may_show_cause(key)] if crosses else []
    concerned = _concerned(plan)
    if not (dropped or copied or guessed or concerned or plan.rivals):
        return plan
    causes = causes_of(plan.specs)
    if not causes:
        return plan
    moved = {key for step in plan.steps if step.targets for key in step.sources}
    refused = _left_out_unasked(plan, dropped, causes, permissions, moved, spellings)
    unasked = _copied_unasked(plan, copied, causes, permissions, spellings)
    lost = [drop.key for drop in dropped if drop not in refused]
    copied = [key for key in copied if key not in plan.unexplained and key not in unasked]
    warnings = (
        *_warnings(plan, causes, [key for key in lost if _is_loss(key, causes, moved, plan)], _LEFT_OUT),
        *_warnings(plan, causes, copied, _COPIED),
        *_warnings(plan, causes, guessed, _GUESSED),
    )
    unexplained = {**plan.unexplained, **unasked}
    plan = replace(plan, problems=replace(plan.problems, unexplained=unexplained)) if unasked else plan
    plan = _explained(plan, state, causes, refused, concerned | unasked.keys())
    if not warnings:
        return plan
    messages = (warning.message for warning in warnings)
    return replace(plan, warnings=(*plan.warnings, *warnings), notes=(*plan.notes, *messages))


def cast_keeping_scales(plan: Plan, dtypes: Mapping[Key, Any]) -> Plan:
    """Return a plan with its floating-point targets cast, except codes and scales of quantised layers.

    Cast codes would no longer fit their scales, and cast scales would lose precision.

    Args:
        plan: A plan that can be run.
        dtypes: Target key -> dtype; other targets are not cast.
    """
    from bridge_core.plan import causes_of, may_show_cause

    if not any(map(may_show_cause, plan.specs)):
        return plan.cast(dtypes)
    causes = [cause for cause in causes_of(plan.specs) if cause.code == "quantised"]
    stated = {key: [dtypes.get(t) for t in step.targets] for step in plan.steps for key in step.sources}
    keep = {
        key
        for cause in causes
        for key in (*cause.keys, *cause.codes)
        if is_floating(plan.specs[key].dtype)
        and any(dtype not in (None, plan.specs[key].dtype) for dtype in stated.get(key, ()))
    }
    if not keep:
        return plan.cast(dtypes)
    whats = ", ".join(cause.what for cause in causes)
    note = f"not cast, since the source is {whats}: {listed(map(join_key, sorted(keep)))}"
    cast_plan = plan.cast(dtypes, keep)
    return replace(cast_plan, notes=(*cast_plan.notes, note))


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


def _guessed(plan: Plan) -> Iterator[Key]:
    """Yield the source keys of layers that only names decided."""
    return (key for step in plan.steps if step.evidence == "guess" for key in step.sources)


def _left_out_unasked(
    plan: Plan,
    dropped: Iterable[Dropped],
    causes: Collection[Cause],
    permissions: Permissions,
    moved: Collection[Key],
    spellings: Callable[[Key], tuple[Key, ...]],
) -> tuple[Dropped, ...]:
    """Return the drops that are not allowed: converted tensors need them, and no pattern names them."""
    strict = [cause for cause in causes if cause.code != "scaled"]
    allowed = [
        drop
        for drop in dropped
        if drop.reason == "allowed as unexpected" and _is_loss(drop.key, strict, moved, plan)
    ]
    # A pattern for a part of the model that is not converted at all is specific enough.
    names = {name for key in moved for name in spellings(key)} if allowed else ()
    narrow = [p for p in permissions.allow_unexpected if allowed and not any(map(p.match, names))]
    return tuple(
        drop
        for drop in allowed
        if not (
            _is_named(spellings(drop.key), permissions)
            or any(p.match(name) for p in narrow for name in spellings(drop.key))
        )
    )


def _copied_unasked(
    plan: Plan,
    copied: Iterable[Key],
    causes: Collection[Cause],
    permissions: Permissions,
    spellings: Callable[[Key], tuple[Key, ...]],
) -> dict[Key, str]:
    """Return the copies of parts of quantised layers and adapters that are not allowed, with the reason."""
    parts = {key: cause for cause in causes if cause.code != "scaled" for key in (*cause.keys, *cause.codes)}
    special_keys = [key for key in copied if key in parts and key not in plan.unexplained]
    if not special_keys:
        return {}
    targets = {key: step.targets for step in plan.steps for key in step.sources}
    return {
        key: f"it is one of the tensors of {_PARTS_OF[parts[key].code]}"
        for key in special_keys
        if not permissions.may_copy(*spellings(key), plan.source_names.get(key, key), *targets.get(key, ()))
    }


def _explained(
    plan: Plan, state: FlatState, causes: Iterable[Cause], refused: tuple[Dropped, ...], concerned: set[Key]
) -> Plan:
    """Return the plan with the causes of its problems, and with drops that are refused among them."""
    refused_keys = {drop.key for drop in refused}
    concerned |= refused_keys
    causes = [
        replace(cause, way=cause.way + _UNNAMED_WAY) if refused_keys.intersection(cause.keys) else cause
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


def _is_loss(key: Key, causes: Iterable[Cause], moved: Collection[Key], plan: Plan) -> bool:
    """Return whether a tensor that is converted, or stays unfilled, needs one that is left out.

    The base of an adapter may have any path, and so may the target of a layer of which nothing is moved.
    """
    for cause in causes:
        if key in cause.keys:
            own = set(cause.keys)
            anywhere = cause.code == "adapter" or bool(plan.allowed_missing)
            return any(other not in own and (anywhere or cause.holds(other)) for other in moved)
    return False


def _is_named(names: Iterable[Key], permissions: Permissions) -> bool:
    """Return whether a pattern that allows to leave a tensor out names the part that marks it as special."""
    from bridge_core.plan import may_show_cause

    blank = (tuple(_UNNAMED if may_show_cause((part,)) else part for part in name) for name in names)
    return not permissions.may_leave_out(*blank)


def _warnings(
    plan: Plan, causes: Iterable[Cause], keys: Collection[Key], meaning: str
) -> Iterator[PlanWarning]:
    """Yield a warning for each cause that some keys show."""
    from bridge_core.plan import name_with_source

    for cause in causes:
        shown = {*cause.keys, *cause.codes}
        concerned = tuple(key for key in keys if key in shown)
        if concerned:
            names = listed(name_with_source(key, plan.source_names) for key in concerned)
            message = f"{cause.statement}. {meaning.format(names)}. To have them, {cause.way}."
            yield PlanWarning(cause.code, message, concerned)


def settings_beside(state: FlatState, name: str) -> Mapping[str, Any] | None:
    """Return a config next to the weights; None if there is none, or it is damaged."""
    config = config_beside(state, name=name)
    try:
        return dict(config) if config is not None else None
    except BridgeError:
        return None
