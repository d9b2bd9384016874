"""Hugging Face checkpoints for ckptbridge: transformers' folders, its own layers, and its old functions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bridge_core import hookimpl
from bridge_core.public import exports

if TYPE_CHECKING:
    from collections.abc import Iterable

    from bridge_core import LayerKind, LayerTransform, Library
    from ckptbridge_transformers.diffusers import diffusers_rules as diffusers_rules
    from ckptbridge_transformers.loading import (
        Loaded as Loaded,
        flax_weights as flax_weights,
        torch_weights as torch_weights,
    )
    from ckptbridge_transformers.templates import flax_template as flax_template, meta_model as meta_model
else:
    __getattr__, __dir__, __all__ = exports(
        __name__,
        {
            "diffusers": "diffusers_rules",
            "loading": "Loaded flax_weights torch_weights",
            "templates": "flax_template meta_model",
        },
    )


@hookimpl
def bridge_layer_kinds() -> Iterable[LayerKind]:
    """Return the layer kinds that only transformers has."""
    from ckptbridge_transformers.layers import KINDS

    return KINDS


@hookimpl
def bridge_layer_transforms() -> Iterable[LayerTransform]:
    """Return how transformers' own layers are stored."""
    from ckptbridge_transformers.layers import TRANSFORMS

    return TRANSFORMS


@hookimpl
def bridge_libraries() -> Iterable[Library]:
    """Return the adapters of transformers and diffusers."""
    from ckptbridge_transformers.library import LIBRARIES

    return LIBRARIES
