"""What models take and return as named numpy arrays: any nesting of containers, in any of their classes."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from flax.core import meta

from bridge_core.plugins import Inputs
from bridge_core.state import Array
from bridge_flax.trees.arrays import is_key_array

__all__ = ["as_inputs", "is_plain", "is_short", "named_leaves", "to_numpy", "widened"]

_DEEPEST = 64


def named_leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yield ``(dotted name, leaf)`` of every leaf but None; PRNG keys are passed over.

    A leaf is an array or anything that is not a container: a flag, a name, a function.
    """
    yield from _leaves(value, name, 0)


def _leaves(value: Any, name: str, depth: int) -> Iterator[tuple[str, Any]]:
    if value is None or is_key_array(value):
        return
    children = _children(value) if depth < _DEEPEST else None
    if children is None:
        yield name, value
        return
    for part, child in children:
        yield from _leaves(child, f"{name}.{part}" if name else part, depth + 1)


def _children(value: Any) -> list[tuple[str, Any]] | None:
    if isinstance(value, nnx.Variable):
        raw = value.get_raw_value()
        return _children(raw) or [("", raw)] if not _is_array(raw) else None
    if isinstance(value, meta.AxisMetadata):
        return _children(value.unbox())
    if isinstance(value, nnx.GraphState | nnx.State):
        value = value.raw_mapping
    if isinstance(value, Mapping):
        return [(str(key), child) for key, child in value.items()]
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return list(zip(value._fields, value, strict=True))
    if isinstance(value, list | tuple):
        return [(str(i), child) for i, child in enumerate(value)]
    if _is_array(value) or isinstance(value, type) or callable(value):
        return None
    if dataclasses.is_dataclass(value):
        return [(f.name, getattr(value, f.name, None)) for f in dataclasses.fields(value)]
    return _registered(value)


def _registered(value: Any) -> list[tuple[str, Any]] | None:
    """Return the leaves of a class that JAX was told how to flatten; None for others."""
    if isinstance(value, bool | int | float | complex | str):
        return None
    try:
        leaves, _ = jax.tree_util.tree_flatten_with_path(value)
    except Exception:
        return None  # the class's own function failed; the value is opaque then
    if len(leaves) == 1 and leaves[0][1] is value:
        return None
    return [(".".join(_part(part) for part in path), leaf) for path, leaf in leaves]


def _part(entry: Any) -> str:
    for attribute in ("key", "idx", "name"):
        if hasattr(entry, attribute):
            return str(getattr(entry, attribute))
    return str(entry)


def _is_array(value: Any) -> bool:
    return isinstance(value, jax.Array | np.ndarray | np.generic)


def is_plain(value: Any) -> bool:
    """Return whether a leaf is a plain value that another framework can compare."""
    return isinstance(value, bool | int | float | complex | str)


def to_numpy(value: Any) -> Array:
    """Copy an array; ``bfloat16`` becomes that of ml_dtypes."""
    return np.array(value.get_raw_value() if isinstance(value, nnx.Variable) else value)


def widened(dtype: Any) -> Any:
    """Return float64 for a floating dtype and complex128 for a complex one; others unchanged."""
    if jnp.issubdtype(dtype, jnp.complexfloating):
        return np.dtype(np.complex128)
    if jnp.issubdtype(dtype, jnp.floating):
        return np.dtype(np.float64)
    return dtype


def is_short(dtype: Any) -> bool:
    """Return whether a module's ``dtype`` makes it compute in less than float64."""
    try:
        return dtype is not None and np.dtype(dtype) != widened(np.dtype(dtype))
    except TypeError:
        return False


def as_inputs(inputs: Inputs, *, wide: bool, convert: Callable[[Array], Any] | None = None) -> Any:
    """Return the arguments ``(positional, named)`` with JAX arrays in place of numpy's.

    Args:
        inputs: What the model is called with; plain values stay unchanged.
        wide: Whether floats become float64; else float64 becomes float32, and 64-bit integers become 32-bit.
        convert: What makes an array of each numpy array; None for `jax.numpy.asarray`.
    """
    make = convert or jnp.asarray

    def leaf(value: Any) -> Any:
        if isinstance(value, np.ndarray | np.generic | jax.Array) and not is_key_array(value):
            return make(_converted(np.asarray(value), wide=wide))
        return value

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return jax.tree.map(leaf, (tuple(inputs.positional), dict(inputs.named)))


def _converted(array: Array, *, wide: bool) -> Array:
    if wide:
        return array.astype(widened(array.dtype))
    narrow = {"float64": "float32", "complex128": "complex64", "int64": "int32", "uint64": "uint32"}
    return array.astype(narrow.get(array.dtype.name, array.dtype))
