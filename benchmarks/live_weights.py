"""The weights of a JAX policy in a torch rollout, each step: compiled plans against the hand-written loop.

    python benchmarks/live_weights.py --size 200MB

Contestants take turns in one process, each round in another order. A step begins with JAX arrays and ends
when the torch module has the values. The hand-written loop copies each array to numpy, transposes the kernels
and calls `load_state_dict`.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any

import measure
import numpy as np

from bridge_core.transfer import parse_size


def policy(nbytes: int) -> tuple[dict[str, Any], Any]:
    """Return a Flax tree of that many bytes in float32, and a torch module without values for it."""
    import jax
    import torch
    from torch import nn

    width = 1024
    layers = max(1, nbytes // (4 * 8 * width * width))
    keys = iter(jax.random.split(jax.random.key(0), 2 * layers))
    tree: dict[str, Any] = {}
    for n in range(layers):
        shapes = {"up": (width, 4 * width), "down": (4 * width, width)}
        tree[f"layer{n}"] = {
            name: {
                "kernel": jax.random.normal(next(keys), shape, "float32"),
                "bias": jax.numpy.zeros(shape[1], "float32"),
            }
            for name, shape in shapes.items()
        }
    with torch.device("meta"):
        modules = {
            name: nn.ModuleDict({"up": nn.Linear(width, 4 * width), "down": nn.Linear(4 * width, width)})
            for name in tree
        }
    return {"params": tree}, nn.ModuleDict(modules)


def contestants(tree: dict[str, Any], module: Any, dtype: str) -> dict[str, Callable[[], Any]]:
    """Return name -> one step, which gives the module the values of the tree in a dtype."""
    import jax
    import torch

    from bridge_core import plan_conversion
    from bridge_core.state import dtype_named

    plan = plan_conversion(tree, to="torch", like=module).cast(dtype_named(dtype))
    on_jax, on_torch = jax.jit(plan.to_jax()), plan.to_torch()
    module.to_empty(device="cpu").to(getattr(torch, dtype))
    names = {join(path): path for path in leaves(tree)}

    def by_hand() -> Any:
        state = {}
        for name, path in names.items():
            array = np.asarray(at(tree, path))
            array = np.ascontiguousarray(array.T) if name.endswith("weight") else array.copy()
            state[name] = torch.from_numpy(array).to(getattr(torch, dtype))
        module.load_state_dict(state)

    def in_jax(*, assign: bool) -> Any:
        arrays = jax.block_until_ready(on_jax(tree))
        tensors = {name: torch.from_dlpack(array) for name, array in arrays.items()}
        module.load_state_dict(tensors, assign=assign)

    def in_torch() -> Any:
        tensors = {(*path,): torch.from_dlpack(at(tree, path)) for path in leaves(tree)}
        module.load_state_dict(on_torch(tensors))

    return {
        "hand-written": by_hand,
        "in JAX, copied into the parameters": lambda: in_jax(assign=False),
        "in torch, copied into the parameters": in_torch,
        "in JAX, assigned": lambda: in_jax(assign=True),
    }


def leaves(tree: Any, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Return the paths of all arrays."""
    if not isinstance(tree, dict):
        return [path]
    return [leaf for name, child in tree.items() for leaf in leaves(child, (*path, name))]


def at(tree: Any, path: tuple[str, ...]) -> Any:
    """Return the array at a path."""
    for name in path:
        tree = tree[name]
    return tree


def join(path: tuple[str, ...]) -> str:
    """Return torch's name of an array."""
    return ".".join(path[1:]).replace("kernel", "weight")


def main() -> None:
    parser = measure.parser(__doc__, repeats=7)
    parser.add_argument("--size", type=parse_size, default="200MB", help="of the policy in float32")
    arguments = parser.parse_args()
    facts, rows, tables = measure.machine(), {}, []
    import torch

    for dtype in ("float32", "bfloat16"):
        tree, module = policy(arguments.size)
        steps = contestants(tree, module, dtype)
        seconds: dict[str, list[float]] = {name: [] for name in steps}
        expected: dict[str, Any] = {}
        for turn in range(arguments.repeats + 1):
            order = list(steps)
            random.Random(turn).shuffle(order)
            for name in order:
                started = time.perf_counter()
                steps[name]()
                if turn:
                    seconds[name].append(time.perf_counter() - started)
                    continue
                state = {key: value.clone() for key, value in module.state_dict().items()}
                expected = expected or state
                assert all(torch.equal(state[key], value) for key, value in expected.items()), name
        base = measure.median(seconds["hand-written"])
        for name, times in seconds.items():
            middle = measure.median(times)
            cells = (f"{middle * 1e3:.1f}", f"{min(times) * 1e3:.1f}", f"{max(times) * 1e3:.1f}")
            tables.append((f"{dtype}: {name}", *cells, f"{middle / base:.2f}"))
        rows[dtype] = seconds
    print(measure.text_table(("", "median ms", "min", "max", "x hand-written"), tables))
    measure.finish(arguments, facts, {"size": arguments.size, "seconds": rows})


if __name__ == "__main__":
    main()
