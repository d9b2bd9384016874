"""Twenty public architectures at their smallest, with what Flax stores for each of their layers.

Everything is made from configs alone; nothing is downloaded. The expected Flax tree comes from the live
modules' types and numpy, and uses nothing of ckptbridge.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

__all__ = ["ARCHITECTURES", "Architecture", "Expected", "bare_state", "build", "config_of", "expected_tree"]


@dataclass(frozen=True)
class Architecture:
    """One line of the table.

    Args:
        name: As its authors call it.
        torch: Name of the class in transformers.
        config: Name of the config's class.
        flax: Name of the Flax class; empty where transformers 4 has none.
        options: Options of the config.
    """

    name: str
    torch: str
    config: str
    flax: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)


_LAYERS = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
}
_PATCHES = {**_LAYERS, "image_size": 12, "patch_size": 4}
_TEXT = {**_LAYERS, "vocab_size": 30, "max_position_embeddings": 20}
_GROUPED = {**_TEXT, "num_key_value_heads": 1, "tie_word_embeddings": False}
_CLIP = {
    "text_config": {**_TEXT, "projection_dim": 10},
    "vision_config": {**_PATCHES, "projection_dim": 10},
    "projection_dim": 10,
}
_STAGES = {"hidden_sizes": [8, 12], "depths": [2, 3]}

ARCHITECTURES = (
    Architecture("ViT", "ViTForImageClassification", "ViTConfig", "FlaxViTForImageClassification", _PATCHES),
    Architecture(
        "DINOv2",
        "Dinov2ForImageClassification",
        "Dinov2Config",
        "FlaxDinov2ForImageClassification",
        {**_LAYERS, "image_size": 12, "patch_size": 4, "mlp_ratio": 2},
    ),
    Architecture(
        "ViT-MAE",
        "ViTMAEForPreTraining",
        "ViTMAEConfig",
        options={
            **_PATCHES,
            "decoder_num_attention_heads": 2,
            "decoder_hidden_size": 8,
            "decoder_num_hidden_layers": 1,
            "decoder_intermediate_size": 12,
        },
    ),
    Architecture(
        "ConvNeXt",
        "ConvNextForImageClassification",
        "ConvNextConfig",
        options={"hidden_sizes": [8, 12], "depths": [1, 2], "num_stages": 2},
    ),
    Architecture(
        "ConvNeXt V2",
        "ConvNextV2ForImageClassification",
        "ConvNextV2Config",
        options={"hidden_sizes": [8, 12], "depths": [1, 2], "num_stages": 2},
    ),
    Architecture("BERT", "BertForMaskedLM", "BertConfig", "FlaxBertForMaskedLM", _TEXT),
    Architecture("CLIP", "CLIPModel", "CLIPConfig", "FlaxCLIPModel", _CLIP),
    Architecture(
        "T5",
        "T5ForConditionalGeneration",
        "T5Config",
        "FlaxT5ForConditionalGeneration",
        {"vocab_size": 30, "d_model": 16, "d_kv": 4, "d_ff": 24, "num_layers": 2, "num_heads": 2},
    ),
    Architecture("Llama", "LlamaForCausalLM", "LlamaConfig", "FlaxLlamaForCausalLM", _GROUPED),
    Architecture(
        "Mixtral",
        "MixtralForCausalLM",
        "MixtralConfig",
        options={**_GROUPED, "num_local_experts": 3, "num_experts_per_tok": 2},
    ),
    Architecture(
        "ResNet",
        "ResNetForImageClassification",
        "ResNetConfig",
        "FlaxResNetForImageClassification",
        {**_STAGES, "embedding_size": 6},
    ),
    Architecture(
        "RegNet",
        "RegNetForImageClassification",
        "RegNetConfig",
        "FlaxRegNetForImageClassification",
        {**_STAGES, "embedding_size": 6, "groups_width": 4},
    ),
    Architecture(
        "GPT-2",
        "GPT2LMHeadModel",
        "GPT2Config",
        "FlaxGPT2LMHeadModel",
        {"vocab_size": 30, "n_positions": 20, "n_embd": 16, "n_layer": 2, "n_head": 2},
    ),
    Architecture(
        "Whisper",
        "WhisperForConditionalGeneration",
        "WhisperConfig",
        "FlaxWhisperForConditionalGeneration",
        {
            "vocab_size": 30,
            "num_mel_bins": 8,
            "d_model": 16,
            "encoder_layers": 1,
            "decoder_layers": 1,
            "encoder_attention_heads": 2,
            "decoder_attention_heads": 2,
            "encoder_ffn_dim": 24,
            "decoder_ffn_dim": 24,
            "max_source_positions": 10,
            "max_target_positions": 12,
            "pad_token_id": 0,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "decoder_start_token_id": 1,
            "suppress_tokens": None,
            "begin_suppress_tokens": None,
        },
    ),
    Architecture(
        "SegFormer",
        "SegformerForSemanticSegmentation",
        "SegformerConfig",
        options={
            "num_encoder_blocks": 2,
            "depths": [1, 1],
            "sr_ratios": [2, 1],
            "hidden_sizes": [8, 12],
            "patch_sizes": [3, 3],
            "strides": [2, 2],
            "num_attention_heads": [1, 2],
            "mlp_ratios": [2, 2],
            "decoder_hidden_size": 10,
        },
    ),
    Architecture(
        "wav2vec 2.0",
        "Wav2Vec2ForCTC",
        "Wav2Vec2Config",
        "FlaxWav2Vec2ForCTC",
        {
            **_LAYERS,
            "vocab_size": 30,
            "conv_dim": (8, 12),
            "conv_kernel": (10, 3),
            "conv_stride": (5, 2),
            "num_feat_extract_layers": 2,
            "num_conv_pos_embeddings": 4,
            "num_conv_pos_embedding_groups": 2,
            "feat_extract_norm": "layer",
            "do_stable_layer_norm": True,
        },
    ),
    Architecture(
        "Swin",
        "SwinForImageClassification",
        "SwinConfig",
        options={"image_size": 16, "patch_size": 2, "embed_dim": 8, "depths": [1, 2], "num_heads": [1, 2]}
        | {"window_size": 2},
    ),
    Architecture(
        "BEiT",
        "BeitForImageClassification",
        "BeitConfig",
        "FlaxBeitForImageClassification",
        {**_PATCHES, "use_relative_position_bias": True, "out_indices": [0, 1]},
    ),
    Architecture(
        "gpt-oss",
        "GptOssForCausalLM",
        "GptOssConfig",
        options={
            **_GROUPED,
            "head_dim": 8,
            "num_local_experts": 3,
            "num_experts_per_tok": 2,
            "layer_types": ["sliding_attention", "full_attention"],
        },
    ),
    Architecture(
        "Mamba",
        "MambaForCausalLM",
        "MambaConfig",
        options={"vocab_size": 30, "hidden_size": 16, "num_hidden_layers": 2, "state_size": 4},
    ),
)


def build(architecture: Architecture, *, meta: bool = False) -> Any:
    """Return the torch model: on the meta device, or with every tensor filled with distinct numbers."""
    import torch
    import transformers

    config = config_of(architecture)
    model_class = getattr(transformers, architecture.torch)
    with torch.device("meta" if meta else "cpu"):
        model = model_class(config).eval()
    if not meta:
        _fill(model)
    return model


def config_of(architecture: Architecture) -> Any:
    """Return a new config."""
    import transformers

    return getattr(transformers, architecture.config)(**architecture.options)


def _fill(model: Any) -> None:
    """Give the whole state dict numbers that differ, near zero, with variances and counts above it."""
    import torch

    rng, count = np.random.default_rng(0), 0
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            size = tensor.numel()
            if not tensor.is_floating_point():
                if name.endswith("num_batches_tracked"):
                    tensor.fill_(3)
                continue
            numbers = (rng.permutation(size) + count) / 2**18
            count += size
            if name.endswith("running_var") or name.endswith("original0"):
                numbers += 0.5
            tensor.copy_(torch.from_numpy(numbers.reshape(tuple(tensor.shape))).to(tensor.dtype))


def bare_state(model: Any) -> dict[str, Any]:
    """Return the state dict as contiguous tensors, each of them once: what a safetensors file can hold."""
    held: set[tuple[int, Any]] = set()
    state = {}
    for name, tensor in model.state_dict().items():
        place = (tensor.data_ptr(), tuple(tensor.shape))
        if tensor.numel() and place in held:
            continue
        held.add(place)
        state[name] = tensor.detach().contiguous()
    return state


@dataclass(frozen=True)
class Expected:
    """What Flax holds for one tensor of torch.

    Args:
        readings: Leaf name -> values in Flax's axes. A library's own layer may have several right names.
        own: Whether the tensor is a parameter or buffer of its module's own, and no layer's.
    """

    readings: Mapping[str, np.ndarray]
    own: bool = False


_ROUTERS = ("GptOssTopKRouter",)
"""Modules of a library's own that multiply by the transpose of their weight, as a linear layer does."""

