"""Names of Flax files, their separator and their boxes come back without a template, whatever is between."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from support.arrays import random_array
from support.examples import examples

import bridge_core
import bridge_flax
from bridge_core import FlatState, convert, open_state, save_state
from bridge_core.state import StateMetadata, dump_metadata, load_metadata

serialization = pytest.importorskip("flax.serialization")
traverse_util = pytest.importorskip("flax.traverse_util")

KERNEL = np.arange(12, dtype=np.float32).reshape(3, 4)
BIAS = KERNEL[0].copy()


def write(tensors, path, separator):
    """Write tensors by key to a file as other programs do."""
    if path.suffix == ".msgpack":
        path.write_bytes(serialization.msgpack_serialize(traverse_util.unflatten_dict(tensors)))
        return
    named = {separator.join(key): np.ascontiguousarray(x) for key, x in tensors.items()}
    np.savez(path, **named) if path.suffix == ".npz" else save_file(named, path)


def read(path):
    """Return the names and tensors of a file as other programs see them."""
    if path.suffix == ".msgpack":
        tree = serialization.msgpack_restore(path.read_bytes())
        tree.pop("__ckptbridge__", None)
        return {
            "/".join(key): x for key, x in traverse_util.flatten_dict(tree).items() if "ckptbridge" not in key
        }
    if path.suffix == ".npz":
        with np.load(path) as archive:
            return {name: archive[name] for name in archive if not name.startswith("__ckptbridge")}
    return load_file(path)


def assert_same(path, other):
    got, expected = read(path), read(other)
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(got[name], value)


LAYERS = {
    "linear": {"kernel": (3, 4), "bias": (4,)},
    "square": {"kernel": (4, 4)},
    "convolution": {"kernel": (3, 3, 2, 4), "bias": (4,)},
    "norm": {"scale": (5,), "bias": (5,)},
    "embedding": {"embedding": (6, 3)},
    "batch norm": {"scale": (5,), "bias": (5,), "mean": (5,), "var": (5,)},
    "parameter": {"cls_token": (1, 3)},
    "scalar": {"temperature": ()},
}
PARTS = st.sampled_from(["enc", "layers", "0", "2", "10", "value", "fc_1", "params", "query"])


@st.composite
def trees(draw):
    """Draw tensors by key, and the form of their names: collections, boxes, separator and file."""
    paths = draw(
        st.lists(st.lists(PARTS, min_size=1, max_size=3).map(tuple), min_size=1, max_size=4, unique=True)
    )
    with_collections = draw(st.booleans())
    if not with_collections:
        paths = [path for path in paths if path[0] != "params"] or [("enc",)]
    box = draw(st.sampled_from(["", "value", "raw_value"]))
    every = draw(st.booleans())
    kinds = [draw(st.sampled_from(sorted(LAYERS))) for _ in paths]
    # A tree has boxes where a matrix of a layer is in one, or all leaves are.
    every = every or not {"linear", "square", "convolution", "embedding"}.intersection(kinds)
    tensors = {}
    for number, (path, kind) in enumerate(zip(paths, kinds, strict=True)):
        for leaf, shape in LAYERS[kind].items():
            collection = "batch_stats" if leaf in ("mean", "var") else "params"
            if collection == "batch_stats" and not with_collections:
                continue
            key = (*([collection] if with_collections else ()), *path, f"m{number}", leaf)
            if box and (every or len(shape) > 1 or draw(st.booleans())):
                key = (*key, box)
            tensors[key] = random_array(shape, "float32", seed=number)
    suffix = draw(st.sampled_from([".msgpack", ".safetensors", ".npz"]))
    return tensors, suffix, draw(st.sampled_from(["/", "."]))


@settings(max_examples=examples(8))
@given(
    trees(),
    st.sampled_from(["torch", "neutral", "flax"]),
    st.sampled_from([".safetensors", ".npz", ".msgpack"]),
)
def test_names_and_bits_come_back(tmp_path_factory, drawn, between, suffix):
    tensors, own_suffix, separator = drawn
    folder = tmp_path_factory.mktemp("names")
    source, middle, back = folder / f"a{own_suffix}", folder / f"m{suffix}", folder / f"b{own_suffix}"
    write(tensors, source, separator)
    convert(source, middle, to=between, layout="flax", accept_guesses=True)
    convert(middle, back, to="flax", accept_guesses=True)
    assert_same(back, source)


def test_a_template_decides(tmp_path):
    source, like, made = tmp_path / "a.safetensors", tmp_path / "like.npz", tmp_path / "b.safetensors"
    boxed = {("fc", "kernel", "value"): KERNEL, ("fc", "bias", "value"): BIAS}
    plain = {("fc", "kernel"): KERNEL, ("fc", "bias"): BIAS}
    for own, other, joined in ((boxed, plain, "."), (plain, boxed, "/")):
        write(own, source, "/" if joined == "." else ".")
        write(other, like, joined)
        convert(source, tmp_path / "t.safetensors", to="torch", overwrite=True)
        for start in (source, tmp_path / "t.safetensors"):
            convert(start, made, to="flax", like=like, overwrite=True)
            assert set(load_file(made)) == {joined.join(key) for key in other}


def test_live_trees_with_boxes_come_back_as_they_were():
    tree = {"fc": {"kernel": {"value": KERNEL}, "bias": BIAS}, "cls": {"value": BIAS[None]}}
    back = bridge_flax.from_neutral(bridge_flax.to_neutral(tree))
    flat = traverse_util.flatten_dict(back)
    assert flat.keys() == traverse_util.flatten_dict(tree).keys()


def test_metadata_of_boxes_and_separators_is_read_back():
    metadata = StateMetadata(
        separators={"flax": "/"}, boxes={("fc", "weight"): "value", ("x.y",): "raw_value"}
    )
    _, back, _ = load_metadata(dump_metadata("torch", metadata))
    assert (back.separators, back.boxes) == (metadata.separators, metadata.boxes)
    text = json.loads(dump_metadata("torch", StateMetadata()))
    assert not {"separators", "boxes"} & text.keys()


def test_metadata_of_names_follows_the_tensors():
    state = FlatState(
        {("fc", "weight"): KERNEL, ("fc", "bias"): BIAS},
        layout="torch",
        metadata=StateMetadata(separators={"flax": "/"}, boxes={("fc", "weight"): "value"}),
    )
    assert state.rename({"fc.weight": "x.weight"}).metadata.boxes == {("x", "weight"): "value"}
    assert state.select(["fc.bias"]).metadata.boxes == {}
    both = state.union(FlatState({("y", "weight"): KERNEL}, layout="torch"))
    assert both.metadata.boxes == {("fc", "weight"): "value"}
    assert both.metadata.separators == {"flax": "/"}


@pytest.mark.parametrize("name", ["b.safetensors", "b.npz", "shards/"])
@pytest.mark.parametrize("layout", [None, "flax"])
def test_a_saved_state_has_the_separator_of_its_file(tmp_path, name, layout):
    names = {("params", "A", "kernel"): KERNEL, ("params", "B", "kernel"): KERNEL, ("step",): BIAS}
    write(names, tmp_path / "a.safetensors", "/")
    target = tmp_path / name
    limit = 60 if name.endswith("/") else None
    with open_state(tmp_path / "a.safetensors", layout=layout) as state:
        save_state(
            state, f"{target}/" if limit else target, max_shard_size=limit, format=limit and "safetensors"
        )
    files = sorted(target.glob("*.safetensors")) if limit else [target]
    assert {name for file in files for name in read(file)} == {"/".join(key) for key in names}
    with open_state(target) as back:
        assert set(back) == set(names)
        assert back.metadata.separator(back.layout) == "/"


def test_parts_that_hold_slashes_survive_in_a_file_with_slashes(tmp_path):
    state = FlatState(
        {("a/b", "kernel"): KERNEL, ("c", "d.e"): BIAS},
        layout="flax",
        metadata=StateMetadata(separators={"": "/"}),
    )
    for name in ("a.safetensors", "a.npz"):
        save_state(state, tmp_path / name)
        with open_state(tmp_path / name) as back:
            assert set(back) == set(state)


def test_plain_files_get_no_metadata(tmp_path):
    weights = {"fc.weight": KERNEL, "fc.bias": BIAS}
    save_file(weights, tmp_path / "a.safetensors", metadata={"format": "pt"})
    convert(tmp_path / "a.safetensors", tmp_path / "b.safetensors", to="torch")
    write({("fc", "kernel"): KERNEL, ("x",): BIAS}, tmp_path / "f.safetensors", "/")
    with open_state(tmp_path / "f.safetensors", layout="flax") as state:
        save_state(state, tmp_path / "g.safetensors")
        save_state(state, tmp_path / "g.msgpack")
    for name in ("b", "g"):
        with safe_open(tmp_path / f"{name}.safetensors", "np") as file:
            assert set(file.metadata() or {}) <= {"format"}
    assert set(serialization.msgpack_restore((tmp_path / "g.msgpack").read_bytes())) == {"fc", "x"}
    with bridge_core.open_state(tmp_path / "g.safetensors") as state:
        assert ("fc", "kernel") in state
