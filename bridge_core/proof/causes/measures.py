"""How far two arrays differ, and how far is rounding."""

from __future__ import annotations

import itertools

import numpy as np

from bridge_core.proof.causes.site import Site
from bridge_core.state import Array

__all__ = ["alignment", "comparable", "fits", "improves", "relative_error", "rounding", "typical_error"]

ULPS = 48
"""Units in the last place by which a layer's own sums may differ between frameworks."""


def comparable(array: Array) -> bool:
    """Return whether an array holds numbers that can be compared."""
    return array.dtype.kind in "fiub" or array.dtype.name == "bfloat16"


def relative_error(source: Array, other: Array) -> float:
    """Return the largest absolute difference divided by the source's largest absolute value.

    Args:
        source: Array of any shape.
        other: Array that should equal it; infinity if its shape differs or a value of one is not finite.
    """
    if source.shape != other.shape:
        return float("inf")
    if source.size == 0:
        return 0.0
    first, second = np.asarray(source, np.float64), np.asarray(other, np.float64)
    with np.errstate(all="ignore"):
        largest = float(np.max(np.abs(first - second)))
        scale = float(np.max(np.abs(first)))
    if not np.isfinite(largest) or not np.isfinite(scale):
        return float("inf")
    return largest / scale if scale else (0.0 if largest == 0 else float("inf"))


def alignment(source: Array, target: Array, limit: float) -> tuple[int, ...] | None:
    """Return how to transpose the source's array so that it equals the target's; None if nothing does.

    Args:
        source: Array of any shape.
        target: Array of the same rank.
        limit: Relative error up to which they are equal.
    """
    if source.ndim != target.ndim or sorted(source.shape) != sorted(target.shape):
        return None
    rank = source.ndim
    likely: list[tuple[int, ...]] = [tuple(range(rank))]
    if rank > 2:
        likely += [(0, *range(2, rank), 1), (0, rank - 1, *range(1, rank - 1)), (*range(1, rank), 0)]
    others = itertools.permutations(range(rank)) if rank <= 4 else ()
    orders: list[tuple[int, ...]] = [*likely, *others]
    for order in dict.fromkeys(orders):
        moved = source.transpose(order)
        if fits(moved, target, limit):
            return order
    return None


def typical_error(source: Array, other: Array) -> float:
    """Return the root of the mean squared difference divided by the source's largest absolute value."""
    if source.shape != other.shape:
        return float("inf")
    if source.size == 0:
        return 0.0
    with np.errstate(all="ignore"):
        typical = float(np.sqrt(np.mean(np.square(source - other))))
        scale = float(np.max(np.abs(source)))
    if not np.isfinite(typical) or not np.isfinite(scale):
        return float("inf")
    return typical / scale if scale else (0.0 if typical == 0 else float("inf"))


def rounding(site: Site, *arrays: Array) -> float:
    """Return the relative error up to which two arrays are one: the control, or the arrays' own precision.

    Args:
        site: Its control is the error that computing in another precision and order makes.
        arrays: Observed arrays; the coarsest of their dtypes counts.
    """
    steps = [_step(array) for array in arrays]
    return max(3 * site.control, ULPS * max(steps, default=0.0))


def _step(array: Array) -> float:
    if array.dtype.name == "bfloat16":
        return 2.0**-8
    return float(np.finfo(array.dtype).eps) if array.dtype.kind == "f" else 0.0


def fits(value: Array, observed: Array, limit: float) -> bool:
    """Return whether a computed array is the observed one up to a relative error."""
    if value.shape != observed.shape:
        return False
    if value.size > 4096:  # most candidates are wrong everywhere, so a few entries refuse them
        few = np.unravel_index(np.arange(0, value.size, value.size // 64), value.shape)
        with np.errstate(all="ignore"):
            off = np.max(np.abs(value[few] - observed[few]))
        if not off <= limit * float(np.max(np.abs(observed))):
            return False
    return relative_error(observed, value) <= limit


def improves(error_with: float, error_without: float, limit: float) -> bool:
    """Return whether an error vanishes: it is at rounding with a change, and clearly above without it."""
    return error_with <= limit and error_without > 3 * error_with
