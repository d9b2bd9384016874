"""Many layers into one stacked tensor and back, by a rule, against copying the same bytes.

    python benchmarks/stacking.py --layers 8 16 32 64

One file holds a kernel of 4096 x 1024 bfloat16 for each layer, or for each expert of one layer. A rule stacks
them, transposed, into one tensor, and takes them apart again. Memory should not grow with the stack: each run
is a fresh process, and the operating system tells its peak. Before the runs, stack and way back are compared
with the source, bit for bit.
"""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable
from pathlib import Path

import checkpoints
import measure
import numpy as np

from bridge_core import FlatState, compare_states, convert, open_state, save_state, split_name

BASELINE = "cp + fsync"
_SHAPE = (4096, 1024)
_LAYER_BYTES = 2 * _SHAPE[0] * _SHAPE[1]
_COPY = 'cp "$0" "$1" && sync "$1"'
_CONVERT = "from bridge_core import convert; convert({src!r}, {dst!r}, **{options!r})"
_WHAT = {
    "layers": ("h.{i:int}.mlp.weight", "blocks.mlp.kernel", "out in -> i in out"),
    "experts": ("experts.{e:int}.w1", "experts.w1", "out in -> e in out"),
}
"""What is stacked -> the source, the target and the equation of its rule."""
_RULES = """\
source = "torch"
target = "flax"

[[rule]]
source = "{}"
target = "{}"
rearrange = "{}"
"""


class Contest:
    """The contestants at one number of layers; makes their files, and compares them once.

    Args:
        work: The folder for the files.
        layers: How many layers, or experts, there are.
        max_ram: Budget of the conversions; None for the default.
    """

    def __init__(self, work: Path, layers: int, max_ram: str | None) -> None:
        self._folder, self._out = work / f"stacking-{layers}", work / "stacking-out.safetensors"
        self._options = {} if max_ram is None else {"max_ram": max_ram}
        measure.remove(self._folder)
        self._folder.mkdir()
        for what, (source, target, equation) in _WHAT.items():
            self._path(what, "toml").write_text(_RULES.format(source, target, equation))
            self._make(what, source, target, layers)

    def contestants(self) -> dict[str, Callable[[], measure.Run]]:
        """Return all, the baseline first."""
        made: dict[str, Callable[[], measure.Run]] = {BASELINE: self._copy}
        for verify in (False, True):
            for what in _WHAT:
                stack = functools.partial(self._convert, what, "flax", verify=verify)
                unstack = functools.partial(self._convert, what, "torch", verify=verify)
                suffix = ", verified" * verify
                made |= {f"stack {what}{suffix}": stack, f"unstack {what}{suffix}": unstack}
        return made

    def clear(self) -> None:
        """Make every run start from the same state."""
        measure.remove(self._out)

    def close(self) -> None:
        """Remove the files."""
        measure.remove(self._folder)

    def _path(self, what: str, name: str) -> Path:
        return self._folder / f"{what}.{name}"

    def _make(self, what: str, source: str, target: str, layers: int) -> None:
        name = source.replace("{i:int}", "{}").replace("{e:int}", "{}")
        tensors = {name.format(i): checkpoints.noise(_SHAPE, i) for i in range(layers)}
        parts = self._path(what, "torch.safetensors")
        stacked = self._path(what, "flax.safetensors")
        rules = self._path(what, "toml")
        save_state(FlatState(tensors, layout="torch"), parts)
        convert(parts, stacked, to="flax", rules=rules, verify=False)
        convert(stacked, self._out, to="torch", rules=rules, verify=False, overwrite=True)
        with open_state(parts) as first, open_state(stacked) as whole, open_state(self._out) as back:
            same = compare_states(first, back).equal and all(
                np.array_equal(_bits(whole, target, i).T, _bits(first, name.format(i))) for i in range(layers)
            )
        self.clear()
        if not same:
            raise RuntimeError(f"{layers} {what} were not stacked and taken apart bit for bit")

    def _copy(self) -> measure.Run:
        source = str(self._path("layers", "torch.safetensors"))
        return measure.run(["/bin/sh", "-c", _COPY, source, str(self._out)])

    def _convert(self, what: str, to: str, *, verify: bool) -> measure.Run:
        source = self._path(what, f"{'torch' if to == 'flax' else 'flax'}.safetensors")
        rules = str(self._path(what, "toml"))
        options = {"to": to, "rules": rules, "verify": verify, **self._options}
        code = _CONVERT.format(src=str(source), dst=str(self._out), options=options)
        return measure.run(measure.python(code))


def _bits(state: FlatState, name: str, *index: int) -> np.ndarray:
    return state.read(split_name(name), index).view(np.uint16)


def main() -> None:
    parser = measure.parser(__doc__, repeats=3)
    parser.add_argument("--layers", type=int, nargs="+", default=[8, 16, 32, 64], help="default: 8 16 32 64")
    parser.add_argument("--max-ram", help="budget of the conversions, e.g. 32MB (default: theirs)")
    arguments = parser.parse_args()
    work: Path = arguments.work
    work.mkdir(parents=True, exist_ok=True)
    facts = measure.machine(work)
    idle = measure.idle_peak()
    imported = measure.idle_peak("import bridge_core; bridge_core.default_registry()")
    stacks, peaks = [], {}
    for layers in arguments.layers:
        total = layers * _LAYER_BYTES
        if shutil.disk_usage(work).free < 6 * total:
            measure.say(f"{layers}: left out, since the disk is too full")
            continue
        contest = Contest(work, layers, arguments.max_ram)
        results = measure.interleaved(contest.contestants(), arguments.repeats, contest.clear)
        contest.close()
        print(f"\n{layers} layers of {_LAYER_BYTES / 1e6:.1f} MB: {total / 1e6:.0f} MB, page cache warm")
        print(f"memory is above an interpreter with numpy ({idle / 1e6:.0f} MB)")
        print(measure.run_table(results, BASELINE, total, idle))
        stacks.append({"layers": layers, "bytes": total, "runs": measure.as_json(results)})
        peaks[layers] = {n: measure.median(r.peak_bytes for r in found) for n, found in results.items()}
    _print_peaks(peaks, idle, imported)
    known = {"idle_peak_bytes": idle, "imported_peak_bytes": imported, "layer_bytes": _LAYER_BYTES}
    measure.finish(arguments, facts, {"baseline": BASELINE, **known, "stacks": stacks})


def _print_peaks(peaks: dict[int, dict[str, float]], idle: int, imported: int) -> None:
    rows = []
    for name in next(iter(peaks.values()), {}):
        above = [found[name] - idle for found in peaks.values()]
        most = max(above) - (imported - idle)
        rows.append((name, *(f"{peak / 1e6:.0f}" for peak in above), f"{most / _LAYER_BYTES:.1f}"))
    print(f"\npeak MB above an interpreter with numpy, by layers; imports are {(imported - idle) / 1e6:.0f}")
    print("the last column is the highest without the imports, in layers")
    print(measure.text_table(("", *map(str, peaks), "layers"), rows[1:]))


if __name__ == "__main__":
    main()
