"""``ckptbridge prove``: runs two models on the same weights, and finds where their outputs part."""

from __future__ import annotations

from typing import Any

import click

from bridge_core.cli.options import (
    a_pattern,
    entry_option,
    examples,
    json_option,
    rules_option,
    step_option,
    takes_registry,
)
from bridge_core.cli.output_files import PAGE, check_output, write_output
from bridge_core.cli.terminal import aside, print_json, say

__all__ = ["prove"]


@click.command(
    epilog=examples(
        "ckptbridge prove --source-model mynet:torch_model --model mynet:flax_model --inputs mynet:inputs",
        "ckptbridge prove --source-model mynet:old --model mynet:new --rules rules.toml --html proof.html",
        "ckptbridge prove --source-model mynet:old --model mynet:new --checkpoint model.safetensors",
        "ckptbridge prove --source-model mynet:old --model mynet:new --no-run",
    ),
)
@click.option(
    "--source-model",
    required=True,
    metavar="PKG.MOD:FUNCTION",
    help="Import PKG.MOD and call FUNCTION, which returns the source's live model. This runs that code.",
)
@click.option(
    "--model",
    required=True,
    metavar="PKG.MOD:FUNCTION",
    help="The same for the target's model.",
)
@rules_option
@click.option(
    "--inputs",
    metavar="PKG.MOD:FUNCTION",
    help="A function that returns what both models are called with: an array, a tuple of arguments or a dict "
    'of them, or {"source": ..., "target": ...}. By default what one of the models offers.',
)
@click.option(
    "--checkpoint",
    type=click.Path(),
    metavar="SRC",
    help="Weights of the source's model; by default every parameter and statistic gets random values.",
)
@click.option("--no-run", is_flag=True, help="Do not run the models; compare the settings of their modules.")
@click.option("--seed", type=click.IntRange(min=0), default=0, metavar="N", help="Seed of random values.")
@click.option(
    "--accept-guesses",
    is_flag=True,
    help="Let names decide what a layer is, where no evidence does. A guess may be wrong.",
)
@click.option(
    "--allow-missing",
    type=a_pattern,
    multiple=True,
    metavar="PATTERN",
    help="Target tensors that may keep the values of the target's model, e.g. 'head.*'; repeatable.",
)
@click.option(
    "--allow-unexpected",
    type=a_pattern,
    multiple=True,
    metavar="PATTERN",
    help="Source tensors that may be left out; repeatable.",
)
@click.option(
    "--allow-mismatched",
    type=a_pattern,
    multiple=True,
    metavar="PATTERN",
    help="Target tensors that may keep their values if the source's shapes differ; repeatable.",
)
@click.option(
    "--allow-unclaimed",
    type=a_pattern,
    multiple=True,
    metavar="PATTERN",
    help="Source tensors with a layer's name that no evidence explains, to copy unchanged; repeatable.",
)
@click.option("--allow-inexact", is_flag=True, help="Let rules round, and discard what is not a constant.")
@entry_option
@step_option
@click.option(
    "--html",
    "html_file",
    type=click.Path(),
    metavar="FILE",
    help="Write the report as one page of HTML; an existing file is replaced.",
)
@json_option
@takes_registry
def prove(no_run: bool, html_file: str | None, as_json: bool, **asked: Any) -> int:
    """Run two models on the same weights, and find the first module whose outputs differ.

    The source's weights are converted as 'ckptbridge convert' does it. How much of an error is rounding is
    measured: the same models compute in float64, and with their sums in another order. Where the outputs
    differ by more, the modules are compared one by one, and known mistakes are tried at the first one that
    differs. Exit code 0: equal; 1: different.
    """
    from bridge_core.cli.stages import stages
    from bridge_core.proof import prove as run

    if html_file is not None:
        check_output(html_file, PAGE, "proof.html", overwrite=True)
    with aside(), stages(shown=not as_json) as tell:
        proof = run(run=not no_run, progress=tell, **asked)
    if html_file is not None:
        write_output(html_file, proof.html(), overwrite=True)
    if as_json:
        print_json(proof.to_json())
    else:
        say(*proof.lines())
    return 0 if proof.equal else 1
