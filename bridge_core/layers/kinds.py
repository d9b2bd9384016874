"""The built-in layer kinds: the neutral layout of every layer type, axis by axis."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from bridge_core.axes import parse_axes
from bridge_core.errors import PluginError
from bridge_core.public import renamed
from bridge_core.state import TensorSpec

__all__ = ["KINDS", "LayerKind"]


@renamed(residuals="auxiliary_tensors")
@dataclass(frozen=True)
class LayerKind:
    """The neutral layout of a layer type.

    Args:
        name: E.g. ``"conv"``.
        leaves: Leaf name -> axis names, e.g. ``{"kernel": "+k in out", "bias": "out"}``. ``*k`` stands
            for any number of axes, ``+k`` for one or more. A name with a dot, as ``query.kernel``, belongs
            to a linear layer inside: where the other side does not have the whole, the layer falls apart
            into those.
        auxiliary_tensors: Leaves that some frameworks have no place for, with the spec of the value (all
            zeros) that stands in where none was kept.
        zeros: Leaves that mean nothing where they are all zeros: a target that needs one which the source
            lacks gets zeros.

    Raises:
        PluginError: An axis is named twice in a leaf, or a residual is no leaf.
    """

    name: str
    leaves: Mapping[str, str]
    auxiliary_tensors: Mapping[str, TensorSpec] = field(default_factory=dict)
    zeros: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check that the kind splits no axis, and has the leaves that its options name."""
        if not isinstance(self.leaves, Mapping) or not all(map(_is_text, self.leaves.values())):
            raise PluginError(f"kind {self.name!r}: leaves maps names to axes, got {self.leaves!r}.")
        for leaf, axes in self.leaves.items():
            if any(axis.split != 1 or len(axis.members) > 1 for axis in parse_axes(axes)):
                raise PluginError(f"kind {self.name!r}, leaf {leaf!r}: a kind's axes are whole.")
        for leaf in (*self.auxiliary_tensors, *self.zeros):
            if leaf not in self.leaves:
                raise PluginError(f"kind {self.name!r}: {leaf!r} is no leaf of it.")

    @property
    def composite(self) -> bool:
        """Whether it holds layers of its own."""
        return any("." in leaf for leaf in self.leaves)


def _is_text(value: object) -> bool:
    return isinstance(value, str)


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
        auxiliary_tensors={"num_batches_tracked": TensorSpec((), np.dtype("int64"))},
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
