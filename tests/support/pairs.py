"""Every layer kind in torch, Linen and NNX, by family, with the options that change a layout."""

from __future__ import annotations

from functools import partial
from typing import Any

import flax.linen as linen
import jax.numpy as jnp
from flax import nnx
from torch import nn

from support.models import Pair

DIMS = (1, 2, 3)


class ChannelPReLU(linen.Module):
    """A PReLU with one slope for each channel, which Linen lacks."""

    channels: int

    @linen.compact
    def __call__(self, x: Any) -> Any:
        slope = self.param("negative_slope", linen.initializers.constant(0.25), (self.channels,))
        return jnp.where(x >= 0, x, slope * x)


class NnxChannelPReLU(nnx.Module):
    def __init__(self, channels: int) -> None:
        self.negative_slope = nnx.Param(jnp.full((channels,), 0.25))

    def __call__(self, x: Any) -> Any:
        return jnp.where(x >= 0, x, self.negative_slope[...] * x)


LINEAR = [
    Pair(
        f"linear-{i}-{o}{'' if bias else '-no_bias'}",
        partial(nn.Linear, i, o, bias=bias),
        partial(linen.Dense, o, use_bias=bias),
        lambda rngs, i=i, o=o, bias=bias: nnx.Linear(i, o, use_bias=bias, rngs=rngs),
        (2, 3, i),
        usual=bias and i > 1,
    )
    for i, o in ((4, 6), (5, 5), (3, 1), (1, 1))
    for bias in (True, False)
]

EMBEDDING = [
    Pair(
        f"embedding-{n}-{d}",
        partial(nn.Embedding, n, d),
        partial(linen.Embed, n, d),
        lambda rngs, n=n, d=d: nnx.Embed(n, d, rngs=rngs),
        (2, 3),
        integers=n,
    )
    for n, d in ((7, 4), (4, 4), (5, 1))
]


def conv(
    dim: int,
    cin: int,
    cout: int,
    kernel: int | tuple[int, ...],
    *,
    stride: int = 1,
    dilation: int = 1,
    groups: int = 1,
    bias: bool = True,
) -> Pair:
    taps = (kernel,) * dim if isinstance(kernel, int) else kernel
    options = "".join(
        f"-{name}{value}"
        for name, value, usual in (("s", stride, 1), ("d", dilation, 1), ("g", groups, 1), ("b", bias, True))
        if value != usual
    )
    common = {
        "kernel_size": taps,
        "strides": (stride,) * dim,
        "padding": "VALID",
        "kernel_dilation": (dilation,) * dim,
        "feature_group_count": groups,
        "use_bias": bias,
    }
    return Pair(
        f"conv{dim}d-{cin}-{cout}-{'x'.join(map(str, taps))}{options}",
        partial(
            getattr(nn, f"Conv{dim}d"),
            cin,
            cout,
            taps,
            stride=stride,
            dilation=dilation,
            groups=groups,
            bias=bias,
        ),
        partial(linen.Conv, cout, **common),
        lambda rngs: nnx.Conv(cin, cout, **common, rngs=rngs),
        (2, *(7, 8, 9)[:dim], cin),
        channels_first=True,
        usual=not options,
    )


CONV = [
    *(conv(dim, *channels, kernel) for dim in DIMS for channels in ((3, 4), (3, 3)) for kernel in (3,)),
    conv(2, 3, 3, (3, 2)),
    conv(3, 3, 3, (3, 2, 1)),
    conv(3, 4, 4, 4),
    *(conv(dim, 2, 2, 3, stride=2) for dim in DIMS),
    *(conv(dim, 2, 2, 2, dilation=2) for dim in DIMS),
    *(conv(dim, 4, 6, 3, groups=2) for dim in DIMS),
    *(conv(dim, 4, 4, 3, groups=4) for dim in DIMS),
    conv(2, 4, 8, 3, groups=4),
    conv(2, 3, 3, 3, bias=False),
    conv(1, 3, 3, 1),
]


def conv_transpose(
    dim: int,
    cin: int,
    cout: int,
    *,
    kernel: bool,
    taps: int | tuple[int, ...] = 3,
    stride: int = 1,
    dilation: int = 1,
    bias: bool = True,
) -> Pair:
    taps = (taps,) * dim if isinstance(taps, int) else taps
    options = "".join(
        f"-{name}{value}"
        for name, value, usual in (("s", stride, 1), ("d", dilation, 1), ("b", bias, True))
        if value != usual
    )
    common = {
        "kernel_size": taps,
        "strides": (stride,) * dim,
        "padding": "VALID",
        "kernel_dilation": (dilation,) * dim,
        "use_bias": bias,
        "transpose_kernel": kernel,
    }
    layout = "-transpose_kernel" if kernel else ""
    return Pair(
        f"conv_transpose{dim}d-{cin}-{cout}-{'x'.join(map(str, taps))}{layout}{options}",
        partial(
            getattr(nn, f"ConvTranspose{dim}d"), cin, cout, taps, stride=stride, dilation=dilation, bias=bias
        ),
        partial(linen.ConvTranspose, cout, **common),
        lambda rngs: nnx.ConvTranspose(cin, cout, **common, rngs=rngs),
        (2, *(4, 5, 6)[:dim], cin),
        channels_first=True,
        plain=not kernel,
        usual=not options,
    )


