"""Live objects to the neutral form and back: what the packages of the frameworks wrap."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

from bridge_core.conversion.inputs import state_of, template_of
from bridge_core.conversion.options import ConversionOptions
from bridge_core.conversion.planning import complete_plan, joined_plan
from bridge_core.errors import ConversionWarning, UsageError
from bridge_core.plugins import Registry, default_registry
from bridge_core.rules import Allowed, Permissions, Rules, as_rules
from bridge_core.state import FlatState, Key, as_state

__all__ = ["from_neutral", "to_neutral"]


def to_neutral(
    value: Any,
    *,
    framework: str,
    module: Any = None,
    rules: Rules = (),
    accept_guesses: bool = False,
    registry: Registry | None = None,
) -> FlatState:
    """Return the neutral state of a live object, or of a flat state in the framework's layout.

    Args:
        value: The object; it is not changed, and its values are read when the result's are.
        framework: Whose object it is.
        module: A live module of the same framework, whose types are evidence.
        rules: What the caller knows better: rules, or the path of a rule file.
        accept_guesses: Whether names may decide what no evidence does.
        registry: Plugins; by default everything installed.

    Raises:
        UsageError: The object or the module is not the framework's.
        UnsupportedFeature: A tensor is of a dtype or kind that cannot be carried.
    """
    registry = registry or default_registry()
    permissions = Permissions(accept_guesses)
    options = ConversionOptions("neutral", model=module, rules=as_rules(rules), permissions=permissions)
    state = state_of(value, registry, what="object", purpose=options)
    if state.layout is None:
        state = state.replace(layout=framework)
    if state.layout != framework:
        raise UsageError(f"the object is {state.layout}; {framework} was expected.")
    state, plan = complete_plan(state, options, registry)
    return plan.apply(state)


def from_neutral(
    neutral: Mapping[Key, Any],
    *,
    framework: str,
    like: Any = None,
    rules: Rules = (),
    accept_guesses: bool = False,
    allow_missing: Allowed = False,
    allow_unexpected: Allowed = False,
    allow_mismatched: Allowed = False,
    allow_unclaimed: Allowed = False,
    registry: Registry | None = None,
) -> Any:
    """Return live tensors of a framework from a neutral state.

    Args:
        neutral: A neutral state, or a plain mapping in neutral names and axes.
        framework: Whose tensors to make.
        like: The structure to fill; it is not changed. What `allow_missing` leaves unfilled keeps the
            values it has there.
        rules: What the caller knows better: rules, or the path of a rule file.
        accept_guesses: Whether names may decide what no evidence does.
        allow_missing: Keys of ``like`` that may stay unfilled: True, or patterns.
        allow_unexpected: Neutral keys that may be left out: True, or patterns, which also match the names in
            what the neutral state was made from.
        allow_mismatched: Keys of ``like`` that may stay unfilled where the shapes differ: True, or patterns.
        allow_unclaimed: Neutral keys that no evidence explains and whose names are a layer's, which are to be
            copied unchanged: True, or patterns.
        registry: Plugins; by default everything installed.

    Warns with a `ConversionWarning` of what a report would list as warnings.

    Raises:
        MismatchError: Keys are missing or unexpected, or shapes differ.
        AmbiguousLayerError: No evidence decides what some layers are.
        UsageError: The state is not neutral, or ``like`` is not the framework's.
    """
    registry = registry or default_registry()
    state = as_state(neutral)
    if state.layout not in (None, "neutral"):
        raise UsageError(
            f"the state is in the layout of {state.layout}; a neutral one was expected.",
            hint="Take it through to_neutral first.",
        )
    state = state.replace(layout="neutral")
    permissions = Permissions.of(
        accept_guesses, allow_missing, allow_unexpected, allow_mismatched, allow_unclaimed
    )
    options = ConversionOptions(framework, like, rules=as_rules(rules), permissions=permissions)
    with template_of(like, framework, registry) as template:
        plan = joined_plan(state, template, options, registry)
        made = plan.apply(state)
        for warning in plan.warnings:
            warnings.warn(ConversionWarning(warning.message, code=warning.code), stacklevel=3)
        if template is not None and plan.allowed_missing:
            made = made.union({key: template.tensor(key) for key in plan.allowed_missing})
        with registry.foreign_failures("frameworks", framework, f"build {framework} tensors"):
            return registry.framework(framework).build(made, like)
