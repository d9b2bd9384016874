"""Live objects to the neutral layout and back; the packages of the frameworks wrap these functions."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

from bridge_core.conversion.inputs import state_of, template_of
from bridge_core.conversion.options import ConversionOptions
from bridge_core.conversion.planning import complete_plan, joined_plan
from bridge_core.errors import BridgeError, ConversionWarning, UsageError
from bridge_core.io import is_location, shown_path
from bridge_core.messages import for_memory, listed
from bridge_core.plugins import Registry, given_registry
from bridge_core.rules import Allowed, Permissions, Rules, as_rules
from bridge_core.state import FlatState, Key, as_state, join_key

__all__ = ["from_neutral", "to_neutral"]


def to_neutral(
    value: Any,
    *,
    framework: str | None = None,
    module: Any = None,
    rules: Rules = (),
    accept_guesses: bool = False,
    registry: Registry | None = None,
) -> FlatState:
    """Return the neutral state of a live object, or of a flat state in the framework's layout.

    Args:
        value: The object; it is not changed. Its values are read when those of the result are.
        framework: Name of the framework of the object; None for the one that accepts it, or else for the
            only one that the names of its tensors match.
        module: A live module of the same framework, whose types are evidence.
        rules: Rules, or the path of a rule file; they go before all other evidence.
        accept_guesses: Whether names may decide what a layer is, where no evidence does.
        registry: The plugins; None for all that are installed.

    Raises:
        RuleError: A rule is wrong, or matches no key.
        UsageError: The object or the module is of another framework, or its framework is not known.
        UnsupportedFeature: A tensor has a dtype or is of a kind that cannot be converted.
    """
    registry = given_registry(registry)
    if framework is not None:
        registry.framework(framework)
    permissions = Permissions.of(accept_guesses)
    options = ConversionOptions("neutral", model=module, rules=as_rules(rules), permissions=permissions)
    state = state_of(value, registry, what="object", purpose=options)
    if state.layout is None:
        layout = framework or registry.layout_of(state.specs())
        if layout is None:
            names = listed(map(join_key, state), 3) or "none"
            raise _unknown_framework(f"the object from the names of its tensors ({names})", registry)
        state = state.replace(layout=layout)
    if state.layout == "neutral" or framework not in (None, state.layout):
        expected = framework or "a framework's"
        raise UsageError(
            f"expected {expected} weights, got an object that holds {state.layout} weights.",
            hint=f"Use bridge_{state.layout}.to_neutral."
            if state.layout in ("torch", "flax")
            else f"Pass {expected} weights.",
        )
    with _named_in_memory():
        state, plan = complete_plan(state, options, registry)
        return plan.apply(state)


def _framework_of(like: Any, registry: Registry) -> str:
    """Return the framework that accepts a template.

    Raises:
        UsageError: None does.
    """
    framework = None if like is None else registry.framework_of(like)
    if framework is None:
        evidence = "without like=" if like is None else f"from like=, of the type {type(like).__name__}"
        raise _unknown_framework(f"the result {evidence}", registry)
    return framework.name


def _unknown_framework(of_what: str, registry: Registry) -> UsageError:
    names = " or ".join(f'framework="{name}"' for name in registry.frameworks)
    return UsageError(f"cannot determine the framework of {of_what}.", hint=f"Pass {names}.")


@contextlib.contextmanager
def _named_in_memory() -> Iterator[None]:
    """Let errors name the arguments of this module's functions, which are fewer than those of `convert`."""
    try:
        yield
    except BridgeError as err:
        err.message = for_memory(err.message)
        err.args = (err.message, *err.args[1:])
        err.hint = err.hint and for_memory(err.hint)
        raise


def from_neutral(
    neutral: Mapping[Key, Any],
    *,
    framework: str | None = None,
    like: Any = None,
    rules: Rules = (),
    accept_guesses: bool = False,
    allow_missing: Allowed = False,
    allow_unexpected: Allowed = False,
    allow_mismatched: Allowed = False,
    allow_unclaimed: Allowed = False,
    allow_inexact: bool = False,
    registry: Registry | None = None,
) -> Any:
    """Return live tensors of a framework from a neutral state.

    A `ConversionWarning` is issued for each warning that a report would list.

    Args:
        neutral: A neutral state, or a plain mapping with neutral names and axes; it is not changed.
        framework: Name of the framework of the result; None for the one that accepts ``like``.
        like: The structure of the result; it is not changed. Keys that `allow_missing` leaves unfilled get
            the values of ``like``.
        rules: Rules, or the path of a rule file; they go before all other evidence.
        accept_guesses: Whether names may decide what a layer is, where no evidence does.
        allow_missing: Keys of ``like`` that may stay unfilled: True, or patterns.
        allow_unexpected: Neutral keys that may be left out: True, or patterns, which also match the names in
            what the neutral state was made from.
        allow_mismatched: Keys of ``like`` that may stay unfilled where the shapes differ: True, or patterns.
        allow_unclaimed: Neutral keys with a layer's name that no evidence explains, to be copied unchanged:
            True, or patterns.
        allow_inexact: Whether rules may round, and discard what is not a constant, where they do not say so:
            their ``scale``, ``offset`` and ``unpad``.
        registry: The plugins; None for all that are installed.

    Raises:
        MismatchError: Keys are missing or unexpected, or shapes differ.
        AmbiguousLayerError: No evidence decides what some layers are.
        UnclaimedTensorError: Tensors with a layer's name belong to no layer that is known.
        UnsupportedLayerError: The framework has no place for some layers.
        RuleError: A rule is wrong, or matches no key.
        UsageError: The state is not neutral, ``like`` is of another framework, or no framework is known.
    """
    registry = given_registry(registry)
    state = as_state(neutral)
    if state.layout not in (None, "neutral"):
        raise UsageError(
            f"expected a neutral state, got one in the layout {state.layout!r}.",
            hint="Convert it with to_neutral first.",
        )
    if is_location(like):
        owner = framework or "a framework"
        raise UsageError(
            f"expected like= to be a live object of {owner}, got the path {shown_path(like)!r}.",
            hint="Load it with the framework first, or use bridge_core.convert, whose like= may be a path.",
        )
    if framework is None:
        framework = _framework_of(like, registry)
    state = state.replace(layout="neutral")
    permissions = Permissions.of(
        accept_guesses,
        allow_missing,
        allow_unexpected,
        allow_mismatched,
        allow_unclaimed,
        allow_inexact=allow_inexact,
    )
    options = ConversionOptions(framework, like, rules=as_rules(rules), permissions=permissions)
    with _named_in_memory(), template_of(like, framework, registry) as template:
        plan = joined_plan(state, template, options, registry)
        result_state = plan.apply(state)
        for warning in plan.warnings:
            warnings.warn(ConversionWarning(warning.message, code=warning.code), stacklevel=3)
        if template is not None and plan.allowed_missing:
            unfilled = {key: template.tensor(key) for key in plan.allowed_missing}
            result_state = result_state.union(unfilled)
        with registry.foreign_failures("frameworks", framework, f"build {framework} tensors"):
            return registry.framework(framework).build(result_state, like)
