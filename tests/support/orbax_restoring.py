"""Restores checkpoints with orbax-checkpoint: ``python -m support.orbax_restoring JOBS.json``.

Each job is ``{"how": a function here, "path": ..., "tree": ..., "salt": ..., ...}``. What is restored is
compared with the values of `support.orbax_values`, or with those of an .npz file, ``"arrays"``. The last line
printed is JSON: name of the job -> what is wrong, or "".
"""

from __future__ import annotations

import json
import sys
import traceback
from pathlib import Path
from typing import Any

import numpy as np

from support.orbax_saving import nnx_model, prepare, train_state
from support.orbax_values import TREES, expected

Flat = dict[tuple[str, ...], Any]


def flat(tree: Any) -> Flat:
    """Return the leaves of any pytree by path; typed PRNG keys as their data."""
    import jax

    leaves = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        parts = [str(getattr(p, "key", getattr(p, "name", getattr(p, "idx", None)))) for p in path]
        is_key = hasattr(leaf, "dtype") and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        leaves[tuple(parts)] = jax.random.key_data(leaf) if is_key else leaf
    return leaves


def compared(tree: Any, wanted: Flat) -> str:
    """Return what differs, and an empty text if nothing does."""
    restored = {key: leaf for key, leaf in flat(tree).items() if not isinstance(leaf, str)}
    if set(restored) != set(wanted):
        return f"other keys: {sorted(set(restored) ^ set(wanted))[:8]}"
    for key, array in wanted.items():
        got = np.asarray(restored[key])
        if (got.dtype, got.shape) != (array.dtype, array.shape):
            return f"{key}: {got.dtype}{got.shape}, not {array.dtype}{array.shape}"
        if got.tobytes() != array.tobytes():
            return f"{key}: other bits"
    return ""


def _mesh() -> Any:
    import jax

    return jax.sharding.Mesh(np.array(jax.devices()).reshape(2, 2), ("x", "y"))


def _abstract(tree: Any, *, spread: bool = False) -> Any:
    """Return shapes and dtypes of a nested dict, each on one device or, where it fits, over four."""
    import jax

    one = jax.sharding.SingleDeviceSharding(jax.devices()[0])

    def of(array: np.ndarray) -> jax.ShapeDtypeStruct:
        parts = [axis if n % 2 == 0 else None for axis, n in zip(("x", "y"), array.shape, strict=False)]
        over = jax.sharding.NamedSharding(_mesh(), jax.sharding.PartitionSpec(*parts))
        return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=over if spread else one)

    return jax.tree.map(of, tree)


def nested(wanted: Flat) -> dict[str, Any]:
    """Return a nested dict of arrays by path."""
    root: dict[str, Any] = {}
    for key, array in wanted.items():
        node = root
        for part in key[:-1]:
            node = node.setdefault(part, {})
        node[key[-1]] = array
    return root


def standard(path: Path, wanted: Flat, job: dict[str, Any]) -> str:
    import orbax.checkpoint as ocp

    with ocp.StandardCheckpointer() as saver:
        return compared(saver.restore(path), wanted)


def standard_template(path: Path, wanted: Flat, job: dict[str, Any], *, spread: bool = False) -> str:
    import orbax.checkpoint as ocp

    target = _abstract(nested(wanted), spread=spread)
    with ocp.StandardCheckpointer() as saver:
        restored = saver.restore(path, target)
    if spread and not all(len(leaf.sharding.device_set) == 4 for leaf in flat(restored).values()):
        return "not on four devices"
    return compared(restored, wanted)


def standard_sharded(path: Path, wanted: Flat, job: dict[str, Any]) -> str:
    return standard_template(path, wanted, job, spread=True)


def pytree(path: Path, wanted: Flat, job: dict[str, Any]) -> str:
    import orbax.checkpoint as ocp

    with ocp.PyTreeCheckpointer() as saver:
        return compared(saver.restore(path), wanted)


def pytree_sharded(path: Path, wanted: Flat, job: dict[str, Any]) -> str:
    import orbax.checkpoint as ocp

    target = _abstract(nested(wanted), spread=True)
    arguments = ocp.checkpoint_utils.construct_restore_args(target)
    with ocp.PyTreeCheckpointer() as saver:
        restored = saver.restore(path, item=target, restore_args=arguments)
    return compared(restored, wanted)


