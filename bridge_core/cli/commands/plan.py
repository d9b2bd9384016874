"""``ckptbridge plan``: what a conversion would do."""

from __future__ import annotations

from typing import Any

import click

from bridge_core.cli.options import examples, json_option, takes_registry, target_options
from bridge_core.cli.report import exactness
from bridge_core.cli.terminal import aside, print_json, say

__all__ = ["plan"]


@click.command(
    epilog=examples(
        "ckptbridge plan pytorch_model.bin --to flax",
        "ckptbridge plan model.safetensors --to flax --like flax_model.msgpack --json",
        "ckptbridge plan model.pt --to flax --model mynet:make_model --allow-missing 'params.head.**'",
        "ckptbridge plan model.safetensors --to flax --rules rules.toml",
    ),
)
@click.argument("src")
@target_options
@json_option
@takes_registry
def plan(src: str, as_json: bool, **asked: Any) -> None:
    """Show how SRC would be converted; nothing is written, and no tensor is read.

    A plan that cannot be run is shown with its problems, and the exit code is 1. Each step tells the
    evidence that decided it, and the rule if one did; rules that matched nothing are listed.
    """
    from bridge_core.conversion import plan_conversion

    with aside():
        made = plan_conversion(src, check=False, **asked)
    if as_json:
        print_json(made.to_json())
    else:
        say(*made.describe().split("\n"))
        if made.ok:
            say(exactness(made.exact, made.unclaimed))
    made.check()
