"""The zoo's families that look at images, alone or beside a text."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
from zoo.case import Case
from zoo.seq2seq import causal_lm, text_encoder, tokens

__all__ = ["CASES"]

_SIDE = 12
_PATCHES = 9


def _images(side: int = _SIDE) -> dict[str, np.ndarray]:
    pixels = np.random.default_rng(0).standard_normal((2, 3, side, side))
    return {"pixel_values": pixels.astype(np.float32)}


def _masked_images() -> dict[str, np.ndarray]:
    return {**_images(), "bool_masked_pos": np.random.default_rng(1).random((2, _PATCHES)) < 0.5}


def _texts() -> dict[str, np.ndarray]:
    mask = np.ones((2, 7), np.int64)
    mask[1, -2:] = 0
    return {"input_ids": tokens(2, 7), "attention_mask": mask}


def _captions() -> dict[str, np.ndarray]:
    return {**_images(), "decoder_input_ids": tokens(2, 5)}


def _image_model(name: str, **options: Any) -> Any:
    """Return the smallest config of a transformer over patches."""
    import transformers

    sizes = {
        "image_size": _SIDE,
        "patch_size": 4,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 24,
        "num_labels": 5,
    }
    return getattr(transformers, name)(**{**sizes, **options})


def _conv_net(name: str, **options: Any) -> Any:
    import transformers

    sizes = {"embedding_size": 6, "hidden_sizes": [8, 12], "depths": [2, 3], "num_labels": 5}
    return getattr(transformers, name)(**{**sizes, **options})


def _clip_text(**options: Any) -> Any:
    sizes = {"projection_dim": 10, "bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1}
    return text_encoder("CLIPTextConfig", **{**sizes, **options})


def _clip_vision(**options: Any) -> Any:
    return _image_model("CLIPVisionConfig", projection_dim=10, **options)


def _clip(**options: Any) -> Any:
    import transformers

    text, vision = _clip_text(**options), _clip_vision(hidden_size=20, num_attention_heads=4)
    return transformers.CLIPConfig(text.to_dict(), vision.to_dict(), projection_dim=10)


def _dual(vision: Callable[[], Any]) -> Any:
    import transformers

    return transformers.VisionTextDualEncoderConfig.from_vision_text_configs(
        vision(), text_encoder(), projection_dim=10
    )


def _captioner(encoder: Callable[[], Any], decoder: Callable[[], Any]) -> Any:
    import transformers

    return transformers.VisionEncoderDecoderConfig.from_encoder_decoder_configs(encoder(), decoder())


_WORDS = {
    "Model": "base",
    "ForImageClassification": "image-classification",
    "ForMaskedImageModeling": "masked-image-modeling",
}


def _family(
    family: str,
    stem: str,
    heads: tuple[str, ...],
    variants: Mapping[str, Callable[[], Any]],
    *,
    inputs: Callable[[], dict[str, np.ndarray]] = _images,
    fast: tuple[str, str] = ("", ""),
    no_flax: Mapping[str, str] | None = None,
) -> tuple[Case, ...]:
    return tuple(
        Case(
            name=f"{family}-{_WORDS[head]}{variant}",
            family=family,
            flax=f"Flax{stem}{head}",
            torch=f"{stem}{head}",
            config=config,
            inputs=inputs,
            no_flax=(no_flax or {}).get(variant, ""),
            fast=(head, variant) == fast,
        )
        for head in heads
        for variant, config in variants.items()
    )


_BOTH = ("Model", "ForImageClassification")
_BEIT = partial(_image_model, "BeitConfig", vocab_size=30)
_VIT = partial(_image_model, "ViTConfig")
_REGNET_X = "FlaxRegNetXLayer passes in_channels to FlaxRegNetXLayerCollection, which has no such field"
_DINO = partial(_image_model, "Dinov2Config", mlp_ratio=2)

CASES: tuple[Case, ...] = (
    *_family(
        "beit",
        "Beit",
        _BOTH,
        {
            "": _BEIT,
            "-relative": partial(_BEIT, use_relative_position_bias=True, use_mean_pooling=False),
            "-shared-relative": partial(
                _BEIT, use_shared_relative_position_bias=True, use_absolute_position_embeddings=True
            ),
            "-no-layer-scale": partial(_BEIT, layer_scale_init_value=0.0),
        },
        fast=("Model", "-relative"),
    ),
    *_family(
        "beit",
        "Beit",
        ("ForMaskedImageModeling",),
        {"": partial(_BEIT, use_mask_token=True, use_relative_position_bias=True)},
        inputs=_masked_images,
    ),
    *(
        Case(
            name=f"{family}-base-no-pooler",
            family=family,
            flax=f"Flax{stem}Model",
            torch=f"{stem}Model",
            config=config,
            inputs=_images,
            torch_kwargs={"add_pooling_layer": False},
            flax_kwargs={"add_pooling_layer": False},
        )
        for family, stem, config in (("beit", "Beit", _BEIT), ("vit", "ViT", _VIT))
    ),
    Case(
        name="clip-base",
        family="clip",
        flax="FlaxCLIPModel",
        torch="CLIPModel",
        config=_clip,
        inputs=lambda: {**_texts(), **_images()},
        fast=True,
    ),
    *(
        Case(
            name=f"clip-{name}{variant}",
            family="clip",
            flax=f"FlaxCLIP{head}",
            torch=f"CLIP{head}",
            config=partial(_clip_text, **options),
            inputs=_texts,
        )
        for name, head in (("text", "TextModel"), ("text-projection", "TextModelWithProjection"))
        for variant, options in (("", {}), ("-own-eos", {"eos_token_id": 39, "hidden_act": "gelu"}))
    ),
    Case(
        name="clip-vision",
        family="clip",
        flax="FlaxCLIPVisionModel",
        torch="CLIPVisionModel",
        config=_clip_vision,
        inputs=_images,
    ),
    *_family("dinov2", "Dinov2", _BOTH, {"": _DINO, "-swiglu": partial(_DINO, use_swiglu_ffn=True)}),
    *_family(
        "regnet",
        "RegNet",
        _BOTH,
        {
            "-x": partial(_conv_net, "RegNetConfig", groups_width=4, layer_type="x"),
            "-y": partial(_conv_net, "RegNetConfig", groups_width=4, layer_type="y"),
        },
        inputs=partial(_images, 24),
        no_flax={"-x": _REGNET_X},
    ),
    *_family(
        "resnet",
        "ResNet",
        _BOTH,
        {
            "-basic": partial(_conv_net, "ResNetConfig", layer_type="basic"),
            "-bottleneck": partial(_conv_net, "ResNetConfig", layer_type="bottleneck"),
            "-downsample-first": partial(
                _conv_net, "ResNetConfig", layer_type="basic", downsample_in_first_stage=True
            ),
        },
        inputs=partial(_images, 24),
        fast=("ForImageClassification", "-basic"),
    ),
    *_family("vit", "ViT", _BOTH, {"": _VIT, "-no-qkv-bias": partial(_VIT, qkv_bias=False)}),
    *(
        Case(
            name=f"vision-encoder-decoder-{name}",
            family="vision-encoder-decoder",
            flax="FlaxVisionEncoderDecoderModel",
            torch="VisionEncoderDecoderModel",
            config=partial(_captioner, encoder, decoder),
            inputs=_captions,
        )
        for name, encoder, decoder in (
            ("vit-gpt2", _VIT, partial(causal_lm, "GPT2Config")),
            ("vit-gpt2-projected", _VIT, partial(causal_lm, "GPT2Config", n_embd=20)),
            ("vit-bert", _VIT, partial(causal_lm, "BertConfig")),
            ("beit-bart", _BEIT, partial(causal_lm, "BartConfig")),
        )
    ),
    *(
        Case(
            name=f"vision-text-dual-encoder-{name}",
            family="vision-text-dual-encoder",
            flax="FlaxVisionTextDualEncoderModel",
            torch="VisionTextDualEncoderModel",
            config=partial(_dual, vision),
            inputs=lambda: {**_texts(), **_images()},
        )
        for name, vision in (("vit-bert", _VIT), ("clip-bert", _clip_vision))
    ),
)
