"""A registry takes what plugins provide, by itself, in lists and together with plugins."""

from __future__ import annotations

import types
from pathlib import Path

import numpy as np
import pytest
from support.errors import refused
from support.folder_format import StepFolders
from support.memory_filesystem import MemoryFileSystem
from support.toy_format import ToyFormat

from bridge_core import (
    FlatState,
    FrameworkBase,
    LayerKind,
    LayerTransform,
    Leaf,
    PluginConflict,
    PluginError,
    UsageError,
    custom_layer,
    default_registry,
    hookimpl,
)
from bridge_core.plugins import load_recipe

KIND = LayerKind("scaled", {"kernel": "in out", "gain": "out"})
TRANSFORM = LayerTransform(
    "torch.scaled", "scaled", (Leaf("weight", "kernel", "out in"), Leaf("gain", "gain", "out"))
)
LAYER = custom_layer("gated", torch=("m.A", {"w": "out in"}), flax=("m.B", {"kernel": "in out"}))
RECIPE = load_recipe(Path(__file__).parents[1] / "data/example_plugin/recipes/tiny-mlp.toml")


class Dicts(FrameworkBase):
    name = "dicts"

    def flatten(self, value):
        return None

    def unflatten(self, arrays, like):
        return dict(arrays)


class Library:
    name = "ours"

    def guide(self, checkpoint):
        return None


class Plugin:
    @hookimpl
    def bridge_layer_kinds(self):
        return [KIND]


VALUES = {
    "kind": (KIND, ["kind 'scaled'"]),
    "kind and transform": ([KIND, TRANSFORM], ["kind 'scaled'", "transform 'torch.scaled'"]),
    "layer": (LAYER, ["kind 'gated'", "transform 'torch.gated'", "transform 'flax.gated'"]),
    "layers": ([LAYER, KIND], ["kind 'gated'", "kind 'scaled'"]),
    "format": (ToyFormat(), ["format 'toy'"]),
    "framework": (Dicts(), ["framework 'dicts'"]),
    "library": (Library(), ["library 'ours'"]),
    "recipe": (RECIPE, ["recipe 'tiny-mlp'"]),
    "file system": (MemoryFileSystem(), ["file system 'memory'"]),
    "plugin": (Plugin(), ["kind 'scaled'"]),
}


@pytest.mark.parametrize("what", VALUES)
def test_a_value_is_registered(what):
    value, provided = VALUES[what]
    before = default_registry()
    registry = before.extend(value)
    (added,) = registry.plugins[len(before.plugins) :]
    assert added.distribution == "(in process)"
    assert set(provided) <= set(added.provides)
    assert before.plugins == default_registry().plugins


def test_several_values_and_plugins_at_once():
    module = types.ModuleType("our_plugin")
    module.bridge_libraries = hookimpl(lambda: [Library()])
    before = default_registry()
    registry = before.extend(module, LAYER, Dicts(), StepFolders())
    added = registry.plugins[len(before.plugins) :]
    assert [plugin.name for plugin in added] == ["our_plugin", "gated"]
    assert added[1].provides == (
        "format 'stepfolder'",
        "framework 'dicts'",
        "kind 'gated'",
        "transform 'torch.gated'",
        "transform 'flax.gated'",
    )
    assert before.extend(LAYER, name="mine").plugins[-1].name == "mine"


def test_a_name_that_is_taken_is_refused():
    with refused(PluginConflict, "'linear'", "scaled", hint="another name"):
        default_registry().extend([KIND, LayerKind("linear", {"kernel": "in out"})])
    with refused(PluginConflict, "'scaled'", hint="default_registry().extend"):
        default_registry().extend(KIND).extend(KIND)
    with refused(PluginConflict, "twice"):
        default_registry().extend(KIND, KIND)


def _with_schemes(*schemes):
    system = MemoryFileSystem()
    system.schemes = schemes
    return system


WRONG = {
    "number": (3, "3", "custom_layer"),
    "text": ("my_plugin", "'my_plugin'", "module"),
    "nothing": (None, "None", "custom_layer"),
    "empty list": ([], "empty", "custom_layer"),
    "function": (lambda: [KIND], "function", "@hookimpl"),
    "state": (FlatState({"a": np.ones(2)}), "FlatState", "custom_layer"),
    "class of a format": (ToyFormat, "class ToyFormat", "ToyFormat()"),
    "class of a file system": (MemoryFileSystem, "class MemoryFileSystem", "MemoryFileSystem()"),
    "class of a kind": (LayerKind, "class LayerKind", "custom_layer"),
    "in a list": ([KIND, 3], "3", "custom_layer"),
    "unknown hook": (
        types.SimpleNamespace(bridge_layer=hookimpl(lambda: [])),
        "bridge_layer",
        "bridge_formats",
    ),
    "file system without a method": (
        types.SimpleNamespace(name="ours", schemes=("ours",), pinned=str, entry=len, entries=len),
        "does not have read",
        "",
    ),
    "file system of no scheme": (_with_schemes(), "schemes", ""),
    "file system with separators": (_with_schemes("ours://"), "schemes", ""),
    "file system in capitals": (_with_schemes("OURS"), "schemes", ""),
    "transform without its kind's name": (
        LayerTransform("torch.x", "x", (Leaf("w", "k", "a"),), hints="w"),
        "hints",
        "",
    ),
}
"""What is wrong -> the value, what the error names, and what its hint names."""


@pytest.mark.parametrize("what", WRONG)
def test_what_is_something_else_is_refused(what):
    value, named, hint = WRONG[what]
    with refused(PluginError, named, hint=hint):
        default_registry().extend(value)


def test_a_file_system_is_found_by_its_scheme():
    system = MemoryFileSystem()
    registry = default_registry().extend(system)
    assert registry.filesystem_of("mem") is system
    assert registry.filesystem_of("memory") is None


def test_two_file_systems_of_one_scheme_are_not_chosen_from():
    other = MemoryFileSystem()
    other.name = "other"
    registry = default_registry().extend([MemoryFileSystem(), other])
    with refused(UsageError, "2 file systems read mem:// URLs: memory, other", hint="--disable-plugin"):
        registry.filesystem_of("mem")
