"""Whether one tensor holds what another gives: on a few elements first, then on all of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from bridge_core.proof.differences.blocks import bits_of, blocks, elements, has_order, reals
from bridge_core.proof.differences.moves import Move
from bridge_core.state import Array, LazyTensor, Tensor, TensorSpec

__all__ = ["EXACTLY", "Within", "fits_elements", "largest_error", "mapped"]

Apply = Callable[[Array], Array]


@dataclass(frozen=True)
class Within:
    """By how much values may differ.

    Args:
        absolute: By how much.
        relative: By which share of the right value, in addition.
        bits: Whether bits are compared, and nothing may differ.
    """

    absolute: float = 0.0
    relative: float = 0.0
    bits: bool = False

    def error(self, left: Array, right: Array) -> float | None:
        """Return the largest absolute difference; None if a value is further away."""
        if self.bits and left.dtype == right.dtype:
            return 0.0 if np.array_equal(bits_of(left), bits_of(right)) else None
        if not (has_order(left.dtype) and has_order(right.dtype)):
            return 0.0 if np.array_equal(left, right) else None
        x, y = reals(left), reals(right)
        with np.errstate(all="ignore"):
            gaps = np.abs(x - y)
            allowed = self.absolute + self.relative * np.abs(y)
            wrong = ~(gaps <= allowed)  # true for what is not a number
        if not wrong.any():
            return float(gaps.max(initial=0.0))
        same = (x == y) | (np.isnan(x) & np.isnan(y))
        if (wrong & ~same).any():
            return None
        return float(gaps[~same].max(initial=0.0))


EXACTLY = Within(bits=True)


def mapped(left: Tensor, apply: Apply | None, dtype: np.dtype[np.generic] | None = None) -> Tensor:
    """Return a tensor whose values a function changes one by one; the tensor itself without a function."""
    if apply is None:
        return left
    return LazyTensor(
        TensorSpec(left.spec.shape, dtype or left.spec.dtype), lambda region: apply(left.read(region))
    )


def fits_elements(
    left: Tensor, right: Tensor, places: Array, move: Move, apply: Apply | None, within: Within
) -> bool:
    """Return whether single elements agree; those that come from nowhere are left out.

    Args:
        left: The left tensor.
        right: The right one.
        places: Places in the right tensor, in row-major order.
        move: Where each element comes from.
        apply: What is done to the values; None for nothing.
        within: By how much they may differ.
    """
    origins = move.places(places)
    places, origins = places[origins >= 0], origins[origins >= 0]
    step = 4 if not places.size > 4 else 6
    for start in range(0, places.size, step * 6):
        part = slice(start, start + step * 6)
        values = elements(left, origins[part])
        if within.error(values if apply is None else apply(values), elements(right, places[part])) is None:
            return False
    return True


def largest_error(
    left: Tensor, right: Tensor, move: Move, apply: Apply | None, within: Within
) -> float | None:
    """Return the largest absolute difference over all elements; None if one is too far away."""
    moved = move.tensor(left)
    largest = 0.0
    for region in blocks(right, square=moved is not left):
        values, theirs = moved.read(region), right.read(region)
        known = move.known(region)
        if known is not None:
            values, theirs = values[known], theirs[known]
        gap = within.error(values if apply is None else apply(values), theirs)
        if gap is None:
            return None
        largest = max(largest, gap)
    return largest
