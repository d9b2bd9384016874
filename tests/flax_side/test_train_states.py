"""Train states in files and live: the weights convert, and all else is named as left out."""

from __future__ import annotations

from typing import Any

import hypothesis
import numpy as np
import pytest
from hypothesis import settings, strategies as st
from support.errors import refused
from support.examples import examples

import bridge_core
import bridge_flax
import bridge_torch
from bridge_core import (
    ConversionError,
    FlatState,
    KeyConflict,
    TensorSpec,
    UnsupportedFeature,
    UsageError,
    open_state,
)
from bridge_flax.train_states import choose_weights

jax = pytest.importorskip("jax")
optax = pytest.importorskip("optax")
serialization = pytest.importorskip("flax.serialization")
train_state = pytest.importorskip("flax.training.train_state")
dynamic_scale = pytest.importorskip("flax.training.dynamic_scale")
traverse_util = pytest.importorskip("flax.traverse_util")
nnx = pytest.importorskip("flax.nnx")

FLOAT, INT, WORDS = np.dtype("float32"), np.dtype("int32"), np.dtype("uint32")


def numbers(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype("f4")


def net(seed=0):
    return {
        "fc": {"kernel": numbers(3, 4, seed=seed), "bias": numbers(4, seed=seed + 1)},
        "bn": {"scale": numbers(4, seed=seed + 2), "bias": numbers(4, seed=seed + 3)},
    }


def stats(seed=0):
    return {"bn": {"mean": numbers(4, seed=seed + 4), "var": np.abs(numbers(4, seed=seed + 5))}}


OPTIMIZER = {"0": {"count": np.int32(3), "mu": net(20), "nu": net(30)}, "1": {}}
STEP = np.int32(7)
RNG = np.array([1, 2], np.uint32)

WEIGHTS = {"fc.weight", "fc.bias", "bn.weight", "bn.bias"}
STATS = {"bn.running_mean", "bn.running_var", "bn.num_batches_tracked"}


def write(tree, path):
    if path.suffix == ".msgpack":
        path.write_bytes(serialization.to_bytes(tree))
        return path
    flat = traverse_util.flatten_dict(serialization.to_state_dict(tree))
    arrays = {key: np.asarray(leaf) for key, leaf in flat.items() if leaf is not None}
    bridge_core.save_state(FlatState(arrays), path, overwrite=True)
    return path


def to_torch(source, tmp_path, **options):
    target = tmp_path / "torch.safetensors"
    report = bridge_core.convert(source, target, to="torch", overwrite=True, **options)
    with open_state(target) as state:
        return {".".join(key): state[key] for key in state}, report


def left_out(report):
    return {row["name"]: row["reason"] for row in report.to_json()["left_out"]}


def assert_net(made, seed=0, *, with_stats=False):
    tree = net(seed)
    assert set(made) == WEIGHTS | (STATS if with_stats else set())
    np.testing.assert_array_equal(made["fc.weight"], tree["fc"]["kernel"].T)
    np.testing.assert_array_equal(made["fc.bias"], tree["fc"]["bias"])
    np.testing.assert_array_equal(made["bn.weight"], tree["bn"]["scale"])
    if with_stats:
        np.testing.assert_array_equal(made["bn.running_var"], stats()["bn"]["var"])


TREES: dict[str, tuple[Any, bool, dict[str, str]]] = {
    "plain": (
        {"step": STEP, "params": net(), "opt_state": OPTIMIZER},
        False,
        {"opt_state": "optimizer state", "step": "counter"},
    ),
    "statistics, a copy, keys and a scale": (
        {
            "step": STEP,
            "params": net(),
            "batch_stats": stats(),
            "opt_state": OPTIMIZER,
            "ema_params": net(40),
            "rng": RNG,
            "rngs": {"dropout": RNG, "noise": RNG},
            "dynamic_scale": {"fin_steps": np.int32(2), "scale": np.float32(1024)},
            "best_metric": np.float32(0.5),
            "grad_accum": net(60),
            "metrics": {"loss": {"total": np.float32(1), "count": np.int32(3)}},
        },
        True,
        {
            "opt_state": "optimizer state",
            "step": "counter",
            "ema_params": "another copy of the weights",
            "rng": "random key",
            "rngs": "random keys",
            "dynamic_scale": "scale of the loss",
            "best_metric": "value of the training",
            "grad_accum": "gradients",
            "metrics": "metrics",
        },
    ),
    "an unknown name for Adam's moments": (
        {"params": net(), "adam": {"mu": net(1), "nu": net(2)}},
        False,
        {"adam": "optimizer state"},
    ),
    "statistics have a copy": (
        {"params": net(), "batch_stats": stats(), "ema_params": net(1), "ema_batch_stats": stats(9)},
        True,
        {"ema_params": "another copy of the weights", "ema_batch_stats": "a copy of some of the weights"},
    ),
    "collections in a field": (
        {
            "params": net(),
            "model_state": {"batch_stats": stats()},
            "opt_state": OPTIMIZER,
            "global_step": STEP,
        },
        True,
        {"opt_state": "optimizer state", "global_step": "counter"},
    ),
    "collections in params": (
        {
            "params": {"params": net(), "batch_stats": stats()},
            "opt_state": {"mu": {"params": net(1)}},
            "step": STEP,
        },
        True,
        {"opt_state": "optimizer state", "step": "counter"},
    ),
    "params in params": (
        {"params": {"params": net()}, "opt_state": {"mu": {"params": net(1)}}, "step": STEP},
        False,
        {"opt_state": "optimizer state", "step": "counter"},
    ),
    "one wrapper": (
        {
            "state": {"step": STEP, "params": net(), "batch_stats": stats(), "opt_state": OPTIMIZER},
            "epoch": STEP,
        },
        True,
        {"state.opt_state": "optimizer state", "state.step": "counter", "epoch": "counter"},
    ),
    "a wrapper without an optimizer": (
        {"state": {"step": STEP, "params": net()}},
        False,
        {"state.step": "counter"},
    ),
    "two wrappers": (
        {"checkpoint": {"train_state": {"params": net(), "opt_state": OPTIMIZER}}, "rng": RNG},
        False,
        {"checkpoint.train_state.opt_state": "optimizer state", "rng": "random key"},
    ),
    "model, optimizer and step": (
        {"model": net(), "optimizer": OPTIMIZER, "step": STEP},
        False,
        {"optimizer": "optimizer state", "step": "counter"},
    ),
    "model with collections": (
        {"model": {"params": net(), "batch_stats": stats()}, "opt_state": {"mu": net(1)}, "step": STEP},
        True,
        {"opt_state": "optimizer state", "step": "counter"},
    ),
    "slots next to the weights": (
        {"params": net(), "mu": net(1), "momentum": net(2), "step": STEP},
        False,
        {"mu": "optimizer state", "momentum": "optimizer state", "step": "counter"},
    ),
    "model, a copy and step": (
        {"model": net(), "slow_model": net(1), "step": STEP},
        False,
        {"slow_model": "another copy of the weights", "step": "counter"},
    ),
    "model and step": ({"model": net(), "step": STEP}, False, {"step": "counter"}),
    "the branch that the optimizer mirrors": (
        {"generator": net(), "opt_state": OPTIMIZER},
        False,
        {"opt_state": "optimizer state"},
    ),
    "T5X": (
        {
            "version": np.int32(1),
            "optimizer": {
                "target": net(),
                "state": {
                    "step": STEP,
                    "param_states": {
                        "fc": {
                            "kernel": {"m": numbers(3, 4), "v_row": numbers(3)},
                            "bias": {"v": numbers(4)},
                        },
                        "bn": {"scale": {"v": numbers(4)}, "bias": {"v": numbers(4)}},
                    },
                },
            },
        },
        False,
        {"optimizer.state": "optimizer state", "version": "counter"},
    ),
    "an optimizer by the names of its slots": (
        {"generator": net(), "optimizer": OPTIMIZER},
        False,
        {"optimizer": "optimizer state"},
    ),
    "an optimizer of some of the weights": (
        {
            "generator": net(),
            "opt": {"inner_state": {"0": {"count": STEP, "mu": {"fc": {"kernel": numbers(3, 4)}}}}},
        },
        False,
        {"opt": "optimizer state"},
    ),
    "Adagrad": (
        {"generator": net(), "opt": {"0": {"sum_of_squares": net(1)}}},
        False,
        {"opt": "optimizer state"},
    ),
    "names of big_vision": (
        {
            "params": net(),
            "opt": {"0": OPTIMIZER},
            "extra": {"accum_train_time": np.float32(3), "seen": np.arange(3)},
        },
        False,
        {"opt": "optimizer state", "extra": "values of the training"},
    ),
    "an optimizer without arrays": (
        {"params": net(), "opt_state": {"0": {}, "1": {}}, "step": 3},
        False,
        {"opt_state": "optimizer state", "step": "counter"},
    ),
}


@pytest.mark.parametrize(
    ("tree", "name"),
    [
        *((tree, "x.msgpack") for tree in TREES),
        *((tree, name) for tree in [*TREES][:4] for name in ("x.safetensors", "x.npz")),
        ("an optimizer without arrays", "x.npz"),
    ],
)
def test_the_weights_convert_and_the_rest_is_named(tmp_path, tree, name):
    tree, with_stats, reasons = TREES[tree]
    made, report = to_torch(write(tree, tmp_path / name), tmp_path)
    assert_net(made, with_stats=with_stats)
    if name != "x.msgpack" and tree.get("opt_state") == {"0": {}, "1": {}}:
        reasons = {"step": "counter"}  # only trees have empty nodes
    assert left_out(report) == reasons
    assert not report.unclaimed
    (note,) = (note for note in report.notes if note.startswith("left out: "))
    assert sum(key in note for key in reasons) >= min(8, len(reasons))


def test_sizes_are_in_every_output(tmp_path):
    source = write({"params": net(), "opt_state": OPTIMIZER, "step": STEP}, tmp_path / "x.msgpack")
    rows = [
        {"name": "opt_state", "reason": "optimizer state", "bytes": 4 + 2 * 4 * (12 + 4 + 4 + 4)},
        {"name": "step", "reason": "counter", "bytes": 4},
    ]
    plan = bridge_core.plan_conversion(source, to="torch")
    assert plan.left_out_json() == rows
    assert plan.to_json()["left_out"] == rows
    assert "opt_state (optimizer state, 9 tensors, 196 bytes)" in plan.describe()
    _, report = to_torch(source, tmp_path)
    assert report.to_json()["left_out"] == rows
    compared = bridge_core.verify(source, tmp_path / "torch.safetensors")
    assert compared.equal
    assert [*compared.left_out] == rows
    state = bridge_core.to_neutral(open_state(source), framework="flax")
    assert [left.to_json() for left in state.metadata.left_out] == rows
    assert bridge_core.plan_conversion(state, to="torch").left_out_json() == []


def test_open_state_gives_every_tensor(tmp_path):
    source = write({"params": net(), "opt_state": OPTIMIZER, "step": STEP}, tmp_path / "x.msgpack")
    with open_state(source) as state:
        assert {key[0] for key in state} == {"params", "opt_state", "step"}
        made, report = to_torch(state, tmp_path)
        assert_net(made)
        assert set(left_out(report)) == {"opt_state", "step"}
        assert state["step"] == STEP


def test_an_entry_is_read_when_it_is_asked_for(tmp_path):
    tree = {"step": STEP, "params": net(), "opt_state": OPTIMIZER, "ema_params": net(40), "rng": RNG}
    source = write(tree, tmp_path / "x.msgpack")
    for entry, seed in (("ema_params", 40), ("params", 0), ("opt_state.0.mu", 20)):
        for given in (source, tree, open_state(source)):
            made, report = to_torch(given, tmp_path, entry=entry)
            assert_net(made, seed)
            assert given is tree or {"step", "rng"} < set(left_out(report))
    with open_state(source, entry="opt_state") as state:
        assert ("0", "nu", "fc", "kernel") in state
    wrapped = write({"state": tree}, tmp_path / "w.msgpack")
    assert_net(to_torch(wrapped, tmp_path, entry="state.ema_params")[0], 40)
    made, report = to_torch(wrapped, tmp_path, entry="state")
    assert_net(made)
    assert left_out(report)["state.opt_state"] == "optimizer state"


@pytest.mark.parametrize("own", [False, True])
def test_another_copy_of_the_weights_keeps_the_statistics(tmp_path, own):
    tree = {
        "step": STEP,
        "params": net(),
        "batch_stats": stats(),
        "opt_state": OPTIMIZER,
        "ema_params": net(40),
    }
    if own:
        tree |= {"ema_batch_stats": stats(), "batch_stats": stats(50)}
    source = write(tree, tmp_path / "x.msgpack")
    for given in (source, tree, open_state(source)):
        made, report = to_torch(given, tmp_path, entry="ema_params")
        assert_net(made, 40, with_stats=True)
        assert "params" in left_out(report)
        assert "ema_params" not in left_out(report)
        assert any("'ema_params'" in note and "batch_stats" in note for note in report.notes)


@pytest.mark.parametrize(
    ("tree", "named"),
    [
        ({"params": net(), "discriminator": {"a": net()["fc"]}, "step": STEP}, "discriminator"),
        (
            {
                "params": {"l": {"w": numbers(3, 4)}},
                "d": {"a": {"w": numbers(3, 5)}},
                "opt_state": {"mu": {}},
            },
            "d",
        ),
        (
            {"params": net(), "opt_state": OPTIMIZER, "critic_params": {"x": {"kernel": numbers(5, 6)}}},
            "critic_params",
        ),
        ({"params": net(), "ema_params": net(1), "table": numbers(3)}, "table"),
        (
            {
                "gen": {"params": net(), "opt_state": OPTIMIZER},
                "disc": {"params": net(), "opt_state": OPTIMIZER},
            },
            "gen",
        ),
        ({"fc": net()["fc"], "opt_state": {"mu": {"fc": net()["fc"]}}}, "opt_state"),
        ({"a": net(), "b": {"x": {"kernel": numbers(2, 2)}}, "opt_state": {"count": STEP}}, "opt_state"),
        ({"state": {"params": net(), "step": STEP, "opt_state": OPTIMIZER}, "other": net()["fc"]}, "other"),
        ({"params": net(), "opt_state": OPTIMIZER, "critic": net(1)}, "critic"),
        ({"params": net(), "step": STEP, "projector": {"fc": net(1)["fc"]}}, "projector"),
        ({"params": net(), "opt_state": OPTIMIZER, "parts": {"a": net(1), "b": net(2)}}, "parts"),
        ({"g": {"params": net(), "opt_state": OPTIMIZER}, "d": {"params": net(1)}}, "d"),
        ({"online": net(), "target": net(1), "opt_state": OPTIMIZER}, "online"),
        ({"a": {"x": {"kernel": numbers(2, 2)}}, "opt": OPTIMIZER}, "opt"),
        ({"model": net(), "solver": {"net": net(1)}, "step": STEP}, "solver"),
        (
            {"model": net(), "head": net(1), "opt_state": {"mu": {"model": net(2), "head": net(3)}}},
            "head",
        ),
        (
            {
                "params": {"a": net()},
                "logit_scale": np.float32(1),
                "opt_state": {"mu": {"params": {"a": net(1)}, "logit_scale": np.float32(2)}},
            },
            "logit_scale",
        ),
    ],
)
def test_a_second_model_is_refused_by_name(tmp_path, tree, named):
    source = write(tree, tmp_path / "x.msgpack")
    with refused(KeyConflict, f"'{named}'", "x.msgpack", hint="--entry"):
        to_torch(source, tmp_path)
    with refused(KeyConflict, f"'{named}'", hint="--entry"):
        bridge_flax.to_neutral(tree)
    assert not (tmp_path / "torch.safetensors").exists()


class State(train_state.TrainState):
    """A train state as users extend it."""

    batch_stats: Any = None
    ema_params: Any = None
    dropout_rng: Any = None
    dynamic_scale: Any = None


TRANSFORMS = {
    "adam": optax.adam(1e-3),
    "sgd": optax.sgd(1e-2),
    "momentum": optax.sgd(1e-2, momentum=0.9),
    "adafactor": optax.adafactor(1e-3, min_dim_size_to_factor=1),
    "chain": optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-3), optax.ema(0.9)),
    "multi": optax.multi_transform(
        {"a": optax.adam(1e-3), "b": optax.sgd(1e-2)},
        lambda tree: jax.tree.map(lambda leaf: "ab"[leaf.ndim % 2], tree),
    ),
    "steps": optax.MultiSteps(optax.adam(1e-3), 4).gradient_transformation(),
    "schedule": optax.inject_hyperparams(optax.adam)(learning_rate=optax.constant_schedule(1e-3)),
}


