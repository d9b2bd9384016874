"""What the contract of model runs does with weights and arrays."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from bridge_core.errors import BridgeError
from bridge_core.plugins import Inputs
from bridge_core.state import Array, FlatState, Key
from bridge_core.testing.strategies import same_bits

__all__ = [
    "is_below",
    "copy_of",
    "equal_inputs",
    "is_plain",
    "is_float",
    "other_values",
    "readable_arrays",
    "with_arrays",
    "same_arrays",
    "with_values",
]


def readable_arrays(state: FlatState) -> dict[Key, Array]:
    """Return copies of the values that a state has; a model may have none of its own."""
    arrays = {}
    for key in state:
        try:
            arrays[key] = np.array(state[key])
        except BridgeError:
            continue
    return arrays


def with_values(state: FlatState) -> FlatState:
    """Return the state with random values in place of those that the model does not have."""
    arrays = readable_arrays(state)
    rng = np.random.default_rng(5)
    for key, spec in state.specs().items():
        if key not in arrays:
            values = rng.uniform(0.1, 0.5, spec.shape) * rng.choice([-1, 1], spec.shape)
            arrays[key] = (np.abs(values) if key[-1] in _POSITIVE else values).astype(spec.dtype)
    ties = state.metadata.ties
    return with_arrays(state, {key: arrays[ties.get(key, key)] for key in state})


_POSITIVE = ("running_var", "scale", "var")


def copy_of(state: FlatState) -> FlatState:
    """Return a state with copies of all values."""
    return with_arrays(state, {key: np.array(state[key]) for key in state})


def with_arrays(state: FlatState, arrays: Mapping[Key, Array]) -> FlatState:
    """Return a state with other values, whose ties hold for them too."""
    return state.replace(tensors=arrays, metadata=state.metadata)


def other_values(array: Array) -> Array:
    """Return other values that a weight of this dtype may have; integers and flags stay."""
    if array.dtype.kind in "biu":
        return np.array(array)
    return np.asarray(array * 1.25 + 0.125).astype(array.dtype)


def is_below(path: Key, state: FlatState) -> bool:
    """Return whether a key is below a path."""
    return any(key[: len(path)] == path for key in state)


def is_float(array: Array) -> bool:
    """Return whether an array is of real floats, ml_dtypes' included."""
    return array.dtype.kind not in "biuc"


def is_plain(value: Any) -> bool:
    """Return whether a value is a plain one, or a tuple of them."""
    if isinstance(value, tuple):
        return all(is_plain(item) for item in value)
    return value is None or isinstance(value, bool | int | float | str)


def same_arrays(left: Mapping[Any, Array], right: Mapping[Any, Array]) -> bool:
    """Return whether two mappings have equal names and bits."""
    return left.keys() == right.keys() and all(same_bits(left[name], right[name]) for name in left)


def equal_inputs(before: Inputs, after: Inputs) -> bool:
    """Compare arrays at the top level; containers by their printed form."""
    if len(before.positional) != len(after.positional) or before.named.keys() != after.named.keys():
        return False
    pairs = [
        *zip(before.positional, after.positional, strict=True),
        *((before.named[name], after.named[name]) for name in before.named),
    ]
    return all(
        same_bits(left, right) if isinstance(left, np.ndarray) else repr(left) == repr(right)
        for left, right in pairs
    )
