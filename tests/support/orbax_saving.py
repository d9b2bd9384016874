"""Saves checkpoints with orbax-checkpoint: ``python -m support.orbax_saving FOLDER DEVICES CASE...``.

A process of its own, since the number of devices is set before JAX starts.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from support.orbax_values import METADATA, TREES, Case, Item, Spec, cases, values


def prepare(devices: int) -> None:
    """Set what JAX reads when it is imported."""
    os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={devices}"
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ["JAX_ENABLE_X64"] = "1"


def leaf(spec: Any, name: str) -> Any:
    """Return what Orbax is given for a leaf of `TREES`."""
    import jax
    import numpy as np

    if not isinstance(spec, Spec):
        return spec
    array = values(name, spec)
    if spec.where == "numpy":
        return array
    if spec.where == "key":
        return jax.random.wrap_key_data(array, impl="threefry2x32")
    if spec.shards:
        mesh = jax.sharding.Mesh(np.array(jax.devices()).reshape(2, 2), ("x", "y"))
        parts = [("x", "y") if part == "xy" else part for part in spec.shards]
        spread = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*parts))
        return jax.device_put(array, spread)
    return jax.device_put(array, jax.devices()[0])


def live(tree: Any, salt: str, path: tuple[str, ...] = ()) -> Any:
    """Return a tree of `TREES` with its values."""
    if isinstance(tree, dict):
        return {k: live(v, salt, (*path, k)) for k, v in tree.items()}
    if isinstance(tree, (list, tuple)):
        return type(tree)(live(v, salt, (*path, str(i))) for i, v in enumerate(tree))
    return leaf(tree, salt + "/".join(path))


def filled(tree: Any, salt: str) -> Any:
    """Return the same pytree with the values that its paths' names give."""
    import jax

    def fill(path: Any, old: Any) -> Any:
        parts = [str(getattr(p, "key", getattr(p, "name", getattr(p, "idx", None)))) for p in path]
        name = salt + "/".join(parts)
        if jax.dtypes.issubdtype(old.dtype, jax.dtypes.prng_key):
            return leaf(Spec((*old.shape, 2), "uint32", "key"), name)
        return leaf(Spec(old.shape, old.dtype.name), name)

    return jax.tree_util.tree_map_with_path(fill, tree)


def train_state() -> Any:
    """Return the TrainState of `orbax_values.TRAIN`."""
    import jax.numpy as jnp
    import optax
    from flax.training import train_state

    from support.orbax_values import TRAIN

    class State(train_state.TrainState):
        batch_stats: Any

    model = {k: {n: jnp.zeros(s.shape, s.dtype) for n, s in v.items()} for k, v in TRAIN["params"].items()}
    stats = {
        k: {n: jnp.zeros(s.shape, s.dtype) for n, s in v.items()} for k, v in TRAIN["batch_stats"].items()
    }
    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3))
    state = State.create(apply_fn=None, params=model, tx=tx, batch_stats=stats)
    return state.replace(step=jnp.zeros((), jnp.int32))


def nnx_model() -> Any:
    """Return the model of `orbax_values.NNX`."""
    import jax
    from flax import nnx

    class Model(nnx.Module):
        def __init__(self, rngs):
            self.linear = nnx.Linear(3, 4, rngs=rngs)
            self.bn = nnx.BatchNorm(4, use_running_average=True, rngs=rngs)
            self.dropout = nnx.Dropout(0.5, deterministic=True, rngs=rngs)
            self.layers = nnx.List([nnx.Linear(4, 4, rngs=rngs) for _ in range(2)])

        def __call__(self, x):
            x = self.dropout(self.bn(self.linear(x)))
            for layer in self.layers:
                x = jax.nn.tanh(layer(x))
            return x

    return Model(nnx.Rngs(0))


def pytree(item: Item) -> Any:
    """Return what is saved for an item."""
    if item.tree == "train":
        return filled(train_state(), item.salt)
    if item.tree in ("nnx", "nnx_pure"):
        from flax import nnx

        state = nnx.state(nnx_model())
        return filled(nnx.to_pure_dict(state) if item.tree == "nnx_pure" else state, item.salt)
    return live(TREES[item.tree], item.salt)


