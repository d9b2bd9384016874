"""Growth: how the time of a conversion grows with the checkpoint, against copying the same bytes.

    python benchmarks/growth.py --sizes 250MB 500MB 1GB 2GB 4GB 8GB --repeats 3 --json out.json
    python benchmarks/growth.py --work /dev/shm --sizes 1GB 2GB 4GB     # no disk: memory is the ceiling

Every contestant is a fresh process that syncs what it writes, and all of one size run in turn. On a disk a
small file is written to memory, and a large one waits for the disk and for memory: a ratio to ``cp`` that
does not grow shows that the conversion waits no more than ``cp`` does. On a tmpfs the rate of memcpy is
printed too, which is the most that a copy can reach.
"""

from __future__ import annotations

import itertools
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import checkpoints
import cold
import measure
import numpy as np

from bridge_core.transfer import parse_size

BASELINE = "cp + fsync"
_COPY = 'cp -r "$0" "$1" && sync "$1"/* "$1"'
_CONVERT = (
    "from bridge_core import convert; "
    "convert({src!r}, {dst!r}, to='flax', format='safetensors', accept_guesses=True, **{options!r})"
)
_SHARD = "1GB"
_CONVERSIONS = {
    "plain": {"verify": False},
    "verified": {"verify": True},
    "sharded": {"verify": False, "max_shard_size": _SHARD},
    "sharded, verified": {"verify": True, "max_shard_size": _SHARD},
}
_MEMCPY = 256 << 20


class Contest:
    """The contestants at one size.

    Args:
        work: The folder of all files.
        size: Of the checkpoint.
        is_cold: Whether the source is taken out of the page cache before each run.
    """

    def __init__(self, work: Path, size: str, *, is_cold: bool) -> None:
        self.source = checkpoints.sharded(work, size, _SHARD)
        self.nbytes = checkpoints.bytes_in(self.source)
        self.cached_before = 0.0
        """Most of the source that was cached before a run that was to be cold."""
        self._is_cold = is_cold
        self._out = work / "out"

    def contestants(self, names: list[str]) -> dict[str, Callable[[], measure.Run]]:
        """Return ``cp`` and the conversions of these names."""
        return {
            BASELINE: lambda: measure.run(["/bin/sh", "-c", _COPY, str(self.source), str(self._out)]),
            **{name: self._converting(_CONVERSIONS[name]) for name in names},
        }

    def clear(self) -> None:
        """Make every run start from the same state."""
        measure.remove(self._out)
        if self._is_cold:
            self.cached_before = max(self.cached_before, cold.drop([self.source]))

    def remove(self) -> None:
        """Remove the source, so that the next size has the memory and the disk for itself."""
        measure.remove(self.source)

    def _converting(self, options: dict[str, object]) -> Callable[[], measure.Run]:
        target = self._out / ("set" if "max_shard_size" in options else "model.safetensors")
        code = _CONVERT.format(src=str(self.source), dst=str(target), options=options)

        def convert() -> measure.Run:
            self._out.mkdir()
            return measure.run(measure.python(code))

        return convert


def memcpy_rate() -> float:
    """Return the bytes per second of one thread that copies memory, the best of ten."""
    source, target = np.ones(_MEMCPY, np.uint8), np.ones(_MEMCPY, np.uint8)
    seconds = []
    for _ in range(10):
        started = time.perf_counter()
        np.copyto(target, source)
        seconds.append(time.perf_counter() - started)
    return _MEMCPY / min(seconds)


def marginal_table(sizes: Mapping[str, Mapping[str, Any]]) -> str:
    """Return as text what each further GB costs: seconds from one size to the next, by the medians.

    A fixed cost is in none of them. A cost that grows with the size shows as numbers that grow to the right.
    """
    columns = list(sizes.values())
    names = list(columns[0]["runs"])
    rows = []
    for name in names:
        seconds = [measure.median(run["seconds"] for run in size["runs"][name]) for size in columns]
        gigabytes = [size["bytes"] / 1e9 for size in columns]
        steps = zip(itertools.pairwise(seconds), itertools.pairwise(gigabytes), strict=True)
        rates = [
            (after - before) / (more - less) if more > less else 0 for (before, after), (less, more) in steps
        ]
        rows.append((name, f"{seconds[0]:.2f}", *(f"{rate:.2f}" for rate in rates)))
    first, *others = sizes
    return measure.text_table(("", f"s at {first}", *(f"s/GB to {size}" for size in others)), rows)


def main() -> None:
    parser = measure.parser(__doc__, repeats=3, sizes=["250MB", "500MB", "1GB", "2GB", "4GB", "8GB"])
    names = list(_CONVERSIONS)
    parser.add_argument(
        "--only", nargs="+", choices=names, default=names, help="conversions, by their names in the table"
    )
    parser.add_argument("--cold", action="store_true", help="take the source out of the page cache first")
    parser.add_argument("--no-warm-up", action="store_true", help="let the first round count")
    parser.add_argument("--seconds", type=float, help="begin no further round of a size after this long")
    parser.add_argument("--keep", action="store_true", help="keep the sources for the next time")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    facts = measure.machine(arguments.work)
    idle = measure.idle_peak()
    memcpy = memcpy_rate() if facts["file_system"] == "tmpfs" else None
    sizes: dict[str, dict[str, Any]] = {}
    for size in arguments.sizes:
        free = shutil.disk_usage(arguments.work).free
        if free < 2.5 * parse_size(size):
            measure.say(f"{size}: left out, since only {free / 1e9:.0f} GB are free")
            continue
        contest = Contest(arguments.work, size, is_cold=arguments.cold)
        results = measure.interleaved(
            contest.contestants(arguments.only),
            arguments.repeats,
            contest.clear,
            seconds=arguments.seconds,
            warm_up=not (arguments.cold or arguments.no_warm_up),
        )
        cache = "cold" if arguments.cold else "warm"
        print(f"\n{contest.nbytes / 1e9:.2f} GB of bfloat16, page cache {cache}")
        print(f"memory is above an interpreter with numpy ({idle / 1e6:.0f} MB)")
        print(measure.run_table(results, BASELINE, contest.nbytes, idle), flush=True)
        if memcpy is not None:
            print(f"memcpy, one thread: {memcpy / 1e9:.1f} GB/s")
        if contest.cached_before > 0.02:
            print(f"note: not cold; up to {contest.cached_before:.0%} of the source stayed in the page cache")
        runs = measure.as_json(results)
        sizes[size] = {"bytes": contest.nbytes, "cached_before": contest.cached_before, "runs": runs}
        if not arguments.keep:
            contest.remove()
    if len(sizes) > 1:
        print("\nwhat each further GB costs")
        print(marginal_table(sizes))
    document = {
        "baseline": BASELINE,
        "cold": arguments.cold,
        "memcpy_bytes_per_second": memcpy,
        "idle_peak_bytes": idle,
        "sizes": sizes,
    }
    measure.finish(arguments, facts, document)


if __name__ == "__main__":
    main()
