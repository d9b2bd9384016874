"""Which bits numpy gives to NaNs: frameworks compute the same numbers, and other NaNs.

IEEE 754 leaves the bits of a NaN open, and numpy's differ with its build and the processor. So they are asked
of numpy, and not written here.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import ml_dtypes
import numpy as np

from bridge_core.ops.elementwise import Cast
from bridge_core.state import Array, dtype_named

__all__ = ["NanRule", "SumRule", "nan_rule", "sum_rule"]


class NanRule(NamedTuple):
    """The bits of a NaN after a cast.

    Args:
        positive: The bits that a NaN without a sign gets, as an int.
        negative: The bits that a NaN with a sign gets.
        shift: By how many bits the fraction, added to these, moves to the left; None if it is lost.
        fills: Whether a fraction of which no bit is left becomes 1, since 0 would be an infinity.
    """

    positive: int
    negative: int
    shift: int | None = None
    fills: bool = False


@functools.cache
def nan_rule(source: str, target: str) -> NanRule | None:
    """Return what numpy does with NaNs in a cast between floating-point dtypes.

    Args:
        source: Name of the dtype before.
        target: Name of the dtype afterwards.

    Returns:
        The rule; None if numpy's NaNs follow none of this form.
    """
    (bits, fraction), (wide, room) = _widths(source), _widths(target)
    nans = _nans(source)
    (after,) = Cast(source, target).apply((nans,))
    before_bits = [int(value) for value in nans.view(f"u{bits // 8}")]
    after_bits = [int(value) for value in after.view(f"u{wide // 8}")]
    by_sign: tuple[set[int], set[int]] = (set(), set())
    for before, result in zip(before_bits, after_bits, strict=True):
        by_sign[before >> (bits - 1)].add(result)
    if max(map(len, by_sign)) <= 1:
        positive, negative = (min(results, default=0) for results in by_sign)
        return NanRule(positive, negative)
    exponent, sign = ((1 << (wide - 1 - room)) - 1) << room, 1 << (wide - 1)
    for quiet in (0, 1 << (room - 1)):
        positive = exponent | quiet
        rule = NanRule(positive, positive | sign, room - fraction, not quiet and room < fraction)
        if after_bits == [_after(rule, before, bits, fraction) for before in before_bits]:
            return rule
    return None


def _after(rule: NanRule, before: int, bits: int, fraction: int) -> int:
    taken, shift = before & ((1 << fraction) - 1), rule.shift or 0
    copied = taken << shift if shift >= 0 else taken >> -shift
    return (rule.negative if before >> (bits - 1) else rule.positive) | copied | (rule.fills and not copied)


def _nans(name: str) -> Array:
    """Return all NaNs of a narrow dtype, or several thousand of a wide one, of both signs."""
    bits, fraction = _widths(name)
    unsigned = np.dtype(f"u{bits // 8}")
    if bits <= 16:
        every: Array = np.arange(1 << bits, dtype=unsigned).view(dtype_named(name))
        return every[np.isnan(every.astype(np.float32))]
    random = np.random.default_rng(0).integers(1, 1 << fraction, 2000, dtype=np.uint64)
    fractions = np.concatenate([1 << np.arange(fraction, dtype=np.uint64), random])
    nans = fractions | np.uint64(((1 << (bits - 1 - fraction)) - 1) << fraction)
    both: Array = np.concatenate([nans, nans | np.uint64(1 << (bits - 1))]).astype(unsigned)
    return both.view(dtype_named(name))


class SumRule(NamedTuple):
    """The bits of a sum that is a NaN.

    Args:
        invalid: The bits of infinity minus infinity, as an int; None if the dtype has no infinities, so that
            sums of numbers are NaNs only where they leave the range.
        second: Whether the second of two NaNs gives the sum its bits.
        by_signs: The bits by what the terms are, ``3 * first + second``, each 0 for a number, 1 for a NaN
            without a sign, 2 for one with a sign; empty if the sum has the bits of a term, made quiet.
    """

    invalid: int | None
    second: bool
    by_signs: tuple[int, ...] = ()


@functools.cache
def sum_rule(name: str) -> SumRule:
    """Return what numpy does with NaNs in a sum.

    Args:
        name: Name of a floating-point dtype.
    """
    bits, fraction = _widths(name)
    nans = _nans(name)
    signs = nans.view(f"u{bits // 8}") >> (bits - 1)
    terms = [np.zeros(1, nans.dtype), nans[signs == 0][:1], nans[signs == 1][:1]]
    infinity = np.array([np.inf], np.float32).astype(nans.dtype)
    invalid = _sum_bits(infinity, -infinity) if np.isinf(infinity)[0] else None
    if name not in ("float16", "float32", "float64"):
        by_signs = [
            _sum_bits(one, other) if one.size and other.size else 0 for one in terms for other in terms
        ]
        return SumRule(invalid, second=False, by_signs=(invalid or 0, *by_signs[1:]))
    quiet = nans[:1].view(f"u{bits // 8}") | 1 << (fraction - 1)
    first, second = ((quiet & ~np.array(3, quiet.dtype) | number).view(nans.dtype) for number in (1, 2))
    return SumRule(invalid, second=_sum_bits(first, second) & 3 == 2)


def _sum_bits(first: Array, second: Array) -> int:
    with np.errstate(all="ignore"):
        total = np.repeat(first, 64) + np.repeat(second, 64)
    return int(total.view(f"u{total.dtype.itemsize}")[0])


def _widths(name: str) -> tuple[int, int]:
    """Return how many bits a dtype has, and how many of them are its fraction."""
    dtype = dtype_named(name)
    return 8 * dtype.itemsize, int(ml_dtypes.finfo(dtype).nmant)  # type: ignore[no-untyped-call]
