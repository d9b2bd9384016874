"""The adapter of Flax keeps the contract of running models: Linen, NNX, and pairs with variables."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from bridge_core.plugins import Inputs
from bridge_core.testing import ModelRunContract
from bridge_flax import FlaxFramework


class Attending(nn.Module):
    """Has an attention, a tied head, a named method, and outputs in containers."""

    def setup(self):
        self.wte = nn.Embed(11, 8)
        self.ln = nn.LayerNorm()
        self.attention = nn.MultiHeadDotProductAttention(2)

    def __call__(self, ids, *, scale=1.0, mask=None):
        x = self.ln(self.wte(ids) * scale)
        y = self.attention(x, mask=mask)
        return {"logits": self.wte.attend(self.ln(x + y)), "cache": (x, [y, None])}


class Convolutional(nn.Module):
    """Has statistics, dropout, and a block that JAX rematerialises."""

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.Conv(6, (3, 3), strides=2, feature_group_count=3)(x)
        x = nn.BatchNorm(use_running_average=not train)(x)
        x = nn.remat(nn.Dense)(4)(nn.gelu(x).mean((1, 2)))
        return nn.Dropout(0.5, deterministic=not train)(x)


class Perceptron(nnx.Module):
    """Has a list, statistics and dropout."""

    def __init__(self, rngs):
        self.layers = nnx.List([nnx.Linear(6, 6, rngs=rngs) for _ in range(2)])
        self.norm = nnx.BatchNorm(6, rngs=rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs)
        self.shift = nnx.Variable(jnp.ones(6))

    def __call__(self, x):
        for layer in self.layers:
            x = nnx.relu(layer(x)) + self.shift[...]
        return self.drop(self.norm(x))


@pytest.mark.slow
class TestFlax(ModelRunContract):
    framework = FlaxFramework()

    def models(self):
        rng = np.random.default_rng(0)
        images = rng.standard_normal((2, 6, 6, 3)).astype(np.float32)
        rows = rng.standard_normal((4, 6))
        ids = rng.integers(0, 11, (2, 5))
        mask = np.ones((2, 1, 5, 5), bool)
        convolutional = Convolutional()
        variables = convolutional.init(jax.random.key(1), jnp.asarray(images))
        yield Attending(), Inputs((ids,), {"scale": 2.0, "mask": mask})
        yield (convolutional, variables), Inputs((images,), {"train": True})
        yield Perceptron(nnx.Rngs(0)), Inputs((rows,))

    def foreign(self):
        yield jax.nn.relu
        yield nn.Dense
        yield {"params": {"kernel": np.zeros(2)}}
        yield nnx.state(nnx.Linear(2, 2, rngs=nnx.Rngs(0)))
        yield (1, {"params": {"kernel": np.zeros(2)}})
