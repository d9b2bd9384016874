"""Makes `orbax-0.4.8`: checkpoints as orbax-checkpoint of late 2023 wrote them.

    python -m venv old
    old/bin/pip install orbax-checkpoint==0.4.8 jax==0.4.28 jaxlib==0.4.28 flax==0.8.5 "numpy<2"
    PYTHONPATH=tests old/bin/python plugins/ckptbridge-orbax/tests/data/make_old_checkpoints.py

Run with these versions, tensorstore 0.1.86, ml_dtypes 0.5.4 and Python 3.11. The values follow from their
names (`support.orbax_values`), so that tests compute them again. Files in `d` have random names.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=4"
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["JAX_ENABLE_X64"] = "1"

import jax
import orbax.checkpoint as ocp
from flax.training import checkpoints
from support.orbax_saving import live, pytree
from support.orbax_values import METADATA, OLD, OLD_MIXED, OPTIMIZER, PARAMS, SHARDED, Item

FOLDER = Path(__file__).parent / "orbax-0.4.8"


def handler(**options):
    return ocp.PyTreeCheckpointHandler(**{"use_ocdbt": False, **options})


def save(name, tree, aggregate=lambda path: False, **options):
    saved = live(tree, "")
    arguments = jax.tree_util.tree_map_with_path(
        lambda path, leaf: ocp.SaveArgs(aggregate=leaf is None or aggregate(path)),
        saved,
        is_leaf=lambda leaf: leaf is None,
    )
    ocp.Checkpointer(handler(**options)).save(FOLDER / name, saved, save_args=arguments)


def managers():
    items = {"params": PARAMS, "state": OPTIMIZER}
    savers = {name: ocp.Checkpointer(handler(use_ocdbt=name == "state")) for name in items}
    savers["metadata"] = ocp.Checkpointer(ocp.JsonCheckpointHandler())
    manager = ocp.CheckpointManager(FOLDER / "manager", savers)
    for step in (3, 20):
        manager.save(step, {**{n: live(t, f"{step}:") for n, t in items.items()}, "metadata": METADATA})
    manager = ocp.CheckpointManager(FOLDER / "single", ocp.PyTreeCheckpointer())
    for step in (3, 20):
        manager.save(step, live(PARAMS, f"{step}:"))


def flax():
    saver = ocp.PyTreeCheckpointer(use_ocdbt=True)
    for step in (3, 20):
        state = pytree(Item("train", f"{step}:"))
        checkpoints.save_checkpoint(FOLDER / "flax", state, step, keep=2, orbax_checkpointer=saver)


def main():
    shutil.rmtree(FOLDER, ignore_errors=True)
    save("files", OLD)
    save("files_no_metadata", OLD, write_tree_metadata=False)
    save("ocdbt", OLD, use_ocdbt=True)
    save("ocdbt_no_metadata", OLD, use_ocdbt=True, write_tree_metadata=False)
    save("aggregate", OLD, lambda path: True)
    save("aggregate_no_metadata", OLD, lambda path: True, write_tree_metadata=False)
    for name, options in (("mixed", {}), ("mixed_no_metadata", {"write_tree_metadata": False})):
        save(name, OLD_MIXED, lambda path: path[0].key != "large", **options)
    save("sharded_files", SHARDED)
    save("sharded_ocdbt", SHARDED, use_ocdbt=True)
    managers()
    flax()


if __name__ == "__main__":
    main()
