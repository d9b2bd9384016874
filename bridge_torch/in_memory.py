"""Conversion of modules and state dicts to the neutral form, and back."""

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
        module_or_state_dict: The weights. Their values are read when those of the result are.
        module: The `nn.Module` that the state dict belongs to, whose types are evidence; None for none.
        rules: Rules, or the path of a rule file.
        accept_guesses: Whether names may decide a layer that no evidence decides; by default it stays
            undecided.
        registry: Plugins; None for all that are installed.

    Raises:
        UsageError: The object or the module is not torch's.
        UnsupportedFeature: A tensor is of a dtype or kind that cannot be converted.
        RuleError: A rule does not match the tensors.
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
    allow_inexact: bool = False,
    registry: Registry | None = None,
) -> Any:
    """Return a state dict of new CPU tensors from a neutral state.

    Args:
        neutral: A neutral state, or a plain mapping in neutral names and axes.
        like: An `nn.Module` (it may be on the meta device) or a state dict: the result has the same names,
            shapes and order. None for the names and order of the neutral state.
        rules: Rules, or the path of a rule file.
        accept_guesses: Whether names may decide a layer that no evidence decides.
        allow_missing: Names of ``like`` whose values there are used if the neutral state has none: True for
            all, or patterns.
        allow_unexpected: Neutral names that may be left out: True for all, or patterns.
        allow_mismatched: Names of ``like`` whose values there are used if the shapes differ: True for all,
            or patterns.
        allow_unclaimed: Neutral names of tensors that belong to no layer and are to be copied unchanged: True
            for all, or patterns.
        allow_inexact: Whether rules may round, and discard what is not a constant, where they do not say
            so: their ``scale``, ``offset`` and ``unpad``.
        registry: Plugins; None for all that are installed.

    Raises:
        MismatchError: Names are missing or unexpected, or shapes differ.
        AmbiguousLayerError: No evidence decides what some layers are.
        UnclaimedTensorError: Tensors with names of layers belong to no layer.
        UnsupportedLayerError: torch has no such layer.
        RuleError: A rule does not match the tensors.
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
        allow_inexact=allow_inexact,
        registry=registry,
    )
