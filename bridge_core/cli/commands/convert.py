"""``ckptbridge convert``: converts weights to another layout and format, and verifies them."""

from __future__ import annotations

import time
from typing import Any

import click

from bridge_core.cli.completion import a_file
from bridge_core.cli.options import (
    dtype_option,
    examples,
    json_option,
    takes_registry,
    target_options,
)
from bridge_core.cli.report import convert_lines
from bridge_core.cli.terminal import aside, print_json, say
from bridge_core.cli.writing_options import format_option, max_ram_option, shard_size_option, workers_option

__all__ = ["convert"]


@click.command(
    epilog=examples(
        "ckptbridge convert pytorch_model.bin flax_model.msgpack --to flax",
        "ckptbridge convert model.safetensors out/ --to flax --like flax_model.msgpack --max-shard-size 5GB",
        "ckptbridge convert flax_model.msgpack model.safetensors --to torch --dtype bfloat16",
        "ckptbridge convert model.pt neutral.safetensors --to neutral",
        "ckptbridge convert checkpoints/ model.safetensors --to torch --step 1000 --entry params",
        "ckptbridge convert model.safetensors checkpoints/ --to flax --format orbax --to-step 0",
        "ckptbridge convert model.safetensors model.msgpack --to flax --allow-unclaimed 'mixer.**'",
        "ckptbridge convert llama/ tiny/ --to torch --only model.layers=2",
        "ckptbridge convert llama/ out/ --to flax --resume",
    ),
)
@click.argument("src", shell_complete=a_file)
@click.argument("dst", shell_complete=a_file)
@target_options
@format_option
@dtype_option
@shard_size_option
@click.option(
    "--to-step",
    type=click.IntRange(min=0),
    metavar="N",
    help="Write step N of DST, where the format has steps, as orbax has.",
)
@click.option(
    "--to-item", metavar="NAME", help="Write the item NAME, where the format has items, e.g. params."
)
@workers_option
@max_ram_option
@click.option("--overwrite", is_flag=True, help="Replace DST if it exists.")
@click.option(
    "--resume",
    is_flag=True,
    help="Write the files of a folder one by one; after an interruption the same command goes on.",
)
@click.option(
    "--manifest",
    is_flag=True,
    help="Write digests of the files and checksums of the tensors too, for 'ckptbridge verify --manifest'.",
)
@click.option("--no-verify", is_flag=True, help="Do not read back and compare what was written.")
@json_option
@click.option("--quiet", is_flag=True, help="Print only errors and warnings.")
@takes_registry
def convert(src: str, dst: str, no_verify: bool, as_json: bool, quiet: bool, **asked: Any) -> None:
    """Convert SRC to DST.

    SRC is a file, the index of a sharded set, or a folder. DST appears when it is complete and was read back
    and compared; until then an existing DST does not change. Both may be URLs: hf://, s3://, gs://, and SRC
    also https://. DST is a folder there if it ends with a slash.
    """
    from bridge_core.cli.progress_bar import progress_bar
    from bridge_core.conversion import convert as run

    begun = time.monotonic()
    shown = not (as_json or quiet)
    with aside(), progress_bar(shown=shown) as progress:
        report = run(src, dst, verify=not no_verify, progress=progress, **asked)
    if as_json:
        print_json(report.to_json())
    elif not quiet:
        say(*convert_lines(report, time.monotonic() - begun))
