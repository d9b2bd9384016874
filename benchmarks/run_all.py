"""The whole set, at sizes for a machine of 2 processors and 24 GB of memory, into docs/benchmarks.

    python benchmarks/run_all.py

takes about 35 minutes and 30 GB of disk on such a machine; --quick takes two minutes, and its figures mean
little. What an optional package is missing for is left out. Run it on a quiet machine.
"""

from __future__ import annotations

import argparse
import importlib.util
import subprocess
import sys
import time
from pathlib import Path

import measure

_DESTINATION = measure.HERE.parent / "docs" / "benchmarks"
_VERIFIED = "to Flax, sharded, verified"


def plan(*, quick: bool) -> list[tuple[str, str, list[str]]]:
    """Return (name of the results, script, options) in the order to run."""
    torch = ["--with-plain-script"] if importlib.util.find_spec("torch") else []
    transformers = ["--with-transformers"] if _has("torch", "flax", "transformers") else []
    sized = "file_to_file.py"
    if quick:
        jobs = [
            ("file-to-file-100MB", sized, ["--sizes", "100MB", "--shard", "40MB", "--repeats", "1", *torch]),
            ("memory", "memory.py", ["--sizes", "50MB", "100MB", "200MB"]),
            ("growth", "growth.py", ["--sizes", "50MB", "100MB", "--repeats", "1"]),
            ("stacking", "stacking.py", ["--layers", "2", "4", "8", "--repeats", "1"]),
            ("load", "load.py", ["--sizes", "100MB", "--repeats", "1"]),
            ("remote", "remote.py", ["--sizes", "100MB", "--repeats", "1"]),
            ("orbax", "orbax_checkpoints.py", ["--sizes", "64MB", "--repeats", "1"]),
            ("transpose-kernel", "transpose_kernel.py", ["--size", "8MB", "--repeats", "1"]),
            ("plan-time", "plan_time.py", ["--keys", "100", "1000", "10000", "--repeats", "1"]),
            ("rules-plan", "rules_plan.py", ["--repeats", "1"]),
            ("match", "match.py", ["--pairs", "small"]),
            ("import-time", "import_time.py", ["--repeats", "5"]),
            ("live-weights", "live_weights.py", ["--size", "40MB", "--repeats", "1"]),
            ("work", "work.py", ["--sizes", "100MB", "--shard", "20MB", "--repeats", "1", "--lists", "1000"]),
        ]
    else:
        main = ["rename only", "to Flax, sharded", _VERIFIED]
        one = ["to Flax, one safetensors"]
        shown = [*main, *one, "to Flax, one msgpack", "sharded Flax to torch", "plain script"]
        eight = ["--repeats", "3", "--no-warm-up", "--seconds", "150"]
        jobs = [
            ("import-time", "import_time.py", []),
            ("transpose-kernel", "transpose_kernel.py", ["--repeats", "3"]),
            ("plan-time", "plan_time.py", ["--repeats", "3"]),
            ("rules-plan", "rules_plan.py", ["--repeats", "3"]),
            ("match", "match.py", []),
            ("live-weights", "live_weights.py", []),
            ("file-to-file-500MB", sized, ["--sizes", "500MB", "--seconds", "45", *torch]),
            (
                "file-to-file-2GB",
                sized,
                ["--sizes", "2GB", "--repeats", "6", "--seconds", "190", *torch, "--only", *shown],
            ),
            (
                "file-to-file-2GB-transformers",
                sized,
                ["--sizes", "2GB", "--seconds", "200", *torch, *transformers],
            ),
            (
                "file-to-file-cold",
                sized,
                ["--sizes", "2GB", "--repeats", "3", "--cold", "--only", *main, *one],
            ),
            ("load", "load.py", ["--sizes", "2GB", "--repeats", "3"]),
            ("remote", "remote.py", []),
            ("orbax", "orbax_checkpoints.py", []),
            ("from-pretrained", "from_pretrained.py", []),
            ("memory", "memory.py", []),
            ("work", "work.py", ["--repeats", "3"]),
            ("stacking", "stacking.py", []),
            ("file-to-file-8GB", sized, ["--sizes", "8GB", *eight, "--only", *main]),
            ("growth", "growth.py", ["--seconds", "150"]),
        ]
    needs = {
        "match.py": ("torch", "jax", "flax", "transformers", "ckptbridge_transformers"),
        "live_weights.py": ("torch", "jax", "flax"),
        "load.py": ("torch", "jax", "flax"),
        "orbax_checkpoints.py": ("jax", "flax", "orbax", "tensorstore", "ckptbridge_orbax", "safetensors"),
        "from_pretrained.py": ("torch", "jax", "flax", "transformers", "ckptbridge_transformers"),
    }
    return [job for job in jobs if _has(*needs.get(job[1], ()))]


def _has(*packages: str) -> bool:
    return all(importlib.util.find_spec(package) for package in packages)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, default=_DESTINATION, help=f"default: {_DESTINATION}")
    measure.add_work(parser)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these results, e.g. load memory")
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that everything runs")
    parser.add_argument("--keep", action="store_true", help="keep the checkpoints for the next time")
    arguments = parser.parse_args()
    jobs = [job for job in plan(quick=arguments.quick) if not arguments.only or job[0] in arguments.only]
    failed = []
    for name, script, options in jobs:
        started = time.perf_counter()
        print(f"\n== {name}: {script} {' '.join(options)}", flush=True)
        files = ["--json", str(arguments.out / f"{name}.json"), "--plot", str(arguments.out / f"{name}.png")]
        work = ["--work", str(arguments.work.parent)]
        done = subprocess.run([measure.PYTHON, str(measure.HERE / script), *options, *work, *files])
        print(f"-- {time.perf_counter() - started:.0f} s", flush=True)
        if done.returncode:
            failed.append(name)
        if not arguments.keep and not name.startswith("file-to-file-2GB"):
            measure.remove(arguments.work)
    if not arguments.keep:
        measure.remove(arguments.work)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
