"""What the names of Flax trees mean: collections, boxes and random state, in files, trees and templates."""

from __future__ import annotations

import numpy as np
import pytest
from support.errors import refused

import bridge_core
import bridge_flax
import bridge_torch
from bridge_core import KeyConflict, MismatchError, TensorSpec
from bridge_flax import tree_names

serialization = pytest.importorskip("flax.serialization")
traverse_util = pytest.importorskip("flax.traverse_util")

KERNEL = np.arange(12, dtype=np.float32).reshape(3, 4)
VECTOR = np.arange(4, dtype=np.float32)
DENSE = {"kernel": KERNEL, "bias": VECTOR}
STREAM = {"count": np.array(3, np.uint32), "key": np.array([1, 2], np.uint32)}
BOXED = {
    "fc": {"kernel": {"value": KERNEL}, "bias": {"value": VECTOR}},
    "layers": {"0": {"kernel": {"value": KERNEL}}},
    "bn": {name: {"value": VECTOR} for name in ("scale", "bias", "mean", "var")},
    "cls": {"value": VECTOR},
    "temperature": {"value": np.float32(2)},
}
PLAIN = {
    "fc": DENSE,
    "layers": {"0": {"kernel": KERNEL}},
    "bn": dict.fromkeys(("scale", "bias", "mean", "var"), VECTOR),
    "cls": VECTOR,
    "temperature": np.float32(2),
}


def flat(tree):
    return {key: np.asarray(leaf) for key, leaf in traverse_util.flatten_dict(tree).items()}


def write(tree, path):
    if path.suffix == ".msgpack":
        path.write_bytes(serialization.msgpack_serialize(tree))
    else:
        bridge_core.save_state(bridge_core.FlatState(flat(tree)), path, overwrite=True)
    return path


def to_torch(tree, path):
    target = path.with_name("torch.safetensors")
    report = bridge_core.convert(write(tree, path), target, to="torch", overwrite=True)
    with bridge_core.open_state(target) as state:
        return {".".join(key): state[key] for key in state}, report


def specs_of(*names, shape=(3, 4)):
    float32 = np.dtype("float32")
    return {tuple(name.split(".")): TensorSpec(shape, float32) for name in names}


@pytest.mark.parametrize("name", ["x.msgpack", "x.safetensors", "x.npz"])
def test_boxed_files_convert_as_the_leaves_themselves(tmp_path, name):
    boxed, _ = to_torch(BOXED, tmp_path / name)
    plain, _ = to_torch(PLAIN, tmp_path / name)
    assert boxed.keys() == plain.keys()
    assert boxed.keys() >= {"fc.weight", "layers.0.weight", "bn.running_mean", "cls", "temperature"}
    for key, value in plain.items():
        np.testing.assert_array_equal(boxed[key], value)


def test_boxed_live_dicts_agree_with_files_and_templates_keep_their_boxes(tmp_path):
    neutral = bridge_flax.to_neutral(BOXED)
    assert set(neutral) == set(bridge_flax.to_neutral(PLAIN))
    state_dict = bridge_torch.from_neutral(neutral)
    back = bridge_flax.from_neutral(bridge_torch.to_neutral(state_dict), like=BOXED)
    bridge_torch_file = tmp_path / "t.safetensors"
    bridge_core.convert(neutral, bridge_torch_file, to="torch")
    like = write(BOXED, tmp_path / "like.msgpack")
    made = tmp_path / "made.msgpack"
    bridge_core.convert(bridge_torch_file, made, to="flax", like=like)
    for tree in (back, serialization.msgpack_restore(made.read_bytes())):
        got = flat(tree)
        assert got.keys() == flat(BOXED).keys()
        for key, value in flat(BOXED).items():
            np.testing.assert_array_equal(got[key], value)


