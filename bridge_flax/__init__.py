"""Flax for ckptbridge: msgpack files, Linen trees, NNX modules and states."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bridge_core import hookimpl
from bridge_core.public import exports

if TYPE_CHECKING:
    from collections.abc import Iterable

    from bridge_core import Format, Framework, LayerTransform
    from bridge_flax.framework import FlaxFramework as FlaxFramework
    from bridge_flax.in_memory import (
        from_neutral as from_neutral,
        template as template,
        to_neutral as to_neutral,
    )
    from bridge_flax.loading import load as load, save as save
    from bridge_flax.templates import Template as Template
else:
    __getattr__, __dir__, __all__ = exports(
        __name__,
        {
            "framework": "FlaxFramework",
            "in_memory": "from_neutral template to_neutral",
            "loading": "load save",
            "templates": "Template",
        },
    )


@hookimpl
def bridge_formats() -> Iterable[Format]:
    """Return Flax's msgpack format."""
    from bridge_flax.msgpack import MsgpackFormat

    return (MsgpackFormat(),)


@hookimpl
def bridge_frameworks() -> Iterable[Framework]:
    """Return the Flax adapter."""
    from bridge_flax.framework import FlaxFramework

    return (FlaxFramework(),)


@hookimpl
def bridge_layer_transforms() -> Iterable[LayerTransform]:
    """Return how Flax stores each kind of layer."""
    from bridge_flax.layers import TRANSFORMS

    return TRANSFORMS
