"""A model library that fails, or returns something else, is named; nothing of it comes out as it is."""

from __future__ import annotations

import errno

import pytest
from support.errors import refused
from support.toy_library import Raises, Zoo, make_folder, plugin, zoo_registry

from bridge_core import (
    Guidance,
    MalformedFile,
    OutOfMemory,
    PermissionDenied,
    PluginConflict,
    PluginError,
    Rule,
    plan_conversion,
)


@pytest.fixture
def folder(tmp_path):
    return make_folder(tmp_path / "source")


def planned(source, library, **options):
    return plan_conversion(source, to="flax", registry=zoo_registry(library), **options)


@pytest.mark.parametrize(
    ("raised", "wanted", "named"),
    [
        (ZeroDivisionError("oh"), PluginError, ["plugin zoo: ", "ZeroDivisionError: oh", "--model none"]),
        (KeyError("x"), PluginError, ["plugin zoo: ", "KeyError"]),
        (RecursionError(), PluginError, ["plugin zoo: ", "RecursionError"]),
        (OSError("no such config"), PluginError, ["plugin zoo: ", "OSError: no such config"]),
        (
            PermissionError(errno.EACCES, "not allowed", "a.json"),
            PermissionDenied,
            ["a.json: zoo", "not allowed"],
        ),
        (MemoryError(), OutOfMemory, ["zoo", "memory"]),
        (
            MalformedFile("the file is damaged.", path="b.json"),
            MalformedFile,
            ["b.json: the file is damaged"],
        ),
        (PluginError("the plugin is broken."), PluginError, ["plugin zoo: the plugin is broken"]),
    ],
)
def test_what_a_library_raises_is_an_error_that_names_it(folder, raised, wanted, named):
    with refused(wanted, *named):
        planned(folder, Raises(raised))
    planned(folder, Raises(raised), model="none", accept_guesses=True)


@pytest.mark.parametrize("wrong", [{"model": None}, "text", 3, (), Guidance, False], ids=repr)
def test_what_is_no_guidance_is_refused(folder, wrong):
    class Wrong(Zoo):
        def guide(self, checkpoint):
            return wrong

    with refused(PluginError, "plugin zoo: ", "Guidance or None", type(wrong).__name__):
        planned(folder, Wrong())


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("rules", ["rules.toml"]),
        ("rules", ("rules.toml",)),
        ("rules", Rule.layer("*", "linear")),
        ("sidecar_files", "config.json"),
        ("sidecar_files", [3]),
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
    with refused(PluginConflict, "library 'zoo'", "other", "tests"):
        registry.extend(plugin(Zoo()), name="again", distribution="other")


def test_libraries_of_a_registry_cannot_be_changed():
    with pytest.raises(TypeError):
        zoo_registry(Zoo()).libraries["x"] = Zoo()


def test_lists_are_taken_as_tuples():
    known = Guidance(rules=[Rule.rename("a", "b")], sidecar_files=["a.json"], notes=["a note"])
    assert (len(known.rules), known.sidecar_files, known.notes) == (1, ("a.json",), ("a note",))
    assert isinstance(known.rules, tuple)
