"""Arrays of two models in common axes, and the errors between them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from bridge_core.state import Array, is_floating

__all__ = ["Fit", "best_fit", "error_text", "largest", "relative_error"]

_MOST_AXES = 5
"""Arrays of more axes are compared in the order that they have."""
_MASKED = -1e3
"""Masks that are added hold values below this one, all of which mean the same."""


@dataclass(frozen=True)
class Fit:
    """How the target's array is brought to the source's axes, and the error then.

    Args:
        error: Largest absolute difference, divided by the largest absolute value of the source.
        how: What is done to the target's array, for people; empty if nothing.
    """

    error: float
    how: str = ""


def largest(array: Array) -> float:
    """Return the largest absolute value; 0 of an empty array, NaN or infinity where it holds one."""
    return float(np.max(np.abs(_wide(array)))) if array.size else 0.0


def relative_error(source: Array, target: Array) -> float:
    """Return the largest absolute difference divided by the largest absolute value of the source.

    Infinity where the two are not finite in the same places; 0 where both hold the same infinities.
    Integers and booleans are equal (0) or not (infinity).

    Args:
        source: Any array.
        target: An array of the same shape.
    """
    if source.shape != target.shape:
        return float("inf")
    if not source.size:
        return 0.0
    if not (_is_real(source) and _is_real(target)):
        return 0.0 if np.array_equal(source, target) else float("inf")
    one, other = _wide(source), _wide(target)
    if not (np.isfinite(one).all() and np.isfinite(other).all()):
        same = np.array_equal(np.isfinite(one), np.isfinite(other))
        if not same or not np.array_equal(one[~np.isfinite(one)], other[~np.isfinite(other)]):
            return float("inf")  # NaN is not equal to NaN
        finite = np.isfinite(one)
        one, other = one[finite], other[finite]
        if not one.size:
            return 0.0
    gap = float(np.max(np.abs(one - other)))
    size = float(np.max(np.abs(one)))
    if gap == 0.0:
        return 0.0
    return gap / size if size > 0 else float("inf")


def best_fit(
    source: Array, target: Array, limit: float, *, of_channels: bool = True, masks: bool = False
) -> Fit | None:
    """Return how two arrays of perhaps different axes fit best; None if their shapes never do.

    The order that they have comes first, and is taken if the error is within the limit.

    Args:
        source: The source's array.
        target: The target's.
        limit: The error up to which the arrays are equal.
        of_channels: Whether only channels may move; if not, any axes may, and be split or merged.
        masks: Whether arrays of two values, 0 and a very negative one, are compared as booleans.
    """
    if masks:
        source, target = _as_mask(source), _as_mask(target)
        if source.dtype == bool and target.dtype == bool and source.size == target.size:
            return Fit(relative_error(source, target.reshape(source.shape)))
    best: Fit | None = None
    for how, array in _forms(source, target, of_channels):
        error = relative_error(source, array)
        if best is None or error < best.error:
            best = Fit(error, how)
        if error <= limit:
            return Fit(error, how)
    return best


def _forms(source: Array, target: Array, of_channels: bool) -> Iterator[tuple[str, Array]]:
    """Give the target's array in each form that has the source's shape, the plainest first."""
    shape = source.shape
    if source.size != target.size:
        return
    if target.shape == shape:
        yield "", target
    elif _without_ones(target.shape) == _without_ones(shape):
        yield "without axes of size 1", target.reshape(shape)
    axes = range(target.ndim)
    if 3 <= target.ndim <= _MOST_AXES:
        first, last = (0, target.ndim - 1, *range(1, target.ndim - 1)), (0, *range(2, target.ndim), 1)
        for order, how in (
            (first, "channels moved from last to first"),
            (last, "channels moved from first to last"),
        ):
            moved = target.transpose(order)
            if moved.shape == shape:
                yield how, moved
    if _refines(target.shape, shape) or _refines(shape, target.shape):
        yield "axes merged or split", target.reshape(shape)
    if of_channels or target.ndim > _MOST_AXES:
        return
    for order in itertools.permutations(axes):
        if order == tuple(axes):
            continue
        moved = target.transpose(order)
        if moved.shape == shape or _refines(moved.shape, shape) or _refines(shape, moved.shape):
            yield f"axes {' '.join(map(str, order))}", moved.reshape(shape)


def _refines(fine: tuple[int, ...], coarse: tuple[int, ...]) -> bool:
    """Return whether the axes of one shape, joined where they are neighbours, give another."""
    left = list(_without_ones(fine))
    for size in _without_ones(coarse):
        product = 1
        while product < size and left:
            product *= left.pop(0)
        if product != size:
            return False
    return not left


def _without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(size for size in shape if size != 1)


def _is_real(array: Array) -> bool:
    return is_floating(array.dtype) or bool(np.issubdtype(array.dtype, np.complexfloating))


def _wide(array: Array) -> np.ndarray[Any, Any]:
    if np.issubdtype(array.dtype, np.complexfloating):
        return array.astype(np.complex128)
    return array.astype(np.float64)


def _as_mask(array: Array) -> Array:
    if array.dtype == bool or not array.size or not is_floating(array.dtype):
        return array
    wide = array.astype(np.float64)
    hidden = wide <= _MASKED
    return ~hidden if hidden.any() and np.all(wide[~hidden] == 0) else array


def error_text(error: float | None) -> str:
    """Return an error for people.

    >>> error_text(1.25e-7), error_text(None)
    ('1.2e-07', 'unknown')
    """
    return "unknown" if error is None else "0" if error == 0 else f"{error:.1e}"
