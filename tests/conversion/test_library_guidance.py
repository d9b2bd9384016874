"""What an installed model library knows of a folder is used, told, and kept out where nobody wants it."""

from __future__ import annotations

import importlib
import json
import sys
import types
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.numpy import load_file
from support.errors import refused
from support.toy_library import CONFIG, Net, Raises, Zoo, make_folder, models, weights, zoo_registry

from bridge_core import (
    AmbiguousLayerError,
    MalformedFile,
    MismatchError,
    Rule,
    RuleError,
    UsageError,
    convert,
    open_state,
    plan_conversion,
    save_state,
    verify,
)
from bridge_core.cli import main


@pytest.fixture
def folder(tmp_path):
    return make_folder(tmp_path / "source")


def planned(source, library, **options):
    options.setdefault("to", "flax")
    return plan_conversion(source, registry=zoo_registry(library), **options)


# -- when a library is asked ------------------------------------------------------------------------


def test_a_folder_is_guided_without_an_option(folder, monkeypatch):
    library = Zoo()
    plan = planned(folder, library)
    assert {step.evidence for step in plan.steps} == {"module"}
    assert {step.targets[0][-1] for step in plan.steps} == {"embedding", "kernel"}
    (asked,) = library.asked
    assert (asked.folder, asked.to, asked.model) == (folder, "flax", None)
    assert asked.state.layout == "torch"
    monkeypatch.chdir(folder)
    planned(".", library)
    assert library.asked[-1].folder == folder


@pytest.mark.parametrize("options", [{}, {"allow_missing": "**"}], ids=repr)
def test_a_refusal_says_that_the_expected_names_come_from_the_folder(folder, options):
    state = {**weights("Net"), "more.weight": np.zeros((3, 4)), "more.bias": np.zeros(3)}
    save_state(state, folder / "model.safetensors", overwrite=True)
    with refused(MismatchError, hint=("the class that the folder names", "--model CLASS", "--model none")):
        planned(folder, Zoo(), **options)
    (folder / "config.json").write_text("{}")
    with refused(MismatchError, hint="the class that config.json names"):
        planned(folder, Zoo(), model="auto")
    like = {"wte": {"embedding": np.zeros((6, 4), "float32")}}
    with pytest.raises(MismatchError) as caught:
        planned(folder, Zoo(), like=like)
    assert "--model" not in str(caught.value)


def test_without_a_library_the_same_folder_is_ambiguous(folder):
    with pytest.raises(AmbiguousLayerError):
        planned(folder, Zoo(), model="none")
    with pytest.raises(AmbiguousLayerError):
        plan_conversion(folder, to="flax", registry=zoo_registry())


def test_none_keeps_the_library_out(folder):
    library = Zoo()
    planned(folder, library, model="none", accept_guesses=True)
    assert not library.asked


def test_a_file_is_guided_as_its_folder_is(folder, tmp_path):
    library, file = Zoo(notes=("Net of the zoo",)), folder / "model.safetensors"
    assert planned(file, library).describe() == planned(folder, library).describe()
    assert [(asked.folder, asked.model) for asked in library.asked] == [(folder, None), (folder, None)]
    planned(file, library, model="auto")
    assert library.asked[-1].model is None
    planned(file, library, model="Net")
    assert library.asked[-1].model == "Net"
    with pytest.raises(AmbiguousLayerError):
        planned(file, library, model="none")
    registry = zoo_registry(library)
    assert convert(file, tmp_path / "a.msgpack", to="flax", registry=registry).sidecar_files == ()
    report = convert(file, f"{tmp_path}/out/", to="flax", registry=registry)
    assert report.sidecar_files == (tmp_path / "out" / CONFIG,)
    assert verify(file, tmp_path / "a.msgpack", registry=registry).equal


@pytest.mark.parametrize("others", [(), ("b.safetensors",), ("model.safetensors",)])
def test_a_config_beside_a_file_of_another_name_is_not_its_own_unasked(folder, others):
    library, file = Zoo(), folder / "my.safetensors"
    (folder / "model.safetensors").rename(file)
    for name in others:
        (folder / name).write_bytes(file.read_bytes())
    (folder / "config.json").write_text("{}")
    ways = ("config.json next to my.safetensors", 'model="auto" (--model auto)')
    with refused(AmbiguousLayerError, hint=ways) as error:
        planned(file, library)
    assert error.value.options[0] == "--model auto"
    assert not library.asked
    assert {step.evidence for step in planned(file, library, model="auto").steps} == {"module"}


