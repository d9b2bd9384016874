"""Train states that Orbax wrote: the weights convert, and an entry is read with its collections."""

from __future__ import annotations

import numpy as np
import pytest

import bridge_core
from bridge_core.plugins import default_registry, loaded_registry

ocp = pytest.importorskip("orbax.checkpoint")
optax = pytest.importorskip("optax")
train_state = pytest.importorskip("flax.training.train_state")


class State(train_state.TrainState):
    """A train state as users extend it."""

    batch_stats: dict
    ema_params: dict


def net(value):
    norm = {"scale": np.ones(4, "f4"), "bias": np.ones(4, "f4")}
    return {"fc": {"kernel": np.full((3, 4), value, "f4")}, "bn": norm}


@pytest.fixture(scope="module")
def registry():
    installed = default_registry()
    return installed if "orbax" in installed.folder_formats else loaded_registry(added=["ckptbridge_orbax"])


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    stats = {"bn": {"mean": np.zeros(4, "f4"), "var": np.ones(4, "f4")}}
    state = State.create(
        apply_fn=None, params=net(1), tx=optax.adam(1e-3), batch_stats=stats, ema_params=net(2)
    )
    folder = tmp_path_factory.mktemp("run") / "run"
    with ocp.CheckpointManager(folder) as manager:
        items = {"state": ocp.args.StandardSave(state), "metadata": ocp.args.JsonSave({"a": 1})}
        manager.save(5, args=ocp.args.Composite(**items))
    return folder


@pytest.mark.parametrize(
    ("entry", "value", "left_out"),
    [
        (None, 1, {"opt_state", "step", "ema_params"}),
        ("state", 1, {"opt_state", "step", "ema_params"}),
        ("ema_params", 2, {"opt_state", "step", "params"}),
        ("state.ema_params", 2, {"opt_state", "step", "params"}),
    ],
)
def test_the_weights_convert(run, registry, tmp_path, entry, value, left_out):
    target = tmp_path / "out.safetensors"
    report = bridge_core.convert(run, target, to="torch", entry=entry, registry=registry)
    with bridge_core.open_state(target) as made:
        assert {key[-1] for key in made if key[0] == "bn"} >= {"weight", "running_mean", "running_var"}
        assert {key[0] for key in made} == {"fc", "bn"}
        assert (made["fc.weight"] == value).all()
    assert {row["name"] for row in report.left_out} == left_out
