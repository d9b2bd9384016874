"""Trees: what `_METADATA` and the msgpack file of old versions declare."""

from __future__ import annotations

import json

import numpy as np
import pytest
from support.errors import refused
from support.orbax_arrays import leaf, tree_text, write_array, write_item

from bridge_core import IntegrityError, KeyConflict, LimitExceeded, MalformedFile, StateMetadata, UnsafeFile
from bridge_core.state import dump_metadata

pytest.importorskip("tensorstore")

ONE, TWO = np.ones((2, 3), np.float32), np.full(4, 2, np.int32)


def packed(tree):
    """Return a nested tree of arrays, numbers, texts and None as Flax packs it."""
    msgpack = pytest.importorskip("msgpack")

    def array(value):
        parts = (list(value.shape), value.dtype.name, value.tobytes())
        return msgpack.ExtType(1, msgpack.packb(parts))

    return msgpack.packb(tree, default=array)


def test_the_order_is_that_of_the_file(tmp_path, load):
    tree = {("z", 0): ONE, ("z", 1): ONE, ("a", "b.c"): TWO, ("m",): TWO}
    state = load(write_item(tmp_path / "item", tree))
    assert list(state) == [("z", "0"), ("z", "1"), ("a", "b.c"), ("m",)]
    assert state.layout == "flax"
    np.testing.assert_array_equal(state[("a", "b.c")], TWO)


def test_leaves_that_are_not_arrays(tmp_path, load):
    others = {
        ("none",): leaf("None", skip=True),
        ("dict",): leaf("Dict", skip=True),
        ("list",): leaf("List", skip=True),
        ("tuple",): leaf("Tuple", skip=True),
        ("named",): leaf("NamedTuple", skip=True),
        ("text",): leaf("string"),
        ("strange",): leaf("some.Type"),
    }
    state = load(write_item(tmp_path / "item", {("l", 0): ONE}, others=others))
    assert list(state) == [("l", "0")]
    assert state.metadata.empty == (("none",), ("dict",), ("list",), ("tuple",), ("named",))
    (note,) = state.metadata.notes
    assert all(word in note for word in ("none (None)", "text (string)", "strange (some.Type)"))
    assert json.loads(state.metadata.extra["orbax.nodes"]) == {
        "l": "Sequence",
        "none": "None",
        "list": "List",
        "tuple": "Tuple",
        "named": "NamedTuple",
    }


def test_the_bridges_own_metadata_and_texts_of_the_user(tmp_path, load):
    stored = StateMetadata(ties={("b",): ("a",)})
    custom = {"ckptbridge": dump_metadata("neutral", stored), "note": "mine", "number": 3}
    state = load(
        write_item(tmp_path / "item", {("a",): ONE, ("b",): ONE}, fields={"custom_metadata": custom})
    )
    assert state.layout == "neutral"
    assert state.metadata.ties == stored.ties
    assert state.metadata.extra == {"note": "mine"}
    with refused(MalformedFile):
        load(write_item(tmp_path / "bad", {("a",): ONE}, fields={"custom_metadata": {"ckptbridge": "{"}}))


def test_an_item_that_is_one_array(tmp_path, load):
    write_array(tmp_path, "", ONE)
    (tmp_path / "_METADATA").write_text(tree_text({(): leaf("jax.Array")}, use_ocdbt=True))
    state = load(tmp_path)
    assert list(state) == [("array",)]
    np.testing.assert_array_equal(state["array"], ONE)


def test_values_that_are_missing_are_named(tmp_path, load):
    others = {("gone", "w"): leaf("jax.Array"), ("scale",): leaf("scalar")}
    folder = write_item(tmp_path / "item", {("w",): ONE}, others=others)
    with refused(MalformedFile, "2 tensors", "gone.w", "scale"):
        load(folder)


def test_arrays_that_the_tree_does_not_name_are_noted(tmp_path, load):
    folder = write_item(tmp_path / "item", {("w",): ONE})
    write_array(folder, "rest.w", ONE)
    state = load(folder)
    assert list(state) == [("w",)]
    assert any("rest.w" in note for note in state.metadata.notes)


def test_keys_that_are_one_name(tmp_path, load):
    folder = write_item(tmp_path / "item", {("a", "b"): ONE}, others={("a.b",): leaf()})
    with refused(KeyConflict, "'a', 'b'", "'a.b'"):
        load(folder)


