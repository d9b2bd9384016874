"""The settings of a model's modules, under the names that all frameworks share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import numpy as np
from flax import nnx

from bridge_core import FlatState, Key, UsageError
from bridge_core.plugins import Inputs, ModuleSettings
from bridge_core.state import is_floating
from bridge_flax.trees.layer_settings import Seen, layer_settings
from bridge_flax.trees.linen_runs import LinenModel, TransformersModel
from bridge_flax.trees.models import FunctionModel, as_model, user_failures
from bridge_flax.trees.nnx_runs import NnxModel, module_paths
from bridge_flax.trees.once import forget
from bridge_flax.trees.usual_settings import usual_settings

__all__ = ["model_settings"]


def model_settings(value: Any, inputs: Inputs | None) -> dict[Key, ModuleSettings]:
    """Return the settings of each module; `bridge_flax.framework.FlaxFramework` documents it."""
    model = as_model(value)
    if isinstance(model, FunctionModel):
        return {}
    if isinstance(model, NnxModel):
        module = nnx.merge(model.graphdef, model.state)
        paths = module_paths(module)
        seen = {path: Seen(node) for path, node in paths.items()}
        return _described(seen, model.described, _ties(paths))
    if inputs is None:
        raise UsageError(
            f"the modules of {model.name} exist only in a call, so their settings cannot be read without "
            "inputs.",
            hint="Pass what it is called with (--inputs).",
        )
    recorder = _Recorder()
    with user_failures(model.name, "could not be called on the shapes of its inputs"):
        state = _watched(model, inputs, recorder)
    return _described(recorder.seen, state, {})


def _watched(model: LinenModel | TransformersModel | Any, inputs: Inputs, recorder: _Recorder) -> FlatState:
    forget()
    with nn.intercept_methods(recorder):
        state: FlatState = model.weights(inputs)
    return state


class _Recorder:
    """Notes each Linen module with the arguments of its first call."""

    def __init__(self) -> None:
        self.seen: dict[Key, Seen] = {}

    def __call__(self, call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        module = context.module
        if module.scope is not None and context.method_name != "setup":
            self.seen.setdefault(tuple(module.path), Seen(module, args, kwargs))
        return call(*args, **kwargs)


def _described(
    seen: Mapping[Key, Seen], state: FlatState, ties: Mapping[Key, Key]
) -> dict[Key, ModuleSettings]:
    modules = state.metadata.modules
    dtypes = _dtypes(state)
    settings = {}
    for path, module in seen.items():
        owned = bool(modules[path].parameters) if path in modules else False
        known = layer_settings(module)
        if known is None:
            inside = [
                type(o.module).__name__
                for p, o in seen.items()
                if len(p) > len(path) and p[: len(path)] == path
            ]
            known = usual_settings(module, inside, has_weights=owned)
        values, unread = known
        if owned and (dtype := _dtype(module.module, dtypes.get(path))) is not None:
            values["dtype"] = dtype
        if path in ties:
            values["tied_to"] = ".".join(ties[path])
        kind = type(module.module)
        settings[path] = ModuleSettings(f"{kind.__module__}.{kind.__qualname__}", values, unread)
    return settings


def _dtypes(state: FlatState) -> dict[Key, str]:
    """Return the dtype of the weights that each module owns, where they have one dtype."""
    names = state.metadata.source_names
    own: dict[Key, set[str]] = {}
    variables = state.metadata.tree_form.get("flax") == "variables"
    modules = state.metadata.modules
    for key in state:
        spec = state.spec(key)
        bare = names.get(key, key)[1:] if variables else names.get(key, key)
        path = next((bare[:depth] for depth in range(len(bare) - 1, -1, -1) if bare[:depth] in modules), None)
        if path is not None and is_floating(spec.dtype):
            own.setdefault(path, set()).add(spec.dtype.name)
    return {path: next(iter(kinds)) for path, kinds in own.items() if len(kinds) == 1}


def _dtype(module: Any, of_weights: str | None) -> str | None:
    """Return the dtype a module computes in: its own setting, else that of its weights."""
    try:
        dtype = getattr(module, "dtype", None)
        return of_weights if dtype is None else np.dtype(dtype).name
    except TypeError:
        return of_weights


def _ties(paths: Mapping[Key, Any]) -> dict[Key, Key]:
    """Return the paths of modules that hold a variable of another module, and that variable's key."""
    owners: dict[int, Key] = {}
    ties: dict[Key, Key] = {}
    for path, module in paths.items():
        for name, value in vars(module).items():
            if isinstance(value, nnx.Variable):
                key = owners.setdefault(id(value), (*path, name))
                if key != (*path, name):
                    ties[path] = key
    return ties
