"""The errors themselves: codes, exit codes, built-in bases, copies, and their form in JSON."""

from __future__ import annotations

import builtins
import copy
import errno
import importlib
import json
import multiprocessing
import pickle
import pkgutil
import re
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import bridge_core
import bridge_core.errors
from bridge_core import BridgeError
from bridge_core.errors import about_tensor
from bridge_core.io import replacing_file

TABLE = {
    "BridgeError": ("CKB-001", 1, ()),
    "ConversionError": ("CKB-100", 1, ()),
    "PlanError": ("CKB-101", 1, (ValueError,)),
    "RuleError": ("CKB-102", 1, (ValueError,)),
    "RecipeRequired": ("CKB-113", 1, (ValueError,)),
    "MismatchError": ("CKB-103", 1, (ValueError,)),
    "AmbiguousLayerError": ("CKB-104", 1, (ValueError,)),
    "UnclaimedTensorError": ("CKB-105", 1, (ValueError,)),
    "UnsupportedLayerError": ("CKB-106", 1, (ValueError,)),
    "LossyCastError": ("CKB-107", 1, (ValueError,)),
    "VerificationError": ("CKB-108", 1, ()),
    "DestinationExists": ("CKB-109", 1, (FileExistsError,)),
    "DestinationIsFolder": ("CKB-110", 1, (FileExistsError, IsADirectoryError)),
    "PluginError": ("CKB-111", 1, (RuntimeError,)),
    "PluginConflict": ("CKB-112", 1, (RuntimeError,)),
    "UsageError": ("CKB-200", 2, (ValueError,)),
    "MissingDependency": ("CKB-201", 2, (ValueError, ImportError)),
    "SourceNotFound": ("CKB-202", 2, (ValueError, FileNotFoundError)),
    "UnknownKey": ("CKB-203", 2, (ValueError, KeyError)),
    "NeedsLocalPath": ("CKB-204", 2, (ValueError,)),
    "BadInputError": ("CKB-300", 3, ()),
    "MalformedFile": ("CKB-301", 3, (ValueError,)),
    "TruncatedFile": ("CKB-302", 3, (ValueError,)),
    "IntegrityError": ("CKB-303", 3, ()),
    "UnsafeFile": ("CKB-304", 3, ()),
    "LimitExceeded": ("CKB-305", 3, ()),
    "OutOfMemory": ("CKB-306", 3, (MemoryError,)),
    "UnsupportedFeature": ("CKB-307", 3, ()),
    "KeyConflict": ("CKB-308", 3, (ValueError,)),
    "ShardError": ("CKB-309", 3, (ValueError,)),
    "SourceIsFolder": ("CKB-310", 3, (ValueError, IsADirectoryError)),
    "SystemFailure": ("CKB-400", 4, (OSError,)),
    "PermissionDenied": ("CKB-401", 4, (PermissionError,)),
    "AccessDenied": ("CKB-402", 4, (PermissionError,)),
    "RemoteFailure": ("CKB-403", 4, (OSError,)),
}
"""Class -> its code, its exit code, and the built-in classes that it is: none of these may ever change."""

WARNINGS = {
    "BridgeWarning": ("warning", Warning),
    "ConversionWarning": ("conversion", UserWarning),
    "DeprecatedName": ("deprecated", DeprecationWarning),
    "FileWarning": ("file", UserWarning),
    "PluginWarning": ("plugin", RuntimeWarning),
}

every_error = pytest.mark.parametrize("name", TABLE)
every_warning = pytest.mark.parametrize("name", WARNINGS)


def _is_error(value):
    return isinstance(value, type) and issubclass(value, BaseException)


