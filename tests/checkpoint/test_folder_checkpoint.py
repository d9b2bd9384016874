"""Checkpoints that are folders: steps, items, entries, and writing without loss."""

import json

import ml_dtypes
import numpy as np
import pytest
from click.testing import CliRunner
from support.errors import refused
from support.folder_format import StepFolders
from support.schemas import check_document

from bridge_core import convert, default_registry, open_state, save_state
from bridge_core.cli import main
from bridge_core.errors import (
    DestinationExists,
    MalformedFile,
    SourceNotFound,
    SystemFailure,
    UnsafeFile,
    UnsupportedFeature,
    UsageError,
    VerificationError,
)
from bridge_core.io import SourceFolder
from bridge_core.plugins import hookimpl, loaded_registry


class PluginOf:
    def __init__(self, value):
        self._value = value
        self.__name__ = "folders"

    @hookimpl
    def bridge_formats(self):
        return [self._value]


def run(*args):
    result = CliRunner().invoke(main, [str(arg) for arg in args])
    assert result.exit_code == 0, result.stderr
    return result


REGISTRY = default_registry().extend(PluginOf(StepFolders()))


def numbers(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def save(path, seed=0, **options):
    tensors = {("fc", "kernel"): numbers(3, 2, seed=seed), ("ema", "kernel"): numbers(2, seed=seed + 1)}
    return save_state(tensors, path, format="stepfolder", layout="neutral", registry=REGISTRY, **options)


def opened(path, **options):
    with open_state(path, registry=REGISTRY, **options) as state:
        return {".".join(key): state[key] for key in state}, state.metadata


def test_a_root_of_steps_is_read_at_its_latest_step(tmp_path):
    for seed, step in enumerate((3, 20, 100)):
        save(tmp_path / "run", seed, step=step)
    values, metadata = opened(tmp_path / "run")
    assert np.array_equal(values["fc.kernel"], numbers(3, 2, seed=2))
    assert metadata.provenance["step"] == "100"
    assert "20, 3" in " ".join(metadata.notes)
    values, _ = opened(tmp_path / "run", step=20)
    assert np.array_equal(values["fc.kernel"], numbers(3, 2, seed=1))
    values, _ = opened(tmp_path / "run" / "3")
    assert np.array_equal(values["fc.kernel"], numbers(3, 2))
    with refused(UsageError, "4"):
        opened(tmp_path / "run", step=4)


def test_an_entry_is_an_item_or_a_path_in_one(tmp_path):
    save(tmp_path / "run", 0, step=1, item="params")
    save(tmp_path / "run", 5, step=1, item="opt", overwrite=True)
    values, metadata = opened(tmp_path / "run")
    assert metadata.provenance["item"] == "params"
    assert "opt" in " ".join(metadata.notes)
    assert np.array_equal(opened(tmp_path / "run", entry="opt")[0]["fc.kernel"], numbers(3, 2, seed=5))
    assert list(opened(tmp_path / "run", entry="opt.fc")[0]) == ["kernel"]
    assert list(opened(tmp_path / "run", entry="ema")[0]) == ["kernel"]
    with refused(UsageError, "opt", "params", "fc"):
        opened(tmp_path / "run", entry="absent")
    assert np.array_equal(values["fc.kernel"], numbers(3, 2))


def test_items_whose_names_do_not_show_the_weights_have_to_be_chosen(tmp_path):
    save(tmp_path / "run", item="one")
    save(tmp_path / "run", item="two", overwrite=True)
    with refused(UsageError, "one, two", hint="entry="):
        opened(tmp_path / "run")


def test_a_step_of_what_has_no_steps_is_refused(tmp_path):
    save(tmp_path / "item")
    np.savez(tmp_path / "a.npz", x=np.zeros(2))
    for path in (tmp_path / "item", tmp_path / "a.npz"):
        with refused(UsageError, "step"):
            opened(path, step=1)
    for step in (-1, "3", True):
        with refused(UsageError, "step"):
            opened(tmp_path / "item", step=step)
    with refused(UsageError, "step"):
        convert({"a": np.zeros(2)}, tmp_path / "x.npz", to="neutral", layout="neutral", step=1)


def test_steps_and_items_do_not_apply_to_files(tmp_path):
    for options, name in (({"to_step": 1}, "to_step"), ({"to_item": "params"}, "to_item")):
        with refused(UsageError, name):
            convert(
                {"fc.kernel": np.zeros((2, 2))}, tmp_path / "x.npz", to="neutral", layout="neutral", **options
            )
    assert not list(tmp_path.iterdir())
    with refused(UsageError, "max_shard_size"):
        save(tmp_path / "run", max_shard_size="1MB")


def test_weights_of_a_usual_name_are_read_and_not_the_steps_next_to_them(tmp_path):
    save(tmp_path / "run", step=1)
    save_state(
        {("x", "weight"): np.ones((2, 2), np.float32)}, tmp_path / "run" / "model.safetensors", layout="torch"
    )
    values, metadata = opened(tmp_path / "run")
    assert list(values) == ["x.weight"]
    assert "--format stepfolder" in " ".join(metadata.notes)
    assert "fc.kernel" in opened(tmp_path / "run", format="stepfolder")[0]


@pytest.mark.parametrize("item", [None, "params"])
def test_overwriting_loses_no_other_step_or_item(tmp_path, item):
    save(tmp_path / "run", 0, step=1, item=item)
    with refused(DestinationExists, "run", hint="overwrite"):
        save(tmp_path / "run", 1, step=1, item=item)
    save(tmp_path / "run", 1, step=2, item=item)
    with refused(DestinationExists, "2 steps", hint="to_step"):
        save(tmp_path / "run", 2, overwrite=True)
    save(tmp_path / "run", 2, step=1, item=item, overwrite=True)
    assert np.array_equal(opened(tmp_path / "run", step=1)[0]["fc.kernel"], numbers(3, 2, seed=2))
    assert np.array_equal(opened(tmp_path / "run", step=2)[0]["fc.kernel"], numbers(3, 2, seed=1))
    if item is not None:
        save(tmp_path / "run", 3, step=1, item="other", overwrite=True)
        assert np.array_equal(opened(tmp_path / "run", step=1)[0]["fc.kernel"], numbers(3, 2, seed=2))
        with refused(DestinationExists, "other, params", hint="to_item"):
            save(tmp_path / "run", 4, step=1, overwrite=True)


def test_a_folder_that_is_not_a_checkpoint_is_not_replaced(tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.txt").write_text("years of work")
    with refused(DestinationExists, "home", hint="new folder"):
        save(tmp_path / "home", overwrite=True)
    assert (tmp_path / "home" / "thesis.txt").read_text() == "years of work"


def test_a_step_is_not_written_where_it_could_not_be_read(tmp_path):
    save(tmp_path / "one")
    with refused(DestinationExists, "one", "steps"):
        save(tmp_path / "one", step=4)
    assert not (tmp_path / "one" / "4").exists()


def test_an_item_is_not_written_into_an_item(tmp_path):
    save(tmp_path / "one")
    before = sorted(tmp_path.rglob("*"))
    with refused(DestinationExists, "one", "params"):
        save(tmp_path / "one", item="params", overwrite=True)
    assert sorted(tmp_path.rglob("*")) == before


def test_other_files_of_a_step_stay_when_an_item_is_replaced(tmp_path):
    save(tmp_path / "run", step=1, item="params")
    notes = tmp_path / "run" / "1" / "notes.txt"
    notes.write_text("mine")
    save(tmp_path / "run", 1, step=1, item="params", overwrite=True)
    assert notes.read_text() == "mine"


def test_an_item_without_tensors_is_not_replaced(tmp_path):
    save(tmp_path / "run", step=1, item="params")
    other = tmp_path / "run" / "1" / "assets"
    other.mkdir()
    (other / "norms.json").write_text("{}")
    with refused(DestinationExists, "assets", "no tensors", hint="--to-item"):
        save(tmp_path / "run", step=1, item="assets", overwrite=True)
    assert (other / "norms.json").exists()


@pytest.mark.parametrize(("item", "does"), [("ema", "added"), ("params", "replaced")])
def test_writing_an_item_of_a_step_says_what_happens_to_the_step(tmp_path, item, does):
    save(tmp_path / "run", step=1, item="params")
    with refused(DestinationExists, item, does, hint="the other items stay"):
        save(tmp_path / "run", step=1, item=item)
    save(tmp_path / "run", step=1, item=item, overwrite=True)


@pytest.mark.parametrize("place", ["run", "run/1"])
def test_files_of_weights_are_not_put_into_a_checkpoint(tmp_path, place):
    save(tmp_path / "run", step=1, item="params")
    with refused(DestinationExists, "stepfolder", hint="--format stepfolder"):
        save_state(
            {("w",): numbers(2)}, tmp_path / place, layout="neutral", registry=REGISTRY, overwrite=True
        )
    save_state({("w",): numbers(2)}, tmp_path / place / "w.safetensors", layout="neutral", registry=REGISTRY)


def test_files_of_weights_may_lie_next_to_a_checkpoint(tmp_path):
    save(tmp_path / f"a{StepFolders.extensions[0]}")
    save_state({("w",): numbers(2)}, tmp_path, layout="neutral", registry=REGISTRY, overwrite=True)
    assert (tmp_path / "model.safetensors").exists()


def test_a_part_of_a_checkpoint_says_which_folder_to_give(tmp_path):
    save(tmp_path / "run", step=1, item="params")
    item = tmp_path / "run" / "1" / "params"
    (item / "deep").mkdir()
    (item / "deep" / "part").write_bytes(b"no weights at all")
    for place in (item / "deep" / "part", item / "deep", next(f for f in item.iterdir() if f.is_file())):
        with refused(MalformedFile, hint=f"{item},"), open_state(place, registry=REGISTRY):
            pass
    (tmp_path / "noise").write_bytes(b"no weights at all")
    with pytest.raises(MalformedFile) as caught, open_state(tmp_path / "noise", registry=REGISTRY):
        pass
    assert "give that folder" not in str(caught.value.hint)


def test_a_write_that_fails_leaves_nothing_behind(tmp_path):
    class Failing(StepFolders):
        def write_folder(self, state, target, *, step=None, item=None):
            super().write_folder(state, target, step=step, item=item)
            raise OSError(28, "No space left on device")

    registry = default_registry().extend(PluginOf(Failing()))
    with refused(SystemFailure, "run"):
        save_state(
            {("a",): np.zeros(2, np.float32)},
            tmp_path / "run",
            format="stepfolder",
            layout="neutral",
            step=1,
            registry=registry,
        )
    assert not list(tmp_path.iterdir())


def test_what_was_written_is_compared(tmp_path):
    class Wrong(StepFolders):
        def write_folder(self, state, target, *, step=None, item=None):
            super().write_folder(state, target, step=step, item=item)
            file = target.path / "0.bin"
            file.write_bytes(bytes(file.stat().st_size))

    registry = default_registry().extend(PluginOf(Wrong()))
    source = {"fc.kernel": numbers(2, 2)}
    with refused(VerificationError, "fc.kernel"):
        convert(
            source, tmp_path / "a", to="neutral", layout="neutral", format="stepfolder", registry=registry
        )
    assert not list(tmp_path.iterdir())


def test_the_source_may_be_the_destination(tmp_path):
    save(tmp_path / "run", 3)
    with open_state(tmp_path / "run", registry=REGISTRY) as state:
        save_state(state, tmp_path / "run", format="stepfolder", overwrite=True, registry=REGISTRY)
    assert np.array_equal(opened(tmp_path / "run")[0]["fc.kernel"], numbers(3, 2, seed=3))


def test_names_in_a_folder_do_not_lead_out_of_it(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "secret").write_text("s")
    (tmp_path / "in" / "link").symlink_to(tmp_path / "secret")
    (tmp_path / "in" / "plain").write_text("p")
    folder = SourceFolder(tmp_path / "in")
    assert folder.read("plain", 10) == b"p"
    for name in ("../secret", "link", "/etc/passwd", "a//b", ".", "x\0", ""):
        with refused(UnsafeFile):
            folder.open(name)
    with refused(SourceNotFound, "absent"):
        folder.open("absent")
    assert SourceFolder(tmp_path / "in", follow_links=True).read("link", 10) == b"s"


def test_the_command_lists_steps_and_items(tmp_path, monkeypatch):
    save(tmp_path / "run", 0, step=5, item="params")
    save(tmp_path / "run", 1, step=12, item="params")
    plugin = tmp_path / "stepfolder_plugin.py"
    plugin.write_text(
        "from bridge_core import hookimpl\nfrom support.folder_format import StepFolders\n\n\n"
        "@hookimpl\ndef bridge_formats():\n    return [StepFolders()]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    asked = ("--plugin", "stepfolder_plugin")
    seen = run("inspect", tmp_path / "run", "--step", "5", *asked)
    assert "5, 12" in seen.stdout
    document = json.loads(run("inspect", tmp_path / "run", "--json", *asked).stdout)
    check_document("inspect", document)
    assert (document["steps"], document["step"]) == ([5, 12], 12)
    assert document["items"] == [{"name": "params", "what": "tensors", "has_tensors": True}]
    ran = run(
        "convert",
        tmp_path / "run",
        tmp_path / "out",
        "--to",
        "neutral",
        "--step",
        "5",
        "--format",
        "stepfolder",
        "--to-step",
        "1",
        "--to-item",
        "weights",
        "--json",
        *asked,
    )
    assert json.loads(ran.stdout)["files"] == [str(tmp_path / "out" / "1")]
    assert np.array_equal(opened(tmp_path / "out", entry="weights")[0]["fc.kernel"], numbers(3, 2))


def test_a_format_of_folders_does_not_read_files(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.zeros(2))
    with refused(UsageError, "stepfolder"):
        opened(tmp_path / "a.npz", format="stepfolder")
    (tmp_path / "empty").mkdir()
    with refused(MalformedFile, "empty"):
        opened(tmp_path / "empty", format="stepfolder")


@pytest.mark.parametrize(("name", "package"), [("x.orbax", "ckptbridge-orbax"), ("x.h5", "ckptbridge-hdf5")])
@pytest.mark.parametrize("by", ["name", "format"])
def test_a_format_that_is_not_installed_says_what_to_install(tmp_path, name, package, by):
    without = loaded_registry(disabled=["all"])
    place, format = (tmp_path / name, None) if by == "name" else (tmp_path / "x", package[11:])
    with refused(UsageError, package[11:], hint=f"pip install {package}"):
        save_state({("w",): numbers(2)}, place, format=format, layout="flax", registry=without)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("place", ["run", "run/3", "run/3/params"])
def test_a_checkpoint_of_orbax_that_no_format_reads_says_what_to_install(tmp_path, place):
    (tmp_path / "run" / "3" / "params").mkdir(parents=True)
    for folder in ("run/3", "run/3/params"):
        (tmp_path / folder / "_CHECKPOINT_METADATA").write_text("{}")
    with (
        refused(MalformedFile, "Orbax", hint="pip install ckptbridge-orbax"),
        open_state(tmp_path / place, registry=loaded_registry(disabled=["all"])),
    ):
        pass


def test_a_dtype_that_a_format_cannot_hold_has_a_format_that_can(tmp_path):
    four_bits = np.arange(4).astype(ml_dtypes.int4)
    with refused(UnsupportedFeature, "int4", hint="--format npz"):
        save_state({("w",): four_bits}, tmp_path / "w.safetensors", layout="flax")
    save_state({("w",): four_bits}, tmp_path / "w.npz", layout="flax")


def test_a_format_of_files_does_not_read_an_installed_format_of_folders(tmp_path):
    pytest.importorskip("ckptbridge_orbax")
    (tmp_path / "run" / "3").mkdir(parents=True)
    (tmp_path / "run" / "3" / "_METADATA").write_text("{}")
    for place in (tmp_path / "run", tmp_path / "run" / "3"):
        with refused(MalformedFile, "Orbax", hint="Remove"), open_state(place, format="npz"):
            pass


def test_an_item_that_another_writer_adds_meanwhile_is_not_lost(tmp_path):
    save(tmp_path / "run", step=1, item="params")

    def other_writer(progress):
        if progress.phase == "verifying" and not (tmp_path / "run" / "1" / "ema").exists():
            save(tmp_path / "run", step=1, item="ema", overwrite=True)

    with refused(DestinationExists, "ema", hint="again"):
        save(tmp_path / "run", 1, step=1, item="params", overwrite=True, verify=True, progress=other_writer)
    save(tmp_path / "run", 1, step=1, item="params", overwrite=True)
    assert {entry.name for entry in (tmp_path / "run" / "1").iterdir()} >= {"ema", "params"}
