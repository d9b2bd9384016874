"""The layers of torch as data: the native layout of each layer kind in torch's module types.

No module of this package imports torch. Where two transforms match the same names and shapes, these prove
either both or neither, so that a module's type, a template or a rule decides. The most usual one of them has
no hints: it is the guess for a path that contains no hint of another.
"""

from __future__ import annotations

from bridge_core import LayerKind, LayerTransform, Leaf

__all__ = ["KINDS", "TRANSFORMS"]

_CONV = tuple(f"torch.nn.modules.conv.Conv{n}d" for n in (1, 2, 3))
_CONV_TRANSPOSE = tuple(f"torch.nn.modules.conv.ConvTranspose{n}d" for n in (1, 2, 3))
_INSTANCE_NORM = tuple(f"torch.nn.modules.instancenorm.InstanceNorm{n}d" for n in (1, 2, 3))
_BATCH_NORM = (
    *(f"torch.nn.modules.batchnorm.BatchNorm{n}d" for n in (1, 2, 3)),
    "torch.nn.modules.batchnorm.SyncBatchNorm",
)
_TRANSPOSE_HINTS = ("transpose", "deconv", "upconv", "convt")

KINDS = (LayerKind("weight_norm_transpose_in", {"g": "in", "v": "+k in out", "bias": "out"}),)
"""Layer kinds that only torch has. The first axis of a transposed convolution is the input, so its weight
norm has one magnitude for each input by default."""

_NO_SIGMA = (
    "torch computes the singular value when it runs, and does not store it. Allow the key as missing: Flax "
    "does not read it, and writes it when it runs with update_stats=True"
)


def _weight_norm(
    name: str,
    kind: str,
    g: str,
    v: str,
    *,
    modules: tuple[str, ...],
    dim: int,
    flip: tuple[str, ...] = (),
    certain: bool = True,
    hints: tuple[str, ...] = (),
) -> tuple[LayerTransform, LayerTransform]:
    """Return both native layouts of a weight norm: the old function's, and that of the parametrizations.

    Names and shapes prove a layer only with its bias: without it, the two channel axes of a convolution and
    of a transposed one look alike, and so do a linear layer and an embedding.
    """
    leaf_names = (
        ("", "weight_g", "weight_v"),
        ("_parametrized", "parametrizations.weight.original0", "parametrizations.weight.original1"),
    )
    first, second = (
        LayerTransform(
            f"torch.{name}{suffix}",
            kind=kind,
            leaves=(
                Leaf(g_name, "g", g),
                Leaf(v_name, "v", v, flip=flip),
                Leaf("bias", "bias", "out", optional=True),
            ),
            modules=modules,
            settings={"weight_norm": dim, **({"groups": 1} if modules == _CONV_TRANSPOSE else {})},
            identifying_leaves=(g_name, v_name, "bias") if certain else None,
            hints=hints,
        )
        for suffix, g_name, v_name in leaf_names
    )
    return first, second


def _spectral_norm(
    kind: str, kernel: str, *, modules: tuple[str, ...], dim: int, flip: tuple[str, ...] = ()
) -> tuple[LayerTransform, LayerTransform]:
    """Return both native layouts of a spectral norm; as with weight norms, the bias proves the axes."""
    leaf_names = (
        ("", "weight_orig", "weight_u", "weight_v"),
        (
            "_parametrized",
            "parametrizations.weight.original",
            "parametrizations.weight.0._u",
            "parametrizations.weight.0._v",
        ),
    )
    first, second = (
        LayerTransform(
            f"torch.{kind}{end}",
            kind=kind,
            leaves=(
                Leaf(weight, "kernel", kernel, flip=flip),
                Leaf("bias", "bias", "out", optional=True),
                Leaf(u, "u", "out"),
                Leaf(v, "v", "taps"),
            ),
            modules=modules,
            settings={"spectral_norm": dim, **({"groups": 1} if modules == _CONV_TRANSPOSE else {})},
            identifying_leaves=(weight, "bias", u, v),
            hints=_TRANSPOSE_HINTS if modules == _CONV_TRANSPOSE else (),
            unsupported_leaves={"sigma": _NO_SIGMA},
        )
        for end, weight, u, v in leaf_names
    )
    return first, second