def _handler(case: Case) -> Any:
    import orbax.checkpoint as ocp

    options = dict(case.options)
    extra = {"use_compression": options["use_compression"]} if "use_compression" in options else {}
    if options.get("rich"):
        from orbax.checkpoint._src.metadata import pytree_metadata_options as rich

        extra["pytree_metadata_options"] = rich.PyTreeMetadataOptions(support_rich_types=True)
    return ocp.PyTreeCheckpointHandler(use_ocdbt=case.ocdbt, use_zarr3=case.zarr3, **extra)


def _arguments(case: Case, tree: Any) -> Any:
    import jax
    import orbax.checkpoint as ocp

    options = dict(case.options)
    extra: dict[str, Any] = {}
    if "chunk_byte_size" in options:
        size = ocp.SaveArgs(chunk_byte_size=options["chunk_byte_size"])
        extra["save_args"] = jax.tree.map(lambda _: size, tree)
    if "ocdbt_target_data_file_size" in options:
        extra["ocdbt_target_data_file_size"] = options["ocdbt_target_data_file_size"]
    return ocp.args.PyTreeSave(tree, **extra)


def _manager(path: Path, case: Case) -> None:
    import orbax.checkpoint as ocp

    names = {n: v for n, v in case.options if n.startswith("step_")}
    entries = {item.entry for item in case.items}
    handlers = {entry: _handler(case) for entry in entries}
    registry = ocp.handlers.DefaultCheckpointHandlerRegistry()
    for entry, handler in handlers.items():
        registry.add(entry, ocp.args.PyTreeSave, handler)
        registry.add(entry, ocp.args.PyTreeRestore, handler)
    registry.add("metadata", ocp.args.JsonSave, ocp.JsonCheckpointHandler())
    options = ocp.CheckpointManagerOptions(max_to_keep=None, **names)
    with ocp.CheckpointManager(path, options=options, handler_registry=registry) as manager:
        for step in sorted({item.step for item in case.items}):
            items = {i.entry: _arguments(case, pytree(i)) for i in case.items if i.step == step}
            manager.save(step, args=ocp.args.Composite(**items, metadata=ocp.args.JsonSave(METADATA)))
        manager.wait_until_finished()


def _v1(path: Path, case: Case) -> None:
    from orbax.checkpoint.experimental import v1

    saving = v1.options.ArrayOptions.Saving(use_ocdbt=case.ocdbt, use_zarr3=case.zarr3)
    with v1.Context(array_options=v1.options.ArrayOptions(saving=saving)):
        if case.api == "v1":
            v1.save(path, pytree(case.items[0]), custom_metadata={"note": "mine"})
        else:
            v1.save_checkpointables(path, {item.entry: pytree(item) for item in case.items})


def save(path: Path, case: Case) -> None:
    """Save one checkpoint."""
    import orbax.checkpoint as ocp

    if case.api == "manager":
        _manager(path, case)
    elif case.api in ("v1", "checkpointables"):
        _v1(path, case)
    elif case.api == "standard":
        with ocp.StandardCheckpointer(use_ocdbt=case.ocdbt) as saver:
            saver.save(path, pytree(case.items[0]))
    else:
        with ocp.Checkpointer(_handler(case)) as saver:
            saver.save(path, _arguments(case, pytree(case.items[0])))


def main(folder: str, devices: str, *names: str) -> None:
    """Save the cases of these names, all of that number of devices if none; print what failed as JSON."""
    prepare(int(devices))
    failed = {}
    for case in cases().values():
        if case.devices == int(devices) and (not names or case.name in names):
            try:
                save(Path(folder) / case.name, case)
            except Exception as err:
                failed[case.name] = f"{type(err).__name__}: {err}"[:500]
    print(json.dumps(failed))


if __name__ == "__main__":
    main(*sys.argv[1:])
