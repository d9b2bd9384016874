"""Shared by the benchmarks: processes measured by the operating system, in turn, and how that is told."""

from __future__ import annotations

import argparse
import contextlib
import datetime
import importlib.metadata
import json
import os
import platform
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

PYTHON = sys.executable
HERE = Path(__file__).parent
_PACKAGES = (
    "ckptbridge",
    "numpy",
    "ml_dtypes",
    "opencv-python-headless",
    "safetensors",
    "torch",
    "jax",
    "flax",
    "transformers",
)

_LAUNCHER = """
import json, os, sys, time
start = time.perf_counter()
pid = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ)
_, status, used = os.wait4(pid, 0)
seconds, status = time.perf_counter() - start, os.waitstatus_to_exitcode(status)
print(json.dumps([seconds, used.ru_maxrss, used.ru_utime, used.ru_stime, status]), file=sys.stderr)
"""
"""A process counts its parent's memory as its own until its program starts: so the parent is a small one."""


@dataclass(frozen=True)
class Run:
    """One finished process.

    Args:
        seconds: From its start to its end.
        peak_bytes: Most resident memory at any time, mapped pages of files included.
        user_seconds: Processor time of its own code, all threads.
        system_seconds: Processor time of the kernel on its behalf.
        output: What it printed.
    """

    seconds: float
    peak_bytes: int
    user_seconds: float = 0.0
    system_seconds: float = 0.0
    output: str = ""


def run(command: Sequence[str]) -> Run:
    """Run a process to its end.

    Raises:
        RuntimeError: It failed.
    """
    # A GPU's memory is not the operating system's to count, and loading onto one is another matter.
    quiet = {"PYTHONWARNINGS": "ignore", "JAX_PLATFORMS": "cpu", "TF_CPP_MIN_LOG_LEVEL": "3"}
    # What pip installs is compiled; here the round that does not count compiles what is run from its source.
    environment = {**os.environ, **quiet, "PYTHONDONTWRITEBYTECODE": ""}
    launched = subprocess.run(
        [PYTHON, "-I", "-S", "-c", _LAUNCHER, *command],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env=environment,
        check=True,
    )
    said, facts = launched.stderr.rstrip("\n").rpartition("\n")[::2]
    seconds, peak, user, system, status = json.loads(facts)
    if status:
        raise RuntimeError(f"{' '.join(command)} failed with status {status}:\n{said}")
    return Run(seconds, peak * 1024, user, system, launched.stdout)


def interleaved(
    contestants: Mapping[str, Callable[[], Run]],
    repeats: int,
    between: Callable[[], None] = lambda: None,
    *,
    once: Collection[str] = (),
    seconds: float | None = None,
    warm_up: bool = True,
) -> dict[str, list[Run]]:
    """Run every contestant, each round in another order, after one round that does not count.

    Args:
        contestants: Name -> what runs it.
        repeats: Rounds that count.
        between: Called before every run; what it does is not measured.
        once: Contestants that are too slow to repeat.
        seconds: No further round is begun that would end later than this; one always counts.
        warm_up: Whether there is the round that does not count.
    """
    results: dict[str, list[Run]] = {name: [] for name in contestants}
    started = time.perf_counter()
    for turn in range(0 if warm_up else 1, repeats + 1):
        round_started = time.perf_counter()
        order = list(contestants)
        random.Random(turn).shuffle(order)  # what a run leaves in the caches must not fall on one neighbour
        for name in order:
            if name in once and turn != 1:
                continue
            between()
            found = contestants[name]()
            if turn:
                results[name].append(found)
            say(f"{f'round {turn}' if turn else 'warming up'}: {name}: {found.seconds:.2f} s")
        slow = sum(r.seconds for name in once for r in results.get(name, ())) if turn == 1 else 0.0
        now = time.perf_counter()
        if turn and seconds is not None and now - started + (now - round_started - slow) > seconds:
            break
    between()
    return results


def say(line: str) -> None:
    """Tell a person who waits how far things are; results go to stdout."""
    print(line, file=sys.stderr, flush=True)


def median(values: Iterable[float]) -> float:
    """Return the median."""
    return statistics.median(values)


