"""Planning time against the number of keys, without a template and with one.

    python benchmarks/plan_time.py --keys 100 1000 10000 100000

It should be linear, so that the time for a key stays the same. No file is read.
"""

from __future__ import annotations

import time

import measure
import numpy as np

from bridge_core import FlatState, TensorSpec, plan_conversion
from bridge_core.state import LazyTensor


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
    parser = measure.parser(__doc__, repeats=3)
    parser.add_argument("--keys", type=int, nargs="+", default=[100, 1000, 10_000, 100_000])
    arguments = parser.parse_args()
    facts = measure.machine()
    plan_conversion(state(100), to="flax", accept_guesses=True)  # imports
    lines, rows = [], []
    for keys in arguments.keys:
        source = state(keys)
        count = len(source)
        template = plan_conversion(source, to="flax", accept_guesses=True).apply(source)
        plain, like = [], []
        for _ in range(arguments.repeats):
            plain.append(_timed(source, accept_guesses=True))
            like.append(_timed(source, like=template))
        rows.append({"keys": count, "plain": plain, "like": like})
        a, b = measure.median(plain), measure.median(like)
        each = (f"{a / count * 1e6:.1f}", f"{b:.3f}", f"{max(like):.3f}", f"{b / count * 1e6:.1f}")
        lines.append((str(count), f"{a:.3f}", f"{max(plain):.3f}", *each))
    print(measure.text_table(("keys", "plain s", "max", "us/key", "like= s", "max", "us/key"), lines))
    measure.finish(arguments, facts, {"rows": rows})


def _timed(source: FlatState, **options: object) -> float:
    started = time.perf_counter()
    plan_conversion(source, to="flax", **options)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
