"""Damaged and unfinished checkpoints: an error that names what is wrong, or the right values."""

from __future__ import annotations

import json
import os
import random
import shutil

import numpy as np
import pytest
import tensorstore as ts
from support.arrays import assert_same_bits
from support.orbax_damage import (
    GOOD,
    ZARRAY,
    command_refuses,
    copy,
    make_item,
    outcome,
    read_all,
    refusal,
    tree,
)
from support.orbax_values import TREES, expected

from bridge_core import (
    BadInputError,
    KeyConflict,
    LimitExceeded,
    MalformedFile,
    open_state,
)

NEW = "orbax-0.12.8"
OCDBT = f"{NEW}/pytree-ocdbt-zarr2-strings"
FILES = "orbax-0.4.8/files"


def assert_values(path, name, **options):
    wanted = expected(TREES[name])
    values = read_all(path, **options)
    assert set(values) == set(wanted)
    for key, array in wanted.items():
        assert_same_bits(values[key], array, "/".join(key))


# What is missing or cut


def test_an_item_made_by_hand_is_read(tmp_path):
    values = read_all(make_item(tmp_path / "item"))
    assert_same_bits(values["w",], GOOD)
    assert_same_bits(values["v",], GOOD)


@pytest.mark.parametrize("array", ["dense.kernel", "encoder/layer_0/attn.w", "scalar"])
def test_a_missing_chunk_is_not_zeros(stored, tmp_path, capsys, array):
    path = copy(stored / FILES, tmp_path / "item")
    (chunk,) = [file for file in (path / array).iterdir() if file.name != ".zarray"]
    chunk.unlink()
    assert array.rpartition(".")[2] in str(refusal(path))
    command_refuses(path, capsys)


def test_a_missing_chunk_of_several(stored, tmp_path):
    path = copy(stored / NEW / "pytree-files-zarr3-sharded", tmp_path / "item")
    (path / "rows/c/2/0").unlink()
    assert "rows" in str(refusal(path))


@pytest.mark.parametrize("array", ["dense.kernel", "empty"])
def test_a_missing_array(stored, tmp_path, capsys, array):
    path = copy(stored / FILES, tmp_path / "item")
    shutil.rmtree(path / array)
    assert array.rpartition(".")[2] in str(refusal(path))
    command_refuses(path, capsys)


def data_files(path):
    return sorted(file for file in path.rglob("*") if file.is_file() and file.parent.name == "d")


@pytest.mark.parametrize("name", [OCDBT, f"{NEW}/pytree-ocdbt-zarr2-subchunks", "orbax-0.4.8/sharded_ocdbt"])
def test_a_missing_data_file_is_refused_or_not_needed(stored, tmp_path, capsys, name):
    """Orbax leaves files behind that the merged manifest does not refer to."""
    whole = outcome(stored / name)
    refused = 0
    for number, file in enumerate(data_files(stored / name)):
        path = copy(stored / name, tmp_path / f"item{number}")
        (path / file.relative_to(stored / name)).unlink()
        found = outcome(path)
        refused += isinstance(found, BadInputError)
        assert isinstance(found, BadInputError) or found == whole
    assert refused


@pytest.mark.parametrize("length", [0, 1, 12, 60, -1])
def test_a_truncated_manifest(stored, tmp_path, command, length):
    path = copy(stored / OCDBT, tmp_path / "item")
    data = (path / "manifest.ocdbt").read_bytes()
    (path / "manifest.ocdbt").write_bytes(data[:length])
    assert "manifest.ocdbt" in str(refusal(path))
    command(path)


