"""Files whose own metadata does not belong to their tensors, in every format; and files that only look so."""

from __future__ import annotations

import importlib.util
import json

import numpy as np
import pytest
from support.errors import refused
from support.fuzzing import write_safetensors
from support.rule_files import nothing_written

from bridge_core import (
    FlatState,
    KeyConflict,
    MalformedFile,
    convert,
    open_state,
    plan_conversion,
    save_state,
)
from bridge_core.plugins import default_registry
from bridge_core.state import AuxiliaryTensor, LayerInfo, StateMetadata, as_tensor, dump_metadata
from bridge_core.transfer import Budget, FileTarget

FORMATS = ["safetensors", "npz", "msgpack", "torch", "hdf5"]
if importlib.util.find_spec("ckptbridge_hdf5") is None:
    FORMATS.remove("hdf5")

TENSORS = {
    "a.kernel": np.arange(4, dtype=np.float32).reshape(2, 2),
    "a.bias": np.arange(2, dtype=np.float32),
    "b.kernel": np.ones((2, 2), np.float32),
}
LINEAR = LayerInfo("linear", "module", ("kernel", "bias"))


def key(name):
    return tuple(name.split("."))


def known(layers=None, ties=None, **more):
    return StateMetadata(
        layers={key(path): info for path, info in (layers or {"a": LINEAR}).items()},
        ties={key(one): key(other) for one, other in (ties or {}).items()},
        **more,
    )


LIES = {
    "tied to nothing": (known(ties={"a.kernel": "nope"}), "ties", "'a.kernel'", "'nope'"),
    "tied to itself": (known(ties={"a.kernel": "a.kernel"}), "ties", "'a.kernel'"),
    "tied in a circle": (known(ties={"a.kernel": "b.kernel", "b.kernel": "a.kernel"}), "ties", "kernel'"),
    "tied to another shape": (
        known(ties={"a.bias": "a.kernel"}),
        *("ties", "'a.bias'", "'a.kernel'", "float32[2]", "float32[2, 2]"),
    ),
    "an empty node that is a tensor": (known(empty=(key("a.bias"),)), "empty", "'a.bias'", "float32[2]"),
    "another kind": (
        known({"a": LayerInfo("conv", "x", ("kernel", "bias"))}),
        *("layers", "'a'", "conv", "float32[2, 2]"),
    ),
    "split into nothing": (
        known({"a": LayerInfo("linear", "x", ("kernel",), axis_splits={"in": (0,)})}),
        *("layers", "'a'", "linear", "'in'", "0", "2"),
    ),
}
"""What a file says of itself, and what the refusal names: the field, tensors, kinds and shapes."""


def written(path, metadata, format):
    """Write what no call of ours writes: most writers of formats do not look at the metadata."""
    if format == "safetensors":
        write_safetensors(path, TENSORS, dump_metadata("neutral", metadata))
        return path
    state = FlatState({key(n): a for n, a in TENSORS.items()}, layout="neutral", metadata=metadata)
    path.touch()
    default_registry().format(format).write(state, FileTarget(path, Budget(workers=1)))
    return path


@pytest.mark.parametrize("lie", LIES)
@pytest.mark.parametrize("format", FORMATS)
def test_a_lie_is_refused_by_name_and_nothing_is_written(tmp_path, format, lie):
    if (format, lie) == ("msgpack", "an empty node that is a tensor"):
        pytest.skip("a tree says itself which nodes are empty")
    metadata, *named = LIES[lie]
    source = written(tmp_path / "lie", metadata, format)
    for to in ("torch", "neutral"):
        with refused(MalformedFile, *named, hint=("ckptbridge", "--layout")) as caught:
            convert(source, tmp_path / "out.safetensors", to=to, accept_guesses=True)
        assert str(caught.value.path) == str(source)
    assert nothing_written(tmp_path, source)


@pytest.mark.parametrize("format", FORMATS)
def test_the_same_files_open_with_metadata_that_is_true(tmp_path, format):
    metadata = known(
        {"a": LINEAR, "gone": LayerInfo("conv", "x", ("kernel",))},
        {"b.kernel": "a.kernel"},
        collections={key("gone.kernel"): "x"},
        auxiliary_tensors={key("gone.n"): AuxiliaryTensor.of(np.array(3))},
    )
    with open_state(written(tmp_path / "true", metadata, format)) as state:
        assert dict(state.metadata.ties) == {key("b.kernel"): key("a.kernel")}
        assert set(state.metadata.layers) == {("a",), ("gone",)}


