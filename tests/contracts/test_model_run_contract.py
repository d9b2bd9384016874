"""The adapter of torch keeps the contract of running models, and the contract notices ways of breaking it."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from bridge_core.plugins import Inputs
from bridge_core.testing import ModelRunContract
from bridge_torch import TorchFramework


class Attending(nn.Module):
    """Calls a module twice, has tied weights, named inputs and outputs in containers."""

    def __init__(self):
        super().__init__()
        self.wte = nn.Embedding(11, 8)
        self.ln = nn.LayerNorm(8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.gru = nn.GRU(8, 8, batch_first=True)
        self.head = nn.Linear(8, 11, bias=False)
        self.head.weight = self.wte.weight
        self.register_buffer("shift", torch.ones(8))

    def forward(self, ids, *, scale=1.0, mask=None):
        x = self.ln(self.wte(ids) * scale + self.shift)
        y, weights = self.attention(x, x, x)
        y, state = self.gru(self.ln(x + y))
        return {"logits": self.head(y), "cache": (weights, [state, None])}


def with_seed(make):
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return make()


def convolutional():
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1, groups=3),
        nn.BatchNorm2d(6),
        nn.GELU(),
        nn.Conv2d(6, 6, 3, stride=2, groups=6),
        nn.GroupNorm(2, 6),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(6, 5),
        nn.Dropout(0.5),
    )


class TestTorch(ModelRunContract):
    framework = TorchFramework()

    def models(self):
        rng = np.random.default_rng(0)
        images = rng.standard_normal((2, 3, 6, 6)).astype(np.float32)
        ids = rng.integers(0, 11, (2, 5)).astype(np.int32)
        yield with_seed(convolutional), Inputs((images,))
        yield with_seed(convolutional).eval(), Inputs((images,))
        yield with_seed(Attending).eval(), Inputs((ids,), {"scale": 0.5})
        yield nn.LazyLinear(3), Inputs((images,))
        with torch.device("meta"):
            yield Attending(), Inputs((ids,))

    def foreign(self):
        return nn.Linear(2, 3).state_dict(), torch.ones(2), torch.relu, nn.Linear
