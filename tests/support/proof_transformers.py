"""A small encoder and a small decoder: their sizes, their mistakes, and what each mistake must be called.

`proof_transformers_torch`, `proof_transformers_linen` and `proof_transformers_nnx` have the models. Each
takes ``mistake=``, a name of `ENCODER_MISTAKES` or `DECODER_MISTAKES`; without it, all compute the same.
"""

from dataclasses import dataclass

import numpy as np

__all__ = [
    "DECODER",
    "DECODER_MISTAKES",
    "DECODER_PLACES",
    "ENCODER",
    "ENCODER_MISTAKES",
    "ENCODER_PLACES",
    "DecoderSizes",
    "EncoderSizes",
    "decoder_inputs",
    "encoder_inputs",
]


@dataclass(frozen=True)
class EncoderSizes:
    """BERT's kind: learned positions, post-norm, a padding mask, exact GELU."""

    vocabulary: int = 31
    width: int = 24
    hidden: int = 40
    layers: int = 2
    heads: int = 4
    longest: int = 16
    classes: int = 5
    epsilon: float = 1e-5


@dataclass(frozen=True)
class DecoderSizes:
    """Llama's and Gemma's kind: rotary, grouped heads, RMS norms with ``1 +``, a gated MLP, a window."""

    vocabulary: int = 37
    width: int = 24
    hidden: int = 36
    layers: int = 2
    heads: int = 6
    kv_heads: int = 3
    head_dim: int = 8
    theta: float = 1e4
    window: int = 5
    epsilon: float = 1e-5
    tied: bool = True


ENCODER, DECODER = EncoderSizes(), DecoderSizes()

ENCODER_MISTAKES = {
    "head_order": "head_order",
    "merge_order": "head_order",
    "head_count": "head_count",
    "mask_sign": "mask_sign",
    "mask_missing": "mask",
    "mask_added": "mask_use",
    "attention_scale": "attention_scale",
    "scale_missing": "attention_scale",
    "softmax_axis": "softmax_axis",
    "softmax_dtype": "softmax_dtype",
    "qk_swapped": "projection_roles",
    "causal_on": "causal_mask",
    "attention_dropout": "dropout",
    "position_offset": "position_offset",
    "position_missing": "missing_positions",
    "embedding_scale": "embedding_scale",
    "gelu": "activation",
    "relu": "activation",
    "epsilon": "epsilon",
    "pre_norm": "norm_place",
    "residual_scale": "residual_scale",
    "residual_missing": "missing_residual",
    "transposed_weight": "transposed_weight",
    "dropout": "dropout",
}
"""Mistake -> the code of its cause."""

DECODER_MISTAKES = {
    "head_order": "head_order",
    "merge_order": "head_order",
    "kv_tile": "kv_groups",
    "rotary_layout": "rotary_layout",
    "rotary_theta": "rotary_theta",
    "rotary_missing": "rotary_missing",
    "rotary_sign": "rotary_sign",
    "rotary_queries": "rotary_inputs",
    "rotary_partial": "rotary_size",
    "query_offset": "position_offset",
    "causal_off": "causal_mask",
    "mask_shift": "mask_shift",
    "window": "window",
    "window_missing": "window",
    "attention_scale": "attention_scale",
    "width_scale": "attention_scale",
    "softcap": "attention_softcap",
    "softmax_dtype": "softmax_dtype",
    "qk_swapped": "projection_roles",
    "attention_dropout": "dropout",
    "one_plus_missing": "norm_offset",
    "epsilon": "epsilon",
    "layer_norm": "norm_centring",
    "activation": "activation",
    "gate_swapped": "gated_half",
    "residual_scale": "residual_scale",
    "post_norm": "norm_place",
    "embedding_scale": "embedding_scale",
    "untied": "other_weight",
    "final_norm_missing": "norm_place",
}
"""The same of the decoder."""


_IN_ATTENTION = frozenset(
    [
        "softmax_dtype",
        "head_order",
        "merge_order",
        "head_count",
        "kv_tile",
        "mask_sign",
        "mask_missing",
        "mask_added",
        "attention_scale",
        "scale_missing",
        "width_scale",
        "softcap",
        "softmax_axis",
        "qk_swapped",
        "causal_on",
        "causal_off",
        "mask_shift",
        "window",
        "window_missing",
        "attention_dropout",
        "rotary_layout",
        "rotary_theta",
        "rotary_missing",
        "rotary_sign",
        "rotary_queries",
        "rotary_partial",
        "query_offset",
    ]
)
ENCODER_PLACES = {
    **dict.fromkeys(_IN_ATTENTION & ENCODER_MISTAKES.keys(), "blocks.0.attention"),
    "position_offset": "positions",
    "position_missing": "norm",
    "embedding_scale": "norm",
    "gelu": "blocks.0.down",
    "relu": "blocks.0.down",
    "epsilon": "norm",
    "transposed_weight": "blocks.0.attention.out",
    "residual_scale": "blocks.0.attention_norm",
    "residual_missing": "blocks.0.attention_norm",
}
"""Mistake -> the source's module at which, or before which, the two models part."""

DECODER_PLACES = {
    **dict.fromkeys(_IN_ATTENTION & DECODER_MISTAKES.keys(), "blocks.0.attention"),
    "one_plus_missing": "blocks.0.attention_norm",
    "epsilon": "blocks.0.attention_norm",
    "layer_norm": "blocks.0.attention_norm",
    "activation": "blocks.0.down",
    "gate_swapped": "blocks.0.down",
    "residual_scale": "blocks.0.mlp_norm",
}
"""The same of the decoder."""


def encoder_inputs(sizes=ENCODER, batch=2, length=9, seed=0):
    """Return token ids and a padding mask, int32 ``(batch, length)``; 1 is a token."""
    r = np.random.default_rng(seed)
    mask = np.arange(length) < np.linspace(length - 3, length, batch).astype(int)[:, None]
    ids = r.integers(2, sizes.vocabulary, (batch, length)) * mask
    return ids.astype(np.int32), mask.astype(np.int32)


def decoder_inputs(sizes=DECODER, batch=2, length=11, seed=0):
    """Return token ids, int32 ``(batch, length)``."""
    return np.random.default_rng(seed).integers(0, sizes.vocabulary, (batch, length)).astype(np.int32)