def test_a_config_is_a_way_on_only_where_it_was_not_read(folder, tmp_path):
    file = folder / "my.safetensors"
    (folder / "model.safetensors").rename(file)
    (folder / "config.json").write_text("{}")
    alone = tmp_path / "alone.safetensors"
    alone.write_bytes(file.read_bytes())
    for source, registry, options in (
        (file, zoo_registry(Zoo()), {"model": "none"}),
        (file, zoo_registry(), {}),
        (alone, zoo_registry(Zoo()), {}),
    ):
        with pytest.raises(AmbiguousLayerError) as error:
            plan_conversion(source, to="flax", registry=registry, **options)
        assert "config.json" not in str(error.value)


def test_where_a_library_fails_a_file_is_read_by_itself_and_a_folder_is_refused(folder):
    (folder / CONFIG).write_text("{")
    with refused(AmbiguousLayerError, hint=("model.safetensors was read without", f"{CONFIG}: ")):
        planned(folder / "model.safetensors", Zoo())
    assert planned(folder / "model.safetensors", Zoo(), accept_guesses=True).ok
    with refused(MalformedFile, CONFIG, hint="--model none"):
        planned(folder, Zoo(), accept_guesses=True)
    assert planned(folder, Zoo(), model="none", accept_guesses=True).steps
    with refused(MalformedFile, CONFIG):
        planned(folder / "model.safetensors", Zoo(), model="auto")


def test_a_file_that_is_clear_by_itself_asks_no_library(folder, tmp_path):
    library, file = Zoo(), folder / "model.safetensors"
    assert {step.evidence for step in planned(file, library, accept_guesses=True).steps} == {"guess"}
    planned(file, library, to="neutral")
    assert not library.asked


@pytest.mark.parametrize("source", ["mapping", "state"])
def test_what_is_no_path_is_not_guided(folder, source):
    library = Zoo()
    with open_state(folder) as state:
        given = state if source == "state" else dict(state.items())
        with pytest.raises(AmbiguousLayerError):
            planned(given, library)
        with refused(UsageError, 'model="auto"'):
            planned(given, library, model="auto")
    assert not library.asked


def test_a_class_is_named_against_the_folder(tmp_path):
    folder, library = make_folder(tmp_path / "source", "Tied"), Zoo()
    assert len(planned(folder, library).target_specs()) == 2
    with refused(MismatchError, "params.head.kernel") as caught:
        planned(folder, library, model="Net")
    assert len(caught.value.missing) == 1


def test_a_class_that_nobody_knows_is_refused(folder, tmp_path):
    with refused(UsageError, "'Nat'", "Net, Tied"):
        planned(folder, Zoo(), model="Nat")
    other = make_folder(tmp_path / "other", config=False)
    for name in ("Net", "auto"):
        with refused(UsageError, f'model="{name}"', "adapters: zoo", hint="PKG.MOD:FACTORY"):
            planned(other, Zoo(), model=name)
    with refused(UsageError, 'model="Net"', "adapters: none"):
        plan_conversion(other, to="flax", model="Net", registry=zoo_registry())


def test_a_folder_of_nobody_goes_as_it_did(tmp_path):
    other = make_folder(tmp_path / "other", config=False)
    with pytest.raises(AmbiguousLayerError):
        planned(other, Zoo())
    assert planned(other, Zoo(), accept_guesses=True).notes == ()


def test_the_first_library_that_knows_a_folder_is_taken(folder):
    class Blind(Zoo):
        name = "blind"

        def guide(self, checkpoint):
            self.asked.append(checkpoint)

    class Second(Zoo):
        name = "second"

    blind, first, second = Blind(), Zoo(notes=("first",)), Second()
    plan = plan_conversion(folder, to="flax", registry=zoo_registry(blind, first, second))
    assert plan.notes == ("first",)
    assert [len(library.asked) for library in (blind, first, second)] == [1, 1, 0]


# -- the caller goes first --------------------------------------------------------------------------


