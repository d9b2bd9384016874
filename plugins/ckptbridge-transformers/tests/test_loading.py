"""Weights straight into models: from whatever holds them, and what did not fit."""

from __future__ import annotations

import jax
import numpy as np
import pytest
import torch
from support.errors import refused
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForTokenClassification,
    BigBirdConfig,
    BigBirdForMaskedLM,
    FlaxBertForMaskedLM,
    FlaxBertForTokenClassification as FlaxTagger,
    FlaxBigBirdForMaskedLM,
)

import ckptbridge_transformers as bridge
from bridge_core import FlatState, MismatchError, UsageError, as_key

SIZES = {
    "vocab_size": 40,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 20,
}


@pytest.fixture(scope="module")
def source():
    torch.manual_seed(0)
    return BertForMaskedLM(BertConfig(**SIZES)).eval()


@pytest.fixture(scope="module")
def wanted(source):
    return bridge.flax_weights(source, FlaxBertForMaskedLM(source.config, _do_init=False)).weights


def as_numpy(state_dict):
    return {name: tensor.numpy() for name, tensor in state_dict.items()}


WAYS = {
    "a state dict": lambda s: s.state_dict(),
    "what a trainer saved": lambda s: {"epoch": 3, "state_dict": s.state_dict()},
    "twice inside": lambda s: {"model": {"model_state_dict": s.state_dict()}, "step": 1},
    "a flat state": lambda s: FlatState(
        {as_key(name): value for name, value in as_numpy(s.state_dict()).items()}, layout="torch"
    ),
    "arrays by name": lambda s: as_numpy(s.state_dict()),
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_weights_come_from_whatever_holds_them(way, source, wanted):
    model = FlaxBertForMaskedLM(source.config, _do_init=False)
    loaded = bridge.flax_weights(way(source), model)
    assert (loaded.missing, loaded.unexpected, loaded.mismatched) == ((), (), ())
    jax.tree.map(np.testing.assert_array_equal, loaded.weights, wanted)


def test_a_flax_model_with_weights_is_a_source_and_one_without_is_refused(source, wanted):
    model = FlaxBertForMaskedLM(source.config, _do_init=False)
    with refused(UsageError, "FlaxBertForMaskedLM", "_do_init=False", hint="params"):
        bridge.torch_weights(model, source)
    model._is_initialized, model.params = True, wanted
    found = bridge.torch_weights(model, source).weights
    assert all(torch.equal(found[name], value) for name, value in source.state_dict().items())


@pytest.mark.parametrize("value", [3, None, object(), [1, 2]], ids=lambda value: type(value).__name__)
def test_what_holds_no_weights_is_refused(value, source):
    with refused(UsageError, "a state dict", f"got {type(value).__name__}"):
        bridge.torch_weights(value, source)


def test_other_sizes_are_refused_or_left_out_and_told():
    three, five = (BertConfig(**SIZES, num_labels=n) for n in (3, 5))
    source = BertForTokenClassification(three).eval()
    model = FlaxTagger(five, _do_init=False)
    for allowed in ({}, {"allow_missing": True, "allow_unexpected": True}):
        with refused(MismatchError, "classifier") as caught:
            bridge.flax_weights(source, model, **allowed)
        assert len(caught.value.mismatched) == 2
    loaded = bridge.flax_weights(source, model, ignore_mismatched_sizes=True)
    assert {mismatch.target for mismatch in loaded.mismatched} == {
        ("classifier", "kernel"),
        ("classifier", "bias"),
    }
    assert set(loaded.weights) == {"bert"}
    back = bridge.torch_weights(
        bridge.flax_weights(source, FlaxTagger(three, _do_init=False)).weights,
        BertForTokenClassification(five),
        ignore_mismatched_sizes=True,
    )
    assert not {name for name in back.weights if name.startswith("classifier")}
    assert torch.equal(
        back.weights["bert.encoder.layer.0.output.dense.weight"],
        source.bert.encoder.layer[0].output.dense.weight,
    )


BLOCKS = {"attention_type": "original_full", "max_position_embeddings": 32, "block_size": 4}


def test_what_the_rules_of_a_family_leave_out_is_listed_with_the_reason():
    torch.manual_seed(0)
    config = BigBirdConfig(**SIZES | BLOCKS)
    state = BigBirdForMaskedLM(config).eval().state_dict()
    state["bert.embeddings.position_ids"] = torch.arange(32)[None]
    loaded = bridge.flax_weights(state, FlaxBigBirdForMaskedLM(config, _do_init=False))
    assert (loaded.missing, loaded.unexpected, loaded.mismatched) == ((), (), ())
    assert (loaded.unclaimed, loaded.warnings) == ((), ())
    reasons = {entry["name"]: entry["reason"] for entry in loaded.left_out}
    pooler = {"bert.pooler.weight", "bert.pooler.bias"}
    assert {*pooler, "bert.embeddings.position_ids"} <= reasons.keys()
    assert all("the Flax class does not have it" in reasons[name] for name in pooler)
    assert "the model makes by itself" in reasons["bert.embeddings.position_ids"]
    rest = {name: reason for name, reason in reasons.items() if name not in pooler}
    assert all(reason.startswith("tied to") for name, reason in rest.items() if "position_ids" not in name)
    sizes = {entry["name"]: entry["bytes"] for entry in loaded.left_out}
    assert sizes["bert.pooler.bias"] == 4 * SIZES["hidden_size"]
    moved = {name for name in state if name not in reasons}
    assert len(jax.tree.leaves(loaded.weights)) == len(moved)


def test_nothing_is_left_out_where_both_classes_have_it_all(source):
    loaded = bridge.flax_weights(source, FlaxBertForMaskedLM(source.config, _do_init=False))
    assert all(entry["reason"].startswith("tied to") for entry in loaded.left_out)
    back = bridge.torch_weights(loaded.weights, source)
    assert back.left_out == ()


def test_what_does_not_fit_is_not_listed_twice(source):
    state = {**source.state_dict(), "extra.weight": torch.ones(2, 2)}
    model = FlaxBertForMaskedLM(source.config, _do_init=False)
    loaded = bridge.flax_weights(state, model, allow_unexpected=True)
    assert loaded.unexpected == (("extra", "weight"),)
    assert "extra.weight" not in {entry["name"] for entry in loaded.left_out}


def test_scales_are_not_left_out_with_everything_unexpected(source):
    name = "bert.encoder.layer.0.output.dense.weight"
    state = {**source.state_dict(), f"{name}_scale_inv": torch.ones(1, 1)}
    state[name] = state[name].to(torch.float8_e4m3fn)
    model = FlaxBertForMaskedLM(source.config, _do_init=False)
    with refused(MismatchError, "fp8"):
        bridge.flax_weights(state, model, allow_missing=True, allow_unexpected=True)