def made(name):
    """Return an error of a class, with all that it can carry."""
    kind = getattr(bridge_core.errors, name)
    if name == "MismatchError":
        return kind("it differs.", missing=("a",), unexpected=("b", "c"), mismatched=("d",), hint="Look.")
    if name == "AmbiguousLayerError":
        return kind("it may be two.", candidates={"a": ("x", "y")}, hint="Say.", options=("--like FILE",))
    if name == "UnclaimedTensorError":
        return kind("it is new.", reasons={"a": "why"}, hint="Say.", options=("--allow-unclaimed a",))
    if name == "UnsupportedLayerError":
        return kind("it is foreign.", reasons={"a": "why"}, hint="Drop it.")
    error = kind(
        "it failed.",
        path=Path("m.pt"),
        key=("fc", "weight"),
        plugin="acme",
        hint="Go on.",
        options=("--layout torch",),
    )
    if isinstance(error, OSError):
        error.errno, error.strerror, error.filename = errno.EIO, "broken", "other.pt"
    return error


def held(error):
    """Return everything that an error carries, whatever class holds it."""
    names = ("path", "key", "plugin", "hint", "message", "keys", "options", "errno", "strerror", "filename")
    names += ("missing", "unexpected", "mismatched", "candidates", "reasons", "code", "exit_code", "args")
    return {name: getattr(error, name) for name in names if hasattr(error, name)} | {"text": str(error)}


# -- the classes ------------------------------------------------------------------------------------


def test_every_class_is_listed():
    errors = {name for name in bridge_core.errors.__all__ if issubclass_of(name, BridgeError)}
    assert errors == set(TABLE)
    warned = {name for name in bridge_core.errors.__all__ if issubclass_of(name, Warning)}
    assert warned == set(WARNINGS)
    assert errors | warned <= set(bridge_core.__all__)


def issubclass_of(name, kind):
    value = getattr(bridge_core.errors, name)
    return _is_error(value) and issubclass(value, kind)


def test_no_other_room_defines_an_error():
    for package in ("bridge_core", "bridge_torch", "bridge_flax"):
        root = importlib.import_module(package)
        for module in pkgutil.walk_packages(root.__path__, f"{package}."):
            if not module.name.endswith("__main__"):
                importlib.import_module(module.name)
    known = set()
    kinds = [BridgeError]
    while kinds:
        kind = kinds.pop()
        kinds += kind.__subclasses__()
        if kind.__module__.startswith(("bridge_core.", "bridge_torch", "bridge_flax")):
            known.add(kind.__name__)
    assert known == set(TABLE)


@every_error
def test_a_class_has_its_own_code_and_the_exit_code_of_its_hundred(name):
    kind = getattr(bridge_core.errors, name)
    code, exit_code, _ = TABLE[name]
    assert kind.code == code
    assert re.fullmatch(r"CKB-\d{3}", kind.code)
    assert kind.exit_code == exit_code == max(1, int(code[4]))


def test_no_two_classes_share_a_code():
    codes = [getattr(bridge_core.errors, name).code for name in TABLE]
    assert len(set(codes)) == len(codes)


@every_error
def test_a_class_is_the_built_in_class_that_fits(name):
    expected = TABLE[name][2]
    built_in = {
        kind
        for kind in getattr(bridge_core.errors, name).__mro__
        if kind.__module__ == "builtins" and kind not in (Exception, BaseException, object)
    }
    assert set(expected) <= built_in
    parents = {parent for kind in expected for parent in kind.__mro__}
    assert built_in <= parents
    assert all(getattr(builtins, kind.__name__) is kind for kind in built_in)


@every_error
def test_a_class_says_what_it_means(name):
    assert getattr(bridge_core.errors, name).__doc__


# -- one error --------------------------------------------------------------------------------------


@every_error
def test_a_text_has_its_code_once_and_its_place_first(name):
    error = made(name)
    text = str(error)
    assert text.count(f"[{error.code}]") == text.count("CKB-") == 1
    assert error.code not in error.statement
    assert error.message in text
    assert error.hint in text
    if error.path is not None:
        assert text.startswith("m.pt: tensor 'fc.weight': plugin acme: ")


def test_an_error_without_a_hint_ends_with_its_code():
    assert str(bridge_core.UsageError("it failed.")) == "it failed. [CKB-200]"


