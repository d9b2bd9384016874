"""Hypothesis strategies for what the bridge carries: dtypes, bit patterns, keys, states and regions."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any

import numpy as np
from hypothesis import strategies as st

from bridge_core.state import DTYPES, PACKED, Array, FlatState, Key, Region, TensorSpec

__all__ = [
    "arrays",
    "bit_patterns",
    "flat_states",
    "keys",
    "plain_values",
    "regions_of",
    "same_bits",
    "tensor_specs",
]

_PLAIN = "abcxyzABC0123456789_-é中"
_BITS = {
    "float6_e2m3fn": 6,
    "float6_e3m2fn": 6,
    "float4_e2m1fn": 4,
    "int4": 4,
    "uint4": 4,
    "int2": 2,
    "uint2": 2,
}
_DRAWN = 262_147
"""Random bytes of a large array, which repeats them; a prime, so that no block equals the next one."""
_SPECIAL = {
    "float32": [0x7FC00000, 0x7F800001, 0xFFC12345, 0x7F800000, 0xFF800000, 0x80000000, 1],
    "float64": [0x7FF8 << 48, (0x7FF0 << 48) + 1, (0xFFF8 << 48) + 0x12345, 0x7FF0 << 48, 1 << 63, 1],
}


def bit_patterns(name: str, *, seed: int = 0) -> Array:
    """Return every bit pattern of a narrow dtype, or many of a wide one.

    NaNs with payloads, both zeros, infinities, the smallest and random ones are among them. The number of
    elements is even.

    Args:
        name: The dtype's name.
        seed: Seed of the random ones.

    >>> bit_patterns("bfloat16").size
    65536
    """
    dtype = DTYPES[name]
    if name == "bool":
        return np.array([False, True])
    if name in _BITS:
        return np.arange(1 << _BITS[name], dtype=np.uint8).view(dtype)
    if dtype.itemsize <= 2:
        return np.arange(1 << 8 * dtype.itemsize, dtype=f"u{dtype.itemsize}").view(dtype)
    raw = np.random.default_rng(seed).integers(0, 256, 1024 * dtype.itemsize, np.uint8).view(dtype)
    part = {"complex64": "float32", "complex128": "float64"}.get(name, name)
    special = np.array(_SPECIAL.get(part, [0]), f"u{DTYPES[part].itemsize}")
    raw.view(special.dtype)[: special.size] = special
    return raw


def plain_values(name: str, shape: tuple[int, ...], *, seed: int = 0) -> Array:
    """Return an array of finite values that are positive, or also zero for narrow dtypes and bool.

    Args:
        name: The dtype's name.
        shape: The shape.
        seed: Seed of the values.
    """
    dtype = DTYPES[name]
    nbytes = math.prod(shape) * dtype.itemsize
    raw = np.random.default_rng(seed).integers(16, 101, min(nbytes, _DRAWN), np.uint8)
    raw = np.resize(raw, nbytes)
    if name == "bool" or name in _BITS:
        raw &= {"bool": 1}.get(name, (1 << _BITS.get(name, 1) - 1) - 1)
    return raw.view(dtype).reshape(shape)


def same_bits(first: Array, second: Array) -> bool:
    """Return whether two arrays are equal in dtype, shape and every bit."""
    return (
        first.dtype == second.dtype
        and first.shape == second.shape
        and np.ascontiguousarray(first).tobytes() == np.ascontiguousarray(second).tobytes()
    )


def tensor_specs(
    dtypes: Collection[str] = tuple(DTYPES), *, max_rank: int = 6, max_side: int = 5
) -> st.SearchStrategy[TensorSpec]:
    """Shapes up to ``max_rank`` with zero-size axes, over the named dtypes.

    Packed dtypes get a number of elements that fills their bytes.
    """

    def whole(parts: tuple[str, list[int]]) -> TensorSpec:
        name, shape = parts
        if name in PACKED:
            shape = [*shape[:-1], (shape[-1] if shape else 1) * PACKED[name]]
        return TensorSpec(tuple(shape), DTYPES[name])

    shapes = st.lists(st.integers(0, max_side), max_size=max_rank)
    return st.tuples(st.sampled_from(sorted(dtypes)), shapes).map(whole)


def arrays(
    dtypes: Collection[str] = tuple(DTYPES), *, max_rank: int = 6, max_side: int = 5
) -> st.SearchStrategy[Array]:
    """Arrays of any spec from `tensor_specs`, in any memory order, with any bits."""

    def build(parts: tuple[TensorSpec, int, str]) -> Array:
        spec, seed, form = parts
        array = _random(spec, seed)
        if form == "fortran":
            return np.asfortranarray(array)
        if form == "reversed":
            return np.ascontiguousarray(array[..., ::-1])[..., ::-1] if array.ndim else array
        if form == "strided" and array.ndim:
            return np.repeat(array, 2, axis=0)[::2]
        if form == "swapped" and spec.dtype.isbuiltin == 1:
            return array.astype(array.dtype.newbyteorder(">"))
        return array

    forms = st.sampled_from(["plain", "fortran", "reversed", "strided", "swapped"])
    specs = tensor_specs(dtypes, max_rank=max_rank, max_side=max_side)
    return st.tuples(specs, st.integers(0, 2**32 - 1), forms).map(build)


def _random(spec: TensorSpec, seed: int) -> Array:
    """Return random bits; a seed, so that large arrays cost hypothesis nothing."""
    rng = np.random.default_rng(seed)
    raw = rng.integers(0, 256, spec.nbytes, np.uint8)
    if spec.dtype.name == "bool":
        raw &= 1
    elif spec.dtype.name in _BITS:
        raw &= (1 << _BITS[spec.dtype.name]) - 1
    array: Array = raw.view(spec.dtype).reshape(spec.shape)
    return array


def keys(*, any_text: bool = False, max_parts: int = 4) -> st.SearchStrategy[Key]:
    """Keys of one to ``max_parts`` parts, none of them empty.

    Args:
        any_text: Parts of any Unicode text but lone surrogates; otherwise of letters, digits and ``_-``.
        max_parts: The most parts.
    """
    alphabet = st.characters(exclude_categories=["Cs"]) if any_text else st.sampled_from(_PLAIN)
    return st.lists(st.text(alphabet, min_size=1, max_size=8), min_size=1, max_size=max_parts).map(tuple)


def flat_states(
    dtypes: Collection[str] = tuple(DTYPES),
    *,
    layout: str | None = None,
    any_text: bool = False,
    max_tensors: int = 6,
) -> st.SearchStrategy[FlatState]:
    """States of a few small arrays; no key is the beginning of another."""

    def build(entries: dict[Key, Any]) -> FlatState:
        chosen: dict[Key, Any] = {}
        for key, array in entries.items():
            shorter = {key[:n] for n in range(1, len(key))}
            if not shorter & chosen.keys() and not any(other[: len(key)] == key for other in chosen):
                chosen[key] = array
        return FlatState(chosen, layout=layout)

    few = arrays(dtypes, max_rank=4, max_side=4)
    return st.dictionaries(keys(any_text=any_text), few, max_size=max_tensors).map(build)


@st.composite
def regions_of(draw: st.DrawFn, shape: tuple[int, ...]) -> Region:
    """Regions of a tensor: one slice an axis, with steps, some of them empty."""
    region = []
    for n in shape:
        start = draw(st.integers(0, n))
        region.append(slice(start, draw(st.integers(start, n)), draw(st.integers(1, 3))))
    return tuple(region)
