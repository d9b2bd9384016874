"""Hugging Face checkpoints for ckptbridge: transformers' folders, its own layers, and its old functions."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from bridge_core import LayerKind, LayerTransform, Library, hookimpl
from ckptbridge_transformers.diffusers import diffusers_rules
from ckptbridge_transformers.layers import KINDS, TRANSFORMS
from ckptbridge_transformers.library import Diffusers, Transformers

if TYPE_CHECKING:
    from ckptbridge_transformers.loading import Loaded, flax_weights, torch_weights
    from ckptbridge_transformers.templates import flax_template, meta_model

__all__ = ["Loaded", "diffusers_rules", "flax_template", "flax_weights", "meta_model", "torch_weights"]

_WHERE = {
    "Loaded": "loading",
    "flax_template": "templates",
    "flax_weights": "loading",
    "meta_model": "templates",
    "torch_weights": "loading",
}


def __getattr__(name: str) -> Any:
    """Import what needs a framework when it is first asked for."""
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)


@hookimpl
def bridge_layer_kinds() -> tuple[LayerKind, ...]:
    """Return the layer kinds that only transformers has."""
    return KINDS


@hookimpl
def bridge_layer_transforms() -> tuple[LayerTransform, ...]:
    """Return how transformers' own layers are spelt."""
    return TRANSFORMS


@hookimpl
def bridge_libraries() -> tuple[Library, ...]:
    """Return the adapters of transformers and diffusers."""
    return (Transformers(), Diffusers())
