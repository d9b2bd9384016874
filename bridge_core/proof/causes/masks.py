"""Masks and biases of attention: those that a form computes, and those found among a module's inputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from bridge_core.state import Array

__all__ = ["alibi", "biases_among", "diagonal", "masks_among", "relative_buckets"]


def diagonal(queries: Array, keys: int, causal: int | None, window: int | None) -> Array | None:
    """Return which keys each query may see, bool ``(queries, keys)``; None if all.

    Args:
        queries: Places of the queries.
        keys: Number of keys; the last query's place is that of the last key.
        causal: How far ahead a query may see: 0 for its own place; None for everything.
        window: How many places back, its own included; None for all.
    """
    if causal is None and window is None:
        return None
    back = queries[:, None] - np.arange(keys)
    seen = np.ones(back.shape, bool)
    if causal is not None:
        seen &= back >= -causal
    if window is not None:
        seen &= back < window
    return seen


def alibi(queries: Array, keys: int, heads: int) -> Array:
    """Return ALiBi's biases, ``(heads, queries, keys)``."""
    power = 2 ** int(np.floor(np.log2(heads)))
    slopes = 2.0 ** (-8 * np.arange(1, power + 1) / power)
    if power < heads:
        slopes = np.concatenate((slopes, 2.0 ** (-4 * np.arange(1, 2 * (heads - power), 2) / power)))
    back = queries[:, None] - np.arange(keys)
    result: Array = -slopes[:, None, None] * np.abs(back)
    return result


def relative_buckets(
    queries: Array, keys: int, buckets: int, distance: int, bidirectional: bool, reverse: bool = False
) -> Array:
    """Return T5's bucket of each pair, int ``(queries, keys)``.

    Args:
        queries: Places of the queries.
        keys: Number of keys.
        buckets: How many buckets the table has.
        distance: From which distance on all pairs share the last bucket.
        bidirectional: Whether keys ahead have buckets of their own.
        reverse: Whether query and key are exchanged, a mistake.
    """
    ahead = np.arange(keys) - queries[:, None]
    if reverse:
        ahead = -ahead
    first = np.zeros(ahead.shape, int)
    if bidirectional:
        buckets //= 2
        first = (ahead > 0) * buckets
        distances = np.abs(ahead)
    else:
        distances = np.maximum(-ahead, 0)
    exact = buckets // 2
    if exact < 1 or distance <= exact:
        return first + np.minimum(distances, max(buckets - 1, 0))
    large = exact + (
        np.log(np.maximum(distances, 1).astype(np.float32) / exact)
        / np.log(distance / exact)
        * (buckets - exact)
    ).astype(int)  # in float32, as everywhere: on the border of two buckets it counts
    return first + np.where(distances < exact, distances, np.minimum(large, buckets - 1))


def masks_among(
    arrays: Mapping[str, Any], batch: int, queries: int, keys: int
) -> Iterator[tuple[str, Array]]:
    """Yield what may be masks: name, and 0 or 1 as float64 ``(batch or 1, heads or 1, queries or 1, keys)``.

    Args:
        arrays: Arrays of any kind by name.
        batch: Sizes that a mask must fit.
        queries: The same.
        keys: The same.
    """
    numbers = {}
    for name, value in arrays.items():
        array = np.asarray(value)
        if _zeros_and_ones(array):
            for label, shaped in _readings(array, batch, queries, keys):
                yield name + label, shaped.astype(float)
        elif array.dtype.kind in "iu" and array.shape == (batch, keys):
            numbers[name] = array
    for name, array in numbers.items():  # token ids, of which one may stand for padding
        for padding in (0, 1):
            if (array == padding).any() and not (array == padding).all():
                yield f"{name} != {padding}", (array != padding).astype(float)[:, None, None]


def biases_among(
    arrays: Mapping[str, Any], batch: int, queries: int, keys: int
) -> Iterator[tuple[str, Array]]:
    """Yield what may be added to logits, float64 in the shapes of `masks_among`, with names."""
    for name, value in arrays.items():
        array = np.asarray(value)
        if array.dtype.kind in "OSUbiu" or _zeros_and_ones(array):
            continue
        array = np.maximum(np.nan_to_num(array.astype(np.float64), neginf=-1e38), -1e38)
        for label, shaped in _readings(array, batch, queries, keys):
            yield name + label, shaped


def _zeros_and_ones(array: Array) -> bool:
    return bool(array.dtype.kind in "biuf" and array.size and ((array == 0) | (array == 1)).all())


def _readings(array: Array, batch: int, queries: int, keys: int) -> Iterator[tuple[str, Array]]:
    """Yield each way to read an array's axes, with a label if it is not the only one."""
    if array.ndim == 4:
        a, _, q, k = array.shape
        if a in (1, batch) and q in (1, queries) and k == keys:
            yield "", array
    elif array.ndim == 3:
        a, q, k = array.shape
        if q in (1, queries) and k == keys:
            yield "", array[:, None] if a in (1, batch) else array[None]
    elif array.ndim == 2:
        rows, k = array.shape
        if k != keys:
            return
        if rows == batch:
            yield "", array[:, None, None]
        if rows == queries and rows > 1:
            yield " (query, key)" if rows == batch else "", array[None, None]
    elif array.ndim == 1 and array.shape == (keys,) and batch == 1:
        yield "", array[None, None, None]
