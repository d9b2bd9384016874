"""The built-in layer kinds: the neutral layout of every layer type, axis by axis."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from bridge_core.axes import parse_axes
from bridge_core.errors import PluginError
from bridge_core.messages import nearest
from bridge_core.public import renamed
from bridge_core.state import TensorSpec

__all__ = ["KINDS", "LayerKind"]


@renamed(residuals="auxiliary_tensors")
@dataclass(frozen=True)
class LayerKind:
    """The neutral layout of a layer type.

    Args:
        name: E.g. ``"conv"``.
        leaves: Leaf name -> axis names, e.g. ``{"kernel": "+k in out", "bias": "out"}``. ``*k`` means any
            number of axes, ``+k`` one or more. A name with a dot, as ``query.kernel``, belongs to a linear
            layer inside the layer: where the other side only has such linear layers, the layer is split
            into them.
        auxiliary_tensors: Leaf that some frameworks have no place for -> its spec. Where no value of it is
            stored, it is filled with zeros.
        zeros: Leaves that have no effect where they are all zeros: a target that needs one which the source
            does not have gets zeros.

    Raises:
        PluginError: An axis is named twice in a leaf or is split, or ``auxiliary_tensors`` or ``zeros`` name
            what is not a leaf.
    """

    name: str
    leaves: Mapping[str, str]
    auxiliary_tensors: Mapping[str, TensorSpec] = field(default_factory=dict)
    zeros: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse axes that are split, and options that name leaves which the kind does not have."""
        if not isinstance(self.leaves, Mapping) or not all(map(_is_text, self.leaves.values())):
            raise PluginError(
                f"kind {self.name!r}: expected leaves to map names to axes, got {self.leaves!r}."
            )
        for leaf, axes in self.leaves.items():
            if any(axis.split != 1 or len(axis.members) > 1 for axis in parse_axes(axes)):
                raise PluginError(
                    f"kind {self.name!r}, leaf {leaf!r}: expected axes that are not split, got {axes!r}."
                )
        for leaf in (*self.auxiliary_tensors, *self.zeros):
            if leaf not in self.leaves:
                raise PluginError(
                    f"kind {self.name!r}: auxiliary_tensors or zeros name {leaf!r}, which is not a leaf.",
                    hint=nearest(leaf, self.leaves, listing="Leaves"),
                )

    @property
    def composite(self) -> bool:
        """Whether it holds other layers, with leaves of dotted names."""
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
"""The leaves other than the kernel: torch stores both singular vectors, Flax one and the singular value."""

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
