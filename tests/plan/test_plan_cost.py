"""Planning takes work in proportion to the keys: calls are counted, nothing is timed."""

from __future__ import annotations

import cProfile
import pstats

import jax
import numpy as np
import pytest
import torch
from support.models import to_neutral

from bridge_core import FlatState, plan_conversion


def spec(*shape, dtype="float32"):
    return jax.ShapeDtypeStruct(shape, dtype)


def info_of(source, *path, **options):
    return to_neutral(source, "torch", **options).metadata.layers[path]


def calls_for(layers):
    """Function calls that a plan with a template of so many layers takes."""
    tensor = torch.zeros(3, 3)
    source = {}
    params = {}
    for i in range(layers):
        source[f"model.layers.{i}.fc.weight"], source[f"model.layers.{i}.fc.bias"] = tensor, tensor[0]
        source[f"model.layers.{i}.norm.weight"] = tensor[0]
        source[f"model.layers.{i}.out.weight"] = tensor
        params[f"layers_{i}"] = {
            "fc": {"kernel": spec(3, 3), "bias": spec(3)},
            "norm": {"scale": spec(3)},
            "out": {"kernel": spec(3, 3)},
        }
    profile = cProfile.Profile()
    profile.enable()
    plan = plan_conversion(source, to="flax", like={"params": params})
    plan.to_json()
    plan.describe()
    profile.disable()
    assert len(plan.steps) == 4 * layers
    return pstats.Stats(profile).total_calls


def test_planning_takes_calls_in_proportion_to_the_keys():
    calls_for(5)
    few, many = calls_for(50), calls_for(200)
    assert many / few < 5


@pytest.mark.slow
def test_ten_thousand_keys_are_planned():
    assert calls_for(2500) / calls_for(625) < 5


@pytest.mark.counts
@pytest.mark.parametrize(("templated", "most"), [(False, 95), (True, 95)])
def test_each_further_layer_takes_few_calls(templated, most):
    """What layers that are alike have in common is found out once."""

    def calls(layers):
        zeros = np.zeros((3, 3), np.float32)
        names = [
            f"layers.{i}.{name}" for i in range(layers) for name in ("fc.weight", "fc.bias", "norm.weight")
        ]
        tensors = {name: zeros if "fc.weight" in name else zeros[0] for name in names}
        source = FlatState(tensors | {"norm.bias": zeros[0]}, layout="torch")
        options = {"accept_guesses": True}
        if templated:
            options = {"like": plan_conversion(source, to="flax", **options).apply(source)}
        profile = cProfile.Profile()
        profile.enable()
        plan_conversion(source, to="flax", **options)
        profile.disable()
        return pstats.Stats(profile).total_calls

    calls(2)
    assert (calls(120) - calls(20)) / 300 <= most


class CountedName(str):
    """A name of a leaf that counts how often it is compared."""

    compared = 0
    __hash__ = str.__hash__

    def __eq__(self, other):
        CountedName.compared += 1
        return str.__eq__(self, other)


@pytest.mark.parametrize("layout", ["neutral", "torch"])
def test_leaves_at_one_path_are_looked_up_and_not_searched_for(layout):
    def comparisons(leaves):
        values = np.ones((2, 2), np.float32)
        names = {"neutral": "kernel", "torch": "weight"}
        tensors = {("fc", names[layout]): values, ("fc", "bias"): values[0]}
        tensors |= {(CountedName(f"own_{i}"),): values for i in range(leaves)}
        CountedName.compared = 0
        plan_conversion(FlatState(tensors, layout=layout), to="flax", allow_unclaimed=True)
        return CountedName.compared

    comparisons(5)
    assert comparisons(400) / comparisons(100) < 5
