"""Planning takes work in proportion to the keys: calls are counted, nothing is timed."""

from __future__ import annotations

import cProfile
import pstats

import jax
import pytest
import torch
from support.models import to_neutral

from bridge_core import plan_conversion


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