def live(name="adam", **more):
    params = net()
    return State.create(apply_fn=lambda: None, params=params, tx=TRANSFORMS[name], **more)


@pytest.mark.parametrize("name", TRANSFORMS)
def test_no_tensor_of_an_optimizer_is_written(tmp_path, name):
    state = live(name)
    for suffix in ("msgpack", "safetensors"):
        made, report = to_torch(write(state, tmp_path / f"x.{suffix}"), tmp_path)
        assert_net(made)
        assert left_out(report)["step"] == "counter"
        assert "opt_state" in left_out(report) or (suffix == "safetensors" and name == "sgd")
    as_dict = {"params": state.params, "opt_state": state.opt_state, "step": 3}
    for given in (state, as_dict, {"state": state}):
        made, report = to_torch(given, tmp_path)
        assert_net(made)
        assert {key.rpartition(".")[2] for key in left_out(report)} == {"opt_state", "step"}
        assert set(bridge_flax.to_neutral(given)) == set(bridge_flax.to_neutral(net()))


def test_a_live_train_state_is_filled_and_keeps_the_rest():
    state = live(
        batch_stats=stats(),
        ema_params=net(40),
        dropout_rng=RNG,
        dynamic_scale=dynamic_scale.DynamicScale(),
    )
    neutral = bridge_flax.to_neutral(state)
    assert set(neutral) == set(bridge_flax.to_neutral({"params": net(), "batch_stats": stats()}))
    weights = bridge_torch.from_neutral(neutral)
    other = bridge_torch.to_neutral({name: value + 1 for name, value in weights.items()})
    made = bridge_flax.from_neutral(other, like=state)
    assert type(made) is State
    np.testing.assert_array_equal(made.params["fc"]["kernel"], state.params["fc"]["kernel"] + 1)
    np.testing.assert_array_equal(made.batch_stats["bn"]["var"], state.batch_stats["bn"]["var"] + 1)
    assert made.tx is state.tx
    assert jax.tree.structure(made) == jax.tree.structure(state)
    for field in ("step", "opt_state", "ema_params", "dropout_rng", "dynamic_scale"):
        old, new = jax.tree.leaves(getattr(state, field)), jax.tree.leaves(getattr(made, field))
        assert all(one is other for one, other in zip(old, new, strict=True))


