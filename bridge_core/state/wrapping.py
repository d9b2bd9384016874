"""The tensors that a state is made from: values of a mapping, by key."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any

from bridge_core.errors import UsageError, about_tensor
from bridge_core.state.keys import Key
from bridge_core.state.tensors import Tensor, as_tensor, is_tensor

__all__ = ["wrapped_tensors"]


def wrapped_tensors(tensors: Mapping[Any, Any]) -> tuple[dict[Key, Tensor], tuple[Key, ...]]:
    """Return the tensors of a mapping by key, and the paths of its empty nodes.

    Args:
        tensors: Key or dotted name -> tensor or array, or a nested mapping or list of them.

    Raises:
        KeyConflict: Two names are the same key.
        UnsupportedFeature: A value is not an array of numbers or booleans.
        UsageError: It is not a mapping, or a name is neither a string, an integer nor a tuple of them.
    """
    if not isinstance(tensors, Mapping):
        raise UsageError(
            f"expected a FlatState or a mapping from keys to arrays, got {type(tensors).__name__}.",
            hint='Pass a dict such as {"layers.0.weight": array}.',
        )
    tensors = dict(tensors)  # another mapping may read each value that it gives
    if _are_keys(tensors):
        one_of_each = {type(value): value for value in tensors.values()}
        if not any(kind in (list, tuple) or issubclass(kind, Mapping) for kind in one_of_each):
            if all(map(is_tensor, one_of_each.values())):
                return tensors, ()
            return {key: _as_tensor(key, value) for key, value in tensors.items()}, ()
    from bridge_core.state.nested_names import flatten_mapping

    leaves, empty = flatten_mapping(tensors)
    return {key: _as_tensor(key, value) for key, value in leaves.items()}, empty


def _are_keys(names: Iterable[Any]) -> bool:
    """Return whether all names are tuples of strings."""
    if not set(map(type, names)) <= {tuple}:
        return False
    try:
        deque(map("".join, names), maxlen=0)  # a loop in C: each conversion asks it of all its keys
    except TypeError:
        return False
    return True


def _as_tensor(key: Key, value: Any) -> Tensor:
    with about_tensor(key):
        return as_tensor(value)
