"""``ckptbridge verify`` and ``ckptbridge diff``: are these the same weights?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from bridge_core.cli.options import dtype_option, evidence_options, examples, json_option
from bridge_core.cli.report import comparison_lines
from bridge_core.cli.terminal import aside, print_json, say

if TYPE_CHECKING:
    from bridge_core.transfer import Comparison

__all__ = ["diff", "verify"]


@click.command(
    short_help="Tell whether a file holds another's weights, through the plan.",
    epilog=examples(
        "ckptbridge verify pytorch_model.bin flax_model.msgpack",
        "ckptbridge verify model.safetensors model-bf16.msgpack --dtype bfloat16",
    ),
)
@click.argument("src")
@click.argument("dst")
@evidence_options
@dtype_option
@json_option
def verify(src: str, dst: str, as_json: bool, **asked: Any) -> int:
    """Tell whether DST holds SRC's weights, bit for bit, through the plan.

    Give the options that DST was converted with. Exit code 0: equal; 1: different.
    """
    from bridge_core.cli.progress_bar import progress_bar
    from bridge_core.conversion import verify as run

    with aside(), progress_bar(shown=not as_json) as progress:
        comparison = run(src, dst, progress=progress, **asked)
    return _answer(comparison, as_json, "what SRC gives", "DST")


@click.command(
    short_help="Compare names, shapes, dtypes and values as they are.",
    epilog=examples(
        "ckptbridge diff before.safetensors after.safetensors",
        "ckptbridge diff pytorch_model.bin model.safetensors --json",
    ),
)
@click.argument("a")
@click.argument("b")
@json_option
def diff(a: str, b: str, as_json: bool) -> int:
    """Compare A and B as they are: names, shapes, dtypes and values.

    They may be of different formats; nothing is renamed or moved. Exit code 0: equal; 1: different.
    """
    from bridge_core.checkpoint import open_state
    from bridge_core.cli.progress_bar import progress_bar
    from bridge_core.transfer import compare_states

    with (
        aside(),
        open_state(a) as left,
        open_state(b) as right,
        progress_bar(shown=not as_json) as progress,
    ):
        comparison = compare_states(left, right, progress=progress)
        left.check_unchanged()
        right.check_unchanged()
    return _answer(comparison, as_json, "A", "B")


def _answer(comparison: Comparison, as_json: bool, left: str, right: str) -> int:
    if as_json:
        print_json(comparison.to_json())
    else:
        say(*comparison_lines(comparison, left, right))
    return 0 if comparison.equal else 1
