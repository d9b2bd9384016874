"""Statements of README.md and docs/layers.md about what happens, each as a test."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.numpy import load_file, save_file
from support.errors import refused

import bridge_core
from bridge_core import AmbiguousLayerError, ConversionError, MismatchError
from bridge_core.cli import main


def bare(tmp_path, **layers):
    """Write the layers' tensors as a bare file."""
    model = torch.nn.ModuleDict(layers)
    path = tmp_path / "bare.safetensors"
    save_file({name: value.numpy() for name, value in model.state_dict().items()}, path)
    return path


REASONS = {
    "a grouped transposed convolution": (torch.nn.ConvTranspose2d(4, 8, 3, groups=2), "groups > 1"),
    "a depthwise one": (torch.nn.ConvTranspose2d(4, 4, 3, groups=4), "groups > 1"),
    "add_bias_kv": (torch.nn.MultiheadAttention(8, 2, add_bias_kv=True), "add_bias_kv"),
    "a projected LSTM": (torch.nn.LSTM(4, 6, proj_size=3), "proj_size"),
}


@pytest.mark.parametrize("name", REASONS)
def test_what_flax_does_not_have_is_refused_with_the_reason(tmp_path, name):
    layer, reason = REASONS[name]
    with pytest.raises(ConversionError, match=reason) as caught:
        bridge_core.convert(torch.nn.ModuleDict({"up": layer}), tmp_path / "out.msgpack", to="flax")
    assert caught.value.keys
    assert all(key.startswith("up") for key in caught.value.keys)
    assert not (tmp_path / "out.msgpack").exists()


def test_a_grouped_transposed_convolution_is_refused_where_its_bias_shows_it(tmp_path):
    source = bare(tmp_path, up=torch.nn.ConvTranspose2d(4, 8, 3, groups=2))
    with pytest.raises(ConversionError) as caught:
        bridge_core.convert(source, tmp_path / "out.msgpack", to="flax")
    assert "up.weight" in caught.value.keys


def test_without_a_bias_it_is_ambiguous(tmp_path):
    source = bare(tmp_path, up=torch.nn.ConvTranspose2d(4, 8, 3, groups=2, bias=False))
    with refused(AmbiguousLayerError, "up.weight"):
        bridge_core.convert(source, tmp_path / "out.msgpack", to="flax")


def test_a_depthwise_transposed_convolution_with_a_bias_looks_like_a_convolution_in_a_bare_file(tmp_path):
    layer = torch.nn.ConvTranspose2d(4, 4, 3, groups=4)
    source = bare(tmp_path, up=layer)
    report = bridge_core.convert(source, tmp_path / "out.safetensors", to="flax")
    assert report.evidence == {"structure": 2}
    kernel = load_file(tmp_path / "out.safetensors")["up.kernel"]
    assert kernel.shape == (3, 3, 1, 4)
    model = torch.nn.ModuleDict({"up": layer})
    with pytest.raises(ConversionError, match="groups > 1"):
        bridge_core.convert(source, tmp_path / "no.msgpack", to="flax", model=model)


def test_a_librarys_own_layer_with_a_weight_and_a_bias_looks_like_a_linear_layer(tmp_path):
    path = tmp_path / "own.safetensors"
    save_file({"own.weight": np.ones((3, 4), "f4"), "own.bias": np.ones(3, "f4")}, path)
    assert bridge_core.plan_conversion(path, to="flax").evidence == {"structure": 2}


def test_the_order_of_evidence_a_rule_decides_before_the_model(tmp_path):
    path = tmp_path / "one.safetensors"
    save_file({"a.weight": np.ones((3, 4), "f4")}, path)
    model = torch.nn.ModuleDict({"a": torch.nn.Embedding(3, 4)})
    rule = bridge_core.Rule.layer("a", "linear")
    assert bridge_core.plan_conversion(path, to="flax", model=model).evidence == {"module": 1}
    assert bridge_core.plan_conversion(path, to="flax", model=model, rules=[rule]).evidence == {"rule": 1}
    assert bridge_core.plan_conversion(path, to="flax", accept_guesses=True).evidence == {"guess": 1}
    with refused(AmbiguousLayerError, "a.weight"):
        bridge_core.plan_conversion(path, to="flax")


def test_a_template_decides_what_is_open_and_may_not_contradict_the_source():
    weight, bias = np.ones((4, 4), "f4"), np.ones(4, "f4")
    kernel, embedding = {"a": {"kernel": weight}}, {"a": {"embedding": weight, "bias": bias}}
    assert bridge_core.plan_conversion({"a.weight": weight}, to="flax", like=kernel).evidence == {
        "template": 1
    }
    with refused(MismatchError, "a.weight", "a.embedding"):
        bridge_core.plan_conversion({"a.weight": weight, "a.bias": bias}, to="flax", like=embedding)
    model = torch.nn.ModuleDict({"a": torch.nn.Embedding(4, 4)})
    with refused(MismatchError, "a.weight", "a.kernel"):
        bridge_core.plan_conversion({"a.weight": weight}, to="flax", model=model, like=kernel)


def test_a_file_that_ckptbridge_wrote_records_what_decided(tmp_path):
    neutral = tmp_path / "neutral.safetensors"
    model = torch.nn.ModuleDict({"a": torch.nn.Embedding(3, 4)})
    bridge_core.convert(model, neutral, to="neutral")
    assert bridge_core.plan_conversion(neutral, to="flax").evidence == {"module": 1}


def test_patterns_allow_what_else_is_refused():
    weight, bias = np.ones((3, 4), "f4"), np.ones(3, "f4")
    dense = {"a.weight": weight, "a.bias": bias}
    like = {"a": {"kernel": weight.T, "bias": bias}, "b": {"bias": bias}}
    plan = bridge_core.plan_conversion(dense, to="flax", like=like, allow_missing="b.*")
    assert {".".join(key) for key in plan.allowed_missing} == {"b.bias"}
    more = {**dense, "c.bias": bias}
    plan = bridge_core.plan_conversion(more, to="flax", like={"a": like["a"]}, allow_unexpected="c.*")
    assert ("c", "bias") not in {source for step in plan.steps for source in step.sources if step.targets}
    gate = {**dense, "a.gate_weight": weight}
    plan = bridge_core.plan_conversion(gate, to="flax", allow_unclaimed="**.gate_weight")
    assert plan.unclaimed == (("a", "gate_weight"),)


def test_a_file_is_converted_without_torch_or_jax(tmp_path):
    source = bare(tmp_path, up=torch.nn.Linear(3, 4))
    code = (
        "import sys, bridge_core; "
        f"bridge_core.convert({str(source)!r}, {str(tmp_path / 'out.msgpack')!r}, to='flax'); "
        "print(*{'torch', 'jax', 'flax', 'safetensors'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


EXITS = {
    ("inspect", "model.safetensors"): 0,
    ("convert", "model.safetensors", "model.safetensors", "--to", "flax"): 1,
    ("inspect", "no.safetensors"): 2,
    ("inspect", "cut.safetensors"): 3,
}


@pytest.mark.parametrize("words", EXITS, ids=" ".join)
def test_exit_codes(tmp_path, monkeypatch, words):
    monkeypatch.chdir(tmp_path)
    save_file({"a.weight": np.ones((3, 4), "f4")}, "model.safetensors")
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "model.safetensors").read_bytes()[:-4])
    assert CliRunner().invoke(main, list(words)).exit_code == EXITS[words]
