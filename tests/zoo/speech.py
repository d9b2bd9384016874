"""The zoo's families that listen."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from zoo.case import Case
from zoo.seq2seq import causal_lm, tokens

__all__ = ["CASES"]

_SAMPLES = 200
_FRAMES = 19


def _sound() -> dict[str, np.ndarray]:
    values = np.random.default_rng(0).standard_normal((2, _SAMPLES)).astype(np.float32)
    mask = np.ones((2, _SAMPLES), np.int64)
    mask[1, -60:] = 0
    return {"input_values": values, "attention_mask": mask}


def _masked_sound() -> dict[str, np.ndarray]:
    return {**_sound(), "mask_time_indices": np.random.default_rng(1).random((2, _FRAMES)) < 0.4}


def _spectrum() -> dict[str, np.ndarray]:
    return {"input_features": np.random.default_rng(0).standard_normal((2, 10, 36)).astype(np.float32)}


def _dictation() -> dict[str, np.ndarray]:
    return {**_spectrum(), "decoder_input_ids": tokens(2, 5)}


def _speech_to_text() -> dict[str, np.ndarray]:
    return {**_sound(), "decoder_input_ids": tokens(2, 5)}


def _as_inputs(given: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {"inputs" if name == "input_values" else name: value for name, value in given.items()}


def _wav2vec2(**options: Any) -> Any:
    import transformers

    sizes = {
        "vocab_size": 40,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 24,
        "conv_dim": (12, 14),
        "conv_kernel": (10, 3),
        "conv_stride": (5, 2),
        "num_feat_extract_layers": 2,
        "num_conv_pos_embeddings": 6,
        "num_conv_pos_embedding_groups": 2,
        "num_codevectors_per_group": 5,
        "num_codevector_groups": 2,
        "codevector_dim": 8,
        "proj_codevector_dim": 18,
        "feat_extract_norm": "layer",
        "do_stable_layer_norm": True,
    }
    return transformers.Wav2Vec2Config(**{**sizes, **options})


def _whisper(**options: Any) -> Any:
    import transformers

    sizes = {
        "vocab_size": 40,
        "num_mel_bins": 10,
        "d_model": 16,
        "encoder_layers": 2,
        "decoder_layers": 3,
        "encoder_attention_heads": 2,
        "decoder_attention_heads": 4,
        "encoder_ffn_dim": 24,
        "decoder_ffn_dim": 20,
        "max_source_positions": 18,
        "max_target_positions": 22,
        "pad_token_id": 1,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "decoder_start_token_id": 2,
        "classifier_proj_size": 14,
        "num_labels": 5,
    }
    return transformers.WhisperConfig(**{**sizes, **options})


def _pair(encoder: Callable[[], Any], decoder: Callable[[], Any]) -> Any:
    import transformers

    return transformers.SpeechEncoderDecoderConfig.from_encoder_decoder_configs(encoder(), decoder())


_WORDS = {
    "Model": "base",
    "ForCTC": "ctc",
    "ForPreTraining": "pre-training",
    "ForConditionalGeneration": "conditional-generation",
    "ForAudioClassification": "audio-classification",
}
_ADAPTER = {"add_adapter": True, "output_hidden_size": 20, "num_adapter_layers": 2}
_BART = partial(causal_lm, "BartConfig", max_position_embeddings=110)
"""As many positions as the frames of 1024 samples: with so many the Flax class traces itself."""

_GROUP = "FlaxConvLayersCollection raises NotImplementedError for feat_extract_norm='group'"
_POST = "FlaxWav2Vec2Module raises NotImplementedError for do_stable_layer_norm=False"
_WEIGHTED = (
    "FlaxWhisperForAudioClassificationModule stacks the encoder's output object, which JAX refuses, and has "
    "no layer_weights"
)


def _wav2vec2_cases() -> tuple[Case, ...]:
    variants: dict[str, tuple[dict[str, Any], str]] = {
        "": ({}, ""),
        "-conv-bias": ({"conv_bias": True}, ""),
        "-never-masked": ({"mask_time_prob": 0.0, "mask_feature_prob": 0.0}, ""),
        "-adapter": (_ADAPTER, ""),
        "-odd-positions": ({"num_conv_pos_embeddings": 5}, ""),
        "-group-norm": ({"feat_extract_norm": "group"}, _GROUP),
        "-post-norm": ({"do_stable_layer_norm": False}, _POST),
    }
    return tuple(
        Case(
            name=f"wav2vec2-{_WORDS[head]}{variant}",
            family="wav2vec2",
            flax=f"FlaxWav2Vec2{head}",
            torch=f"Wav2Vec2{head}",
            config=partial(_wav2vec2, **options),
            inputs=_masked_sound if head == "ForPreTraining" else _sound,
            no_flax=no_flax,
            fast=(head, variant) == ("ForCTC", ""),
        )
        for head in ("Model", "ForCTC", "ForPreTraining")
        for variant, (options, no_flax) in variants.items()
        if not (head == "ForPreTraining" and variant in ("-adapter", "-never-masked"))
    )


CASES: tuple[Case, ...] = (
    *_wav2vec2_cases(),
    *(
        Case(
            name=f"whisper-{_WORDS[head]}{variant}",
            family="whisper",
            flax=f"FlaxWhisper{head}",
            torch=f"Whisper{head}",
            config=partial(_whisper, **options),
            inputs=_spectrum if head == "ForAudioClassification" else _dictation,
            no_flax=no_flax,
            fast=(head, variant) == ("ForConditionalGeneration", ""),
        )
        for head, variant, options, no_flax in (
            ("Model", "", {}, ""),
            ("ForConditionalGeneration", "", {}, ""),
            ("ForConditionalGeneration", "-untied", {"tie_word_embeddings": False}, ""),
            ("ForAudioClassification", "", {}, ""),
            ("ForAudioClassification", "-weighted-sum", {"use_weighted_layer_sum": True}, _WEIGHTED),
        )
    ),
    *(
        Case(
            name=f"speech-encoder-decoder-{name}",
            family="speech-encoder-decoder",
            flax="FlaxSpeechEncoderDecoderModel",
            torch="SpeechEncoderDecoderModel",
            config=partial(_pair, encoder, decoder),
            inputs=_speech_to_text,
            flax_inputs=_as_inputs,
        )
        for name, encoder, decoder in (
            ("wav2vec2-bart", _wav2vec2, _BART),
            ("wav2vec2-bert", _wav2vec2, partial(causal_lm, "BertConfig", max_position_embeddings=110)),
            (
                "wav2vec2-gpt2-projected",
                _wav2vec2,
                partial(causal_lm, "GPT2Config", n_embd=20, n_positions=110),
            ),
            ("wav2vec2-adapter-bart", partial(_wav2vec2, **{**_ADAPTER, "output_hidden_size": 16}), _BART),
        )
    ),
)
