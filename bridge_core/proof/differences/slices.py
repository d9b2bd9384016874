"""Finds the order of the axes, and of the places along each, from sums over slices.

The sum over one slice, of a number made of each element's bits, does not depend on any order along the other
axes. So the sums along an axis are the same in both tensors, in the order of that axis.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np

from bridge_core.proof.differences.blocks import bits_of, hashed, reals, slice_sums
from bridge_core.proof.differences.moves import Move
from bridge_core.state import Array, Tensor

__all__ = ["moves_by_slices", "order_along", "row_sums"]


def row_sums(tensor: Tensor, *, exact: bool = True) -> list[Array | None]:
    """Return a number for each slice along each axis; None for an axis that is too long.

    Args:
        tensor: The tensor; it is read once.
        exact: Whether the bits count; if not, sums of the values and of their squares, as complex numbers.
    """
    return slice_sums(tensor, (lambda values: hashed(bits_of(values))) if exact else _powers)


def _powers(values: Array) -> Array:
    numbers = reals(values)
    with np.errstate(all="ignore"):
        powers: Array = numbers + 1j * np.square(numbers)
    return np.where(np.isfinite(powers), powers, 0)


def moves_by_slices(
    left: list[Array | None], right: list[Array | None], *, near: float = 0.0
) -> Iterator[Move]:
    """Yield moves under which the slices' sums agree, the simplest order of axes first.

    Args:
        left: The sums of the left tensor's slices, for each axis.
        right: Those of the right one.
        near: How far sums may differ, as a share of the largest; 0 for none.
    """
    if any(sums is None for sums in (*left, *right)) or len(left) != len(right) or len(left) > 6:
        return
    ours = [sums for sums in left if sums is not None]
    theirs = [sums for sums in right if sums is not None]
    shape = tuple(map(len, ours))
    orders: dict[tuple[int, int], Array | None] = {}
    for axes in sorted(itertools.permutations(range(len(ours))), key=_simplicity):
        indexes = []
        for place, axis in enumerate(axes):
            pair = (axis, place)
            if pair not in orders:
                orders[pair] = order_along(ours[axis], theirs[place], near=near)
            index = orders[pair]
            if index is None:
                break
            indexes.append(None if np.array_equal(index, np.arange(len(index))) else index)
        else:
            if axes != tuple(range(len(axes))) or any(index is not None for index in indexes):
                yield Move(shape, shape, axes, tuple(indexes), tuple(map(len, theirs)))


def _simplicity(axes: tuple[int, ...]) -> tuple[int, bool, tuple[int, ...]]:
    moved = sum(place != axis for place, axis in enumerate(axes))
    return moved, axes != tuple(range(len(axes)))[::-1], axes


def order_along(left: Array, right: Array, *, near: float = 0.0) -> Array | None:
    """Return for each place of the right axis the place of the left one; None if the sums differ."""
    if len(left) != len(right):
        return None
    limit = near * max(float(np.abs(left).max(initial=0)), 1e-300) if near else 0.0
    size = len(left)
    for simple in (np.arange(size), np.arange(size)[::-1]):
        if _alike(left[simple], right, limit):
            return simple
    by_left, by_right = np.argsort(left, kind="stable"), np.argsort(right, kind="stable")
    if not _alike(left[by_left], right[by_right], limit):
        return None
    index = np.empty(size, np.int64)
    index[by_right] = by_left
    for shift in {int(index[0]), int(index[size // 2]) - size // 2}:
        rolled = (np.arange(size) + shift) % size  # of equal slices, any may come first
        if _alike(left[rolled], right, limit):
            return rolled
    return index


def _alike(left: Array, right: Array, limit: float) -> bool:
    return bool((np.abs(left - right) <= limit).all()) if limit else np.array_equal(left, right)