_SCALES = ("ConvNextV2GRN",)
"""Modules of a library's own whose weight is a scale."""


def expected_tree(model: Any) -> dict[str, Expected]:
    """Return what a right conversion makes of each tensor of the state dict; auxiliary ones are left out."""
    modules = dict(model.named_modules())
    expected = {}
    for name, tensor in bare_state(model).items():
        parts = name.split(".")
        cut = parts.index("parametrizations") if "parametrizations" in parts else len(parts) - 1
        leaf = ".".join(parts[cut:])
        if leaf != "num_batches_tracked":
            kinds = [base.__name__ for base in type(modules[".".join(parts[:cut])]).__mro__]
            expected[name] = _expected_leaf(kinds, leaf, tensor.numpy())
    return expected


def _expected_leaf(kinds: list[str], leaf: str, value: np.ndarray) -> Expected:
    turned = value.transpose(*range(2, value.ndim), 1, 0) if value.ndim > 1 else value
    # A weight norm: as NNX has it, or as transformers' own Flax models do, along whatever axis.
    if leaf.endswith("original0"):
        return Expected({"scales.kernel": value.reshape(-1), "weight_g": value, leaf: value})
    if leaf.endswith("original1"):
        return Expected({"layer_instance.kernel": turned, "weight_v": value, leaf: value})
    if leaf == "bias" and kinds[0].startswith("Parametrized"):
        return Expected({"layer_instance.bias": value, leaf: value})
    batch_norm = any("BatchNorm" in kind for kind in kinds)
    if leaf == "bias" or (leaf == "weight" and batch_norm) or leaf.startswith("running_"):
        names = {"weight": "scale", "running_mean": "mean", "running_var": "var"}
        return Expected({names.get(leaf, leaf): value})
    if leaf != "weight":
        return Expected({leaf: value}, own=True)
    if "Linear" in kinds or any(kind.startswith("Conv") and kind.endswith("d") for kind in kinds):
        return Expected({"kernel": turned})
    if "Conv1D" in kinds:
        return Expected({"kernel": value})
    if "Embedding" in kinds:
        return Expected({"embedding": value})
    if "LayerNorm" in kinds or "GroupNorm" in kinds:
        return Expected({"scale": value})
    if kinds[0] in _ROUTERS:
        return Expected({"kernel": turned, leaf: value})
    if "Norm" in kinds[0] or kinds[0] in _SCALES:
        return Expected({"scale": value, leaf: value})
    return Expected({leaf: value}, own=True)
