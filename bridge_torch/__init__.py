"""PyTorch for ckptbridge: its file formats, its live objects and its layers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bridge_core import hookimpl
from bridge_core.public import exports

if TYPE_CHECKING:
    from collections.abc import Iterable

    from bridge_core import Format, Framework, LayerKind, LayerTransform
    from bridge_torch.framework import TorchFramework as TorchFramework
    from bridge_torch.in_memory import from_neutral as from_neutral, to_neutral as to_neutral
    from bridge_torch.loading import load as load
else:
    __getattr__, __dir__, __all__ = exports(
        __name__,
        {
            "framework": "TorchFramework",
            "in_memory": "from_neutral to_neutral",
            "loading": "load",
        },
    )


@hookimpl
def bridge_formats() -> Iterable[Format]:
    """Return torch's own checkpoint files."""
    from bridge_torch.file_format import TorchFormat

    return (TorchFormat(),)


@hookimpl
def bridge_frameworks() -> Iterable[Framework]:
    """Return the adapter for modules and state dicts."""
    from bridge_torch.framework import TorchFramework

    return (TorchFramework(),)


@hookimpl
def bridge_layer_kinds() -> Iterable[LayerKind]:
    """Return the kinds that only torch's layers call for."""
    from bridge_torch.layers import KINDS

    return KINDS


@hookimpl
def bridge_layer_transforms() -> Iterable[LayerTransform]:
    """Return how torch stores each kind of layer."""
    from bridge_torch.layers import TRANSFORMS

    return TRANSFORMS
