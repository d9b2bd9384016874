"""Who provides a layer kind: recorded with the weights, and said where the kind is missing."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
from support.strange_plugins import install, installed

import bridge_core
from bridge_core import (
    FlatState,
    LayerKind,
    LayerTransform,
    Leaf,
    UnsupportedLayerError,
    convert,
    default_registry,
    hookimpl,
    open_state,
)
from bridge_core.plugins import loaded_registry, providers_of
from bridge_core.state import LayerInfo, StateMetadata

KIND = LayerKind("scaled", {"kernel": "in out", "gain": "out"})
TRANSFORMS = [
    LayerTransform(
        "torch.scaled",
        "scaled",
        (Leaf("weight", "kernel", "out in"), Leaf("gain", "gain", "out")),
        identifying_leaves=("weight", "gain"),
    ),
    LayerTransform(
        "flax.scaled", "scaled", (Leaf("kernel", "kernel", "in out"), Leaf("gain", "gain", "out"))
    ),
]
SOURCE = {
    "mix.weight": np.arange(6, dtype="f4").reshape(3, 2),
    "mix.gain": np.ones(3, "f4"),
    "fc.weight": np.ones((3, 2), "f4"),
    "fc.bias": np.ones(3, "f4"),
}


def registry(distribution="acme-layers"):
    plugin = SimpleNamespace(
        bridge_layer_kinds=hookimpl(lambda: [KIND]), bridge_layer_transforms=hookimpl(lambda: TRANSFORMS)
    )
    return default_registry().extend(plugin, name="acme", distribution=distribution, version="1.2")


def recorded(path, **options):
    with open_state(path, **options) as state:
        return dict(state.metadata.providers)


@pytest.mark.parametrize("to", ["neutral", "flax"])
def test_a_conversion_records_who_provides_a_foreign_kind(tmp_path, to):
    source = FlatState(SOURCE, layout="torch")
    convert(source, tmp_path / "a.safetensors", to=to, registry=registry())
    assert recorded(tmp_path / "a.safetensors") == {"scaled": "acme-layers"}


def test_it_stays_through_a_neutral_file_where_no_plugin_knows_the_kind(tmp_path):
    source = FlatState(SOURCE, layout="torch")
    convert(source, tmp_path / "a.safetensors", to="neutral", registry=registry())
    convert(tmp_path / "a.safetensors", tmp_path / "b.npz", to="neutral")
    assert recorded(tmp_path / "b.npz") == {"scaled": "acme-layers"}


def test_the_neutral_form_in_memory_records_it_too():
    state = bridge_core.to_neutral(FlatState(SOURCE, layout="torch"), framework="torch", registry=registry())
    assert dict(state.metadata.providers) == {"scaled": "acme-layers"}


@pytest.mark.parametrize("distribution", ["(in process)", "--plugin", "a b", "x;reboot", "-r"])
def test_what_cannot_be_installed_is_not_recorded(tmp_path, distribution):
    source = FlatState(SOURCE, layout="torch")
    convert(source, tmp_path / "a.safetensors", to="neutral", registry=registry(distribution))
    assert recorded(tmp_path / "a.safetensors") == {}


def test_kinds_of_ckptbridge_itself_are_not_recorded(tmp_path):
    source = FlatState({key: SOURCE[key] for key in ("fc.weight", "fc.bias")}, layout="torch")
    convert(source, tmp_path / "a.safetensors", to="neutral", registry=registry())
    assert recorded(tmp_path / "a.safetensors") == {}


def test_only_the_kinds_of_the_layers_that_are_left_are_kept():
    state = bridge_core.to_neutral(FlatState(SOURCE, layout="torch"), framework="torch", registry=registry())
    before = {"scaled": "acme-layers", "gone": "gone-layers", "linear": "evil"}
    layers = [LayerInfo("scaled", "metadata", ("kernel",)), LayerInfo("linear", "metadata", ("kernel",))]
    assert providers_of(layers, before, default_registry()) == {"scaled": "acme-layers"}
    assert providers_of([], before, default_registry()) == {}
    assert providers_of(state.metadata.layers.values(), {}, registry("other-dist")) == {
        "scaled": "other-dist"
    }
    # What a layer may be counts as well; of a transform that is missing the kind is not known.
    undecided = LayerInfo(None, "undecided", ("kernel",), ("torch.linear", "torch.scaled"))
    assert providers_of([undecided], {}, registry()) == {"scaled": "acme-layers"}
    unclaimed = LayerInfo(None, "unclaimed", (), ("torch.scaled",))
    assert providers_of([unclaimed], before, default_registry()) == {
        "scaled": "acme-layers",
        "gone": "gone-layers",
    }


def refusal(providers, made=None, to="torch", kind="scaled"):
    metadata = StateMetadata(layers={("mix",): LayerInfo(kind, "module", ("kernel",))}, providers=providers)
    state = FlatState({"mix.kernel": np.ones((2, 2), "f4")}, layout="neutral", metadata=metadata)
    with pytest.raises(UnsupportedLayerError) as refused:
        bridge_core.plan_conversion(state, to=to, registry=made)
    text = str(refused.value)
    assert "mix.kernel" in text
    return text


UNKNOWN = "no installed plugin provides 'scaled', which the metadata names"


def test_a_refusal_says_what_to_install():
    text = refusal({"scaled": "acme-layers"})
    assert f"{UNKNOWN}: it comes from acme-layers, which is not installed (pip install acme-layers)" in text
    assert "acme-layers" in refusal({"other": "acme-layers"})  # the only distribution that it may come from


@pytest.mark.parametrize(
    "providers",
    [
        {},
        {"other": "acme-layers", "another": "bcme-layers"},
        {"scaled": "x; rm -rf ~"},
        {"scaled": "-r evil.txt"},
        {"scaled": "git+https://example.com/x"},
        {"scaled": "a\nb"},
        {"scaled": "a" * 101},
        {"scaled": "\uff41\uff43\uff4d\uff45"},
        {"scaled": ""},
    ],
)
def test_what_cannot_be_a_distribution_is_never_shown(providers):
    text = refusal(providers)
    assert f"{UNKNOWN}; install the plugin" in text
    assert "pip install" not in text
    for name in filter(None, providers.values()):
        assert name not in text


@pytest.mark.parametrize(
    ("source", "disabled", "text"),
    [
        ("raise ImportError('no cuda')", (), "acme-layers 2.5, which was left out: ImportError: no cuda"),
        (
            "raise ImportError('no cuda')",
            ["acme-layers"],
            "acme-layers, which is disabled; do not disable it",
        ),
        (
            "from bridge_core import hookimpl\n@hookimpl\ndef bridge_formats():\n    return []\n",
            (),
            "it came from acme-layers, and the installed acme-layers 2.5 does not provide it",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:plugin .acme_layers_plugin.")
def test_what_is_installed_and_of_no_use_is_said(tmp_path, source, disabled, text):
    with installed(install(tmp_path / "site", {"acme-layers": source})):
        made = loaded_registry(disabled=disabled)
    assert f"{UNKNOWN}: " in (said := refusal({"scaled": "Acme_Layers"}, made))
    assert (
        text.replace("acme-layers, which is dis", "Acme_Layers, which is dis").replace(
            "it came from acme-layers", "it came from Acme_Layers"
        )
        in said
    )
    assert "pip install" not in said


@pytest.mark.filterwarnings("ignore:(kind|transform) :RuntimeWarning", "ignore:plugin :RuntimeWarning")
def test_a_kind_that_two_plugins_provide_is_refused_with_both(tmp_path):
    hook = "from bridge_core import *\n@hookimpl\ndef bridge_layer_kinds():\n"
    source = f"{hook}    return [LayerKind('scaled', {{'kernel': 'in out'}})]\n"
    with installed(install(tmp_path / "site", {"acme-one": source, "acme-two": source})):
        made = loaded_registry()
    text = refusal({}, made)
    assert "no plugin is used for 'scaled', which the metadata names" in text
    assert "provided by acme-one 2.5 and by acme-two 2.5" in text
    assert "--disable-plugin acme-two" in text


def test_the_metadata_of_a_file_may_say_anything():
    info = LayerInfo("scaled", "module", ("kernel",))
    metadata = StateMetadata(layers={("mix",): info}, providers={"scaled": "evil"})
    changed = dataclasses.replace(metadata, providers={"linear": "evil"})
    assert providers_of(changed.layers.values(), changed.providers, default_registry()) == {}