def manager(path: Path, wanted: Flat, job: dict[str, Any]) -> str:
    import orbax.checkpoint as ocp

    step, item = job["step"], job["item"]
    with ocp.CheckpointManager(path) as root:
        if step not in root.all_steps():
            return f"steps: {root.all_steps()}"
        arguments = ocp.args.StandardRestore(_abstract(nested(wanted)))
        restored = root.restore(step, args=ocp.args.Composite(**{item: arguments}))
    with ocp.CheckpointManager(path) as root:
        plain = root.restore(step, args=ocp.args.Composite(**{item: ocp.args.PyTreeRestore()}))
    return compared(restored[item], wanted) or compared(plain[item], wanted)


def default_item(path: Path, wanted: Flat, job: dict[str, Any]) -> str:
    import orbax.checkpoint as ocp

    with ocp.CheckpointManager(path) as root:
        if root.latest_step() != job["step"]:
            return f"the latest step: {root.latest_step()}"
        return compared(root.restore(job["step"], args=ocp.args.StandardRestore()), wanted)


def v1(path: Path, wanted: Flat, job: dict[str, Any]) -> str:
    from orbax.checkpoint.experimental import v1 as ocp

    return compared(ocp.load(path), wanted)


def v1_items(path: Path, wanted: Flat, job: dict[str, Any]) -> str:
    from orbax.checkpoint.experimental import v1 as ocp

    with ocp.training.Checkpointer(path) as root:
        abstract = {job["item"]: _abstract(nested(wanted), spread=True)}
        restored = root.load_checkpointables(job["step"], abstract)
    return compared(restored[job["item"]], wanted)


def structure(path: Path, wanted: Flat, job: dict[str, Any]) -> str:
    """Compare the tree, containers and all, with what Orbax restores from another checkpoint."""
    import jax
    import orbax.checkpoint as ocp

    with ocp.PyTreeCheckpointer() as saver:
        restored, other = saver.restore(path), saver.restore(Path(job["like"]))
    other = {name: node for name, node in other.items() if name != "text"}  # strings are not tensors
    ours, theirs = (jax.tree.structure(tree, is_leaf=lambda leaf: leaf is None) for tree in (restored, other))
    return compared(restored, wanted) or ("" if ours == theirs else f"{ours}\n is not\n{theirs}")


def train(path: Path, wanted: Flat, job: dict[str, Any]) -> str:
    import jax
    import orbax.checkpoint as ocp

    one = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    target = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=one), train_state())
    with ocp.StandardCheckpointer() as saver:
        restored = saver.restore(path, target)
    return compared(restored, wanted) or ("" if type(restored) is type(target) else "another type")


def _model_state(state: Any) -> Any:
    from flax import nnx

    return nnx.state(state, nnx.Any(nnx.Param, nnx.BatchStat))


def _outputs_differ(state: Any, wanted: Flat) -> str:
    """Run the model with what was restored, and with the values put into it by hand."""
    import jax.numpy as jnp
    from flax import nnx

    outputs = []
    for use in (state, None):
        model = nnx_model()
        if use is None:
            mine = _model_state(model)
            paths = {tuple(map(str, path)): path for path in dict(nnx.to_flat_state(mine))}
            filled = {paths[key[:-1]]: nnx.Param(jnp.asarray(array)) for key, array in wanted.items()}
            kinds = dict(nnx.to_flat_state(mine))
            use = nnx.from_flat_state({path: kinds[path].replace(v[...]) for path, v in filled.items()})
        nnx.update(model, use)
        outputs.append(np.asarray(model(jnp.arange(6.0, dtype=jnp.float32).reshape(2, 3))))
    if not np.isfinite(outputs[0]).all():
        return f"not finite: {outputs[0]}"
    return "" if np.array_equal(outputs[0], outputs[1]) else "other outputs"


