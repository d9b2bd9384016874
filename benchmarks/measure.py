"""Shared by the benchmarks: checkpoints of any size, and processes measured by the operating system."""

from __future__ import annotations

import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import ml_dtypes
import numpy as np

from bridge_core import FlatState, LazyTensor, TensorSpec, save_state

PYTHON = sys.executable
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


@dataclass(frozen=True)
class Run:
    """One finished process."""

    seconds: float
    peak_bytes: int


def llama(total_bytes: int, hidden: int = 2048) -> FlatState:
    """Return a Llama-shaped bf16 state of about that size; values are made when they are read."""
    intermediate = hidden * 11 // 4 // 128 * 128
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (32000, hidden)}
    layer = {
        "self_attn.q_proj.weight": (hidden, hidden),
        "self_attn.k_proj.weight": (hidden // 4, hidden),
        "self_attn.v_proj.weight": (hidden // 4, hidden),
        "self_attn.o_proj.weight": (hidden, hidden),
        "mlp.gate_proj.weight": (intermediate, hidden),
        "mlp.up_proj.weight": (intermediate, hidden),
        "mlp.down_proj.weight": (hidden, intermediate),
        "input_layernorm.weight": (hidden,),
        "post_attention_layernorm.weight": (hidden,),
    }
    per_layer = sum(2 * int(np.prod(shape)) for shape in layer.values())
    layers = max(1, (total_bytes - 2 * 2 * 32000 * hidden) // per_layer)
    for i in range(layers):
        shapes.update({f"model.layers.{i}.{name}": shape for name, shape in layer.items()})
    shapes["model.norm.weight"] = (hidden,)
    shapes["lm_head.weight"] = (32000, hidden)
    return FlatState(
        {name: _noise(i, shape) for i, (name, shape) in enumerate(shapes.items())}, layout="torch"
    )


def _noise(seed: int, shape: tuple[int, ...]) -> LazyTensor:
    pool = np.random.default_rng(seed).integers(0, 1 << 15, 1 << 20, dtype=np.uint16)

    def read(region: tuple[slice, ...]) -> np.ndarray:
        sizes = tuple(len(range(s.start, s.stop, s.step)) for s in region)
        return np.resize(np.roll(pool, region[0].start), sizes).view(BFLOAT16)

    return LazyTensor(TensorSpec(shape, BFLOAT16), read)


def make_checkpoint(folder: Path, total_bytes: int, shard: str) -> Path:
    """Write a sharded safetensors checkpoint, unless it is there already."""
    if not folder.exists():
        save_state(llama(total_bytes), f"{folder}/", format="safetensors", max_shard_size=shard)
    return folder


_LAUNCHER = (
    "import os, sys, time\n"
    "start = time.perf_counter()\n"
    "pid = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ)\n"
    "_, status, usage = os.wait4(pid, 0)\n"
    "print(time.perf_counter() - start, usage.ru_maxrss, os.waitstatus_to_exitcode(status), file=sys.stderr)\n"
)
"""A process counts its parent's memory as its own until it starts its program: so the parent is a small one."""


def run(command: Sequence[str]) -> Run:
    """Run a process to its end; its own accounting gives the peak of resident memory.

    Raises:
        RuntimeError: It failed.
    """
    launched = subprocess.run(
        [PYTHON, "-I", "-S", "-c", _LAUNCHER, *command],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
        check=True,
    )
    seconds, peak, status = launched.stderr.rsplit("\n", 2)[-2].split()
    if status != "0":
        raise RuntimeError(f"{' '.join(command)} failed with status {status}: {launched.stderr}")
    return Run(float(seconds), int(peak) * 1024)


def interleaved(
    contestants: dict[str, Callable[[], Run]], repeats: int, between: Callable[[], None]
) -> dict[str, list[Run]]:
    """Run every contestant in turn, ``repeats`` times over, after one round that does not count."""
    results: dict[str, list[Run]] = {name: [] for name in contestants}
    for turn in range(repeats + 1):
        for name, contestant in contestants.items():
            between()
            found = contestant()
            if turn:
                results[name].append(found)
    return results


def table(results: dict[str, list[Run]], baseline: str, total_bytes: int) -> str:
    """Return medians, spreads and ratios to the baseline as text."""
    base = statistics.median(r.seconds for r in results[baseline])
    lines = [f"{'':26}{'median s':>10}{'min':>8}{'max':>8}{'GB/s':>8}{'x ' + baseline:>16}{'peak MB':>10}"]
    for name, runs in results.items():
        seconds = [r.seconds for r in runs]
        middle = statistics.median(seconds)
        peak = statistics.median(r.peak_bytes for r in runs) / 1e6
        lines.append(
            f"{name:26}{middle:10.2f}{min(seconds):8.2f}{max(seconds):8.2f}"
            f"{total_bytes / middle / 1e9:8.2f}{middle / base:16.2f}{peak:10.0f}"
        )
    return "\n".join(lines)


def machine() -> dict[str, object]:
    """Return what a reader needs to judge a figure."""
    return {
        "python": platform.python_version(),
        "numpy": np.__version__,
        "processors": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
    }


def write_json(path: Path, document: dict[str, object]) -> None:
    """Write results beside the machine they were taken on."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"machine": machine(), **document}, indent=1) + "\n")


def remove(path: Path) -> None:
    """Remove a file or a folder, if there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def interpreter_peak() -> int:
    """Return the peak of resident memory of an interpreter that imports numpy and does nothing."""
    return run([PYTHON, "-c", "import numpy"]).peak_bytes
