"""Conversions in parts that tests run: a source of several layers, and what one process makes of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bridge_core import convert, finish_work, make_work, run_part, save_state
from bridge_core.work import WorkList

SHARD = 3000
"""Bytes of a shard: one layer."""


def write_source(path: Path, layers: int = 6, *, max_shard_size: int | None = None) -> Path:
    """Write linear layers of torch, and return their file or folder."""
    random = np.random.default_rng(0)
    state = {}
    for number in range(layers):
        state[f"layers.{number}.weight"] = random.standard_normal((20, 30)).astype("float32")
        state[f"layers.{number}.bias"] = random.standard_normal((20,)).astype("float32")
    save_state(state, path, layout="torch", max_shard_size=max_shard_size)
    return path


def list_of(folder: Path, parts: int = 3, *, layers: int = 6, **options) -> WorkList:
    """Return the list of a conversion to Flax into ``folder / "out"``."""
    source = folder / "source.safetensors"
    if not source.exists():
        write_source(source, layers)
    return make_work(
        source, folder / "out", **{"to": "flax", "parts": parts, "max_shard_size": SHARD, **options}
    )


def in_one_process(folder: Path, source: str = "source.safetensors", **options) -> dict[str, bytes]:
    """Return the files that one process writes, by name."""
    convert(
        folder / source,
        folder / "one",
        **{"to": "flax", "max_shard_size": SHARD, **options},
    )
    return contents(folder / "one")


def contents(folder: Path) -> dict[str, bytes]:
    """Return the files of a folder, by name."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def without_manifest(folder: Path) -> dict[str, bytes]:
    """Return the files of a finished folder, by name, but for the manifest."""
    return {name: data for name, data in contents(folder).items() if name != "ckptbridge-manifest.json"}


def run_all_parts(work: WorkList) -> None:
    """Run all parts, and finish."""
    for part in range(1, len(work.parts) + 1):
        run_part(work, part)
    finish_work(work)
