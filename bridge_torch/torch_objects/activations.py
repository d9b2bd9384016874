"""Names of activations, as `bridge_core.plugins.ModuleSettings` has them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional

__all__ = ["activation_name"]

_MODULES: dict[type, Callable[[Any], str]] = {
    nn.CELU: lambda m: f"celu({m.alpha:g})",
    nn.ELU: lambda m: f"elu({m.alpha:g})",
    nn.GELU: lambda m: "gelu" if m.approximate == "none" else f"gelu_{m.approximate}",
    nn.GLU: lambda m: f"glu({m.dim})",
    nn.Hardshrink: lambda m: f"hard_shrink({m.lambd:g})",
    nn.Hardsigmoid: lambda _: "hard_sigmoid",
    nn.Hardswish: lambda _: "hard_swish",
    nn.Hardtanh: lambda m: (
        "hard_tanh" if (m.min_val, m.max_val) == (-1, 1) else f"hard_tanh({m.min_val:g},{m.max_val:g})"
    ),
    nn.Identity: lambda _: "identity",
    nn.LeakyReLU: lambda m: f"leaky_relu({m.negative_slope:g})",
    nn.LogSigmoid: lambda _: "log_sigmoid",
    nn.LogSoftmax: lambda m: f"log_softmax({_axis(m)})",
    nn.Mish: lambda _: "mish",
    nn.PReLU: lambda _: "prelu",
    nn.ReLU6: lambda _: "relu6",
    nn.ReLU: lambda _: "relu",
    nn.RReLU: lambda m: f"rrelu({m.lower:g},{m.upper:g})",
    nn.SELU: lambda _: "selu",
    nn.Sigmoid: lambda _: "sigmoid",
    nn.SiLU: lambda _: "silu",
    nn.Softmax2d: lambda _: "softmax(-3)",
    nn.Softmax: lambda m: f"softmax({_axis(m)})",
    nn.Softmin: lambda m: f"softmin({_axis(m)})",
    nn.Softplus: lambda m: "softplus" if m.beta == 1 else f"softplus({m.beta:g})",
    nn.Softshrink: lambda m: f"soft_shrink({m.lambd:g})",
    nn.Softsign: lambda _: "soft_sign",
    nn.Tanh: lambda _: "tanh",
    nn.Tanhshrink: lambda _: "tanh_shrink",
    nn.Threshold: lambda m: f"threshold({m.threshold:g},{m.value:g})",
}

_TRANSFORMERS = {
    "AccurateGELUActivation": "gelu_tanh",
    "FastGELUActivation": "gelu_tanh",
    "GELUActivation": "gelu",
    "GELUTanh": "gelu_tanh",
    "LaplaceActivation": "laplace",
    "LinearActivation": "identity",
    "MishActivation": "mish",
    "NewGELUActivation": "gelu_tanh",
    "PytorchGELUTanh": "gelu_tanh",
    "QuickGELUActivation": "quick_gelu",
    "ReLUSquaredActivation": "relu_squared",
    "SiLUActivation": "silu",
}
"""Classes of ``transformers.activations`` without parameters."""

_FUNCTIONS: dict[Any, str] = {
    **dict.fromkeys((torch.relu, functional.relu, torch.relu_, torch.Tensor.relu), "relu"),
    **dict.fromkeys((torch.sigmoid, functional.sigmoid, torch.Tensor.sigmoid), "sigmoid"),
    **dict.fromkeys((torch.tanh, functional.tanh, torch.Tensor.tanh), "tanh"),
    functional.celu: "celu(1)",
    functional.elu: "elu(1)",
    functional.gelu: "gelu",
    functional.hardsigmoid: "hard_sigmoid",
    functional.hardswish: "hard_swish",
    functional.hardtanh: "hard_tanh",
    functional.leaky_relu: "leaky_relu(0.01)",
    functional.logsigmoid: "log_sigmoid",
    functional.mish: "mish",
    functional.relu6: "relu6",
    functional.selu: "selu",
    functional.silu: "silu",
    functional.softplus: "softplus",
    functional.softsign: "soft_sign",
    functional.tanhshrink: "tanh_shrink",
}

_WORDS = {
    "gelu": "gelu",
    "gelu_accurate": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "gelu_python": "gelu",
    "gelu_python_tanh": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "laplace": "laplace",
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
"""Names in configs, as transformers' ``ACT2FN`` reads them, and torch's own."""


def activation_name(value: Any) -> str | None:
    """Return the name of an activation; None if the value is none, or none that is known.

    Args:
        value: A module, its class, a function, `functools.partial` of one, or a name from a config.
    """
    if isinstance(value, str):
        return _WORDS.get(value)
    if isinstance(value, type):
        return _of_class(value)
    if isinstance(value, nn.Module):
        return _of_module(value)
    if isinstance(value, functools.partial):
        return _of_partial(value)
    try:
        return _FUNCTIONS.get(value)
    except TypeError:  # not hashable, so not a function of torch
        return None


def _of_module(module: nn.Module) -> str | None:
    for cls in type(module).__mro__:
        if cls in _MODULES:
            overridden = type(module).forward is not cls.forward  # type: ignore[attr-defined]
            return None if overridden else _MODULES[cls](module)
        if cls.__module__ == "transformers.activations":
            if cls.__name__ == "ClippedGELUActivation":
                return f"gelu_clipped({module.min:g},{module.max:g})"
            return _TRANSFORMERS.get(cls.__name__)
    return None


def _of_class(cls: type) -> str | None:
    if issubclass(cls, nn.Module) and (cls in _MODULES or cls.__module__ == "transformers.activations"):
        try:
            return _of_module(cls())
        except TypeError:  # its parameters have no defaults
            return None
    return None


def _of_partial(value: functools.partial[Any]) -> str | None:
    if value.args or not value.keywords:
        return None if value.args else activation_name(value.func)
    if value.func is functional.gelu:
        return {"none": "gelu", "tanh": "gelu_tanh"}.get(value.keywords.get("approximate", "none"))
    if value.keywords.keys() <= {"inplace"}:
        return activation_name(value.func)
    named = {
        functional.leaky_relu: ("leaky_relu", "negative_slope"),
        functional.elu: ("elu", "alpha"),
        functional.celu: ("celu", "alpha"),
        functional.softplus: ("softplus", "beta"),
        functional.softmax: ("softmax", "dim"),
        torch.softmax: ("softmax", "dim"),
    }.get(value.func)
    if named is not None and value.keywords.keys() <= {named[1], "inplace"}:
        return f"{named[0]}({value.keywords[named[1]]:g})"
    return activation_name(value.func(**value.keywords)) if isinstance(value.func, type) else None


def _axis(module: Any) -> Any:
    return "implicit" if module.dim is None else module.dim
