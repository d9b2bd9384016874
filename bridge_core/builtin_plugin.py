"""The core's own plugin: its formats and layer kinds, registered like those of any plugin."""

from __future__ import annotations

from bridge_core.formats import Format, NpzFormat, SafetensorsFormat
from bridge_core.layers import KINDS, LayerKind
from bridge_core.plugins import hookimpl

__all__ = ["bridge_formats", "bridge_layer_kinds"]


@hookimpl
def bridge_formats() -> list[Format]:
    """Return the formats of the core."""
    return [SafetensorsFormat(), NpzFormat()]


@hookimpl
def bridge_layer_kinds() -> tuple[LayerKind, ...]:
    """Return the kinds of the core."""
    return KINDS
