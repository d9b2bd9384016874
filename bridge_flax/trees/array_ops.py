"""The primitives of ops on JAX arrays, with numpy's bits.

On the CPU, XLA computes with zeros in place of denormal numbers, gives NaNs other bits than numpy, and moves
narrow floats through wider ones, which changes signalling NaNs. So narrow floats are moved as integers, sums
of small numbers are scaled, and NaNs get their bits from what numpy does.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

from bridge_core import TensorSpec, UnsupportedFeature, UsageError
from bridge_core.ops import ArrayOps
from bridge_core.state import PACKED, Array, is_floating, native
from bridge_flax.trees.exact_arithmetic import added, bits_of, differentiable, from_bits, with_numpy_nans
from bridge_flax.trees.nnx_split import split
from bridge_flax.trees.walk import children_or_array

__all__ = ["JaxOps"]

_FLOATS = frozenset(
    {
        *("float16", "bfloat16", "float32"),
        *("float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz"),
    }
)
"""Floating-point dtypes whose casts into each other round as numpy's."""


@dataclass(frozen=True)
class JaxOps:
    """Computes on arrays of JAX or numpy, or on traced ones; results are arrays of JAX."""

    framework: str = "flax"

    def opened(self, value: Any) -> Any:
        """Return the children of a container of Flax or JAX, or what a box holds."""
        is_module = isinstance(value, nnx.Pytree) and not isinstance(value, nnx.Variable | nnx.State)
        return children_or_array(split(value)[1] if is_module else value)

    def taken(self, array: Any) -> Any:
        """Return an array of JAX; one of numpy is copied to the default device."""
        if isinstance(array, jax.Array):
            return array
        dtype = native(np.dtype(array.dtype))
        _require(dtype)
        return jnp.asarray(np.asarray(array, dtype))

    def spec(self, array: Any) -> TensorSpec:
        """Return an array's shape and dtype."""
        if not isinstance(array, jax.Array | np.ndarray | np.generic):
            raise UsageError(
                f"expected an array of JAX or numpy, got {type(array).__name__}.",
                hint="Pass jax.numpy.asarray(array).",
            )
        if jax.dtypes.issubdtype(array.dtype, jax.dtypes.extended):
            raise UnsupportedFeature(
                f"expected an array of numbers, got {array.dtype}.", hint="Pass jax.random.key_data(key)."
            )
        return TensorSpec(array.shape, native(np.dtype(array.dtype)))

    def traced(
        self, function: Callable[[ArrayOps, tuple[Any, ...]], Sequence[Any]], specs: Sequence[TensorSpec]
    ) -> tuple[TensorSpec, ...]:
        """Return the specs of what a function returns for arrays without values."""
        for spec in specs:
            _require(spec.dtype)
        structs = tuple(jax.ShapeDtypeStruct(spec.shape, spec.dtype) for spec in specs)
        results = jax.eval_shape(lambda *arrays: tuple(function(self, arrays)), *structs)
        return tuple(TensorSpec(result.shape, np.dtype(result.dtype)) for result in results)

    def near(self, arrays: Sequence[Any]) -> JaxOps:
        """Return this: JAX places constants where they are used."""
        return self

    def transpose(self, array: Any, axes: tuple[int, ...]) -> Any:
        """Return an array whose axis ``i`` is axis ``axes[i]`` of the given one."""
        return _moved(lambda values: jnp.transpose(values, axes), array)

    def reshape(self, array: Any, shape: tuple[int, ...]) -> Any:
        """Return the elements in another shape."""
        with _fitting_shardings():
            return _moved(lambda values: jnp.reshape(values, shape), array)

    def flip(self, array: Any, axes: tuple[int, ...]) -> Any:
        """Return an array with the order of elements reversed along axes."""
        return _moved(lambda values: jnp.flip(values, axes), array) if axes else array

    def part(self, array: Any, axis: int, start: int, stop: int) -> Any:
        """Return a range of an axis."""
        return _moved(lambda values: lax.slice_in_dim(values, start, stop, axis=axis), array)

    def concatenate(self, arrays: Sequence[Any], axis: int) -> Any:
        """Return one array of several."""
        with _fitting_shardings():
            return _moved(lambda *values: jnp.concatenate(values, axis), *arrays)

    def full(self, shape: tuple[int, ...], value: Array) -> Any:
        """Return an array filled with a scalar."""
        _require(value.dtype, way_out="leave the tensor out of the template (like=)")
        if not _as_integers(value.dtype):
            return jnp.full(shape, value, value.dtype)
        bits = jnp.full(shape, value.view(f"u{value.dtype.itemsize}"))
        # Else XLA may make the narrow number first, and repeat it by way of a wider one.
        return from_bits(lax.optimization_barrier(bits), value.dtype)

    def constant(self, values: Array) -> Any:
        """Return the values of a numpy array."""
        _require(values.dtype)
        return jnp.asarray(values)

    def cast(self, array: Any, dtype: np.dtype[Any]) -> Any:
        """Return the values in another dtype."""
        source = np.dtype(array.dtype)
        _require(dtype)
        if source == dtype:
            return array
        if is_floating(source) and is_floating(dtype):
            if source.name not in _FLOATS or dtype.name not in _FLOATS:
                raise UnsupportedFeature(
                    f"JAX rounds {source.name} to {dtype.name} in another way than numpy, where numbers are "
                    "very small or have many digits.",
                    hint="Cast in the plan of a file (convert --dtype), or after the compiled function.",
                )
            return with_numpy_nans(array, dtype)
        if (
            source.kind not in "biu"
            or dtype.kind == "c"
            or (is_floating(dtype) and dtype.name not in {*_FLOATS, "float64"})
        ):
            raise UnsupportedFeature(
                f"JAX casts {source.name} to {dtype.name} in another way than numpy, where values are out "
                "of range.",
                hint="Cast before or after the compiled function.",
            )
        return lax.convert_element_type(array, dtype)

    def add(self, first: Any, second: Any) -> Any:
        """Return the sum of two arrays."""
        dtype = np.dtype(first.dtype)
        if dtype.name not in _FLOATS:
            raise UnsupportedFeature(
                f"JAX adds {dtype.name} values in another way than numpy, where they are very small.",
                hint="Cast to float32 before the compiled function.",
            )
        with _fitting_shardings():
            return added(first, second)

    def scale(self, array: Any, constant: Array, *, divides: bool) -> Any:
        """Refuse: XLA gives products that are very small as zeros."""
        raise UnsupportedFeature(
            f"JAX multiplies {array.dtype} values in another way than numpy, where products are very small.",
            hint="Scale the array after the compiled function, without this op in the plan.",
        )

    def choose(self, first: Any, second: Any, equal: Any, other: Any) -> Any:
        """Return elements of one array where two others have the same bits, else those of another."""
        with _fitting_shardings():
            chosen = jnp.where(bits_of(first) == bits_of(second), bits_of(equal), bits_of(other))
        return from_bits(chosen, equal.dtype)


