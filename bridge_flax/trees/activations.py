"""Names of activations, as `bridge_core.plugins.ModuleSettings` has them."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

__all__ = ["activation_name"]

_FUNCTIONS: Mapping[str, Callable[[Any], Any]] = {
    "relu": jax.nn.relu,
    "gelu_tanh": jax.nn.gelu,
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
    "silu": jax.nn.silu,
    "sigmoid": jax.nn.sigmoid,
    "tanh": jnp.tanh,
    "identity": lambda x: x,
    "celu(1)": jax.nn.celu,
    "elu(1)": jax.nn.elu,
    "hard_sigmoid": jax.nn.hard_sigmoid,
    "hard_swish": jax.nn.hard_silu,
    "hard_tanh": jax.nn.hard_tanh,
    "leaky_relu(0.01)": jax.nn.leaky_relu,
    "leaky_relu(0.2)": functools.partial(jax.nn.leaky_relu, negative_slope=0.2),
    "log_sigmoid": jax.nn.log_sigmoid,
    "mish": jax.nn.mish,
    "relu6": jax.nn.relu6,
    "relu_squared": lambda x: jnp.square(jax.nn.relu(x)),
    "selu": jax.nn.selu,
    "soft_sign": jax.nn.soft_sign,
    "softplus": jax.nn.softplus,
}
"""Functions of one array that are told apart by their values; of equal ones the first has the name."""

_WITH_PARAMETER: tuple[tuple[Any, str, str], ...] = (
    (jax.nn.leaky_relu, "leaky_relu", "negative_slope"),
    (jax.nn.elu, "elu", "alpha"),
    (jax.nn.celu, "celu", "alpha"),
    (jax.nn.softmax, "softmax", "axis"),
    (jax.nn.log_softmax, "log_softmax", "axis"),
    (jax.nn.glu, "glu", "axis"),
)
"""Functions with the parameter that their name shows."""

_WORDS = {
    "gelu": "gelu",
    "gelu_accurate": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_python": "gelu",
    "leaky_relu": "leaky_relu(0.01)",
    "linear": "identity",
    "mish": "mish",
    "quick_gelu": "quick_gelu",
    "relu": "relu",
    "relu2": "relu_squared",
    "relu6": "relu6",
    "sigmoid": "sigmoid",
    "silu": "silu",
    "swish": "silu",
    "tanh": "tanh",
}
"""Names in configs, as transformers reads them."""

_POINTS = np.array([-7.5, -3.25, -2.75, -1.5, -0.75, -0.25, 0.0, 0.25, 0.75, 1.5, 2.75, 3.25, 7.5])


def activation_name(value: Any) -> str | None:
    """Return the name of an activation; None if the value is none, or none that is known.

    A function that is not JAX's own is recognised by its values at a few points.

    Args:
        value: A function, `functools.partial` of one, a PReLU, or a name from a config.
    """
    if isinstance(value, str):
        return _WORDS.get(value)
    if any(base.__name__ == "PReLU" for base in type(value).__mro__):
        return "prelu"
    if isinstance(value, nn.Module | type) or not callable(value):
        return None
    for function, name, parameter in _WITH_PARAMETER:
        if value is function:
            default = inspect.signature(function).parameters[parameter].default
            return f"{name}({default:g})"
        if isinstance(value, functools.partial) and value.func is function and not value.args:
            number = value.keywords.get(parameter)
            if len(value.keywords) == 1 and isinstance(number, int | float):
                return f"{name}({number:g})"
    return _by_values(value)


def _by_values(function: Callable[[Any], Any]) -> str | None:
    try:
        with jax.ensure_compile_time_eval():
            values = np.asarray(function(jnp.asarray(_POINTS, jnp.float32)))
    except Exception:
        return None  # it takes something else, so it is no activation
    if values.shape != _POINTS.shape or values.dtype.kind != "f":
        return None
    known = _known_values()
    near = [name for name, others in known.items() if np.allclose(values, others, rtol=3e-6, atol=3e-6)]
    return near[0] if near else None


@functools.cache
def _known_values() -> dict[str, Any]:
    with jax.ensure_compile_time_eval():
        points = jnp.asarray(_POINTS, jnp.float32)
        return {name: np.asarray(function(points)) for name, function in _FUNCTIONS.items()}
