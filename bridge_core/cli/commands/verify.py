"""``ckptbridge verify``: checks that a file holds what a plan makes of another."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from bridge_core.cli.completion import a_file
from bridge_core.cli.difference_lines import comparison_lines
from bridge_core.cli.options import dtype_option, evidence_options, examples, json_option, takes_registry
from bridge_core.cli.terminal import aside, print_json, say

if TYPE_CHECKING:
    from bridge_core.plugins import Registry
    from bridge_core.proof import NamedDifferences
    from bridge_core.state import FlatState
    from bridge_core.transfer import Comparison

__all__ = ["verify"]

_SIDES = ("what SRC gives", "DST")


@click.command(
    epilog=examples(
        "ckptbridge verify pytorch_model.bin flax_model.msgpack",
        "ckptbridge verify model.safetensors model-bf16.msgpack --dtype bfloat16",
        "ckptbridge verify --manifest out/",
    ),
)
@click.argument("src", shell_complete=a_file)
@click.argument("dst", required=False, shell_complete=a_file)
@click.option(
    "--manifest",
    is_flag=True,
    help="Compare one checkpoint with the manifest that 'ckptbridge convert --manifest' wrote next to it.",
)
@evidence_options
@dtype_option
@json_option
@takes_registry
@click.pass_context
def verify(
    context: click.Context, /, src: str, dst: str | None, manifest: bool, as_json: bool, **asked: Any
) -> int:
    """Check that DST holds the weights of SRC, converted, bit for bit.

    With --manifest give one checkpoint: each of its bytes is compared with what was recorded when it was
    written.

    Give the options that DST was converted with. Where tensors differ, the first line names what turned what
    SRC gives into DST, as in 'ckptbridge diff'. Exit code 0: equal; 1: different.
    """
    from bridge_core.cli.progress_bar import progress_bar
    from bridge_core.conversion import verify as run

    if manifest:
        _refuse_others(context, dst)
        return _verify_manifest(src, asked["registry"], as_json=as_json)
    if dst is None:
        raise click.MissingParameter(ctx=context, param_type="argument", param_hint="'DST'")
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


def _refuse_others(context: click.Context, dst: str | None) -> None:
    """Refuse what a manifest is not compared with, or by."""
    if dst is not None:
        raise click.UsageError("--manifest takes one checkpoint, and no source.", ctx=context)
    without_effect = {"src", "dst", "manifest", "as_json", "plugin_modules", "disabled_plugins", "verbose"}
    for parameter in context.command.params:
        name = parameter.name or ""
        source = context.get_parameter_source(name)
        if name not in without_effect and source is click.core.ParameterSource.COMMANDLINE:
            raise click.UsageError(f"{parameter.opts[0]} has no effect with --manifest.", ctx=context)


def _verify_manifest(path: str, registry: Registry | None, *, as_json: bool) -> int:
    from bridge_core.cli.progress_bar import progress_bar
    from bridge_core.messages import count, size_text
    from bridge_core.work import verify_manifest

    with aside(), progress_bar(shown=not as_json) as progress:
        check = verify_manifest(path, progress=progress, registry=registry)
    if as_json:
        print_json(check.to_json())
    else:
        compared = f"{count(check.files, 'file')}, {size_text(check.total_bytes)} compared"
        say(*(one.text for one in check.damage), f"{'intact' if check.intact else 'damaged'}: {compared}")
    return 0 if check.intact else 1