TRANSFORMS = (
    LayerTransform(
        "torch.linear",
        kind="linear",
        leaves=(
            Leaf("weight", "kernel", "out in"),
            Leaf("bias", "bias", "out", optional=True),
        ),
        modules=("torch.nn.modules.linear.Linear",),
        axis_sizes={"in": "in_features", "out": "out_features"},
        identifying_leaves=("bias",),
    ),
    LayerTransform(
        "torch.embedding",
        kind="embedding",
        leaves=(Leaf("weight", "embedding", "num features"),),
        modules=("torch.nn.modules.sparse.Embedding", "torch.nn.modules.sparse.EmbeddingBag"),
        axis_sizes={"num": "num_embeddings", "features": "embedding_dim"},
        hints=("embed", "emb", "wte", "wpe", "tok"),
    ),
    LayerTransform(
        "torch.conv",
        kind="conv",
        leaves=(
            Leaf("weight", "kernel", "out in +k"),
            Leaf("bias", "bias", "out", optional=True),
        ),
        modules=_CONV,
        axis_sizes={"in": "in_channels", "out": "out_channels"},
        identifying_leaves=("bias",),
    ),
    LayerTransform(
        "torch.conv_transpose",
        kind="conv_transpose",
        leaves=(
            Leaf("weight", "kernel", "in out +k", flip=("k",)),
            Leaf("bias", "bias", "out", optional=True),
        ),
        modules=_CONV_TRANSPOSE,
        # In a grouped one the second axis has the outputs of one group: another layout.
        settings={"groups": 1},
        misfit_note="with groups > 1 a transposed convolution has no counterpart in another framework",
        axis_sizes={"in": "in_channels", "out": "out_channels"},
        identifying_leaves=("bias",),
        hints=_TRANSPOSE_HINTS,
    ),
    LayerTransform(
        "torch.norm",
        kind="norm",
        leaves=(
            Leaf("weight", "scale", "+features"),
            Leaf("bias", "bias", "+features", optional=True),
        ),
        modules=(
            "torch.nn.modules.normalization.LayerNorm",
            "torch.nn.modules.normalization.GroupNorm",
            "torch.nn.modules.normalization.RMSNorm",
            *_INSTANCE_NORM,
            *_BATCH_NORM,
        ),
        identifying_leaves=("weight", "bias"),
    ),
    LayerTransform(
        "torch.norm_gamma_beta",
        kind="norm",
        leaves=(
            Leaf("gamma", "scale", "+features"),
            Leaf("beta", "bias", "+features"),
        ),
        only_leaves=True,
        hints=("norm", "ln"),
    ),
    LayerTransform(
        "torch.batch_norm",
        kind="batch_norm",
        leaves=(
            Leaf("weight", "scale", "features", optional=True),
            Leaf("bias", "bias", "features", optional=True),
            Leaf("running_mean", "mean", "features"),
            Leaf("running_var", "var", "features"),
            Leaf("num_batches_tracked", "num_batches_tracked", "", optional=True),
        ),
        modules=(*_BATCH_NORM, *_INSTANCE_NORM),
        identifying_leaves=("running_mean", "running_var"),
    ),
    *_weight_norm(
        "weight_norm",
        "weight_norm",
        "out *1",
        "out in *k",
        modules=("torch.nn.modules.linear.Linear", *_CONV),
        dim=0,
    ),
    *_weight_norm(
        "weight_norm_conv_transpose",
        "weight_norm_transpose_in",
        "in +1",
        "in out +k",
        modules=_CONV_TRANSPOSE,
        dim=0,
        flip=("k",),
        hints=_TRANSPOSE_HINTS,
    ),
    *_weight_norm(
        "weight_norm_conv_transpose_out",
        "weight_norm_transpose",
        "1 out +1",
        "in out +k",
        modules=_CONV_TRANSPOSE,
        dim=1,
        flip=("k",),
        # A convolution normalised along its input channels has the same shapes.
        certain=False,
        hints=_TRANSPOSE_HINTS,
    ),
    *_spectral_norm(
        "spectral_norm",
        "out in *k",
        modules=("torch.nn.modules.linear.Linear", *_CONV),
        dim=0,
    ),
    *_spectral_norm(
        "spectral_norm_transpose",
        "in out +k",
        modules=_CONV_TRANSPOSE,
        dim=1,
        flip=("k",),
    ),
    LayerTransform(
        "torch.prelu",
        kind="prelu",
        leaves=(Leaf("weight", "negative_slope", "channels"),),
        modules=("torch.nn.modules.activation.PReLU",),
        hints=("prelu", "act", "activation"),
    ),
)
"""The transforms of these layers; of two for one kind, the first is written without a template."""
