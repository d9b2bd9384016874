"""Bytes that each process of a mesh reads, against the bytes that its devices hold.

    python benchmarks/meshes.py --megabytes 256

A plan with transposes, a fused qkv and stacks of layers is loaded by 1, 2 and 4 processes of this machine, 8
devices in all, with column and row shards and replicas. The other contestant gives every device its region of
the same lazy tensors by `jax.make_array_from_callback`. The last column is how long the slowest process takes
to load; all processes share the processors of this machine.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

_HEADS, _LAYERS = 16, 4
_SHARDINGS = {
    "embed.embedding": ("model", "data"),
    "head.kernel": (("data", "model"),),
    "blocks.q": (None, "data", "model"),
    "blocks.k": (None, ("data", "model")),
    "blocks.v": (None, None, "model"),
    "blocks.up.kernel": (None, "model", "data"),
    "blocks.up.bias": (),
    "blocks.down.kernel": (None, ("data", "model")),
}
_RULES = {
    "embed.weight": (["embed.embedding"], "v d -> v d"),
    "head.weight": (["head.kernel"], "v d -> d v"),
    "h.{i:int}.attn.weight": (
        ["blocks.q", "blocks.k", "blocks.v"],
        "(3 h d) in -> i in h d, i in h d, i in h d",
    ),
    "h.{i:int}.up.weight": (["blocks.up.kernel"], "f d -> i d f"),
    "h.{i:int}.up.bias": (["blocks.up.bias"], "f -> i f"),
    "h.{i:int}.down.weight": (["blocks.down.kernel"], "d f -> i f d"),
}


def make(folder: Path, megabytes: int) -> None:
    """Write a torch checkpoint of about this size, its rules, and the shapes of the target."""
    from bridge_core import save_state

    width = max(64, int((megabytes * 1e6 / 4 / (_LAYERS * 11 + 16)) ** 0.5) // 64 * 64)
    inner, words = 4 * width, 8 * width
    random = np.random.default_rng(0)
    shapes: dict[str, tuple[int, ...]] = {"embed.weight": (words, width), "head.weight": (words, width)}
    for layer in range(_LAYERS):
        shapes[f"h.{layer}.attn.weight"] = (3 * width, width)
        shapes[f"h.{layer}.up.weight"] = (inner, width)
        shapes[f"h.{layer}.up.bias"] = (inner,)
        shapes[f"h.{layer}.down.weight"] = (width, inner)
    state = {name: random.standard_normal(shape, dtype="float32") for name, shape in shapes.items()}
    save_state(state, folder / "model.safetensors", layout="torch")
    lines = ['source = "torch"', 'target = "flax"']
    for source, (targets, equation) in _RULES.items():
        lines += ["[[rule]]", f'source = "{source}"', f"target = {json.dumps(targets)}"]
        lines += [f'rearrange = "{equation}"', *([f"sizes = {{ h = {_HEADS} }}"] if "attn" in source else [])]
    (folder / "rules.toml").write_text("\n".join(lines))
    heads = (_LAYERS, width, _HEADS, width // _HEADS)
    target = {"embed.embedding": (words, width), "head.kernel": (width, words)}
    target |= {"blocks.q": heads, "blocks.k": heads, "blocks.v": heads}
    target |= {"blocks.up.kernel": (_LAYERS, width, inner), "blocks.up.bias": (_LAYERS, inner)}
    target |= {"blocks.down.kernel": (_LAYERS, inner, width)}
    (folder / "shapes.json").write_text(json.dumps(target))


def work(folder: Path, process: int, processes: int, devices: int, port: int, contestant: str) -> None:
    """Load as one process, and print the bytes and the seconds."""
    os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={devices}"
    os.environ["JAX_PLATFORMS"] = "cpu"
    import jax

    if processes > 1:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(f"127.0.0.1:{port}", processes, process)
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    import bridge_flax
    from bridge_core.conversion import target_state
    from bridge_core.state import unflatten_tree
    from bridge_core.testing.harness import counted_reads

    mesh = Mesh(np.array(jax.devices()).reshape(-1, 2), ("data", "model"))
    like = unflatten_tree(
        {
            tuple(name.split(".")): jax.ShapeDtypeStruct(
                tuple(shape), "float32", sharding=NamedSharding(mesh, PartitionSpec(*_SHARDINGS[name]))
            )
            for name, shape in json.loads((folder / "shapes.json").read_text()).items()
        }
    )
    path, options = folder / "model.safetensors", {"rules": folder / "rules.toml", "layout": "torch"}
    start = time.perf_counter()
    with counted_reads() as counted:
        if contestant == "bridge_flax.load":
            arrays = jax.tree.leaves(bridge_flax.load(path, like=like, **options))
        else:
            with target_state(path, framework="flax", like=like, **options) as target:
                arrays = [
                    jax.make_array_from_callback(
                        leaf.shape,
                        leaf.sharding,
                        lambda index, key=key: np.array(target.state.read(key, index)),
                    )
                    for key, leaf in _leaves(like)
                ]
        jax.block_until_ready(arrays)
    seconds = time.perf_counter() - start
    own = sum(
        sum({str(s.index): s.data.nbytes for s in array.addressable_shards}.values()) for array in arrays
    )
    print("RESULT", json.dumps([counted.nbytes, own, seconds]))


def _leaves(tree: object, path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], object]]:
    if not isinstance(tree, dict):
        return [(path, tree)]
    return [leaf for name, child in tree.items() for leaf in _leaves(child, (*path, name))]


def run(folder: Path, processes: int, contestant: str) -> tuple[float, float]:
    """Return the largest ratio of bytes read to own, and the seconds of the slowest process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = [
        subprocess.Popen(
            [
                sys.executable,
                __file__,
                "--work",
                *map(str, (folder, number, processes, 8 // processes, port)),
                contestant,
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        for number in range(processes)
    ]
    results = [json.loads(each.communicate()[0].rpartition("RESULT ")[2]) for each in started]
    return max(read / own for read, own, _ in results), max(seconds for *_, seconds in results)


def main() -> None:
    """Print the table."""
    if sys.argv[1:2] == ["--work"]:
        folder, *numbers, contestant = sys.argv[2:]
        work(Path(folder), *map(int, numbers), contestant)  # type: ignore[arg-type, call-arg]
        return
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=256)
    megabytes = parser.parse_args().megabytes
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make(folder, megabytes)
        print("| processes | devices of each | contestant | bytes read / own | seconds |")
        print("|---|---|---|---|---|")
        for processes in (1, 2, 4):
            for contestant in ("bridge_flax.load", "make_array_from_callback"):
                ratio, seconds = run(folder, processes, contestant)
                print(
                    f"| {processes} | {8 // processes} | `{contestant}` | {ratio:.3f} | {seconds:.1f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
