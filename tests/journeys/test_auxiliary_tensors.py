"""What a layout has no place for is kept and restored: counters, collections, empty nodes."""

from __future__ import annotations

import flax.linen as linen
import jax
import jax.numpy as jnp
import pytest
import torch
from support.errors import refused
from support.models import assert_same_state_dict, assert_same_tree, from_neutral, randomise, to_neutral
from torch import nn

import bridge_flax
from bridge_core import KeyConflict, MismatchError, Rule, convert, open_state, plan_conversion


def norm_model():
    model = nn.ModuleDict({"bn": nn.BatchNorm2d(3), "fc": nn.Linear(3, 3)})
    randomise(model)
    model["bn"].num_batches_tracked.fill_(41)
    return model


def test_the_counter_of_batches_comes_back_through_a_flat_state():
    model = norm_model()
    neutral = to_neutral(model, "torch")
    assert neutral["bn", "num_batches_tracked"] == 41
    plan = plan_conversion(neutral, to="flax")
    assert [(d.key, d.kept) for d in plan.dropped] == [(("bn", "num_batches_tracked"), True)]
    assert plan.exact
    flax = plan.apply(neutral)
    assert ("batch_stats", "bn", "mean") in flax
    assert flax.metadata.auxiliary_tensors["bn", "num_batches_tracked"].array() == 41
    back = from_neutral(to_neutral(flax, "flax"), "torch", like=model)
    assert_same_state_dict(back, model.state_dict())
    back = from_neutral(to_neutral(flax, "flax"), "torch")
    assert {name: tensor.tolist() for name, tensor in back.items()} == {
        name: tensor.tolist() for name, tensor in model.state_dict().items()
    }
    assert plan.inverse().apply(flax)["bn", "num_batches_tracked"] == 41


def test_the_counter_is_zero_where_nothing_kept_it():
    model = norm_model()
    tree = from_neutral(to_neutral(model, "torch"), "flax")
    back = from_neutral(to_neutral(tree, "flax"), "torch", like=model)
    assert back["bn.num_batches_tracked"].dtype == torch.int64
    assert back["bn.num_batches_tracked"] == 0
    plan = plan_conversion(tree, to="torch", like=model)
    (filled,) = [step for step in plan.steps if not step.sources]
    assert filled.evidence == "residual"


def test_a_norm_without_a_counter_gets_none_when_the_template_has_none():
    model = nn.ModuleDict({"bn": nn.BatchNorm1d(3)})
    source = model.state_dict()
    del source["bn.num_batches_tracked"]
    tree = from_neutral(to_neutral(source, "torch"), "flax")
    assert_same_state_dict(from_neutral(to_neutral(tree, "flax"), "torch", like=source), source)


# -- collections ------------------------------------------------------------------------------------


@pytest.mark.parametrize("typed", [True, False], ids=["module", "state dict"])
def test_a_params_tree_as_template_takes_a_batch_norm_without_its_statistics(typed):
    model = norm_model()
    neutral = to_neutral(model if typed else model.state_dict(), "torch")
    whole = from_neutral(neutral, "flax")["params"]
    like = jax.tree.map(jnp.zeros_like, whole)
    with pytest.raises(MismatchError) as refused:
        from_neutral(neutral, "flax", like=like)
    assert (refused.value.missing, refused.value.unexpected) == ((), ("bn.mean", "bn.var"))
    tree = from_neutral(neutral, "flax", like=like, allow_unexpected=("bn.mean", "bn.var"))
    assert_same_tree(tree, whole)


def test_a_template_that_is_known_to_be_another_norm_takes_no_batch_norm():
    model = nn.ModuleDict({"bn": nn.BatchNorm1d(3)})
    like = bridge_flax.template(Normed(), jnp.zeros((1, 3)))
    with pytest.raises(MismatchError) as refused:
        from_neutral(to_neutral(model, "torch"), "flax", like=like, allow_unexpected=True)
    assert set(refused.value.missing) == {"params.bn.scale", "params.bn.bias"}


class Normed(linen.Module):
    @linen.compact
    def __call__(self, x):
        return linen.LayerNorm(name="bn")(x)


def test_only_parameters_make_a_bare_tree_and_statistics_make_collections():
    assert set(from_neutral(to_neutral(nn.Linear(2, 2), "torch"), "flax")) == {"kernel", "bias"}
    assert set(from_neutral(to_neutral(norm_model(), "torch"), "flax")) == {"params", "batch_stats"}


def test_unusual_collections_return_where_they_stood():
    tree = {
        "params": {"fc": {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)}},
        "cache": {"fc": {"table": jnp.ones(4)}},
        "batch_stats": {"bn": {"mean": jnp.zeros(3), "var": jnp.ones(3)}},
    }
    neutral = to_neutral(tree, "flax")
    assert_same_tree(from_neutral(neutral, "flax"), tree)
    assert_same_tree(from_neutral(neutral, "flax", like=tree), tree)


def test_one_leaf_name_in_two_collections_is_refused():
    tree = {"params": {"fc": {"table": jnp.ones(2)}}, "cache": {"fc": {"table": jnp.ones(2)}}}
    with refused(KeyConflict, "'params.fc.table'", "'cache.fc.table'", hint="select"):
        to_neutral(tree, "flax")


def test_empty_nodes_return():
    tree = {"params": {"fc": {"kernel": jnp.ones((2, 3))}, "dropout": {}}}
    assert from_neutral(to_neutral(tree, "flax"), "flax")["params"]["dropout"] == {}
    assert from_neutral(to_neutral(tree, "flax"), "flax", like=tree)["params"]["dropout"] == {}


@pytest.mark.parametrize(
    ("rules", "counters"),
    [
        ([], {("bn", "num_batches_tracked")}),
        ([Rule.drop("bn.*", "not needed")], set()),
        ([Rule.rename("bn.*", "norm.*")], {("norm", "num_batches_tracked")}),
        (
            [Rule.rename(f"bn.{n}", f"norm.{n}") for n in ("scale", "bias", "mean", "var")],
            {("norm", "num_batches_tracked")},
        ),
    ],
)
@pytest.mark.parametrize("to", ["torch", "neutral"])
def test_the_counter_goes_where_its_batch_norm_goes(tmp_path, rules, counters, to):
    convert(norm_model(), tmp_path / "model.msgpack", to="flax")
    convert(tmp_path / "model.msgpack", tmp_path / "made.npz", to=to, rules=rules)
    with open_state(tmp_path / "made.npz") as made:
        assert {key for key in made if key[-1] == "num_batches_tracked"} == counters
        assert all(made[key] == 41 for key in counters)


def test_nothing_is_known_of_a_layer_that_a_rule_takes_out_of_a_neutral_file(tmp_path):
    convert(norm_model(), tmp_path / "model.safetensors", to="neutral")
    convert(
        tmp_path / "model.safetensors", tmp_path / "made.npz", to="neutral", rules=[Rule.drop("bn.*", "no")]
    )
    with open_state(tmp_path / "made.npz") as made:
        assert set(made.metadata.layers) == {("fc",)}
    convert(
        tmp_path / "model.safetensors",
        tmp_path / "less.npz",
        to="neutral",
        rules=[Rule.drop("bn.bias", "no")],
    )
    with open_state(tmp_path / "less.npz") as made:
        assert "bias" not in made.metadata.layers["bn",].leaves
    moved = [Rule.rename("bn.mean", "other.mean")]
    convert(tmp_path / "model.safetensors", tmp_path / "apart.npz", to="neutral", rules=moved)
    with open_state(tmp_path / "apart.npz") as made:
        assert set(made.metadata.layers) == {("fc",)}
