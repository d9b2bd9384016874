"""``ckptbridge plugins new``: writes the beginning of a plugin, with tests that pass."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

import click

from bridge_core.cli.options import examples, json_option, takes_quiet_registry
from bridge_core.cli.terminal import aside, print_json, say

if TYPE_CHECKING:
    from bridge_core.plugins import Registry

__all__ = ["new"]

_KINDS = ("layer", "format", "framework", "recipe", "library", "filesystem")


@click.command(
    short_help="Write a new plugin, with tests that pass.",
    epilog=examples(
        "ckptbridge plugins new format our-weights",
        "ckptbridge plugins new layer gated-linear --into ~/plugins",
        "ckptbridge plugins new recipe our-tagger --json",
    ),
)
@click.argument("kind", metavar="|".join(_KINDS), type=click.Choice(_KINDS))
@click.argument("name")
@click.option(
    "--into",
    "folder",
    type=click.Path(file_okay=False),
    metavar="FOLDER",
    default=".",
    help="Where to make it; by default the current folder.",
)
@json_option
@takes_quiet_registry
def new(kind: str, name: str, folder: str, as_json: bool, registry: Registry | None) -> None:
    """Write the plugin NAME: a folder ckptbridge-NAME that can be installed and changed.

    It has a working example of what a plugin of this kind provides, and tests that check it by the contracts
    of bridge_core.testing. NAME consists of lower-case words joined by hyphens.
    """
    from pathlib import Path

    from bridge_core.cli.new_plugin import write_plugin
    from bridge_core.plugins import given_registry

    context = click.get_current_context()
    if context.parent is not None:  # options may come before the subcommand
        as_json = as_json or bool(context.parent.params.get("as_json"))
        registry = registry or context.parent.obj
    with aside():
        plugin, files = write_plugin(kind, name, Path(folder).expanduser(), given_registry(registry))
    where = str(plugin.folder)
    commands = [
        ["pip", "install", "-e", f"{where}[test]"],
        ["pytest", where],
        ["ckptbridge", "plugins"],
    ]
    if as_json:
        print_json(
            {
                "kind": kind,
                "name": plugin.name,
                "distribution": plugin.distribution,
                "package": plugin.package,
                "folder": where,
                "files": files,
                "next": commands,
            }
        )
        return
    what = "file system" if kind == "filesystem" else kind
    say(f"{where}: {plugin.distribution}, a plugin with a {what}", *(f"  {file}" for file in files), "next:")
    say(*(f"  {shlex.join(command)}" for command in commands))
