"""Roots, steps and items, by names only."""

from __future__ import annotations

import pytest
from support.errors import refused

from bridge_core import MalformedFile, SourceNotFound, SystemFailure, UnsafeFile, UsageError
from bridge_core.io import SourceFolder
from ckptbridge_orbax import OrbaxFormat

ITEM, STEP = "_METADATA", "_CHECKPOINT_METADATA"


@pytest.fixture
def made(tmp_path):
    """Make empty files by name, and return their folder."""

    def made(*names):
        root = tmp_path / "root"
        for name in names:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(b"")
        return root

    return made


def contents(path, step=None):
    return OrbaxFormat().contents(SourceFolder(path), step)


def sniffed(path):
    return OrbaxFormat().sniff_folder(SourceFolder(path))


def tensor_items(path, step=None):
    return [item.name for item in contents(path, step).items if item.has_tensors]


@pytest.mark.parametrize(
    "files",
    [
        ("_METADATA",),
        ("manifest.ocdbt", "d/0"),
        ("ocdbt.process_0/manifest.ocdbt",),
        ("_CHECKPOINT_METADATA", "_METADATA"),
        ("w/.zarray", "w/0"),
        ("w/zarr.json", "w/c/0"),
    ],
)
def test_an_item(made, files):
    found = contents(made(*files))
    assert (found.steps, found.step, found.item) == ((), None, "")
    assert [item.name for item in found.items] == [""]


def test_an_item_is_in_a_file_of_msgpack_and_not_of_tensorflow(made):
    root = made("checkpoint")
    (root / "checkpoint").write_bytes(b'model_checkpoint_path: "ckpt-1"\n')
    assert not sniffed(root)
    (root / "checkpoint").write_bytes(b"\x81\xa1a\x01")
    assert sniffed(root)
    assert contents(root).item == ""


def test_items_of_a_step(made):
    root = made(
        "_CHECKPOINT_METADATA",
        f"params/{ITEM}",
        f"train_state/{ITEM}",
        "metadata/metadata",
        "metadata/commit_success.txt",
        "key/jax_random_key/_METADATA",
        "assets/tokenizer.model",
    )
    listed = contents(root)
    assert {item.name: item.what for item in listed.items} == {
        "assets": "other files",
        "key": "a key of random numbers",
        "metadata": "JSON",
        "params": "a tree of arrays",
        "train_state": "a tree of arrays",
    }
    assert tensor_items(root) == ["params", "train_state"]
    assert listed.item == "params"


@pytest.mark.parametrize(
    ("names", "item"),
    [
        (("optimizer_state", "model_params"), "model_params"),
        (("state", "model"), "model"),
        (("default", "extra"), "default"),
        (("anything",), "anything"),
        (("one", "two"), None),
    ],
)
def test_the_item_with_the_weights(made, names, item):
    assert contents(made(*(f"{name}/{ITEM}" for name in names))).item == item


@pytest.mark.parametrize(
    "step_names",
    [("5", "20", "100"), ("checkpoint_5", "checkpoint_20", "checkpoint_100"), ("s-005", "s-020", "s-100")],
)
@pytest.mark.parametrize("inner", ["default/_METADATA", "_METADATA", "_CHECKPOINT_METADATA"])
def test_steps_are_ordered_by_number(made, step_names, inner):
    files = [f"{name}/{inner}" for name in step_names]
    if inner == STEP:
        files += [f"{name}/params/manifest.ocdbt" for name in step_names]
    root = made(*files, "metadata/_ROOT_METADATA", "notes/readme.txt")
    assert sniffed(root)
    assert contents(root).steps == (5, 20, 100)
    assert contents(root).step == 100
    assert contents(root, 20).step == 20
    assert not contents(root).unfinished


def test_a_step_that_is_not_there(made):
    root = made("5/a/_METADATA", "12/a/_METADATA", "30.orbax-checkpoint-tmp-17/a/_METADATA")
    with refused(UsageError, 13, hint="12"):
        contents(root, 13)
    with refused(MalformedFile, "30.orbax-checkpoint-tmp-17"):
        contents(root, 30)
    with refused(UsageError, 5, hint="step="):
        contents(root / "5", 5)