def test_a_hint_of_several_lines_comes_after_the_code():
    error = bridge_core.UsageError("it failed.", hint="\n  one\n  two")
    assert str(error) == "it failed. [CKB-200]\n  one\n  two"


def test_the_key_of_an_error_is_known_once():
    with pytest.raises(BridgeError) as caught, about_tensor("outer"), about_tensor(("fc", "weight")):
        raise bridge_core.PlanError("it failed.")
    assert caught.value.key == ("fc", "weight")
    assert caught.value.keys == ("fc.weight",)


def test_the_keys_of_a_mismatch_are_all_of_them():
    assert made("MismatchError").keys == ("a", "b", "c", "d")


# -- copies -----------------------------------------------------------------------------------------


def by_pickle(protocol):
    return lambda error: pickle.loads(pickle.dumps(error, protocol))


COPIES = [copy.copy, copy.deepcopy, *map(by_pickle, range(pickle.HIGHEST_PROTOCOL + 1))]


@every_error
def test_a_copy_carries_everything(name):
    error = made(name)
    error.add_note("seen in a test")
    for copied in COPIES:
        again = copied(error)
        assert type(again) is type(error)
        assert again is not error
        assert held(again) == held(error)
        assert again.__notes__ == ["seen in a test"]
        assert again.to_json(["ckptbridge"]) == error.to_json(["ckptbridge"])


def test_an_error_of_the_system_keeps_its_number_in_a_copy():
    error = bridge_core.SystemFailure.of(OSError(errno.ENOSPC, "full", "a.pt"), "writing failed", path="b.pt")
    for copied in COPIES:
        again = copied(error)
        assert (again.errno, again.strerror, again.filename) == (errno.ENOSPC, "full", "a.pt")
        assert again.path == "b.pt"


def test_an_error_comes_through_a_pool_of_processes(tmp_path):
    path = tmp_path / "nope.pt"
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        error = pool.submit(bridge_core.open_state, path).exception(timeout=120)
    assert type(error) is bridge_core.SourceNotFound
    assert str(error.path) == str(path)
    assert str(path) in str(error)


# -- JSON -------------------------------------------------------------------------------------------


@every_error
def test_the_form_in_json_has_six_fields(name):
    error = made(name)
    document = json.loads(json.dumps(error.to_json(["ckptbridge", "convert", "a.pt"])))
    assert list(document) == ["code", "message", "keys", "path", "hint", "next"]
    assert document["code"] == TABLE[name][0]
    assert document["message"] == error.statement
    assert document["keys"] == list(error.keys)
    assert document["path"] == (None if error.path is None else "m.pt")
    assert document["hint"] == error.hint
    assert all(isinstance(word, str) for command in document["next"] for word in command)
    assert len(document["next"]) == len(error.options)


def test_what_is_next_is_the_command_with_one_option_more():
    error = bridge_core.AmbiguousLayerError(
        "it may be two.",
        candidates={"a": ()},
        options=("--like FILE", "--accept-guesses", "--rules 'a b.toml' --allow-unclaimed h.**"),
    )
    command = ["ckptbridge", "convert", "my model.pt", "--accept-guesses"]
    assert error.to_json(command)["next"] == [
        [*command, "--like", "FILE"],
        [*command, "--rules", "a b.toml", "--allow-unclaimed", "h.**"],
    ]
    assert error.to_json()["next"] == []


def test_what_is_next_is_a_list_of_words_for_a_real_refusal():
    with pytest.raises(bridge_core.AmbiguousLayerError) as caught:
        bridge_core.plan_conversion({"fc.weight": np.ones((4, 4), "f4")}, to="flax", layout="torch")
    document = caught.value.to_json(["ckptbridge", "plan", "a.pt"])
    assert document["keys"] == ["fc.weight"]
    assert len(document["next"]) == len(caught.value.options) > 0
    for words in document["next"]:
        assert words[:3] == ["ckptbridge", "plan", "a.pt"]
        assert words[3].startswith("--")


