"""A library's adapter that keeps the contract passes it, and the contract notices each way of breaking it."""

from __future__ import annotations

import contextlib
import inspect
import itertools
import json
import os
import shutil
import socket
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
from support.broken_plugins import check_caught, check_fault, every, fault, parameters
from support.toy_library import CONFIG, Net, Zoo, make_folder, zoo_registry

from bridge_core import Guidance, Rule
from bridge_core.testing import LibraryContract


class ZooContract(LibraryContract):
    library = Zoo()
    registry = zoo_registry(library)

    def folders(self, place):
        return [(make_folder(place / name, name), "flax") for name in ("Net", "Tied")]

    def foreign(self, place):
        yield make_folder(place / "another", config=False)


class TestZoo(ZooContract):
    """The toy library."""


class Changed(Zoo):
    """Does something else with what the toy library gives."""

    def guide(self, checkpoint):
        found = super().guide(checkpoint)
        return found if found is None else self.change(found, checkpoint)

    def change(self, found, checkpoint):
        return found


class KnowsAll(Zoo):
    def guide(self, checkpoint):
        return super().guide(checkpoint) or Guidance()


class KnowsNone(Zoo):
    def guide(self, checkpoint):
        return None


class OnlyToFlax(Zoo):
    def guide(self, checkpoint):
        return super().guide(checkpoint) if checkpoint.to == "flax" else None


class IgnoresTheClass(Zoo):
    def guide(self, checkpoint):
        return super().guide(replace(checkpoint, model=None))


class RaisesRaw(Zoo):
    def guide(self, checkpoint):
        path = checkpoint.folder / CONFIG
        if path.exists():
            json.loads(path.read_text())
        return super().guide(checkpoint)


class NeedsItsFile(Zoo):
    def guide(self, checkpoint):
        if checkpoint.folder.name in ("Net", "Tied"):
            (checkpoint.folder / CONFIG).stat()
        return super().guide(checkpoint)


class KnowsByName(Zoo):
    def guide(self, checkpoint):
        known = checkpoint.folder.name in ("Net", "Tied") or "-" in checkpoint.folder.name
        return super().guide(checkpoint) if known else None


class WrongTemplate(Changed):
    def change(self, found, checkpoint):
        return replace(found, like=Net())


class NamesNoFile(Changed):
    def change(self, found, checkpoint):
        return replace(found, sidecar_files=("missing.txt",))


class NamesTwice(Changed):
    def change(self, found, checkpoint):
        return replace(found, sidecar_files=(CONFIG, CONFIG))


class NamesWeights(Changed):
    def change(self, found, checkpoint):
        return replace(found, sidecar_files=("model.safetensors",))


class Fickle(Changed):
    count = itertools.count()

    def change(self, found, checkpoint):
        return replace(found, notes=(f"call {next(self.count)}",))


class OtherModels(Changed):
    count = itertools.count()

    def change(self, found, checkpoint):
        if checkpoint.state.layout != "torch":
            return found
        return replace(found, model=Net(tied=bool(next(self.count) % 2)))


class LeavesACache(Changed):
    def change(self, found, checkpoint):
        (checkpoint.folder / ".cache").touch()
        return found


class TouchesFiles(Changed):
    def change(self, found, checkpoint):
        os.utime(checkpoint.folder / CONFIG, ns=(1, 1))
        return found


class CallsHome(Changed):
    def change(self, found, checkpoint):
        with socket.socket() as caller, contextlib.suppress(OSError):
            caller.connect(("127.0.0.1", 9))
        return found


class ForgetsTheModel(Changed):
    def change(self, found, checkpoint):
        return replace(found, model=None, like=None)


class RenamesOnTheWayBack(Changed):
    def change(self, found, checkpoint):
        if checkpoint.state.layout == "torch":
            return found
        return replace(found, like=None, rules=(Rule.rename("proj.**", "other.**"),))


class AnotherType(Changed):
    def change(self, found, checkpoint):
        return SimpleNamespace(**vars(found))


class MovesToTheFolder(Changed):
    def change(self, found, checkpoint):
        os.chdir(checkpoint.folder)
        return found


class ImportsFromTheFolder(Changed):
    def change(self, found, checkpoint):
        sys.path.insert(0, str(checkpoint.folder))
        return found


class ChangesMetadata(Changed):
    def change(self, found, checkpoint):
        checkpoint.state.metadata.tree_form["zoo"] = "variables"
        return found


class RunsCode(Changed):
    def change(self, found, checkpoint):
        path = checkpoint.folder / "modeling.py"
        if path.exists():
            exec(compile(path.read_text(), str(path), "exec"), {"__file__": str(path)})
        return found


class LooksUpNames(Changed):
    def change(self, found, checkpoint):
        with contextlib.suppress(OSError):
            socket.getaddrinfo("localhost", 80)
        return found


