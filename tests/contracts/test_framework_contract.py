"""The built-in adapters keep the contract of frameworks, and the contract notices each way of breaking it."""

from __future__ import annotations

from typing import ClassVar

import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from flax.core import freeze
from torch import nn

import bridge_flax
from bridge_core import FlatState, Registry, default_registry, hookimpl
from bridge_core.testing import FrameworkContract
from bridge_flax import FlaxFramework
from bridge_torch import TorchFramework


def torch_model():
    model = nn.ModuleDict({"wte": nn.Embedding(5, 4), "conv": nn.Conv2d(3, 3, 2), "bn": nn.BatchNorm2d(3)})
    model["head"] = nn.Linear(4, 5, bias=False)
    model["head"].weight = model["wte"].weight
    model["low"] = nn.Linear(2, 3).to(torch.bfloat16)
    return model


class LinenModel(linen.Module):
    @linen.compact
    def __call__(self, x):
        x = linen.BatchNorm(use_running_average=True)(linen.Conv(3, (2, 2))(x))
        return linen.Dense(4, param_dtype=jnp.bfloat16)(x)


class NnxModel(nnx.Module):
    def __init__(self, rngs):
        self.layers = nnx.List([nnx.Linear(2, 3, rngs=rngs), nnx.ConvTranspose(3, 3, (2, 2), rngs=rngs)])
        self.bn = nnx.BatchNorm(3, rngs=rngs)
        self.own = nnx.Param(jnp.arange(3.0))


class TestTorch(FrameworkContract):
    framework = TorchFramework()

    def samples(self):
        return torch_model(), torch_model().state_dict(), nn.Linear(2, 3)

    def abstract(self):
        with torch.device("meta"):
            return (torch_model(),)

    def foreign(self):
        return {"a": np.ones(2)}, {"a": torch.ones(2), "b": 3}, torch.ones(2), {("a",): torch.ones(2)}


class TestFlax(FrameworkContract):
    framework = FlaxFramework()

    def samples(self):
        variables = LinenModel().init(jax.random.key(0), jnp.zeros((1, 4, 4, 3)))
        model = NnxModel(nnx.Rngs(0))
        return variables, freeze(variables), variables["params"], model, nnx.state(model)

    def abstract(self):
        return (
            bridge_flax.template(LinenModel(), jnp.zeros((1, 4, 4, 3))),
            nnx.eval_shape(lambda: NnxModel(nnx.Rngs(0))),
            jax.eval_shape(LinenModel().init, jax.random.key(0), jnp.zeros((1, 4, 4, 3))),
        )

    def foreign(self):
        return {"a": torch.ones(2)}, {("a",): jnp.ones(2)}, {"a": object()}, jnp.ones(2)


class Dicts:
    """An adapter that keeps the contract: dictionaries of numpy arrays with a marker."""

    name = "dicts"
    collections: ClassVar = {}
    default_format = "npz"

    def owns(self, names):
        return False

    def accepts(self, value):
        return isinstance(value, dict) and "dicts" in value

    def state(self, value):
        return FlatState({k: v for k, v in value.items() if k != "dicts"}, layout="dicts")

    def build(self, state, like):
        return {"dicts": True, **{".".join(key): np.array(array) for key, array in state.items()}}


class AcceptsAll(Dicts):
    def accepts(self, value):
        return True


class OwnsNothing(Dicts):
    def owns(self, names):
        return True


class WrongLayout(Dicts):
    def state(self, value):
        return super().state(value).replace(layout="torch")


class BuildsViews(Dicts):
    def build(self, state, like):
        return {"dicts": True, **{".".join(key): array for key, array in state.items()}}


class Narrows(Dicts):
    def build(self, state, like):
        return {"dicts": True, **{".".join(k): np.array(a, np.float32) for k, a in state.items()}}


class MixesInTheTemplate(Dicts):
    def build(self, state, like):
        return like or super().build(state, like)


class ChangesTheObject(Dicts):
    def state(self, value):
        for array in value.values():
            if isinstance(array, np.ndarray):
                array += 1
        return super().state(value)


class LosesKeys(Dicts):
    def build(self, state, like):
        made = super().build(state, like)
        del made["b.x"]
        return made


class WrongFormat(Dicts):
    default_format = "nope"


def failing(framework):
    class Plugin:
        @hookimpl
        def bridge_frameworks(self):
            return [framework]

    class Contract(FrameworkContract):
        registry: Registry = default_registry().extend(Plugin())

        def samples(self):
            return ({"dicts": True, "a": np.arange(4.0).reshape(2, 2), "b.x": np.arange(3)},)

    contract = Contract()
    contract.framework = framework
    failed = set()
    for name in dir(contract):
        if name.startswith("test_"):
            try:
                getattr(contract, name)()
            except Exception:  # any failure is one that a user sees
                failed.add(name)
    return failed


def test_a_strangers_adapter_keeps_the_contract():
    assert failing(Dicts()) == set()


@pytest.mark.parametrize(
    ("framework", "noticed"),
    [
        (AcceptsAll(), "test_accepts_its_own_objects_and_no_others"),
        (OwnsNothing(), "test_owns_no_names_of_others"),
        (WrongLayout(), "test_states_are_in_its_layout_with_usable_keys"),
        (BuildsViews(), "test_reading_and_building_change_nothing"),
        (Narrows(), "test_what_is_built_is_accepted_and_holds_the_same_bits"),
        (MixesInTheTemplate(), "test_other_values_are_built_into_the_structure_of_an_object"),
        (ChangesTheObject(), "test_reading_and_building_change_nothing"),
        (LosesKeys(), "test_what_is_built_is_accepted_and_holds_the_same_bits"),
        (WrongFormat(), "test_is_a_framework_with_usable_declarations"),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str) else "",
)
def test_a_broken_adapter_is_noticed(framework, noticed):
    assert noticed in failing(framework)
