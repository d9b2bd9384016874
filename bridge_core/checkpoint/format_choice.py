"""The format of what is written: as given, of the extension, or the usual one of the layout."""

from __future__ import annotations

from bridge_core.checkpoint.detect_format import by_extension
from bridge_core.checkpoint.write_options import Destined, WriteOptions, as_location
from bridge_core.formats import FolderFormat, Format
from bridge_core.plugins import Registry

__all__ = ["chosen_format"]

_OF_PLUGINS = {".orbax": "orbax", ".h5": "hdf5", ".hdf5": "hdf5"}
"""Suffixes that are of one format, which may not be installed."""


def chosen_format(
    path: Destined, options: WriteOptions, registry: Registry, *, layout: str | None
) -> Format | FolderFormat:
    """Return the format to write: as given, of the extension, or the usual one of the layout.

    Args:
        path: The destination.
        options: The options of writing.
        registry: Where formats are found.
        layout: The layout of the state.
    """
    if options.format is not None:
        return registry.any_format(options.format)
    name = as_location(path).name
    for candidate in registry.folder_formats.values():
        if name.lower().endswith(candidate.extensions):
            return candidate
    if not options.fills_folder(path) and (named := by_extension(name, registry)):
        return named
    for suffix, missing in _OF_PLUGINS.items():
        if name.lower().endswith(suffix) and missing not in (*registry.formats, *registry.folder_formats):
            return registry.any_format(missing)  # the error names the package to install
    framework = registry.frameworks.get(layout or "")
    return registry.format(framework.default_format if framework else "safetensors")
