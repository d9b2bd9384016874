"""What a plugin can provide, and the registry of it."""

from typing import TYPE_CHECKING

from bridge_core.public import exports

if TYPE_CHECKING:
    from bridge_core.plugins.framework import Framework as Framework, Relocating as Relocating
    from bridge_core.plugins.hookspecs import hookimpl as hookimpl
    from bridge_core.plugins.library import Checkpoint as Checkpoint, Guidance as Guidance, Library as Library
    from bridge_core.plugins.plugin_errors import plugin_failures as plugin_failures
    from bridge_core.plugins.registry import Registry as Registry, default_registry as default_registry
else:
    __getattr__, __dir__, __all__ = exports(
        __name__,
        {
            "framework": "Framework Relocating",
            "hookspecs": "hookimpl",
            "library": "Checkpoint Guidance Library",
            "plugin_errors": "plugin_failures",
            "registry": "Registry default_registry",
        },
    )