def text_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Align columns: the first to the left, the others to the right."""
    lines = [tuple(head), *map(tuple, rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    return "\n".join(
        "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]) for line in lines
    )


def run_table(results: Mapping[str, Sequence[Run]], baseline: str, total_bytes: int, idle_peak: int) -> str:
    """Return medians, spreads and ratios to the baseline as text; memory is above ``idle_peak``."""
    base = median(r.seconds for r in results[baseline])
    rows = []
    for name, runs in results.items():
        seconds = [r.seconds for r in runs]
        middle = median(seconds)
        busy = median(r.user_seconds + r.system_seconds for r in runs)
        rows.append(
            (
                name,
                f"{middle:.2f}",
                f"{min(seconds):.2f}",
                f"{max(seconds):.2f}",
                str(len(runs)),
                f"{middle / base:.2f}",
                f"{total_bytes / middle / 1e9:.2f}",
                f"{busy:.2f}",
                f"{max(0.0, median(r.peak_bytes for r in runs) - idle_peak) / 1e6:.0f}",
            )
        )
    head = ("", "median s", "min", "max", "runs", f"x {baseline}", "GB/s", "CPU s", "peak MB")
    return text_table(head, rows)


def as_json(results: Mapping[str, Sequence[Run]]) -> dict[str, list[dict[str, Any]]]:
    """Return runs as plain data."""
    return {
        name: [{k: v for k, v in asdict(r).items() if k != "output"} for r in runs]
        for name, runs in results.items()
    }


def machine(work: Path | None = None) -> dict[str, object]:
    """Return what a reader needs to judge a figure."""
    from bridge_core.io import processors

    versions = {}
    for name in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "processor": _field("/proc/cpuinfo", "model name") or platform.machine(),
        "processors": processors(),
        "memory_bytes": _memory_bytes(),
        "system": f"{platform.system()} {platform.release()}",
        "file_system": _file_system(work) if work else None,
        "load_before": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "python": platform.python_version(),
        "packages": versions,
    }


def _memory_bytes() -> int | None:
    if not hasattr(os, "sysconf"):  # Windows
        return None
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _field(path: str, name: str) -> str | None:
    with contextlib.suppress(OSError):
        for line in Path(path).read_text().splitlines():
            if line.startswith(name):
                return line.partition(":")[2].strip()
    return None


def _file_system(path: Path) -> str | None:
    with contextlib.suppress(OSError):
        mounts = [line.split()[1:3] for line in Path("/proc/self/mounts").read_text().splitlines()]
        holding = [(len(where), kind) for where, kind in mounts if path.resolve().is_relative_to(where)]
        return max(holding)[1] if holding else None
    return None


def parser(doc: str | None, *, repeats: int, sizes: Sequence[str] = ()) -> argparse.ArgumentParser:
    """Return a parser with the options that all benchmarks share."""
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawTextHelpFormatter)
    if sizes:
        help_ = f"bytes of each checkpoint, e.g. 500MB 2GB (default: {' '.join(sizes)})"
        made.add_argument("--sizes", "--size", nargs="+", default=list(sizes), metavar="SIZE", help=help_)
    made.add_argument("--repeats", type=int, default=repeats, help=f"rounds that count (default: {repeats})")
    add_work(made)
    made.add_argument("--json", type=Path, help="write the results to this file")
    made.add_argument("--plot", type=Path, help="draw them into this PNG file; needs matplotlib")
    return made


def add_work(made: argparse.ArgumentParser) -> None:
    """Add the option for the folder; what is made and removed stands in a folder of its own inside it."""
    made.add_argument(
        "--work",
        type=lambda text: Path(text) / "ckptbridge-bench",
        default=tempfile.gettempdir(),
        metavar="DIR",
        help=f"make files in a new folder in there (default: {tempfile.gettempdir()})",
    )


def finish(arguments: argparse.Namespace, facts: Mapping[str, object], document: Mapping[str, Any]) -> None:
    """Write the results and the plot that were asked for.

    Args:
        arguments: What `parser` parsed.
        facts: What `machine` said before the first run.
        document: The results.
    """
    options = {k: v for k, v in vars(arguments).items() if k not in ("work", "json", "plot")}
    name = Path(sys.argv[0]).stem
    whole = {"benchmark": name, "machine": facts, "options": options, **document}
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(whole, indent=1) + "\n")
    if arguments.plot:
        import plots

        plots.draw(name, whole, arguments.plot)


def remove(path: Path) -> None:
    """Remove a file or a folder, if there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def touch_memory(nbytes: int) -> None:
    """Let a process write to so much memory and end, so that the next one finds it at hand."""
    run(python(f"import numpy; [numpy.ones(1 << 26, 'u1') for _ in range({nbytes} >> 26)]"))


def python(code: str) -> list[str]:
    """Return the command that runs Python code; it must not need quoting of its own."""
    return [PYTHON, "-c", code]


def idle_peak(code: str = "import numpy") -> int:
    """Return the peak of resident memory of an interpreter that imports numpy and does nothing."""
    return int(median(run(python(code)).peak_bytes for _ in range(3)))
