"""Files that a model library keeps beside its weights: copied whole, from nowhere else, or not at all."""

from __future__ import annotations

import errno
import os
import shutil

import numpy as np
import pytest
from support.errors import refused
from support.toy_format import descriptors
from support.toy_library import CONFIG, Zoo, make_folder, weights, zoo_registry

from bridge_core import (
    BadInputError,
    DestinationExists,
    IntegrityError,
    MalformedFile,
    PluginError,
    SourceFile,
    SourceIsFolder,
    SystemFailure,
    TruncatedFile,
    UnsafeFile,
    UsageError,
    VerificationError,
    convert,
    open_state,
    save_state,
)
from bridge_core.io import syscalls

BIG = os.urandom(3 << 20) + b"end"


@pytest.fixture
def folder(tmp_path):
    made = make_folder(tmp_path / "source")
    (made / "big.model").write_bytes(BIG)
    (made / "empty.txt").touch()
    (made / "notes.md").write_text("not the library's")
    return made


BESIDE = (CONFIG, "big.model", "empty.txt")


def run(source, destination, *, sidecar_files=BESIDE, **options):
    options.setdefault("to", "flax")
    return convert(source, destination, registry=zoo_registry(Zoo(sidecar_files=sidecar_files)), **options)


def names(folder):
    return sorted(entry.name for entry in folder.iterdir())


def content(folder):
    return {entry.name: entry.read_bytes() for entry in folder.iterdir() if entry.is_file()}


# -- where they go ----------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["slash", "shards", "exists", "index"])
def test_a_folder_gets_a_copy_of_each(folder, tmp_path, how):
    place, options = tmp_path / "out", {}
    if how == "exists":
        place.mkdir()
    elif how == "shards":
        options = {"max_shard_size": "1MB"}  # makes a folder of a path that does not end with a slash
    elif how == "index":
        options = {"max_shard_size": 100}
    report = run(folder, place if how != "slash" else f"{place}/", **options)
    assert report.sidecar_files == tuple(place / name for name in BESIDE)
    assert report.to_json()["beside"] == [str(place / name) for name in BESIDE]
    assert not set(report.sidecar_files) & set(report.files)
    assert names(place) == sorted((*BESIDE, *(path.name for path in report.files)))
    for name in BESIDE:
        assert (place / name).read_bytes() == (folder / name).read_bytes()


def test_a_single_file_has_no_place_for_them(folder, tmp_path):
    report = run(folder, tmp_path / "a.msgpack")
    assert report.sidecar_files == ()
    assert names(tmp_path) == ["a.msgpack", "source"]


def test_they_replace_those_of_an_existing_folder_and_leave_the_rest(folder, tmp_path):
    place = make_folder(tmp_path / "out")
    (place / CONFIG).write_text("old")
    (place / "own.txt").write_text("kept")
    with pytest.raises(DestinationExists):
        run(folder, place)
    assert (place / CONFIG).read_text() == "old"
    run(folder, place, overwrite=True)
    assert names(place) == sorted((*BESIDE, "flax_model.msgpack", "own.txt"))
    assert (place / CONFIG).read_bytes() == (folder / CONFIG).read_bytes()
    assert (place / "own.txt").read_text() == "kept"


def test_a_folder_of_one_of_their_names_is_not_lost(folder, tmp_path):
    place = tmp_path / "out"
    (place / CONFIG).mkdir(parents=True)
    with refused(DestinationExists, str(place), repr(CONFIG)):
        run(folder, place, overwrite=True)
    assert names(place) == [CONFIG]


@pytest.mark.parametrize("linked", [False, True], ids=["as it is", "by a link"])
def test_a_folder_converted_in_place_keeps_them(folder, tmp_path, linked):
    before = content(folder)
    place = folder
    if linked:
        place = tmp_path / "link"
        place.symlink_to(folder)
    run(folder, place, overwrite=True)
    after = content(folder)
    assert set(after) == {*before, "flax_model.msgpack"} - {"model.safetensors"}
    assert all(after[name] == before[name] for name in (*BESIDE, "notes.md"))
    run(folder, place, to="torch", overwrite=True)
    assert set(content(folder)) == set(before)
    with open_state(folder) as back:
        for name, value in weights().items():
            assert np.array_equal(back[tuple(name.split("."))], value)