def nnx_state(path: Path, wanted: Flat, job: dict[str, Any]) -> str:
    import orbax.checkpoint as ocp
    from flax import nnx

    target = _model_state(nnx.eval_shape(nnx_model))
    with ocp.StandardCheckpointer() as saver:
        restored = saver.restore(path, _on_one_device(target))
    return compared(restored, wanted) or _outputs_differ(restored, wanted)


def _on_one_device(target: Any) -> Any:
    import jax

    one = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=one), target)


def tunix(path: Path, wanted: Flat, job: dict[str, Any]) -> str:
    """Restore as Tunix does: a checkpointer of Orbax's version 1, and the model's own state as the target."""
    from orbax.checkpoint.experimental import v1 as ocp

    with ocp.training.Checkpointer(path) as root:
        if root.latest is None or root.latest.step != job["step"]:
            return f"the latest step: {root.latest}"
        restored = root.load_checkpointables(job["step"], {"model_params": _model_state(nnx_model())})
    return compared(restored["model_params"], wanted) or _outputs_differ(restored["model_params"], wanted)


def tunix_before(path: Path, wanted: Flat, job: dict[str, Any]) -> str:
    """Restore as Tunix did before: a CheckpointManager with the item model_params."""
    import jax
    import orbax.checkpoint as ocp

    state = _model_state(nnx_model())
    arguments = jax.tree.map(lambda x: ocp.ArrayRestoreArgs(sharding=x.sharding), state)
    with ocp.CheckpointManager(path) as root:
        composite = ocp.args.Composite(model_params=ocp.args.PyTreeRestore(state, restore_args=arguments))
        restored = root.restore(job["step"], args=composite)["model_params"]
    return compared(restored, wanted) or _outputs_differ(restored, wanted)


def maxtext(path: Path, wanted: Flat, job: dict[str, Any]) -> str:
    """Restore as MaxText's `load_params_from_path` did: an item's folder, only params, zarr3 asked for."""
    import orbax.checkpoint as ocp

    params = _abstract(nested(wanted)["params"], spread=True)
    arguments = ocp.checkpoint_utils.construct_restore_args(params)
    saver = ocp.Checkpointer(ocp.PyTreeCheckpointHandler(use_ocdbt=True, use_zarr3=True))
    restored = saver.restore(
        path / str(job["step"]) / "items",
        item={"params": params},
        transforms={},
        restore_args={"params": arguments},
    )
    return compared({"params": restored["params"]}, wanted)


def maxtext_state(path: Path, wanted: Flat, job: dict[str, Any]) -> str:
    """Restore as MaxText's training does: a CheckpointManager with the item items."""
    import orbax.checkpoint as ocp

    target = _abstract(nested(wanted), spread=True)
    arguments = ocp.checkpoint_utils.construct_restore_args(target)
    handler = ocp.PyTreeCheckpointHandler(use_ocdbt=True, use_zarr3=True)
    with ocp.CheckpointManager(path, item_names=("items",), item_handlers={"items": handler}) as root:
        composite = ocp.args.Composite(items=ocp.args.PyTreeRestore(item=target, restore_args=arguments))
        restored = root.restore(job["step"], args=composite)
    return compared(restored["items"], wanted)


def _wanted(job: dict[str, Any]) -> Flat:
    if "arrays" in job:  # an .npz file with paths joined by slashes
        with np.load(job["arrays"]) as arrays:
            return {tuple(name.split("/")): arrays[name] for name in arrays.files}
    wanted = expected(TREES[job["tree"]], job.get("salt", ""))
    return {key: array for key, array in wanted.items() if key[0] not in job.get("without", ())}


def main(jobs: str) -> None:
    """Do all jobs of a file."""
    prepare(4)
    wrong = {}
    for name, job in json.loads(Path(jobs).read_text()).items():
        wanted = _wanted(job)
        try:
            wrong[name] = globals()[job["how"]](Path(job["path"]), wanted, job)
        except Exception as err:
            where = traceback.format_exc().splitlines()[-4:]
            wrong[name] = f"{type(err).__name__}: {err}"[:600] + "\n" + "\n".join(where)
    print(json.dumps(wrong))


if __name__ == "__main__":
    main(*sys.argv[1:])
