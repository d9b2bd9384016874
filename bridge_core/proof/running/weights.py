"""The weights of both models of a proof: values for the source, converted by the real path for the target."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bridge_core.conversion import plan_conversion, state_of
from bridge_core.errors import MismatchError
from bridge_core.messages import listed
from bridge_core.plan import Plan
from bridge_core.plugins import Registry
from bridge_core.proof.running.models import Side
from bridge_core.proof.running.random_values import (
    constant_keys,
    has_values,
    random_array,
    randomised,
    with_ties,
)
from bridge_core.state import ArrayTensor, FlatState, Key, Tensor, is_floating, join_key
from bridge_core.transfer import load_values

__all__ = ["Converted", "checkpoint_values", "converted_weights", "links", "source_values", "stacked_keys"]


@dataclass(frozen=True, eq=False)
class Converted:
    """The target's weights as the conversion makes them of the source's.

    Args:
        plan: The plan from the source's weights to the target's.
        source: The source's weights, values in memory.
        target: The target's weights, with every key that its model has.
        notes: What a reader should know.
    """

    plan: Plan
    source: FlatState
    target: FlatState
    notes: tuple[str, ...] = ()


def source_values(
    side: Side, registry: Registry, *, checkpoint: Any = None, seed: int = 0, **opening: Any
) -> tuple[FlatState, tuple[str, ...]]:
    """Return the source's weights with the values of a proof, and notes about them.

    Args:
        side: The source's model.
        registry: The plugins.
        checkpoint: What holds the values; None for random ones.
        seed: For random values.
        opening: ``entry`` and ``step`` of the checkpoint.

    Raises:
        MismatchError: The checkpoint is not one of this model.
    """
    if checkpoint is None:
        made = randomised(side, registry, seed=seed)
        return made.state, made.notes
    return checkpoint_values(side, registry, checkpoint, seed=seed, **opening)


def checkpoint_values(
    side: Side, registry: Registry, checkpoint: Any, *, seed: int = 0, **opening: Any
) -> tuple[FlatState, tuple[str, ...]]:
    """Return a model's weights with the values of a checkpoint; prefixes of names may differ.

    Constants that the checkpoint does not hold keep the model's values.

    Args:
        side: The model.
        registry: The plugins.
        checkpoint: A path, a state, a mapping or a live object.
        seed: For nothing but constants without any value.
        opening: ``entry`` and ``step`` of the checkpoint.

    Raises:
        MismatchError: The checkpoint is not one of this model.
    """
    state = state_of(checkpoint, registry, what="checkpoint", **opening)
    try:
        if state.layout is None:
            state = state.replace(layout=side.layout)
        free = constant_keys(side)
        free |= {key for key, spec in side.weights.specs().items() if not is_floating(spec.dtype)}
        plan = plan_conversion(
            state,
            to=side.layout,
            like=side.weights,
            recipe="none",
            allow_missing=[join_key(key) for key in free] or (),
            allow_unexpected=(),
            registry=registry,
        )
        values = load_values(plan.apply(state), shared=True)
    finally:
        state.close()
    filled, notes = _completed(values, plan, side, "source", seed)
    return filled, tuple(notes)


def converted_weights(
    values: FlatState, target: Side, registry: Registry, *, seed: int = 0, run: bool = True, **asked: Any
) -> Converted:
    """Return the target's weights, made by the conversion that `bridge_core.convert` runs.

    Args:
        values: The source's weights.
        target: The target's model.
        registry: The plugins.
        seed: For tensors that the plan leaves to a model without values.
        run: Whether values are needed; if not, the target has its own.
        asked: Options of `bridge_core.plan_conversion`: ``rules``, ``recipe``, ``allow_*``.

    Raises:
        ConversionError: As `bridge_core.plan_conversion`.
    """
    plan = plan_conversion(values, to=target.layout, like=target.weights, registry=registry, **asked)
    if not run:
        return Converted(plan, values, target.weights, plan.notes)
    made = load_values(plan.apply(values), shared=True)
    filled, notes = _completed(made, plan, target, "target", seed)
    notes += plan.notes
    return Converted(plan, values, filled, tuple(dict.fromkeys(notes)))


def _completed(made: FlatState, plan: Plan, side: Side, what: str, seed: int) -> tuple[FlatState, list[str]]:
    """Return converted weights with every key of the model, and notes about those that no source filled."""
    weights = side.weights
    tensors: dict[Key, Tensor] = {}
    own: list[str] = []
    random: list[str] = []
    absent: list[Key] = []
    for key, tensor in weights.tensors().items():
        if key in made:
            tensors[key] = made.tensor(key)
        elif has_values(weights, key):
            tensors[key] = ArrayTensor(weights.read(key))
            own.append(join_key(key))
        elif is_floating(tensor.spec.dtype):
            tensors[key] = ArrayTensor(random_array(key, tensor.spec, None, seed))
            random.append(join_key(key))
        else:
            absent.append(key)
    if absent:
        raise MismatchError(
            f"the {what} model has no values for {listed(map(join_key, absent))}, and nothing fills them.",
            missing=tuple(map(join_key, absent)),
        )
    tensors = with_ties(weights, tensors)
    notes = []
    if own:
        notes.append(f"Left to the {what} model, with its own values: {listed(own)}.")
    if random:
        notes.append(f"Left to the {what} model, which has no values; they are random: {listed(random)}.")
    return weights.replace(tensors=tensors, metadata=weights.metadata), notes


def stacked_keys(plan: Plan) -> tuple[frozenset[Key], frozenset[Key]]:
    """Return the keys of each side that hold several tensors of the other."""
    sources = (key for step in plan.steps if len(step.targets) > len(step.sources) for key in step.sources)
    targets = (key for step in plan.steps if len(step.sources) > len(step.targets) for key in step.targets)
    return frozenset(sources), frozenset(targets)


def links(plan: Plan) -> list[tuple[frozenset[Key], frozenset[Key]]]:
    """Return which source keys give which target keys, one pair for each step; ties follow their tensor."""
    of_source: dict[Key, Key] = {d.key: d.tied_to for d in plan.dropped if d.tied_to is not None}
    of_source |= plan.source_ties
    of_target: Mapping[Key, Key] = {**plan.metadata.ties, **plan.ties}
    pairs = []
    for step in plan.steps:
        if not step.sources or not step.targets:
            continue
        sources, targets = set(step.sources), set(step.targets)
        sources |= {key for key, other in of_source.items() if other in sources}
        targets |= {key for key, other in of_target.items() if other in targets}
        pairs.append((frozenset(sources), frozenset(targets)))
    return pairs
