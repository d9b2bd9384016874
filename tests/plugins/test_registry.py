"""The registry: immutable, extended by plugins that are checked and isolated, conflicts named."""

from __future__ import annotations

import dataclasses
import sys
import types

import pytest
from support.errors import refused
from support.toy_format import ToyFormat

from bridge_core import (
    Format,
    Framework,
    LayerKind,
    LayerTransform,
    Leaf,
    PluginConflict,
    PluginError,
    Registry,
    UsageError,
    default_registry,
    hookimpl,
)
from bridge_core.layers import KINDS
from bridge_core.plugins import hookspecs, registry as plugins
from bridge_core.plugins.provided_values import TABLES

HOOKS = [name for name in vars(hookspecs) if name.startswith("bridge_")]


def plugin(**hooks):
    """A plugin of functions; each hook returns the given values."""
    made = types.SimpleNamespace()
    for name, value in hooks.items():
        setattr(made, name, hookimpl(lambda value=value: value() if callable(value) else value))
    return made


class ToyFramework:
    """A framework with nothing in it."""

    name, collections, default_format = "toyland", {}, "npz"

    def owns(self, names):
        return False

    def accepts(self, value):
        return False

    def state(self, value):
        raise AssertionError

    def build(self, state, like):
        raise AssertionError


def kinds(*names):
    return plugin(bridge_layer_kinds=lambda: [LayerKind(name, {"w": "a"}) for name in names])


# -- extending --------------------------------------------------------------------------------------


def test_extending_returns_a_new_registry_and_changes_nothing():
    before = Registry()
    after = before.extend(kinds("one"), name="mine", distribution="some-dist", version="1.2")
    assert not before.kinds
    assert not before.plugins
    assert list(after.kinds) == ["one"]
    (info,) = after.plugins
    assert (info.name, info.distribution, info.version) == ("mine", "some-dist", "1.2")
    assert info.provides == ("kind 'one'",)
    further = after.extend(kinds("two"), name="other")
    assert list(after.kinds) == ["one"]
    assert list(further.kinds) == ["one", "two"]


@pytest.mark.parametrize(
    "table", ["formats", "frameworks", "kinds", "transforms", "libraries", "filesystems"]
)
def test_nothing_of_a_registry_can_be_changed(table):
    registry = default_registry()
    with pytest.raises(TypeError):
        getattr(registry, table)["x"] = 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(registry, table, {})


def test_a_plugin_without_a_name_gets_that_of_its_class_or_module():
    class MyPlugin:
        @hookimpl
        def bridge_layer_kinds(self):
            return [LayerKind("one", {"w": "a"})]

    assert Registry().extend(MyPlugin()).plugins[0].name == "MyPlugin"
    assert Registry().extend(MyPlugin()).plugins[0].distribution == "(in process)"


def test_a_generator_may_provide_things():
    assert list(
        Registry().extend(plugin(bridge_layer_kinds=lambda: (LayerKind(n, {}) for n in "ab"))).kinds
    ) == ["a", "b"]


# -- refusing ---------------------------------------------------------------------------------------


def test_one_name_from_two_plugins_is_refused_with_both_distributions():
    registry = Registry().extend(kinds("same"), name="a", distribution="dist-a")
    with refused(PluginConflict, "kind 'same'", "dist-b", "dist-a", hint="--disable-plugin"):
        registry.extend(kinds("same"), name="b", distribution="dist-b")


def test_one_name_twice_from_one_plugin_is_refused():
    with pytest.raises(PluginConflict):
        Registry().extend(kinds("same", "same"), name="a")


def test_names_of_another_table_do_not_conflict():
    both = plugin(
        bridge_layer_kinds=[LayerKind("torch.x", {"w": "a"})],
        bridge_layer_transforms=[LayerTransform("torch.x", "torch.x", (Leaf("w", "w", "a"),))],
    )
    registry = Registry().extend(both, name="both")
    assert registry.transforms_of == {"torch": (registry.transforms["torch.x"],)}