PROCESS = "test_asking_leaves_the_process_as_it_was"
FOREIGN, USED = "test_folders_of_others_are_not_known", "test_what_is_known_can_be_used"
FILES, AGREE = "test_files_beside_the_weights_are_there_and_no_weights", "test_two_calls_agree"
CONVERTED = "test_folders_are_converted_and_come_back_bit_for_bit"
FAULTS = [
    (KnowsAll, FOREIGN, "is known"),
    (WrongTemplate, USED, "the template is of torch"),
    (AnotherType, USED, "expected a Guidance", "SimpleNamespace"),
    (NamesNoFile, FILES, "missing.txt"),
    (NamesTwice, FILES, "twice"),
    (NamesWeights, FILES, "model.safetensors"),
    (Fickle, AGREE, "notes"),
    (OtherModels, AGREE, "model"),
    (IgnoresTheClass, "test_an_unknown_class_is_refused", "UsageError"),
    (RaisesRaw, "test_damaged_files_raise_nothing_raw", "MalformedFile"),
    (LeavesACache, "test_asking_changes_nothing_in_the_folder", ".cache"),
    (TouchesFiles, "test_asking_changes_nothing_in_the_folder", "zoo.json"),
    (CallsHome, "test_no_network_is_used", "127.0.0.1"),
    (LooksUpNames, "test_no_network_is_used", "localhost"),
    (MovesToTheFolder, PROCESS, "working folder"),
    (ImportsFromTheFolder, PROCESS, "sys.path"),
    (ChangesMetadata, PROCESS, "change copies"),
    (RunsCode, "test_no_code_of_the_folder_is_run", "modeling.py", "never import"),
    (KnowsByName, "test_a_copy_of_a_folder_elsewhere_is_known_as_well", "another place"),
]


class SmallContract(ZooContract):
    """One folder is enough for faults."""

    def folders(self, place):
        return [(make_folder(place / "Net", "Net"), "flax")]


def entry(broken, test, *words):
    library = broken()
    return fault(
        ZooContract, test, *words, name=broken.__name__, library=library, registry=zoo_registry(library)
    )


TABLE = [entry(*row) for row in FAULTS]


def failing(library, path, names=None):
    """Return the checks that a library fails, as a user sees them."""

    class Contract(ZooContract):
        pass

    contract = Contract()
    contract.library, contract.registry = library, zoo_registry(library)
    failed = set()
    for name in names or [name for name in dir(LibraryContract) if name.startswith("test_")]:
        method = getattr(contract, name)
        place = path / name
        place.mkdir()
        with pytest.MonkeyPatch.context() as patch:
            given = {"tmp_path": place, "monkeypatch": patch}
            try:
                method(**{key: given[key] for key in inspect.signature(method).parameters})
            except (Exception, pytest.fail.Exception):  # any failure is one that a user sees
                failed.add(name)
        shutil.rmtree(place)
    return failed


@pytest.mark.slow  # as TestZoo, by the way in which the checks below are run
def test_the_toy_library_fails_no_check(tmp_path):
    assert failing(Zoo(), tmp_path) == set()


@pytest.mark.parametrize(
    ("library", "noticed"),
    [
        (KnowsAll, "test_folders_of_others_are_not_known"),
        (KnowsNone, "test_what_is_known_can_be_used"),
        (OnlyToFlax, "test_what_is_known_can_be_used"),
        (WrongTemplate, "test_what_is_known_can_be_used"),
        (AnotherType, "test_what_is_known_can_be_used"),
        (NamesNoFile, "test_files_beside_the_weights_are_there_and_no_weights"),
        (NamesTwice, "test_files_beside_the_weights_are_there_and_no_weights"),
        (NamesWeights, "test_files_beside_the_weights_are_there_and_no_weights"),
        (Fickle, "test_two_calls_agree"),
        (OtherModels, "test_two_calls_agree"),
        (IgnoresTheClass, "test_an_unknown_class_is_refused"),
        (RaisesRaw, "test_damaged_files_raise_nothing_raw"),
        (NeedsItsFile, "test_damaged_files_raise_nothing_raw"),
        (LeavesACache, "test_asking_changes_nothing_in_the_folder"),
        (TouchesFiles, "test_asking_changes_nothing_in_the_folder"),
        (CallsHome, "test_no_network_is_used"),
        (ForgetsTheModel, "test_folders_are_converted_and_come_back_bit_for_bit"),
        (RenamesOnTheWayBack, "test_folders_are_converted_and_come_back_bit_for_bit"),
        (KnowsByName, "test_a_copy_of_a_folder_elsewhere_is_known_as_well"),
    ],
)
def test_the_contract_notices(tmp_path, library, noticed):
    assert failing(library(), tmp_path, [noticed]) == {noticed}


@pytest.mark.parametrize("one", every(TABLE))
def test_a_broken_library_is_caught(one, tmp_path):
    check_caught(one, tmp_path)


@pytest.mark.parametrize("one", parameters(TABLE))
def test_a_broken_library_fails_no_other_test(one, tmp_path):
    check_fault(one, tmp_path)


def test_a_library_that_is_not_registered_is_noticed():
    contract = ZooContract()
    contract.library = Zoo()
    with pytest.raises(AssertionError):
        contract.test_is_a_library_that_is_registered()


def test_values_that_come_back_changed_are_noticed(tmp_path, monkeypatch):
    """A conversion that is wrong is not the library's fault, and is noticed all the same."""
    import bridge_core.testing.libraries as contracts

    right = contracts.convert

    def wrong(source, destination, *, to, registry):
        report = right(source, destination, to=to, registry=registry)
        if to == "torch":
            make_folder(tmp_path / "other", seed=1)
            shutil.copy(tmp_path / "other" / "model.safetensors", report.files[0])
            shutil.rmtree(tmp_path / "other")
        return report

    monkeypatch.setattr(contracts, "convert", wrong)
    with pytest.raises(AssertionError, match=r"\.(weight|bias)\b"):
        ZooContract().test_folders_are_converted_and_come_back_bit_for_bit(tmp_path)
