"""Kinds and transforms of strangers: what is misspelled is named, and never read as something else."""

from __future__ import annotations

import sys
import types

import pytest
import torch
from support.errors import refused

import bridge_core
from bridge_core import (
    BridgeError,
    LayerKind,
    LayerTransform,
    Leaf,
    PluginError,
    UnclaimedTensorError,
    UnsupportedLayerError,
    default_registry,
    hookimpl,
)

KIND = LayerKind("acme", {"kernel": "in out", "gain": "out"})


class Scaled(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.arange(16.0).reshape(4, 4))
        self.gain = torch.nn.Parameter(torch.ones(4))


class Turned(torch.nn.Linear):
    def __init__(self):
        super().__init__(4, 4)


@pytest.fixture(autouse=True)
def _library(monkeypatch):
    module = types.ModuleType("acme_layers")
    for value in (Scaled, Turned):
        monkeypatch.setattr(value, "__module__", "acme_layers")
        setattr(module, value.__name__, value)
    monkeypatch.setitem(sys.modules, "acme_layers", module)


def registry(*transforms, kinds=(KIND,)):
    class Plugin:
        @hookimpl
        def bridge_layer_kinds(self):
            return list(kinds)

        @hookimpl
        def bridge_layer_transforms(self):
            return list(transforms)

    return default_registry().extend(Plugin(), name="acme")


def scaled(framework="torch", weight=None, **options):
    name, axes = ("weight", "out in") if framework == "torch" else ("kernel", "in out")
    options = {
        "kind": "acme",
        "modules": (f"acme_layers.{'Scaled' if framework == 'torch' else 'F'}",),
        **options,
    }
    leaves = (weight or Leaf(name, "kernel", axes), Leaf("gain", "gain", "out"))
    return LayerTransform(f"{framework}.acme", leaves=leaves, **options)


FLAX = scaled("flax")


def converted(module, known, folder):
    model = torch.nn.ModuleDict({"mix": module})
    bridge_core.convert(model, folder / "f.npz", to="flax", registry=known)
    with bridge_core.open_state(folder / "f.npz", layout="flax") as state:
        return dict(state)


def test_what_is_spelled_right_converts(tmp_path):
    made = converted(Scaled(), registry(scaled(), FLAX), tmp_path)
    assert (made["mix", "kernel"] == Scaled().weight.detach().numpy().T).all()


MISSPELLED = {
    "role": (scaled(weight=Leaf("weight", "kernal", "out in")), "'kernal'", "'kernel'"),
    "axis": (scaled(weight=Leaf("weight", "kernel", "ot in")), "'ot'", "'out'"),
    "number of axes": (scaled(weight=Leaf("weight", "kernel", "out *in")), "'weight'", "*in"),
    "flipped axis": (scaled(weight=Leaf("weight", "kernel", "out in", flip=("k",))), "'weight'", "'k'"),
    "kind": (scaled(kind="acmee"), "'acmee'", "'acme'"),
    "identifying leaf": (scaled(identifying_leaves=("wieght",)), "'wieght'", "'weight'"),
    "size": (scaled(axis_sizes={"inn": "in_features"}), "axis_sizes", "'inn'"),
    "split": (scaled(axis_splits={"haeds": "heads"}), "axis_splits", "'haeds'"),
    "free axis": (scaled(independent_axes=("inn",)), "independent_axes", "'inn'"),
    "equal axes": (scaled(equal_axes=(("in", "outt"),)), "equal_axes", "'outt'"),
    "unsupported leaf": (scaled(unsupported_leaves={"gian": "no"}), "'gian'", "'gain'"),
    "the target's role": (scaled(), "'kernal'", "'kernel'"),
}
"""What is misspelled: a transform, and what the refusal names."""


@pytest.mark.parametrize("what", MISSPELLED)
def test_what_is_misspelled_is_named_when_it_is_used(what, tmp_path):
    transform, *named = MISSPELLED[what]
    target = scaled("flax", weight=Leaf("kernel", "kernal", "in out")) if "target" in what else FLAX
    with refused(PluginError, "plugin acme", *named):
        converted(Scaled(), registry(transform, target), tmp_path)
    assert not list(tmp_path.iterdir())


BIAS = Leaf("bias", "bias", "out", optional=True)


@pytest.mark.parametrize(
    ("weight", "settings"),
    [
        (Leaf("wieght", "kernel", "in out"), {}),
        (Leaf("weight", "kernel", "1 in out"), {}),
        (Leaf("weight", "kernel", "in out"), {"turnd": True}),
    ],
    ids=["leaf", "rank", "setting"],
)
@pytest.mark.parametrize("module", [Turned, Scaled])
def test_a_listed_type_that_does_not_fit_is_not_read_in_the_usual_way(module, weight, settings, tmp_path):
    leaves = (weight, BIAS if module is Turned else Leaf("gain", "bias", "out"))
    turned = LayerTransform(
        "torch.turned", "linear", leaves, (f"acme_layers.{module.__name__}",), settings=settings
    )
    with refused(UnclaimedTensorError) as caught:
        converted(module(), registry(turned), tmp_path)
    assert "torch.turned" in caught.value.reasons["mix.weight"]


