"""Loading weights for models of transformers: one pass, no random weights, and a list of what is left out."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from bridge_core import (
    FlatState,
    Key,
    Plan,
    Registry,
    Rule,
    UsageError,
    as_state,
    default_registry,
    open_state,
    plan_conversion,
)
from bridge_core.io import is_location
from bridge_core.plan import Mismatch, PlanWarning
from bridge_core.state import join_key
from ckptbridge_transformers.buffers import made_by_model
from ckptbridge_transformers.classes import flax_class_of, torch_class_beside
from ckptbridge_transformers.families import rules_for
from ckptbridge_transformers.templates import abstract_flax, flax_template, meta_model
from ckptbridge_transformers.types import with_flax_types

__all__ = ["flax_weights", "left_out_text", "live_state", "Loaded", "torch_weights", "unwrapped"]

_WRAPPERS = ("state_dict", "model_state_dict", "model")
"""Names under which training programs save the weights in addition to other things."""


@dataclass(frozen=True)
class Loaded:
    """Weights for a model, and what did not fit.

    Args:
        weights: For Flax nested dicts of JAX arrays, as ``model.params``; for torch a state dict.
        missing: Keys of the model that have no source.
        unexpected: Keys of the source that have no place in the model.
        mismatched: Pairs that were left out because their shapes differ.
        left_out: Names, reasons and bytes of the source's other tensors that are not in the weights: what the
            rules of the model's family leave out, as a table of positions that the other class computes; what
            the model makes by itself; and what is tied to a tensor that is in them.
        unclaimed: Keys of the source that no evidence explains and that were copied unchanged.
        warnings: What may be right and still give other outputs.
    """

    weights: Any
    missing: tuple[Key, ...] = ()
    unexpected: tuple[Key, ...] = ()
    mismatched: tuple[Mismatch, ...] = ()
    left_out: tuple[Mapping[str, Any], ...] = ()
    unclaimed: tuple[Key, ...] = ()
    warnings: tuple[PlanWarning, ...] = ()

    @classmethod
    def of(cls, weights: Any, plan: Plan, strict: Plan) -> Loaded:
        """Return weights with the lists of their plan.

        Args:
            weights: The plan's result.
            plan: The plan that was run.
            strict: The plan without permissions, which lists what did not fit.
        """
        reported = {*strict.unexpected, *(mismatch.source for mismatch in strict.mismatched)}
        return cls(
            weights,
            strict.missing,
            strict.unexpected,
            strict.mismatched,
            tuple(
                {"name": join_key(drop.key), "reason": drop.reason, "bytes": plan.specs[drop.key].nbytes}
                for drop in plan.dropped
                if not drop.kept and drop.key in plan.specs and drop.key not in reported
            ),
            plan.unclaimed,
            plan.warnings,
        )


def flax_weights(
    source: Any,
    model: Any,
    *,
    allow_missing: bool = False,
    allow_unexpected: bool = False,
    ignore_mismatched_sizes: bool = False,
    registry: Registry | None = None,
) -> Loaded:
    """Return weights for a Flax model, which is not changed and needs no weights.

    Args:
        source: A file, an index or a folder; a FlatState; a torch model or state dict; a Flax tree.
        model: A `FlaxPreTrainedModel`, e.g. one made with ``_do_init=False``.
        allow_missing: Whether weights of the model may be missing from the source.
        allow_unexpected: Whether the source may hold other weights, which are left out.
        ignore_mismatched_sizes: Whether weights of another shape are left out.
        registry: Plugins; by default everything installed.

    Raises:
        MismatchError: Names or shapes differ, and that is not allowed.
        AmbiguousLayerError: No evidence decides the kind of some layers.
        SourceNotFound: The file or folder does not exist.
        BadInputError: A file is damaged or unsafe.
    """
    registry = default_registry() if registry is None else registry
    torch_class = torch_class_beside(type(model))
    allowed = _allowed(allow_missing, allow_unexpected, ignore_mismatched_sizes)
    with _opened(source, registry) as state:
        rules = _rules(state, "flax", model)
        template = flax_template(model)
        evidence: Any = template if state.layout == "flax" else None
        if state.layout == "torch" and torch_class is not None and not state.metadata.modules:
            evidence = meta_model(torch_class, model.config)
            rules += tuple(made_by_model(state, evidence))
        plan, strict = _planned(state, "flax", template, evidence, rules, allowed, registry)
        tree = registry.framework("flax").build(plan.apply(state), None)
    return Loaded.of(tree, plan, strict)


def torch_weights(
    source: Any,
    model: Any,
    *,
    allow_missing: bool = False,
    allow_unexpected: bool = False,
    ignore_mismatched_sizes: bool = False,
    registry: Registry | None = None,
) -> Loaded:
    """Return a state dict for a torch model.

    The model is not changed, and may be on the meta device.

    Args:
        source: A file, an index or a folder; a FlatState; a Flax model or tree; a torch state dict.
        model: A `PreTrainedModel`.
        allow_missing: Whether weights of the model may be missing from the source.
        allow_unexpected: Whether the source may hold other weights, which are left out.
        ignore_mismatched_sizes: Whether weights of another shape are left out.
        registry: Plugins; by default everything installed.

    Raises:
        MismatchError: Names or shapes differ, and that is not allowed.
        AmbiguousLayerError: No evidence decides the kind of some layers.
        SourceNotFound: The file or folder does not exist.
        BadInputError: A file is damaged or unsafe.
    """
    registry = default_registry() if registry is None else registry
    torch = registry.framework("torch")
    allowed = _allowed(allow_missing, allow_unexpected, ignore_mismatched_sizes)
    with _opened(source, registry) as state:
        rules = _rules(state, "torch", model)
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
        plan, strict = _planned(state, "torch", model, evidence, rules, allowed, registry)
        weights = torch.build(plan.apply(state), None)
    return Loaded.of(weights, plan, strict)


def left_out_text(loaded: Loaded) -> str:
    """Return what was left out by name, with the reasons, for a log."""
    return "; ".join(f"{entry['name']} ({entry['reason']})" for entry in loaded.left_out)


@contextlib.contextmanager
def _opened(source: Any, registry: Registry) -> Iterator[FlatState]:
    """Yield the state of a source; a file is closed afterwards."""
    if is_location(source):
        with open_state(source, registry=registry) as state:
            yield state
        return
    if isinstance(source, FlatState):
        yield source
        return
    yield live_state(source, registry=registry)


def live_state(source: Any, *, registry: Registry | None = None) -> FlatState:
    """Return the state of a live object: a model of either framework, a state dict, or a tree.

    A state dict may be inside of what a training program saved, such as ``{"state_dict": ...}``.

    Args:
        source: The object.
        registry: Plugins; by default everything installed.

    Raises:
        UsageError: The object is none of these, or a Flax model without weights.
    """
    registry = default_registry() if registry is None else registry
    if hasattr(source, "params_shape_tree"):
        if not getattr(source, "_is_initialized", True):
            raise UsageError(
                f"the {type(source).__name__} holds no weights: it was made with _do_init=False.",
                hint="Pass its params in place of the model.",
            )
        source = source.params
    framework = registry.framework_of(source)
    if framework is None and isinstance(source, Mapping):
        source = unwrapped(source)
        framework = registry.framework_of(source)
    if framework is not None:
        return framework.state(source)
    if isinstance(source, Mapping):
        state = as_state(source)
        return state if state.layout else state.replace(layout=registry.layout_of(state.specs()))
    raise UsageError(
        f"expected a path, a state dict, a tree or a model as the source, got {type(source).__name__}."
    )


def unwrapped(saved: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the state dict inside of what a training program saved, or the same if it is one."""
    for name in _WRAPPERS:
        inner = saved.get(name)
        if isinstance(inner, Mapping):
            return unwrapped(inner)
    return saved


def _rules(state: FlatState, to: str, model: Any) -> tuple[Rule, ...]:
    """Return the rules of the model's family; none if the state is in the model's layout already."""
    return () if state.layout == to else rules_for(model.config, type(model).__name__)


def _planned(
    state: FlatState,
    to: str,
    like: Any,
    evidence: Any,
    rules: tuple[Rule, ...],
    allowed: Mapping[str, Any],
    registry: Registry,
) -> tuple[Plan, Plan]:
    """Return a plan that can be run, and the one without permissions, which lists what does not fit."""
    asked = {"to": to, "like": like, "model": evidence, "rules": rules, "registry": registry}
    strict = plan_conversion(state, **asked, check=False)
    if strict.ok:
        return strict, strict
    return plan_conversion(state, **asked, **allowed), strict


def _allowed(missing: bool, unexpected: bool, mismatched: bool) -> Mapping[str, Any]:
    return {"allow_missing": missing, "allow_unexpected": unexpected, "allow_mismatched": mismatched}
