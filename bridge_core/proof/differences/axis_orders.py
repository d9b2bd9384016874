"""The order of places along one axis: flipped, rolled, in parts, interleaved, or any other."""

from __future__ import annotations

import math
import string
from dataclasses import dataclass

import numpy as np

from bridge_core.state import Array

__all__ = ["AxisOrder", "decode_strides", "named_order"]

_MOST_PARTS = 16


@dataclass(frozen=True)
class AxisOrder:
    """A named order along an axis.

    Args:
        kind: The kind of relation.
        text: The same as a phrase.
        code: numpy, with ``{}`` in place of the array.
        bits: How many bits of choice the order has; 0 for one without numbers of its own.
    """

    kind: str
    text: str
    code: str
    bits: float = 0.0


def named_order(index: Array, axis: int, shape: tuple[int, ...]) -> AxisOrder:
    """Return the simplest name of an order of all places along an axis.

    Args:
        index: For each place of the right tensor, the place of the left one; each once.
        axis: The axis.
        shape: Shape of the tensor.
    """
    size = shape[axis]
    where = f" along axis {axis}" if len(shape) > 1 else ""
    pick = f"{{}}[{':, ' * axis}"
    if np.array_equal(index, np.arange(size)[::-1]):
        return AxisOrder("flipped", f"flipped{where}", f"{pick}::-1]")
    shift = int(-index[0]) % size
    if np.array_equal(index, (np.arange(size) - shift) % size):
        roll = f"np.roll({{}}, {shift}, axis={axis})"
        if shift * 2 == size:
            return AxisOrder("swapped parts", f"its halves were swapped{where}", roll)
        shift = shift - size if shift * 2 > size else shift
        text = f"rolled by {shift}{where}" + (" (off by one)" if abs(shift) == 1 else "")
        return AxisOrder("rolled", text, f"np.roll({{}}, {shift}, axis={axis})", math.log2(size))
    starts = np.flatnonzero(np.diff(index, prepend=index[0] - 2) != 1)
    if len(starts) <= _MOST_PARTS and len(starts) * 2 <= size:
        return _parts(index, starts, where, pick)
    digits = decode_strides(index)
    if digits is not None and all(stride > 0 for _, stride in digits):
        return _interleaved(digits, axis, shape, where)
    return _inside(index, axis, shape, pick) or _permuted(index, where, pick)


