"""A small CNN in torch, Linen and NNX, right unless it is asked to make one of the known mistakes.

Feature maps are 15 x 12 at first: an odd size, on which ``SAME`` and explicit padding agree, and an even one.
"""

from types import SimpleNamespace
from typing import NamedTuple

import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
import torch
import torch.nn.functional as F
from flax import nnx

from bridge_core import Rule

__all__ = ["MISTAKES", "Mistake", "RULES", "cnn_inputs", "linen_cnn", "nnx_cnn", "torch_cnn"]


class Mistake(NamedTuple):
    """What a mistake is called in a report.

    ``code``: of the cause; ``layer``: the module, or the child, where it shows.
    """

    code: str
    layer: str


MISTAKES = {
    "norm epsilon": Mistake("epsilon", "norm"),
    "batch norm epsilon": Mistake("epsilon", "stem_norm"),
    "training": Mistake("batch_statistics", "stem_norm"),
    "unbiased variance": Mistake("norm_variance", "scale_norm"),
    "no centring": Mistake("norm_centring", "scale_norm"),
    "one plus": Mistake("norm_offset", "scale_norm"),
    "groups": Mistake("norm_groups", "groups"),
    "activation": Mistake("activation", "norm"),
    "missing activation": Mistake("activation", "conv2"),
    "padding": Mistake("padding", "down"),
    "stride": Mistake("stride", "down"),
    "dilation": Mistake("dilation", "conv1"),
    "padding mode": Mistake("padding_mode", "conv1"),
    "flipped kernel": Mistake("flipped_kernel", "conv1"),
    "kernel height and width": Mistake("transposed_kernel", "conv1"),
    "pool": Mistake("pool_kind", "conv1"),
    "pool padding": Mistake("pool_padding", "conv1"),
    "pool window": Mistake("pool_window", "conv1"),
    "residual scale": Mistake("residual_scale", "down"),
    "missing residual": Mistake("missing_residual", "down"),
    "flatten order": Mistake("flatten_order", "fc"),
    "missing bias": Mistake("missing_bias", "fc"),
    "dropout": Mistake("dropout", "square"),
    "transposed weight": Mistake("transposed_weight", "square"),
    "skip": Mistake("other_input", "head"),
    "softmax": Mistake("activation", ""),
    "softcap": Mistake("activation", ""),
}
"""Name of each mistake -> how it is reported."""

RULES = [
    rule
    for name in ("fc", "square")
    for rule in (
        Rule.rearrange(f"{name}.weight", f"{name}.kernel", "o i -> i o"),
        Rule.rearrange(f"{name}.bias", f"{name}.bias"),
    )
]
"""The layers of a class of someone's own, and what they are."""

SIZE, CHANNELS, WIDTH = (15, 12), 8, 12


def cnn_inputs():
    """Return images for both: channels first for torch, last for Flax."""
    images = np.random.default_rng(3).standard_normal((3, 3, *SIZE), dtype=np.float32)
    return {"source": (images,), "target": (np.moveaxis(images, 1, -1),)}


def network(layers, ops, x, mistake):
    """Compute the network; the layers and the operations are those of one framework."""
    m = mistake
    x = ops.relu(layers.stem_norm(layers.stem(x)))
    if m == "pool":
        x = ops.average_pool(x)
    else:
        x = ops.max_pool(x, 2 if m == "pool window" else 3, m == "pool padding")
    y = layers.groups(layers.conv1(x))
    y = layers.conv2(y if m == "missing activation" else ops.silu(y))
    if m != "missing residual":
        y = x + (0.5 if m == "residual scale" else 1.0) * y
    x = ops.relu(layers.down(y))
    x = ops.every_second(x) if m == "stride" else x
    x = layers.fc(ops.flatten(x, m == "flatten order"))
    x = layers.norm(ops.gelu(x, m == "activation"))
    x = layers.scale_norm(x)
    y = layers.square(ops.dropout(x) if m == "dropout" else x)
    x = layers.head(x if m == "skip" else ops.tanh(y))
    if m == "softcap":
        return 3.0 * ops.tanh(x / 3.0)
    return ops.softmax(x) if m == "softmax" else x


def own_norm(library, x, scale, mistake):
    """Layer norm without a bias, by hand; ``library`` is torch or jax.numpy."""
    kept = {"dim": -1, "keepdim": True} if library is torch else {"axis": -1, "keepdims": True}
    centre = library.mean(x, **kept)
    if mistake == "no centring":
        centre = 0 * centre
    size = x.shape[-1] - (mistake == "unbiased variance")
    variance = library.sum((x - centre) ** 2, **kept) / size
    return (x - centre) / library.sqrt(variance + 1e-6) * (scale + (mistake == "one plus"))


