"""``ckptbridge plugins``: lists the plugins that are installed, failed, in conflict or disabled.

Its subcommand ``new`` is in `plugins_new`.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from importlib import metadata
from typing import TYPE_CHECKING, Any

import click

from bridge_core.cli.commands.plugins_new import new
from bridge_core.cli.options import examples, json_option, takes_quiet_registry
from bridge_core.cli.report import plugin_lines
from bridge_core.cli.terminal import aside, print_json, say
from bridge_core.errors import PluginWarning

if TYPE_CHECKING:
    from bridge_core.plugins import Registry

__all__ = ["plugins"]


@click.group(
    invoke_without_command=True,
    epilog=examples(
        "ckptbridge plugins",
        "ckptbridge plugins --json",
        "ckptbridge plugins --plugin my_package.layers",
        "ckptbridge plugins --disable-plugin ckptbridge-hdf5",
        "ckptbridge plugins new format our-weights",
    ),
)
@json_option
@takes_quiet_registry
def plugins(as_json: bool, registry: Registry | None) -> None:
    """List the installed plugins: formats, frameworks, layers, libraries, recipes and file systems.

    Plugins that failed, that provide the same as another, or that are disabled are listed with the reason.
    """
    context = click.get_current_context()
    if context.invoked_subcommand is not None:
        context.obj = registry
        return
    from bridge_core.plugins import default_registry

    with aside(), warnings.catch_warnings():
        warnings.simplefilter("ignore", PluginWarning)  # failures are listed
        document = _document(default_registry() if registry is None else registry)
    if as_json:
        print_json(document)
    else:
        say(*plugin_lines(document))


plugins.add_command(new)


def _document(registry: Registry) -> dict[str, Any]:
    return {
        "plugins": [
            {
                "name": plugin.name,
                "distribution": plugin.distribution,
                "version": plugin.version or _version(plugin.distribution),
                "provides": list(plugin.provides),
            }
            for plugin in registry.plugins
        ],
        "failures": [
            {
                "name": failure.name,
                "distribution": failure.distribution,
                "reason": failure.reason,
                **_filled({"version": failure.version, "hook": failure.hook}),
            }
            for failure in registry.failures
        ],
        "conflicts": [
            {
                "what": conflict.what,
                "name": conflict.name,
                "plugins": [
                    {"name": plugin.name, "distribution": plugin.distribution, "version": plugin.version}
                    for plugin in conflict.plugins
                ],
                "hint": conflict.way_on,
            }
            for conflict in registry.conflicts
        ],
        "disabled": [
            {"name": plugin.name, "distribution": plugin.distribution, "version": plugin.version}
            for plugin in registry.disabled
        ],
    }


def _filled(fields: Mapping[str, str]) -> dict[str, str]:
    """Return the fields that are known."""
    return {name: text for name, text in fields.items() if text}


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except (metadata.PackageNotFoundError, ValueError):  # one that was added has no distribution
        return ""
