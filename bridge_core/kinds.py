"""The built-in layer kinds: the neutral layout of every layer type, axis by axis."""

from __future__ import annotations

import numpy as np

from bridge_core.hookspecs import hookimpl
from bridge_core.layers import LayerKind
from bridge_core.tensors import TensorSpec

__all__ = ["KINDS", "bridge_layer_kinds"]


def _recurrent(name: str, gates: tuple[str, ...]) -> LayerKind:
    """Return a recurrent cell: for each gate one linear layer on the input and one on the state."""
    leaves: dict[str, str] = {}
    for side, axis in (("i", "in"), ("h", "state")):
        for gate in gates:
            leaves[f"{side}{gate}.kernel"] = f"{axis} hidden"
            leaves[f"{side}{gate}.bias"] = "hidden"
    return LayerKind(name, leaves, zeros=tuple(leaf for leaf in leaves if leaf.endswith(".bias")))


_SPECTRAL = {"bias": "out", "u": "out", "v": "taps", "sigma": ""}
"""What stands beside the kernel: torch keeps both singular vectors, Flax one and the singular value."""

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
    # The taps of a transposed convolution run the other way, so it is never one kind with a convolution.
    LayerKind("weight_norm_transpose", {"g": "out", "v": "+k in out", "bias": "out"}),
    LayerKind("spectral_norm", {"kernel": "*k in out", **_SPECTRAL}),
    LayerKind("spectral_norm_transpose", {"kernel": "+k in out", **_SPECTRAL}),
    LayerKind("prelu", {"negative_slope": "channels"}),
    LayerKind(
        "attention",
        {
            "query.kernel": "in heads",
            "query.bias": "heads",
            "key.kernel": "in kv_heads",
            "key.bias": "kv_heads",
            "value.kernel": "in kv_heads",
            "value.bias": "kv_heads",
            "out.kernel": "heads out",
            "out.bias": "out",
        },
        zeros=("query.bias", "key.bias", "value.bias", "out.bias"),
    ),
    _recurrent("lstm", ("i", "f", "g", "o")),
    _recurrent("gru", ("r", "z", "n")),
    _recurrent("rnn", ("",)),
)


@hookimpl
def bridge_layer_kinds() -> tuple[LayerKind, ...]:
    """Return the kinds of the core."""
    return KINDS