def test_nothing_stays_open(folder, tmp_path):
    run(folder, f"{tmp_path}/warm/")
    before = descriptors()
    run(folder, f"{tmp_path}/out/")
    with pytest.raises(BadInputError):
        run(folder, f"{tmp_path}/more/", sidecar_files=(CONFIG, "missing"))
    assert descriptors() == before


# -- what is refused --------------------------------------------------------------------------------


def assert_refused(folder, tmp_path, error, *named, **options):
    place = tmp_path / "place"
    place.mkdir()
    with refused(error, *named):
        run(folder, f"{place}/out/", **options)
    assert names(place) == []


def test_a_link_within_the_folder_is_followed(folder, tmp_path):
    (folder / CONFIG).rename(folder / "real.json")
    (folder / CONFIG).symlink_to("real.json")
    run(folder, f"{tmp_path}/out/")
    copy = tmp_path / "out" / CONFIG
    assert not copy.is_symlink()
    assert copy.read_bytes() == (folder / "real.json").read_bytes()


def test_the_layout_of_hugging_faces_cache_is_followed(folder, tmp_path):
    model = tmp_path / "cache" / "models--zoo--net"
    blobs, snapshot = model / "blobs", model / "snapshots" / "0f3a"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for number, name in enumerate(("model.safetensors", *BESIDE)):
        shutil.copy(folder / name, blobs / f"{number:040x}")
        (snapshot / name).symlink_to(f"../../blobs/{number:040x}")
    run(snapshot, f"{tmp_path}/out/")
    for name in BESIDE:
        copy = tmp_path / "out" / name
        assert not copy.is_symlink()
        assert copy.read_bytes() == (folder / name).read_bytes()


@pytest.mark.parametrize("absolute", [False, True])
def test_a_link_that_leads_out_is_refused_unless_it_is_to_be_followed(folder, tmp_path, absolute):
    secret = tmp_path / "secret"
    secret.write_text("not the model's")
    (folder / "big.model").unlink()
    (folder / "big.model").symlink_to(secret if absolute else "../secret")
    assert_refused(folder, tmp_path, UnsafeFile, "big.model", secret, "--follow-links")
    run(folder, f"{tmp_path}/out/", follow_links=True)
    assert (tmp_path / "out" / "big.model").read_text() == "not the model's"


@pytest.mark.parametrize("kind", ["FIFO", "folder", "link to a FIFO", "circle", "dangling", "gone"])
def test_what_is_no_file_is_refused(folder, tmp_path, kind):
    path = folder / "big.model"
    path.unlink()
    if kind == "FIFO":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "link to a FIFO":
        os.mkfifo(folder / "pipe")
        path.symlink_to("pipe")
    elif kind == "circle":
        path.symlink_to("big.model")
    elif kind == "dangling":
        path.symlink_to("nothing")
    error = SourceIsFolder if kind == "folder" else MalformedFile
    assert_refused(folder, tmp_path, error, "big.model")


def test_a_name_of_weights_is_refused(folder, tmp_path):
    for name in ("model.safetensors", "pytorch_model.bin", "model.safetensors.index.json"):
        assert_refused(folder, tmp_path, PluginError, "zoo", repr(name), sidecar_files=(name,))
        (tmp_path / "place").rmdir()


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "/x", "a/b", "a\0b", "model.safetensors"])
def test_saving_refuses_names_that_are_no_files_beside(folder, tmp_path, name):
    with SourceFile(folder / CONFIG) as file, refused(UsageError, repr(name)):
        save_state(weights(), f"{tmp_path}/out/", format="npz", sidecar_files={name: file})
    assert names(tmp_path) == ["source"]


