"""Options about what is written, which converting at once and in parts share."""

from __future__ import annotations

import click

from bridge_core.cli.completion import a_format
from bridge_core.cli.options import a_size

__all__ = ["format_option", "max_ram_option", "shard_size_option", "workers_option"]

format_option = click.option(
    "--format",
    "format",
    metavar="FORMAT",
    shell_complete=a_format,
    help="Format of DST, as 'ckptbridge plugins' lists them; by default that of its extension, or else the "
    "usual one of the layout.",
)
shard_size_option = click.option(
    "--max-shard-size",
    type=a_size,
    metavar="SIZE",
    help="Write a folder of shards of at most this size, e.g. 5GB, and an index.",
)
workers_option = click.option("--workers", type=click.IntRange(min=1), metavar="N", help="Number of threads.")
max_ram_option = click.option(
    "--max-ram", type=a_size, metavar="SIZE", help="Memory for all buffers together, e.g. 512MB."
)