CONV_TRANSPOSE = [
    conv_transpose(dim, *channels, kernel=kernel, **options)
    for dim in DIMS
    for channels, options in (((3, 4), {}), ((3, 3), {}), ((2, 2), {"stride": 2}))
    for kernel in (False, True)
] + [
    conv_transpose(2, 3, 3, kernel=kernel, **options)
    for kernel in (False, True)
    for options in ({"taps": (3, 2)}, {"dilation": 2}, {"bias": False}, {"taps": (2, 4), "stride": 2})
]

NORM = [
    Pair(
        "layer_norm",
        partial(nn.LayerNorm, 6, eps=1e-5),
        partial(linen.LayerNorm, epsilon=1e-5),
        lambda rngs: nnx.LayerNorm(6, epsilon=1e-5, rngs=rngs),
        (2, 3, 6),
    ),
    Pair(
        "layer_norm-no_bias",
        partial(nn.LayerNorm, 6, eps=1e-5, bias=False),
        partial(linen.LayerNorm, epsilon=1e-5, use_bias=False),
        lambda rngs: nnx.LayerNorm(6, epsilon=1e-5, use_bias=False, rngs=rngs),
        (2, 3, 6),
    ),
    Pair(
        "layer_norm-2_axes",
        partial(nn.LayerNorm, (4, 4), eps=1e-5),
        partial(linen.LayerNorm, epsilon=1e-5, reduction_axes=(-2, -1), feature_axes=(-2, -1)),
        None,
        (3, 4, 4),
    ),
    Pair(
        "group_norm",
        partial(nn.GroupNorm, 2, 6, eps=1e-5),
        partial(linen.GroupNorm, num_groups=2, epsilon=1e-5),
        lambda rngs: nnx.GroupNorm(6, num_groups=2, epsilon=1e-5, rngs=rngs),
        (2, 5, 4, 6),
        channels_first=True,
    ),
    Pair(
        "rms_norm",
        partial(nn.RMSNorm, 6, eps=1e-5),
        partial(linen.RMSNorm, epsilon=1e-5),
        lambda rngs: nnx.RMSNorm(6, epsilon=1e-5, rngs=rngs),
        (2, 3, 6),
    ),
    *(
        Pair(
            f"instance_norm{dim}d",
            partial(getattr(nn, f"InstanceNorm{dim}d"), 6, eps=1e-5, affine=True),
            partial(linen.InstanceNorm, epsilon=1e-5),
            lambda rngs: nnx.InstanceNorm(6, epsilon=1e-5, rngs=rngs),
            (2, *(7, 4, 3)[:dim], 6),
            channels_first=True,
        )
        for dim in DIMS
    ),
]

BATCH_NORM = [
    Pair(
        f"batch_norm{dim}d{'' if affine else '-no_affine'}",
        partial(getattr(nn, f"BatchNorm{dim}d"), 6, eps=1e-5, affine=affine),
        partial(linen.BatchNorm, use_running_average=True, epsilon=1e-5, use_bias=affine, use_scale=affine),
        lambda rngs, affine=affine: nnx.BatchNorm(
            6, use_running_average=True, epsilon=1e-5, use_bias=affine, use_scale=affine, rngs=rngs
        ),
        (2, *(7, 4, 3)[:dim], 6),
        channels_first=True,
        usual=affine,
    )
    for dim in DIMS
    for affine in (True, False)
]

PRELU = [
    Pair("prelu-shared", nn.PReLU, linen.PReLU, lambda rngs: nnx.PReLU(), (2, 3, 4)),
    Pair(
        "prelu-channels",
        partial(nn.PReLU, 4),
        partial(ChannelPReLU, 4),
        lambda rngs: NnxChannelPReLU(4),
        (2, 5, 4),
        channels_first=True,
    ),
]

FAMILIES = {
    "linear": LINEAR,
    "embedding": EMBEDDING,
    "conv": CONV,
    "conv_transpose": CONV_TRANSPOSE,
    "norm": NORM,
    "batch_norm": BATCH_NORM,
    "prelu": PRELU,
}
PAIRS = [pair for family in FAMILIES.values() for pair in family]
