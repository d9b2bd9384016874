"""Reading two tensors by blocks: what is counted over all elements, and single elements."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from bridge_core.state import Array, ArrayTensor, Region, Tensor, is_floating, regions

__all__ = [
    "Summary",
    "bit_sum",
    "bits_of",
    "blocks",
    "elements",
    "has_order",
    "hashed",
    "held",
    "reals",
    "slice_sums",
    "summary",
]

_HELD = 128 << 20
"""Bytes up to which a tensor is held in memory; a larger one is read by blocks each time."""
_BLOCK = 1 << 16
"""Elements of a block: what is computed of it stays in the cache."""
_FAR = 1 << 20
"""Elements of a block of a tensor that is not held; more are read at a time."""
_LONGEST = 1 << 22
"""The longest axis whose slices are counted one by one."""
_WORDS: dict[int, Any] = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}


def held(tensor: Tensor) -> Tensor:
    """Return the tensor with its values in memory, if it is small enough; else itself."""
    if isinstance(tensor, ArrayTensor) or tensor.spec.nbytes > _HELD:
        return tensor
    values = tensor.read(regions.full(tensor.spec.shape))
    return ArrayTensor(np.ascontiguousarray(values).reshape(tensor.spec.shape))


def blocks(tensor: Tensor, *, square: bool = False) -> Iterator[Region]:
    """Cut a tensor into regions: row-major runs, or boxes with short axes.

    Args:
        tensor: The tensor.
        square: Whether another tensor is read along other axes at the same time.
    """
    shape = tensor.spec.shape
    most = _BLOCK if isinstance(tensor, ArrayTensor) else _FAR
    if not square:
        yield from regions.blocks(shape, most)
        return
    box = list(shape)
    while regions.size(tuple(box)) > most:
        longest = max(range(len(box)), key=box.__getitem__)
        box[longest] = -(-box[longest] // 2)
    yield from regions.boxes(shape, tuple(box))


def bits_of(values: Array) -> Array:
    """Return the elements' bits as unsigned numbers of the same shape; of 16 bytes, a mix of both halves."""
    values = np.ascontiguousarray(values).reshape(values.shape)
    width = values.dtype.itemsize
    if width in _WORDS:
        view: Array = values.view(_WORDS[width])
        return view
    halves = values.reshape(-1).view(np.uint64).reshape(*values.shape, 2)
    mixed: Array = hashed(halves[..., 0]) + halves[..., 1]
    return mixed


def hashed(bits: Array) -> Array:
    """Return a 64-bit number for each; sums of them are equal for the same elements in any order."""
    mixed = bits.astype(np.uint64)
    mixed += np.uint64(0x9E3779B97F4A7C15)
    mixed *= np.uint64(0xBF58476D1CE4E5B9)
    mixed ^= mixed >> np.uint64(31)
    mixed *= np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(29)
    return mixed


def reals(values: Array) -> Array:
    """Return real values as float64."""
    with np.errstate(all="ignore"):
        return values.astype(np.float64)


@dataclass(frozen=True)
class Summary:
    """What a tensor's elements are in any order.

    Args:
        bits: The sum of all elements' bits, as one number.
        least: The smallest finite value; 0 if there is none.
        most: The largest finite value.
        mean: The mean of the finite values.
        spread: Their standard deviation.
        finite: How many are finite.
        constant: Whether all elements have the same bits.
    """

    bits: int
    least: float
    most: float
    mean: float
    spread: float
    finite: int
    constant: bool

    @property
    def largest(self) -> float:
        """Largest absolute finite value."""
        return max(abs(self.least), abs(self.most))


def summary(tensor: Tensor) -> Summary:
    """Read a tensor once and count what does not depend on the order of its elements."""
    total, finite, first, constant = 0, 0, None, True
    least, most, sums, squares = np.inf, -np.inf, 0.0, 0.0
    real = has_order(tensor.spec.dtype)
    for region in blocks(tensor):
        values = tensor.read(region)
        bits = bits_of(values).reshape(-1)
        total += int(bits.sum(dtype=np.uint64))
        first = bits[0] if first is None else first
        if constant:
            constant = bits[-1] == first and bool((bits == first).all())
        if real:
            numbers = reals(values).reshape(-1)
            low, high = float(numbers.min()), float(numbers.max())
            if not np.isfinite(low + high):
                numbers = numbers[np.isfinite(numbers)]
                low, high = float(numbers.min(initial=np.inf)), float(numbers.max(initial=-np.inf))
            least, most, finite = min(least, low), max(most, high), finite + numbers.size
            with np.errstate(over="ignore"):
                sums += float(numbers.sum())
                squares += float(np.square(numbers, out=numbers).sum())
    if not finite:
        return Summary(total % 2**64, 0.0, 0.0, 0.0, 0.0, 0, constant)
    mean = sums / finite
    spread = max(0.0, squares / finite - mean * mean) ** 0.5 if np.isfinite(squares) else np.inf
    return Summary(total % 2**64, least, most, mean, float(spread), finite, constant)


def bit_sum(tensor: Tensor) -> int:
    """Read a tensor once and return the sum of its elements' bits, which no order changes."""
    parts = (bits_of(tensor.read(region)).sum(dtype=np.uint64) for region in blocks(tensor))
    return sum(map(int, parts)) % 2**64


def has_order(dtype: np.dtype[Any]) -> bool:
    """Return whether the dtype holds real numbers, those of one bit aside."""
    return is_floating(dtype) or dtype.kind in "iu" or (dtype.kind == "V" and "int" in dtype.name)


def slice_sums(tensor: Tensor, feature: Callable[[Array], Array]) -> list[Array | None]:
    """Return, for each axis, the sum of a feature over each of its slices; None for a very long axis.

    Args:
        tensor: The tensor; it is read once.
        feature: Values -> numbers of the same shape, and of one dtype.
    """
    shape = tensor.spec.shape
    sums: list[Array | None] = [None] * len(shape)
    for region in blocks(tensor, square=True):
        numbers = feature(tensor.read(region))
        for axis, size in enumerate(shape):
            if size > _LONGEST:
                continue
            held_sums = sums[axis]
            if held_sums is None:
                held_sums = sums[axis] = np.zeros(size, numbers.dtype)
            others = tuple(other for other in range(len(shape)) if other != axis)
            with np.errstate(all="ignore"):
                held_sums[region[axis]] += numbers.sum(axis=others, dtype=numbers.dtype)
    return sums


def elements(tensor: Tensor, places: Array) -> Array:
    """Return single elements, given by their places in row-major order."""
    shape = tensor.spec.shape
    if isinstance(tensor, ArrayTensor):
        index = np.unravel_index(places, shape) if shape else ((0,) * 0)
        array = tensor.array
        got = array[index] if shape else np.broadcast_to(array, places.shape)
        return got if got.dtype.isnative else got.astype(got.dtype.newbyteorder("="))
    out = np.empty(places.shape, tensor.spec.dtype)
    for n, corner in enumerate(zip(*np.unravel_index(places, shape), strict=True)):
        region = tuple(slice(int(i), int(i) + 1, 1) for i in corner)
        out[n] = tensor.read(region).reshape(-1)[0]
    return out
