"""The transpose: GB/s by element size and shape, against memcpy, numpy and torch, on one thread.

    python benchmarks/transpose_kernel.py --size 64MB --repeats 5

What counts is bytes of the result by time. Every contestant writes into the same memory, which was touched
before. OpenCV takes part where it is installed. ``from file`` is what a conversion does: it reads a file that
is in the page cache and transposes it, which the others do not have to read.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import measure
import numpy as np

from bridge_core import FileTensor, SourceFile, TensorSpec
from bridge_core.ops import Permute, chain_tensors
from bridge_core.transfer import Scratch, copy_into, parse_size, plan_blocks, read_whole

Copy = Callable[[np.ndarray, tuple[int, ...], np.ndarray], None]

_FROM_FILE = "from file"
_INTEGERS = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}


def shapes(elements: int) -> dict[str, tuple[tuple[int, ...], tuple[int, ...]]]:
    """Return name -> (source shape, axes of the result), of about that many elements."""
    side = 1 << (elements.bit_length() // 2)
    channels = 1 << (math.isqrt(elements // 9).bit_length() - 1)
    return {
        "matrix, power of two": ((elements // side, side), (1, 0)),
        "matrix, friendly": ((elements // (side * 3 // 4 + 40), side * 3 // 4 + 40), (1, 0)),
        "matrix, wide": ((512, elements // 512), (1, 0)),
        "stacked matrices": ((max(1, elements >> 18), 512, 512), (0, 2, 1)),
        "convolution 3x3": ((channels, channels, 3, 3), (2, 3, 1, 0)),
        "convolution 1x3": ((channels, elements // 3 // channels, 3), (2, 1, 0)),
    }


def contestants() -> dict[str, Copy]:
    """Return name -> what copies ``source.transpose(axes)`` into ``out``."""
    made: dict[str, Copy] = {
        "memcpy": lambda source, axes, out: np.copyto(out.reshape(-1), source.reshape(-1)),
        "numpy": lambda source, axes, out: np.copyto(out, source.transpose(axes)),
        "bridge_core": lambda source, axes, out: copy_into(out, source.transpose(axes)),
    }
    with contextlib.suppress(ImportError):
        made["torch"] = _torch()
    with contextlib.suppress(ImportError):
        made["OpenCV"] = _opencv()
    return made


def _torch() -> Copy:
    import torch

    torch.set_num_threads(1)
    signed = {1: np.int8, 2: np.int16, 4: np.int32, 8: np.int64}

    def copy(source: np.ndarray, axes: tuple[int, ...], out: np.ndarray) -> None:
        kind = signed[source.itemsize]
        torch.from_numpy(out.view(kind)).copy_(torch.from_numpy(source.view(kind)).permute(axes))

    return copy


def _opencv() -> Copy:
    import cv2

    cv2.setNumThreads(1)
    kinds = {1: np.uint8, 2: np.uint16, 4: np.int32, 8: np.float64}

    def copy(source: np.ndarray, axes: tuple[int, ...], out: np.ndarray) -> None:
        kind = kinds[source.itemsize]
        cv2.transpose(source.view(kind), out.view(kind))

    return copy


def _from_file(path: Path, source: np.ndarray, axes: tuple[int, ...]) -> Copy:
    source.tofile(path)
    tensor = FileTensor(SourceFile(path), 0, TensorSpec(source.shape, source.dtype))
    (moved,) = chain_tensors((tensor,), (Permute(axes),))
    plan = plan_blocks((), moved, source.nbytes, in_order=True)
    scratch = Scratch()

    def copy(source: np.ndarray, axes: tuple[int, ...], out: np.ndarray) -> None:
        scratch.reset()
        read_whole(plan, out, scratch)

    return copy


def main() -> None:
    parser = measure.parser(__doc__, repeats=5)
    parser.add_argument("--size", default="64MB", help="bytes of the array (default: 64MB)")
    parser.add_argument("--item-sizes", type=int, nargs="+", default=[1, 2, 4, 8], choices=_INTEGERS)
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    facts = measure.machine()
    found = contestants()
    path = arguments.work / "transpose.bin"
    rows, lines = [], []
    for item in arguments.item_sizes:
        for name, (shape, axes) in shapes(parse_size(arguments.size) // item).items():
            speeds = _measure(found, shape, axes, item, arguments.repeats, path)
            rows.append({"item_size": item, "shape_name": name, "shape": shape, "axes": axes, "gb_s": speeds})
            middle = [f"{measure.median(s):.2f}" if s else "-" for s in speeds.values()]
            lines.append((f"{item} bytes, {name}", "x".join(map(str, shape)), *middle))
    measure.remove(path)
    print("GB/s, medians")
    print(measure.text_table(("", "shape", *found, _FROM_FILE), lines))
    measure.finish(arguments, facts, {"rows": rows})


def _measure(
    found: Mapping[str, Copy],
    shape: tuple[int, ...],
    axes: tuple[int, ...],
    item: int,
    repeats: int,
    path: Path,
) -> dict[str, list[float]]:
    source = np.random.default_rng(0).integers(0, 100, math.prod(shape), dtype=np.uint8)
    source = source.astype(_INTEGERS[item]).reshape(shape)
    out = np.zeros([shape[axis] for axis in axes], source.dtype)
    copies = {**found, _FROM_FILE: _from_file(path, source, axes)}
    speeds: dict[str, list[float]] = {name: [] for name in copies}
    for turn in range(repeats + 1):
        for name, copy in copies.items():
            if name == "OpenCV" and len(shape) != 2:
                continue
            started = time.perf_counter()
            copy(source, axes, out)
            took = time.perf_counter() - started
            if turn:
                speeds[name].append(source.nbytes / took / 1e9)
            elif name != "memcpy" and not np.array_equal(out, source.transpose(axes)):
                raise RuntimeError(f"{name} gives wrong values for {shape}")
    return speeds


if __name__ == "__main__":
    main()
