"""Two ways to compute a model again: its sums in another order, and all of its numbers in float64."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from bridge_flax.trees.callbacks import packed
from bridge_flax.trees.evaluate import evaluate
from bridge_flax.trees.named_arrays import widened

__all__ = ["InFloat64", "Reordered", "Unchanged"]

_DTYPES = ("new_dtype", "dtype", "preferred_element_type", "accum_dtype")


def _bind(eqn: Any, inputs: list[Any], **changed: Any) -> list[Any]:
    params = eqn.primitive.get_bind_params({**eqn.params, **changed})
    functions: Any = ()
    if isinstance(params, tuple):  # before JAX 0.10
        functions, params = params
    with eqn.ctx.manager:
        results = eqn.primitive.bind(*functions, *inputs, **params)
    return list(results) if eqn.primitive.multiple_results else [results]


class Unchanged:
    """Computes everything as the model does."""

    def value(self, value: Any) -> Any:
        """Return the value unchanged."""
        return value

    def compute(self, eqn: Any, inputs: list[Any]) -> list[Any]:
        """Compute one operation."""
        return _bind(eqn, inputs)


class Reordered(Unchanged):
    """Takes the sums of products, convolutions, and reductions in another order.

    The terms are permuted, which is exact; only the rounding of the sums differs.
    """

    def compute(self, eqn: Any, inputs: list[Any]) -> list[Any]:
        """Compute one operation."""
        name, params = eqn.primitive.name, eqn.params
        if name == "dot_general":
            (left, right), _ = params["dimension_numbers"]
            first, second = inputs
            for i, k in zip(left, right, strict=True):
                first, second = _permuted(first, i), _permuted(second, k)
            return _bind(eqn, [first, second])
        if name == "conv_general_dilated" and params["batch_group_count"] == 1:
            return _reordered_convolution(eqn, inputs)
        if name == "reduce_sum" and jnp.issubdtype(inputs[0].dtype, jnp.inexact):
            operand = inputs[0]
            for axis in params["axes"]:
                operand = _permuted(operand, axis)
            return _bind(eqn, [operand])
        return _bind(eqn, inputs)


def _order(size: int) -> np.ndarray[Any, Any]:
    # Not the reverse: a sum in pairs, mirrored, is the same sum.
    return np.random.default_rng(size).permutation(size)


def _permuted(array: Any, axis: int, groups: int = 1) -> Any:
    """Permute an axis, inside each of several groups of equal size."""
    size = array.shape[axis]
    if size < 3 or size == groups:
        return array
    inner = _order(size // groups)
    order = np.concatenate([inner + group * len(inner) for group in range(groups)])
    return lax.optimization_barrier(jnp.take(array, order, axis=axis))


def _reordered_convolution(eqn: Any, inputs: list[Any]) -> list[Any]:
    """Permute the channels and mirror the space of both operands, and mirror the result back."""
    params = eqn.params
    image, kernel = inputs
    numbers, groups = params["dimension_numbers"], params["feature_group_count"]
    image = _permuted(image, numbers.lhs_spec[1], groups)
    kernel = _permuted(kernel, numbers.rhs_spec[1])
    space = numbers.lhs_spec[2:], numbers.rhs_spec[2:], numbers.out_spec[2:]
    padding = []
    for i, k, (low, high), stride, spread, dilation in zip(
        *space[:2],
        params["padding"],
        params["window_strides"],
        params["lhs_dilation"],
        params["rhs_dilation"],
        strict=True,
    ):
        length = max((image.shape[i] - 1) * spread + 1, 0) + low + high
        window = (kernel.shape[k] - 1) * dilation + 1
        padding.append((high - (length - window) % stride if length >= window else high, low))
    mirrored = _bind(eqn, [lax.rev(image, space[0]), lax.rev(kernel, space[1])], padding=tuple(padding))
    return [lax.rev(mirrored[0], space[2])]


@dataclass(frozen=True)
class InFloat64:
    """Computes every floating-point number in float64, also where the model asks for another dtype.

    Args:
        shortest: Whether constants are the shortest decimals that round to them, as their author wrote them.
            It is for a computation that was traced in float32.
    """

    shortest: bool = False

    def value(self, value: Any) -> Any:
        """Return a value in float64 if it is of another floating dtype."""
        dtype = getattr(value, "dtype", None)
        if dtype is None:
            return np.float64(value) if isinstance(value, float) else value
        if jnp.issubdtype(dtype, jax.dtypes.extended) or widened(dtype) == dtype:
            return value
        if self.shortest and not isinstance(value, jax.core.Tracer) and math.prod(np.shape(value)) == 1:
            return np.asarray(_shortest(value), widened(dtype)).reshape(np.shape(value))
        return lax.convert_element_type(value, widened(dtype))

    def compute(self, eqn: Any, inputs: list[Any]) -> list[Any]:
        """Compute one operation."""
        name, params = eqn.primitive.name, eqn.params
        if name == "reduce_precision":
            return inputs
        if name == "bitcast_convert_type" or _is_foreign(eqn):
            declared = [_as_declared(value, var.aval) for value, var in zip(inputs, eqn.invars, strict=True)]
            return [self.value(result) for result in _bind(eqn, declared)]
        if name == "debug_callback":
            callback, inputs = packed(params["callback"], inputs)
            return _bind(eqn, inputs, callback=callback)
        changed = {key: widened(params[key]) for key in _DTYPES if key in params and params[key] is not None}
        if params.get("update_jaxpr") is not None:
            changed["update_jaxpr"] = self._retraced(params["update_jaxpr"], inputs[0].dtype)
        return [self.value(result) for result in _bind(eqn, inputs, **changed)]

    def _retraced(self, jaxpr: Any, dtype: Any) -> Any:
        from jax.extend.core import ClosedJaxpr

        shapes = [jax.ShapeDtypeStruct(var.aval.shape, dtype) for var in jaxpr.invars]
        closed = jax.make_jaxpr(lambda *args: evaluate(ClosedJaxpr(jaxpr, ()), args, self))(*shapes)
        return closed.jaxpr


def _is_foreign(eqn: Any) -> bool:
    """Return whether an operation has an inner computation or code that takes only the declared dtypes."""
    name = eqn.primitive.name
    if name in ("pure_callback", "io_callback", "pallas_call", "custom_call", "ffi_call"):
        return True
    return name in ("reduce", "reduce_window", "custom_linear_solve", "shard_map", "custom_partitioning")


def _as_declared(value: Any, aval: Any) -> Any:
    dtype = getattr(aval, "dtype", None)
    if dtype is None or jnp.issubdtype(dtype, jax.dtypes.extended) or value.dtype == dtype:
        return value
    return lax.convert_element_type(value, dtype)


def _shortest(value: Any) -> Any:
    number = np.asarray(value).reshape(())
    if number.dtype.kind == "c" or not np.isfinite(number.astype(np.float64)):
        return number
    return float(str(number[()]))