def _inside(index: Array, axis: int, shape: tuple[int, ...], pick: str) -> AxisOrder | None:
    """Name an order that is the same in every block of the axis, or that leaves its ends as they are."""
    size = len(index)
    for length in (n for n in range(2, size // 2 + 1) if size % n == 0):
        rows = index.reshape(-1, length) - np.arange(0, size, length)[:, None]
        if (rows == rows[0]).all():
            inner = named_order(rows[0], axis, (*shape[:axis], length, *shape[axis + 1 :]))
            text = f"{inner.text}, in every block of {length}"
            return AxisOrder(inner.kind, text, f"{pick}order]", inner.bits + math.log2(size))
    moved = np.flatnonzero(index != np.arange(size))
    tight = (int(moved[0]), int(moved[-1]) + 1)
    for first, last in (tight, (tight[0] - 1, tight[1] + 1)):  # an interleaved part begins and ends in place
        if first < 0 or last > size or last - first == size:
            continue
        part = (*shape[:axis], last - first, *shape[axis + 1 :])
        inner = named_order(index[first:last] - first, axis, part)
        if inner.kind != "permuted" or ((first, last) == tight and last - first < size // 2):
            text = f"{inner.text}, from place {first} to {last}"
            return AxisOrder(inner.kind, text, f"{pick}order]", inner.bits + 2 * math.log2(size))
    return None


def _permuted(index: Array, where: str, pick: str) -> AxisOrder:
    """Name an order that has no other name; places that stay together are named as blocks."""
    size = len(index)
    length = next((n for n in range(size // 2, 0, -1) if _in_blocks(index, n)), 1)
    order = index[::length] // length
    blocks = f" in blocks of {length}" if length > 1 else ""
    shown = f", in the order {order.tolist()}" if len(order) <= 16 else ""
    order_code = str(index.tolist()) if len(index) <= 16 else "order"
    bits = math.lgamma(len(order) + 1) / math.log(2)
    return AxisOrder("permuted", f"permuted{where}{blocks}{shown}", f"{pick}{order_code}]", bits)


def _in_blocks(index: Array, length: int) -> bool:
    if len(index) % length:
        return False
    rows = index.reshape(-1, length)
    return bool((rows[:, 0] % length == 0).all() and (np.diff(rows, axis=1) == 1).all())


def _parts(index: Array, starts: Array, where: str, pick: str) -> AxisOrder:
    """Name an order of a few runs."""
    lengths = np.diff(starts, append=len(index))
    froms = index[starts]
    order = np.argsort(np.argsort(froms)).tolist()
    equal = len(set(lengths.tolist())) == 1
    names = {3: "thirds", 4: "quarters"} if equal else {}
    sizes = "" if equal else f" of sizes {lengths[np.argsort(froms)].tolist()}"
    parts = names.get(len(order), f"{len(order)} parts{sizes}")
    pieces = ", ".join(f"{start}:{start + n}" for start, n in zip(froms, lengths, strict=True))
    bits = math.lgamma(len(order) + 1) / math.log(2) + (0 if equal else 24 * len(order))
    text = f"its {parts} were in the order {order}{where}"
    return AxisOrder("swapped parts", text, f"{pick}np.r_[{pieces}]]", bits)


def decode_strides(index: Array) -> list[tuple[int, int]] | None:
    """Return an order as a reshape and a permutation: (size, stride) of each axis, the last axis first.

    None if the order is not one. Strides may be negative, for flipped axes.

    >>> decode_strides(np.array([0, 3, 1, 4, 2, 5]))
    [(2, 3), (3, 1)]
    """
    count = len(index)
    moved = index - index[0]
    digits: list[tuple[int, int]] = []
    run = 1
    while run < count:
        steps = moved[::run]
        stride = int(steps[1]) if len(steps) > 1 else 0
        broken = np.flatnonzero(steps != np.arange(len(steps)) * stride)
        size = int(broken[0]) if broken.size else len(steps)
        if not stride or size < 2 or (count // run) % size or count % run:
            return None
        digits.append((size, stride))
        run *= size
    total = np.zeros(1, np.int64)
    for size, stride in digits:
        total = (np.arange(size)[:, None] * stride + total[None, :]).reshape(-1)
    return digits if np.array_equal(total, moved) else None


def _interleaved(digits: list[tuple[int, int]], axis: int, shape: tuple[int, ...], where: str) -> AxisOrder:
    """Name an order that is a reshape of the axis and a permutation."""
    digits = digits[::-1]
    outer = sorted(range(len(digits)), key=lambda n: -digits[n][1])
    sizes = [digits[n][0] for n in outer]
    letters = string.ascii_lowercase
    source = letters[: len(sizes)]
    target = "".join(letters[outer.index(n)] for n in range(len(digits)))
    stated = ", ".join(f"{letter} = {size}" for letter, size in zip(source, sizes, strict=True))
    text = f"interleaved{where}: ({' '.join(source)}) -> ({' '.join(target)}), {stated}"
    if target == source[:-2] + source[:-3:-1] and 2 in sizes[-2:]:
        halves = sizes[-2] == 2
        text += ", as rotary halves to pairs" if halves else ", as rotary pairs to halves"
    before, after = shape[:axis], shape[axis + 1 :]
    split = (*before, *sizes, *after)
    order = [len(before) + outer.index(n) for n in range(len(digits))]
    axes = (*range(len(before)), *order, *range(len(before) + len(sizes), len(split)))
    code = f"{{}}.reshape({_sizes(split)}).transpose({_sizes(axes)}).reshape({_sizes(shape)})"
    return AxisOrder("interleaved", text, code, 12.0)


def _sizes(numbers: tuple[int, ...]) -> str:
    return ", ".join(map(str, numbers))
