"""A framework from two methods fulfils the contract of frameworks; what the methods do wrong is an error."""

from __future__ import annotations

from dataclasses import dataclass, fields, is_dataclass, replace

import numpy as np
import pytest
import torch
from support.errors import refused

import bridge_torch
from bridge_core import (
    FrameworkBase,
    LayerTransform,
    Leaf,
    MismatchError,
    PluginError,
    TensorSpec,
    UsageError,
    convert,
    default_registry,
    from_neutral,
    open_state,
    to_neutral,
)
from bridge_core.testing import FrameworkContract


class NumpyDicts(FrameworkBase):
    """Flat dictionaries of numpy arrays, ``{"fc.W": array}``."""

    name = "numpy"
    own_leaves = ("W",)

    def flatten(self, value):
        if not isinstance(value, dict) or not all(isinstance(name, str) and "." in name for name in value):
            return None
        return value if all(isinstance(array, np.ndarray) for array in value.values()) else None

    def unflatten(self, arrays, like):
        named = {".".join(key): array for key, array in arrays.items()}
        return named if like is None else {name: named[name] for name in like}


NUMPY = NumpyDicts()
LINEAR = LayerTransform(
    "numpy.linear",
    "linear",
    (Leaf("W", "kernel", "in out"), Leaf("b", "bias", "out", optional=True)),
    identifying_leaves=("W",),
)
REGISTRY = default_registry().extend(NUMPY, LINEAR)


class Module:
    """The base of the layers of a framework whose models are trees of attributes."""


@dataclass(frozen=True)
class Dense(Module):
    W: object
    b: object = None


@dataclass(frozen=True)
class Stack(Module):
    layers: list
    rate: float
    extra: dict


def children(node):
    if isinstance(node, Module):
        return [(field.name, getattr(node, field.name)) for field in fields(node)]
    if isinstance(node, list):
        return [(str(number), child) for number, child in enumerate(node)]
    return list(node.items()) if isinstance(node, dict) else []


class Trees(FrameworkBase):
    """Models that are trees of frozen attributes, built in the structure of another only."""

    name = "trees"
    needs_template = True

    def flatten(self, value):
        return dict(self._walk(value, np.ndarray | TensorSpec)) if isinstance(value, Module) else None

    def modules(self, value):
        return dict(self._walk(value, Module))

    def unflatten(self, arrays, like):
        return self._filled(arrays, like, ())

    def _walk(self, node, kind, path=()):
        if isinstance(node, kind):
            yield path, node
        for name, child in children(node):
            yield from self._walk(child, kind, (*path, name))

    def _filled(self, arrays, node, path):
        if path in arrays:
            return arrays[path]
        made = {name: self._filled(arrays, child, (*path, name)) for name, child in children(node)}
        if is_dataclass(node):
            return replace(node, **made)
        return list(made.values()) if isinstance(node, list) else made if isinstance(node, dict) else node


TREES = Trees()
TREES_LINEAR = LayerTransform(
    "trees.linear",
    "linear",
    (Leaf("W", "kernel", "in out"), Leaf("b", "bias", "out", optional=True)),
    modules=(f"{__name__}.Dense",),
)
OF_TREES = default_registry().extend(TREES, TREES_LINEAR)


def weights():
    tied = np.arange(6.0).reshape(2, 3)
    return {
        "fc.W": np.arange(12, dtype="f4").reshape(3, 4),
        "fc.b": np.ones(4, "f4"),
        "tied.x": tied,
        "tied.y": tied,
        "odd.empty": np.zeros((0, 3), "f2"),
        "odd.scalar": np.array(3, ">i4"),
        "odd.strided": np.asfortranarray(np.arange(12.0).reshape(3, 4))[::-1],
    }


def stack(dtype="f4"):
    first = Dense(np.arange(20, dtype=dtype).reshape(4, 5), np.ones(5, dtype))
    return Stack(
        [first, Dense(np.arange(25, dtype=dtype).reshape(5, 5))],
        0.5,
        {"gain": np.ones(3, dtype), "shift": np.zeros(3, dtype)},
    )


class TestNumpyDicts(FrameworkContract):
    framework = NUMPY
    registry = REGISTRY

    def samples(self):
        return (weights(), {"a.b": np.ones((2, 2))})

    def foreign(self):
        return {"a": np.ones(2)}, {"a.b": torch.ones(2)}, {"a.b": {"c.d": np.ones(2)}}


class TestTrees(FrameworkContract):
    framework = TREES
    registry = OF_TREES

    def samples(self):
        return (stack(), stack("f8"))

    def abstract(self):
        return (Dense(TensorSpec((4, 5), "float32"), TensorSpec((5,), "float32")),)


def test_ties_are_known_and_come_back():
    state = NUMPY.state(weights())
    assert dict(state.metadata.ties) == {("tied", "y"): ("tied", "x")}
    built = NUMPY.build(state, None)
    assert built["tied.x"] is built["tied.y"]


def test_types_of_modules_are_evidence():
    modules = TREES.state(stack()).metadata.modules
    assert modules["layers", "0"].types == (f"{__name__}.Dense", f"{__name__}.Module")
    assert modules["layers", "1"].parameters == ("W",)
    assert modules[()].settings == {"rate": 0.5}
    assert modules[()].parameters == ("extra.gain", "extra.shift")


