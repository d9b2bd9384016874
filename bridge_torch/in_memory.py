"""Modules and state dicts to the neutral form, and back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from bridge_core import (
    FlatState,
    Key,
    Registry,
    from_neutral as core_from_neutral,
    to_neutral as core_to_neutral,
)
from bridge_core.rules import Pattern, Rules

__all__ = ["from_neutral", "to_neutral"]


def to_neutral(
    module_or_state_dict: Any,
    *,
    module: Any = None,
    rules: Rules = (),
    accept_guesses: bool = False,
    registry: Registry | None = None,
) -> FlatState:
    """Return the neutral state of an `nn.Module` or a state dict; it is not changed.

    Args:
        module_or_state_dict: The weights. Values are read when the result's are.
        module: The module that the state dict belongs to, as evidence.
        rules: What the caller knows better.
        accept_guesses: Whether names may settle what no evidence does; else it stays undecided.
        registry: Plugins; by default everything installed.

    Raises:
        UsageError: The object or the module is not torch's.
        UnsupportedFeature: A tensor is of a dtype or kind that cannot be carried.
    """
    return core_to_neutral(
        module_or_state_dict,
        framework="torch",
        module=module,
        rules=rules,
        accept_guesses=accept_guesses,
        registry=registry,
    )


def from_neutral(
    neutral: Mapping[Key, Any],
    *,
    like: Any = None,
    rules: Rules = (),
    accept_guesses: bool = False,
    allow_missing: bool | Iterable[str | Pattern] = False,
    allow_unexpected: bool | Iterable[str | Pattern] = False,
    allow_mismatched: bool | Iterable[str | Pattern] = False,
    allow_unclaimed: bool | Iterable[str | Pattern] = False,
    registry: Registry | None = None,
) -> Any:
    """Return a state dict from a neutral state.

    Args:
        neutral: A neutral state, or a plain mapping in neutral names and axes.
        like: A Module (the meta device is enough) or a state dict, whose names, shapes and order the
            result has; None writes what is decided.
        rules: What the caller knows better.
        accept_guesses: Whether names may settle what no evidence does.
        allow_missing: Names of ``like`` that may stay as they are there: True, or patterns.
        allow_unexpected: Neutral names that may be left out: True, or patterns.
        allow_mismatched: Names of ``like`` that may stay as they are there where the shapes differ.
        allow_unclaimed: Neutral names that no evidence explains and that are to be copied unchanged.
        registry: Plugins; by default everything installed.

    Raises:
        MismatchError: Names are missing or unexpected, or shapes differ.
        AmbiguousLayerError: No evidence settles what some layers are.
        UsageError: The state is not neutral, or ``like`` is not torch's.
    """
    return core_from_neutral(
        neutral,
        framework="torch",
        like=like,
        rules=rules,
        accept_guesses=accept_guesses,
        allow_missing=allow_missing,
        allow_unexpected=allow_unexpected,
        allow_mismatched=allow_mismatched,
        allow_unclaimed=allow_unclaimed,
        registry=registry,
    )