def test_an_entry_of_a_live_train_state(tmp_path):
    state = live(batch_stats=stats(), ema_params=net(40))
    made, report = to_torch(state, tmp_path, entry="ema_params")
    assert_net(made, 40, with_stats=True)
    assert any("batch_stats" in note for note in report.notes)
    assert_net(to_torch(state, tmp_path, entry="params")[0])


def test_values_that_are_not_numbers_count_only_among_the_weights(tmp_path):
    state = {"params": net(), "opt_state": {"mu": net(), "schedule": "cosine"}, "step": 3}
    with refused(UnsupportedFeature, "opt_state.schedule"):  # a mapping with text is not known as Flax's
        bridge_flax.to_neutral(state)
    made, _ = to_torch(live().replace(opt_state=("cosine", net())), tmp_path)
    assert_net(made)


class Net(nnx.Module):
    def __init__(self, rngs):
        self.fc = nnx.Linear(3, 4, rngs=rngs)
        self.bn = nnx.BatchNorm(4, rngs=rngs)
        self.drop = nnx.Dropout(0.1, rngs=rngs)


def test_nnx_optimizers(tmp_path):
    model = Net(nnx.Rngs(0))
    both = nnx.ModelAndOptimizer(model, optax.adam(1e-3))
    wanted, _ = to_torch(model, tmp_path)
    for given in (both, nnx.state(both), nnx.to_pure_dict(nnx.state(both))):
        made, report = to_torch(given, tmp_path)
        assert set(made) == set(wanted)
        np.testing.assert_array_equal(made["fc.weight"], wanted["fc.weight"])
        assert set(left_out(report)) >= {"opt_state", "step"}
    stored = nnx.to_pure_dict(nnx.state(both, nnx.Not(nnx.RngState)))
    source = write(stored, tmp_path / "x.msgpack")
    assert set(to_torch(source, tmp_path)[0]) == set(wanted)
    boxed = jax.tree.map(
        lambda leaf: {"value": leaf}, nnx.to_pure_dict(nnx.state(both, nnx.Not(nnx.RngState)))
    )
    assert set(to_torch(write(boxed, tmp_path / "x.msgpack"), tmp_path)[0]) == set(wanted)
    neutral = bridge_torch.to_neutral({name: value + 1 for name, value in wanted.items()})
    made = bridge_flax.from_neutral(neutral, like=both)
    assert isinstance(made, nnx.ModelAndOptimizer)
    np.testing.assert_array_equal(made.model.fc.kernel[...], model.fc.kernel[...] + 1)
    assert made.step[...] == both.step[...]
    with refused(UsageError, "Optimizer", hint="model"):
        bridge_flax.to_neutral(nnx.Optimizer(model, optax.adam(1e-3), wrt=nnx.Param))


