"""Whether a dtype holds a number, and the zero that changes no sum."""

from __future__ import annotations

import math
from typing import Any

import ml_dtypes
import numpy as np

from bridge_core.errors import PlanError
from bridge_core.ops.base import Op
from bridge_core.state import Array, is_floating

__all__ = ["NEGATIVE_ZERO"]


def check_finite(op: Op, value: float) -> None:
    if not math.isfinite(value):
        raise PlanError(f"{op} needs a finite number.")


def constant_of(op: Op, value: float, dtype: np.dtype[Any]) -> Array:
    """Return the constant in a dtype.

    Raises:
        PlanError: The dtype cannot hold it, not even rounded.
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
        raise PlanError(f"{op}: {dtype.name} cannot hold {value}.")
    return constant


def element_bytes(array: Array) -> Array:
    """Return the bytes of every element as a row."""
    raw: Array = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    return raw.reshape(array.size, array.dtype.itemsize)


NEGATIVE_ZERO = -0.0
"""The number that changes no other when it is added, whatever its sign."""


def negative_zeros(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """Return what changes no sum: negative zeros, since -0.0 + 0.0 is 0.0."""
    return np.full(shape, NEGATIVE_ZERO, dtype)


def dtype_holds(dtype: np.dtype[Any], value: float) -> bool:
    if dtype.kind == "b":
        return value in (0, 1)
    finite = value == value and abs(value) != math.inf  # math.isfinite cannot take every int
    if dtype.kind == "c":
        dtype = np.dtype(f"f{dtype.itemsize // 2}")
    if is_floating(dtype):
        if finite and abs(value) > float(ml_dtypes.finfo(dtype).max):  # type: ignore[no-untyped-call]
            return False
        with np.errstate(all="ignore"):
            made = float(np.array(float(value)).astype(dtype))
        # Some narrow dtypes lack infinities, NaN, zero or negative numbers.
        return math.isfinite(made) if finite else made == value or (made != made and value != value)
    limits = ml_dtypes.iinfo(dtype)  # type: ignore[no-untyped-call]
    return finite and value == int(value) and int(limits.min) <= value <= int(limits.max)
