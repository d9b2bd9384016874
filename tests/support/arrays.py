"""Arrays of any dtype with random bits, and equality of bits."""

from __future__ import annotations

import numpy as np

from bridge_core.state.dtypes import DTYPES, is_floating

WIDTHS = {
    "int2": 2,
    "uint2": 2,
    "int4": 4,
    "uint4": 4,
    "float4_e2m1fn": 4,
    "float6_e2m3fn": 6,
    "float6_e3m2fn": 6,
}
"""Bits of the dtypes that use only part of the byte that they take in memory."""


def random_array(shape, dtype, seed=0):
    """Random bits of a dtype: NaNs, infinities and denormals of every kind are among them."""
    dtype = DTYPES[dtype] if isinstance(dtype, str) else np.dtype(dtype)
    rng = np.random.default_rng(seed)
    if dtype.name == "bool":
        return rng.integers(0, 2, shape).astype(bool)
    if dtype.name in ("int2", "int4"):
        half = 1 << (WIDTHS[dtype.name] - 1)
        return rng.integers(-half, half, shape).astype(np.int8).astype(dtype)
    count = int(np.prod(shape, dtype=np.int64))
    raw = rng.integers(0, 1 << WIDTHS.get(dtype.name, 8), count * dtype.itemsize, np.uint8)
    return raw.view(dtype).reshape(shape)


def every_value(dtype):
    """Every bit pattern of a dtype of at most 16 bits."""
    dtype = DTYPES[dtype] if isinstance(dtype, str) else np.dtype(dtype)
    if dtype.name == "bool":
        return np.array([False, True])
    if dtype.name in ("int2", "int4"):
        half = 1 << (WIDTHS[dtype.name] - 1)
        return np.arange(-half, half).astype(np.int8).astype(dtype)
    bits = WIDTHS.get(dtype.name, dtype.itemsize * 8)
    return np.arange(1 << bits).astype(np.uint8 if dtype.itemsize == 1 else np.uint16).view(dtype)


def same_bits(a, b):
    """Whether two arrays have one dtype, one shape and equal bits."""
    a, b = np.asarray(a), np.asarray(b)
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def assert_same_bits(found, wanted, name=""):
    found, wanted = np.asarray(found), np.asarray(wanted)
    assert found.dtype == wanted.dtype, (name, found.dtype, wanted.dtype)
    assert found.shape == wanted.shape, (name, found.shape, wanted.shape)
    assert found.tobytes() == wanted.tobytes(), f"{name}: other bits"


def is_nan(array):
    if array.dtype.kind != "c" and not is_floating(array.dtype):
        return np.zeros(array.shape, bool)
    with np.errstate(invalid="ignore"):  # signalling ones are among them
        return np.isnan(array)


def assert_same_values(found, wanted):
    """Bits are equal, but a NaN may become another NaN: no cast keeps those apart."""
    assert found.dtype == wanted.dtype
    assert found.shape == wanted.shape
    nan = is_nan(wanted)
    np.testing.assert_array_equal(is_nan(found), nan)
    assert same_bits(found[~nan], wanted[~nan])
