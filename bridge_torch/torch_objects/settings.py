"""The settings of a model's modules, under the names that all frameworks share."""

from __future__ import annotations

from typing import Any

from torch import nn

from bridge_core import Key
from bridge_core.plugins import ModuleSettings
from bridge_torch.torch_objects.activations import activation_name
from bridge_torch.torch_objects.layer_settings import layer_settings
from bridge_torch.torch_objects.tensors import layers_of, ties_of, type_of
from bridge_torch.torch_objects.usual_attributes import usual_settings

__all__ = ["model_settings"]


def model_settings(model: nn.Module) -> dict[Key, ModuleSettings]:
    """Return the settings of each module by path; nothing is run, and no value of a weight is read."""
    ties = ties_of(model)
    settings = {}
    for path, module in layers_of(model).items():
        values, unread = _read(module)
        if (dtype := _dtype(module)) is not None:
            values["dtype"] = dtype
        tied = next((owner for key, owner in ties.items() if key[:-1] == path), None)
        if tied is not None:
            values["tied_to"] = ".".join(tied)
        unread = tuple(name for name in unread if name not in values)
        settings[path] = ModuleSettings(type_of(module), values, unread)
    return settings


def _read(module: nn.Module) -> tuple[dict[str, Any], tuple[str, ...]]:
    known = layer_settings(module)
    if known is not None:
        return known
    name = activation_name(module)
    return ({"activation": name}, ()) if name is not None else usual_settings(module)


def _dtype(module: nn.Module) -> str | None:
    """Return the dtype of a module's own float weights; None without weights, or with several."""
    dtypes = {child.dtype for child in module.parameters(recurse=False) if child.is_floating_point()}
    return str(dtypes.pop()).removeprefix("torch.") if len(dtypes) == 1 else None
