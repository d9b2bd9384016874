"""How the files beside this script were made: a small torch model in three layouts and every format.

    python make.py FOLDER

It ran once, with version 0.1.0; the files it made then must open for ever, so they are not made again.
FOLDER gets the files and `expected.json`: what each holds, and what each must give when it is converted.
"""

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from torch import nn

from bridge_core import FlatState, Rule, convert, join_key, open_state, save_state, verify

LOOKUP = (Rule.layer("lookup", "embedding"),)
"""What Flax must be told of the one layer that is left open."""
FILES = {
    "model.safetensors": {},
    "model.pt": {},
    "model.msgpack": {},
    "model.npz": {},
    "model.h5": {},
    "safetensors/": {"format": "safetensors", "max_shard_size": "1KB"},
    "torch/": {"format": "torch", "max_shard_size": "1KB"},
    "msgpack/": {"format": "msgpack", "max_shard_size": "1KB"},
}
"""Where to in the folder of a layout -> the options of the conversion."""


class Model(nn.Module):
    """A layer of each sort that metadata, ties or residuals have something to tell of."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, 4)
        self.half = nn.Linear(4, 3, bias=False).bfloat16()
        self.conv = nn.Conv2d(2, 2, 3)
        self.up = nn.ConvTranspose1d(2, 2, 3)
        self.bn = nn.BatchNorm2d(2)
        self.ln = nn.LayerNorm(4)
        self.rnn = nn.LSTM(4, 3)
        self.attn = nn.MultiheadAttention(4, 2)
        self.normed = nn.utils.parametrizations.weight_norm(nn.Linear(4, 3))
        self.scale = nn.Parameter(torch.zeros(3, 2))
        self.register_buffer("steps", torch.zeros(3, dtype=torch.int64))
        self.head = nn.Linear(4, 7, bias=False)
        self.head.weight = self.embed.weight


def build() -> Model:
    """Return the model with values that need neither a random generator of torch nor its initialisers."""
    model, rng = Model(), np.random.default_rng(0)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point():
                values = rng.standard_normal(tuple(tensor.shape))
                values = np.abs(values) + 0.5 if name.endswith(("running_var", "original0")) else values
            else:
                values = rng.integers(2**40, 2**50, tuple(tensor.shape))
            tensor.copy_(torch.from_numpy(np.asarray(values)))
    return model.eval()


def digests(state: FlatState) -> dict[str, str]:
    """Return the digest of every tensor's dtype, shape and bytes by name."""
    found = {}
    for key in state:
        array = state[key]
        text = f"{array.dtype.name} {list(array.shape)} ".encode()
        found[join_key(key)] = hashlib.sha256(text + np.ascontiguousarray(array).tobytes()).hexdigest()
    return found


def known(state: FlatState, work: Path) -> dict[str, Any]:
    """Return what a state's metadata tells, as a safetensors file keeps it; layers by path."""
    save_state(state, work / "copy.safetensors", overwrite=True)
    with safe_open(work / "copy.safetensors", "numpy") as file:
        told: dict[str, Any] = json.loads(file.metadata()["ckptbridge"])
    groups = told.pop("layers", [])
    told["layers"] = {path: without(group, "paths") for group in groups for path in group["paths"]}
    return told


def without(group: dict[str, Any], name: str) -> dict[str, Any]:
    """Return a copy that lacks one name."""
    return {key: value for key, value in group.items() if key != name}


def main(folder: Path) -> None:
    """Write every file, then what is expected: tables of digests, and for each layout which ones hold."""
    model = build()
    tables: dict[str, dict[str, str]] = {}
    layouts: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as work:
        source = Path(work) / "source.pt"
        # The model knows nothing of this one, and a table without a bias may be several things.
        lookup = torch.arange(16, dtype=torch.float32).reshape(4, 4)
        torch.save({**model.state_dict(), "lookup.weight": lookup}, source)
        for layout in ("torch", "flax", "neutral"):
            (folder / layout).mkdir(parents=True)
            rules = LOOKUP if layout == "flax" else ()
            for name, options in FILES.items():
                path = f"{folder / layout}/{name}"
                report = convert(source, path, to=layout, model=model, rules=rules, **options)
                if not (report.exact and report.verified):
                    raise RuntimeError(f"{path}: {report}")
                found = describe(Path(path), layout, Path(work), tables)
                if layouts.setdefault(layout, found) != found:
                    raise RuntimeError(f"{path} holds something else than the files before it")
    expected = {"files": [name.rstrip("/") for name in FILES], "layouts": layouts, "tables": tables}
    (folder / "expected.json").write_text(json.dumps(expected, indent=0, sort_keys=True) + "\n")


def describe(path: Path, layout: str, work: Path, tables: dict[str, dict[str, str]]) -> dict[str, Any]:
    """Return what a file tells of itself, and the names of the tables for what it holds and becomes."""

    def table(name: str, state: FlatState) -> str:
        values = digests(state)
        if "lookup.embedding" in values:
            name = f"{name}, settled"
        if tables.setdefault(name, values) != values:
            raise RuntimeError(f"{path}: other values than those of {name}")
        return name

    with open_state(path) as state:
        if state.layout != layout:
            raise RuntimeError(f"{path} is {state.layout}")
        found = {"holds": table(layout, state), "knows": known(state, work), "becomes": {}}
    for to in ("torch", "flax", "neutral"):
        made = work / "made.safetensors"
        rules = LOOKUP if to == "flax" and layout != "flax" else ()
        convert(path, made, to=to, rules=rules, overwrite=True)
        if not verify(path, made, rules=rules).equal:
            raise RuntimeError(f"{path} is not what {made} holds")
        with open_state(made) as state:
            found["becomes"][to] = table(to, state)
    return found


if __name__ == "__main__":
    main(Path(sys.argv[1]))