def test_a_mistyped_hook_is_refused_by_name():
    with refused(PluginError, "plugin mine:", "bridge_layer_kindz", hint="bridge_layer_kinds"):
        Registry().extend(plugin(bridge_layer_kindz=[]), name="mine")


def test_a_hook_that_asks_for_arguments_is_refused():
    class Wrong:
        @hookimpl
        def bridge_formats(self, config):
            return []

    with refused(PluginError, "config", hint="no arguments"):
        Registry().extend(Wrong())


def test_a_plugin_without_any_hook_is_refused():
    with refused(PluginError, "plugin empty:", hint=("@hookimpl", *HOOKS)):
        Registry().extend(types.ModuleType("empty"))


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize(
    "value", [[object()], ["text"], [None], [LayerKind]], ids=["object", "text", "None", "class"]
)
def test_a_hook_that_returns_something_else_is_refused(hook, value):
    expected = next(sort for sort in TABLES.values() if sort.hook == hook).type_name.partition(":")[2]
    with refused(PluginError, "plugin mine:", hook, f"a list of {expected}, got {value[0]!r}"):
        Registry().extend(plugin(**{hook: value}), name="mine")


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("value", [3, LayerKind("one", {"w": "a"})], ids=["number", "bare"])
def test_a_hook_that_returns_no_list_is_refused(hook, value):
    with refused(PluginError, "plugin mine:", hook, "a list"):
        Registry().extend(plugin(**{hook: lambda: value}), name="mine")


@pytest.mark.parametrize("table", ["format", "framework"])
def test_an_unknown_name_lists_what_is_there(table):
    installed = getattr(default_registry(), f"{table}s")
    with refused(UsageError, f"{table} 'nope'", hint=f"Installed: {', '.join(installed)}."):
        getattr(default_registry(), table)("nope")
    with refused(UsageError, f"{table} 'nope'"):
        getattr(Registry(), table)("nope")


@pytest.mark.parametrize(
    ("table", "name", "near"),
    [("framework", "jax", "flax"), ("framework", "PyTorch", "torch"), ("format", "npy", "npz")],
)
def test_an_unknown_name_gets_the_nearest(table, name, near):
    with refused(UsageError, f"{table} {name!r}", hint=f"Did you mean {near!r}?"):
        getattr(default_registry(), table)(name)


@pytest.mark.parametrize(
    "make",
    [
        lambda: LayerKind("x", {"w": "a a"}),
        lambda: LayerKind("x", {"w": "*a *b"}),
        lambda: LayerKind("x", {"w": "a"}, auxiliary_tensors={"n": None}),
        lambda: LayerTransform("noframework", "x", (Leaf("w", "w", "a"),)),
        lambda: LayerTransform("t.x", "x", (Leaf("w", "w", "a"), Leaf("w", "v", "a"))),
        lambda: LayerTransform("t.x", "x", (Leaf("w", "w", "a"), Leaf("v", "w", "a"))),
        lambda: LayerTransform("t.x", "x", (Leaf("w", "w", "a +b +c"),)),
    ],
)
def test_a_layer_that_makes_no_sense_cannot_be_declared(make):
    with pytest.raises(PluginError):
        make()


# -- loading ----------------------------------------------------------------------------------------


class Point:
    """An entry point of some distribution."""

    def __init__(self, name, loaded, distribution="some-dist"):
        self.name, self._loaded = name, loaded
        self.distribution, self.version = distribution, "3.1"

    def load(self):
        if isinstance(self._loaded, BaseException):
            raise self._loaded
        return self._loaded


@pytest.fixture
def load(monkeypatch):
    """Build the default registry as if these plugins were installed."""

    def loading(*points):
        def entry_points(group):
            assert group == "ckptbridge"
            return points

        monkeypatch.setattr(plugins, "entry_points", entry_points)
        return plugins.default_registry.__wrapped__()

    return loading


def asked(registry):
    """Call every hook of every plugin."""
    assert registry.plugins
    return registry


