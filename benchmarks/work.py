"""Conversions in parts: worker processes against one process, and the work list of a terabyte.

    python benchmarks/work.py --sizes 2GB --repeats 5 --json out.json --plot out.png
    python benchmarks/work.py --lists-only --lists 10000 91000

The first converts a sharded bf16 checkpoint of torch to Flax, with verification, in one process and by an
executor with one and two worker processes. Every contestant is a fresh process, all run in turn, and all have
the same number of threads where their name says so. What parts cost is the difference between one process
and one worker: each part plans again. What they bring is the difference between one worker and two.

The second divides a checkpoint of a mixture of experts into a work list. Its files have headers and holes
for the values, so that a terabyte takes almost no disk.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import checkpoints
import measure

from bridge_core.transfer import parse_size

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from support.sparse_checkpoint import TERABYTE, deepseek_shapes, make_sparse

BASELINE = "one process"
_OPTIONS = {"to": "flax", "format": "safetensors", "accept_guesses": True}
_CONVERT = "from bridge_core import convert; convert({src!r}, {dst!r}, **{options!r})"
_WORKERS = """
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from bridge_core import convert
with ProcessPoolExecutor({processes}, get_context("spawn")) as pool:
    convert({src!r}, {dst!r}, **{options!r}, executor=pool)
"""
_LIST = """
from bridge_core import Rule, make_work
rules = [Rule.rearrange(*rule) for rule in {rules!r}]
work = make_work({src!r}, {dst!r}, parts={parts}, rules=rules, **{options!r})
print(len(work.parts), len(work.to_text()))
"""
_EXPERTS = "model.layers.{i:int}.mlp.experts"
_STACKED = [
    (f"{_EXPERTS}.{{e:int}}.{name}_proj.weight", f"{_EXPERTS}.{name}", "out in -> e in out")
    for name in ("gate", "up", "down")
]
_RULES = {"one to one": [], "experts stacked": _STACKED}
_LIST_SHARD = "6.3GB"


def contestants(source: Path, out: Path, shard: str) -> dict[str, Callable[[], measure.Run]]:
    """Return the ways to convert a checkpoint, the baseline first."""

    def running(code: str, processes: int = 0, **more: object) -> Callable[[], measure.Run]:
        options = {**_OPTIONS, "max_shard_size": shard, **more}
        text = code.format(src=str(source), dst=str(out), options=options, processes=processes)
        return lambda: measure.run(measure.python(text))

    return {
        BASELINE: running(_CONVERT),
        "one process, resumable": running(_CONVERT, resume=True),
        "one process, 1 thread": running(_CONVERT, workers=1),
        "1 worker, 1 thread": running(_WORKERS, 1, workers=1),
        "2 workers, 1 thread each": running(_WORKERS, 2, workers=1),
    }


def compare_workers(arguments: argparse.Namespace, idle: int) -> dict[str, object]:
    """Run the contestants at every size."""
    sizes: dict[str, object] = {}
    for size in arguments.sizes:
        free = shutil.disk_usage(arguments.work).free
        if free < 3 * parse_size(size):
            measure.say(f"{size}: left out, since only {free / 1e9:.0f} GB of disk are free")
            continue
        source, out = checkpoints.sharded(arguments.work, size, arguments.shard), arguments.work / "out"
        nbytes = checkpoints.bytes_in(source)
        results = measure.interleaved(
            contestants(source, out, arguments.shard), arguments.repeats, lambda out=out: measure.remove(out)
        )
        print(f"\n{nbytes / 1e9:.2f} GB of bfloat16 in shards of {arguments.shard}, page cache warm")
        print(f"memory is of the largest process, above an interpreter with numpy ({idle / 1e6:.0f} MB)")
        print(measure.run_table(results, BASELINE, nbytes, idle))
        sizes[size] = {"bytes": nbytes, "cached_before": 0.0, "runs": measure.as_json(results)}
    return sizes


def make_lists(arguments: argparse.Namespace) -> list[dict[str, object]]:
    """Divide checkpoints of about so many tensors each, and return time and memory."""
    rows: list[dict[str, object]] = []
    for tensors in arguments.lists:
        folder = arguments.work / "sparse"
        measure.remove(folder)
        experts = max(1, round(TERABYTE["experts"] * tensors / 91_000))
        shapes = deepseek_shapes(**{**TERABYTE, "experts": experts})
        nbytes = make_sparse(folder, shapes, max(1, round(163 * experts / TERABYTE["experts"])))
        options = {**_OPTIONS, "max_shard_size": _LIST_SHARD}
        for what, rules in _RULES.items():
            code = _LIST.format(src=str(folder), dst=f"{folder}-out", parts=16, options=options, rules=rules)
            runs = [measure.run(measure.python(code)) for _ in range(arguments.repeats)]
            parts, length = map(int, runs[0].output.split())
            about = {"what": what, "tensors": len(shapes), "bytes": nbytes}
            rows.append({**about, "parts": parts, "list_bytes": length, **measure.as_json({"runs": runs})})
        measure.remove(folder)
    return rows


def main() -> None:
    parser = measure.parser(__doc__, repeats=5, sizes=["2GB"])
    parser.add_argument("--shard", default="200MB", help="bytes of a shard (default: 200MB)")
    parser.add_argument(
        "--lists",
        type=int,
        nargs="+",
        default=[91_000],
        metavar="TENSORS",
        help="make work lists of checkpoints with about so many tensors (default: 91000)",
    )
    parser.add_argument("--lists-only", action="store_true", help="convert nothing")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    facts = measure.machine(arguments.work)
    idle = measure.idle_peak()
    sizes = {} if arguments.lists_only else compare_workers(arguments, idle)
    rows = make_lists(arguments)
    print("\nwork lists; memory is the peak of the process")
    print(
        measure.text_table(("", "tensors", "TB", "median s", "max", "peak MB", "list kB"), map(_line, rows))
    )
    document = {"baseline": BASELINE, "cold": False, "idle_peak_bytes": idle, "sizes": sizes, "lists": rows}
    measure.finish(arguments, facts, document)


def _line(row: dict[str, object]) -> tuple[str, ...]:
    seconds = [run["seconds"] for run in row["runs"]]
    peak = measure.median(run["peak_bytes"] for run in row["runs"])
    return (
        row["what"],
        str(row["tensors"]),
        f"{row['bytes'] / 1e12:.2f}",
        f"{measure.median(seconds):.1f}",
        f"{max(seconds):.1f}",
        f"{peak / 1e6:.0f}",
        f"{row['list_bytes'] / 1e3:.0f}",
    )


if __name__ == "__main__":
    main()
