"""The built-in adapters fulfil the contract of frameworks."""

from __future__ import annotations

import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx
from flax.core import freeze
from torch import nn

import bridge_flax
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

    def change(self, value):
        tensors = value.values() if isinstance(value, dict) else value.state_dict().values()
        for tensor in tensors:
            tensor.copy_(tensor + 1)
        return True

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
