"""Weights straight into models: from whatever holds them, and what did not fit."""

from __future__ import annotations

import jax
import numpy as np
import pytest
import torch
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForTokenClassification,
    FlaxBertForMaskedLM,
    FlaxBertForTokenClassification as FlaxTagger,
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
    with pytest.raises(UsageError, match="FlaxBertForMaskedLM has no weights"):
        bridge.torch_weights(model, source)
    model._is_initialized, model.params = True, wanted
    found = bridge.torch_weights(model, source).weights
    assert all(torch.equal(found[name], value) for name, value in source.state_dict().items())


@pytest.mark.parametrize("value", [3, None, object(), [1, 2]], ids=lambda value: type(value).__name__)
def test_what_holds_no_weights_is_refused(value, source):
    with pytest.raises(UsageError, match="a path, a state dict, a tree or a model was expected"):
        bridge.torch_weights(value, source)


def test_other_sizes_are_refused_or_left_out_and_told():
    three, five = (BertConfig(**SIZES, num_labels=n) for n in (3, 5))
    source = BertForTokenClassification(three).eval()
    model = FlaxTagger(five, _do_init=False)
    with pytest.raises(MismatchError, match="2 of another shape"):
        bridge.flax_weights(source, model)
    with pytest.raises(MismatchError, match="2 of another shape"):
        bridge.flax_weights(source, model, allow_missing=True, allow_unexpected=True)
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