@pytest.mark.parametrize(
    "broken",
    [
        Point("bad", ImportError("no module named x")),
        Point("bad", SyntaxError("invalid syntax")),
        Point("bad", ZeroDivisionError("division by zero")),
        Point("bad", SystemExit(0)),
        Point("bad", GeneratorExit()),
        Point("bad", plugin(bridge_formats=lambda: 1 / 0)),
        Point("bad", plugin(bridge_formatz=[])),
        Point("bad", plugin(bridge_formats=[object()])),
        Point("bad", types.ModuleType("empty")),
    ],
    ids=["import", "syntax", "on import", "exit", "base", "in a hook", "misspelt", "wrong type", "nothing"],
)
def test_a_plugin_that_fails_is_left_out_with_a_warning_and_the_others_stay(load, broken):
    with pytest.warns(RuntimeWarning, match=r"'bad'.*\bsome-dist\b"):
        registry = asked(load(Point("a", kinds("a-kind")), broken, Point("z", kinds("z-kind"))))
    (failure,) = registry.failures
    assert {"a-kind", "z-kind", "linear"} <= set(registry.kinds)
    assert (failure.name, failure.distribution) == ("bad", "some-dist")
    assert failure.reason


def test_of_two_installed_plugins_of_one_name_neither_is_used(load):
    registry = load(
        Point("a", kinds("same", "one"), "dist-a"),
        Point("b", kinds("same", "two"), "dist-b"),
        Point("c", kinds("same"), "dist-c"),
    )
    with pytest.warns(RuntimeWarning, match=r"'same'.*\bdist-a 3\.1\b.*\bdist-b 3\.1\b"):
        assert {"one", "two", "linear"} <= set(registry.kinds)
    assert "same" not in registry.kinds
    (conflict,) = registry.conflicts
    assert [plugin.distribution for plugin in conflict.plugins] == ["dist-a", "dist-b", "dist-c"]
    assert "--disable-plugin dist-c" in str(conflict)
    with refused(PluginConflict, "kind 'same'", "dist-a"):
        registry.extend(kinds("same"), name="d")


def test_of_a_name_of_its_own_ckptbridges_value_stays(load):
    registry = load(Point("a", kinds("linear", "mine"), "evil"))
    with pytest.warns(RuntimeWarning, match=r"\bevil 3\.1\b.*\bbridge_layer_kinds\b.*'linear'"):
        assert registry.kinds["linear"] is KINDS[0]
    assert "mine" in registry.kinds
    (failure,) = registry.failures
    assert (failure.distribution, failure.hook) == ("evil", "bridge_layer_kinds")


@pytest.mark.parametrize("table", ["formats", "frameworks"])
def test_a_name_in_conflict_is_refused_with_both_and_the_way_on(load, table):
    hook, value = {
        "formats": ("bridge_formats", lambda: [ToyFormat()]),
        "frameworks": ("bridge_frameworks", lambda: [ToyFramework()]),
    }[table]
    registry = load(
        Point("a", plugin(**{hook: value}), "dist-a"), Point("b", plugin(**{hook: value}), "dist-b")
    )
    name = "toy" if table == "formats" else "toyland"
    with pytest.warns(RuntimeWarning, match=rf"'{name}'.*\bdist-a\b.*\bdist-b\b"):
        assert name not in getattr(registry, table)
    with refused(UsageError, name, "dist-a 3.1", "dist-b 3.1", hint="--disable-plugin dist-b"):
        getattr(registry, table.removesuffix("s"))(name)


class Attribute:
    """A value whose attribute raises."""

    name = "raises"

    @property
    def guide(self):
        raise ZeroDivisionError


def a_format(**attributes):
    return [type("Wrong", (ToyFormat,), attributes)()]


def a_framework(**attributes):
    return [type("Wrong", (ToyFramework,), attributes)()]


def a_transform(kind="linear", **options):
    return [LayerTransform("torch.wrong", kind, (Leaf("w", "kernel", "out in"),), **options)]