@pytest.mark.parametrize("key", [("../w",), ("a/../b",), ("/etc",), ("a//b",), ("a\0",), ("",), ("x/.",)])
def test_names_that_are_not_of_this_folder(tmp_path, load, key):
    folder = write_item(tmp_path / "item", {("w",): ONE}, others={key: leaf()})
    with refused(UnsafeFile):
        load(folder)


def test_a_path_of_very_many_parts(tmp_path, load):
    folder = write_item(tmp_path / "item", {("w",): ONE}, others={("a",) * 501: leaf()})
    with refused(LimitExceeded, 501):
        load(folder)


# The msgpack file of old versions


@pytest.mark.parametrize("with_metadata", [True, False])
def test_values_inside_the_msgpack_file_and_beside_it(tmp_path, load, with_metadata):
    folder = tmp_path / "item"
    tree = {("layers", 0, "w"): ONE}
    others = {
        ("layers", 1, "w"): leaf("jax.Array", skip=True),
        ("n",): leaf("scalar", skip=True),
        ("text",): leaf("string"),
        ("nothing",): leaf("None", skip=True),
    }
    write_item(folder, tree, others=others, fields={"use_ocdbt": None})
    if not with_metadata:
        (folder / "_METADATA").unlink()
    (folder / "_strings.json").write_text('{"text": "hello"}')
    content = {
        "layers": [{"w": "PLACEHOLDER://layers.0.w"}, {"w": TWO}],
        "n": 7,
        "nothing": None,
        "text": "PLACEHOLDER://text",
    }
    (folder / "checkpoint").write_bytes(packed(content))
    state = load(folder)
    assert list(state) == [("layers", "0", "w"), ("layers", "1", "w"), ("n",)]
    np.testing.assert_array_equal(state["layers.0.w"], ONE)
    np.testing.assert_array_equal(state["layers.1.w"], TWO)
    assert state["n"] == 7
    assert any("text (string)" in note for note in state.metadata.notes)
    assert any("nothing (None)" in note for note in state.metadata.notes)
    (folder / "checkpoint").write_bytes(packed({**content, "n": 8}))
    with refused(IntegrityError, "checkpoint"):
        state.check_unchanged()


def test_a_placeholder_without_an_array(tmp_path, load):
    folder = write_item(tmp_path / "item", {("v",): ONE})
    (folder / "_METADATA").unlink()
    (folder / "checkpoint").write_bytes(packed({"v": "PLACEHOLDER://v", "w": "PLACEHOLDER://w"}))
    with refused(MalformedFile, "w", key=("w",)):
        load(folder)


def test_a_placeholder_that_leads_out(tmp_path, load):
    folder = write_item(tmp_path / "item", {("v",): ONE}, ocdbt=False)
    (folder / "_METADATA").unlink()
    (folder / "checkpoint").write_bytes(packed({"v": "PLACEHOLDER://../item/v"}))
    with refused(UnsafeFile, "../item/v"):
        load(folder)


def test_specifications_of_t5x_are_only_signs_of_an_array(tmp_path, load):
    folder = tmp_path / "item"
    folder.mkdir()
    write_array(folder, "target.encoder.kernel", ONE, ocdbt=False, compressor={"id": "gzip", "level": 1})
    elsewhere = {
        "driver": "zarr",
        "kvstore": {"driver": "file", "path": "/etc/"},
        "metadata": {"shape": [9, 9], "chunks": [9, 9], "dtype": "<f4"},
    }
    optimizer = {"state": {"step": 3}, "target": {"encoder": {"kernel": elsewhere}, "small": TWO}}
    (folder / "checkpoint").write_bytes(packed({"version": 3, "optimizer": optimizer}))
    state = load(folder)
    assert set(state) == {
        ("optimizer", "state", "step"),
        ("optimizer", "target", "encoder", "kernel"),
        ("optimizer", "target", "small"),
        ("version",),
    }
    np.testing.assert_array_equal(state["optimizer.target.encoder.kernel"], ONE)
    optimizer["target"]["lost"] = elsewhere
    (folder / "checkpoint").write_bytes(packed({"version": 3, "optimizer": optimizer}))
    with refused(MalformedFile, "lost"):
        load(folder)
