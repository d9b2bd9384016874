"""The built-in layer kinds: the neutral layout of every layer type, axis by axis."""

from __future__ import annotations

import numpy as np

from bridge_core.hookspecs import hookimpl
from bridge_core.layers import LayerKind
from bridge_core.tensors import TensorSpec

__all__ = ["KINDS", "bridge_layer_kinds"]

KINDS = (
    LayerKind("linear", {"kernel": "in out", "bias": "out"}),
    LayerKind("embedding", {"embedding": "num features"}),
    LayerKind("conv", {"kernel": "+k in out", "bias": "out"}),
    LayerKind("conv_transpose", {"kernel": "+k in out", "bias": "out"}),
    LayerKind("norm", {"scale": "*features", "bias": "*features"}),
    LayerKind(
        "batch_norm",
        {
            "scale": "features",
            "bias": "features",
            "mean": "features",
            "var": "features",
            "num_batches_tracked": "",
        },
        residuals={"num_batches_tracked": TensorSpec((), np.dtype("int64"))},
    ),
    LayerKind("weight_norm", {"g": "out", "v": "*k in out", "bias": "out"}),
    LayerKind("prelu", {"negative_slope": "channels"}),
)


@hookimpl
def bridge_layer_kinds() -> tuple[LayerKind, ...]:
    """Return the kinds of the core."""
    return KINDS
