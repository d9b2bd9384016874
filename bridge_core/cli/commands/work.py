"""``ckptbridge work``: converts in parts, each in a process or on a machine of its own."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from bridge_core.cli.completion import a_file
from bridge_core.cli.options import dtype_option, examples, json_option, takes_registry, target_options
from bridge_core.cli.output_files import WORK_LIST, check_output, write_output
from bridge_core.cli.report import convert_lines
from bridge_core.cli.terminal import aside, print_json, say
from bridge_core.cli.writing_options import format_option, max_ram_option, shard_size_option, workers_option

if TYPE_CHECKING:
    from bridge_core.conversion import WorkStatus
    from bridge_core.work import WorkList

__all__ = ["work"]

_quiet_option = click.option("--quiet", is_flag=True, help="Print only errors and warnings.")
_list_argument = click.argument("file", shell_complete=a_file)


@click.group(
    epilog=examples(
        "ckptbridge work make llama/ out/ --to flax --parts 4 -o work.json",
        "ckptbridge work run work.json --part 1",
        "ckptbridge work status work.json",
        "ckptbridge work finish work.json",
    ),
)
def work() -> None:
    """Convert in parts: make a list, run its parts anywhere, finish.

    Parts may run at the same time, on several machines that all have the source and the destination, and
    again where one was interrupted.
    """


@work.command(
    short_help="Plan a conversion, and write the list of its parts.",
    epilog=examples(
        "ckptbridge work make llama/ out/ --to flax --parts 4 -o work.json",
        "ckptbridge work make model.safetensors out/ --to torch --max-shard-size 2GB --parts 8 -o work.json",
    ),
)
@click.argument("src", shell_complete=a_file)
@click.argument("dst", shell_complete=a_file)
@target_options
@format_option
@dtype_option
@shard_size_option
@click.option(
    "--parts",
    type=click.IntRange(min=1),
    metavar="N",
    required=True,
    help="How many parts; each has at least one file.",
)
@click.option(
    "-o",
    "output",
    type=click.Path(),
    metavar="FILE",
    required=True,
    help="Write the list to FILE.",
)
@click.option("--overwrite", is_flag=True, help="Replace FILE if it exists.")
@json_option
@_quiet_option
@takes_registry
def make(
    src: str, dst: str, output: str, overwrite: bool, as_json: bool, quiet: bool, parts: int, **asked: Any
) -> None:
    """Plan the conversion of SRC to the folder DST, and divide its files into parts.

    No tensor is read, and DST is not written. Without --max-shard-size the shards have at most 5 GB.
    """
    from bridge_core.conversion import make_work

    check_output(output, WORK_LIST, "work.json", overwrite=overwrite)
    with aside():
        work_list = make_work(src, dst, parts=parts, **asked)
        write_output(output, work_list.to_text(), overwrite=overwrite)
    if as_json:
        print_json(work_list.to_json())
    elif not quiet:
        say(*_list_lines(work_list, parts, output))


@work.command(
    short_help="Write the files of one part.",
    epilog=examples(
        "ckptbridge work run work.json --part 1",
        "ckptbridge work run work.json --part $SLURM_ARRAY_TASK_ID",
    ),
)
@_list_argument
@click.option("--part", type=int, metavar="N", required=True, help="Which part, from 1.")
@workers_option
@max_ram_option
@json_option
@_quiet_option
@takes_registry
def run(file: str, part: int, as_json: bool, quiet: bool, **asked: Any) -> None:
    """Write the files of part N of the list FILE, each verified before it appears.

    Files that are complete are not written again, so a part that was interrupted can be run again.
    """
    from bridge_core.cli.progress_bar import progress_bar
    from bridge_core.conversion import run_part
    from bridge_core.messages import count, size_text

    with aside(), progress_bar(shown=not (as_json or quiet)) as progress:
        report = run_part(file, part, progress=progress, **asked)
    if as_json:
        print_json(report.to_json())
    elif not quiet:
        before = f", {len(report.finished_before)} were complete before" if report.finished_before else ""
        say(
            f"part {report.part} of {report.parts}: wrote {count(len(report.written), 'file')}{before}; "
            f"{size_text(report.total_bytes)} in all"
        )


@work.command(
    short_help="Show which parts are complete.", epilog=examples("ckptbridge work status work.json")
)
@_list_argument
@json_option
@takes_registry
def status(file: str, as_json: bool, **asked: Any) -> int:
    """Show which parts of the list FILE are complete. Exit code 0: all; 1: some are missing."""
    from bridge_core.conversion import work_status

    with aside():
        progress = work_status(file, **asked)
    if as_json:
        print_json(progress.to_json())
    else:
        say(*_status_lines(progress))
    return 1 if progress.missing else 0


@work.command(
    short_help="Write the index when all parts are complete.",
    epilog=examples("ckptbridge work finish work.json"),
)
@_list_argument
@json_option
@_quiet_option
@takes_registry
def finish(file: str, as_json: bool, quiet: bool, **asked: Any) -> None:
    """Complete the destination of the list FILE: sidecar files, the index and the manifest.

    It is refused while a file is missing. Finishing again changes nothing.
    """
    from bridge_core.conversion import finish_work

    begun = time.monotonic()
    with aside():
        report = finish_work(file, **asked)
    if as_json:
        print_json(report.to_json())
    elif not quiet:
        say(*convert_lines(report, time.monotonic() - begun))


def _list_lines(work_list: WorkList, asked: int, output: str) -> list[str]:
    from bridge_core.messages import count, size_text

    total = size_text(sum(file.nbytes for file in work_list.files))
    files = count(len(work_list.files), "file")
    lines = [f"{output}: {count(len(work_list.parts), 'part')}, {files}, {total}"]
    if len(work_list.parts) < asked:
        lines.append(
            f"{asked} parts were asked for, but there are only {files}: for more, "
            "pass a smaller --max-shard-size"
        )
    lines.append(f"run each with: ckptbridge work run {output} --part N")
    lines.append(f"then: ckptbridge work finish {output}")
    return lines


def _status_lines(progress: WorkStatus) -> list[str]:
    from bridge_core.messages import count, listed

    if progress.finished:
        return ["finished"]
    complete = progress.parts - len(progress.missing)
    lines = [f"{complete} of {count(progress.parts, 'part')} complete"]
    lines += [f"part {part}: missing {listed(names)}" for part, names in progress.missing.items()]
    return lines
