"""A model library that fails, or returns something else, is named; nothing of it comes out as it is."""

from __future__ import annotations

import errno

import pytest
from support.toy_library import Raises, Zoo, make_folder, plugin, zoo_registry

from bridge_core import (
    Guidance,
    LimitExceeded,
    MalformedFile,
    PluginConflict,
    PluginError,
    Rule,
    SystemFailure,
    plan_conversion,
)


@pytest.fixture
def folder(tmp_path):
    return make_folder(tmp_path / "source")


def planned(source, library, **options):
    return plan_conversion(source, to="flax", registry=zoo_registry(library), **options)


@pytest.mark.parametrize(
    ("raised", "wanted", "says"),
    [
        (ZeroDivisionError("oh"), PluginError, r"plugin zoo: .*ZeroDivisionError: oh.*--model none"),
        (KeyError("x"), PluginError, r"plugin zoo: .*KeyError"),
        (RecursionError(), PluginError, r"plugin zoo: .*RecursionError"),
        (OSError("no such config"), PluginError, r"plugin zoo: .*OSError: no such config"),
        (
            PermissionError(errno.EACCES, "Permission denied", "a.json"),
            SystemFailure,
            r"a.json: zoo .*denied",
        ),
        (MemoryError(), LimitExceeded, "zoo needs more memory"),
        (MalformedFile("is damaged.", path="b.json"), MalformedFile, "b.json: is damaged"),
        (PluginError("is broken."), PluginError, "plugin zoo: is broken"),
    ],
)
def test_what_a_library_raises_is_an_error_that_names_it(folder, raised, wanted, says):
    with pytest.raises(wanted, match=says) as caught:
        planned(folder, Raises(raised))
    assert type(caught.value) is wanted
    planned(folder, Raises(raised), model="none", accept_guesses=True)


@pytest.mark.parametrize("wrong", [{"model": None}, "text", 3, (), Guidance, False], ids=repr)
def test_what_is_no_guidance_is_refused(folder, wrong):
    class Wrong(Zoo):
        def guide(self, checkpoint):
            return wrong

    with pytest.raises(PluginError, match=r"plugin zoo: returned .*a Guidance or None was expected"):
        planned(folder, Wrong())


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("rules", [Rule.layer("*", "linear")]),
        ("rules", ("rules.toml",)),
        ("rules", Rule.layer("*", "linear")),
        ("sidecar_files", "config.json"),
        ("sidecar_files", ["config.json"]),
        ("sidecar_files", (3,)),
        *(("sidecar_files", (name,)) for name in ("", ".", "..", "../x", "/etc/passwd", "a/b", "a/", "a\0b")),
        ("max_shard_size", "5GB"),
        ("max_shard_size", 0),
        ("max_shard_size", -1),
        ("max_shard_size", True),
        ("duplicate_tied", None),
        ("notes", "a note"),
        ("notes", [b"note"]),
    ],
    ids=repr,
)
def test_guidance_of_other_types_is_refused(folder, field, value):
    with pytest.raises(PluginError):
        Guidance(**{field: value})
    with pytest.raises(PluginError) as caught:
        planned(folder, Zoo(**{field: value}))
    assert caught.value.plugin == "zoo"


def test_two_libraries_of_one_name_are_a_conflict():
    registry = zoo_registry(Zoo())
    assert registry.plugins[-1].provides == ("library 'zoo'",)
    with pytest.raises(PluginConflict, match="library 'zoo' is provided by other and by tests already"):
        registry.extend(plugin(Zoo()), name="again", distribution="other")


def test_libraries_of_a_registry_cannot_be_changed():
    with pytest.raises(TypeError):
        zoo_registry(Zoo()).libraries["x"] = Zoo()
