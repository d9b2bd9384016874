"""A compiled plan in torch on a GPU, against a copy of the same bytes on the device.

    python benchmarks/gpu.py

takes a few minutes on a GPU, and prints JSON with the machine's name. Without a GPU it runs at a small size
on the CPU, so that it is tested; those figures mean little. Every plan is compared with numpy, bit for bit,
before it is timed.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import measure
import numpy as np
import torch

from bridge_core import Plan, Step, TensorSpec
from bridge_core.ops import Cast, Concat, Op, Permute, Split, Stack, Sum
from bridge_core.plugins import array_ops_of
from bridge_core.transfer import parse_size


def plans(width: int, layers: int) -> dict[str, Plan]:
    """Return name -> a plan over matrices of that width."""
    matrix = TensorSpec((width, width), np.dtype(np.float32))
    names = [(f"layer{n}", "weight") for n in range(layers)]

    def each(*ops: Op) -> Plan:
        specs = dict.fromkeys(names, matrix)
        return Plan("flax", "torch", specs, tuple(Step((name,), (name,), ops) for name in names))

    def grouped(*ops: Op) -> Plan:
        steps = tuple(
            Step(tuple(names[at : at + 4]), ((f"group{at}",),), ops) for at in range(0, layers - 3, 4)
        )
        return Plan("flax", "torch", {key: matrix for step in steps for key in step.sources}, steps)

    def split() -> Plan:
        third = (width // 4, width // 4, width // 2)
        steps = tuple(
            Step((name,), tuple((*name, part) for part in "qkv"), (Permute((1, 0)), Split(0, third)))
            for name in names
        )
        return Plan("flax", "torch", dict.fromkeys(names, matrix), steps)

    return {
        "transposed": each(Permute((1, 0))),
        "transposed, to bfloat16": each(Permute((1, 0)), Cast("float32", "bfloat16")),
        "to bfloat16": each(Cast("float32", "bfloat16")),
        "four concatenated, transposed": grouped(Concat(0, (width,) * 4), Permute((1, 0))),
        "four stacked": grouped(Stack(0, 4)),
        "four added": grouped(Sum(4)),
        "split in three, transposed": split(),
    }


def check(plan: Plan, device: torch.device) -> None:
    """Compare a plan on the device with numpy, on random bits: NaNs and denormal numbers are among them."""
    ops = array_ops_of("torch")
    arrays = {
        key: np.random.default_rng(n).integers(0, 1 << 32, spec.shape, np.uint32).view(np.float32)
        for n, (key, spec) in enumerate(plan.specs.items())
    }
    expected = plan.apply(arrays)
    found = plan.to_torch()({key: ops.constant(array).to(device) for key, array in arrays.items()})
    for key in expected:
        tensor = found[".".join(key)].cpu().contiguous()
        size = tensor.element_size()
        bits = tensor.view({2: torch.int16, 4: torch.int32}[size]).numpy()
        if bits.tobytes() != np.ascontiguousarray(expected[key]).tobytes():
            raise SystemExit(f"{'.'.join(key)} has other bits than numpy's on {device}.")


def seconds_of(call: Callable[[], Any], device: torch.device, repeats: int) -> list[float]:
    """Return the seconds of each call, after two that do not count."""
    times = []
    for turn in range(repeats + 2):
        _wait(device)
        started = time.perf_counter()
        result = call()
        _wait(device)
        if turn > 1:
            times.append(time.perf_counter() - started)
        del result
    return times


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def main() -> None:
    parser = measure.parser(__doc__, repeats=20)
    parser.add_argument("--size", type=parse_size, help="of the sources (default: 4GB, without a GPU 16MB)")
    parser.add_argument("--width", type=int, help="of each matrix (default: 4096, without a GPU 256)")
    arguments = parser.parse_args()
    gpu = torch.cuda.is_available()
    device = torch.device("cuda" if gpu else "cpu")
    width = arguments.width or (4096 if gpu else 256)
    nbytes = arguments.size or (4_000_000_000 if gpu else 16_000_000)
    layers = max(4, nbytes // (4 * width * width) // 4 * 4)
    facts = {**measure.machine(), "device": torch.cuda.get_device_name(device) if gpu else "cpu"}
    for plan in plans(64, 4).values():
        check(plan, device)
    rows = {}
    for name, plan in plans(width, layers).items():
        function = plan.to_torch()
        arrays = {
            key: torch.randn(spec.shape, device=device, dtype=torch.float32)
            for key, spec in plan.specs.items()
        }

        def materialised(function: Any = function, arrays: Any = arrays) -> Any:
            # Views cost nothing until they are read, so that every result is written in its own order.
            return [tensor.contiguous() for tensor in function(arrays).values()]

        def copied(arrays: Any = arrays) -> Any:
            return [tensor.clone() for tensor in arrays.values()]

        plain, own = (seconds_of(call, device, arguments.repeats) for call in (copied, materialised))
        moved = sum(tensor.nbytes for tensor in arrays.values())
        rows[name] = {
            "source_bytes": moved,
            "copy_seconds": plain,
            "plan_seconds": own,
            "times_copy": measure.median(own) / measure.median(plain),
            "source_bytes_per_second": moved / measure.median(own),
        }
        del arrays, materialised, copied
    print(json.dumps({"machine": facts, "rows": rows}, indent=1))
    measure.finish(arguments, facts, {"rows": rows})


if __name__ == "__main__":
    main()