WRONG_VALUES = {
    "a class": ("bridge_formats", lambda: [ToyFormat], "a list of Format, got"),
    "a number as name": ("bridge_formats", lambda: a_format(name=3), "got 3"),
    "a name with a space": ("bridge_formats", lambda: a_format(name="a b"), "without spaces"),
    "a name with a comma": ("bridge_layer_kinds", lambda: [LayerKind("a,b", {"w": "a"})], "without spaces"),
    "a name with a line end": ("bridge_formats", lambda: a_format(name="a\x1b[2J"), "control"),
    "no name": ("bridge_formats", lambda: a_format(name=""), "without spaces"),
    "extensions in one text": ("bridge_formats", lambda: a_format(extensions=".abc"), "got '.abc'"),
    "an empty extension": ("bridge_formats", lambda: a_format(extensions=("",)), "extensions"),
    "no dot": ("bridge_formats", lambda: a_format(extensions=("abc",)), "extensions"),
    "a wrong layout": ("bridge_formats", lambda: a_format(layout=3), "layout to be a name, or None, got 3"),
    "wrong capabilities": ("bridge_formats", lambda: a_format(capabilities={"lazy": True}), "capabilities"),
    "dtypes in one text": (
        "bridge_formats",
        lambda: a_format(capabilities=dataclasses.replace(ToyFormat.capabilities, dtypes="float32")),
        "capabilities",
    ),
    "wrong names": ("bridge_formats", lambda: a_format(names=("a", "b")), "names"),
    "a wrong shard": (
        "bridge_formats",
        lambda: a_format(names=dataclasses.replace(ToyFormat.names, shard="{nothing}")),
        "KeyError",
    ),
    "no method": ("bridge_formats", lambda: a_format(sniff="yes"), "sniff to be a method, got 'yes'"),
    "missing": ("bridge_frameworks", lambda: [Attribute()], "a list of Framework, got"),
    "neutral": ("bridge_frameworks", lambda: a_framework(name="neutral"), "\"neutral\", got 'neutral'"),
    "a dot": ("bridge_frameworks", lambda: a_framework(name="a.b"), "got 'a.b'"),
    "a list of collections": (
        "bridge_frameworks",
        lambda: a_framework(collections=["params"]),
        "collections",
    ),
    "channels": (
        "bridge_frameworks",
        lambda: a_framework(channels="middle"),
        'channels to be "first" or "last", got \'middle\'',
    ),
    "a reserved kind": ("bridge_layer_kinds", lambda: [LayerKind("parameter", {"w": "a"})], "parameter"),
    "settings": (
        "bridge_layer_transforms",
        lambda: a_transform(settings=["a"]),
        "got ['a']",
    ),
    "hints in one text": (
        "bridge_layer_transforms",
        lambda: a_transform(hints="abc"),
        "hints to be a tuple of names",
    ),
    "no pairs": ("bridge_layer_transforms", lambda: a_transform(equal_axes=("in", "out")), "equal_axes"),
    "leaves in one text": (
        "bridge_layer_transforms",
        lambda: a_transform(identifying_leaves="w"),
        "identifying_leaves to be a tuple of names, or None, got 'w'",
    ),
    "an unknown kind": ("bridge_layer_transforms", lambda: a_transform("linea"), "Did you mean 'linear'?"),
    "wrong zeros": ("bridge_layer_kinds", lambda: [LayerKind("a", {"w": "a"}, zeros="w")], "'w'"),
    "twice": ("bridge_formats", lambda: [ToyFormat(), ToyFormat()], "format 'toy'"),
    "an attribute that raises": ("bridge_libraries", lambda: [Attribute()], "ZeroDivisionError"),
    "a generator that exits": ("bridge_formats", lambda: (sys.exit(0) for _ in "a"), "SystemExit: 0"),
    "unclosed": ("bridge_formats", lambda: sys.exit("bye"), "SystemExit: bye"),
    "a base exception": ("bridge_libraries", lambda: throw(GeneratorExit()), "GeneratorExit"),
}


def throw(error):
    raise error


