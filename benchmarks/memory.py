"""Peak memory against the size of the checkpoint, and against the size of one tensor.

    python benchmarks/memory.py --sizes 250MB 500MB 1GB 2GB 4GB

Both should be flat. The first takes a checkpoint of torch to Flax at default settings; the second takes one
tensor, which has to be transposed, with ``--max-ram 128MB``. Each is a fresh process, and the operating
system tells its peak.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import checkpoints
import measure

from bridge_core import FlatState, save_state
from bridge_core.transfer import parse_size

_CONVERT = "from bridge_core import convert; convert({src!r}, {dst!r}, to='flax', **{options!r})"
_ROWS = 16384


def main() -> None:
    parser = measure.parser(__doc__, repeats=1, sizes=["250MB", "500MB", "1GB", "2GB", "4GB"])
    parser.add_argument("--max-ram", default="128MB", help="budget for the one tensor (default: 128MB)")
    arguments = parser.parse_args()
    work: Path = arguments.work
    work.mkdir(parents=True, exist_ok=True)
    facts = measure.machine(work)
    idle = measure.idle_peak()
    imported = measure.idle_peak("import bridge_core; bridge_core.default_registry()")
    budget = parse_size(arguments.max_ram)
    rows, document = [], []
    for size in arguments.sizes:
        if shutil.disk_usage(work).free < 3 * parse_size(size):
            measure.say(f"{size}: left out, since the disk is too full")
            continue
        found: dict[str, list[measure.Run]] = {"checkpoint": [], "tensor": []}
        for what, options in (("checkpoint", {"accept_guesses": True}), ("tensor", {"max_ram": budget})):
            source = work / f"memory-{what}"
            measure.remove(source)
            _make(what, size, source)
            for _ in range(arguments.repeats):
                found[what].append(_convert(source, work / "out.safetensors", options))
            measure.remove(source)
        whole, tensor = (measure.median(r.peak_bytes for r in runs) for runs in found.values())
        document.append({"size": size, "bytes": parse_size(size), **measure.as_json(found)})
        rows.append(
            (
                size,
                f"{(whole - idle) / 1e6:.0f}",
                f"{measure.median(r.seconds for r in found['checkpoint']):.2f}",
                f"{(tensor - idle) / 1e6:.0f}",
                f"{(tensor - imported) / 1e6:.0f}",
                f"{measure.median(r.seconds for r in found['tensor']):.2f}",
            )
        )
    print(f"MB above an interpreter with numpy ({idle / 1e6:.0f} MB)")
    print(f"importing bridge_core and its plugins takes {(imported - idle) / 1e6:.0f} of them")
    tensor_head = f"one tensor, {arguments.max_ram}"
    print(measure.text_table(("", "checkpoint", "s", tensor_head, "less imports", "s"), rows))
    peaks = {"idle_peak_bytes": idle, "imported_peak_bytes": imported, "max_ram": budget}
    measure.finish(arguments, facts, {**peaks, "rows": document})


def _make(what: str, size: str, folder: Path) -> None:
    if what == "checkpoint":
        state = checkpoints.Llama.of(parse_size(size)).state()
    else:
        columns = max(1, parse_size(size) // 2 // _ROWS)
        weight, bias = checkpoints.noise((_ROWS, columns)), checkpoints.noise((_ROWS,))
        tensors = {"proj.weight": weight, "proj.bias": bias}
        state = FlatState(tensors, layout="torch")
    save_state(state, f"{folder}/", format="safetensors")


def _convert(source: Path, destination: Path, options: dict[str, object]) -> measure.Run:
    code = _CONVERT.format(src=str(source), dst=str(destination), options=options)
    found = measure.run(measure.python(code))
    measure.remove(destination)
    measure.say(f"{source.name}: {found.seconds:.2f} s, {found.peak_bytes / 1e6:.0f} MB")
    return found


if __name__ == "__main__":
    main()
