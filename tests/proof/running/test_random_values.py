"""Random values: everything but constants and integers, by seed and key."""

import dataclasses

import numpy as np
from support.toy_models import Container, Linear, Norm, ToyModel, toy_registry

from bridge_core.proof.running.models import model_side
from bridge_core.proof.running.random_values import random_array, randomised
from bridge_core.state import TensorSpec

FREQUENCIES = np.linspace(1, 2, 4, dtype=np.float32)


def side():
    body = Container({"fc": Linear(400, 100), "norm": Norm(100)})
    registry = toy_registry()
    constants = {"inv_freq": FREQUENCIES, "ids": np.arange(3)}
    made = model_side(ToyModel("torch", body, constants=constants), "source", registry)
    return dataclasses.replace(made, weights=made.framework.model_weights(made.model, None)), registry


def test_constants_are_the_models_and_all_else_is_random():
    state = randomised(*side()).state
    assert np.array_equal(state["inv_freq"], FREQUENCIES)
    assert np.array_equal(state["ids"], np.arange(3))
    assert 0.04 < state["fc.weight"].std() < 0.06  # by the 400 inputs that each output sums
    for name in ("fc.bias", "norm.bias"):
        assert np.abs(state[name]).min() > 0.01
    scale = state["norm.weight"]
    assert scale.min() > 0.5
    assert scale.std() > 0.1


def test_the_seed_and_the_key_decide():
    spec = TensorSpec((4, 4), np.dtype("float32"))
    one, same, other, seeded = (
        random_array((name,), spec, seed=seed) for name, seed in (("a", 0), ("a", 0), ("b", 0), ("a", 1))
    )
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)
    assert not np.array_equal(one, seeded)


def test_variances_are_positive():
    for name in ("running_var", "var", "moving_variance"):
        assert random_array((name,), TensorSpec((1000,), np.dtype("float32"))).min() > 0.01