def test_the_callers_model_keeps_the_library_out(folder, monkeypatch):
    library = Zoo()
    with torch.device("meta"):
        planned(folder, library, model=Net())
    monkeypatch.setitem(sys.modules, "made_up", types.SimpleNamespace(make=lambda: models("Net")["torch"]))
    planned(folder, library, model="made_up:make")
    assert not library.asked


def test_the_callers_template_goes_first(folder):
    like = {"wte": {"embedding": np.ones((6, 4))}, "proj": {"kernel": np.ones((4, 4))}}
    with refused(MismatchError, "head", hint="--allow-unexpected"):
        planned(folder, Zoo(), like=like)
    plan = planned(folder, Zoo(), like=like, allow_unexpected=["head.**"])
    assert set(plan.target_specs()) == {("wte", "embedding"), ("proj", "kernel")}


def test_rules_of_both_are_used_and_the_callers_first(folder):
    theirs = Zoo(
        like=None,
        model=None,
        rules=(Rule.layer("wte", "embedding"), Rule.layer("*", "linear", optional=True)),
    )
    steps = {step.sources[0][0]: step for step in planned(folder, theirs).steps}
    assert {name: step.kind for name, step in steps.items()} == {
        "wte": "embedding",
        "proj": "linear",
        "head": "linear",
    }
    own = planned(folder, theirs, rules=[Rule.layer("head", "embedding")])
    kinds = {step.sources[0][0]: step.kind for step in own.steps}
    assert kinds == {"wte": "embedding", "proj": "linear", "head": "embedding"}


def test_the_callers_rule_for_a_name_goes_before_the_librarys(folder):
    theirs = Zoo(like=None, model=None, rules=(Rule.drop("head.**", "unused"), Rule.layer("*", "linear")))
    assert {d.key[0] for d in planned(folder, theirs).dropped} == {"head"}
    own = planned(folder, theirs, rules=[Rule.rename("head.**", "top.**")])
    assert not own.dropped
    assert {step.targets[0][0] for step in own.steps} == {"wte", "proj", "top"}
    with refused(RuleError, "'head.**'", "'head.*'"):
        planned(folder, theirs, rules=[Rule.rename("head.**", "top.**"), Rule.drop("head.*", "twice")])


# -- what is told -----------------------------------------------------------------------------------


def test_notes_arrive_in_the_plan_and_the_report(folder, tmp_path):
    library = Zoo(notes=("Net of the zoo", "and more"))
    plan = planned(folder, library)
    assert plan.notes == ("Net of the zoo", "and more")
    assert "note: Net of the zoo" in plan.describe()
    assert plan.to_json()["notes"] == ["Net of the zoo", "and more"]
    report = convert(folder, tmp_path / "a.msgpack", to="flax", registry=zoo_registry(library))
    assert report.notes == plan.notes
    assert report.to_json()["notes"] == list(plan.notes)


def test_a_plan_that_cannot_be_run_is_guided_as_well(folder):
    library = Zoo(notes=("Net of the zoo",), like=models("Tied")["flax"])
    plan = planned(folder, library, check=False)
    assert plan.unexpected == (("head", "weight"),)
    assert plan.notes == ("Net of the zoo",)


# -- shards and ties --------------------------------------------------------------------------------


def test_the_librarys_shard_size_holds_for_folders_where_the_caller_gives_none(folder, tmp_path):
    registry = zoo_registry(Zoo(max_shard_size=100))
    many = convert(folder, f"{tmp_path}/many/", to="flax", registry=registry)
    assert len(many.files) == 4  # three shards and an index
    one = convert(folder, f"{tmp_path}/one/", to="flax", max_shard_size="1MB", registry=registry)
    assert [path.name for path in one.files] == ["flax_model.msgpack"]
    file = convert(folder, tmp_path / "a.msgpack", to="flax", registry=registry)
    assert file.files == (tmp_path / "a.msgpack",)
    assert (tmp_path / "a.msgpack").is_file()
    with refused(UsageError, "at least 1 byte, got 0"):
        convert(folder, f"{tmp_path}/none/", to="flax", max_shard_size=0, registry=registry)


