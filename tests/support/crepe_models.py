"""The tiny CREPE pitch tracker in torch, Linen and NNX, with one set of names.

Each returns the logits, one for every pitch, and their sigmoids. Frames are ``(batch, 1024)``.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import torch
from flax import nnx
from torch.nn import functional

EPSILON = 0.0010000000474974513
CHANNELS = (1, 128, 16, 16, 16, 32, 64)
PITCHES = 360
BLOCKS = range(1, 7)


def kernel_of(block):
    return 512 if block == 1 else 64


def stride_of(block):
    return 4 if block == 1 else 1


def padding_of(block):
    return (254, 254) if block == 1 else (31, 32)


class TorchCrepe(torch.nn.Module):
    def __init__(self):
        super().__init__()
        for block in BLOCKS:
            conv = torch.nn.Conv2d(
                CHANNELS[block - 1], CHANNELS[block], (kernel_of(block), 1), (stride_of(block), 1)
            )
            setattr(self, f"conv{block}", conv)
            setattr(self, f"conv{block}_BN", torch.nn.BatchNorm2d(CHANNELS[block], eps=EPSILON, momentum=0.0))
        self.classifier = torch.nn.Linear(256, PITCHES)

    def forward(self, frames):
        x = frames[:, None, :, None]
        for block in BLOCKS:
            x = functional.pad(x, (0, 0, *padding_of(block)))
            x = functional.relu(getattr(self, f"conv{block}")(x))
            x = functional.max_pool2d(getattr(self, f"conv{block}_BN")(x), (2, 1), (2, 1))
        logits = self.classifier(x.permute(0, 2, 1, 3).reshape(len(frames), -1))
        return logits, torch.sigmoid(logits)


class LinenCrepe(nn.Module):
    @nn.compact
    def __call__(self, frames):
        x = frames[:, :, None, None]
        for block in BLOCKS:
            x = nn.Conv(
                CHANNELS[block],
                (kernel_of(block), 1),
                strides=(stride_of(block), 1),
                padding=(padding_of(block), (0, 0)),
                name=f"conv{block}",
            )(x)
            norm = nn.BatchNorm(use_running_average=True, epsilon=EPSILON, name=f"conv{block}_BN")
            x = nn.max_pool(norm(nn.relu(x)), (2, 1), (2, 1))
        logits = nn.Dense(PITCHES, name="classifier")(x.reshape(len(frames), -1))
        return logits, nn.sigmoid(logits)


class NnxCrepe(nnx.Module):
    def __init__(self, rngs):
        for block in BLOCKS:
            conv = nnx.Conv(
                CHANNELS[block - 1],
                CHANNELS[block],
                (kernel_of(block), 1),
                strides=(stride_of(block), 1),
                padding=(padding_of(block), (0, 0)),
                rngs=rngs,
            )
            setattr(self, f"conv{block}", conv)
            norm = nnx.BatchNorm(CHANNELS[block], use_running_average=True, epsilon=EPSILON, rngs=rngs)
            setattr(self, f"conv{block}_BN", norm)
        self.classifier = nnx.Linear(256, PITCHES, rngs=rngs)

    def __call__(self, frames):
        x = frames[:, :, None, None]
        for block in BLOCKS:
            x = nnx.relu(getattr(self, f"conv{block}")(x))
            x = nnx.max_pool(getattr(self, f"conv{block}_BN")(x), (2, 1), (2, 1))
        logits = self.classifier(x.reshape(len(frames), -1))
        return logits, nnx.sigmoid(logits)


FRAMES = jax.ShapeDtypeStruct((2, 1024), jnp.float32)
"""What the models take, for templates."""

abstract_nnx = functools.partial(nnx.eval_shape, lambda: NnxCrepe(nnx.Rngs(0)))
"""Makes the NNX model without weights."""
