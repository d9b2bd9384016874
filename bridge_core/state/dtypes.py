"""The dtypes that the bridge supports, by the names that the frameworks share.

numpy does not have the narrow floats; ml_dtypes adds them as ordinary numpy dtypes, so everything else in the
bridge handles one kind of object.
"""

from __future__ import annotations

import functools
from typing import Any

import ml_dtypes
import numpy as np

from bridge_core.errors import UnsupportedFeature
from bridge_core.messages import nearest

__all__ = ["DTYPES", "MAX_RANK", "PACKED", "cast_is_exact", "dtype_named", "is_floating", "native"]

_NUMPY = (
    "bool",
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "float16",
    "float32",
    "float64",
    "complex64",
    "complex128",
)
_ML_DTYPES = (
    "bfloat16",
    "float8_e3m4",
    "float8_e4m3",
    "float8_e4m3b11fnuz",
    "float8_e4m3fn",
    "float8_e4m3fnuz",
    "float8_e5m2",
    "float8_e5m2fnuz",
    "float8_e8m0fnu",
    "float6_e2m3fn",
    "float6_e3m2fn",
    "float4_e2m1fn",
    "int2",
    "int4",
    "uint2",
    "uint4",
)

DTYPES: dict[str, np.dtype[Any]] = {
    **{name: np.dtype(name) for name in _NUMPY},
    **{name: np.dtype(getattr(ml_dtypes, name)) for name in _ML_DTYPES if hasattr(ml_dtypes, name)},
}
"""Name -> numpy dtype, native byte order. In memory one element always takes ``itemsize`` bytes."""

PACKED: dict[str, int] = {"float4_e2m1fn": 2, "int4": 2, "uint4": 2, "int2": 4, "uint2": 4}
"""Dtype -> elements per byte in formats that pack it; in memory each element takes one byte."""


MAX_RANK = 64 if int(np.__version__.partition(".")[0]) >= 2 else 32
"""The largest number of axes of an array in numpy."""


def dtype_named(name: str) -> np.dtype[Any]:
    """Return the numpy dtype of a name in `DTYPES`.

    Raises:
        UnsupportedFeature: The name is not in `DTYPES`.
    """
    try:
        return DTYPES[name]
    except (KeyError, TypeError):
        shown = str(name)[:80]
        raise UnsupportedFeature(f"unknown dtype {shown!r}.", hint=nearest(shown, DTYPES)) from None


@functools.lru_cache(maxsize=256)
def native(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the dtype in native byte order.

    Raises:
        UnsupportedFeature: The dtype is not in `DTYPES`, as those of objects, strings, dates and records.
    """
    supported = DTYPES.get(dtype.name)
    if supported is None:
        raise UnsupportedFeature(
            f"expected an array of numbers or booleans, got numpy's dtype {str(dtype)[:80]!r}.",
            hint='Convert the array first, for example array.astype("float32").',
        )
    return supported


def is_floating(dtype: np.dtype[Any]) -> bool:
    """Return whether the dtype is a real floating-point type, narrow ones included."""
    return dtype.kind == "f" or (dtype.kind == "V" and "float" in dtype.name)


def _format(dtype: np.dtype[Any]) -> tuple[int, int, int, bool]:
    info = ml_dtypes.finfo(dtype)  # type: ignore[no-untyped-call]
    has_zero = dtype.name != "float8_e8m0fnu"
    return int(info.nmant), int(info.maxexp), int(info.minexp), has_zero


def cast_is_exact(source: np.dtype[Any], target: np.dtype[Any]) -> bool:
    """Return whether every value of ``source`` survives a cast to ``target`` and back.

    >>> cast_is_exact(dtype_named("bfloat16"), dtype_named("float32"))
    True
    >>> cast_is_exact(dtype_named("int64"), dtype_named("float32"))
    False
    """
    if source == target:
        return True
    if is_floating(source) and is_floating(target):
        if target.itemsize <= source.itemsize:
            return False
        mantissa, top, bottom, zero = _format(source)
        wide_mantissa, wide_top, wide_bottom, wide_zero = _format(target)
        fits = mantissa <= wide_mantissa and top <= wide_top and bottom >= wide_bottom
        return fits and (wide_zero or not zero)
    if source.kind == "c" or target.kind == "c":
        # A cast from complex to real loses the imaginary part.
        return source.kind == target.kind and source.itemsize < target.itemsize
    integer, wide = _integer(source), _integer(target)
    if integer is None:
        return False
    bits, signed = integer
    if wide is not None:
        return target.kind != "b" and bits <= wide[0] and (wide[1] or not signed)
    mantissa, top, _, zero = _format(target)
    return zero and bits <= mantissa + 1 and bits + signed <= top


def _integer(dtype: np.dtype[Any]) -> tuple[int, bool] | None:
    """Return the bits of the magnitude and whether there is a sign; None if not an integer."""
    if dtype.kind == "b":
        return 1, False
    if is_floating(dtype) or dtype.kind == "c":
        return None
    signed = not dtype.name.startswith("u")
    return int(dtype.name.lstrip("uint")) - signed, signed
