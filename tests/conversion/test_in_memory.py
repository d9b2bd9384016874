"""The framework of a live object or a template, where the caller does not name it."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from support.errors import refused

from bridge_core import FlatState, UsageError, from_neutral, to_neutral

WEIGHT, BIAS = np.arange(6, dtype="f4").reshape(3, 2), np.ones(3, "f4")
NEUTRAL = FlatState({"fc.kernel": WEIGHT.T, "fc.bias": BIAS}, layout="neutral")
BOTH = ('framework="flax"', 'framework="torch"')


def net():
    model = torch.nn.Sequential()
    model.add_module("fc", torch.nn.Linear(2, 3))
    model.fc.weight.data = torch.from_numpy(WEIGHT.copy())
    model.fc.bias.data = torch.from_numpy(BIAS.copy())
    return model


def tree():
    return {"fc": {"kernel": jnp.asarray(WEIGHT.T), "bias": jnp.asarray(BIAS)}}


OBJECTS = {
    "a module": net,
    "a state dict": lambda: net().state_dict(),
    "a state dict in numpy": lambda: {"fc.weight": WEIGHT, "fc.bias": BIAS},
    "a state without a layout": lambda: FlatState({"fc.weight": WEIGHT, "fc.bias": BIAS}),
    "a state": lambda: FlatState({"fc.weight": WEIGHT, "fc.bias": BIAS}, layout="torch"),
    "a tree": tree,
}


@pytest.mark.parametrize("name", OBJECTS)
def test_an_object_shows_its_framework(name):
    neutral = to_neutral(OBJECTS[name]())
    assert sorted(neutral) == [("fc", "bias"), ("fc", "kernel")]
    assert np.array_equal(neutral["fc.kernel"], WEIGHT.T)


def test_a_template_shows_its_framework():
    weights = from_neutral(NEUTRAL, like=net())
    assert torch.equal(weights["fc.weight"], torch.from_numpy(WEIGHT))
    assert np.array_equal(from_neutral(NEUTRAL, like=tree())["fc"]["kernel"], WEIGHT.T)


def test_what_does_not_show_it_is_refused():
    with refused(UsageError, "framework of the object", "x", hint=BOTH):
        to_neutral(FlatState({"x": BIAS}))
    with refused(UsageError, "a framework's weights", "neutral"):
        to_neutral(NEUTRAL)
    with refused(UsageError, "framework of the result", "without like=", hint=BOTH):
        from_neutral(NEUTRAL)
    with refused(UsageError, "like=", "FlatState", hint=BOTH):
        from_neutral(NEUTRAL, like=FlatState({"fc.weight": WEIGHT}, layout="torch"))
    with refused(UsageError, "a framework", "a.pt", hint="convert"):
        from_neutral(NEUTRAL, like="a.pt")
