"""Moves worth a try, the simplest first; each costs a look at a few elements."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator

import numpy as np

from bridge_core.proof.differences.blocks import bits_of, blocks, elements
from bridge_core.proof.differences.moves import Move, identity
from bridge_core.state import Tensor, regions

__all__ = ["only_places", "reshaping_moves", "simple_moves", "strided_moves", "stride_places"]

Shape = tuple[int, ...]
_MOST_AXES = 5


def simple_moves(left: Shape, right: Shape) -> Iterator[Move]:
    """Yield another shape, permuted axes, one flipped axis or all, and Fortran order."""
    straight = identity(left)
    if left != right:
        yield Move(left, left, straight.axes, straight.indexes, right)
    for axes in _orders(len(left)):
        if tuple(left[axis] for axis in axes) == right:
            yield Move(left, left, axes, straight.indexes, right)
    if left == right:
        axes_with_order = [axis for axis, size in enumerate(left) if size > 1]
        for flipped in [*((axis,) for axis in axes_with_order), tuple(axes_with_order)]:
            indexes = tuple(
                np.arange(size)[::-1] if axis in flipped else None for axis, size in enumerate(left)
            )
            yield Move(left, left, straight.axes, indexes, right)
    yield Move(left, left, straight.axes[::-1], straight.indexes, right)
    yield Move(left, right[::-1], tuple(range(len(right)))[::-1], (None,) * len(right), right)


def reshaping_moves(left: Shape, right: Shape) -> Iterator[Move]:
    """Yield a permutation of either side's axes with a reshape, and of axes that are split in two."""
    for axes in _orders(len(left)):
        yield Move(left, left, axes, (None,) * len(left), right)
    for axes in _orders(len(right)):
        split = tuple(right[axes.index(axis)] for axis in range(len(right)))
        yield Move(left, split, axes, (None,) * len(right), right)
    for axis, size in enumerate(left):
        for outer in (n for n in range(2, size) if size % n == 0):
            split = (*left[:axis], outer, size // outer, *left[axis + 1 :])
            if len(split) > 4 and outer > 8:
                continue
            for axes in _orders(len(split)):
                yield Move(left, split, axes, (None,) * len(split), right)


def _orders(rank: int) -> list[tuple[int, ...]]:
    """Return permutations of axes but the identity: the reversed one, then those that move few axes."""
    straight = tuple(range(rank))
    if rank > _MOST_AXES:
        swaps = []
        for one, other in itertools.combinations(straight, 2):
            axes = list(straight)
            axes[one], axes[other] = other, one
            swaps.append(tuple(axes))
        return [straight[::-1], *swaps]
    others = [axes for axes in itertools.permutations(straight) if axes != straight]

    def simplicity(axes: tuple[int, ...]) -> tuple[int, bool]:
        return sum(place != axis for place, axis in enumerate(axes)), axes != straight[::-1]

    return sorted(others, key=simplicity)


def stride_places(size: int, most: int = 400) -> list[int]:
    """Return the places that show the strides of a reshape and permutation: 0 and the divisors."""
    divisors = {n for n in range(1, min(math.isqrt(size), 1 << 16) + 1) if size % n == 0}
    divisors |= {size // n for n in divisors}
    return [0, *sorted(divisors - {size})[:most]]


def only_places(left: Tensor, right: Tensor) -> Callable[[int], int | None]:
    """Return a function that finds the only place in the left tensor of an element of the right one.

    It knows the places of `stride_places`. The left tensor is read once.
    """
    asked = np.array(stride_places(right.spec.size))
    bits_asked = bits_of(elements(right, asked))
    values = np.unique(bits_asked)
    where, counts = np.full(len(values), -1), np.zeros(len(values), np.int64)
    start = 0
    for region in blocks(left):
        bits = bits_of(left.read(region)).reshape(-1)
        at = np.minimum(np.searchsorted(values, bits), len(values) - 1)
        hits = np.flatnonzero(values[at] == bits)
        np.add.at(counts, at[hits], 1)
        where[at[hits]] = hits + start
        start += bits.size
    pairs = zip(asked.tolist(), np.searchsorted(values, bits_asked).tolist(), strict=True)
    return {place: int(where[at]) for place, at in pairs if counts[at] == 1}.get


def strided_moves(left: Shape, right: Shape, find: Callable[[int], int | None]) -> Iterator[Move]:
    """Yield the reshape, permutation and flips under which places come from where they were found.

    Args:
        left: Shape of the left tensor.
        right: Shape of the right one.
        find: A place of the right tensor -> the only place of the left one with this value; None if there is
            none, or more than one.
    """
    size = regions.size(left)
    origin, second = find(0), find(1)
    if origin is None or second is None or size < 2:
        return
    runs, strides = [1], [second - origin]
    for place in stride_places(size)[2:]:
        origin_of = find(place)
        if origin_of is None or origin_of - origin == _predicted(place, runs, strides):
            continue
        if place % runs[-1] or place == runs[-1]:
            return
        runs.append(place)
        strides.append(origin_of - origin)
    sizes = [after // run for run, after in zip(runs, [*runs[1:], size], strict=True)]
    order = sorted(range(len(sizes)), key=lambda n: -abs(strides[n]))
    split = tuple(sizes[n] for n in order)
    expected = regions.row_major_strides(split)
    if math.prod(split) != size or any(
        abs(strides[n]) != stride for n, stride in zip(order, expected, strict=True)
    ):
        return
    outer = list(range(len(sizes)))[::-1]
    axes = tuple(order.index(n) for n in outer)
    indexes = tuple(np.arange(sizes[n])[::-1] if strides[n] < 0 else None for n in outer)
    yield Move(left, split, axes, indexes, right)


def _predicted(place: int, runs: list[int], strides: list[int]) -> int:
    total = 0
    for run, after, stride in zip(runs, [*runs[1:], 0], strides, strict=True):
        digit = place // run % (after // run) if after else place // run
        total += digit * stride
    return total