# -- as the built-in classes ------------------------------------------------------------------------


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "a.safetensors"
    bridge_core.save_state({"fc.weight": np.ones((4, 3), "f4"), "fc.bias": np.ones(4, "f4")}, path)
    return path


def test_a_source_that_does_not_exist_is_a_file_not_found_error(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        bridge_core.convert(tmp_path / "nope.pt", tmp_path / "out.npz", to="flax")
    assert type(caught.value) is bridge_core.SourceNotFound
    assert caught.value.exit_code == 2
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM])
def test_a_source_that_may_not_be_read_is_a_permission_error(source, tmp_path, monkeypatch, number):
    real = bridge_core.io.source_file.os.open

    def refuse(path, *args, **more):
        if str(path) == str(source):
            raise PermissionError(number, "not for you", str(path))
        return real(path, *args, **more)

    monkeypatch.setattr(bridge_core.io.source_file.os, "open", refuse)  # since root may read everything
    with pytest.raises(PermissionError) as caught:
        bridge_core.convert(source, tmp_path / "out.npz", to="flax")
    assert type(caught.value) is bridge_core.PermissionDenied
    assert (caught.value.errno, caught.value.filename) == (number, str(source))
    assert str(caught.value.path) == str(source)
    assert caught.value.exit_code == 4


def test_a_failure_of_another_kind_is_no_permission_error():
    failure = bridge_core.SystemFailure.of(OSError(errno.EIO, "broken"), "reading failed", path="a.pt")
    assert type(failure) is bridge_core.SystemFailure
    assert failure.errno == errno.EIO


def test_a_folder_where_a_file_is_to_be_written_is_an_is_a_directory_error(tmp_path):
    with pytest.raises(IsADirectoryError) as caught, replacing_file(tmp_path, overwrite=True):
        pass
    assert type(caught.value) is bridge_core.DestinationIsFolder
    assert isinstance(caught.value, FileExistsError)


def test_a_folder_where_a_file_is_to_be_read_is_an_is_a_directory_error(tmp_path):
    with pytest.raises(IsADirectoryError) as caught:
        bridge_core.SourceFile(tmp_path)
    assert type(caught.value) is bridge_core.SourceIsFolder


def test_a_destination_that_exists_is_a_file_exists_error(source, tmp_path):
    (tmp_path / "out.npz").write_bytes(b"mine")
    with pytest.raises(FileExistsError) as caught:
        bridge_core.convert(source, tmp_path / "out.npz", to="flax")
    assert type(caught.value) is bridge_core.DestinationExists
    assert (tmp_path / "out.npz").read_bytes() == b"mine"


def test_a_key_that_a_state_does_not_have_is_a_key_error(source):
    with bridge_core.open_state(source) as state, pytest.raises(KeyError):
        state["no.such.key"]


# -- warnings ---------------------------------------------------------------------------------------


@every_warning
def test_a_warning_has_a_code_and_a_built_in_class(name):
    kind = getattr(bridge_core.errors, name)
    code, built_in = WARNINGS[name]
    assert issubclass(kind, built_in)
    assert kind("text").code == code
    assert re.fullmatch(r"[a-z_]+", code)
    assert str(kind("text")) == f"text [{code}]"
    assert str(kind("text", code="overflow")) == "text [overflow]"


def test_no_two_warnings_share_a_code():
    codes = [getattr(bridge_core.errors, name).code for name in WARNINGS]
    assert len(set(codes)) == len(codes)


@every_warning
@pytest.mark.parametrize("code", [None, "overflow"])
def test_a_copy_of_a_warning_carries_everything(name, code):
    warning = getattr(bridge_core.errors, name)("text", code=code)
    for copied in COPIES:
        again = copied(warning)
        assert type(again) is type(warning)
        assert (again.code, again.message, str(again)) == (warning.code, warning.message, str(warning))
