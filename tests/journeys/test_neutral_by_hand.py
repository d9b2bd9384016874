"""The neutral form made or edited by hand: right, or refused; what its metadata says is checked."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from support.errors import refused

import bridge_core
import bridge_flax
import bridge_torch
from bridge_core import FlatState, KeyConflict, RuleError, UnclaimedTensorError


def numbers(*shape):
    return np.random.default_rng(3).permutation(int(np.prod(shape))).reshape(shape).astype("float32")


def model(**layers):
    made = torch.nn.Module()
    for name, layer in layers.items():
        made.add_module(name, layer)
    with torch.no_grad():
        for value in made.parameters():
            value.copy_(torch.from_numpy(numbers(*value.shape)))
    return made


def edited(state, tensors=None, **info):
    """Return a state with other tensors, or with another record for the layer `c`."""
    layers = dict(state.metadata.layers)
    layers["c",] = dataclasses.replace(layers["c",], **info)
    metadata = state.metadata.with_(layers=layers)
    return FlatState({**state.tensors(), **(tensors or {})}, layout="neutral", metadata=metadata)


def routes(state, folder):
    """Return the state itself, and as it comes back from files."""
    yield state
    for suffix in ("safetensors", "npz", "pt"):
        bridge_core.save_state(state, folder / f"n.{suffix}")
        yield bridge_core.open_state(folder / f"n.{suffix}")


SPECTRAL = torch.nn.utils.parametrizations.spectral_norm


@pytest.mark.parametrize(
    "layer",
    [
        lambda: SPECTRAL(torch.nn.Linear(4, 4)),
        lambda: SPECTRAL(torch.nn.Conv2d(4, 4, 4)),
        lambda: SPECTRAL(torch.nn.ConvTranspose1d(4, 4, 4)),
        lambda: torch.nn.MultiheadAttention(4, 2),
        lambda: torch.nn.LSTM(4, 4),
    ],
    ids=["linear", "conv", "transposed", "attention", "lstm"],
)
def test_a_plain_dict_fits_the_module_that_it_came_from(layer):
    source = model(c=layer())
    plain = dict(bridge_torch.to_neutral(source))
    made = bridge_torch.from_neutral(plain, like=source)
    for name, value in source.state_dict().items():
        assert torch.equal(made[name], value), name


@pytest.mark.parametrize("key", [(), {"a": {(): 1.0}, (): 2.0}])
def test_an_empty_key_is_refused(key):
    plain = key if isinstance(key, dict) else {key: numbers(4)}
    with refused(KeyConflict):
        bridge_torch.from_neutral(plain)


def test_a_record_without_leaves_loses_no_tensor(tmp_path):
    source = model(c=torch.nn.Linear(4, 4))
    state = edited(bridge_torch.to_neutral(source), leaves=())
    for way in routes(state, tmp_path):
        made = bridge_torch.from_neutral(way)
        assert torch.equal(made["c.weight"], source.c.weight)
        assert torch.equal(made["c.bias"], source.c.bias)


def test_statistics_that_come_to_a_norm_are_not_a_torch_modules_own(tmp_path):
    state = bridge_torch.to_neutral(model(c=torch.nn.LayerNorm(4)))
    tensors = {("c", "mean"): numbers(4), ("c", "var"): numbers(4)}
    for way in routes(edited(state, tensors), tmp_path):
        for package in (bridge_torch, bridge_flax):
            with refused(UnclaimedTensorError) as caught:
                package.from_neutral(way)
            assert set(caught.value.reasons) == {"c.mean", "c.var"}


class Gain(torch.nn.Linear):
    def __init__(self):
        super().__init__(4, 4)
        self.gain = torch.nn.Parameter(torch.zeros(4))


class Mixer(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.gain = torch.nn.Parameter(torch.zeros(4))


@pytest.mark.parametrize("module", [Gain, Mixer])
@pytest.mark.parametrize("leaf", ["gate_weight", "weight_orig", "kernel2"])
def test_a_module_does_not_vouch_for_leaves_that_came_later(module, leaf, tmp_path):
    state = bridge_torch.to_neutral(model(c=module()))
    assert bridge_flax.from_neutral(state)["c"]["gain"].shape == (4,)
    for way in routes(edited(state, {("c", leaf): numbers(4, 4)}), tmp_path):
        with refused(UnclaimedTensorError) as caught:
            bridge_flax.from_neutral(way)
        assert f"c.{leaf}" in caught.value.reasons


@pytest.mark.parametrize(
    ("weight", "like"),
    [(numbers(4, 4), (4, 4)), (numbers(4, 4, 4, 4), (4, 4, 4, 4))],
    ids=["linear or embedding", "convolution"],
)
def test_a_new_name_does_not_turn_an_undecided_leaf(weight, like, tmp_path):
    state = bridge_torch.to_neutral({"c.weight": torch.from_numpy(weight)})
    renamed = state.rename({("c", "weight"): ("c", "kernel")})
    template = {"c": {"kernel": np.zeros(like, "float32")}}
    for way in routes(renamed, tmp_path):
        with refused(UnclaimedTensorError) as caught:
            bridge_flax.from_neutral(way, like=template)
        assert set(caught.value.reasons) == {"c.kernel"}


@pytest.mark.parametrize("ties", [{("c", "kernel"): ("gone",)}, {("gone",): ("c", "kernel")}])
def test_a_tie_to_a_tensor_that_is_not_there_is_forgotten(ties):
    source = model(c=torch.nn.Linear(4, 4))
    state = bridge_torch.to_neutral(source)
    state = state.replace(metadata=state.metadata.with_(ties=ties))
    assert torch.equal(bridge_torch.from_neutral(state)["c.weight"], source.c.weight)


def test_counters_of_layers_that_were_taken_out_do_not_come_back(tmp_path):
    source = model(b=torch.nn.BatchNorm1d(4), c=torch.nn.Linear(4, 4))
    source.register_buffer("top", torch.zeros(3))
    bridge_core.convert(source, tmp_path / "f.safetensors", to="flax")
    with bridge_core.open_state(tmp_path / "f.safetensors") as state:
        assert state.metadata.auxiliary_tensors
        rest = state.replace(tensors={k: t for k, t in state.tensors().items() if "b" not in k})
        made = bridge_torch.from_neutral(bridge_flax.to_neutral(rest))
        whole = bridge_torch.from_neutral(bridge_flax.to_neutral(state))
    assert set(made) == {"c.weight", "c.bias", "top"}
    assert "b.num_batches_tracked" in whole


def test_guesses_stay_guesses_wherever_they_go(tmp_path):
    value = {"mid.weight": torch.zeros(4, 4, 3, 3), "x.weight": torch.zeros(5, 4)}
    bridge_core.convert(value, tmp_path / "n.npz", to="neutral", accept_guesses=True)
    first = bridge_core.convert(tmp_path / "n.npz", tmp_path / "f.npz", to="flax")
    second = bridge_core.convert(tmp_path / "f.npz", tmp_path / "t.npz", to="torch", layout="flax")
    for report in (first, second):
        assert {key[0] for key in report.guessed} == {"mid", "x"}
        assert report.to_json()["evidence"] == {"guess": 2}


RULES = {
    "to torch": ("flax", "torch", "x.mat", "x.weight"),
    "to flax": ("torch", "flax", "x.mat", "x.kernel"),
    "a low-rank factor": ("flax", "torch", "x.lora.a", "x.lora_A.weight"),
}


@pytest.mark.parametrize("steps", ["one", "first", "second", "both"])
@pytest.mark.parametrize("name", RULES)
def test_a_rule_that_gives_a_layers_name_turns_nothing(name, steps, tmp_path):
    source, target, old, new = RULES[name]
    text = f'source = "{source}"\ntarget = "{target}"\n[[rule]]\nsource = "{old}"\nrename = "{new}"\n'
    (tmp_path / "r.toml").write_text(text)
    rules, value = tmp_path / "r.toml", FlatState({old: numbers(4, 4)}, layout=source)
    like = FlatState({new: np.zeros((4, 4), "float32")}, layout=target)
    if steps != "one":
        first = rules if steps != "second" else ()
        bridge_core.convert(value, tmp_path / "n.npz", to="neutral", rules=first)
        rules, value = rules if steps != "first" else (), tmp_path / "n.npz"
    with refused(UnclaimedTensorError) as caught:
        bridge_core.convert(value, tmp_path / "o.npz", to=target, rules=rules, like=like)
    assert [key.partition(".")[0] for key in caught.value.reasons] == ["x"]
    assert not (tmp_path / "o.npz").exists()


@pytest.mark.parametrize(
    ("kind", "other"), [("parameter", "linear"), ("embedding", "linear"), ("linaer", "'linear'")]
)
def test_a_rule_for_a_decided_layer_is_not_passed_over(kind, other, tmp_path):
    rules = tmp_path / "r.toml"
    rules.write_text(f'source = "torch"\ntarget = "flax"\n[[rule]]\nsource = "a"\nlayer = "{kind}"\n')
    value = {"a.weight": torch.zeros(4, 4), "a.bias": torch.zeros(4)}
    bridge_core.convert(value, tmp_path / "n.npz", to="neutral")
    with refused(RuleError, f"{rules}:3", "'a'", kind, other):
        bridge_core.convert(tmp_path / "n.npz", tmp_path / "o.npz", to="flax", rules=rules)