def test_linens_boxes_are_found_where_only_some_leaves_have_one(tmp_path):
    linen = pytest.importorskip("flax.linen")
    boxed = linen.LogicallyPartitioned(VECTOR, ("a",))
    variables = {
        "params": {
            "fc": {"kernel": linen.Partitioned(KERNEL, ("a", "b")), "bias": VECTOR},
            "ln": {"scale": boxed, "bias": VECTOR},
            "pos_embedding": boxed,
            "temperature": np.float32(1),
        }
    }
    (tmp_path / "x.msgpack").write_bytes(serialization.to_bytes(variables))
    bridge_core.convert(tmp_path / "x.msgpack", tmp_path / "t.safetensors", to="torch")
    with bridge_core.open_state(tmp_path / "t.safetensors") as state:
        names = {".".join(key) for key in state}
    assert names == {"fc.weight", "fc.bias", "ln.weight", "ln.bias", "pos_embedding", "temperature"}
    assert set(bridge_flax.to_neutral(variables)) == set(
        bridge_core.to_neutral(bridge_core.open_state(tmp_path / "x.msgpack"), framework="flax")
    )


@pytest.mark.parametrize(
    ("names", "boxed"),
    [
        (["fc.kernel.value", "fc.bias"], ["fc.kernel.value"]),
        (["fc.kernel.raw_value", "cls.raw_value"], ["fc.kernel.raw_value", "cls.raw_value"]),
        (["ln.scale.value", "ln.bias.value", "cls.value"], ["ln.scale.value", "ln.bias.value", "cls.value"]),
        (["fc.kernel", "temperature.value"], []),
        (["fc.kernel", "scale.value"], []),
        (["temperature.value", "shift.value"], []),
        (["fc.kernel.value", "fc.kernel"], []),
        (["fc.kernel.value", "fc.kernel.scale"], []),
        (["fc.kernel.value", "attn.query", "attn.value"], ["fc.kernel.value"]),
        (["attn.value.kernel"], []),
        (["fc.kernel.value", "attn.value.kernel.value"], ["fc.kernel.value", "attn.value.kernel.value"]),
        (["fc.kernel.value", "fc.kernel.raw_value"], []),
        (["value"], []),
        ([], []),
    ],
)
def test_value_is_a_box_only_in_trees_with_boxes(names, boxed):
    assert tree_names.boxes(specs_of(*names)) == {tuple(name.split(".")) for name in boxed}


def test_a_scalar_called_value_is_a_box_only_where_everything_is_boxed():
    scalar = specs_of("temperature.value", shape=())
    assert len(tree_names.boxes({**specs_of("fc.kernel.value"), **scalar})) == 2
    assert len(tree_names.boxes({**specs_of("fc.kernel.value", "fc.bias"), **scalar})) == 1
    assert not tree_names.boxes(specs_of("scale.value", shape=()))


@pytest.mark.parametrize("boxed", [False, True])
def test_random_state_of_files_is_left_out_and_reported_as_that_of_live_objects_is(tmp_path, boxed):
    stream = {name: {"value": value} for name, value in STREAM.items()} if boxed else STREAM
    tree = {**(BOXED if boxed else PLAIN), "dropout": {"rngs": stream}}
    made, report = to_torch(tree, tmp_path / "x.msgpack")
    assert not [name for name in made if "rngs" in name]
    assert {dropped.reason for dropped in report.dropped} == {"random state, not weights"}
    assert len(report.dropped) == 2
    with refused(MismatchError, "rngs"):
        bridge_core.convert(
            tmp_path / "torch.safetensors", tmp_path / "y.msgpack", to="flax", like=tmp_path / "x.msgpack"
        )


def test_a_parameter_called_key_or_count_is_not_random_state():
    uint32 = np.dtype("uint32")
    names = {
        ("a", "key"): TensorSpec((5,), uint32),
        ("a", "count"): TensorSpec((), uint32),
        ("b", "key"): TensorSpec((2,), np.dtype("float32")),
        ("b", "count"): TensorSpec((), np.dtype("float32")),
        ("c", "count"): TensorSpec((), uint32),
        ("d", "key"): TensorSpec((3, 2), uint32),
        ("d", "count"): TensorSpec((3,), uint32),
    }
    assert tree_names.random_state(names) == {("d", "key"), ("d", "count")}


