"""File to file: a sharded bf16 checkpoint of torch into Flax files and back, against copying the same bytes.

    python benchmarks/file_to_file.py --sizes 500MB 2GB --repeats 5 --json out.json --plot out.png

Every contestant is a fresh process, all run in turn, and every one syncs what it wrote to the disk. ``cp``
copies the source folder. The page cache is warm, unless --cold takes the source out of it before each run.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Callable
from pathlib import Path

import checkpoints
import cold
import measure

from bridge_core import convert
from bridge_core.transfer import parse_size

BASELINE = "cp + fsync"
_COPY = 'cp -r "$0" "$1" && sync "$1"/* "$1"'
_CONVERT = "from bridge_core import convert; convert({src!r}, {dst!r}, **{options!r})"
_TO_FLAX = {"to": "flax", "accept_guesses": True}
_TO_TORCH = {"to": "torch", "accept_guesses": True}
_SCRIPTS = {"transformers": "transformers_script.py", "plain script": "plain_script.py"}


class Contest:
    """The contestants at one size.

    Args:
        arguments: The options.
        size: Of the checkpoint.
    """

    def __init__(self, arguments: argparse.Namespace, size: str) -> None:
        self._arguments, self._size = arguments, size
        self._work: Path = arguments.work
        self._out = self._work / "out"
        self.source = checkpoints.sharded(self._work, size, arguments.shard)
        self._sources = {self.source}
        self.nbytes = checkpoints.bytes_in(self.source)
        """Bytes of the source."""
        self.residue = 0.0
        """Most of the sources that was cached before a run that was to be cold."""

    def contestants(self) -> dict[str, Callable[[], measure.Run]]:
        """Return those that were asked for, the baseline first."""
        torch, shard = self.source, {"max_shard_size": self._arguments.shard, "format": "safetensors"}
        one, msgpack = {"format": "safetensors"}, {"format": "msgpack"}
        made: dict[str, Callable[[], Callable[[], measure.Run]]] = {}
        for verify in (False, True):
            proven = {"verify": verify}
            for name, source, options in (
                ("rename only", lambda: torch, {**_TO_TORCH, **shard}),
                ("to Flax, sharded", lambda: torch, {**_TO_FLAX, **shard}),
                ("to Flax, one safetensors", lambda: torch, {**_TO_FLAX, **one}),
                ("to Flax, one msgpack", lambda: torch, {**_TO_FLAX, **msgpack}),
                ("sharded Flax to torch", lambda: self._flax(**shard), {**_TO_TORCH, **shard}),
                ("msgpack to torch", lambda: self._flax(**msgpack), {**_TO_TORCH, **shard}),
            ):
                made[name + ", verified" * verify] = self._converting(source, {**options, **proven})
        if self._arguments.with_plain_script:
            made["plain script"] = lambda: self._script("plain script", torch)
        if self._arguments.with_transformers:
            single = lambda: checkpoints.single(self._work, self._size)  # noqa: E731 - made when it is needed
            made["transformers"] = lambda: self._script("transformers", single())
        wanted = self._arguments.only
        chosen = {n: make for n, make in made.items() if not wanted or n in wanted or n in _SCRIPTS}
        if self._arguments.no_verify_runs:
            chosen = {n: make for n, make in chosen.items() if not n.endswith("verified")}
        return {BASELINE: self._copy, **{name: make() for name, make in chosen.items()}}

    def clear(self) -> None:
        """Make every run start from the same state."""
        measure.remove(self._out)
        if self._arguments.cold:
            self.residue = max(self.residue, cold.drop(self._sources))

    def _copy(self) -> measure.Run:
        return measure.run(["/bin/sh", "-c", _COPY, str(self.source), str(self._out)])

    def _script(self, name: str, source: Path) -> Callable[[], measure.Run]:
        self._sources.add(source)
        script = measure.HERE / _SCRIPTS[name]
        return lambda: measure.run([measure.PYTHON, str(script), str(source), str(self._out)])

    def _converting(
        self, source: Callable[[], Path], options: dict[str, object]
    ) -> Callable[[], Callable[[], measure.Run]]:
        def make() -> Callable[[], measure.Run]:
            src = source()
            self._sources.add(src)
            return lambda: self._convert(src, options)

        return make

    def _convert(self, source: Path, options: dict[str, object]) -> measure.Run:
        self._out.mkdir()
        inside = "set" if "max_shard_size" in options else f"model.{options['format']}"
        code = _CONVERT.format(src=str(source), dst=str(self._out / inside), options=options)
        return measure.run(measure.python(code))

    def _flax(self, **options: object) -> Path:
        """Make the source of a way back."""
        suffix = "" if "max_shard_size" in options else f".{options['format']}"
        path = self._work / f"flax-{self._size}{suffix}"
        if not path.exists():
            convert(self.source, path, to="flax", accept_guesses=True, verify=False, **options)
        return path


def main() -> None:
    parser = measure.parser(__doc__, repeats=5, sizes=["500MB", "2GB"])
    parser.add_argument("--shard", default="500MB", help="bytes of a shard (default: 500MB)")
    parser.add_argument(
        "--only", nargs="+", metavar="NAME", help="these conversions, by the names in the table"
    )
    parser.add_argument("--no-verify-runs", action="store_true", help="leave out the runs that read back")
    parser.add_argument("--with-plain-script", action="store_true", help="run plain_script.py; needs torch")
    parser.add_argument(
        "--with-transformers",
        action="store_true",
        help="run transformers 4 once; needs much memory",
    )
    parser.add_argument("--cold", action="store_true", help="take the source out of the page cache first")
    parser.add_argument("--no-warm-up", action="store_true", help="let the first round count")
    parser.add_argument("--seconds", type=float, help="begin no further round of a size after this long")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    facts = measure.machine(arguments.work)
    idle = measure.idle_peak()
    sizes = {}
    for size in arguments.sizes:
        free = shutil.disk_usage(arguments.work).free
        if free < 5 * parse_size(size):
            measure.say(f"{size}: left out, since only {free / 1e9:.0f} GB of disk are free")
            continue
        contest = Contest(arguments, size)
        results = measure.interleaved(
            contest.contestants(),
            arguments.repeats,
            contest.clear,
            once=("transformers",),
            seconds=arguments.seconds,
            warm_up=not (arguments.cold or arguments.no_warm_up),
        )
        cache = "cold" if arguments.cold else "warm"
        print(f"\n{contest.nbytes / 1e9:.2f} GB of bfloat16, page cache {cache}")
        print(f"memory is above an interpreter with numpy ({idle / 1e6:.0f} MB)")
        print(measure.run_table(results, BASELINE, contest.nbytes, idle))
        if contest.residue > 0.02:
            print(f"note: not cold; up to {contest.residue:.0%} of the source stayed in the page cache")
        runs = measure.as_json(results)
        sizes[size] = {"bytes": contest.nbytes, "cached_before": contest.residue, "runs": runs}
    document = {"baseline": BASELINE, "cold": arguments.cold, "idle_peak_bytes": idle, "sizes": sizes}
    measure.finish(arguments, facts, document)


if __name__ == "__main__":
    main()
