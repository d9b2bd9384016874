"""The zoo's checks notice a single wrong layer transform, family rule or bit."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from support.errors import OutputsDiffer
from zoo import harness, heads, text, vision

import bridge_core
from bridge_core import Leaf, MismatchError, default_registry
from ckptbridge_transformers import families

CASES = {case.name: case for case in (*text.CASES, *vision.CASES)}
SQUARE_BERT = replace(
    CASES["bert-model"], config=text.config_of("BertConfig", **{**text.BERT, "intermediate_size": 16})
)
RESNET = next(case for case in vision.CASES if case.family == "resnet" and case.fast)

SWAPS = {
    "a linear kernel not transposed": (
        SQUARE_BERT,
        "torch.linear",
        (Leaf("weight", "kernel", "in out"), Leaf("bias", "bias", "out", optional=True)),
    ),
    "a convolution turned round": (
        RESNET,
        "torch.conv",
        (Leaf("weight", "kernel", "out in +k", flip=("k",)), Leaf("bias", "bias", "out", optional=True)),
    ),
    "mean and variance exchanged": (
        RESNET,
        "torch.batch_norm",
        (
            Leaf("weight", "scale", "features", optional=True),
            Leaf("bias", "bias", "features", optional=True),
            Leaf("running_mean", "var", "features"),
            Leaf("running_var", "mean", "features"),
            Leaf("num_batches_tracked", "num_batches_tracked", "", optional=True),
        ),
    ),
}


def convert(source, model, registry):
    rules = families.rules_for(source.config, type(model).__name__)
    neutral = bridge_core.to_neutral(source, framework="torch", rules=rules, registry=registry)
    like = harness.flax_template(model)
    return bridge_core.from_neutral(neutral, framework="flax", like=like, rules=rules, registry=registry)


def swapped(name, leaves):
    known = default_registry()
    changed = replace(known.transforms[name], leaves=leaves, axis_splits={}, unsupported_leaves={})
    return known.with_tables(transforms={**known.transforms, name: changed})


@pytest.mark.parametrize(("case", "name", "leaves"), SWAPS.values(), ids=SWAPS)
@pytest.mark.slow
def test_a_swapped_transform_changes_outputs(case, name, leaves):
    source, model = harness.build_torch(case), harness.build_flax(case)
    wanted = harness.run_torch(case, source)
    right = convert(source, model, default_registry())
    harness.assert_same_outputs(harness.run_flax(case, model, right), wanted, case.tolerance)
    wrong = convert(source, model, swapped(name, leaves))
    with pytest.raises(OutputsDiffer):
        harness.assert_same_outputs(harness.run_flax(case, model, wrong), wanted, case.tolerance)


def test_conv1d_read_as_linear_does_not_fit():
    case = CASES["gpt2-model"]
    leaves = (Leaf("weight", "kernel", "out in"), Leaf("bias", "bias", "out", optional=True))
    with pytest.raises(MismatchError) as caught:
        convert(
            harness.build_torch(case),
            harness.build_flax(case),
            swapped("torch.transformers_conv1d", leaves),
        )
    assert {name.split(".")[-2] for name in caught.value.missing} == {"c_attn", "c_fc", "c_proj"}


def test_one_transposed_kernel_changes_outputs():
    case = CASES["gpt2-model"]
    source, model = harness.build_torch(case), harness.build_flax(case)
    params = harness.to_flax(source, model)
    attention = params["h"]["1"]["attn"]["c_proj"]
    attention["kernel"] = attention["kernel"].T
    with pytest.raises(OutputsDiffer):
        harness.assert_same_outputs(
            harness.run_flax(case, model, params), harness.run_torch(case, source), case.tolerance
        )


def test_without_a_family_rule_the_plan_is_refused(monkeypatch):
    monkeypatch.setattr(harness, "rules_for", lambda *_: ())
    case = CASES["roformer-model"]
    with pytest.raises(MismatchError) as caught:
        harness.to_flax(harness.build_torch(case), harness.build_flax(case))
    assert caught.value.unexpected == ("encoder.embed_positions.embedding",)


def test_one_flipped_bit_is_noticed():
    state = harness.build_torch(CASES["bert-model"]).state_dict()
    other = {name: tensor.clone() for name, tensor in state.items()}
    harness.assert_same_bits(other, state)
    other["pooler.dense.bias"].view(torch.int32)[3] ^= 1
    with pytest.raises(AssertionError, match=r"pooler\.dense\.bias"):
        harness.assert_same_bits(other, state)


def test_every_value_is_random():
    for case in (CASES["bert-masked-lm"], RESNET):
        for name, tensor in harness.build_torch(case).state_dict().items():
            values = np.unique(tensor.numpy())
            assert tensor.ndim == 0 or len(values) > 1, name
            assert tensor.ndim > 0 or values[0] not in (0, 1), name


def test_a_base_model_is_found_for_heads_alone():
    cases = tuple(CASES.values())
    assert heads.base_of(CASES["bert-masked-lm"], cases).torch == "BertModel"
    assert heads.base_of(CASES["gpt2-lm"], cases).flax == "FlaxGPT2Model"
    assert heads.base_of(CASES["bert-model"], cases) is None
