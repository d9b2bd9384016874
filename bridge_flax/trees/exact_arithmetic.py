"""Casts and sums of JAX arrays with the bits that numpy gives: of NaNs, and of numbers near zero."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from jax import lax

from bridge_core import UnsupportedFeature
from bridge_core.ops import nan_rule, sum_rule

__all__ = ["added", "bits_of", "differentiable", "from_bits", "with_numpy_nans"]

_SMALL = 67
"""Exponents below it, of numbers under 2**-60, are added after scaling: then no sum is a denormal number."""

_SCALE = 100
"""By which power of two."""


def bits_of(array: Any) -> Any:
    """Return the bits of each element as an integer; integers are returned unchanged."""
    array = jnp.asarray(array)
    if array.dtype.kind in "iu":
        return array
    if array.dtype.kind == "b":
        return array.astype(np.uint8)
    return lax.bitcast_convert_type(array, np.dtype(f"u{array.dtype.itemsize}"))


def from_bits(bits: Any, dtype: Any) -> Any:
    """Return the array with these bits, the inverse of `bits_of`."""
    if np.dtype(dtype).kind == "b":
        return bits.astype(bool)
    return bits if bits.dtype == dtype else lax.bitcast_convert_type(bits, dtype)


def differentiable(exact: Callable[..., Any], plain: Callable[..., Any], *arrays: Any) -> Any:
    """Return what a function of bits returns, with the derivative of a plain function of numbers."""
    function = jax.custom_jvp(exact)
    function.defjvp(lambda primals, tangents: (exact(*primals), jax.jvp(plain, primals, tangents)[1]))
    return function(*map(jnp.asarray, arrays))


def with_numpy_nans(array: Any, dtype: np.dtype[Any]) -> Any:
    """Return values in another floating-point dtype; NaNs get the bits that numpy gives them.

    Raises:
        UnsupportedFeature: numpy's NaNs follow no known rule.
    """
    source = np.dtype(array.dtype)
    rule = nan_rule(source.name, dtype.name)
    if rule is None:
        raise UnsupportedFeature(
            f"numpy gives NaNs cast from {source.name} to {dtype.name} bits that follow no known rule.",
            hint="Cast before or after the compiled function.",
        )

    def plain(values: Any) -> Any:
        return lax.convert_element_type(values, dtype)

    def exact(values: Any) -> Any:
        bits, wide = bits_of(values), np.dtype(f"u{dtype.itemsize}")
        width, fraction = 8 * source.itemsize, int(ml_dtypes.finfo(source).nmant)  # type: ignore[no-untyped-call]
        nans = jnp.where(bits >> (width - 1) != 0, wide.type(rule.negative), wide.type(rule.positive))
        if rule.shift is not None:
            taken = bits & bits.dtype.type((1 << fraction) - 1)
            if rule.shift >= 0:
                copied = taken.astype(wide) << rule.shift
            else:
                copied = (taken >> -rule.shift).astype(wide)
            if rule.fills:
                copied = jnp.where(copied == 0, wide.type(1), copied)
            nans = nans | copied
        return from_bits(jnp.where(jnp.isnan(values), nans, bits_of(plain(values))), dtype)

    return differentiable(exact, plain, array)


def added(first: Any, second: Any) -> Any:
    """Return the sum of arrays with numpy's bits, although XLA takes denormal numbers for zeros."""
    return differentiable(_exact_sum, jnp.add, first, second)


def _exact_sum(first: Any, second: Any) -> Any:
    dtype, wide = np.dtype(first.dtype), np.dtype(np.float32)
    if dtype == wide:
        total = _float32_sum(first, second)
    else:
        total = lax.convert_element_type(
            _float32_sum(*(with_numpy_nans(t, wide) for t in (first, second))), dtype
        )
    replaced = jnp.isnan(total)
    if sum_rule(dtype.name).invalid is None:
        replaced &= jnp.isnan(first) | jnp.isnan(second)
    return from_bits(jnp.where(replaced, _sum_nans(first, second), bits_of(total)), dtype)


def _float32_sum(first: Any, second: Any) -> Any:
    one, other = bits_of(first), bits_of(second)
    small = (_exponent(one) < _SMALL) & (_exponent(other) < _SMALL)
    total = jnp.where(small, _scaled_down(_scaled_up(one) + _scaled_up(other)), bits_of(first + second))
    return from_bits(total, np.dtype(np.float32))


def _sum_nans(first: Any, second: Any) -> Any:
    """Return the bits of each sum if it is a NaN; of other sums, any bits."""
    dtype = np.dtype(first.dtype)
    rule, unsigned = sum_rule(dtype.name), np.dtype(f"u{dtype.itemsize}")
    if rule.by_signs:
        kinds = [
            jnp.where(jnp.isnan(t), 1 + (bits_of(t) >> (8 * dtype.itemsize - 1)), 0) for t in (first, second)
        ]
        return jnp.asarray(np.array(rule.by_signs, unsigned))[3 * kinds[0].astype(int) + kinds[1].astype(int)]
    quiet = unsigned.type(1 << (int(ml_dtypes.finfo(dtype).nmant) - 1))  # type: ignore[no-untyped-call]
    nans = jnp.full(first.shape, unsigned.type(rule.invalid or 0))
    for term in (first, second) if rule.second else (second, first):
        nans = jnp.where(jnp.isnan(term), bits_of(term) | quiet, nans)
    return nans


def _exponent(bits: Any) -> Any:
    return (bits >> 23) & np.uint32(255)


def _scaled_up(bits: Any) -> Any:
    """Return small numbers times a power of two, exactly; denormal ones are made from their integers."""
    sign = bits & np.uint32(1 << 31)
    denormal = bits_of(
        (bits & np.uint32((1 << 23) - 1)).astype(np.float32) * np.float32(2.0 ** (_SCALE - 149))
    )
    normal = bits_of(from_bits(bits, np.dtype(np.float32)) * np.float32(2.0**_SCALE))
    return from_bits(jnp.where(_exponent(bits) == 0, denormal | sign, normal), np.dtype(np.float32))


def _scaled_down(values: Any) -> Any:
    """Return the bits of numbers divided by the power of two.

    Sums below the normal numbers are exact multiples of the least one.
    """
    bits = bits_of(values)
    sign = bits & np.uint32(1 << 31)
    units = (jnp.abs(values) * np.float32(2.0 ** (149 - _SCALE))).astype(np.uint32)
    normal = bits_of(values * np.float32(2.0**-_SCALE))
    return jnp.where(jnp.abs(values) < np.float32(2.0 ** (_SCALE - 126)), units | sign, normal)