class TorchOps:
    relu, silu, tanh = staticmethod(torch.relu), staticmethod(F.silu), staticmethod(torch.tanh)

    @staticmethod
    def average_pool(x):
        return F.avg_pool2d(x, 3, 2, 1)

    @staticmethod
    def max_pool(x, window, same):
        if same:  # as SAME pads, which is more on the right where a side is even
            x = F.pad(x, (x.shape[3] % 2, 1, x.shape[2] % 2, 1), value=-1e9)
            return F.max_pool2d(x, window, 2)
        return F.max_pool2d(x, window, 2, window - 2, ceil_mode=window == 2)

    @staticmethod
    def every_second(x):
        return x[:, :, ::2, 1::2]

    @staticmethod
    def flatten(x, wrong):
        return (x.permute(0, 2, 3, 1) if wrong else x).flatten(1)

    @staticmethod
    def gelu(x, wrong):
        return F.gelu(x, approximate="tanh" if wrong else "none")

    @staticmethod
    def dropout(x):
        return F.dropout(x, 0.3, training=True)

    @staticmethod
    def softmax(x):
        return torch.softmax(x, dim=-1)


class TorchScaleNorm(torch.nn.Module):
    def __init__(self, mistake):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(WIDTH))
        self.mistake = mistake

    def forward(self, x):
        return own_norm(torch, x, self.scale, self.mistake)


class TorchConv(torch.nn.Conv2d):
    mistake = None

    def forward(self, x):
        kernel = self.weight
        if self.mistake == "flipped kernel":
            kernel = kernel.flip(2, 3)
        elif self.mistake == "kernel height and width":
            kernel = kernel.transpose(2, 3)
        padding = 1
        if self.mistake == "padding":
            x, padding = F.pad(x, (0, 1, 0, 1)), 0
        return F.conv2d(x, kernel, self.bias, self.stride, padding)


class TorchLinear(torch.nn.Linear):
    mistake = None

    def forward(self, x):
        if self.mistake == "missing bias":
            return x @ self.weight.T
        return x @ (self.weight if self.mistake == "transposed weight" else self.weight.T) + self.bias


def mistaken(layer, kind, mistake, names):
    """Return the layer, of a class that makes the mistake if it is one of these."""
    if mistake in names:
        layer.__class__, layer.mistake = kind, mistake
    return layer


class TorchCNN(torch.nn.Module):
    def __init__(self, mistake=None):
        super().__init__()
        nn, m = torch.nn, mistake
        self.mistake = m
        self.stem = nn.Conv2d(3, CHANNELS, 3, padding=1)
        self.stem_norm = nn.BatchNorm2d(CHANNELS, eps=1e-3 if m == "batch norm epsilon" else 1e-5)
        step = 2 if m == "dilation" else 1
        mode = "reflect" if m == "padding mode" else "zeros"
        conv1 = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=step, dilation=step, padding_mode=mode)
        self.conv1 = mistaken(conv1, TorchConv, m, ("flipped kernel", "kernel height and width"))
        self.groups = nn.GroupNorm(4 if m == "groups" else 2, CHANNELS)
        self.conv2 = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1)
        down = nn.Conv2d(CHANNELS, CHANNELS, 3, 1 if m == "stride" else 2, 1)
        self.down = mistaken(down, TorchConv, m, ("padding",))
        self.fc = mistaken(nn.Linear(CHANNELS * 12, WIDTH), TorchLinear, m, ("missing bias",))
        self.norm = nn.LayerNorm(WIDTH, eps=1e-3 if m == "norm epsilon" else 1e-5)
        self.scale_norm = TorchScaleNorm(m)
        self.square = mistaken(nn.Linear(WIDTH, WIDTH), TorchLinear, m, ("transposed weight",))
        self.head = nn.Linear(WIDTH, 5)

    def forward(self, x):
        return network(self, TorchOps, x, self.mistake)


def torch_cnn(mistake=None):
    """Return the torch module, for inference."""
    torch.manual_seed(0)
    model = TorchCNN(mistake).eval()
    model.stem_norm.train(mistake == "training")
    return model


class FlaxOps:
    relu, silu, tanh = staticmethod(jax.nn.relu), staticmethod(jax.nn.silu), staticmethod(jnp.tanh)

    @staticmethod
    def average_pool(x):
        return linen.avg_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))

    @staticmethod
    def max_pool(x, window, same):
        padding = "SAME" if same or window == 2 else ((1, 1), (1, 1))
        return linen.max_pool(x, (window, window), (2, 2), padding)

    @staticmethod
    def every_second(x):
        return x[:, ::2, 1::2]

    @staticmethod
    def flatten(x, wrong):
        return (x if wrong else x.transpose(0, 3, 1, 2)).reshape(x.shape[0], -1)

    @staticmethod
    def gelu(x, wrong):
        return jax.nn.gelu(x, approximate=wrong)

    @staticmethod
    def softmax(x):
        return jax.nn.softmax(x)


def flax_convolution(mistake):
    """Return what a Flax convolution calls: with the mistake in the kernel, if it is one."""

    def convolve(x, kernel, *args, **options):
        if mistake == "flipped kernel":
            kernel = kernel[::-1, ::-1]
        elif mistake == "kernel height and width":
            kernel = kernel.transpose(1, 0, 2, 3)
        return jax.lax.conv_general_dilated(x, kernel, *args, **options)

    return {"conv_general_dilated": convolve} if "kernel" in (mistake or "") else {}