@pytest.mark.parametrize("what", WRONG_VALUES)
def test_what_is_wrong_is_left_out_with_the_reason_and_the_rest_goes_on(load, what):
    hook, value, text = WRONG_VALUES[what]
    registry = load(Point("bad", plugin(**{hook: value}), "some-dist"), Point("z", kinds("z-kind")))
    with pytest.warns(RuntimeWarning, match=rf"'bad'.*\bsome-dist 3\.1\b.*\b{hook}\b"):
        failures = registry.failures
    assert [(failure.hook, failure.version) for failure in failures] == [(hook, "3.1")]
    assert text in failures[0].reason
    assert {"z-kind", "linear"} <= set(registry.kinds)
    assert {"safetensors", "npz"} <= set(registry.formats)
    if what != "an unknown kind":  # which another plugin may add
        with pytest.raises(PluginError):
            Registry().extend(plugin(**{hook: value}), name="bad")


def test_a_transform_of_a_kind_in_conflict_names_both(load):
    transforms = plugin(bridge_layer_transforms=a_transform("same"))
    registry = load(
        Point("a", kinds("same"), "dist-a"), Point("b", kinds("same"), "dist-b"), Point("c", transforms)
    )
    with pytest.warns(RuntimeWarning, match=r"'same'.*\bdist-a\b.*\bdist-b\b"):
        assert "same" not in registry.kinds
    with pytest.warns(RuntimeWarning, match=r"'torch\.wrong'.*'same'.*\bdist-a 3\.1\b.*\bdist-b 3\.1\b"):
        assert not registry.transforms


def test_a_wrong_transform_takes_the_other_transforms_of_its_plugin_with_it(load):
    made = [
        LayerTransform("torch.fine", "linear", (Leaf("w", "kernel", "out in"),)),
        LayerTransform("torch.wrong", "linear", (Leaf("w", "kernel", "out inn"),)),
    ]
    registry = load(Point("bad", plugin(bridge_layer_transforms=made)))
    with pytest.warns(RuntimeWarning, match="axis 'inn'"):
        # A subclass's transform that is left out must not leave its modules to that of the base class.
        assert not registry.transforms


def test_a_hook_is_called_when_something_of_its_kind_is_asked_for_and_once(load):
    called = []

    def hook(name):
        return lambda: called.append(name) or []

    names = {name: hook(name) for name in HOOKS}
    registry = load(Point("a", plugin(**names)))
    assert called == []
    for _ in range(2):
        assert "safetensors" in registry.formats
        assert registry.format("npz")
    assert called == ["bridge_formats"]
    assert registry.plugins[-1].provides == ()
    assert sorted(called) == sorted(HOOKS)


def test_a_hook_that_fails_leaves_the_other_hooks_of_its_plugin(load):
    half = plugin(bridge_formats=lambda: 1 / 0, bridge_layer_kinds=lambda: [LayerKind("half", {"w": "a"})])
    registry = load(Point("half", half))
    assert "half" in registry.kinds
    with pytest.warns(RuntimeWarning, match="ZeroDivisionError"):
        assert "safetensors" in registry.formats
    assert [failure.name for failure in registry.failures] == ["half"]


def test_tables_may_be_replaced_and_extended_further():
    registry = default_registry().with_tables(libraries={}, kinds={"one": LayerKind("one", {"w": "a"})})
    assert (dict(registry.libraries), list(registry.kinds)) == ({}, ["one"])
    assert registry.formats.keys() == default_registry().formats.keys()
    assert list(registry.extend(kinds("two")).kinds) == ["one", "two"]
    with refused(UsageError, "'kind'", hint=("Did you mean 'kinds'?", "transforms")):
        registry.with_tables(kind={})


def test_the_built_in_plugins_are_there_and_nothing_failed():
    registry = default_registry()
    assert not registry.failures
    assert {"torch", "flax"} <= set(registry.frameworks)
    assert {"safetensors", "npz", "torch", "msgpack"} <= set(registry.formats)
    assert all(isinstance(f, Format) for f in registry.formats.values())
    assert all(isinstance(f, Framework) for f in registry.frameworks.values())
    for transform in registry.transforms.values():
        assert transform.framework in registry.frameworks
        kind = registry.kinds[transform.kind]
        assert {role for leaf in transform.leaves for role in leaf.roles} <= set(kind.leaves)
