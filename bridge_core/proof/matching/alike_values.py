"""Values that are the same for all tensors between which rules leave a choice."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable

import numpy as np

from bridge_core.proof.matching.matching import PatternPair
from bridge_core.state import Array, ArrayTensor, FlatState, Key, Tensor

__all__ = ["alike_values", "changed_values"]

_MOST_ORDERS = 24
"""Orders of axes over which values are averaged; a kernel of a convolution has four axes."""


def alike_values(values: FlatState, rules: Iterable[PatternPair]) -> FlatState:
    """Return weights in which tensors that could be made into one target are equal.

    Where several equations are possible, values are symmetric in axes of one size: each then makes the same.

    Args:
        values: The source's weights, in memory; they are not changed.
        rules: All rules of what is open.
    """
    makers: defaultdict[tuple[Key, ...], list[tuple[tuple[Key, ...], str]]] = defaultdict(list)
    for rule in rules:
        for sources, targets in rule.keys:
            makers[targets].append((sources, rule.equation))
    root: dict[Key, Key] = {}

    def find(key: Key) -> Key:
        while root.get(key, key) != key:
            key = root[key]
        return key

    turned: set[Key] = set()
    for ways in makers.values():
        first = ways[0][0]
        for sources, _ in ways:
            for one, other in zip(first, sources, strict=False):
                root[find(other)] = find(one)
        if len({equation for _, equation in ways}) > 1:
            turned.update(key for sources, _ in ways for key in sources)
    members: defaultdict[Key, list[Key]] = defaultdict(list)
    for key in {key for ways in makers.values() for sources, _ in ways for key in sources}:
        members[find(key)].append(key)
    tensors: dict[Key, Tensor] = {}
    for keys in members.values():
        keys.sort()
        value = values.read(keys[0])
        if not turned.isdisjoint(keys):
            value = _symmetric(value)
        tensors.update((key, ArrayTensor(value)) for key in keys if values.spec(key).shape == value.shape)
    return _with(values, tensors)


def changed_values(
    values: FlatState, others: FlatState, pairs: Iterable[PatternPair], every: Iterable[PatternPair]
) -> FlatState:
    """Return weights with one item changed.

    Args:
        values: The weights, alike.
        others: Other weights, alike as well.
        pairs: The rules of the item's options: their tensors get values that no order of axes leaves alike.
        every: The same with the rules of what is open in the options.
    """
    own, inner = (
        {key for pair in rules for sources, _ in pair.keys for key in sources} for rules in (pairs, every)
    )
    tensors: dict[Key, Tensor] = {}
    for key in inner | own:
        value = others.read(key).astype(np.float64)
        if key in own:  # signs stay, and no order of the axes leaves the values alike
            value = value * np.exp(0.5 * np.random.default_rng(value.size).standard_normal(value.shape))
        tensors[key] = ArrayTensor(np.asarray(value, values.spec(key).dtype))
    return _with(values, tensors)


def _symmetric(value: Array) -> Array:
    """Return the average over all orders of axes that leave the shape unchanged."""
    orders = [
        order
        for order in itertools.islice(itertools.permutations(range(value.ndim)), _MOST_ORDERS)
        if tuple(value.shape[axis] for axis in order) == value.shape
    ]
    if len(orders) < 2:
        return value
    # Sums of sorted parts are the same for every order.
    parts = np.sort(np.stack([value.astype(np.float64).transpose(order) for order in orders]), axis=0)
    return np.asarray(parts.sum(axis=0) / np.sqrt(len(orders)), value.dtype)


def _with(values: FlatState, tensors: dict[Key, Tensor]) -> FlatState:
    """Return weights with some replaced; tied keys follow their owners."""
    ties = values.metadata.ties
    result = {**values.tensors(), **tensors}
    for key, owner in ties.items():
        if owner in result and key in result:
            result[key] = result[owner]
    return values.replace(tensors=result, metadata=values.metadata)