def test_both_ways(tmp_path):
    model = torch.nn.ModuleDict({"fc": torch.nn.Linear(3, 4)})
    neutral = bridge_torch.to_neutral(model, registry=REGISTRY)
    made = from_neutral(neutral, framework="numpy", registry=REGISTRY)
    assert np.array_equal(made["fc.W"], model["fc"].weight.detach().numpy().T)
    back = from_neutral(
        to_neutral(made, framework="numpy", registry=REGISTRY), framework="torch", registry=REGISTRY
    )
    assert all(torch.equal(back[name], value) for name, value in model.state_dict().items())
    torch.save(model.state_dict(), tmp_path / "a.pt")
    convert(tmp_path / "a.pt", tmp_path / "a.npz", to="numpy", registry=REGISTRY)
    convert(tmp_path / "a.npz", tmp_path / "b.safetensors", to="torch", registry=REGISTRY)
    with open_state(tmp_path / "b.safetensors") as state:
        assert np.array_equal(state["fc.weight"], model["fc"].weight.detach().numpy())


def test_names_of_its_own_are_owned_and_no_others():
    spec = TensorSpec((2, 3), np.dtype("float32"))
    assert NUMPY.owns({("fc", "W"): spec, ("fc", "b"): spec})
    assert not NUMPY.owns({("fc", "weight"): spec})
    assert not TREES.owns({("fc", "W"): spec})


@pytest.mark.parametrize(
    ("change", "attribute", "named"),
    [
        ({"fc.more": np.ones(2)}, "missing", "fc.more"),
        ({"fc.b": None}, "unexpected", "fc.b"),
        ({"fc.b": np.ones(5)}, "mismatched", "fc.b: expected float64[5], got float32[4]"),
    ],
)
def test_another_template_is_refused(change, attribute, named):
    like = {name: array for name, array in (weights() | change).items() if array is not None}
    with pytest.raises(MismatchError) as caught:
        NUMPY.build(NUMPY.state(weights()), like)
    assert getattr(caught.value, attribute) == (named,)


def test_objects_of_others_are_refused():
    for act in (NUMPY.state, lambda value: NUMPY.build(NUMPY.state(weights()), value)):
        with refused(UsageError, "numpy", "Linear"):
            act(torch.nn.Linear(2, 2))
    with refused(UsageError, "trees", hint="like=model"):
        TREES.build(TREES.state(stack()), None)
    with refused(UsageError, "template"):
        TREES.state(Dense(TensorSpec((2, 3), "float32"))).read("W")


class Renames(NumpyDicts):
    def unflatten(self, arrays, like):
        return {f"{'.'.join(key)}s": array for key, array in arrays.items()}


class Loses(NumpyDicts):
    def unflatten(self, arrays, like):
        made = super().unflatten(arrays, like)
        made.pop("fc.b")
        return made


class Casts(NumpyDicts):
    def unflatten(self, arrays, like):
        return {name: array.astype("f4") for name, array in super().unflatten(arrays, like).items()}


class Swaps(NumpyDicts):
    def unflatten(self, arrays, like):
        made = super().unflatten(arrays, like)
        made["odd.strided"], made["odd.same"] = made["odd.same"], made["odd.strided"]
        return made


class Squeezes(NumpyDicts):
    def unflatten(self, arrays, like):
        return {name: array.ravel() for name, array in super().unflatten(arrays, like).items()}


class GivesTheTemplate(NumpyDicts):
    def unflatten(self, arrays, like):
        return like


class GivesItsValues(NumpyDicts):
    def unflatten(self, arrays, like):
        return {name: array.copy() for name, array in like.items()}


class FillsTheTemplate(NumpyDicts):
    def unflatten(self, arrays, like):
        made = super().unflatten(arrays, like)
        like.update(made)
        return made


class GivesAnother(NumpyDicts):
    def unflatten(self, arrays, like):
        return list(arrays.values())


class FlattensToPairs(NumpyDicts):
    def flatten(self, value):
        return list(value.items())


WRONG = {
    Renames: "lost",
    Loses: "fc.b",
    Casts: "float32",
    Swaps: "odd.s",
    Squeezes: "changed",
    GivesTheTemplate: "like=",
    GivesItsValues: "other values",
    FillsTheTemplate: "changed like=",
    GivesAnother: "list",
    FlattensToPairs: "flatten",
}


@pytest.mark.parametrize("adapter", WRONG, ids=lambda adapter: adapter.__name__)
def test_what_is_built_wrong_is_an_error(adapter):
    given = weights() | {"odd.same": np.ones((3, 4))}
    state = NUMPY.state({name: np.asarray(array + 1) for name, array in given.items()})
    with refused(PluginError, "framework numpy", WRONG[adapter]):
        adapter().build(state, given)


def test_what_is_missing_is_named():
    class Nameless(NumpyDicts):
        name = ""

    class Half:
        name = "half"

        def accepts(self, value):
            return False

    for value, named in ((Nameless(), "name"), (Half(), "build"), (NumpyDicts, "NumpyDicts()")):
        with refused(PluginError, named):
            default_registry().extend(value)
