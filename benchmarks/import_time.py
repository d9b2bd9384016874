"""What starting costs: importing the package and running the command, against Python and numpy alone.

python benchmarks/import_time.py --repeats 20
"""

from __future__ import annotations

import functools
import shutil
import sys
from pathlib import Path

import checkpoints
import measure

from bridge_core import FlatState, save_state

BASELINE = "python"
_NOT_WANTED = ("torch", "jax", "flax", "safetensors", "msgpack", "rich", "click")
_LIST = "import sys; {}; print(*[m for m in {!r} if m in sys.modules])"


def main() -> None:
    arguments = measure.parser(__doc__, repeats=15).parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    facts = measure.machine()
    small = arguments.work / "small.safetensors"
    state = FlatState({f"layers.{i}.weight": checkpoints.noise((8, 8), i) for i in range(10)}, layout="torch")
    save_state(state, small, overwrite=True)
    command = shutil.which("ckptbridge", path=str(Path(sys.executable).parent)) or shutil.which("ckptbridge")
    tool = [command] if command else [measure.PYTHON, "-m", "bridge_core.cli"]
    commands = {
        BASELINE: measure.python("pass"),
        "import numpy": measure.python("import numpy"),
        "import bridge_core": measure.python("import bridge_core"),
        "... bridge_torch, bridge_flax": measure.python("import bridge_core, bridge_torch, bridge_flax"),
        "ckptbridge --help": [*tool, "--help"],
        "ckptbridge inspect": [*tool, "inspect", str(small)],
    }
    contestants = {name: functools.partial(measure.run, line) for name, line in commands.items()}
    results = measure.interleaved(contestants, arguments.repeats)
    base = measure.median(r.seconds for r in results[BASELINE])
    numpy = measure.median(r.seconds for r in results["import numpy"])
    rows = []
    for name, runs in results.items():
        seconds = [r.seconds for r in runs]
        middle = measure.median(seconds)
        peak = measure.median(r.peak_bytes for r in runs)
        above = (f"{(middle - base) * 1e3:.0f}", f"{(middle - numpy) * 1e3:.0f}", f"{peak / 1e6:.0f}")
        spread = (f"{min(seconds) * 1e3:.0f}", f"{max(seconds) * 1e3:.0f}")
        rows.append((name, f"{middle * 1e3:.0f}", *spread, *above))
    print(measure.text_table(("", "median ms", "min", "max", "above python", "above numpy", "peak MB"), rows))
    imported = measure.run(measure.python(_LIST.format("import bridge_core", _NOT_WANTED))).output.split()
    print(f"of {', '.join(_NOT_WANTED)}, import bridge_core imports: {', '.join(imported) or 'none'}")
    document = {"runs": measure.as_json(results), "baseline": BASELINE, "imported": imported}
    measure.finish(arguments, facts, document)
    measure.remove(small)


if __name__ == "__main__":
    main()
