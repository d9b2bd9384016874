"""``ckptbridge diff``: compares two files, name by name and bit by bit."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from bridge_core.cli.completion import a_file
from bridge_core.cli.difference_lines import comparison_lines
from bridge_core.cli.options import examples, json_option, takes_registry
from bridge_core.cli.terminal import aside, print_json, say

if TYPE_CHECKING:
    from bridge_core.plugins import Registry

__all__ = ["diff"]


@click.command(
    epilog=examples(
        "ckptbridge diff before.safetensors after.safetensors",
        "ckptbridge diff pytorch_model.bin model.safetensors --json",
    ),
)
@click.argument("a", shell_complete=a_file)
@click.argument("b", shell_complete=a_file)
@click.option(
    "--why/--no-why",
    default=True,
    help="Whether to find out what turned one into the other, which reads what differs again. [default: why]",
)
@json_option
@takes_registry
def diff(a: str, b: str, why: bool, as_json: bool, registry: Registry | None) -> int:
    """Compare the names, shapes, dtypes and values of A and B, without a conversion.

    Where tensors differ, the first line names what turned A into B: transposed axes, swapped parts, another
    layer's content, a scale and others. A and B may be of different formats. To compare different layouts,
    use 'ckptbridge verify'. Exit code 0: equal; 1: different.
    """
    from bridge_core.checkpoint import open_state
    from bridge_core.cli.progress_bar import progress_bar
    from bridge_core.transfer import compare_states

    with (
        aside(),
        open_state(a, registry=registry) as left,
        open_state(b, registry=registry) as right,
        progress_bar(shown=not as_json) as progress,
    ):
        comparison = compare_states(left, right, progress=progress)
        named = None
        if why and not comparison.equal:
            from bridge_core.proof import name_differences

            named = name_differences(left, right, comparison, progress=progress)
        left.check_unchanged()
        right.check_unchanged()
    if as_json:
        print_json(comparison.to_json() if named is None else named.to_json("A", "B"))
    else:
        say(*comparison_lines(comparison, "A", "B", named))
    return 0 if comparison.equal else 1
