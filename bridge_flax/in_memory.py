"""Linen trees and NNX modules and states to the neutral form, and back; templates of models."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from bridge_core import (
    FlatState,
    Key,
    Registry,
    from_neutral as core_from_neutral,
    to_neutral as core_to_neutral,
)
from bridge_core.rules import Pattern, Rules
from bridge_flax.framework import load_trees
from bridge_flax.templates import Template

__all__ = ["from_neutral", "template", "to_neutral"]


def to_neutral(
    variables_or_nnx: Any,
    *,
    module: Any = None,
    rules: Rules = (),
    accept_guesses: bool = False,
    registry: Registry | None = None,
) -> FlatState:
    """Return the neutral state of a Linen tree, an `nnx.Module` or an `nnx.State`.

    The object is not changed. Of a train state (a `flax.training` `TrainState`, a dict with the state of an
    optimizer, an `nnx.ModelAndOptimizer`) it is that of the weights; ``metadata.left_out`` of the result
    lists the rest.

    Args:
        variables_or_nnx: The weights. Values are read when those of the result are.
        module: An NNX module, or a `template`, as evidence of layer types.
        rules: Rules, or the path of a rule file.
        accept_guesses: Whether names may decide the layers that no evidence decides; by default they
            stay undecided.
        registry: Plugins; None for all that are installed.

    Raises:
        UsageError: The object or the module is not Flax's.
        UnsupportedFeature: A tensor is of a dtype or kind that cannot be converted.
        RuleError: A rule does not match the tensors.
    """
    return core_to_neutral(
        variables_or_nnx,
        framework="flax",
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
    """Return a tree of new JAX arrays from a neutral state.

    Args:
        neutral: A neutral state, or a plain mapping in neutral names and axes.
        like: A Linen tree, an NNX module or state (abstract is enough), a train state, or a template; the
            result is of the same kind and structure. Of a train state the weights are replaced, and the rest
            stays unchanged. None gives nested dicts.
        rules: Rules, or the path of a rule file.
        accept_guesses: Whether names may decide the layers that no evidence decides.
        allow_missing: Names of ``like`` that may stay without a source, with the values that ``like`` has:
            True for all, or patterns.
        allow_unexpected: Neutral names that may be left out: True for all, or patterns.
        allow_mismatched: Names of ``like`` that may have another shape than their source, and then stay
            unchanged: True for all, or patterns.
        allow_unclaimed: Neutral names that no evidence explains and that are copied unchanged: True for
            all, or patterns.
        allow_inexact: Whether rules may round, and discard what is not a constant, where they do not say
            so: their ``scale``, ``offset`` and ``unpad``.
        registry: Plugins; None for all that are installed.

    Raises:
        MismatchError: Names are missing or unexpected, or shapes differ.
        AmbiguousLayerError: No evidence decides what some layers are.
        UnclaimedTensorError: Tensors with names of layers belong to no layer.
        UnsupportedLayerError: Flax has no such layer.
        RuleError: A rule does not match the tensors.
        UsageError: The state is not neutral, or ``like`` is not Flax's.
    """
    return core_from_neutral(
        neutral,
        framework="flax",
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


def template(module: Any | Callable[..., Any], *args: Any, **kwargs: Any) -> Template:
    """Return a model's names, shapes, dtypes and layer types; no weights are made.

    Args:
        module: A `flax.linen.Module`; an `nnx.Module`, concrete or abstract; a class or function that
            returns an `nnx.Module`; or a function that returns what a Linen module's ``init`` returned, or
            only its ``params``.
        *args: For Linen, what ``init`` takes after the random keys: arrays or `jax.ShapeDtypeStruct`.
            For a class or function, its own arguments.
        **kwargs: Likewise. For Linen ``rngs`` and ``method`` mean what they mean to ``init``; a class or
            function that requires ``rngs`` gets ``nnx.Rngs(0)`` if it is not passed.

    Raises:
        UsageError: ``module`` is none of these, or an NNX module that is built already and arguments were
            passed.

    ``template(model, jax.ShapeDtypeStruct((1, 28, 28, 1), "float32"))`` serves as ``like=`` and as
    ``module=`` of the conversions.
    """
    result: Template = load_trees().make_template(module, *args, **kwargs)
    return result
