"""Flax's native layout of each layer kind. Linen and NNX use the same leaf names and axes.

Flax stores kernels with the input axis before the output axis and spatial axes first, which is also the
neutral layout. ``transpose_kernel=True`` is the exception: it stores what PyTorch stores, so the spatial
axes are reversed against the neutral layout and the last two axes change places.
"""

from __future__ import annotations

from bridge_core import LayerTransform, Leaf

__all__ = ["TRANSFORMS"]

_BIAS = Leaf("bias", "bias", "out", optional=True)
_NO_V = (
    "Flax's spectral norm stores only the vector u and computes v when it runs. Allow the key as unexpected; "
    "for the way back allow it as missing, and run some training steps in torch"
)


def _weight_norm(
    kind: str, kernel: str, wraps: str, linen: tuple[str, ...]
) -> tuple[LayerTransform, LayerTransform]:
    """Return NNX's and Linen's weight norm of one sort of layer; names do not show which sort it is."""
    bias = Leaf("layer_instance.bias", "bias", "out", optional=True)
    return (
        LayerTransform(
            f"flax.{kind}",
            kind=kind,
            leaves=(Leaf("scales.kernel", "g", "out"), Leaf("layer_instance.kernel", "v", kernel), bias),
            modules=("flax.nnx.nn.normalization.WeightNorm",),
            settings={"feature_axes": -1, "transpose_kernel": False, "wraps": wraps},
            identifying_leaves=("scales.kernel", "layer_instance.kernel"),
        ),
        LayerTransform(
            f"flax.linen_{kind}",
            kind=kind,
            leaves=(Leaf("kernel/scale", "g", "out"), Leaf("kernel", "v", kernel), _BIAS),
            modules=tuple(f"flax.linen.linear.{name}" for name in linen),
            settings={"transpose_kernel": False} if wraps == "conv_transpose" else {},
            identifying_leaves=("kernel/scale",),
            # Linen stores the scale under the wrapper's path, which only a template shows.
            needs_template=True,
        ),
    )


def _spectral_norm(kind: str, kernel: str) -> tuple[LayerTransform, LayerTransform]:
    """Return the spectral norm of NNX and that of Linen; both wrap a layer."""
    transposed = kind == "spectral_norm_transpose"
    end = "_transpose" if transposed else ""
    linen = ("ConvTranspose",) if transposed else ("Dense", "Conv")
    return (
        LayerTransform(
            f"flax.spectral_norm{end}",
            kind=kind,
            leaves=(
                Leaf("layer_instance.kernel", "kernel", kernel),
                Leaf("layer_instance.bias", "bias", "out", optional=True),
                Leaf("batch_stats.kernel/u", "u", "1 out"),
                Leaf("batch_stats.kernel/sigma", "sigma", ""),
            ),
            modules=("flax.nnx.nn.normalization.SpectralNorm",),
            settings={"wraps": "conv_transpose" if transposed else "conv"},
            identifying_leaves=("layer_instance.kernel", "batch_stats.kernel/u"),
            unsupported_leaves={"v": _NO_V},
        ),
        LayerTransform(
            f"flax.linen_spectral_norm{end}",
            kind=kind,
            leaves=(
                Leaf("kernel", "kernel", kernel),
                _BIAS,
                Leaf("kernel/u", "u", "1 out"),
                Leaf("kernel/sigma", "sigma", ""),
            ),
            modules=tuple(f"flax.linen.linear.{name}" for name in linen),
            settings={"transpose_kernel": False},
            identifying_leaves=("kernel", "kernel/u"),
            # As with weight norms, only a template shows the wrapper's path.
            needs_template=True,
            unsupported_leaves={"v": _NO_V},
        ),
    )


TRANSFORMS: tuple[LayerTransform, ...] = (
    LayerTransform(
        "flax.linear",
        kind="linear",
        leaves=(Leaf("kernel", "kernel", "in out"), _BIAS),
        modules=("flax.linen.linear.Dense", "flax.nnx.nn.linear.Linear"),
        settings={"reordered": False},
        identifying_leaves=(),
    ),
    LayerTransform(
        "flax.embedding",
        kind="embedding",
        leaves=(Leaf("embedding", "embedding", "num features"),),
        modules=("flax.linen.linear.Embed", "flax.nnx.nn.linear.Embed"),
        identifying_leaves=(),
    ),
    LayerTransform(
        "flax.conv",
        kind="conv",
        leaves=(Leaf("kernel", "kernel", "+k in out"), _BIAS),
        modules=("flax.linen.linear.Conv", "flax.nnx.nn.linear.Conv"),
    ),
    LayerTransform(
        "flax.conv_transpose",
        kind="conv_transpose",
        leaves=(Leaf("kernel", "kernel", "+k in out"), _BIAS),
        modules=("flax.linen.linear.ConvTranspose", "flax.nnx.nn.linear.ConvTranspose"),
        settings={"transpose_kernel": False},
        hints=("transpose", "convtranspose", "deconv"),
    ),
    LayerTransform(
        "flax.conv_transpose_kernel",
        kind="conv_transpose",
        leaves=(Leaf("kernel", "kernel", "+k out in", flip=("k",)), _BIAS),
        modules=("flax.linen.linear.ConvTranspose", "flax.nnx.nn.linear.ConvTranspose"),
        settings={"transpose_kernel": True},
        hints=("transpose_kernel",),
    ),
    LayerTransform(
        "flax.norm",
        kind="norm",
        leaves=(
            Leaf("scale", "scale", "+features"),
            Leaf("bias", "bias", "+features", optional=True),
        ),
        modules=(
            "flax.linen.normalization.LayerNorm",
            "flax.linen.normalization.GroupNorm",
            "flax.linen.normalization.RMSNorm",
            "flax.linen.normalization.InstanceNorm",
            "flax.nnx.nn.normalization.LayerNorm",
            "flax.nnx.nn.normalization.GroupNorm",
            "flax.nnx.nn.normalization.RMSNorm",
            "flax.nnx.nn.normalization.InstanceNorm",
        ),
        identifying_leaves=("scale", "bias"),
        only_leaves=True,
        hints=("norm", "layernorm", "rmsnorm", "groupnorm", "ln"),
    ),
    LayerTransform(
        "flax.batch_norm",
        kind="batch_norm",
        leaves=(
            Leaf("scale", "scale", "features", optional=True),
            Leaf("bias", "bias", "features", optional=True),
            Leaf("mean", "mean", "features"),
            Leaf("var", "var", "features"),
        ),
        modules=(
            "flax.linen.normalization.BatchNorm",
            "flax.nnx.nn.normalization.BatchNorm",
        ),
        identifying_leaves=("mean", "var"),
    ),
    *_weight_norm("weight_norm", "*k in out", "conv", ("Dense", "Conv")),
    *_weight_norm("weight_norm_transpose", "+k in out", "conv_transpose", ("ConvTranspose",)),
    *_spectral_norm("spectral_norm", "*k in out"),
    *_spectral_norm("spectral_norm_transpose", "+k in out"),
    LayerTransform(
        "flax.prelu",
        kind="prelu",
        leaves=(Leaf("negative_slope", "negative_slope", ""),),
        modules=("flax.linen.activation.PReLU", "flax.nnx.nn.activations.PReLU"),
        identifying_leaves=(),
    ),
    LayerTransform(
        "flax.prelu_channels",
        kind="prelu",
        leaves=(Leaf("negative_slope", "negative_slope", "channels"),),
        identifying_leaves=(),
    ),
)
"""Every transform of Flax; where two share a kind, the usual one comes first."""
