"""Whether a dtype holds a number, and the zero that changes no sum."""

from __future__ import annotations

import math
from typing import Any

import ml_dtypes
import numpy as np

from bridge_core.errors import PlanError
from bridge_core.ops.base import Op
from bridge_core.state import Array, Region, is_floating

__all__ = ["NEGATIVE_ZERO"]


def check_finite(op: Op, value: float) -> None:
    if not math.isfinite(value):
        raise PlanError(f"{op} takes a finite number, got {value}.")


def constant_of(op: Op, value: float, dtype: np.dtype[Any]) -> Array:
    """Return the constant as an array without axes, rounded to a dtype.

    Raises:
        PlanError: The number is outside the dtype's range.
    """
    if is_floating(dtype):
        largest = float(ml_dtypes.finfo(dtype).max)  # type: ignore[no-untyped-call]
        fits = abs(value) <= largest
    elif dtype.kind == "c":
        fits = abs(value) <= float(np.finfo(dtype).max)
    elif dtype.kind == "b":
        fits = value in (0, 1)
    else:
        limits = ml_dtypes.iinfo(dtype)  # type: ignore[no-untyped-call]
        fits = value == int(value) and int(limits.min) <= value <= int(limits.max)
    constant: Array = np.zeros((), dtype)
    if fits:
        with np.errstate(invalid="ignore", under="ignore"):
            constant = np.array(value if is_floating(dtype) or dtype.kind == "c" else int(value)).astype(
                dtype
            )
        # float8_e8m0fnu has neither a zero nor negative numbers: they become NaN.
        fits = dtype.kind == "c" or not math.isnan(float(constant))
    if not fits:
        raise PlanError(f"{op} cannot use {value}: the dtype {dtype.name} cannot hold it.")
    return constant


def first_difference(values: Array, expected: Array, region: Region) -> tuple[list[int], str, str]:
    """Return where values first differ from those expected, and both values there as texts.

    Args:
        values: The values of a region of a tensor.
        expected: As many values of the same dtype, or one; the bytes of at least one element differ.
        region: The region.

    Returns:
        ``(index in the tensor, expected value, value)``; bytes where the values look alike.

    >>> first_difference(np.zeros(2), np.array([0, 1.0]), (slice(10, 12, 1),))
    ([11], '1.0', '0.0')
    """
    differs = (element_bytes(values) != element_bytes(expected)).any(axis=1)
    flat = int(differs.argmax())
    place = np.unravel_index(flat, values.shape)
    index = [part.start + int(i) * part.step for part, i in zip(region, place, strict=True)]
    pair = expected.reshape(-1)[flat if expected.size > 1 else 0], values[place]
    one, other = map(str, pair)
    if one == other:  # two NaNs, for example
        one, other = (f"0x{value.tobytes().hex()}" for value in pair)
    return index, one, other


def element_bytes(array: Array) -> Array:
    """Return the bytes of every element as a row: uint8 ``[elements, bytes of one]``."""
    raw: Array = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    return raw.reshape(array.size, array.dtype.itemsize)


NEGATIVE_ZERO = -0.0
"""The number that changes no other when it is added, whatever its sign."""


def negative_zeros(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """Return what changes no sum: negative zeros, since -0.0 + 0.0 is 0.0."""
    return np.full(shape, NEGATIVE_ZERO, dtype)


def dtype_holds(dtype: np.dtype[Any], value: float) -> bool:
    """Return whether a dtype holds a number, rounded where it is a floating-point dtype."""
    if dtype.kind == "b":
        return value in (0, 1)
    finite = value == value and abs(value) != math.inf  # math.isfinite cannot take every int
    if dtype.kind == "c":
        dtype = np.dtype(f"f{dtype.itemsize // 2}")
    if is_floating(dtype):
        if finite and abs(value) > float(ml_dtypes.finfo(dtype).max):  # type: ignore[no-untyped-call]
            return False
        with np.errstate(all="ignore"):
            held = float(np.array(float(value)).astype(dtype))
        # Some narrow dtypes have no infinities, NaN, zero or negative numbers.
        return math.isfinite(held) if finite else held == value or (held != held and value != value)
    limits = ml_dtypes.iinfo(dtype)  # type: ignore[no-untyped-call]
    return finite and value == int(value) and int(limits.min) <= value <= int(limits.max)
