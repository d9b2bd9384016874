"""What ckptbridge and its own plugins provide, in a fixed order; other plugins that are installed stay out."""

from __future__ import annotations

from functools import cache

from bridge_core.plugins import loaded_registry

__all__ = ["PLUGINS", "distribution_of", "missing", "provided"]

PLUGINS = {
    "bridge_core": "ckptbridge",
    "torch": "ckptbridge",
    "flax": "ckptbridge",
    "hdf5": "ckptbridge-hdf5",
    "orbax": "ckptbridge-orbax",
    "remote": "ckptbridge-remote",
    "transformers": "ckptbridge-transformers",
}
"""Plugin -> the distribution that it comes with."""


@cache
def registry():
    return loaded_registry()


def missing():
    """Return the plugins that are not installed here."""
    return sorted(PLUGINS.keys() - {plugin.name for plugin in registry().plugins})


def provided(*tables):
    """Return what the plugins provide in some tables of the registry, by name, in the order of `PLUGINS`."""
    values = {}
    for plugin in PLUGINS:
        for table in tables:
            for name, value in getattr(registry(), table).items():
                owner = registry().plugin_of("formats" if "formats" in table else table, name)
                if owner.name == plugin:
                    values[name] = value
    return values


def distribution_of(table, name):
    """Return the distribution that a value comes with."""
    return PLUGINS[registry().plugin_of(table, name).name]
