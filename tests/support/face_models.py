"""The three networks of the MTCNN face detector in torch, Linen and NNX, with one set of names.

Each returns the values of its heads in order; those of the first are probabilities. Images are
``(batch, channels, height, width)`` for torch, and have their channels last elsewhere.
"""

from dataclasses import dataclass

import flax.linen as nn
import jax
import jax.numpy as jnp
import torch
from flax import nnx
from torch.nn import functional


@dataclass(frozen=True)
class Net:
    """One network: ``(features, kernel, pool)`` a convolution, a dense layer or none, and its heads."""

    convs: tuple[tuple[int, int, tuple[int, int] | None], ...]
    dense: tuple[int, int] | None
    heads: tuple[int, ...]
    side: int

    @property
    def channels(self):
        return (3, *(features for features, _, _ in self.convs))

    @property
    def depth(self):
        """Number of the last layer before the heads; they come after it."""
        return len(self.convs) + (self.dense is not None)

    def head(self, index):
        prefix = "dense" if self.dense else "conv"
        return f"{prefix}{self.depth + 1}_{index + 1}"


NETS = {
    "pnet": Net(((10, 3, (2, 2)), (16, 3, None), (32, 3, None)), None, (2, 4), 25),
    "rnet": Net(((28, 3, (3, 2)), (48, 3, (3, 2)), (64, 2, None)), (576, 128), (2, 4), 24),
    "onet": Net(
        ((32, 3, (3, 2)), (64, 3, (3, 2)), (64, 3, (2, 2)), (128, 2, None)), (1152, 256), (2, 4, 10), 48
    ),
}


class TorchNet(torch.nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net
        for i, (features, kernel, _) in enumerate(net.convs, start=1):
            setattr(self, f"conv{i}", torch.nn.Conv2d(net.channels[i - 1], features, kernel))
            setattr(self, f"prelu{i}", torch.nn.PReLU(features))
        if net.dense:
            setattr(self, f"dense{net.depth}", torch.nn.Linear(*net.dense))
            setattr(self, f"prelu{net.depth}", torch.nn.PReLU(net.dense[1]))
        for i, features in enumerate(net.heads):
            wide = net.dense[1] if net.dense else net.channels[-1]
            head = torch.nn.Linear(wide, features) if net.dense else torch.nn.Conv2d(wide, features, 1)
            setattr(self, net.head(i), head)

    def forward(self, x):
        net = self.net
        for i, (_, _, pool) in enumerate(net.convs, start=1):
            x = getattr(self, f"prelu{i}")(getattr(self, f"conv{i}")(x))
            x = functional.max_pool2d(x, *pool, ceil_mode=True) if pool else x
        if net.dense:
            x = x.permute(0, 3, 2, 1).flatten(1)
            x = getattr(self, f"prelu{net.depth}")(getattr(self, f"dense{net.depth}")(x))
        first, *others = (getattr(self, net.head(i))(x) for i in range(len(net.heads)))
        return torch.softmax(first, 1), *others


def pool_all(x, size, stride):
    """Pool as torch does with ``ceil_mode``: a last window may reach beyond the edge."""
    n = x.shape[1]
    windows = -((size - n) // stride) + 1
    if (windows - 1) * stride >= n:
        windows -= 1
    beyond = max(0, (windows - 1) * stride + size - n)
    return nn.max_pool(x, (size, size), (stride, stride), padding=((0, beyond), (0, beyond)))


def leaky(x, slope):
    return jnp.where(x >= 0, x, slope * x)


class LinenPReLU(nn.Module):
    """One slope a channel, which Flax's own has not."""

    @nn.compact
    def __call__(self, x):
        return leaky(x, self.param("negative_slope", nn.initializers.constant(0.25), x.shape[-1:]))


class LinenNet(nn.Module):
    net: Net

    @nn.compact
    def __call__(self, x):
        net = self.net
        for i, (features, kernel, pool) in enumerate(net.convs, start=1):
            x = nn.Conv(features, (kernel, kernel), padding="VALID", name=f"conv{i}")(x)
            x = LinenPReLU(name=f"prelu{i}")(x)
            x = pool_all(x, *pool) if pool else x
        if net.dense:
            x = x.transpose(0, 2, 1, 3).reshape(len(x), -1)
            x = nn.Dense(net.dense[1], name=f"dense{net.depth}")(x)
            x = LinenPReLU(name=f"prelu{net.depth}")(x)
        layers = [
            nn.Dense(n, name=net.head(i)) if net.dense else nn.Conv(n, (1, 1), name=net.head(i))
            for i, n in enumerate(net.heads)
        ]
        first, *others = (layer(x) for layer in layers)
        return nn.softmax(first), *others


class NnxPReLU(nnx.Module):
    def __init__(self, features):
        self.negative_slope = nnx.Param(jnp.full((features,), 0.25))

    def __call__(self, x):
        return leaky(x, self.negative_slope[...])


class NnxNet(nnx.Module):
    def __init__(self, net, rngs):
        self.net = net
        for i, (features, kernel, _) in enumerate(net.convs, start=1):
            wide = net.channels[i - 1]
            conv = nnx.Conv(wide, features, (kernel, kernel), padding="VALID", rngs=rngs)
            setattr(self, f"conv{i}", conv)
            setattr(self, f"prelu{i}", NnxPReLU(features))
        if net.dense:
            setattr(self, f"dense{net.depth}", nnx.Linear(*net.dense, rngs=rngs))
            setattr(self, f"prelu{net.depth}", NnxPReLU(net.dense[1]))
        for i, n in enumerate(net.heads):
            head = (
                nnx.Linear(net.dense[1], n, rngs=rngs)
                if net.dense
                else nnx.Conv(net.channels[-1], n, (1, 1), rngs=rngs)
            )
            setattr(self, net.head(i), head)

    def __call__(self, x):
        net = self.net
        for i, (_, _, pool) in enumerate(net.convs, start=1):
            x = getattr(self, f"prelu{i}")(getattr(self, f"conv{i}")(x))
            x = pool_all(x, *pool) if pool else x
        if net.dense:
            x = x.transpose(0, 2, 1, 3).reshape(len(x), -1)
            x = getattr(self, f"prelu{net.depth}")(getattr(self, f"dense{net.depth}")(x))
        first, *others = (getattr(self, net.head(i))(x) for i in range(len(net.heads)))
        return nnx.softmax(first), *others


def images(net):
    """What the Flax models of a network take, for templates."""
    return jax.ShapeDtypeStruct((2, net.side, net.side, 3), jnp.float32)
