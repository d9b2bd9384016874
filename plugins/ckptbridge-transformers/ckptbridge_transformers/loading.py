"""Weights straight into models of transformers: one pass, no random weights, nothing left out unsaid."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from bridge_core import (
    FlatState,
    Key,
    Mismatch,
    Plan,
    default_registry,
    open_state,
    plan_conversion,
)
from ckptbridge_transformers.buffers import made_by_model
from ckptbridge_transformers.classes import flax_class_of, torch_class_beside
from ckptbridge_transformers.families import rules_for
from ckptbridge_transformers.templates import abstract_flax, flax_template, meta_model
from ckptbridge_transformers.types import with_flax_types

__all__ = ["flax_weights", "Loaded", "torch_weights"]


@dataclass(frozen=True)
class Loaded:
    """Weights for a model, and what did not fit.

    Args:
        weights: For Flax nested dicts of JAX arrays, as ``model.params``; for torch a state dict.
        missing: Keys of the model that the source has nothing for.
        unexpected: Keys of the source that the model has no place for.
        mismatched: Pairs that were left out because their shapes differ.
    """

    weights: Any
    missing: tuple[Key, ...] = ()
    unexpected: tuple[Key, ...] = ()
    mismatched: tuple[Mismatch, ...] = ()


def flax_weights(
    source: Any,
    model: Any,
    *,
    allow_missing: bool = False,
    allow_unexpected: bool = False,
    ignore_mismatched_sizes: bool = False,
) -> Loaded:
    """Return weights for a Flax model; it is not changed, and needs no weights of its own.

    Args:
        source: A file, an index or a folder; a FlatState; a torch model or state dict; a Flax tree.
        model: A `FlaxPreTrainedModel`, e.g. one made with ``_do_init=False``.
        allow_missing: Whether the source may lack some of the model's weights.
        allow_unexpected: Whether it may hold others.
        ignore_mismatched_sizes: Whether weights of another shape are left out.

    Raises:
        MismatchError: Names or shapes differ, and that is not allowed.
        AmbiguousLayerError: No evidence settles what some layers are.
        BadInputError: A file is damaged or unsafe.
    """
    torch_class = torch_class_beside(type(model))
    with _opened(source) as state:
        rules: tuple[Any, ...] = _rules(state, "flax", model)
        template = flax_template(model)
        evidence: Any = template if state.layout == "flax" else None
        if state.layout == "torch" and torch_class is not None and not state.metadata.modules:
            evidence = meta_model(torch_class, model.config)
            rules += tuple(made_by_model(state, evidence))
        plan, loaded = _planned(
            state,
            "flax",
            template,
            evidence,
            rules,
            allow_missing,
            allow_unexpected,
            ignore_mismatched_sizes,
        )
        tree = default_registry().framework("flax").build(plan.apply(state), None)
    return _with_weights(loaded, tree)


def torch_weights(
    source: Any,
    model: Any,
    *,
    allow_missing: bool = False,
    allow_unexpected: bool = False,
    ignore_mismatched_sizes: bool = False,
) -> Loaded:
    """Return a state dict for a torch model; it is not changed, and may be on the meta device.

    Args:
        source: A file, an index or a folder; a FlatState; a Flax model or tree; a torch state dict.
        model: A `PreTrainedModel`.
        allow_missing: Whether the source may lack some of the model's weights.
        allow_unexpected: Whether it may hold others.
        ignore_mismatched_sizes: Whether weights of another shape are left out.

    Raises:
        MismatchError: Names or shapes differ, and that is not allowed.
        AmbiguousLayerError: No evidence settles what some layers are.
        BadInputError: A file is damaged or unsafe.
    """
    torch = default_registry().framework("torch")
    with _opened(source) as state:
        rules: tuple[Any, ...] = _rules(state, "torch", model)
        evidence: Any = None
        if state.layout == "flax":
            flax_class = flax_class_of(type(model))
            if flax_class is not None:
                evidence = flax_template(abstract_flax(flax_class, model.config))
            else:
                evidence = with_flax_types(state, torch.state(model))
        elif state.layout == "torch":
            evidence = model
            rules += tuple(made_by_model(state, model))
        plan, loaded = _planned(
            state,
            "torch",
            model,
            evidence,
            rules,
            allow_missing,
            allow_unexpected,
            ignore_mismatched_sizes,
        )
        weights = torch.build(plan.apply(state), None)
    return _with_weights(loaded, weights)


def _with_weights(loaded: Loaded, weights: Any) -> Loaded:
    return Loaded(weights, loaded.missing, loaded.unexpected, loaded.mismatched)


@contextlib.contextmanager
def _opened(source: Any) -> Iterator[FlatState]:
    """Give the state of a source; a file that is opened here is closed."""
    if isinstance(source, str | os.PathLike):
        with open_state(source) as state:
            yield state
        return
    if isinstance(source, FlatState):
        yield source
        return
    source = getattr(source, "params", source) if hasattr(source, "params_shape_tree") else source
    registry = default_registry()
    framework = registry.framework_of(source)
    yield framework.state(source) if framework is not None else FlatState(source)


def _rules(state: FlatState, to: str, model: Any) -> tuple[Any, ...]:
    """Return the rules of the model's family; they lead from one framework to the other."""
    return () if state.layout == to else rules_for(model.config, type(model).__name__)


def _planned(
    state: FlatState,
    to: str,
    like: Any,
    evidence: Any,
    rules: tuple[Any, ...],
    allow_missing: bool,
    allow_unexpected: bool,
    ignore_mismatched_sizes: bool,
) -> tuple[Plan, Loaded]:
    """Return a plan that can be run, and what it leaves out."""
    strict = plan_conversion(state, to=to, like=like, model=evidence, rules=rules, check=False)
    if strict.ok:
        return strict, Loaded(None)
    plan = plan_conversion(
        state,
        to=to,
        like=like,
        model=evidence,
        rules=rules,
        allow_missing=allow_missing,
        allow_unexpected=allow_unexpected,
        allow_mismatched=ignore_mismatched_sizes,
    )
    return plan, Loaded(None, strict.missing, strict.unexpected, strict.mismatched)