@pytest.mark.parametrize(
    ("names", "present"),
    [
        (["params.fc.kernel"], True),
        (["params.kernel", "params.bias"], True),
        (["params.bn.scale", "batch_stats.bn.mean"], True),
        (["params.fc.kernel", "cache.attn.cached_key", "cache.attn.cache_index"], True),
        (["params.fc.kernel", "intermediates.fc.bias", "perturbations.scale"], True),
        (["params.fc.kernel", "memory.fc.state"], True),
        (["params.params.kernel", "params.cache.kernel", "params.fc.kernel"], True),
        (["batch_stats.bn.mean"], True),
        (["cache.attn.cached_key"], True),
        (["batch_stats.kernel"], False),
        (["cache.kernel", "batch_stats.kernel"], False),
        (["cache.kernel", "fc.kernel"], False),
        (["batch_stats.bn.mean", "t"], False),
        (["params"], False),
        (["fc.kernel", "t"], False),
        ([], False),
    ],
)
def test_first_parts_are_collections_where_they_hold_no_parameters_of_layers(names, present):
    assert tree_names.has_collections(specs_of(*names)) is present


@pytest.mark.parametrize(
    "tree",
    [
        {"params": DENSE, "cache": DENSE, "fc": DENSE},
        {"params": {"a": DENSE}, "cache": {"b": DENSE}},
        {"params": {"a": DENSE}, "fc": {"b": {"scale": VECTOR, "bias": VECTOR}}},
        {"params": {"a": {"kernel": {"value": KERNEL}}}, "fc": {"b": {"kernel": {"value": KERNEL}}}},
        {"params": {"a": DENSE}, "batch_stats": {"a": DENSE}},
        {"params": {"a": DENSE}, "intermediates": {"a": {"kernel": KERNEL}}},
        {"logit_scale": np.float32(3), "params": {"a": DENSE}},
    ],
)
def test_modules_next_to_params_are_refused_with_both_ways_on(tmp_path, tree):
    path = write(tree, tmp_path / "x.msgpack")
    suspect = next(name for name in tree if name != "params")
    for convert in (
        lambda: bridge_core.convert(path, tmp_path / "t.safetensors", to="torch"),
        lambda: bridge_flax.to_neutral(tree),
    ):
        with refused(KeyConflict, f"'{suspect}'", hint=("--entry params", "select", "rename")):
            convert()
    assert not (tmp_path / "t.safetensors").exists()
    assert bridge_core.plan_conversion(path, to="torch", entry="params").evidence.keys() == {"structure"}
    with bridge_core.open_state(path) as state:
        only = bridge_core.to_neutral(state.select(lambda key: key[0] == "params"), framework="flax")
        every = bridge_core.to_neutral(state.rename(lambda key: ("params", *key)), framework="flax")
        assert not [key for key in only if suspect in key]
        assert {key[0] for key in every} == set(tree)


def test_two_keys_for_one_leaf_are_refused_with_a_way_on(tmp_path):
    norm = {"scale": VECTOR, "bias": VECTOR, "mean": VECTOR}
    path = write({"params": {"bn": norm}, "batch_stats": {"bn": {"mean": VECTOR}}}, tmp_path / "x.msgpack")
    with refused(KeyConflict, "x.msgpack", "batch_stats.bn.mean", "params.bn.mean", hint="select"):
        bridge_core.convert(path, tmp_path / "t.safetensors", to="torch")


def test_numpys_integers_name_nodes_of_live_trees():
    assert set(bridge_flax.to_neutral({"l": {np.int64(1): DENSE}})) == {
        ("l", "1", "kernel"),
        ("l", "1", "bias"),
    }
