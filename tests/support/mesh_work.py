"""Runs as one process of a mesh: loads and saves a small transformer, and prints what it did as JSON.

Arguments: the scenario, this process, the number of processes, the devices of each, a port, and a folder.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np

LAYERS, WIDTH, INNER, WORDS, HEADS = 4, 256, 1024, 2048, 8

RULES = f"""
source = "torch"
target = "flax"

[[rule]]
source = ["embed.weight", "embed.twin"]
target = "embed.embedding"
rearrange = "v d, v d -> v d"

[[rule]]
source = "head.weight"
target = "head.kernel"
rearrange = "v d -> d v"

[[rule]]
source = "h.{{i:int}}.attn.weight"
target = ["blocks.q", "blocks.k", "blocks.v"]
rearrange = "(3 h d) in -> i in h d, i in h d, i in h d"
sizes = {{ h = {HEADS} }}

[[rule]]
source = "h.{{i:int}}.up.weight"
target = "blocks.up.kernel"
rearrange = "f d -> i d f"

[[rule]]
source = "h.{{i:int}}.up.bias"
target = "blocks.up.bias"
rearrange = "f -> i f"

[[rule]]
source = "h.{{i:int}}.down.weight"
target = "blocks.down.kernel"
rearrange = "d f -> i f d"
"""
"""Transposes, a fused qkv, layers in stacks, and two tensors that are compared."""

TWICE = "params.embed.embedding"
"""What is made of two tensors, so that both are read."""

IN_HOST_MEMORY = {"params.head.kernel", "params.blocks.q"}
"""What is in the memory of the host, as weights that are offloaded."""

SHARDINGS = {
    "params.embed.embedding": ("model", "data"),
    "params.head.kernel": (("data", "model"),),
    "params.blocks.q": (None, "data", "model"),
    "params.blocks.k": (None, ("data", "model")),
    "params.blocks.v": (),
    "params.blocks.up.kernel": (None, "model", "data"),
    "params.blocks.up.bias": (None, ("data", "model")),
    "params.blocks.down.kernel": (None, ("data", "model")),
}


def make_checkpoint(folder):
    """Write the checkpoint of a torch model, and the rules."""
    import ml_dtypes

    import bridge_core

    random = np.random.default_rng(0)

    def weight(*shape, dtype="float32"):
        return random.standard_normal(shape, dtype="float32").astype(dtype)

    state = {"embed.weight": weight(WORDS, WIDTH)}
    state["embed.twin"] = state["embed.weight"]
    state["head.weight"] = weight(WORDS, WIDTH, dtype=ml_dtypes.bfloat16)
    state["head.weight"].view("uint16").flat[:3] = 0x7FC1, 0x8000, 0x0001  # a NaN, -0.0 and a subnormal
    for layer in range(LAYERS):
        state[f"h.{layer}.attn.weight"] = weight(3 * WIDTH, WIDTH)
        state[f"h.{layer}.up.weight"] = weight(INNER, WIDTH, dtype="float16")
        state[f"h.{layer}.up.bias"] = weight(INNER)
        state[f"h.{layer}.down.weight"] = weight(WIDTH, INNER) > 0
    bridge_core.save_state(state, folder / "model.safetensors", layout="torch")
    (folder / "rules.toml").write_text(RULES)


def expected(folder):
    """Return the target's arrays by name, made with numpy only."""
    import bridge_core

    with bridge_core.open_state(folder / "model.safetensors") as state:
        read = {".".join(key): np.array(state[key]) for key in state}

    def stacked(name):
        return np.stack([read[f"h.{layer}.{name}"] for layer in range(LAYERS)])

    fused = stacked("attn.weight").reshape(LAYERS, 3, HEADS, WIDTH // HEADS, WIDTH)
    result = {f"params.blocks.{n}": fused[:, i].transpose(0, 3, 1, 2) for i, n in enumerate("qkv")}
    result["params.embed.embedding"] = read["embed.weight"]
    result["params.head.kernel"] = read["head.weight"].T
    result["params.blocks.up.kernel"] = stacked("up.weight").transpose(0, 2, 1)
    result["params.blocks.up.bias"] = stacked("up.bias")
    result["params.blocks.down.kernel"] = stacked("down.weight").transpose(0, 2, 1)
    return result


def tree_like(mesh, shapes, shardings):
    """Return nested dicts of abstract arrays."""
    import jax

    tree = {}
    for name, value in shapes.items():
        *path, last = name.split(".")
        node = tree
        for part in path:
            node = node.setdefault(part, {})
        spec = jax.sharding.PartitionSpec(*shardings[name])
        memory_kind = "pinned_host" if name in IN_HOST_MEMORY else None
        sharding = jax.sharding.NamedSharding(mesh, spec, memory_kind=memory_kind)
        node[last] = jax.ShapeDtypeStruct(value.shape, value.dtype, sharding=sharding)
    return tree


def named(tree):
    import jax

    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {".".join(part.key for part in path): leaf for path, leaf in leaves}


def mesh_of(kind):
    """Return a mesh: ``auto``, ``explicit`` axes, or with its devices in ``mixed`` order."""
    import jax

    devices = np.array(jax.devices())
    if kind == "explicit":
        shape = (devices.size // 2, 2) if devices.size > 1 else (1, 1)
        return jax.make_mesh(shape, ("data", "model"), axis_types=(jax.sharding.AxisType.Explicit,) * 2)
    if kind == "mixed":
        devices = devices.reshape(2, -1).T.reshape(-1)
    return jax.sharding.Mesh(devices.reshape(-1, 2 if devices.size > 1 else 1), ("data", "model"))


def check(tree, values):
    """Compare the shards of this process bit for bit; return the bytes that it owns, each once."""
    nbytes = 0
    for name, array in named(tree).items():
        seen = set()
        for shard in array.addressable_shards:
            part = values[name][shard.index]
            assert shard.data.dtype == part.dtype, name
            assert np.asarray(shard.data).tobytes() == np.ascontiguousarray(part).tobytes(), name
            if str(shard.index) not in seen:
                seen.add(str(shard.index))
                nbytes += shard.data.nbytes * (2 if name == TWICE else 1)
    return nbytes


def load(folder, kind="auto"):
    import contextlib

    import jax

    import bridge_flax
    from bridge_core.testing.harness import counted_reads

    values = expected(folder)
    mesh = mesh_of(kind)
    like = tree_like(mesh, values, SHARDINGS)
    within = jax.set_mesh(mesh) if kind == "explicit" else contextlib.nullcontext()
    with within, counted_reads() as counted:
        tree = bridge_flax.load(
            folder / "model.safetensors", like=like, rules=folder / "rules.toml", layout="torch"
        )
    own = check(tree, values)
    shardings_equal = all(
        a.sharding == like.sharding for a, like in zip(*map(_leaves, (tree, like)), strict=True)
    )
    return tree, values, {"own": own, "read": counted.nbytes, "shardings_equal": shardings_equal}


def _leaves(tree):
    return named(tree).values()


def loads(folder, kind):
    return load(folder, kind)[2]


def saves(folder, kind):
    """Save what was loaded, read it back with numpy, and save it once more."""
    import jax

    import bridge_core
    import bridge_flax

    tree, values, _ = load(folder, kind)
    with jax.set_mesh(jax.sharding.Mesh(np.array(jax.devices()[:2]), ("other",))):
        saved = bridge_flax.save(tree, folder / "saved", verify=True)
    with bridge_core.open_state(folder / "saved") as state:
        assert state.layout == "flax"
        for name, value in values.items():
            assert state[name].tobytes() == np.ascontiguousarray(value).tobytes(), name
    return {
        "files": [Path(file).name for file in saved.files],
        "total": saved.total_bytes,
        "refused": error_of(lambda: bridge_flax.save(tree, folder / "saved")),
        "unread": error_of(lambda: dict(bridge_flax.to_neutral(tree))),
    }


def one_fails(folder, kind):
    """Let the last process fail: when it plans, when it reads, and when it writes."""
    import jax

    import bridge_flax
    from bridge_core.io import SourceFile

    fails = jax.process_index() == jax.process_count() - 1
    tree, values, _ = load(folder, kind)
    source = folder / "model.safetensors"
    options = {"like": tree, "rules": folder / "rules.toml", "layout": "torch"}
    path = folder / "nothing" if fails else source
    planning = error_of(lambda: bridge_flax.load(path, **options))
    usual = SourceFile.read_into

    def broken(self, offset, buffer):
        if offset > 100_000:
            raise OSError(5, "the disk is broken")
        usual(self, offset, buffer)

    if fails:
        SourceFile.read_into = broken
    reading = error_of(lambda: bridge_flax.load(source, **options))
    SourceFile.read_into = usual
    shardings = SHARDINGS | {"params.blocks.v": (None, "data") if fails else (None, "model")}
    other = options | {"like": tree_like(mesh_of(kind), values, shardings)}
    unequal = error_of(lambda: bridge_flax.load(source, **other))
    different = error_of(lambda: bridge_flax.save(tree, folder / f"saved{jax.process_index()}"))
    import bridge_core.checkpoint.joint_writing as joint_writing

    if fails:
        joint_writing.write_planned_file = lambda *_, **__: broken(None, 1 << 20, None)
    writing = error_of(lambda: bridge_flax.save(tree, folder / "broken"))
    again = check(bridge_flax.load(source, **options), values)
    return {
        "planning": planning,
        "reading": reading,
        "unequal": unequal,
        "different": different,
        "writing": writing,
        "left": sorted(map(str, folder.glob("broken/*"))),
        "again": again,
    }


def error_of(call):
    """Return the class and the text of the error that a call raises."""
    try:
        call()
    except Exception as err:
        return [type(err).__name__, str(err)]
    return None


def main():
    scenario, process, processes, devices, port, folder, kind = sys.argv[1:]
    os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={devices}"
    os.environ["JAX_PLATFORMS"] = "cpu"
    import jax

    if int(processes) > 1:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        address = f"127.0.0.1:{port}"
        jax.distributed.initialize(
            address, int(processes), int(process), coordinator_bind_address=address, initialization_timeout=60
        )
    result = globals()[scenario](Path(folder), kind)
    print("RESULT", json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