@pytest.mark.parametrize("count", [2, pytest.param(12, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", [OCDBT, "orbax-0.4.8/sharded_ocdbt", f"{NEW}/v1-ocdbt-zarr3/state"])
def test_no_flipped_byte_of_a_database_comes_through(stored, tmp_path, name, count):
    """Values of at most 1024 bytes are inside of nodes, which have checksums."""
    whole = outcome(stored / name)
    path = copy(stored / name, tmp_path / "item")
    chooser = random.Random(name)
    refused = 0
    for file in [path / "manifest.ocdbt", *data_files(path)]:
        data = file.read_bytes()
        for position in sorted({0, 5, len(data) - 1, *(chooser.randrange(len(data)) for _ in range(count))}):
            damaged = bytearray(data)
            damaged[position] ^= 1 << chooser.randrange(8)
            file.write_bytes(damaged)
            found = outcome(path)
            refused += isinstance(found, BadInputError)
            assert isinstance(found, BadInputError) or found == whole, (file, position)
        file.write_bytes(data)
    assert refused > count


@pytest.mark.slow
@pytest.mark.parametrize("name", [FILES, f"{NEW}/pytree-files-zarr3-sharded"])
def test_flipped_bytes_of_chunk_files(stored, tmp_path, name):
    """zarr's own files have no checksum of the values, so that a flip may be read as another value.

    It never changes a shape or a dtype, and zarr3's index of a shard has a checksum.
    """
    whole = outcome(stored / name)
    path = copy(stored / name, tmp_path / "item")
    chooser = random.Random(name)
    for file in sorted(file for file in path.rglob("*") if file.name[0].isdigit() and file.is_file()):
        data = file.read_bytes()
        for _ in range(4):
            damaged = bytearray(data)
            damaged[chooser.randrange(len(data))] ^= 1 << chooser.randrange(8)
            file.write_bytes(damaged)
            found = outcome(path)
            if not isinstance(found, BadInputError):
                assert {k: len(v) for k, v in found.items()} == {k: len(v) for k, v in whole.items()}
        file.write_bytes(data)


@pytest.mark.parametrize("length", [0, 3, 20])
def test_a_truncated_chunk(stored, tmp_path, command, length):
    path = copy(stored / FILES, tmp_path / "item")
    data = (path / "dense.kernel/0.0").read_bytes()
    (path / "dense.kernel/0.0").write_bytes(data[:length])
    assert "kernel" in str(refusal(path))
    command(path)


# What did not finish


@pytest.mark.parametrize("name", ["good.orbax-checkpoint-tmp", "good.orbax-checkpoint-tmp-123"])
@pytest.mark.parametrize("source", [OCDBT, FILES, f"{NEW}/manager-ocdbt-zarr2/5", f"{NEW}/v1-ocdbt-zarr3"])
def test_a_folder_of_a_temporary_name_is_refused(stored, tmp_path, command, source, name):
    path = copy(stored / source, tmp_path / name)
    error = refusal(path, entry="params" if "manager" in source else None)
    assert isinstance(error, MalformedFile)
    command(path)


def test_steps_that_did_not_finish_are_not_read(stored, tmp_path):
    root = copy(stored / NEW / "manager-ocdbt-zarr2", tmp_path / "root")
    (root / "100").rename(root / "100.orbax-checkpoint-tmp")
    (root / "12").rename(root / "12.orbax-checkpoint-tmp-1795988821954975")
    with open_state(root, entry="params") as state:
        assert state.metadata.provenance["step"] == "5"
        notes = " ".join(state.metadata.notes)
        assert "100.orbax-checkpoint-tmp" in notes
        assert "12.orbax-checkpoint-tmp-1795988821954975" in notes


def test_no_step_finished(stored, tmp_path, capsys):
    root = copy(stored / NEW / "prefixed", tmp_path / "root")
    (root / "checkpoint_00000007").rename(root / "checkpoint_00000007.orbax-checkpoint-tmp")
    assert "orbax-checkpoint-tmp" in str(refusal(root))
    command_refuses(root, capsys)


def test_an_item_that_did_not_finish_is_not_read(stored, tmp_path):
    step = copy(stored / NEW / "manager-ocdbt-zarr2/5", tmp_path / "5")
    (step / "params").rename(step / "params.orbax-checkpoint-tmp")
    (step / "optimizer_state").rename(step / "optimizer_state.orbax-checkpoint-tmp-7")
    assert ".orbax-checkpoint-tmp" in str(refusal(step))


def test_marks_of_completion_are_not_needed(stored, tmp_path):
    root = copy(stored / NEW / "manager-ocdbt-zarr2", tmp_path / "root")
    for name in ("commit_success.txt", "_CHECKPOINT_METADATA", "_sharding"):
        for file in [*root.rglob(name)]:
            file.unlink()
    wanted = expected(TREES["params"], "100:")
    values = read_all(root, entry="params")
    assert {k: v.tobytes() for k, v in values.items()} == {k: v.tobytes() for k, v in wanted.items()}


def database(path, values):
    store = ts.KvStore.open({"driver": "ocdbt", "base": {"driver": "file", "path": f"{path}/"}}).result()
    for name, value in values.items():
        store.write(name, value).result()


def halves():
    one = json.dumps({**ZARRAY, "chunks": [2, 4], "shape": [4, 4]}).encode()
    values = np.arange(16, dtype="<f4").reshape(4, 4)
    whole = json.dumps(ZARRAY).encode()
    return values, [
        {"w/.zarray": one, "w/0.0": values[:2].tobytes(), "v/.zarray": whole, "v/0.0": GOOD.tobytes()},
        {"w/.zarray": one, "w/1.0": values[2:].tobytes()},
    ]


def test_the_databases_of_processes_that_were_not_merged_are_united(tmp_path):
    values, parts = halves()
    path = tmp_path / "item"
    path.mkdir()
    (path / "_METADATA").write_text(json.dumps(tree(("w",), ("v",), use_ocdbt=True)))
    for number, part in enumerate(parts):
        database(path / f"ocdbt.process_{number}", part)
    read = read_all(path)
    assert_same_bits(read["w",], values)
    assert_same_bits(read["v",], GOOD)


def test_a_process_is_missing(tmp_path, capsys):
    _, parts = halves()
    path = tmp_path / "item"
    path.mkdir()
    (path / "_METADATA").write_text(json.dumps(tree(("w",), ("v",), use_ocdbt=True)))
    database(path / "ocdbt.process_0", parts[0])
    assert refusal(path).key == ("w",)
    command_refuses(path, capsys)


@pytest.mark.parametrize("name", ["pytree-ocdbt-zarr2-strings", "pytree-ocdbt-zarr3-train"])
def test_an_unmerged_checkpoint_of_orbax_is_read(stored, tmp_path, name):
    path = copy(stored / NEW / name, tmp_path / "item")
    (path / "manifest.ocdbt").unlink()
    shutil.rmtree(path / "d", ignore_errors=True)
    assert_values(path, name.rpartition("-")[2])


def test_a_database_without_a_manifest_is_not_an_empty_state(stored, tmp_path, capsys):
    path = copy(stored / OCDBT, tmp_path / "item")
    (path / "manifest.ocdbt").unlink()
    shutil.rmtree(path / "ocdbt.process_0")
    refusal(path)
    command_refuses(path, capsys)


# `_METADATA`

DEEP = b'{"tree_metadata": ' + b"[" * 100_000


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"not JSON",
        b"\xff\xfe",
        b'{"tree_metadata": NaN}',
        b"{}",
        b'{"tree_metadata": []}',
        b'{"tree_metadata": {"a": 1}}',
        b'{"tree_metadata": {"a": {}}}',
        b'{"tree_metadata": {}, "tree_metadata": {}}',
        DEEP,
        DEEP + b"]" * 100_000 + b"}",
    ],
    ids=lambda content: content[:24].decode("latin-1"),
)
def test_metadata_that_is_not_metadata(tmp_path, command, content):
    path = make_item(tmp_path / "item", metadata=content)
    assert "_METADATA" in str(refusal(path))
    command(path)


def with_leaf(**changes):
    document = tree(("v",), ("w",))
    leaf = document["tree_metadata"]["('w',)"]
    for name, value in changes.items():
        section, _, field = name.partition("__")
        if field:
            leaf[section][field] = value
        else:
            leaf[section] = value
    return document


@pytest.mark.parametrize(
    "document",
    [
        with_leaf(key_metadata=[]),
        with_leaf(key_metadata="w"),
        with_leaf(key_metadata=[{"key": 1, "key_type": 2}]),
        with_leaf(key_metadata=[{"key": "w"}]),
        with_leaf(key_metadata=[{"key": "w", "key_type": 9}]),
        with_leaf(key_metadata=[{"key": "w", "key_type": True}]),
        with_leaf(value_metadata=None),
        with_leaf(value_metadata={}),
        with_leaf(value_metadata__value_type=["np.ndarray"]),
        with_leaf(value_metadata__skip_deserialize="no"),
        with_leaf(value_metadata__skip_deserialize=True),
        with_leaf(key_metadata=[{"key": "w", "key_type": 2}, {"key": "deeper", "key_type": 2}]),
    ],
    ids=range(12),
)
def test_a_leaf_that_is_wrong(tmp_path, command, document):
    path = make_item(tmp_path / "item", metadata=document)
    refusal(path)
    command(path)


def test_a_word_for_an_array_that_is_not_known_yet(tmp_path):
    path = make_item(tmp_path / "item", metadata=with_leaf(value_metadata__value_type="jax.Tensor"))
    assert_same_bits(read_all(path)["w",], GOOD)


def test_metadata_of_a_gigabyte_is_not_read(tmp_path, capsys):
    path = make_item(tmp_path / "item")
    os.truncate(path / "_METADATA", 1 << 30)
    error = refusal(path)
    assert isinstance(error, LimitExceeded)
    assert "_METADATA" in str(error)
    command_refuses(path, capsys)


def test_a_manifest_of_a_gigabyte_is_not_read(stored, tmp_path):
    path = copy(stored / OCDBT, tmp_path / "item")
    os.truncate(path / "manifest.ocdbt", 1 << 30)
    error = refusal(path)
    assert isinstance(error, LimitExceeded)
    assert "manifest.ocdbt" in str(error)


@pytest.mark.parametrize("cut", [0, 10, 200, -2])
def test_truncated_metadata(stored, tmp_path, command, cut):
    path = copy(stored / OCDBT, tmp_path / "item")
    (path / "_METADATA").write_bytes((path / "_METADATA").read_bytes()[:cut])
    assert "_METADATA" in str(refusal(path))
    command(path)


def test_names_that_collide_are_refused(tmp_path, capsys):
    path = make_item(tmp_path / "item", metadata=tree(("v",), ("a", "b"), ("a.b",)), name="a.b")
    error = refusal(path)
    assert isinstance(error, KeyConflict)
    assert "a.b" in str(error)
    command_refuses(path, capsys)


def test_one_path_twice_is_refused(tmp_path):
    document = tree(("v",), ("w",))
    document["tree_metadata"]["other"] = document["tree_metadata"]["('w',)"]
    refusal(make_item(tmp_path / "item", metadata=document))


# The msgpack file of old checkpoints


@pytest.mark.parametrize("name", ["aggregate", "aggregate_no_metadata", "mixed", "files_no_metadata"])
@pytest.mark.parametrize("length", [0, 1, 40, -3])
def test_a_truncated_msgpack_file(stored, tmp_path, command, name, length):
    path = copy(stored / "orbax-0.4.8" / name, tmp_path / "item")
    (path / "checkpoint").write_bytes((path / "checkpoint").read_bytes()[:length])
    refusal(path)
    command(path)


@pytest.mark.parametrize("name", ["aggregate", "mixed"])
def test_a_missing_msgpack_file(stored, tmp_path, name):
    path = copy(stored / "orbax-0.4.8" / name, tmp_path / "item")
    (path / "checkpoint").unlink()
    assert "checkpoint" in str(refusal(path))


@pytest.mark.parametrize(
    "target", [b"../../outside/w", b"/etc/passwd0000", b"encoder/../../../w", b"large\0567890123"]
)
def test_a_placeholder_that_leads_out(stored, tmp_path, target):
    path = copy(stored / "orbax-0.4.8/mixed_no_metadata", tmp_path / "item")
    data = (path / "checkpoint").read_bytes()
    old = b"PLACEHOLDER://large"
    assert data.count(bytes([0xA0 + len(old)]) + old) == 1
    new = b"PLACEHOLDER://" + target
    data = data.replace(bytes([0xA0 + len(old)]) + old, bytes([0xD9, len(new)]) + new)
    (path / "checkpoint").write_bytes(data)
    refusal(path)
