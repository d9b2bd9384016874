"""``ckptbridge plugins``: what is installed, from where, and what failed."""

from __future__ import annotations

import warnings
from importlib import metadata
from typing import Any

import click

from bridge_core.cli.options import examples, json_option
from bridge_core.cli.report import plugin_lines
from bridge_core.cli.terminal import aside, print_json, say

__all__ = ["plugins"]


@click.command(
    epilog=examples("ckptbridge plugins", "ckptbridge plugins --json"),
)
@json_option
def plugins(as_json: bool) -> None:
    """List the installed plugins: formats, frameworks, layer kinds and transforms."""
    from bridge_core.plugins import default_registry

    with aside(), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # failures are listed
        registry = default_registry()
    document: dict[str, Any] = {
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
            {"name": failure.name, "distribution": failure.distribution, "reason": failure.reason}
            for failure in registry.failures
        ],
    }
    if as_json:
        print_json(document)
    else:
        say(*plugin_lines(document))


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return ""
