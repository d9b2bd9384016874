"""``ckptbridge plan``: shows what a conversion would do."""

from __future__ import annotations

from typing import Any

import click

from bridge_core.cli.completion import a_file
from bridge_core.cli.options import examples, json_option, takes_registry, target_options
from bridge_core.cli.output_files import PAGE, check_output, page_title, write_output
from bridge_core.cli.report import exactness
from bridge_core.cli.terminal import aside, print_json, say

__all__ = ["plan"]


@click.command(
    epilog=examples(
        "ckptbridge plan pytorch_model.bin --to flax",
        "ckptbridge plan model.safetensors --to flax --like flax_model.msgpack --json",
        "ckptbridge plan model.pt --to flax --model mynet:make_model --allow-missing 'params.head.**'",
        "ckptbridge plan model.safetensors --to flax --rules rules.toml",
        "ckptbridge plan model.safetensors --to flax --html plan.html",
    ),
)
@click.argument("src", shell_complete=a_file)
@target_options
@click.option(
    "--html",
    "html_file",
    type=click.Path(),
    metavar="FILE",
    help="Write the plan as one page of HTML to look at in a browser; it loads nothing from elsewhere.",
)
@click.option("--overwrite", is_flag=True, help="Replace the page if it exists.")
@json_option
@takes_registry
def plan(src: str, html_file: str | None, overwrite: bool, as_json: bool, **asked: Any) -> None:
    """Show how SRC would be converted; no weights are written, and no tensor is read.

    A plan that cannot be run is shown with its problems, and the exit code is 1. Each step shows the
    evidence that decided it, and the rule if one did; rules that matched no name are listed.
    """
    from bridge_core.conversion import plan_conversion
    from bridge_core.errors import BridgeError

    if html_file is not None:
        check_output(html_file, PAGE, "plan.html", overwrite=overwrite)
    with aside():
        planned = plan_conversion(src, check=False, **asked)
    if html_file is not None:
        write_output(html_file, planned.html(page_title(src)), overwrite=overwrite)
    if as_json:
        print_json(planned.to_json())
    else:
        say(*planned.describe().split("\n"))
        if planned.ok:
            say(exactness(planned.exact, planned.unclaimed))
    try:
        planned.check()
    except BridgeError as error:
        if html_file is not None and not overwrite:  # the commands to go on with write the page again
            error.options = tuple(f"{option} --overwrite" for option in error.options)
        raise
