"""What the names of shards say, and what the folder of an index says of them."""

from __future__ import annotations

import pytest
from support.errors import refused

from bridge_core import ShardError
from bridge_core.formats.shard_folder import ShardName, check_complete, compare_folder, shard_name
from bridge_core.io.downloads import control_file, is_unfinished, unfinished_downloads


def names(*numbers, total=3, stem="model"):
    return [f"{stem}-{number:05d}-of-{total:05d}.safetensors" for number in numbers]


def put(folder, *files):
    for name in files:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("model-00002-of-00003.safetensors", ShardName("model-", 2, 3, ".safetensors", 5)),
        ("model.fp16-1-of-2.bin", ShardName("model.fp16-", 1, 2, ".bin", 1)),
        ("model_1_of_2.pt", ShardName("model_", 1, 2, ".pt", 1)),
        ("model-00001-of-000163.safetensors", ShardName("model-", 1, 163, ".safetensors", 6)),
        ("model.safetensors", None),
        ("best-of-2.pt", None),
        ("model-3-of.pt", None),
    ],
)
def test_a_name_says_which_part_of_how_many(name, read):
    assert shard_name(name) == read


def test_a_shard_of_the_same_set_must_be_named(tmp_path):
    put(tmp_path, *names(1, 2, 3))
    with refused(ShardError, "the.index", "model-00003-of-00003.safetensors"):
        compare_folder(names(1, 2), tmp_path, index="the.index")
    assert compare_folder(names(1, 2, 3), tmp_path, index="the.index") == ((), "")


@pytest.mark.parametrize(
    "beside",
    [
        names(1, total=2, stem="model.fp16"),
        names(3, stem="model.fp16"),
        [name.replace("safetensors", "bin") for name in names(3)],
        ["._model-00004-of-00003.safetensors", "model-00003-of-00003.safetensors.part", "model.safetensors"],
        ["model-00003-of-00003.safetensors/inside"],
    ],
    ids=str,
)
def test_files_of_other_sets_are_no_part_of_this_one(tmp_path, beside):
    put(tmp_path, *names(1, 2, total=2), *beside)
    assert compare_folder(names(1, 2, total=2), tmp_path, index="i").notes == ()


def test_a_set_of_another_size_and_absent_shards_are_told(tmp_path):
    put(tmp_path, *names(1, 2), *names(1, total=2))
    notes, absent = compare_folder(names(1, 2), tmp_path, index="i")
    assert absent == "2 of the 3 shards that the name 'model-N-of-3.safetensors' counts"
    unread, incomplete = notes
    assert names(1, total=2)[0] in unread
    assert absent in incomplete


def test_shards_counted_from_zero_are_complete(tmp_path):
    put(tmp_path, *names(0, 1, total=2))
    assert compare_folder(names(0, 1, total=2), tmp_path, index="i") == ((), "")


@pytest.mark.parametrize(
    ("name", "unfinished"),
    [
        ("m.safetensors.incomplete", True),
        ("m.safetensors.crdownload", True),
        ("m.bin.PART", True),
        ("m.bin.tmp.1", True),
        ("m.bin.aria2", True),
        ("m.bin", False),
        ("part.bin", False),
        (".tmp", False),
    ],
)
def test_names_of_unfinished_downloads(name, unfinished):
    assert is_unfinished(name) is unfinished


def test_unfinished_downloads_are_found_where_tools_keep_them(tmp_path):
    folder = tmp_path / "models" / "snapshots" / "0"
    put(folder, "a.bin.part", "b.bin.abc.incomplete", "c.bin", ".cache/huggingface/download/h.0.incomplete")
    put(tmp_path / "models" / "blobs", "0.incomplete", "1")
    kept = [".cache/huggingface/download/h.0.incomplete"]
    blobs = ["../../blobs/0.incomplete"]
    assert unfinished_downloads(folder) == sorted([*blobs, *kept, "a.bin.part", "b.bin.abc.incomplete"])
    assert unfinished_downloads(folder, ["a.bin", "c.bin"]) == sorted([*blobs, *kept, "a.bin.part"])
    assert unfinished_downloads(tmp_path / "nothing") == []
    with refused(ShardError, "1 of 2", "missing: a.bin.", "a.bin.part", hint="Finish"):
        check_complete(["a.bin", "c.bin"], folder, index="i")
    put(folder, "c.bin.aria2")
    assert control_file(folder / "c.bin") == folder / "c.bin.aria2"
    with refused(ShardError, "'c.bin'", "c.bin.aria2", hint="c.bin.aria2"):
        check_complete(["c.bin"], folder, index="i")
