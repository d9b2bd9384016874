"""Measures what only rounding changes in a model's outputs: the tolerance of a proof."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from bridge_core.errors import UnsupportedFeature
from bridge_core.plugins import ModelRun, Precision
from bridge_core.proof.running.common_axes import largest
from bridge_core.proof.running.models import Side
from bridge_core.state import Array, FlatState, is_floating

__all__ = ["Control", "measured_control", "step", "ulp"]


@dataclass(frozen=True, eq=False)
class Control:
    """What computing in another precision and in another order changes in one model's outputs.

    Args:
        error: Largest absolute difference, divided by the largest absolute output.
        native: The run as the model is.
        float64: The run in float64; None if that is not offered.
        missing: Precisions that are not offered, with the reason.
        dtypes: Names of the float dtypes that its operations give; empty if they are unknown.
    """

    error: float
    native: ModelRun
    float64: ModelRun | None
    missing: tuple[str, ...] = ()
    dtypes: frozenset[str] = frozenset()


def measured_control(side: Side, weights: FlatState, *, seed: int = 0) -> Control:
    """Run a model unchanged, in float64, and with its sums in another order.

    Args:
        side: The model.
        weights: Its weights.
        seed: For random numbers that it draws.

    Raises:
        UsageError: The model cannot be called with its inputs.
    """
    native = side.run(weights, seed=seed)
    runs: dict[str, ModelRun] = {}
    missing = []
    precisions: tuple[Precision, ...] = ("float64", "reordered")
    for precision in precisions:
        try:
            runs[precision] = side.run(weights, precision=precision, seed=seed)
        except UnsupportedFeature as err:
            missing.append(f"{precision}: {err.message}")
    error = max((_change(native.outputs, run.outputs) for run in runs.values()), default=0.0)
    seen = native.dtypes or (runs["reordered"].dtypes if "reordered" in runs else frozenset())
    return Control(max(error, ulp(native.outputs)), native, runs.get("float64"), tuple(missing), seen)


def ulp(outputs: Mapping[str, Array]) -> float:
    """Return the distance of neighbouring numbers in the coarsest dtype of the outputs, relative to one."""
    steps = [step(array.dtype.name) for array in outputs.values() if is_floating(array.dtype)]
    return max(steps, default=float(np.finfo(np.float32).eps))


def step(dtype: str) -> float:
    """Return the distance of neighbouring numbers of a float dtype, relative to one."""
    try:
        return float(np.finfo(dtype).eps)
    except (ValueError, TypeError):  # of ml_dtypes
        bits = {"bfloat16": 7, "float8_e4m3fn": 3, "float8_e5m2": 2}.get(dtype, 2)
        return float(2.0**-bits)


def _change(native: Mapping[str, Array], other: Mapping[str, Array]) -> float:
    """Return the largest difference between two runs of one model, relative to the largest output."""
    changes = []
    for name, array in native.items():
        again = other.get(name)
        if again is None or again.shape != array.shape or not array.size or not is_floating(array.dtype):
            continue
        one, two = array.astype(np.float64), again.astype(np.float64)
        finite = np.isfinite(one) & np.isfinite(two)
        if not finite.any():
            continue
        size = largest(one[finite])
        changes.append(float(np.max(np.abs(one[finite] - two[finite]))) / size if size else 0.0)
    return max(changes, default=0.0)
