"""``ckptbridge verify``: checks that a file holds what a plan makes of another."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from bridge_core.cli.completion import a_file
from bridge_core.cli.difference_lines import comparison_lines
from bridge_core.cli.options import dtype_option, evidence_options, examples, json_option, takes_registry
from bridge_core.cli.terminal import aside, print_json, say

if TYPE_CHECKING:
    from bridge_core.proof import NamedDifferences
    from bridge_core.state import FlatState
    from bridge_core.transfer import Comparison

__all__ = ["verify"]

_SIDES = ("what SRC gives", "DST")


@click.command(
    epilog=examples(
        "ckptbridge verify pytorch_model.bin flax_model.msgpack",
        "ckptbridge verify model.safetensors model-bf16.msgpack --dtype bfloat16",
    ),
)
@click.argument("src", shell_complete=a_file)
@click.argument("dst", shell_complete=a_file)
@evidence_options
@dtype_option
@json_option
@takes_registry
def verify(src: str, dst: str, as_json: bool, **asked: Any) -> int:
    """Check that DST holds the weights of SRC, converted, bit for bit.

    Give the options that DST was converted with. Where tensors differ, the first line names what turned what
    SRC gives into DST, as in 'ckptbridge diff'. Exit code 0: equal; 1: different.
    """
    from bridge_core.cli.progress_bar import progress_bar
    from bridge_core.conversion import verify as run

    named: NamedDifferences | None = None
    with aside(), progress_bar(shown=not as_json) as progress:

        def examine(source: FlatState, result: FlatState, comparison: Comparison) -> None:
            nonlocal named
            from bridge_core.proof import name_differences

            named = name_differences(source, result, comparison, progress=progress)

        comparison = run(src, dst, progress=progress, examine=examine, **asked)
    if as_json:
        print_json(comparison.to_json() if named is None else named.to_json(*_SIDES, comparison))
    else:
        say(*comparison_lines(comparison, *_SIDES, named))
    return 0 if comparison.equal else 1
