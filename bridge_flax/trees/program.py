"""A model as a function from arrays to arrays, and the three precisions in which it is computed."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from bridge_core import FlatState, Key, UnsupportedFeature
from bridge_core.plugins import Inputs, Precision
from bridge_core.state import Array
from bridge_flax.trees.call_recorder import CallRecorder
from bridge_flax.trees.compiled import computed
from bridge_flax.trees.evaluate import Rule, draws_numbers, evaluate, float_dtypes
from bridge_flax.trees.named_arrays import as_inputs, named_leaves, to_numpy, widened
from bridge_flax.trees.rules import InFloat64, Reordered, Unchanged
from bridge_flax.trees.walk import is_empty, rebuild, walk

__all__ = ["Program", "RunnableModel"]

_TRACING = (
    jax.errors.ConcretizationTypeError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerBoolConversionError,
    jax.errors.TracerIntegerConversionError,
    jax.errors.NonConcreteBooleanIndexError,
)


Arrays = tuple[dict[str, Array], dict[Key, Array]]
"""Those of the result by name, and those of the weights that changed by key."""


class RunnableModel(Protocol):
    """A model as a function of its weights and its inputs."""

    @property
    def name(self) -> str:
        """What messages call the model."""

    def tree(self, inputs: Inputs) -> Any:
        """Return the tree that holds its weights, which may be abstract."""

    def weights(self, inputs: Inputs) -> FlatState:
        """Return the tree as a flat state, with module types."""

    def call(self, tree: Any, args: Any, kwargs: Any, seed: int, *, wide: bool = False) -> tuple[Any, Any]:
        """Return the result, and a tree of what changed (it may hold more).

        Args:
            tree: The tree with weights.
            args: Positional arguments.
            kwargs: Arguments by keyword.
            seed: For random numbers.
            wide: Whether modules that ask for a shorter dtype are asked for float64.
        """

    def observed(self, recorder: CallRecorder) -> Any:
        """Return a context in which calls of modules are recorded."""


@dataclass(frozen=True, eq=False)
class Program:
    """A model that is called with weights and inputs.

    Args:
        model: The model.
        tree: The tree of its weights, whose leaves are replaced.
        seed: For random numbers.
        recorder: Notes the calls of modules; None for no notes.
        dtypes: Gets the names of the float dtypes that are computed, where the model is not run in float64.
    """

    model: RunnableModel
    tree: Any
    seed: int
    recorder: CallRecorder | None
    dtypes: set[str] = field(default_factory=set)

    def run(self, leaves: Mapping[Key, Any], inputs: Inputs, precision: Precision) -> Arrays:
        """Return the arrays of the result by name, and those of the weights that changed by key.

        In float64 the computation is traced with 64-bit types, so that its constants are exact, and then
        every conversion to a shorter dtype is one to float64. A model that draws random numbers would draw
        others in float64, so it is traced in its own dtypes.

        Raises:
            UnsupportedFeature: The model's code depends on values, so its sums cannot be reordered.
        """
        with jax.default_matmul_precision("highest"), jax.disable_jit(False):
            if precision == "native":
                return self._native(leaves, inputs)
            try:
                if precision == "reordered":
                    return self._rewritten(leaves, inputs, Reordered())
                return self._in_float64(leaves, inputs)
            except _TRACING as err:
                if precision == "float64":
                    return self._eager_float64(leaves, inputs)
                raise UnsupportedFeature(
                    f"the sums of {self.model.name} cannot be taken in another order: its code depends on "
                    "values of arrays.",
                ) from err

    def _native(self, leaves: Mapping[Key, Any], inputs: Inputs) -> Arrays:
        if self.recorder is None or self.recorder.callbacks:
            try:
                return self._rewritten(leaves, inputs, Unchanged())
            except Exception:  # the code depends on values of arrays, or fails without a trace, too
                if self.recorder is not None:
                    self.recorder.forget()
        args, kwargs = as_inputs(inputs, wide=False)
        return _finished(self(leaves, args, kwargs))

    def _in_float64(self, leaves: Mapping[Key, Any], inputs: Inputs) -> Arrays:
        with jax.enable_x64(True), contextlib.suppress(TypeError, ValueError):
            # Some code fixes a dtype, as that of a loop's carry, and fails with 64-bit types.
            traced = self._traced({key: _wide(leaf) for key, leaf in leaves.items()}, inputs, wide=True)
            if not draws_numbers(traced.closed.jaxpr):
                return traced.computed(InFloat64())
        if self.recorder is not None:
            self.recorder.forget()
        traced = self._traced(leaves, inputs, wide=False)
        with jax.enable_x64(True):
            return traced.computed(InFloat64(shortest=True))

    def _eager_float64(self, leaves: Mapping[Key, Any], inputs: Inputs) -> Arrays:
        with jax.enable_x64(True):
            args, kwargs = as_inputs(inputs, wide=True)
            wide = {key: _wide(leaf) for key, leaf in leaves.items()}
            return _finished(self(wide, args, kwargs, wide=True))

    def _rewritten(self, leaves: Mapping[Key, Any], inputs: Inputs, rule: Rule) -> Arrays:
        traced = self._traced(leaves, inputs, wide=False)
        self.dtypes.update(float_dtypes(traced.closed.jaxpr))
        return traced.computed(rule)

    def _traced(self, leaves: Mapping[Key, Any], inputs: Inputs, *, wide: bool) -> _Traced:
        flat, structure = jax.tree.flatten((dict(leaves), *as_inputs(inputs, wide=wide)))
        arrays = [leaf for leaf in flat if _is_array(leaf)]
        names: list[Any] = []

        def call(*arrays: Any) -> Any:
            given = iter(arrays)
            filled = [next(given) if _is_array(leaf) else leaf for leaf in flat]
            outputs, updates = self(*jax.tree.unflatten(structure, filled))
            names[:] = [[*outputs], [*updates]]  # JAX would sort them
            return [*outputs.values(), *updates.values()]

        return _Traced(jax.make_jaxpr(call)(*arrays), arrays, *names, keep=self.recorder is None)

    def __call__(
        self, leaves: Mapping[Key, Any], args: Any, kwargs: Any, *, wide: bool = False
    ) -> tuple[Any, Any]:
        """Return the JAX arrays of the result by name, and those of the weights that changed by key."""
        tree = rebuild(self.tree, lambda key, leaf: leaves.get(key, leaf))
        with contextlib.ExitStack() as stack:
            if self.recorder is not None:
                stack.enter_context(self.model.observed(self.recorder))
            result, changed = self.model.call(tree, args, kwargs, self.seed, wide=wide)
        outputs = {
            name: jnp.asarray(leaf)
            for name, leaf in named_leaves(result)
            if _is_array(leaf) or isinstance(leaf, bool | int | float | complex)
        }
        updates = {
            key: leaf
            for key, leaf, _ in walk(changed)
            if not is_empty(leaf) and key in leaves and leaf is not leaves[key]
        }
        return outputs, updates


@dataclass(frozen=True, eq=False)
class _Traced:
    closed: Any
    arrays: list[Any]
    outputs: list[str]
    updates: list[Key]
    keep: bool

    def computed(self, rule: Rule) -> Arrays:
        # One compilation is faster than one for each operation.
        results = computed(lambda *arrays: evaluate(self.closed, arrays, rule), self.arrays, keep=self.keep)
        values = iter(results)
        outputs = {name: next(values) for name in self.outputs}
        return _finished((outputs, {key: next(values) for key in self.updates}))


def _finished(result: tuple[dict[str, Any], dict[Key, Any]]) -> Arrays:
    jax.effects_barrier()
    outputs, updates = result
    return (
        {name: to_numpy(value) for name, value in outputs.items()},
        {key: to_numpy(value) for key, value in updates.items()},
    )


def _is_array(value: Any) -> bool:
    return isinstance(value, jax.Array | np.ndarray | np.generic)


def _wide(leaf: Any) -> Any:
    dtype = getattr(leaf, "dtype", None)
    if dtype is None or jnp.issubdtype(dtype, jax.dtypes.extended):
        return leaf
    return jnp.asarray(np.asarray(leaf).astype(widened(dtype)))
