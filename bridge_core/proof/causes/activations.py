"""Activation functions by the names that all frameworks share, in numpy."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np

from bridge_core.state import Array

__all__ = ["ACTIVATIONS", "activate"]


def activate(name: str, x: Array) -> Array:
    """Return an activation of an array.

    Args:
        name: A key of `ACTIVATIONS`, or one with a parameter: ``"leaky_relu(0.01)"``, ``"softmax(-1)"``.
        x: float64 of any shape.

    Raises:
        KeyError: The name is not known.
    """
    plain, _, rest = name.partition("(")
    parameter = rest.removesuffix(")")
    with np.errstate(all="ignore"):
        if not parameter:
            return ACTIVATIONS[plain](x)
        if plain == "leaky_relu":
            return np.where(x > 0, x, float(parameter) * x)
        if plain in ("elu", "celu"):
            alpha = float(parameter)
            return np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0) / (alpha if plain == "celu" else 1)))
        if plain == "softplus":
            return _softplus(float(parameter) * x) / float(parameter)
        if plain == "softcap":
            return float(parameter) * np.tanh(x / float(parameter))
        if plain == "softmax":
            return _softmax(x, int(parameter))
        if plain == "log_softmax":
            return _log_softmax(x, int(parameter))
    raise KeyError(name)


def _sigmoid(x: Array) -> Array:
    return 0.5 * (1 + np.tanh(0.5 * x))


def _softplus(x: Array) -> Array:
    return np.logaddexp(0, x)


def _erf(x: Array) -> Array:
    # numpy does not have the error function, and ``math.erf`` takes one number.
    return np.asarray(_ERF(x), np.float64)


_ERF = np.frompyfunc(math.erf, 1, 1)


def _gelu(x: Array) -> Array:
    return np.asarray(0.5 * x * (1 + _erf(x / math.sqrt(2))))


def _gelu_tanh(x: Array) -> Array:
    return np.asarray(0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))))


def _softmax(x: Array, axis: int = -1) -> Array:
    powers = np.exp(x - np.max(x, axis=axis, keepdims=True))
    return np.asarray(powers / np.sum(powers, axis=axis, keepdims=True))


def _log_softmax(x: Array, axis: int = -1) -> Array:
    moved = x - np.max(x, axis=axis, keepdims=True)
    return np.asarray(moved - np.log(np.sum(np.exp(moved), axis=axis, keepdims=True)))


_SELU = (1.0507009873554805, 1.6732632423543772)

ACTIVATIONS: Mapping[str, Callable[[Array], Array]] = {
    "relu": lambda x: np.maximum(x, 0),
    "gelu": _gelu,
    "gelu_tanh": _gelu_tanh,
    "silu": lambda x: x * _sigmoid(x),
    "sigmoid": _sigmoid,
    "tanh": np.tanh,
    "quick_gelu": lambda x: x * _sigmoid(1.702 * x),
    "relu6": lambda x: np.clip(x, 0, 6),
    "leaky_relu": lambda x: np.where(x > 0, x, 0.01 * x),
    "elu": lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))),
    "softplus": _softplus,
    "mish": lambda x: x * np.tanh(_softplus(x)),
    "hard_swish": lambda x: x * np.clip(x / 6 + 0.5, 0, 1),
    "hard_sigmoid": lambda x: np.clip(x / 6 + 0.5, 0, 1),
    "hard_sigmoid_keras": lambda x: np.clip(0.2 * x + 0.5, 0, 1),
    "hard_tanh": lambda x: np.clip(x, -1, 1),
    "selu": lambda x: _SELU[0] * np.where(x > 0, x, _SELU[1] * np.expm1(np.minimum(x, 0))),
    "relu_squared": lambda x: np.square(np.maximum(x, 0)),
    "soft_sign": lambda x: x / (1 + np.abs(x)),
    "tanhshrink": lambda x: x - np.tanh(x),
    "log_sigmoid": lambda x: -_softplus(-x),
    "exp": np.exp,
    "abs": np.abs,
    "square": np.square,
    "sin": np.sin,
    "cos": np.cos,
    "softmax": _softmax,
    "log_softmax": _log_softmax,
}
"""Name -> function; the likely ones first."""
