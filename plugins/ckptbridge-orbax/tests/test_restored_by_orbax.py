"""What is written here is restored by Orbax itself: bit for bit, with and without templates, over devices."""

from __future__ import annotations

import json

import numpy as np
import pytest
from support.orbax_values import TREES, expected

from bridge_core import as_state, convert, open_state, save_state

STEP = 12

JOBS = {
    "kinds": {"how": "standard", "tree": "kinds"},
    "names": {"how": "pytree", "tree": "strings"},
    "sharded": {"how": "standard_sharded", "tree": "sharded"},
    "template": {"how": "standard_template", "tree": "tiny"},
    "pytree": {"how": "pytree", "tree": "kinds"},
    "pytree over devices": {"how": "pytree_sharded", "tree": "sharded"},
    "version 1": {"how": "v1", "tree": "strings"},
    "manager": {"how": "manager", "tree": "params", "step": STEP, "item": "params"},
    "default item": {"how": "default_item", "tree": "params", "step": STEP, "item": "default"},
    "version 1, items": {"how": "v1_items", "tree": "params", "step": STEP, "item": "params"},
    "nnx": {"how": "nnx_state", "tree": "nnx", "without": ["dropout"]},
    "tunix": {"how": "tunix", "tree": "nnx", "without": ["dropout"], "step": STEP, "item": "model_params"},
    "tunix before": {
        "how": "tunix_before",
        "tree": "nnx",
        "without": ["dropout"],
        "step": STEP,
        "item": "model_params",
    },
    "maxtext": {"how": "maxtext", "tree": "maxtext", "step": STEP, "item": "items"},
    "maxtext's state": {"how": "maxtext_state", "tree": "maxtext", "step": STEP, "item": "items"},
    "maxtext's version 1": {"how": "v1_items", "tree": "maxtext", "step": STEP, "item": "items"},
}
"""What is written from arrays, by how it is restored (functions of `support.orbax_restoring`)."""

COPIED = {
    "containers": {"how": "structure", "from": "pytree-ocdbt-zarr2-strings", "tree": "strings"},
    "train state": {"how": "train", "from": "pytree-ocdbt-zarr3-train", "tree": "train"},
    "shards": {"how": "standard_sharded", "from": "pytree-files-zarr3-sharded", "tree": "sharded"},
    "subchunks": {"how": "standard", "from": "pytree-ocdbt-zarr2-subchunks", "tree": "sharded"},
    "all kinds": {"how": "standard", "from": "standard-ocdbt-zarr2-kinds", "tree": "kinds"},
}
"""What is read from Orbax's own checkpoints, and written again."""

SAMPLE = ("names", "sharded", "manager", "maxtext's version 1")


def written(folder, stored, names):
    """Write what jobs restore; return the jobs."""
    jobs = {}
    for number, (name, job) in enumerate({**JOBS, **COPIED}.items()):
        if name not in names:
            continue
        path = folder / str(number)
        place = {"step": job.get("step"), "item": job.get("item")}
        if "from" in job:
            source = stored / "orbax-0.12.8" / job["from"]
            with open_state(source) as state:
                save_state(state, path, format="orbax", **place)
            jobs[name] = {**job, "path": str(path), "like": str(source)}
        else:
            left_out = job.get("without", ())
            arrays = {k: v for k, v in expected(TREES[job["tree"]]).items() if k[0] not in left_out}
            save_state(as_state(arrays, layout="flax"), path, format="orbax", **place)
            jobs[name] = {**job, "path": str(path)}
    return jobs


def restored(folder, jobs, in_orbax):
    (folder / "jobs.json").write_text(json.dumps(jobs))
    return in_orbax("orbax_restoring", folder / "jobs.json")


def test_orbax_restores_what_was_written(tmp_path, stored, in_orbax):
    jobs = written(tmp_path, stored, SAMPLE)
    assert restored(tmp_path, jobs, in_orbax) == dict.fromkeys(SAMPLE, "")


@pytest.fixture(scope="session")
def results(once, stored, in_orbax):
    """What is wrong with each job, all restored in one process."""

    def fill(folder):
        jobs = written(folder, stored, {**JOBS, **COPIED})
        (folder / "results.json").write_text(json.dumps(restored(folder, jobs, in_orbax)))

    return json.loads((once("restored-by-orbax", fill) / "results.json").read_text())


@pytest.mark.slow
@pytest.mark.parametrize("name", [*JOBS, *COPIED])
def test_every_way_to_restore(results, name):
    assert results[name] == ""


@pytest.mark.slow
def test_conversions_are_restored(tmp_path, stored, in_orbax):
    rng = np.random.default_rng(0)
    torch = {
        "layers.0.weight": rng.random((4, 3), "f4"),
        "layers.0.bias": rng.random(4, "f4"),
        "layers.1.weight": rng.random((2, 4), "f4"),
    }
    save_state(as_state(torch, layout="torch"), tmp_path / "torch.safetensors")
    convert(
        tmp_path / "torch.safetensors",
        tmp_path / "root",
        to="flax",
        format="orbax",
        to_step=3,
        to_item="params",
        accept_guesses=True,
    )
    convert(tmp_path / "torch.safetensors", tmp_path / "flax.safetensors", to="flax", accept_guesses=True)
    with open_state(tmp_path / "flax.safetensors") as state:
        arrays = {"/".join(key): np.asarray(state[key]) for key in state}
    assert any(array.shape == (3, 4) for array in arrays.values())
    np.savez(tmp_path / "arrays.npz", **arrays)
    job = {
        "path": str(tmp_path / "root"),
        "arrays": str(tmp_path / "arrays.npz"),
        "step": 3,
        "item": "params",
    }
    jobs = {how: {**job, "how": how} for how in ("manager", "v1_items")}
    assert restored(tmp_path, jobs, in_orbax) == dict.fromkeys(jobs, "")


@pytest.mark.slow
def test_steps_and_items_written_one_by_one(tmp_path, in_orbax):
    root = tmp_path / "root"
    jobs = {}
    for step in (5, 12, 100):
        for item, tree in (("params", "params"), ("state", "optimizer")):
            state = as_state(expected(TREES[tree], f"{step}:"), layout="flax")
            save_state(state, root, format="orbax", step=step, item=item, overwrite=item == "state")
            jobs[f"{step} {item}"] = {
                "how": "manager",
                "path": str(root),
                "tree": tree,
                "salt": f"{step}:",
                "step": step,
                "item": item,
            }
    assert restored(tmp_path, jobs, in_orbax) == dict.fromkeys(jobs, "")
