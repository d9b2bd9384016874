"""Settings of modules that are not torch's, by the names that the core knows."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from bridge_core.plugins import AttributeReader, settings_of_attributes
from bridge_torch.torch_objects.activations import activation_name

__all__ = ["usual_settings"]


def usual_settings(module: nn.Module) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return settings and the names of those that concern a module of its kind and cannot be read."""
    activation = activation_name(module)
    if activation is not None:
        return {"activation": activation}, ()
    if type(module).__module__ == "transformers.activations":
        return {}, ("activation",)
    return settings_of_attributes(
        module,
        _READER,
        lambda: [type(child).__name__ for child in [*module.modules()][1:]],
        has_weights=any(True for _ in module.parameters(recurse=False)),
        training=lambda: module.training,
    )


def _held(module: nn.Module, name: str) -> Any:
    """Return a child or a buffer."""
    return next((held[name] for held in (module._modules, module._buffers) if name in held), None)


def _number(value: Any) -> float | None:
    if isinstance(value, torch.Tensor):
        is_one = value.ndim == 0 and value.device.type != "meta" and not isinstance(value, nn.Parameter)
        return float(value.item()) if is_one else None
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number else None


_READER = AttributeReader(held=_held, number=_number, activation=activation_name)
