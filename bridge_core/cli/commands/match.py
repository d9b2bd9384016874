"""``ckptbridge match``: proposes the rules between two models."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from bridge_core.cli.completion import a_file, a_layout
from bridge_core.cli.options import (
    entry_option,
    examples,
    json_option,
    layout_option,
    step_option,
    takes_registry,
)
from bridge_core.cli.output_files import RULES, check_output, write_output
from bridge_core.cli.terminal import aside, complain, print_json, say

if TYPE_CHECKING:
    from bridge_core.proof import Matching

__all__ = ["match"]


@click.command(
    epilog=examples(
        "ckptbridge match model.safetensors --like flax_model.msgpack -o rules.toml",
        "ckptbridge match model.safetensors --model mynet:make_flax_model -o rules.toml",
        "ckptbridge match --source-model mynet:torch_model --model mynet:flax_model --json",
        "ckptbridge match step_0.safetensors --like step_9000.msgpack --by-values -o rules.toml",
        "ckptbridge match --source-model mynet:torch_model --model mynet:flax_model --prove --inputs mynet:x",
    ),
)
@click.argument("src", required=False, shell_complete=a_file)
@click.option(
    "--like",
    metavar="DST",
    shell_complete=a_file,
    help="Weights of the target's model; only names and shapes are read.",
)
@click.option(
    "--source-model",
    metavar="PKG.MOD:FUNCTION",
    help="Import PKG.MOD and call FUNCTION, which returns the source's model; its module types are evidence. "
    "This runs that code. Without SRC, its weights are the source.",
)
@click.option(
    "--model", metavar="PKG.MOD:FUNCTION", help="The same for the target's model; without --like the target."
)
@click.option("-o", "output", type=click.Path(), metavar="FILE", help="Write the rules to FILE.")
@click.option("--overwrite", is_flag=True, help="Replace FILE if it exists.")
@click.option(
    "--like-layout",
    metavar="LAYOUT",
    shell_complete=a_layout,
    help="Layout of DST, where its names do not show it.",
)
@click.option("--by-values", is_flag=True, help="Decide choices by the values of both sides, too.")
@click.option("--prove", is_flag=True, help="Decide choices by running both models on random values, too.")
@click.option(
    "--inputs", metavar="PKG.MOD:FUNCTION", help="What both are called with: arrays that FUNCTION returns."
)
@layout_option
@entry_option
@step_option
@json_option
@takes_registry
def match(src: str | None, output: str | None, overwrite: bool, as_json: bool, **asked: Any) -> int:
    """Propose the rules from SRC to DST, only from names, shapes and trees.

    A rule is written only where every assignment that fits has it. What names and shapes do not show stays
    in the file as a comment with its candidates. Exit code 0: complete; 1: something is left open.
    """
    from bridge_core.proof import match as match_checkpoints

    if output is not None:
        check_output(output, RULES, "rules.toml", overwrite=overwrite)
    with aside():
        matching = match_checkpoints(src, **asked)
        if output is not None:
            write_output(output, matching.rules_text, overwrite=overwrite)
    if as_json:
        print_json(matching.to_json())
    elif output is None:
        say(*matching.rules_text.rstrip("\n").split("\n"))
    for line in () if as_json else _summary(matching):
        complain(line)
    return 0 if matching.complete else 1


def _summary(matching: Matching) -> Iterator[str]:
    from bridge_core.messages import listed

    ours = {key for pair in matching.settled for key in pair.sources}
    rules = len(matching.pairs)
    yield f"matched {len(ours)} tensors of the source by {rules} rules"
    for choice in matching.choices:
        yield f"open: {choice.reason}: {listed(choice.sources)}"
    for name, leaves in (("source", matching.unmatched_source), ("target", matching.unmatched_target)):
        without = [leaf.pattern for leaf in leaves if not leaf.auxiliary]
        if without:
            yield f"unmatched in the {name}: {listed(without)}"
    for problem in matching.problems:
        yield f"problem: {problem}"
