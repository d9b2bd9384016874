"""The library's own layers as data: how its torch and Flax classes store each layer kind.

This module does not import transformers: modules are recognised by their qualified names.
"""

from __future__ import annotations

from collections.abc import Mapping

from bridge_core import LayerKind, LayerTransform, Leaf

__all__ = ["KINDS", "TRANSFORMS"]

_MODELS = "transformers.models"
_BIAS = Leaf("bias", "bias", "out", optional=True)

KINDS: tuple[LayerKind, ...] = (
    # A convolution in time with one magnitude for each tap, where torch's usual one is for each output.
    LayerKind("weight_norm_taps", {"g": "+k", "v": "+k in out", "bias": "out"}),
)
"""Layer kinds that only this library has."""


def _weight_norm_taps(name: str, g: str, v: str, module: str, settings: Mapping[str, int]) -> LayerTransform:
    """Return one native layout of a convolution that is normalised tap by tap; all have torch's axes."""
    return LayerTransform(
        name,
        kind="weight_norm_taps",
        leaves=(Leaf(g, "g", "1 1 +k"), Leaf(v, "v", "out in +k"), _BIAS),
        modules=(module,),
        settings=settings,
        identifying_leaves=(g, v, "bias"),
    )


TRANSFORMS: tuple[LayerTransform, ...] = (
    LayerTransform(
        "torch.transformers_conv1d",
        kind="linear",
        leaves=(Leaf("weight", "kernel", "in out"), _BIAS),
        modules=("transformers.pytorch_utils.Conv1D",),
        needs_module=True,
    ),
    LayerTransform(
        "flax.transformers_conv1d",
        kind="linear",
        leaves=(Leaf("kernel", "kernel", "out in"), _BIAS),
        modules=(f"{_MODELS}.gpt2.modeling_flax_gpt2.FlaxConv1D",),
        needs_module=True,
    ),
    LayerTransform(
        "flax.transformers_tied_linear",
        kind="linear",
        leaves=(Leaf("bias", "bias", "out"),),
        modules=(
            f"{_MODELS}.distilbert.modeling_flax_distilbert.FlaxDistilBertLMDecoder",
            f"{_MODELS}.electra.modeling_flax_electra.FlaxElectraTiedDense",
        ),
        needs_module=True,
    ),
    _weight_norm_taps(
        "torch.transformers_weight_norm_taps_parametrized",
        "parametrizations.weight.original0",
        "parametrizations.weight.original1",
        "torch.nn.modules.conv.Conv1d",
        {"weight_norm": 2},
    ),
    _weight_norm_taps(
        "torch.transformers_weight_norm_taps",
        "weight_g",
        "weight_v",
        "torch.nn.modules.conv.Conv1d",
        {"weight_norm": 2},
    ),
    _weight_norm_taps(
        "flax.transformers_weight_norm_taps",
        "weight_g",
        "weight_v",
        f"{_MODELS}.wav2vec2.modeling_flax_wav2vec2.FlaxConvWithWeightNorm",
        {},
    ),
)
"""Every transform of the library's layers."""