def conv_options(name, mistake):
    """Return the arguments of a Flax convolution."""
    options = {"padding": ((1, 1), (1, 1))}
    if name == "conv1":
        options |= flax_convolution(mistake)
        if mistake == "padding mode":
            options["padding"] = "REFLECT"
        if mistake == "dilation":
            options |= {"padding": ((2, 2), (2, 2)), "kernel_dilation": (2, 2)}
    if name == "down":
        options["strides"] = (1, 1) if mistake == "stride" else (2, 2)
        if mistake == "padding":
            options["padding"] = "SAME"
    return options


class LinenScaleNorm(linen.Module):
    mistake: str | None = None

    @linen.compact
    def __call__(self, x):
        scale = self.param("scale", linen.initializers.ones, (WIDTH,))
        return own_norm(jnp, x, scale, self.mistake)


class LinenDense(linen.Module):
    features: int
    mistake: str | None = None

    @linen.compact
    def __call__(self, x):
        shape = (x.shape[-1], self.features)
        kernel = self.param("kernel", linen.initializers.lecun_normal(), shape)
        bias = self.param("bias", linen.initializers.zeros, (self.features,))
        x = x @ (kernel.T if self.mistake == "transposed weight" else kernel)
        return x if self.mistake == "missing bias" else x + bias


class LinenOps(FlaxOps):
    @staticmethod
    def dropout(x):
        return linen.Dropout(0.3, deterministic=False)(x)


class LinenCNN(linen.Module):
    mistake: str | None = None

    @linen.compact
    def __call__(self, x):
        m = self.mistake
        layers = {
            name: linen.Conv(CHANNELS, (3, 3), name=name, **conv_options(name, m))
            for name in ("stem", "conv1", "conv2", "down")
        }
        layers["stem_norm"] = linen.BatchNorm(
            use_running_average=m != "training",
            epsilon=1e-3 if m == "batch norm epsilon" else 1e-5,
            name="stem_norm",
        )
        layers["groups"] = linen.GroupNorm(4 if m == "groups" else 2, epsilon=1e-5, name="groups")
        layers["fc"] = LinenDense(WIDTH, m if m == "missing bias" else None, name="fc")
        layers["norm"] = linen.LayerNorm(epsilon=1e-3 if m == "norm epsilon" else 1e-5, name="norm")
        layers["scale_norm"] = LinenScaleNorm(m, name="scale_norm")
        layers["square"] = LinenDense(WIDTH, m if m == "transposed weight" else None, name="square")
        layers["head"] = linen.Dense(5, name="head")
        return network(SimpleNamespace(**layers), LinenOps, x, m)


def linen_cnn(mistake=None):
    """Return the Linen module."""
    return LinenCNN(mistake)


class NNXScaleNorm(nnx.Module):
    def __init__(self, mistake):
        self.scale = nnx.Param(jnp.ones(WIDTH))
        self.mistake = mistake

    def __call__(self, x):
        return own_norm(jnp, x, self.scale[...], self.mistake)


class NNXLinear(nnx.Linear):
    mistake = None

    def __call__(self, x):
        kernel = self.kernel[...]
        x = x @ (kernel.T if self.mistake == "transposed weight" else kernel)
        return x if self.mistake == "missing bias" else x + self.bias[...]


class NNXOps(FlaxOps):
    @staticmethod
    def dropout(x):
        return nnx.Dropout(0.3, rngs=nnx.Rngs(0))(x)


class NNXCNN(nnx.Module):
    def __init__(self, mistake, rngs):
        m = self.mistake = mistake
        for name in ("stem", "conv1", "conv2", "down"):
            ins = 3 if name == "stem" else CHANNELS
            setattr(self, name, nnx.Conv(ins, CHANNELS, (3, 3), rngs=rngs, **conv_options(name, m)))
        self.stem_norm = nnx.BatchNorm(
            CHANNELS,
            use_running_average=m != "training",
            epsilon=1e-3 if m == "batch norm epsilon" else 1e-5,
            rngs=rngs,
        )
        self.groups = nnx.GroupNorm(CHANNELS, 4 if m == "groups" else 2, epsilon=1e-5, rngs=rngs)
        fc, square = (
            NNXLinear if m == name else nnx.Linear for name in ("missing bias", "transposed weight")
        )
        self.fc, self.square = fc(CHANNELS * 12, WIDTH, rngs=rngs), square(WIDTH, WIDTH, rngs=rngs)
        for layer in (self.fc, self.square):
            layer.mistake = m
        self.norm = nnx.LayerNorm(WIDTH, epsilon=1e-3 if m == "norm epsilon" else 1e-5, rngs=rngs)
        self.scale_norm = NNXScaleNorm(m)
        self.head = nnx.Linear(WIDTH, 5, rngs=rngs)

    def __call__(self, x):
        return network(self, NNXOps, x, self.mistake)


def nnx_cnn(mistake=None):
    """Return the NNX module."""
    return NNXCNN(mistake, nnx.Rngs(0))
