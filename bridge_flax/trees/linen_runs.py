"""Linen modules that can be run, with or without variables, and transformers' models around them."""

from __future__ import annotations

import contextlib
import copy
import inspect
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import flax.errors
import flax.linen as nn
import jax
import numpy as np
from flax.core import FrozenDict

from bridge_core import FlatState, Key, StateMetadata
from bridge_core.plugins import Inputs
from bridge_core.state import ModuleInfo, VariableCollections, as_tensor
from bridge_flax.layers import COLLECTIONS
from bridge_flax.trees.call_recorder import UNRECORDED, CallRecorder
from bridge_flax.trees.callbacks import fresh_traces
from bridge_flax.trees.constants import with_constants
from bridge_flax.trees.flatten import flatten
from bridge_flax.trees.module_types import LinenRecorder
from bridge_flax.trees.named_arrays import as_inputs, is_short
from bridge_flax.trees.once import once
from bridge_flax.trees.walk import is_empty, walk

__all__ = ["LinenModel", "TransformersModel"]

_STREAMS = ("params", "dropout", "default")
_TRACING = (jax.errors.ConcretizationTypeError, jax.errors.TracerArrayConversionError)


@dataclass(frozen=True, eq=False)
class LinenModel:
    """A Linen module and its variables.

    Args:
        module: The module, which is not changed.
        variables: Its variables, or only its parameters; None if they follow from the inputs.
        method: Name of the method that is called; None for ``__call__``.
    """

    module: nn.Module
    variables: Any = None
    method: str | None = None

    @property
    def name(self) -> str:
        """What messages call the model."""
        return f"the Linen module {type(self.module).__name__}"

    def tree(self, inputs: Inputs) -> Any:
        """Return the variables, abstract ones if the model has none."""
        if self.variables is not None:
            return self.variables
        return self._abstract(inputs)[0]

    def weights(self, inputs: Inputs) -> FlatState:
        """Return the state of the variables, with the types of the modules that the inputs reach."""
        recorder = LinenRecorder()
        if self.variables is None:
            abstract, recorder = self._abstract(inputs)
            state = flatten(abstract, form="variables")
            if any(_keeps_values(key, state.spec(key).dtype) for key in state):
                state = self._with_initial(state, inputs)
        else:
            state = flatten(self.variables, form=None)
            with nn.intercept_methods(recorder):
                _abstractly(lambda args, kwargs: self.call(self.variables, args, kwargs, 0)[0], inputs)
        return _described(state, recorder)

    def call(self, tree: Any, args: Any, kwargs: Any, seed: int, *, wide: bool = False) -> tuple[Any, Any]:
        """Apply the module; returns its result, and the collections that it changed.

        It is given random streams and mutable collections only if it asks for them, since some modules take
        their presence as the sign of training.
        """
        variables = tree if _in_collections(tree) else {"params": tree}
        options: dict[str, Any] = {}
        while True:
            try:
                with widening(wide):
                    out = self.module.apply(variables, *args, method=self.method, **options, **kwargs)
            except flax.errors.InvalidRngError:
                if "rngs" in options:
                    raise
                options["rngs"] = _streams(seed)
            except flax.errors.ModifyScopeVariableError:
                names = [name for name in variables if name != "params"]
                if "mutable" in options or not names:
                    raise
                options["mutable"] = names
            else:
                return out if "mutable" in options else (out, {})

    def observed(self, recorder: CallRecorder) -> Any:
        """Return a context in which calls of modules are recorded."""
        return nn.intercept_methods(interceptor(recorder))

    def _abstract(self, inputs: Inputs) -> tuple[Any, LinenRecorder]:
        """Return the abstract variables and the modules that were called, traced once for the last model."""

        def traced() -> tuple[Any, LinenRecorder]:
            recorder = LinenRecorder()

            def init(args: Any, kwargs: Any) -> Any:
                with nn.intercept_methods(recorder):
                    return self.module.init(_streams(0), *args, method=self.method, **kwargs)

            return _abstractly(init, inputs), recorder

        return once(traced, self.module, inputs, self.method)

    def _with_initial(self, state: FlatState, inputs: Inputs) -> FlatState:
        """Give the leaves that are not weights the values that the module's own ``init`` gives them."""
        args, kwargs = as_inputs(inputs, wide=False)
        variables = self.module.init(_streams(0), *args, method=self.method, **kwargs)
        values = {key: leaf for key, leaf, _ in walk(variables) if not is_empty(leaf)}
        tensors = {
            key: as_tensor(np.asarray(values[key]))
            if _keeps_values(key, state.spec(key).dtype) and key in values
            else state.tensor(key)
            for key in state
        }
        return FlatState(tensors, layout="flax", metadata=state.metadata)