def test_what_did_not_finish_is_listed_and_not_read(made):
    root = made(
        "5/a/_METADATA",
        "5/b.orbax-checkpoint-tmp/_METADATA",
        "7.orbax-checkpoint-tmp/a/_METADATA",
        "6/a.orbax-checkpoint-tmp-123/_METADATA",
    )
    found = contents(root)
    assert found.steps == (5,)
    assert found.unfinished == ("6", "7.orbax-checkpoint-tmp", "5/b.orbax-checkpoint-tmp")


@pytest.mark.parametrize("name", ["x.orbax-checkpoint-tmp", "x.orbax-checkpoint-tmp-123/params"])
def test_an_unfinished_folder_is_refused_by_name(made, name):
    root = made(f"{name}/_METADATA")
    with refused(MalformedFile, "x.orbax-checkpoint-tmp"):
        contents(root / name)


def test_two_folders_of_one_step(made):
    with refused(MalformedFile, 7, "checkpoint_7", "checkpoint_007"):
        contents(made("checkpoint_7/_METADATA", "checkpoint_007/_METADATA"))


def test_items_whose_names_end_in_digits_are_not_steps(made):
    assert tensor_items(made("model1/_METADATA", "ema2/_METADATA")) == ["ema2", "model1"]
    assert tensor_items(made("params/_METADATA")) == ["ema2", "model1", "params"]


def test_a_folder_that_is_not_a_checkpoint(made):
    root = made("notes.txt", "pictures/2024/a.png")
    assert not sniffed(root)
    with refused(MalformedFile, "_METADATA", "pictures"):
        contents(root)


def test_an_item_that_is_not_there_or_has_no_tensors(made):
    root = made("3/params/_METADATA", "3/meta/metadata")
    reader = OrbaxFormat()
    with refused(UsageError, "param", hint="params"):
        reader.open_folder(SourceFolder(root), item="param")
    with refused(UsageError, "meta", "JSON"):
        reader.open_folder(SourceFolder(root), item="meta")
    with refused(UsageError, "other"):
        reader.open_folder(SourceFolder(root / "3/params"), item="other")


def test_many_steps_are_listed_without_opening_a_file(made, monkeypatch):
    root = made(*(f"{step}/default/_METADATA" for step in range(60)))

    def read(*arguments):
        raise AssertionError("a file was opened")

    monkeypatch.setattr(SourceFolder, "open", read)
    assert contents(root).steps == tuple(range(60))


def test_a_link_to_the_latest_step_is_not_a_step(made):
    root = made("checkpoint_5/_METADATA", "checkpoint_20/_METADATA")
    (root / "latest").symlink_to(root / "checkpoint_20")
    assert contents(root).steps == (5, 20)


def test_a_link_out_of_the_folder_does_not_hide_what_it_is(made, tmp_path):
    root = made("z/_METADATA")
    (root / "a").symlink_to(tmp_path)
    assert sniffed(root)


def test_an_item_may_be_named_as_the_data_of_a_database(made):
    assert tensor_items(made("d/_METADATA")) == ["d"]


def test_a_link_to_a_step_elsewhere_is_refused(made, tmp_path):
    root = made("1/a/_METADATA")
    (tmp_path / "elsewhere/a").mkdir(parents=True)
    (tmp_path / "elsewhere/a/_METADATA").write_bytes(b"")
    (root / "2").symlink_to(tmp_path / "elsewhere")
    with refused(UnsafeFile, "elsewhere"):
        contents(root)


def test_a_folder_that_does_not_exist(tmp_path):
    assert not sniffed(tmp_path / "absent")
    with pytest.raises((SystemFailure, SourceNotFound)):
        contents(tmp_path / "absent")


def test_the_plugin_imports_no_library_of_arrays():
    import subprocess
    import sys

    code = (
        "import sys, ckptbridge_orbax, ckptbridge_orbax.reader\n"
        "list(ckptbridge_orbax.bridge_formats())\n"
        "print({'jax', 'orbax', 'tensorstore', 'flax'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "set()", done.stderr
