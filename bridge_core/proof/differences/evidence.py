"""How much equal values prove: nothing, if they are few, all alike, or small numbers.

A relation may hold by chance. What it proves is counted in bits: one that holds on `n` bits of evidence
holds by chance once in ``2**n`` pairs of tensors of such values.
"""

from __future__ import annotations

import math

import numpy as np

from bridge_core.proof.differences.blocks import bits_of, has_order, reals
from bridge_core.state import Array

__all__ = ["ENOUGH", "Evidence", "evidence_of"]

ENOUGH = 32.0
"""Bits from which on a relation is named."""

_ENOUGH_OF_FEW = 8.0
"""The same for the order of values that are mostly distinct: that they are the same is proven anyway."""


class Evidence:
    """What a sample of values can prove.

    Args:
        size: How many elements the sample has.
        counts: How often each distinct value is in it.
        digits: Significant binary digits of all distinct values together.
    """

    def __init__(self, size: int, counts: Array, digits: float) -> None:
        self.size = size
        self.distinct = len(counts)
        self.digits = digits
        """Bits that say: these are the same values, whatever their order."""
        shares = counts / max(1, size)
        entropy = float(-(shares * np.log2(shares)).sum()) if size else 0.0
        self.values = size * entropy + digits
        """Bits that say: these values come from those, and are not others."""
        rows = math.lgamma(size + 1) - sum(map(math.lgamma, (counts + 1).tolist()))
        self.order = rows / math.log(2)
        """Bits that say: they are in this order, and not in another."""

    def prove_values(self, parameters: int = 0) -> bool:
        """Return whether the values are proven, after numbers that were fitted to them."""
        return self.distinct > parameters + 1 and self.values - 24 * parameters >= ENOUGH

    def prove_order(self, chosen: float = 0.0) -> bool:
        """Return whether the order is proven, after ``chosen`` bits of it that were fitted."""
        if not self.prove_values():
            return False
        most_are_distinct = self.distinct * 2 > self.size
        return self.order - chosen >= (_ENOUGH_OF_FEW if most_are_distinct and chosen else ENOUGH) or (
            most_are_distinct and not chosen
        )


def evidence_of(values: Array, tolerance: float = 0.0) -> Evidence:
    """Return what values prove; at most some thousand elements of them are looked at.

    Args:
        values: The values.
        tolerance: How far equal values may differ, as a share of the largest; 0 for not at all.
    """
    flat = np.ascontiguousarray(values).reshape(-1)
    if flat.size > 4096:
        flat = flat[np.random.default_rng(0).choice(flat.size, 4096, replace=False)]
    _, first, counts = np.unique(bits_of(flat), return_index=True, return_counts=True)
    if not has_order(flat.dtype):
        digits = 8.0 * flat.dtype.itemsize * len(first) if flat.dtype.kind == "c" else 0.0
        return Evidence(flat.size, counts, digits)
    numbers = reals(flat[first])
    numbers = numbers[np.isfinite(numbers) & (numbers != 0)]
    whole = np.ldexp(np.abs(np.frexp(numbers)[0]), 53).astype(np.int64)
    lowest = np.log2((whole & -whole).astype(np.float64))
    digits = 53 - lowest
    if tolerance:
        digits = np.minimum(digits, max(0.0, -math.log2(tolerance)))
    return Evidence(flat.size, counts, float(digits.sum()))
