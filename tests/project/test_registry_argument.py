"""Whoever hands a registry in gets it everywhere: no function asks for the default one then."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from support.toy_format import ToyFormat

import bridge_core
import bridge_flax
import bridge_torch
from bridge_core import FlatState, LayerKind, LayerTransform, Leaf, default_registry, hookimpl

WITHOUT = {
    "as_key",
    "as_state",
    "compare_states",
    "custom_layer",
    "default_registry",
    "hookimpl",
    "join_key",
    "load_rules",
    "load_values",
    "split_name",
    "split_names",
    "template",
    "flax_template",
    "meta_model",
}
"""Functions that look nothing up."""


class Scaled(torch.nn.Module):
    """A layer that only the added plugin knows."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.arange(6.0).reshape(3, 2))
        self.gain = torch.nn.Parameter(torch.arange(3.0))


KIND = LayerKind("scaled", {"kernel": "in out", "gain": "out"})
TRANSFORMS = [
    LayerTransform(
        "torch.scaled",
        "scaled",
        (Leaf("weight", "kernel", "out in"), Leaf("gain", "gain", "out")),
        modules=(f"{Scaled.__module__}.{Scaled.__qualname__}",),
        identifying_leaves=("weight", "gain"),
    ),
    LayerTransform(
        "flax.scaled", "scaled", (Leaf("kernel", "kernel", "in out"), Leaf("gain", "gain", "out"))
    ),
]


@pytest.fixture
def registry(monkeypatch):
    """A registry with one more plugin, where the default one cannot be had."""
    made = default_registry().extend(
        SimpleNamespace(
            bridge_formats=hookimpl(lambda: [ToyFormat()]),
            bridge_layer_kinds=hookimpl(lambda: [KIND]),
            bridge_layer_transforms=hookimpl(lambda: TRANSFORMS),
        ),
        name="added",
    )

    def refuse():
        raise AssertionError("the default registry was asked for")

    for room in (
        "conversion.convert",
        "conversion.in_memory",
        "conversion.comparison",
        "checkpoint.open_save",
    ):
        importlib.import_module(f"bridge_core.{room}")
    importlib.import_module("bridge_core.checkpoint.weight_files")
    importlib.import_module("bridge_core.checkpoint.verification")
    patched = 0
    for name, module in list(sys.modules.items()):
        if name.startswith(("bridge_", "ckptbridge_")) and "default_registry" in vars(module):
            monkeypatch.setattr(module, "default_registry", refuse)
            patched += 1
    assert patched > 3
    return made


@pytest.fixture
def model():
    return torch.nn.Sequential(Scaled(), torch.nn.Linear(3, 4))


def public_functions():
    packages = [bridge_core, bridge_torch, bridge_flax]
    with contextlib.suppress(ImportError):
        packages.append(importlib.import_module("ckptbridge_transformers"))
    for package in packages:
        for name in package.__all__:
            value = getattr(package, name)
            if inspect.isfunction(value):
                yield pytest.param(value, id=f"{package.__name__}.{name}")


@pytest.mark.parametrize("function", list(public_functions()))
def test_every_public_function_that_looks_something_up_takes_a_registry(function):
    parameter = inspect.signature(function).parameters.get("registry")
    if function.__name__ in WITHOUT:
        assert parameter is None
        return
    assert parameter is not None
    assert (parameter.kind, parameter.default) == (parameter.KEYWORD_ONLY, None)


@pytest.mark.parametrize("name", ["a.toy", "folder"])
def test_opening_and_saving(registry, tmp_path, name):
    state = FlatState({"layer.kernel": np.ones((2, 3), "f4")}, layout="torch")
    options = {"max_shard_size": 8} if name == "folder" else {}
    bridge_core.save_state(state, tmp_path / name, format="toy", registry=registry, verify=True, **options)
    with bridge_core.open_state(tmp_path / name, registry=registry) as again:
        assert again.metadata.provenance["format"] == "toy"
        assert np.array_equal(again["layer.kernel"], state["layer.kernel"])


def test_files_and_live_objects(registry, tmp_path, model):
    plan = bridge_core.plan_conversion(model, to="flax", registry=registry)
    assert {step.kind for step in plan.steps} == {"scaled", "linear"}
    for source, name in ((model, "a.toy"), (model.state_dict(), "b.safetensors")):
        bridge_core.convert(source, tmp_path / name, to="flax", model=model, registry=registry)
        assert bridge_core.verify(model, tmp_path / name, registry=registry).equal
    bridge_core.convert(tmp_path / "b.safetensors", tmp_path / "c.pt", to="torch", registry=registry)
    back = torch.load(tmp_path / "c.pt", weights_only=True)
    assert all(torch.equal(back[key], value) for key, value in model.state_dict().items())


def test_to_neutral_and_back(registry, model):
    neutral = bridge_torch.to_neutral(model, registry=registry)
    assert neutral.metadata.layers["0",].kind == "scaled"
    back = bridge_torch.from_neutral(neutral, like=model, registry=registry)
    assert torch.equal(back["0.weight"], model[0].weight)
    tree = bridge_flax.from_neutral(neutral, registry=registry)
    assert np.array_equal(tree["0"]["kernel"], model[0].weight.detach().numpy().T)
    again = bridge_flax.to_neutral(tree, module=None, registry=registry)
    assert np.array_equal(again["0.kernel"], neutral["0.kernel"])
    core = bridge_core.to_neutral(model, framework="torch", module=model, registry=registry)
    assert np.array_equal(core["0.kernel"], neutral["0.kernel"])
    made = bridge_core.from_neutral(core, framework="torch", registry=registry)
    assert torch.equal(made["0.weight"], model[0].weight)


@pytest.mark.slow
def test_weights_of_transformers(registry):
    transformers = pytest.importorskip("transformers")
    package = pytest.importorskip("ckptbridge_transformers")
    config = transformers.BertConfig(
        hidden_size=8, num_attention_heads=2, num_hidden_layers=1, intermediate_size=8, vocab_size=11
    )
    model = transformers.BertModel(config)
    loaded = package.torch_weights(model.state_dict(), model, registry=registry)
    assert not loaded.missing
    flax_model = package.templates.abstract_flax(transformers.FlaxBertModel, config)
    tree = package.flax_weights(model, flax_model, registry=registry).weights
    kernel = tree["encoder"]["layer"]["0"]["output"]["dense"]["kernel"]
    assert np.array_equal(kernel, model.encoder.layer[0].output.dense.weight.detach().numpy().T)


@pytest.mark.slow
def test_folders_of_a_model_library(registry, tmp_path):
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("ckptbridge_transformers")
    config = transformers.BertConfig(
        hidden_size=8, num_attention_heads=2, num_hidden_layers=1, intermediate_size=8, vocab_size=11
    )
    transformers.BertModel(config).save_pretrained(tmp_path / "source")
    report = bridge_core.convert(tmp_path / "source", f"{tmp_path}/made/", to="flax", registry=registry)
    assert report.evidence["module"]
