"""How alike the values of two tensors are, by samples: correlation, and whether every bit is equal."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from bridge_core.state import Array, Region, Tensor, is_floating, regions

__all__ = ["Likeness", "fingerprint", "likeness_of", "pooled", "sample"]

_SAMPLE = 4096
"""Values of a tensor that are compared."""

_BLOCK = 1 << 20
"""Values that are read at once where all of a tensor is read."""


@dataclass(frozen=True)
class Likeness:
    """How alike samples of two tensors, or of several pairs of them, are.

    Args:
        weight: Number of values that were compared; 0 where one side is constant, which shows nothing.
        correlation: Pearson's, from -1 to 1, averaged by the number of values.
        equal: Whether every compared bit is equal.
        contradicts: Whether both are constant and differ.
    """

    weight: int = 0
    correlation: float = 0.0
    equal: bool = True
    contradicts: bool = False

    @property
    def strength(self) -> float:
        """Fisher's transform of the correlation, whose noise is the same for every correlation."""
        return math.atanh(max(-1 + 1e-15, min(1 - 1e-15, self.correlation))) if self.weight else 0.0

    @property
    def noise(self) -> float:
        """The standard error of the strength of values that have nothing in common."""
        return 1.0 / math.sqrt(max(1, self.weight - 3))


def pooled(parts: Iterable[Likeness]) -> Likeness:
    """Return the likeness of several pairs as one."""
    known = list(parts)
    weight = sum(part.weight for part in known)
    total = sum(part.weight * part.correlation for part in known)
    return Likeness(
        weight,
        total / weight if weight else 0.0,
        all(part.equal for part in known),
        any(part.contradicts for part in known),
    )


def sample(tensor: Tensor) -> Array:
    """Return values spread over a tensor, at most 4096, at places that depend on its shape only."""
    return tensor.read(_places(tensor.spec.shape))


def likeness_of(one: Array, other: Array) -> Likeness:
    """Return how alike two samples of one shape are.

    Args:
        one: Values of one tensor.
        other: Values of the other, at the same places.
    """
    if one.shape != other.shape or not (is_floating(one.dtype) and is_floating(other.dtype)):
        return Likeness(equal=False)
    equal = one.dtype == other.dtype and _bits(one) == _bits(other)
    first, second = (array.astype(np.float64).reshape(-1) for array in (one, other))
    finite = np.isfinite(first) & np.isfinite(second)
    first, second = first[finite], second[finite]
    if first.size < 2 or np.ptp(first) == 0 or np.ptp(second) == 0:
        constant = bool(first.size) and np.ptp(first) == 0 and np.ptp(second) == 0
        return Likeness(equal=equal, contradicts=bool(constant and first[0] != second[0]))
    if equal:
        return Likeness(int(first.size), 1.0, equal=True)
    with np.errstate(over="ignore", invalid="ignore"):
        first, second = (array - array.mean() for array in (first, second))
        size = float(np.sqrt((first @ first) * (second @ second)))
        correlation = float(first @ second) / size if size else 0.0
    if not math.isfinite(correlation):
        return Likeness(equal=False)
    return Likeness(int(first.size), max(-1.0, min(1.0, correlation)), equal=False)


def fingerprint(tensor: Tensor) -> tuple[int, str, int]:
    """Return what tensors with the same values have in common, in whatever order they hold them.

    Reads all values, a block at a time.
    """
    total = np.uint64(0)
    with np.errstate(over="ignore"):
        for region in regions.blocks(tensor.spec.shape, _BLOCK):
            data = np.ascontiguousarray(tensor.read(region)).reshape(-1)
            mixed = _as_bits(data) * np.uint64(0x9E3779B97F4A7C15)
            mixed ^= mixed >> np.uint64(29)
            mixed *= np.uint64(0xBF58476D1CE4E5B9)
            mixed ^= mixed >> np.uint64(32)
            total += mixed.sum(dtype=np.uint64)
    spec = tensor.spec
    return (spec.size, spec.dtype.name, int(total))


def _places(shape: tuple[int, ...]) -> Region:
    """Return a region of at most 4096 values that are spread over all axes."""
    axes = sorted((size, axis) for axis, size in enumerate(shape))
    left, counts = _SAMPLE, [0] * len(shape)
    for number, (size, axis) in enumerate(axes):
        counts[axis] = max(1, min(size, int(left ** (1 / (len(axes) - number)) + 1e-9)))
        left = max(1, left // counts[axis])
    steps = [max(1, -(-size // count)) for size, count in zip(shape, counts, strict=True)]
    return tuple(
        slice(0, (size - 1) // step * step + 1 if size else 0, step)
        for size, step in zip(shape, steps, strict=True)
    )


def _as_bits(data: Array) -> np.ndarray[Any, Any]:
    width = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}[data.dtype.itemsize]
    return data.view(width).astype(np.uint64)


def _bits(array: Array) -> bytes:
    return np.ascontiguousarray(array).tobytes()
