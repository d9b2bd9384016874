"""NNX modules as programs that can be run on copies of themselves."""

from __future__ import annotations

import contextlib
import functools
import inspect
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from bridge_core import FlatState, Key
from bridge_core.plugins import Inputs
from bridge_flax.trees.arrays import is_key_array
from bridge_flax.trees.call_recorder import CallRecorder
from bridge_flax.trees.constants import with_constants
from bridge_flax.trees.named_arrays import is_short
from bridge_flax.trees.walk import as_part, rebuild

__all__ = ["NnxModel", "module_paths"]

_PATH = "_ckptbridge_path"
"""Attribute of a copy's modules; it is a part of the structure, so it survives NNX's transforms."""

_LOCK = threading.RLock()
"""Held while methods of classes are replaced, which every thread sees."""


@dataclass(frozen=True, eq=False)
class NnxModel:
    """The structure and the state of an NNX module.

    Args:
        graphdef: The structure.
        state: The state, abstract or not.
        described: The state as a flat state, with the types of its modules.
        kind: Name of its class.
    """

    graphdef: Any
    state: Any
    described: FlatState
    kind: str

    @property
    def name(self) -> str:
        """What messages call the model."""
        return f"the NNX module {self.kind}"

    def tree(self, inputs: Inputs) -> Any:
        """Return the state."""
        return self.state

    def weights(self, inputs: Inputs) -> FlatState:
        """Return the flat state; what is neither a parameter nor a statistic is a constant."""
        metadata = self.described.metadata
        constants = [
            key for key, kind in metadata.collections.items() if kind not in ("BatchStat", "LoRAParam")
        ]
        modules = with_constants(metadata.modules, constants)
        return self.described.replace(metadata=metadata.with_(modules=modules))

    def call(self, tree: Any, args: Any, kwargs: Any, seed: int, *, wide: bool = False) -> tuple[Any, Any]:
        """Call a copy of the module; returns its result, and its state afterwards."""
        module = nnx.merge(self.graphdef, _reseeded(tree, seed))
        for path, node in module_paths(module).items():
            object.__setattr__(node, _PATH, path)
            if wide and is_short(getattr(node, "dtype", None)):
                object.__setattr__(node, "dtype", np.dtype(np.float64))
        result = module(*args, **kwargs)
        return result, nnx.state(module)

    @contextlib.contextmanager
    def observed(self, recorder: CallRecorder) -> Iterator[None]:
        """Return a context in which calls of the copy's modules are recorded."""
        module = nnx.merge(self.graphdef, _reseeded(self.state, 0))
        classes = {type(node) for _, node in nnx.iter_graph(module) if isinstance(node, nnx.Module)}
        thread = threading.get_ident()
        replaced: list[tuple[type, str, Any]] = []
        with _LOCK:
            try:
                for owner, name, function in _methods(classes):
                    replaced.append((owner, name, function))
                    setattr(owner, name, _recorded(function, recorder, thread))
                yield
            finally:
                for owner, name, function in reversed(replaced):
                    setattr(owner, name, function)


def _methods(classes: set[type]) -> Iterator[tuple[type, str, Any]]:
    """Yield each public method of the classes and their bases, with the class that defines it."""
    owners = {base for kind in classes for base in kind.__mro__ if issubclass(base, nnx.Module)}
    for owner in owners - set(nnx.Module.__mro__):
        for name, function in list(vars(owner).items()):
            is_method = inspect.isfunction(function) or _is_transformed(function)
            if is_method and (name == "__call__" or not name.startswith("_")):
                yield owner, name, function


def _is_transformed(value: Any) -> bool:
    """Return whether a class's attribute is a method that a transform has wrapped, as `nnx.jit` does."""
    if isinstance(value, type | staticmethod | classmethod | property) or not callable(value):
        return False
    return hasattr(type(value), "__get__") and hasattr(value, "__wrapped__")


def _recorded(function: Any, recorder: CallRecorder, thread: int) -> Callable[..., Any]:
    @functools.wraps(function)
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        path = vars(self).get(_PATH) if threading.get_ident() == thread else None
        if path is None:
            return function(self, *args, **kwargs)
        kind = f"{type(self).__module__}.{type(self).__qualname__}"
        return recorder.record(tuple(path), kind, function.__get__(self), args, kwargs)

    return method


def module_paths(module: Any) -> dict[Key, Any]:
    """Return every module in a module by path, a shared one under its first path."""
    modules = {}
    for raw, node in nnx.iter_graph(module):
        if isinstance(node, nnx.Module):
            path: Key = ()
            for name in raw:
                path = (*path, as_part(name, path))
            modules[path] = node
    return modules


def _reseeded(state: Any, seed: int) -> Any:
    """Return the state with random streams that start anew from a seed; a shape becomes a stream."""
    filled = rebuild(state, lambda _, leaf: leaf)
    streams = 0

    def fresh(variable: Any) -> Any:
        nonlocal streams
        if not isinstance(variable, nnx.RngState):
            return variable
        value = variable.get_raw_value()
        if not is_key_array(value):
            return variable.copy(jnp.zeros(value.shape, value.dtype))
        streams += 1
        key = jax.random.fold_in(jax.random.key(seed, impl=jax.random.key_impl(value)), streams)
        return variable.copy(jax.random.split(key, value.shape) if value.shape else key)

    return jax.tree.map(fresh, filled, is_leaf=lambda node: isinstance(node, nnx.Variable))