def test_integers_of_a_matrix_are_not_left_out():
    tree = {"params": net(), "opt_state": OPTIMIZER, "aqt": {"fc": {"q": np.ones((3, 4), "i1")}}}
    flat = {key: np.asarray(leaf) for key, leaf in traverse_util.flatten_dict(tree).items()}
    choice = choose_weights({key: TensorSpec(leaf.shape, leaf.dtype) for key, leaf in flat.items()})
    assert choice is not None
    assert ("aqt", "fc", "q") in choice.names


def test_modules_without_an_optimizer_are_all_weights():
    class Counted(nnx.Module):
        def __init__(self, *names):
            self.step = nnx.Variable(STEP)
            for name in names:
                setattr(self, name, Net(nnx.Rngs(0)))

    for names in (("model",), ("model", "ema")):
        for given in (Counted(*names), nnx.state(Counted(*names))):
            neutral = bridge_flax.to_neutral(given)
            assert {(name, "fc", "kernel") for name in names} <= set(neutral)
            assert not neutral.metadata.left_out


def test_the_state_of_an_optimizer_alone_is_refused(tmp_path):
    state = live()
    with refused(UsageError, "optax", hint="parameters"):
        bridge_flax.to_neutral(state.opt_state)
    source = write({"opt_state": OPTIMIZER, "step": STEP}, tmp_path / "x.msgpack")
    with refused(ConversionError, "'opt_state'", "x.msgpack"):
        to_torch(source, tmp_path)
    assert "0.nu.bn.bias" in to_torch(source, tmp_path, entry="opt_state")[0]
    for tree in (OPTIMIZER, OPTIMIZER["0"], [OPTIMIZER["0"]]):
        source = write(tree, tmp_path / "x.msgpack")
        with refused(ConversionError, "x.msgpack", "mu", hint="parameters"):
            to_torch(source, tmp_path)