def test_a_subclass_is_read_as_its_own_transform_says(tmp_path):
    leaves = (Leaf("weight", "kernel", "in out"), BIAS)
    turned = LayerTransform("torch.turned", "linear", leaves, ("acme_layers.Turned",))
    module = Turned()
    made = converted(module, registry(turned), tmp_path)
    assert (made["mix", "kernel"] == module.weight.detach().numpy()).all()


@pytest.mark.parametrize(
    "make",
    [
        lambda: Leaf("weight", "kernel", None),
        lambda: LayerTransform("torch.x", "linear", (("weight", "kernel", "out in"),)),
        lambda: LayerTransform("torch.x", "linear", (), modules="acme.X"),
        lambda: LayerKind("x", ["kernel"]),
        lambda: LayerKind("x", {"kernel": None}),
    ],
)
def test_a_wrong_type_is_an_error_of_the_plugin(make):
    with pytest.raises(PluginError):
        make()


def test_lists_do_where_tuples_are_named(tmp_path):
    leaves = [Leaf("weight", "kernel", "out in"), Leaf("gain", "gain", "out")]
    transform = LayerTransform("torch.acme", "acme", leaves, ["acme_layers.Scaled"])
    assert ("mix", "kernel") in converted(Scaled(), registry(transform, FLAX), tmp_path)


def test_a_hook_that_fails_in_this_process_names_its_plugin():
    class Plugin:
        @hookimpl
        def bridge_layer_kinds(self):
            raise ZeroDivisionError("nothing to divide by")

    with refused(PluginError, "plugin broken", "ZeroDivisionError: nothing to divide by"):
        default_registry().extend(Plugin(), name="broken")


@pytest.mark.parametrize("name", ["kernel", "weight"])
@pytest.mark.parametrize("steps", [1, 2])
def test_a_kind_without_a_form_on_the_other_side_is_named_with_a_template_too(name, steps, tmp_path):
    known = registry(scaled())
    model = torch.nn.ModuleDict({"mix": Scaled()})
    like = {"mix": {name: torch.zeros(4, 4).numpy(), "gain": torch.zeros(4).numpy()}}
    source = model
    if steps == 2:
        source = tmp_path / "n.npz"
        bridge_core.convert(model, source, to="neutral", registry=known)
    with refused(UnsupportedLayerError, "flax", "acme") as caught:
        bridge_core.convert(source, tmp_path / "f.npz", to="flax", like=like, registry=known)
    assert caught.value.reasons.keys() & {"mix.weight", "mix.kernel"}


class MLP(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.gate, self.up = torch.nn.Linear(4, 4, bias=False), torch.nn.Linear(4, 4, bias=False)
        with torch.no_grad():
            for i, weight in enumerate((self.gate.weight, self.up.weight)):
                weight.copy_(torch.arange(16.0).reshape(4, 4) + i)


GATED = [("out in", "out in"), ("in out", "in out"), ("out in", "in out"), ("in out", "out in")]


@pytest.mark.parametrize("live", [True, False], ids=["module", "state dict"])
@pytest.mark.parametrize("identifying", [None, ("gate.weight", "up.weight")], ids=["not proven", "proven"])
@pytest.mark.parametrize(("of_kind", "axes"), GATED)
def test_a_composite_kind_does_not_turn_the_parts_of_others(of_kind, axes, identifying, live):
    """Plain linear layers with the names of its parts are right in Flax, or refused; live ones are right."""
    kind = LayerKind("gated", {"gate.kernel": of_kind, "up.kernel": of_kind})
    leaves = (Leaf("gate.weight", "gate.kernel", axes), Leaf("up.weight", "up.kernel", axes))
    gated = LayerTransform(
        "torch.gated", "gated", leaves, modules=("acme.Gated",), identifying_leaves=identifying
    )
    known = registry(gated, kinds=(kind,))
    model = torch.nn.ModuleDict({"mlp": MLP()})
    weights = {name: value.detach().numpy().T for name, value in model.state_dict().items()}
    tree = {"mlp": {name: {"kernel": weights[f"mlp.{name}.weight"] * 0} for name in ("gate", "up")}}
    for like in (None, tree):
        neutral = bridge_core.to_neutral(
            model if live else model.state_dict(), framework="torch", registry=known
        )
        made = attempt(neutral, framework="flax", like=like, registry=known)
        assert not live or not isinstance(made, str)
        if isinstance(made, str):
            assert "mlp.gate" in made
            continue
        for name in ("gate", "up"):
            assert (made["mlp"][name]["kernel"] == weights[f"mlp.{name}.weight"]).all()
    kernels = {"mlp": {name: {"kernel": weights[f"mlp.{name}.weight"]} for name in ("gate", "up")}}
    neutral = bridge_core.to_neutral(kernels, framework="flax", registry=known)
    like = model if live else model.state_dict()
    made = attempt(neutral, framework="torch", like=like, registry=known)
    assert not live or not isinstance(made, str)
    if isinstance(made, str):
        assert "mlp.gate" in made
    else:
        assert all(torch.equal(made[name], value) for name, value in model.state_dict().items())


def attempt(neutral, **options):
    """Return what comes out of a neutral state, or the text of the refusal."""
    try:
        return bridge_core.from_neutral(neutral, **options)
    except BridgeError as error:
        return str(error)