@contextlib.contextmanager
def _fitting_shardings() -> Iterator[None]:
    """Refuse arrays on a mesh with explicit axes whose shardings do not determine that of the result.

    Raises:
        UsageError: JAX refuses the shardings.
    """
    try:
        yield
    except Exception as err:
        if type(err).__name__ != "ShardingTypeError":  # which JAX does not export
            raise
        raise UsageError(
            f"the shardings of the arrays do not determine that of the result: {err}",
            hint="Give arrays that are joined one sharding, with jax.sharding.reshard, or make the mesh with "
            "axis_types of jax.sharding.AxisType.Auto.",
        ) from err


def _require(dtype: np.dtype[Any], way_out: str = "cast the source to 32 bits") -> None:
    """Refuse dtypes of which JAX has no arrays, or none with numpy's bits."""
    if dtype.name in PACKED or dtype.name.startswith("float6_"):
        raise UnsupportedFeature(
            f"{dtype.name} arrays are packed by XLA, and not computed bit for bit.",
            hint="Cast to a dtype of 8 bits or more before the compiled function.",
        )
    part = dtype.itemsize // 2 if dtype.kind == "c" else dtype.itemsize
    if part == 8 and not jax.config.jax_enable_x64:
        raise UnsupportedFeature(
            f"JAX has no {dtype.name} arrays while 64-bit dtypes are switched off.",
            hint=f'Call jax.config.update("jax_enable_x64", True), or {way_out}.',
        )


def _as_integers(dtype: Any) -> bool:
    dtype = np.dtype(dtype)
    return is_floating(dtype) and dtype.itemsize <= 2


def _moved(move: Callable[..., Any], *arrays: Any) -> Any:
    """Return an array that has only moved elements of others; narrow floats are moved as integers."""
    dtype = arrays[0].dtype
    if not _as_integers(dtype):
        return move(*arrays)
    return differentiable(lambda *values: from_bits(move(*map(bits_of, values)), dtype), move, *arrays)
