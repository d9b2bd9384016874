import os

import pytest
from support.memory_filesystem import MemoryFileSystem
from support.work_parts import write_source

from bridge_core import open_state
from bridge_core.work import identity_of_source


def identity(place, *sidecar_files):
    with open_state(place) as state:
        return identity_of_source(state.location, state.specs(), sidecar_files)


def test_a_file_is_its_size_and_time(tmp_path):
    source = write_source(tmp_path / "a.safetensors")
    before = identity(source)
    assert [(file.name, file.size) for file in before.files] == [("a.safetensors", source.stat().st_size)]
    assert identity(source) == before
    assert before.changes(identity(source)) == []
    os.utime(source, ns=(0, 12345))
    assert before.changes(identity(source)) == ["a.safetensors was written again"]


def test_a_sharded_set_is_its_index_and_all_its_shards(tmp_path):
    folder = write_source(tmp_path / "shards", max_shard_size=3000)
    before = identity(folder)
    assert len(before.files) == 7
    assert before.files[0].name == "model.safetensors.index.json"
    last = folder / before.files[-1].name
    data = last.read_bytes()
    last.write_bytes(data + b" ")
    now = identity_of_source(folder / "model.safetensors.index.json", {})
    assert before.changes(now) == [f"{last.name} has {len(data) + 1} bytes instead of {len(data)}"]


def test_a_folder_that_is_one_checkpoint_is_all_its_files(tmp_path):
    (tmp_path / "step" / "d").mkdir(parents=True)
    (tmp_path / "step" / "d" / "1").write_bytes(b"abc")
    (tmp_path / "step" / "meta").write_bytes(b"")
    before = identity_of_source(tmp_path / "step", {})
    assert [(file.name, file.size) for file in before.files] == [("d/1", 3), ("meta", 0)]
    (tmp_path / "step" / "d" / "1").unlink()
    (tmp_path / "step" / "d" / "2").write_bytes(b"abc")
    changes = before.changes(identity_of_source(tmp_path / "step", {}))
    assert changes == ["d/1 is missing", "d/2 is new"]


@pytest.mark.parametrize("has_versions", [True, False])
def test_a_file_at_a_url_is_its_size_and_version(tmp_path, has_versions):
    source = write_source(tmp_path / "a.safetensors")
    store = MemoryFileSystem(folder=tmp_path, has_versions=has_versions)
    (file,) = identity(store.path("a.safetensors")).files
    assert (file.size, file.mtime_ns, bool(file.version)) == (source.stat().st_size, None, has_versions)
    assert ("version" in file.to_json()) == has_versions


def test_sidecar_files_and_the_names_of_tensors_belong_to_it(tmp_path):
    source = write_source(tmp_path / "a.safetensors")
    (tmp_path / "config.json").write_text("{}")
    before = identity(source, "config.json")
    assert [file.name for file in before.files] == ["a.safetensors", "config.json"]
    other = identity_of_source(source, {}, ["config.json"])
    assert before.changes(other) == ["its tensors have other names, dtypes or shapes"]
