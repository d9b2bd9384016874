"""The built-in file formats, registered like any plugin's."""

from __future__ import annotations

from bridge_core.formats.npz import NpzFormat
from bridge_core.formats.safetensors import SafetensorsFormat
from bridge_core.hookspecs import hookimpl
from bridge_core.interfaces import Format

__all__ = ["bridge_formats"]


@hookimpl
def bridge_formats() -> list[Format]:
    """Return the formats of the core."""
    return [SafetensorsFormat(), NpzFormat()]
