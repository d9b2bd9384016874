"""Flax's attention, and dense layers over several axes, as data.

Linen and NNX give heads two axes where the neutral form has one.
"""

from __future__ import annotations

from bridge_core import LayerTransform, Leaf

__all__ = ["TRANSFORMS"]

_HEADS = {"query": "heads", "key": "kv_heads", "value": "kv_heads"}

_ATTENTION = LayerTransform(
    "flax.attention",
    kind="attention",
    leaves=(
        *(Leaf(f"{name}.kernel", f"{name}.kernel", f"in {axis}/2") for name, axis in _HEADS.items()),
        Leaf("out.kernel", "out.kernel", "heads/2 out"),
        *(Leaf(f"{name}.bias", f"{name}.bias", f"{axis}/2", optional=True) for name, axis in _HEADS.items()),
        Leaf("out.bias", "out.bias", "out", optional=True),
    ),
    modules=(
        "flax.linen.attention.MultiHeadDotProductAttention",
        "flax.nnx.nn.attention.MultiHeadAttention",
    ),
    identifying_leaves=tuple(f"{name}.kernel" for name in (*_HEADS, "out")),
    independent_axes=("in",),
)

_LINEAR_GENERAL = LayerTransform(
    "flax.linear_general",
    kind="linear",
    leaves=(
        Leaf("kernel", "kernel", "in/+ out/+"),
        Leaf("bias", "bias", "out/+", optional=True),
    ),
    modules=(
        "flax.linen.linear.DenseGeneral",
        "flax.linen.linear.Einsum",
        "flax.nnx.nn.linear.LinearGeneral",
        "flax.nnx.nn.linear.Einsum",
    ),
    # Batch axes come first, and an equation may name a kernel's axes in any order.
    settings={"reordered": False},
    axis_splits={"in": "in_features", "out": "features out_features"},
    # Where the bias has one axis a convolution fits as well.
    identifying_leaves=("bias",),
)

TRANSFORMS = (_LINEAR_GENERAL, _ATTENTION)
"""The general dense layer shares its kind with the plain one, which is the usual one and comes first."""
