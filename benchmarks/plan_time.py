"""Planning time against the number of keys, without a template and with one.

python benchmarks/plan_time.py --keys 100 1000 10000 100000
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import measure
import numpy as np

from bridge_core import FlatState, LazyTensor, TensorSpec, plan_conversion


def state(keys: int) -> FlatState:
    """Return a state of transformer layers with about that many keys and no values."""
    layer = {"q.weight": (64, 64), "k.weight": (64, 64), "mlp.up.weight": (256, 64), "mlp.up.bias": (256,)}
    layer |= {"mlp.down.weight": (64, 256), "mlp.down.bias": (64,), "norm.weight": (64,), "norm.bias": (64,)}
    specs = {
        f"model.layers.{i}.{name}": shape
        for i in range(max(1, keys // len(layer)))
        for name, shape in layer.items()
    }
    return FlatState({name: _empty(shape) for name, shape in specs.items()}, layout="torch")


def _empty(shape: tuple[int, ...]) -> LazyTensor:
    return LazyTensor(TensorSpec(shape, np.dtype(np.float32)), lambda region: np.empty(0))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--keys", type=int, nargs="+", default=[100, 1000, 10_000, 100_000])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, help="where to write the results")
    arguments = parser.parse_args()
    rows = []
    print(f"{'keys':>8}{'plain s':>10}{'us/key':>8}{'like= s':>10}{'us/key':>8}")
    for keys in arguments.keys:
        source = state(keys)
        template = plan_conversion(source, to="flax", accept_guesses=True).apply(source)
        plain = [_timed(source, accept_guesses=True) for _ in range(arguments.repeats)]
        like = [_timed(source, like=template) for _ in range(arguments.repeats)]
        a, b = statistics.median(plain), statistics.median(like)
        rows.append({"keys": len(source), "plain": plain, "like": like})
        print(f"{len(source):8}{a:10.3f}{a / len(source) * 1e6:8.1f}{b:10.3f}{b / len(source) * 1e6:8.1f}")
    if arguments.json:
        measure.write_json(arguments.json, {"rows": rows})


def _timed(source: FlatState, **options: object) -> float:
    started = time.perf_counter()
    plan_conversion(source, to="flax", **options)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
