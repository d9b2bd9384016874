"""ResNets in torch, with the names of torchvision, and in Linen, with those of the ImageNet example of Flax.

That example numbers its blocks across all stages, and pads with ``SAME``, which agrees with the padding of
torch only where every size is odd.
"""

from functools import partial

import flax.linen as nn
import jax.numpy as jnp
import torch

__all__ = ["LinenResNet", "STAGES", "TorchResNet"]

STAGES = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}


def kernels_of(depth):
    """The kernel of each convolution of a block, and the number of the one that has the stride."""
    return ((3, 3), 0) if depth < 50 else ((1, 3, 1), 1)


def wide(depth):
    """How many times more channels the last convolution of a block has."""
    return 1 if depth < 50 else 4


class TorchBlock(torch.nn.Module):
    def __init__(self, depth, channels, features, stride):
        super().__init__()
        kernels, strided = kernels_of(depth)
        self.count, read = len(kernels), channels
        for n, kernel in enumerate(kernels):
            out = features * (wide(depth) if n == len(kernels) - 1 else 1)
            step = stride if n == strided else 1
            conv = torch.nn.Conv2d(read, out, kernel, step, padding=kernel // 2, bias=False)
            setattr(self, f"conv{n + 1}", conv)
            setattr(self, f"bn{n + 1}", torch.nn.BatchNorm2d(out))
            read = out
        self.downsample = None
        if stride > 1 or channels != read:
            conv = torch.nn.Conv2d(channels, read, 1, stride, bias=False)
            self.downsample = torch.nn.Sequential(conv, torch.nn.BatchNorm2d(read))

    def forward(self, x):
        y = x
        for n in range(1, self.count + 1):
            y = getattr(self, f"bn{n}")(getattr(self, f"conv{n}")(y))
            y = torch.relu(y) if n < self.count else y
        return torch.relu(y + (x if self.downsample is None else self.downsample(x)))


class TorchResNet(torch.nn.Module):
    """Takes ``(batch, 3, height, width)``."""

    def __init__(self, depth, features=4, classes=5):
        super().__init__()
        self.conv1 = torch.nn.Conv2d(3, features, 7, 2, padding=3, bias=False)
        self.bn1 = torch.nn.BatchNorm2d(features)
        channels = features
        for stage, blocks in enumerate(STAGES[depth]):
            layers = []
            for block in range(blocks):
                stride = 2 if stage and not block else 1
                layers.append(TorchBlock(depth, channels, features << stage, stride))
                channels = (features << stage) * wide(depth)
            setattr(self, f"layer{stage + 1}", torch.nn.Sequential(*layers))
        self.fc = torch.nn.Linear(channels, classes)

    def forward(self, x):
        x = torch.relu(self.bn1(self.conv1(x)))
        x = torch.nn.functional.max_pool2d(x, 3, 2, padding=1)
        for stage in range(1, 5):
            x = getattr(self, f"layer{stage}")(x)
        return self.fc(x.mean((2, 3)))


class BlockBody(nn.Module):
    depth: int
    features: int
    stride: int

    @nn.compact
    def __call__(self, x):
        conv = partial(nn.Conv, use_bias=False)
        norm = partial(nn.BatchNorm, use_running_average=True, epsilon=1e-5)
        kernels, strided = kernels_of(self.depth)
        y = x
        for n, kernel in enumerate(kernels):
            last = n == len(kernels) - 1
            out = self.features * (wide(self.depth) if last else 1)
            y = norm()(conv(out, (kernel, kernel), self.stride if n == strided else 1)(y))
            y = y if last else nn.relu(y)
        if x.shape != y.shape:
            x = norm(name="norm_proj")(conv(out, (1, 1), self.stride, name="conv_proj")(x))
        return nn.relu(x + y)


class ResNetBlock(BlockBody):
    """Linen takes names from classes."""


class BottleneckResNetBlock(BlockBody):
    """Linen takes names from classes."""


class LinenResNet(nn.Module):
    """Takes ``(batch, height, width, 3)``."""

    depth: int
    features: int = 4
    classes: int = 5

    @nn.compact
    def __call__(self, x):
        block = ResNetBlock if self.depth < 50 else BottleneckResNetBlock
        x = nn.Conv(self.features, (7, 7), 2, padding=3, use_bias=False, name="conv_init")(x)
        x = nn.relu(nn.BatchNorm(use_running_average=True, epsilon=1e-5, name="bn_init")(x))
        x = nn.max_pool(x, (3, 3), (2, 2), padding="SAME")
        for stage, blocks in enumerate(STAGES[self.depth]):
            for n in range(blocks):
                x = block(self.depth, self.features << stage, 2 if stage and not n else 1)(x)
        return nn.Dense(self.classes)(jnp.mean(x, (1, 2)))
