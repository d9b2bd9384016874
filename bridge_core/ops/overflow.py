"""Counting the values that are out of range for the dtype that they are cast to."""

from __future__ import annotations

import functools
import math
import threading
from types import TracebackType

import ml_dtypes
import numpy as np

from bridge_core.state import Array, cast_is_exact, dtype_named, is_floating

__all__ = ["OverflowCount", "count_overflow"]

_counting = threading.local()


class OverflowCount:
    """A context manager that counts values that casts move out of the target's range.

    Only casts of this thread are counted.

    Attributes:
        values: How many values were finite before a cast and are not after it, or were out of the range of
            an integer dtype.
    """

    def __init__(self) -> None:
        self.values = 0
        self._outer: OverflowCount | None = None

    def __enter__(self) -> OverflowCount:
        self._outer = getattr(_counting, "now", None)
        _counting.now = self
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        _counting.now = self._outer


def count_overflow(before: Array, after: Array) -> None:
    """Add to the thread's `OverflowCount` the values that are out of range after a cast.

    Without an entered `OverflowCount`, and for a target that holds every value, nothing is read; else the
    cost is two passes over the values before the cast.

    Args:
        before: The values.
        after: The same values after the cast.
    """
    counter: OverflowCount | None = getattr(_counting, "now", None)
    if counter is None or not before.size:
        return
    limits = _limits(before.dtype.name, after.dtype.name)
    if limits is None:
        return
    low, high, to_integer = limits
    if before.dtype.isbuiltin != 1:
        before = before.astype(np.float32)  # holds every value of the small types
    if to_integer and before.dtype.kind == "f":
        before = np.trunc(before.astype(np.float64))
    with np.errstate(invalid="ignore", over="ignore"):
        if before.dtype.kind != "c" and before.min().item() >= low and before.max().item() <= high:
            return
        if to_integer:
            lost = ~((before >= low) & (before <= high))
        elif _saturates(after.dtype.name):
            lost = np.isfinite(before) & ((before < low) | (before > high))
        else:
            lost = np.isfinite(before) & ~np.isfinite(after)
    counter.values += int(np.count_nonzero(lost))


@functools.cache
def _limits(source: str, target: str) -> tuple[float, float, bool] | None:
    """Return the lowest and highest value that stay in range, and whether the target has integers.

    Returns:
        ``(lowest, highest, whether the target has integers)``; None if every value stays in range.
    """
    one, other = dtype_named(source), dtype_named(target)
    if other.kind == "b" or cast_is_exact(one, other):
        return None
    if other.kind == "c":
        other = np.dtype(f"float{other.itemsize * 4}")
    if is_floating(other):
        info = ml_dtypes.finfo(other)  # type: ignore[no-untyped-call]
        return float(info.min), float(info.max), False
    bounds = ml_dtypes.iinfo(other)  # type: ignore[no-untyped-call]
    low, high = int(bounds.min), int(bounds.max)
    if is_floating(one):
        # float64 does not hold the highest 64-bit integers; the next number below them is the limit.
        return low, high if other.itemsize < 8 else math.nextafter(float(high), 0), True
    if one.kind != "b":
        held = ml_dtypes.iinfo(one)  # type: ignore[no-untyped-call]
        low, high = max(low, int(held.min)), min(high, int(held.max))
    return low, high, True


@functools.cache
def _saturates(name: str) -> bool:
    """Return whether a dtype has neither infinities nor NaN, so that a cast takes its largest value."""
    with np.errstate(all="ignore"):
        dtype = dtype_named(name)
        return is_floating(dtype) and bool(np.isfinite(np.asarray(np.inf, np.float32).astype(dtype)))
