"""Splitting NNX modules into structure and state without losing arrays.

While NNX traces, and in what `nnx.eval_shape` returns, an array that is in no Variable may count as a
constant of the structure: it then appears in no state. This module finds those arrays and declares them as
data.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from flax import nnx

from bridge_core import Key, UsageError, join_key
from bridge_flax.trees.arrays import StandIn, is_key_array
from bridge_flax.trees.walk import as_part, walk

__all__ = ["split"]


def split(module: Any, *, tracing: bool = False) -> tuple[Any, Any]:
    """Return the graph definition and the state of an NNX module, with every array in the state.

    Args:
        module: Concrete or abstract. It is changed only while tracing.
        tracing: Whether the module is being made by a JAX transformation.

    Raises:
        UsageError: A lost array cannot be declared.
    """
    graphdef, state = nnx.split(module)
    if not any(_lost(module, state)):
        return graphdef, state
    if not tracing:
        module = nnx.merge(graphdef, state)
    for node, name, value, key in list(_lost(module, state)):
        if is_key_array(value) or not isinstance(node, nnx.Pytree | dict | list):
            raise UsageError(
                f"NNX treats {join_key(key)} as a constant of the structure, so the state does not hold it.",
                hint="Assign it as nnx.data(array), or store it in an nnx.Variable.",
            )
        array = value if tracing else StandIn.of(value.shape, np.dtype(value.dtype))
        if isinstance(node, nnx.Pytree):
            setattr(node, name, nnx.data(array))
        else:
            node[name] = array
    split_again: tuple[Any, Any] = nnx.split(module)
    return split_again


def _lost(module: Any, state: Any) -> Iterator[tuple[Any, Any, Any, Key]]:
    known = {key for key, _, _ in walk(state)}
    for raw, node in nnx.iter_graph(module):
        if isinstance(node, nnx.Variable):
            continue
        for name, value in _children(node):
            if isinstance(value, jax.core.Tracer | jax.ShapeDtypeStruct):
                key = tuple(as_part(part, ()) for part in (*raw, name))
                if key not in known:
                    yield node, name, value, key


def _children(node: Any) -> list[tuple[Any, Any]]:
    if isinstance(node, nnx.Pytree):
        return list(vars(node).items())
    if isinstance(node, dict):
        return list(node.items())
    return list(enumerate(node)) if isinstance(node, list | tuple) else []
