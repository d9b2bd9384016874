"""Running a Flax model on numpy arrays: which objects can be run, and how each is called."""

from __future__ import annotations

from typing import Any

import numpy as np

from bridge_core import FlatState, Key
from bridge_core.plugins import Inputs, ModelRun, Precision
from bridge_core.state import Array
from bridge_flax.trees.call_recorder import CallRecorder
from bridge_flax.trees.callbacks import fresh_traces
from bridge_flax.trees.flatten import read_leaves
from bridge_flax.trees.models import FunctionModel, as_model, user_failures
from bridge_flax.trees.program import Program, RunnableModel

__all__ = ["model_weights", "run_model"]


def model_weights(value: Any, inputs: Inputs) -> FlatState:
    """Return the state of a model's weights; `bridge_flax.framework.FlaxFramework` documents it."""
    model = as_model(value)
    with user_failures(model.name, "could not be called on the shapes of its inputs"):
        return model.weights(inputs)


def run_model(
    value: Any,
    weights: FlatState,
    inputs: Inputs,
    *,
    trace: bool = False,
    precision: Precision = "native",
    seed: int = 0,
) -> ModelRun:
    """Call a model; `bridge_flax.framework.FlaxFramework` documents it."""
    model = as_model(value)
    with user_failures(model.name, "failed when it was called"):
        tree = model.tree(inputs)
        leaves = read_leaves(weights, tree)
    notes: list[str] = []
    recorder = CallRecorder() if trace else None
    dtypes: set[str] = set()
    with user_failures(model.name, "failed when it was called"):
        try:
            outputs, updates = Program(model, tree, seed, recorder, dtypes).run(leaves, inputs, precision)
        except Exception:
            if recorder is None or not recorder.used_callbacks:
                raise
            # JAX cannot take callbacks everywhere, as in loops under vmap.
            recorder = CallRecorder(callbacks=False)
            outputs, updates = Program(model, tree, seed, recorder, dtypes).run(leaves, inputs, precision)
        if recorder is not None and not recorder.saw(_owners(model, weights, inputs)):
            # The model may call functions that JAX has compiled before.
            recorder = CallRecorder(recorder.callbacks)
            with fresh_traces():
                outputs, updates = Program(model, tree, seed, recorder, dtypes).run(leaves, inputs, precision)
    if trace and isinstance(model, FunctionModel):
        notes.append(f"the modules inside {model.name} could not be seen: it is not a Flax module.")
    changed = {key: array for key, array in updates.items() if not _same(array, leaves.get(key))}
    if recorder is None:
        return ModelRun(outputs, (), changed, tuple(notes), frozenset(dtypes))
    return ModelRun(outputs, recorder.finished(), changed, (*notes, *recorder.notes()), frozenset(dtypes))


def _owners(model: RunnableModel, weights: FlatState, inputs: Inputs) -> set[Key]:
    """Return the paths of the modules that own weights."""
    modules = weights.metadata.modules or model.weights(inputs).metadata.modules
    return {path for path, info in modules.items() if info.parameters}


def _same(array: Array, leaf: Any) -> bool:
    return leaf is not None and bool(np.array_equal(array, np.asarray(leaf), equal_nan=True))
