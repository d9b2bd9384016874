"""``ckptbridge diff``: compares two files, name by name and bit by bit."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from bridge_core.cli.options import examples, json_option, takes_registry
from bridge_core.cli.report import comparison_lines
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
@click.argument("a")
@click.argument("b")
@json_option
@takes_registry
def diff(a: str, b: str, as_json: bool, registry: Registry | None) -> int:
    """Compare the names, shapes, dtypes and values of A and B, without a conversion.

    A and B may be of different formats. To compare different layouts, use 'ckptbridge verify'. Exit code 0:
    equal; 1: different.
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
        left.check_unchanged()
        right.check_unchanged()
    if as_json:
        print_json(comparison.to_json())
    else:
        say(*comparison_lines(comparison, "A", "B"))
    return 0 if comparison.equal else 1