def test_a_lie_in_an_index_is_refused(tmp_path):
    state = FlatState({key(n): a for n, a in TENSORS.items()}, layout="neutral", metadata=known())
    save_state(state, tmp_path / "set/", max_shard_size=20)
    index = tmp_path / "set/model.safetensors.index.json"
    document = json.loads(index.read_text())
    told = json.loads(document["metadata"]["ckptbridge"])
    told["layers"][0]["kind"] = "embedding"
    document["metadata"]["ckptbridge"] = json.dumps(told)
    index.write_text(json.dumps(document))
    with refused(MalformedFile, index, "layers", "'a'", "embedding", "'kernel'"):
        open_state(tmp_path / "set")


def test_a_tied_key_that_a_file_lacks_is_restored(tmp_path):
    one = as_tensor(TENSORS["a.kernel"])
    state = FlatState({("a",): one, ("b",): one}, layout="torch", metadata=known(ties={"b": "a"}))
    save_state(state, tmp_path / "a.safetensors")
    with open_state(tmp_path / "a.safetensors") as back:
        assert np.array_equal(back["b"], TENSORS["a.kernel"])


def test_what_was_edited_in_memory_is_saved_without_what_is_no_longer_true(tmp_path):
    """A state may be edited freely; its file says only what holds for it, and opens."""
    metadata = known(ties={"b.kernel": "a.kernel", "a.kernel": "b.kernel"}, empty=(key("a.bias"), key("c")))
    edited = {**TENSORS, "a.kernel": np.ones((2, 3, 2), np.float32)}
    state = FlatState({key(n): a for n, a in edited.items()}, layout="neutral", metadata=metadata)
    save_state(state, tmp_path / "a.safetensors")
    with open_state(tmp_path / "a.safetensors") as back:
        assert (dict(back.metadata.layers), dict(back.metadata.ties)) == ({}, {})
        assert back.metadata.empty == (("c",),)

    circle = {**TENSORS, "b.kernel": TENSORS["a.kernel"]}
    save_state(FlatState(circle, layout="neutral", metadata=metadata), tmp_path / "b.safetensors")
    with open_state(tmp_path / "b.safetensors") as back:
        assert dict(back.metadata.ties) == {key("a.kernel"): key("b.kernel")}


def test_a_part_of_an_attention_that_its_record_does_not_name_is_not_replaced_by_zeros():
    parts = ("query", "key", "value", "out")
    tensors = {f"a.{part}.kernel": np.full((4, 4), n, np.float32) for n, part in enumerate(parts)}
    tensors |= {f"a.{part}.bias": np.full(4, 5, np.float32) for part in parts}
    leaves = tuple(name[2:] for name in tensors if name != "a.value.bias")
    record = LayerInfo("attention", "module", leaves, axis_splits={"heads": (2, 2), "kv_heads": (2, 2)})
    state = FlatState(
        {key(n): a for n, a in tensors.items()}, layout="neutral", metadata=known({"a": record})
    )
    plan = plan_conversion(state, to="torch", accept_guesses=True, check=False)
    assert all(step.targets != (("a", "in_proj_bias"),) for step in plan.steps)
    whole = known(
        {"a": LayerInfo("attention", "module", (*leaves, "value.bias"), axis_splits=record.axis_splits)}
    )
    made = plan_conversion(state.replace(metadata=whole), to="torch").apply(state.replace(metadata=whole))
    assert np.array_equal(made["a.in_proj_bias"], np.full(12, 5, np.float32))


def test_a_tree_that_is_said_to_have_collections_has_them(tmp_path):
    state = FlatState(
        {("kernel",): np.ones((2, 2), np.float32)},
        layout="flax",
        metadata=StateMetadata(tree_form={"flax": "variables"}),
    )
    path = tmp_path / "a.npz"
    path.touch()
    default_registry().format("npz").write(state, FileTarget(path, Budget(workers=1)))
    with refused(MalformedFile, path, "collection", "'kernel'"):
        open_state(path)
    save_state(state, tmp_path / "held.npz")
    with open_state(tmp_path / "held.npz") as held:
        assert list(held) == [("kernel",)]
    with refused(KeyConflict, "collection", key=("kernel",)):
        plan_conversion(state, to="torch")
