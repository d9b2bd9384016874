"""Values of arrays: every layout, every region, and only the chunks that a region touches."""

from __future__ import annotations

import itertools
import json
import threading

import ml_dtypes
import numpy as np
import pytest
from support.errors import refused
from support.orbax_arrays import leaf, tree_text, write_array, write_item

from bridge_core import IntegrityError, MalformedFile, SystemFailure

pytest.importorskip("tensorstore")

VALUES = np.arange(7 * 10, dtype=np.float32).reshape(7, 10)
SHARDS = {
    "codecs": [
        {
            "name": "sharding_indexed",
            "configuration": {
                "chunk_shape": [2, 3],
                "codecs": [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "zstd"}],
                "index_codecs": [
                    {"name": "bytes", "configuration": {"endian": "little"}},
                    {"name": "crc32c"},
                ],
            },
        }
    ]
}
LAYOUTS = {
    "zarr2": {"driver": "zarr", "chunks": (3, 4)},
    "zarr2 in columns": {"driver": "zarr", "chunks": (3, 4), "order": "F", "dimension_separator": "/"},
    "zarr2 as t5x": {"driver": "zarr", "chunks": (7, 5), "compressor": {"id": "gzip", "level": 1}},
    "zarr3": {"driver": "zarr3", "chunks": (3, 4)},
    "zarr3 shards": {"driver": "zarr3", "chunks": (4, 6), **SHARDS},
}


def same(got, expected):
    assert (got.shape, got.dtype) == (expected.shape, expected.dtype)
    assert got.flags.c_contiguous
    assert got.tobytes() == expected.tobytes()