def test_a_file_of_a_train_state_is_a_template(tmp_path):
    like = write(live(batch_stats=stats()), tmp_path / "like.msgpack")
    to_torch({"params": net(40), "batch_stats": stats()}, tmp_path)
    made = tmp_path / "made.msgpack"
    bridge_core.convert(tmp_path / "torch.safetensors", made, to="flax", like=like)
    tree = serialization.msgpack_restore(made.read_bytes())
    assert {name for name in tree if not name.startswith("__")} == {"params", "batch_stats"}
    np.testing.assert_array_equal(tree["params"]["fc"]["kernel"], net(40)["fc"]["kernel"])


def test_a_train_state_stays_in_flax_as_its_variables(tmp_path):
    source = write(live(batch_stats=stats()), tmp_path / "x.msgpack")
    for to in ("flax", "neutral"):
        report = bridge_core.convert(source, tmp_path / "made.msgpack", to=to, overwrite=True)
        assert set(left_out(report)) == {"opt_state", "step"}
    empty = {"params": {"fc": net()["fc"], "drop": {}}, "opt_state": {"0": {}, "1": {}}, "step": STEP}
    write(empty, tmp_path / "empty.msgpack")
    bridge_core.convert(tmp_path / "empty.msgpack", tmp_path / "made.msgpack", to="flax", overwrite=True)
    tree = serialization.msgpack_restore((tmp_path / "made.msgpack").read_bytes())
    assert {name for name in tree if not name.startswith("__")} == {"params"}
    assert tree["params"]["drop"] == {}
    bridge_core.convert(source, tmp_path / "made.msgpack", to="flax", overwrite=True)
    tree = serialization.msgpack_restore((tmp_path / "made.msgpack").read_bytes())
    np.testing.assert_array_equal(tree["params"]["fc"]["kernel"], net()["fc"]["kernel"])
    np.testing.assert_array_equal(tree["batch_stats"]["bn"]["var"], stats()["bn"]["var"])