@dataclass(frozen=True, eq=False)
class TransformersModel:
    """A ``FlaxPreTrainedModel`` of transformers, which holds a Linen module and its params."""

    model: Any

    @property
    def name(self) -> str:
        """What messages call the model."""
        return f"the model {type(self.model).__name__}"

    def tree(self, inputs: Inputs) -> Any:
        """Return its params."""
        return self.model.params

    def weights(self, inputs: Inputs) -> FlatState:
        """Return the state of its params, with the types of the modules that the inputs reach."""
        recorder = LinenRecorder()
        state = flatten(self.model.params, form=None)
        with nn.intercept_methods(recorder):
            _abstractly(lambda args, kwargs: self.call(self.model.params, args, kwargs, 0)[0], inputs)
        return _described(state, recorder)

    def call(self, tree: Any, args: Any, kwargs: Any, seed: int, *, wide: bool = False) -> tuple[Any, Any]:
        """Call the model with other params; returns its result, and the collections that it changed."""
        options = dict(kwargs)
        if "dropout_rng" in inspect.signature(type(self.model).__call__).parameters and options.get("train"):
            options.setdefault("dropout_rng", jax.random.key(seed))
        with widening(wide):
            out = copy.copy(self.model)(*args, params=tree, **options)
        if isinstance(out, tuple) and len(out) == 2 and _is_update(out[1]):
            return out
        return out, {}

    def observed(self, recorder: CallRecorder) -> Any:
        """Return a context in which calls of modules are recorded."""
        return nn.intercept_methods(interceptor(recorder))


def interceptor(recorder: CallRecorder) -> Any:
    """Return a Linen interceptor that hands calls to a recorder."""

    def intercept(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        module = context.module
        if module.scope is None or context.method_name in UNRECORDED:
            return call(*args, **kwargs)
        kind = f"{type(module).__module__}.{type(module).__qualname__}"
        return recorder.record(tuple(module.path), kind, call, args, kwargs)

    return intercept


def widening(wide: bool) -> Any:
    """Return a context in which modules of a shorter dtype compute in float64, if that is asked for."""

    def intercept(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        dtype = getattr(context.module, "dtype", None)
        if context.module.scope is not None and is_short(dtype):
            object.__setattr__(context.module, "dtype", np.dtype(np.float64))
        return call(*args, **kwargs)

    return nn.intercept_methods(intercept) if wide else contextlib.nullcontext()


def _streams(seed: int) -> dict[str, Any]:
    # A stream that is not listed is taken from that of the parameters.
    key = jax.random.key(seed)
    return {name: jax.random.fold_in(key, zlib.crc32(name.encode()) & 0x7FFFFFFF) for name in _STREAMS}


def _abstractly(function: Any, inputs: Inputs) -> Any:
    """Return the shapes of a function's result; it is computed only where its code depends on values."""
    args, kwargs = as_inputs(inputs, wide=False)
    leaves, structure = jax.tree.flatten((args, kwargs))
    arrays = {i: leaf for i, leaf in enumerate(leaves) if isinstance(leaf, jax.Array)}
    original: list[Any] = []

    def on_shapes(arrays: dict[int, Any]) -> Any:
        args, kwargs = jax.tree.unflatten(structure, [arrays.get(i, leaf) for i, leaf in enumerate(leaves)])
        original[:] = [_only_arrays(function(args, kwargs))]
        return original[0]

    try:
        with fresh_traces():
            return _ordered(jax.eval_shape(on_shapes, arrays), original[0])
    except _TRACING:
        result = on_shapes(arrays)
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), result)


def _ordered(tree: Any, like: Any) -> Any:
    """Return a tree with the order of names of another, which JAX has sorted."""
    if not isinstance(tree, Mapping) or not isinstance(like, Mapping):
        return tree
    children = {name: _ordered(tree[name], like[name]) for name in like}
    return FrozenDict(children) if isinstance(tree, FrozenDict) else children


def _only_arrays(result: Any) -> Any:
    # A result may hold what JAX cannot return from a trace; only variables are needed.
    return result if isinstance(result, Mapping) and _in_collections(result) else None


def _in_collections(tree: Any) -> bool:
    return isinstance(tree, Mapping) and ("params" in tree or (bool(tree) and set(tree) <= set(COLLECTIONS)))


def _is_update(value: Any) -> bool:
    return isinstance(value, Mapping) and bool(value) and set(value) <= set(COLLECTIONS) - {"params"}


def _keeps_values(key: Key, dtype: Any) -> bool:
    return key[0] not in ("params", "batch_stats") or not jax.numpy.issubdtype(dtype, np.floating)


def _described(state: FlatState, recorder: LinenRecorder) -> FlatState:
    variables = state.metadata.tree_form.get("flax") == "variables"
    collections = VariableCollections(COLLECTIONS, variables)
    modules: dict[Key, ModuleInfo] = recorder.modules(dict.fromkeys(map(collections.strip, state)))
    constants = [key[1:] for key in state if variables and key[0] not in ("params", "batch_stats")]
    metadata: StateMetadata = state.metadata.with_(modules=with_constants(modules, constants))
    return state.replace(metadata=metadata)
