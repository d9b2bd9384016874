"""Converted layers compute what the originals compute, in torch, Linen and NNX, both ways.

Every parameter and statistic is random: what the usual zeros and ones would hide shows.
"""

from __future__ import annotations

import jax
import numpy as np
import pytest
import torch
from flax import nnx
from support.models import (
    LinenModel,
    TorchModel,
    abstract_nnx_model,
    as_variables,
    assert_same_output,
    assert_same_state_dict,
    assert_same_tree,
    from_neutral,
    input_for,
    nnx_model,
    random_nnx_model,
    random_tree,
    randomise,
    run_linen,
    run_nnx,
    run_torch,
    template_of,
    to_neutral,
)
from support.pairs import FAMILIES, PAIRS


def thinned(pairs):
    """The unusual options run here only when slow tests are asked for; others run them always."""
    return [pytest.param(p, id=str(p), marks=() if p.usual else pytest.mark.slow) for p in pairs]


WITH_NNX = thinned(pair for pair in PAIRS if pair.nnx is not None)


@pytest.mark.parametrize("pair", PAIRS, ids=str)
def test_torch_to_linen_computes_the_same_and_returns_bit_for_bit(pair):
    module = randomise(TorchModel(pair.torch()))
    x = input_for(pair)
    wanted = run_torch(pair, module, x)

    tree = from_neutral(to_neutral(module, "torch"), "flax", like=template_of(pair))
    assert_same_output(run_linen(LinenModel(pair.linen()), tree, x), wanted)

    neutral = to_neutral(tree, "flax", module=template_of(pair))
    original = module.state_dict()
    assert_same_state_dict(from_neutral(neutral, "torch", like=module), without_counts(original))
    assert_same_state_dict(from_neutral(neutral, "torch", like=on_meta(original)), without_counts(original))


@pytest.mark.parametrize("pair", WITH_NNX)
def test_torch_to_nnx_computes_the_same_and_returns_bit_for_bit(pair):
    module = randomise(TorchModel(pair.torch()))
    x = input_for(pair)
    wanted = run_torch(pair, module, x)
    neutral = to_neutral(module, "torch")

    made = from_neutral(neutral, "flax", like=abstract_nnx_model(pair))
    assert_same_output(run_nnx(made, x), wanted)
    back = from_neutral(to_neutral(made, "flax"), "torch", like=module)
    assert_same_state_dict(back, without_counts(module.state_dict()))


@pytest.mark.parametrize("pair", thinned(PAIRS))
def test_linen_to_torch_computes_the_same_and_returns_bit_for_bit(pair):
    template = template_of(pair)
    variables = random_tree(template.tree)
    x = input_for(pair)
    wanted = run_linen(LinenModel(pair.linen()), variables, x)

    module = TorchModel(pair.torch())
    state_dict = from_neutral(to_neutral(variables, "flax", module=template), "torch", like=module)
    module.load_state_dict(state_dict)
    assert_same_output(run_torch(pair, module, x), wanted)

    back = from_neutral(to_neutral(module, "torch"), "flax", like=template)
    assert_same_tree(back, variables)
    back = from_neutral(to_neutral(state_dict, "torch"), "flax", like=template)
    assert_same_tree(back, variables)


@pytest.mark.parametrize("pair", WITH_NNX)
def test_nnx_to_torch_computes_the_same_and_returns_bit_for_bit(pair):
    model = random_nnx_model(pair)
    x = input_for(pair)
    wanted = run_nnx(model, x)

    module = TorchModel(pair.torch())
    module.load_state_dict(from_neutral(to_neutral(model, "flax"), "torch", like=module))
    assert_same_output(run_torch(pair, module, x), wanted)

    back = from_neutral(to_neutral(module, "torch"), "flax", like=abstract_nnx_model(pair))
    assert_same_tree(nnx.state(back), nnx.state(model))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_concrete_nnx_model_as_template_is_not_changed(family):
    pair = FAMILIES[family][0]
    neutral = to_neutral(randomise(TorchModel(pair.torch())), "torch")
    concrete = nnx_model(pair)
    before = jax.tree.map(np.asarray, nnx.state(concrete))
    made = from_neutral(neutral, "flax", like=concrete)
    assert made is not concrete
    assert_same_tree(nnx.state(made), nnx.state(from_neutral(neutral, "flax", like=abstract_nnx_model(pair))))
    assert_same_tree(nnx.state(concrete), before)


@pytest.mark.parametrize("pair", thinned([p for p in PAIRS if p.plain]))
def test_without_a_template_the_tree_is_the_same(pair):
    module = randomise(TorchModel(pair.torch()))
    neutral = to_neutral(module, "torch")
    plain = from_neutral(neutral, "flax")
    templated = from_neutral(neutral, "flax", like=template_of(pair))
    assert jax.tree.structure(as_variables(plain)) == jax.tree.structure(templated)
    jax.tree.map(lambda a, b: assert_same_tree({"leaf": a}, {"leaf": b}), as_variables(plain), templated)
    neutral = to_neutral(plain, "flax", module=template_of(pair))
    back = from_neutral(neutral, "torch", like=module)
    assert_same_state_dict(back, without_counts(module.state_dict()))


@pytest.mark.parametrize("pair", thinned(PAIRS))
def test_a_layer_alone_at_the_root_computes_the_same(pair):
    module = randomise(pair.torch())
    x = input_for(pair)
    layer = pair.linen()
    tree = from_neutral(to_neutral(module, "torch"), "flax", like=template_of(pair, layer))
    assert_same_output(run_linen(layer, tree, x), run_torch(pair, module, x))


def on_meta(state_dict):
    return {name: tensor.to("meta") for name, tensor in state_dict.items()}


def without_counts(state_dict):
    """Flax trees have no counter of batches; a bare tree cannot bring it back, and zero stands in."""
    return {
        name: torch.zeros_like(tensor) if name.endswith("num_batches_tracked") else tensor
        for name, tensor in state_dict.items()
    }