@pytest.mark.parametrize(
    "tree",
    [
        {"params": {"params": net()}},
        {"params": {"cache": net(), "params": net()}, "batch_stats": {"cache": stats()}},
        {"fc": net()["fc"], "optimizer": net()},
        {"encoder": net(), "momentum": {"encoder": net()}},
        {"model": net(), "target": net(1)},
        {"model": net(), "opt": net(1)},
        {"state": {"params": net()}},
        {"model": net(), "ema": net(1)},
        {"fc": net()["fc"], "count": STEP},
        {"net": net(), "count": STEP},
        {"model": net(), "solver": {"net": net(1)}},
        {"encoder_q": net(), "encoder_k": net(1), "step": STEP},
        {"params": net(), "momentum": net(1)},
        {"params": net(), "params_2": net(1)},
        {"params": net(), "cache": {"index": np.ones(3, "i4")}},
        {"params": {"opt_state": net(), "step": numbers(3)}},
        {"mu": net()["fc"], "nu": net()["fc"]},
        {"0": {"count": net()["fc"], "mu": net()["fc"]}},
        {},
    ],
)
def test_other_trees_are_no_train_states(tree):
    flat = {key: np.asarray(leaf) for key, leaf in traverse_util.flatten_dict(tree).items()}
    specs = {key: TensorSpec(leaf.shape, leaf.dtype) for key, leaf in flat.items()}
    assert choose_weights(specs) is None


