"""Finds modules that change their outputs by themselves: dropout that was left on."""

from __future__ import annotations

from collections.abc import Mapping

from bridge_core.plugins import ModelRun, ModuleCall
from bridge_core.proof.causes import Cause
from bridge_core.proof.running.common_axes import relative_error
from bridge_core.proof.running.models import Side
from bridge_core.state import Array, FlatState, join_key

__all__ = ["change", "first_changed", "restless_cause"]


def restless_cause(
    side: Side, weights: FlatState, native: ModelRun, limit: float, *, seed: int = 0
) -> Cause | None:
    """Return the cause if the outputs of a model change with the seed; None if they do not.

    Args:
        side: The model.
        weights: Its weights.
        native: A run with the seed.
        limit: Relative change that is rounding: sums of several threads may be taken in any order.
        seed: The seed of that run.
    """
    again = side.run(weights, seed=seed + 1)
    changed = change(native.outputs, again.outputs)
    if changed <= limit:
        return None
    one, two = (side.run(weights, trace=True, seed=number) for number in (seed, seed + 1))
    module = first_changed(one.calls, two.calls, limit)
    where = f"{join_key(module.path) or 'the model'} ({module.type})" if module is not None else "the model"
    on = f"on, in {where}"
    return Cause(
        "dropout",
        f"The {side.what} draws random numbers: dropout is left {on}.",
        on if side.what == "source" else "off",
        on if side.what == "target" else "off",
        changed,
        0.0,
        f"In the {side.what}: turn dropout off for the comparison "
        f"({'model.eval()' if side.layout == 'torch' else 'deterministic=True, or train=False'}).",
    )


def first_changed(
    one: tuple[ModuleCall, ...], two: tuple[ModuleCall, ...], limit: float
) -> ModuleCall | None:
    """Return the innermost first call with equal inputs and other outputs in two runs of one model.

    Args:
        one: The calls of one run.
        two: Those of the other.
        limit: The error up to which arrays are equal.
    """
    first: ModuleCall | None = None
    for call, again in zip(one, two, strict=False):
        if call.path != again.path:
            return first
        inside = first is None or (first.began < call.began and call.ended < first.ended)
        if not inside or change(call.inputs, again.inputs) > limit:
            continue
        if change(call.outputs, again.outputs) > limit:
            first = call
    return first


def change(one: Mapping[str, Array], other: Mapping[str, Array]) -> float:
    """Return the largest relative error of arrays of the same name."""
    changes = [
        relative_error(array, other[name])
        for name, array in one.items()
        if name in other and array.tobytes() != other[name].tobytes()
    ]
    return max(changes, default=0.0)
