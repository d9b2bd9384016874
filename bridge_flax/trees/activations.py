"""Names of activations, as `bridge_core.plugins.ModuleSettings` has them."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

__all__ = ["activation_name"]

_OWN: tuple[tuple[Any, str], ...] = (
    (jax.nn.relu, "relu"),
    (jax.nn.gelu, "gelu_tanh"),
    (jax.nn.silu, "silu"),
    (jax.nn.sigmoid, "sigmoid"),
    (jnp.tanh, "tanh"),
    (jax.nn.hard_sigmoid, "hard_sigmoid"),
    (jax.nn.hard_silu, "hard_swish"),
    (jax.nn.hard_tanh, "hard_tanh"),
    (jax.nn.log_sigmoid, "log_sigmoid"),
    (jax.nn.mish, "mish"),
    (jax.nn.relu6, "relu6"),
    (jax.nn.selu, "selu"),
    (jax.nn.soft_sign, "soft_sign"),
    (jax.nn.softplus, "softplus"),
)
"""JAX's own functions; Flax has the same."""


def _sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


_VALUES: Mapping[str, Callable[[Any], Any]] = {
    "relu": lambda x: np.maximum(x, 0),
    "gelu_tanh": lambda x: x / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "gelu": lambda x: x / 2 * (1 + np.vectorize(math.erf)(x / math.sqrt(2))),
    "quick_gelu": lambda x: x * _sigmoid(1.702 * x),
    "silu": lambda x: x * _sigmoid(x),
    "sigmoid": _sigmoid,
    "tanh": np.tanh,
    "identity": lambda x: x,
    "elu(1)": lambda x: np.where(x > 0, x, np.expm1(x)),
    "hard_sigmoid": lambda x: np.clip(x / 6 + 0.5, 0, 1),
    "hard_swish": lambda x: x * np.clip(x / 6 + 0.5, 0, 1),
    "hard_tanh": lambda x: np.clip(x, -1, 1),
    "leaky_relu(0.01)": lambda x: np.where(x > 0, x, 0.01 * x),
    "leaky_relu(0.2)": lambda x: np.where(x > 0, x, 0.2 * x),
    "log_sigmoid": lambda x: -np.log1p(np.exp(-x)),
    "mish": lambda x: x * np.tanh(np.log1p(np.exp(x))),
    "relu6": lambda x: np.clip(x, 0, 6),
    "relu_squared": lambda x: np.maximum(x, 0) ** 2,
    "softplus": lambda x: np.log1p(np.exp(x)),
}
"""What other functions of one array are compared with."""

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
    for function, name in _OWN:
        if value is function:
            return name
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
    for name, known in _VALUES.items():
        if np.allclose(values, known(_POINTS), rtol=3e-6, atol=3e-6):
            return name
    return None
