"""The tensors that a state is made from: values of a mapping, by key."""

from __future__ import annotations

from collections.abc import Mapping
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
    wrapped: dict[Key, Tensor] = {}
    sorts: dict[type, str] = {}
    join = "".join
    for key, value in tensors.items():
        kind = type(value)
        sort = sorts.get(kind)
        if sort is None:
            nested = kind in (list, tuple) or isinstance(value, Mapping)
            sort = sorts[kind] = "nested" if nested else "tensor" if is_tensor(value) else "array"
        if type(key) is not tuple or sort == "nested":
            break
        try:
            join(key)
        except TypeError:
            break
        wrapped[key] = value if sort == "tensor" else _as_tensor(key, value)
    else:
        return wrapped, ()
    from bridge_core.state.nested_names import flatten_mapping

    leaves, empty = flatten_mapping(tensors)
    return {key: _as_tensor(key, value) for key, value in leaves.items()}, empty


def _as_tensor(key: Key, value: Any) -> Tensor:
    with about_tensor(key):
        return as_tensor(value)