# -- faults -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("exists", [False, True], ids=["new", "over the old"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_a_copy_that_fails_leaves_nothing_behind(folder, tmp_path, monkeypatch, exists, code):
    place, pwrite, failed = tmp_path / "place", syscalls.pwrite, []
    (place / "out").mkdir(parents=True) if exists else place.mkdir()
    if exists:
        (place / "out" / CONFIG).write_text("old")

    def failing(fd, data, offset):
        if bytes(data[:8]) == BIG[2 << 20 :][:8]:
            failed.append(offset)
            raise OSError(code, os.strerror(code))
        return pwrite(fd, data, offset)

    monkeypatch.setattr(syscalls, "pwrite", failing)
    with refused(SystemFailure, os.strerror(code)) as caught:
        run(folder, f"{place}/out/", overwrite=exists)
    assert caught.value.errno == code
    assert failed == [2 << 20]
    assert caught.value.path == place / "out" / "big.model"
    assert names(place) == (["out"] if exists else [])
    if exists:
        assert content(place / "out") == {CONFIG: b"old"}


def test_a_copy_that_went_wrong_is_noticed(folder, tmp_path, monkeypatch):
    pwrite = syscalls.pwrite

    def flipping(fd, data, offset):
        if bytes(data[:8]) == BIG[2 << 20 :][:8]:
            data = bytes((data[0] ^ 1,)) + bytes(data[1:])
        return pwrite(fd, data, offset)

    monkeypatch.setattr(syscalls, "pwrite", flipping)
    assert_refused(folder, tmp_path, VerificationError, "out/big.model")
    assert not run(folder, f"{tmp_path}/out/", verify=False).verified


@pytest.mark.parametrize(
    ("how", "error"),
    [
        ("rewritten", IntegrityError),
        ("cut off", TruncatedFile),
        ("replaced", IntegrityError),
        ("removed", IntegrityError),
    ],
)
def test_a_file_that_changes_meanwhile_is_noticed(folder, tmp_path, how, error):
    path, times = folder / "big.model", []

    def change(progress):
        if not times:
            if how == "rewritten":
                path.write_bytes(BIG[::-1])
                os.utime(path, ns=(1, 1))
            elif how == "cut off":
                path.write_bytes(BIG[:10])
            elif how == "replaced":
                path.rename(folder / "other")
                path.write_bytes(BIG)
            else:
                path.unlink()
        times.append(progress)

    assert_refused(folder, tmp_path, error, path, progress=change)
    assert times


# -- what the conversion changes --------------------------------------------------------------------


def test_a_file_may_be_written_with_another_content(folder, tmp_path):
    zoo = Zoo(sidecar_files=BESIDE, sidecar_contents={CONFIG: b"changed"})
    report = convert(folder, f"{tmp_path}/out/", to="flax", dtype="float16", registry=zoo_registry(zoo))
    assert content(tmp_path / "out")[CONFIG] == b"changed"
    assert content(tmp_path / "out")["big.model"] == BIG
    assert sorted(path.name for path in report.sidecar_files) == sorted(BESIDE)
    assert zoo.asked[0].dtype == "float16"
    assert b"changed" not in content(folder)[CONFIG]


@pytest.mark.parametrize("changed", [{"other.txt": b""}, {CONFIG: "text"}, [CONFIG]], ids=repr)
def test_only_contents_of_files_beside_may_change(folder, tmp_path, changed):
    zoo = Zoo(sidecar_files=BESIDE, sidecar_contents=changed)
    with refused(PluginError, "zoo", f"sidecar_contents={changed!r}"):
        convert(folder, f"{tmp_path}/out/", to="flax", registry=zoo_registry(zoo))


def test_a_stem_names_the_files_of_a_folder(folder, tmp_path):
    registry = zoo_registry(Zoo(base_name="diffusion_flax_model"))
    convert(folder, f"{tmp_path}/out/", to="flax", registry=registry)
    assert names(tmp_path / "out") == ["diffusion_flax_model.msgpack", CONFIG]
    convert(folder, f"{tmp_path}/out/", to="flax", registry=registry, max_shard_size=64, overwrite=True)
    made = names(tmp_path / "out")
    assert "diffusion_flax_model.msgpack" not in made
    assert "diffusion_flax_model.msgpack.index.json" in made
    assert any(name.startswith("diffusion_flax_model-00001-of-") for name in made)
    with refused(UsageError, "'../up'"):
        save_state(weights(), f"{tmp_path}/other/", base_name="../up")