@pytest.mark.parametrize("ocdbt", [True, False], ids=["database", "files"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_region(tmp_path, load, layout, ocdbt):
    folder = write_item(tmp_path / "item", {("a", "w"): VALUES}, ocdbt=ocdbt, **LAYOUTS[layout])
    state = load(folder)
    same(state["a.w"], VALUES)
    rows = [slice(0, 7, 1), slice(2, 3, 1), slice(1, 7, 2), slice(4, 4, 1), slice(3, 6, 1)]
    columns = [slice(0, 10, 1), slice(9, 10, 1), slice(0, 10, 3), slice(2, 9, 4)]
    for region in itertools.product(rows, columns):
        same(state.tensor("a.w").read(region), np.ascontiguousarray(VALUES[region]))
    assert state.read("a.w", (slice(None, None, -2), 3)).tolist() == VALUES[::-2, 3].tolist()


@pytest.mark.parametrize("most", [1, 100, 200])
def test_a_large_region_is_read_piece_by_piece(tmp_path, load, monkeypatch, most):
    monkeypatch.setattr("ckptbridge_orbax.array_store._IN_MEMORY", most)
    state = load(write_item(tmp_path / "item", {("w",): VALUES}, **LAYOUTS["zarr3 shards"]))
    same(state["w"], VALUES)
    region = (slice(1, 7, 2), slice(2, 10, 3))
    same(state.tensor("w").read(region), np.ascontiguousarray(VALUES[region]))


def test_the_chunk_shape_is_what_is_decoded_as_one(tmp_path, load):
    for name, options in LAYOUTS.items():
        state = load(write_item(tmp_path / name, {("w",): VALUES}, **options))
        expected = (2, 3) if name == "zarr3 shards" else options["chunks"]
        assert state.tensor("w").chunk_shape == expected


@pytest.mark.parametrize(
    "values",
    [
        np.array(3.5, np.float32),
        np.array(7),
        np.array(True),
        np.zeros((0, 3), np.float32),
        np.array([True, False, True]),
        np.arange(-4, 4).astype(ml_dtypes.int4),
        np.arange(4).astype(ml_dtypes.float8_e4m3fn),
        np.array([[1 + 2j]], np.complex64),
        np.array([1.5, np.nan, -0.0], ml_dtypes.bfloat16),
        np.arange(2**8, dtype=np.uint8).reshape((2,) * 8),
        np.array([0x3F80, 1, 0xFFFF], np.uint16).view(ml_dtypes.bfloat16),
    ],
    ids=lambda values: f"{values.dtype.name}{list(values.shape)}",
)
@pytest.mark.parametrize("ocdbt", [True, False], ids=["database", "files"])
def test_kinds_of_arrays(tmp_path, load, values, ocdbt):
    drivers = ("zarr",) if 0 in values.shape else ("zarr", "zarr3")
    for driver in drivers:
        state = load(write_item(tmp_path / driver, {("w",): values}, ocdbt=ocdbt, driver=driver))
        same(state["w"], values)


def test_big_endian_values_become_native(tmp_path, load):
    folder = write_item(tmp_path / "item", {("w",): VALUES}, ocdbt=False, compressor=None)
    description = json.loads((folder / "w/.zarray").read_text())
    (folder / "w/.zarray").write_text(json.dumps({**description, "dtype": ">f4"}))
    (folder / "w/0.0").write_bytes(VALUES.astype(">f4").tobytes())
    same(load(folder)["w"], VALUES)


def test_only_the_chunks_of_a_region_are_read(tmp_path, load):
    folder = write_item(tmp_path / "item", {("w",): VALUES}, ocdbt=False, chunks=(3, 4))
    for chunk in (folder / "w").glob("[0-9]*"):
        if chunk.name != "1.2":
            chunk.write_bytes(b"damaged")
    state = load(folder)
    same(state.read("w", (slice(3, 6), slice(8, 10))), VALUES[3:6, 8:10].copy())
    same(state.read("w", (slice(3, 6), slice(8, None, 2))), VALUES[3:6, 8::2].copy())
    with refused(IntegrityError, "w/0.2", key=("w",)):
        state.read("w", (slice(2, 6), slice(8, 10)))


def test_only_the_chunks_of_a_region_are_read_from_a_shard(tmp_path, load):
    folder = write_item(tmp_path / "item", {("w",): VALUES}, ocdbt=False, **LAYOUTS["zarr3 shards"])
    shard = folder / "w/c/0/0"
    data = bytearray(shard.read_bytes())
    data[4:8] = b"\xff" * 4  # in the first chunk
    shard.write_bytes(data)
    state = load(folder)
    same(state.read("w", (slice(2, 4), slice(0, 6))), VALUES[2:4, :6].copy())
    with refused(IntegrityError, key=("w",)):
        state.read("w", (slice(0, 4), slice(0, 6)))


def test_many_threads_read_at_once(tmp_path, load):
    tree = {("l", number): VALUES + number for number in range(8)}
    state = load(write_item(tmp_path / "item", tree, chunks=(3, 4)))
    failed = []

    def work(first):
        for number in (*range(first, 8), *range(first)):
            if not np.array_equal(state[("l", str(number))], VALUES + number):
                failed.append(number)

    threads = [threading.Thread(target=work, args=(2 * index,)) for index in range(4)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert not failed


def test_more_arrays_than_stay_open(tmp_path, load, monkeypatch):
    monkeypatch.setattr("ckptbridge_orbax.array_store._OPEN_ARRAYS", 2)
    state = load(write_item(tmp_path / "item", {(f"w{number}",): VALUES + number for number in range(6)}))
    for _ in range(2):
        for number in range(6):
            same(state[f"w{number}"], VALUES + np.float32(number))
    assert len(state._close.store._open) == 2


def test_a_bool_that_is_neither_0_nor_1(tmp_path, load):
    folder = write_item(tmp_path / "item", {("b",): np.array([True, False])}, ocdbt=False, compressor=None)
    (folder / "b/0").write_bytes(b"\x01\x02")
    state = load(folder)
    # tensorstore refuses such bytes by itself, and versions of it that do not are checked by the reader.
    with refused(IntegrityError, 2, key=("b",)):
        state["b"]


def test_a_bool_that_tensorstore_did_not_check(tmp_path, load, monkeypatch):
    state = load(write_item(tmp_path / "item", {("b",): np.array([True, False])}))
    monkeypatch.setattr(
        "ckptbridge_orbax.array_store.ArrayStore.read", lambda *_: np.array([1, 2], np.uint8).view(bool)
    )
    with refused(MalformedFile, 2, key=("b",)):
        state["b"]


def test_a_name_is_not_the_beginning_of_another(tmp_path, load):
    tree = {("w",): VALUES, ("w2",): VALUES + 1, ("w/x",): VALUES + 2}
    for ocdbt in (True, False):
        state = load(write_item(tmp_path / str(ocdbt), tree, ocdbt=ocdbt))
        for key, values in tree.items():
            same(state[key], values)


# Parts that are not stored


@pytest.mark.parametrize(("driver", "metadata"), [("zarr", {"fill_value": 0.0}), ("zarr3", {})])
def test_old_versions_leave_out_what_equals_the_fill_value(tmp_path, load, driver, metadata):
    values = VALUES * (VALUES > 40)
    options = {"driver": driver, "chunks": (3, 5), "stored": False, **metadata}
    fields = {"store_array_data_equal_to_fill_value": None}
    folder = write_item(tmp_path / "item", {("w",): values, ("v",): VALUES}, fields=fields, **options)
    state = load(folder)
    same(state["w"], values)
    assert any("fill value" in note and "w" in note for note in state.metadata.notes)
    (folder / "_METADATA").write_text(tree_text({("w",): leaf(), ("v",): leaf()}))
    with refused(MalformedFile, key=("w",)):
        load(folder)


@pytest.mark.parametrize("flag", [True, None])
def test_a_part_that_is_missing_is_never_zeros(tmp_path, load, flag):
    fields = {"store_array_data_equal_to_fill_value": flag}
    folder = write_item(tmp_path / "item", {("w",): VALUES}, ocdbt=False, chunks=(3, 4), fields=fields)
    (folder / "w/1.1").unlink()
    with refused(MalformedFile, "1 of the 9", key=("w",)):
        load(folder)


def test_a_part_that_disappears_while_it_is_read(tmp_path, load):
    folder = write_item(tmp_path / "item", {("w",): VALUES}, ocdbt=False, chunks=(3, 4))
    state = load(folder)
    state.check_unchanged()
    (folder / "w/1.1").unlink()
    with refused(MalformedFile, "w/1.1", key=("w",)):
        state["w"]
    with refused(IntegrityError, "w/1.1"):
        state.check_unchanged()


@pytest.mark.parametrize("name", ["_METADATA", "manifest.ocdbt"])
def test_a_file_that_changes_while_it_is_read(tmp_path, load, name):
    folder = write_item(tmp_path / "item", {("w",): VALUES})
    state = load(folder)
    (folder / name).write_bytes((folder / name).read_bytes() + b" ")
    with refused(IntegrityError, name):
        state.check_unchanged()


def test_nothing_is_read_after_closing(tmp_path, load):
    state = load(write_item(tmp_path / "item", {("w",): VALUES}))
    before = state["w"]
    state.close()
    same(before, VALUES)
    with refused(SystemFailure, key=("w",)):
        state["w"]


# Databases of processes that were never merged


def test_chunks_of_one_array_in_several_databases(tmp_path, load):
    folder = tmp_path / "item"
    whole = write_item(tmp_path / "whole", {("w",): VALUES, ("v",): VALUES + 1}, chunks=(3, 4))
    import tensorstore as ts

    def database(path):
        return ts.KvStore.open({"driver": "ocdbt", "base": {"driver": "file", "path": f"{path}/"}}).result()

    source = database(whole)
    entries = {bytes(key).decode(): source.read(key).result().value for key in source.list().result()}
    for process in range(2):
        target = database(folder / f"ocdbt.process_{process}")
        for number, (key, value) in enumerate(sorted(entries.items())):
            if key.endswith(".zarray") or number % 2 == process:
                target.write(key, value).result()
    (folder / "_METADATA").write_bytes((whole / "_METADATA").read_bytes())
    state = load(folder)
    for key, values in {"w": VALUES, "v": VALUES + 1}.items():
        same(state[key], values)
        for region in ((slice(1, 7, 3), slice(2, 10, 3)), (slice(4, 5, 1), slice(0, 10, 1))):
            same(state.tensor(key).read(region), np.ascontiguousarray(values[region]))
    target.write("w/2.2", entries["w/2.2"]).result()
    source = database(folder / "ocdbt.process_0")
    source.write("w/2.2", entries["w/2.2"]).result()
    with refused(MalformedFile, "2.2", key=("w",)):
        load(folder)


def test_a_tree_without_tensors(tmp_path, load):
    state = load(write_item(tmp_path / "item", {}, others={("a",): leaf("Dict", skip=True)}))
    assert not len(state)
    assert state.metadata.empty == (("a",),)


@pytest.mark.parametrize("use_ocdbt", [True, False, None])
def test_a_tree_of_texts_has_no_database(tmp_path, load, use_ocdbt):
    others = {("a",): leaf("None", skip=True), ("s",): leaf("string")}
    state = load(write_item(tmp_path / "item", {}, others=others, fields={"use_ocdbt": use_ocdbt}))
    assert not len(state)
    others = {**others, ("w",): leaf("jax.Array")}
    with pytest.raises(MalformedFile):
        load(write_item(tmp_path / "item", {}, others=others, fields={"use_ocdbt": use_ocdbt}))


def test_an_array_without_a_tree(tmp_path, load):
    folder = tmp_path / "item"
    folder.mkdir()
    for name in ("a.10.w", "a.2.w"):
        write_array(folder, name, VALUES)
    state = load(folder)
    assert list(state) == [("a", "2", "w"), ("a", "10", "w")]
    assert any("_METADATA" in note for note in state.metadata.notes)
    same(state["a.2.w"], VALUES)


@pytest.mark.parametrize("ocdbt", [True, False], ids=["database", "files"])
def test_a_snapshot_of_hugging_faces_cache(tmp_path, load, ocdbt):
    blobs, snapshot = tmp_path / "model/blobs", tmp_path / "model/snapshots/abc"
    blobs.mkdir(parents=True)
    write_item(snapshot / "item", {("w",): VALUES}, ocdbt=ocdbt)
    files = [path for path in snapshot.rglob("*") if path.is_file()]
    for number, path in enumerate(files):
        path.rename(blobs / str(number))
        path.symlink_to(blobs / str(number))
    state = load(snapshot / "item")
    same(state["w"], VALUES)
    state.check_unchanged()