def test_a_module_called_params_stays_whole_next_to_other_modules():
    tree = {"params": {"params": net()["fc"], "fc": net()["fc"]}, "opt_state": OPTIMIZER, "step": STEP}
    neutral = bridge_flax.to_neutral(tree)
    assert {key[0] for key in neutral} == {"params", "fc"}


NAMES = st.sampled_from(
    ["fc", "conv", "bn", "params", "cache", "target", "state", "optimizer", "step", "0", "mu"]
)
LEAVES = st.sampled_from(["kernel", "bias", "scale", "embedding", "w", "step", "count"])
SHAPES = st.sampled_from([(), (2,), (4,), (3, 4), (2, 3, 4)])
MODELS = st.dictionaries(st.tuples(NAMES, NAMES, LEAVES), SHAPES, min_size=1, max_size=8)


@settings(max_examples=examples(60), deadline=None)
@hypothesis.given(
    model=MODELS, slots=st.lists(st.sampled_from(["mu", "nu", "trace"]), unique=True), data=st.data()
)
def test_weights_are_never_lost_and_moments_never_chosen(model, slots, data):
    hypothesis.assume(any(model.values()))
    specs = {("params", *key): TensorSpec(shape, FLOAT) for key, shape in model.items()}
    moments = {
        ("opt_state", "0", slot, *key): TensorSpec(shape, FLOAT)
        for slot in slots
        for key, shape in model.items()
    }
    rest = {("opt_state", "0", "count"): TensorSpec((), INT), ("step",): TensorSpec((), INT)}
    if data.draw(st.booleans()):
        rest[("rng",)] = TensorSpec((2,), WORDS)
    wrapper = data.draw(st.sampled_from([(), ("state",), ("checkpoint", "train_state")]))
    tree = {(*wrapper, *key): spec for key, spec in {**rest, **moments, **specs}.items()}
    choice = choose_weights(tree)
    assert choice is not None
    assert set(choice.names) == {(*wrapper, *key) for key in specs}
    ends = {name[len(wrapper) :]: new for name, new in choice.names.items()}
    assert all(new in (name, name[1:]) for name, new in ends.items())
    assert len(set(choice.names.values())) == len(choice.names)
    for key in tree.keys() - choice.names.keys():
        assert any(key[:depth] in choice.left_out for depth in range(1, len(key) + 1))


WORDS_OF_TREES = [
    "params",
    "opt_state",
    "optimizer",
    "model",
    "state",
    "ema",
    "step",
    "mu",
    "rng",
    "fc",
    "kernel",
]
KEYS = st.lists(st.sampled_from(WORDS_OF_TREES), max_size=5).map(tuple)


@settings(max_examples=examples(100), deadline=None)
@hypothesis.given(
    st.dictionaries(KEYS, st.tuples(SHAPES, st.sampled_from([FLOAT, INT, WORDS])), max_size=10),
    st.lists(KEYS),
)
def test_every_tree_is_divided_completely_or_refused(tree, empty):
    specs = {key: TensorSpec(shape, dtype) for key, (shape, dtype) in tree.items()}
    try:
        choice = choose_weights(specs, empty)
    except (KeyConflict, ConversionError):
        return
    if choice is not None:
        assert choice.names
        for key in specs:
            starts = (key[:depth] in choice.left_out for depth in range(1, len(key) + 1))
            assert (key in choice.names) != any(starts)
