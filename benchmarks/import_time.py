"""What starting costs: importing the package and running the command, against the libraries below them.

python benchmarks/import_time.py --repeats 20
"""

from __future__ import annotations

import functools
import shutil
import sys
from pathlib import Path

import checkpoints
import measure
import numpy as np

from bridge_core import FlatState, save_state

NUMPY, CLICK = "import numpy, ml_dtypes", "import click, numpy"
_NOT_WANTED = ("torch", "jax", "flax", "safetensors", "msgpack", "rich", "click")
_LIST = "import sys; {}; print(*[m for m in {!r} if m in sys.modules])"


def main() -> None:
    arguments = measure.parser(__doc__, repeats=15).parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    facts = measure.machine()
    layer, layers = arguments.work / "layer.safetensors", arguments.work / "layers.safetensors"
    one = {"fc.weight": np.ones((4, 3), np.float32), "fc.bias": np.zeros(4, np.float32)}
    save_state(FlatState(one, layout="torch"), layer, overwrite=True)
    ten = {f"layers.{i}.weight": checkpoints.noise((8, 8), i) for i in range(10)}
    save_state(FlatState(ten, layout="torch"), layers, overwrite=True)
    made = arguments.work / "layer.msgpack"
    command = shutil.which("ckptbridge", path=str(Path(sys.executable).parent)) or shutil.which("ckptbridge")
    tool = [command] if command else [measure.PYTHON, "-m", "bridge_core.cli"]
    commands = {
        "python": (measure.python("pass"), None),
        NUMPY: (measure.python(NUMPY), None),
        CLICK: (measure.python(CLICK), None),
        "import bridge_core": (measure.python("import bridge_core"), NUMPY),
        "... and every public name": (measure.python("from bridge_core import *"), NUMPY),
        "... bridge_torch, bridge_flax": (
            measure.python("import bridge_core, bridge_torch, bridge_flax"),
            NUMPY,
        ),
        "ckptbridge --help": ([*tool, "--help"], CLICK),
        "ckptbridge --version": ([*tool, "--version"], CLICK),
        "ckptbridge inspect": ([*tool, "inspect", str(layers)], NUMPY),
        "ckptbridge convert, one layer": (
            [*tool, "convert", str(layer), str(made), "--to", "flax", "--overwrite"],
            NUMPY,
        ),
    }
    contestants = {name: functools.partial(measure.run, line) for name, (line, _) in commands.items()}
    results = measure.interleaved(contestants, arguments.repeats)
    middles = {name: measure.median(r.seconds for r in runs) for name, runs in results.items()}
    rows = []
    for name, runs in results.items():
        seconds = [r.seconds for r in runs]
        peak = measure.median(r.peak_bytes for r in runs)
        base = commands[name][1]
        ratio = (f"{middles[name] / middles[base]:.2f}", base) if base else ("", "")
        spread = (f"{min(seconds) * 1e3:.0f}", f"{max(seconds) * 1e3:.0f}")
        rows.append((name, f"{middles[name] * 1e3:.0f}", *spread, *ratio, f"{peak / 1e6:.0f}"))
    print(measure.text_table(("", "median ms", "min", "max", "times", "of", "peak MB"), rows))
    imported = measure.run(measure.python(_LIST.format("import bridge_core", _NOT_WANTED))).output.split()
    print(f"of {', '.join(_NOT_WANTED)}, import bridge_core imports: {', '.join(imported) or 'none'}")
    document = {"runs": measure.as_json(results), "baseline": NUMPY, "imported": imported}
    measure.finish(arguments, facts, document)
    for path in (layer, layers, made):
        measure.remove(path)


if __name__ == "__main__":
    main()