@pytest.mark.parametrize("form", ["safetensors", "torch"])
@pytest.mark.parametrize("limit", [None, 100], ids=["one file", "shards"])
def test_untied_writes_every_name_in_full(tmp_path, form, limit):
    folder = make_folder(tmp_path / "source", "Tied")
    convert(folder, f"{tmp_path}/flax/", to="flax", registry=zoo_registry(Zoo()))
    for duplicate_tied in (False, True):
        registry = zoo_registry(Zoo(duplicate_tied=duplicate_tied))
        place = tmp_path / f"{duplicate_tied}"
        report = convert(
            tmp_path / "flax", f"{place}/", to="torch", format=form, max_shard_size=limit, registry=registry
        )
        with open_state(place) as made:
            assert (("head", "weight") in made.metadata.ties) is not duplicate_tied
            assert np.array_equal(made["head", "weight"], weights("Tied")["wte.weight"])
        if form == "safetensors":
            stored = [name for path in report.files if path.suffix != ".json" for name in load_file(path)]
            assert ("head.weight" in stored) is duplicate_tied
        assert verify(tmp_path / "flax", place, registry=registry).equal


def test_verifying_uses_what_the_library_knows(folder, tmp_path, monkeypatch):
    registry = zoo_registry(Zoo())
    convert(folder, tmp_path / "a.msgpack", to="flax", registry=registry)
    assert verify(folder, tmp_path / "a.msgpack", registry=registry).equal
    with refused(UsageError, "'Nat'"):
        verify(folder, tmp_path / "a.msgpack", model="Nat", registry=registry)
    monkeypatch.setitem(sys.modules, "made_up", types.SimpleNamespace(make=lambda: models("Net")["torch"]))
    assert verify(folder, tmp_path / "a.msgpack", model="made_up:make", registry=zoo_registry()).equal
    with pytest.raises(UsageError):
        verify(folder, tmp_path / "a.msgpack", model="made_up:nothing", registry=zoo_registry())
    other = make_folder(tmp_path / "other", seed=1)
    found = verify(other, tmp_path / "a.msgpack", registry=registry)
    assert {difference.key[1] for difference in found.differing} == {"wte", "proj", "head"}


# -- the command ------------------------------------------------------------------------------------


@pytest.fixture
def command(monkeypatch):
    """Run the command as if the zoo were installed."""

    def run(*args, library=None):
        registry = zoo_registry(library or Zoo(notes=("Net of the zoo",)))
        monkeypatch.setattr(
            importlib.import_module("bridge_core.conversion.convert"), "given_registry", lambda _: registry
        )
        result = CliRunner().invoke(main, [str(arg) for arg in args])
        return SimpleNamespace(code=result.exit_code, out=result.stdout, err=result.stderr)

    return run


def test_the_command_plans_explains_converts_and_verifies(folder, tmp_path, command):
    plan = command("plan", folder, "--to", "flax", "--json")
    assert plan.code == 0
    assert json.loads(plan.out)["notes"] == ["Net of the zoo"]
    assert "note: Net of the zoo" in command("plan", folder, "--to", "flax").out
    assert "why      module: " in command("explain", folder, "wte.weight", "--to", "flax").out
    made = command("convert", folder, f"{tmp_path}/out/", "--to", "flax")
    assert made.code == 0
    assert f"sidecar files: {CONFIG}\n" in made.out
    assert "note: Net of the zoo\n" in made.out
    assert command("verify", folder, tmp_path / "out").code == 0
    again = command("convert", folder, f"{tmp_path}/out/", "--to", "flax", "--overwrite", "--json")
    assert json.loads(again.out)["beside"] == [str(tmp_path / "out" / CONFIG)]


def test_the_command_takes_a_class_auto_or_none(folder, command):
    file = folder / "model.safetensors"
    assert command("plan", file, "--to", "flax").code == 0
    assert command("plan", file, "--to", "flax", "--model", "none").code == 1
    assert command("plan", file, "--to", "flax", "--model", "auto").code == 0
    assert command("plan", file, "--to", "flax", "--model", "Net").code == 0
    assert command("plan", folder, "--to", "flax", "--model", "none").code == 1
    unknown = command("plan", folder, "--to", "flax", "--model", "Nat")
    assert unknown.code == 2
    assert "'Nat'" in unknown.err


def test_the_command_names_a_library_that_fails(folder, command):
    failed = command("plan", folder, "--to", "flax", library=Raises(ZeroDivisionError("oh")))
    assert failed.code == 1
    assert "plugin zoo: " in failed.err
    assert "--model none" in failed.err
    assert "Traceback" not in failed.err
