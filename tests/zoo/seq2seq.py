"""The zoo's text-to-text families: an encoder, a decoder, and attention between them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
from zoo.case import Case

__all__ = ["CASES", "causal_lm", "text_encoder", "tokens"]

_EOS = 2


def tokens(batch: int, length: int, *, seed: int = 0) -> np.ndarray:
    """Return token ids below 40 that avoid the special ones and end in one end-of-sequence token each."""
    ids = np.random.default_rng(seed).integers(4, 38, (batch, length))
    ids[:, -1] = _EOS
    return ids


def text_encoder(name: str = "BertConfig", **options: Any) -> Any:
    """Return the smallest config of a BERT-like encoder."""
    import transformers

    sizes = {
        "vocab_size": 40,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 24,
        "max_position_embeddings": 20,
    }
    return getattr(transformers, name)(**{**sizes, **options})


def causal_lm(name: str, **options: Any) -> Any:
    """Return the smallest config of a decoder that attends to an encoder as well."""
    import transformers

    common = {"is_decoder": True, "add_cross_attention": True}
    if name == "GPT2Config":
        sizes = {"vocab_size": 40, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_inner": 24, "n_positions": 20}
        special = {"bos_token_id": 1, "eos_token_id": _EOS}
        return transformers.GPT2Config(**{**sizes, **special, **common, **options})
    if name == "BartConfig":
        return bart_like(name, **common, **options)
    return text_encoder(name, **common, **options)


def bart_like(name: str, **options: Any) -> Any:
    """Return the smallest config of BART and of what was made after it."""
    import transformers

    sizes = {
        "vocab_size": 40,
        "d_model": 16,
        "encoder_layers": 2,
        "decoder_layers": 3,
        "encoder_attention_heads": 2,
        "decoder_attention_heads": 4,
        "encoder_ffn_dim": 24,
        "decoder_ffn_dim": 20,
        "max_position_embeddings": 22,
        "pad_token_id": 1,
        "bos_token_id": 0,
        "eos_token_id": _EOS,
        "forced_eos_token_id": _EOS,
        "decoder_start_token_id": _EOS,
    }
    return getattr(transformers, name)(**{**sizes, **options})


def _t5_like(name: str, **options: Any) -> Any:
    import transformers

    sizes = {
        "vocab_size": 40,
        "d_model": 16,
        "d_kv": 3,
        "d_ff": 24,
        "num_layers": 2,
        "num_decoder_layers": 3,
        "num_heads": 2,
        "relative_attention_num_buckets": 10,
        "relative_attention_max_distance": 20,
        "decoder_start_token_id": 0,
    }
    return getattr(transformers, name)(**{**sizes, **options})


def _pair(encoder: Callable[[], Any], decoder: Callable[[], Any], **options: Any) -> Any:
    import transformers

    return transformers.EncoderDecoderConfig.from_encoder_decoder_configs(encoder(), decoder(), **options)


def _source(length: int = 7) -> dict[str, np.ndarray]:
    mask = np.ones((2, length), np.int64)
    mask[1, -2:] = 0
    return {"input_ids": tokens(2, length), "attention_mask": mask}


def _both() -> dict[str, np.ndarray]:
    return {**_source(), "decoder_input_ids": tokens(2, 5, seed=1)}


def _long() -> dict[str, np.ndarray]:
    return {**_source(11), "decoder_input_ids": tokens(2, 5, seed=1)}


def _whole() -> dict[str, np.ndarray]:
    """Return texts without padding: some heads look for the last token."""
    return {"input_ids": tokens(2, 7)}


_UNSCALED = "BlenderbotSmallDecoder of torch works out embed_scale and never applies it; the Flax class does"


def _roberta_positions(given: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the inputs with RoBERTa's positions, which count from its padding id; the Flax pair's do not."""
    lengths = {"position_ids": "input_ids", "decoder_position_ids": "decoder_input_ids"}
    positions = {name: np.arange(given[ids].shape[1])[None] + 2 for name, ids in lengths.items()}
    return {**given, **{name: np.repeat(value, 2, axis=0) for name, value in positions.items()}}


def _bart_cases() -> tuple[Case, ...]:
    found = []
    for family, stem, classes in (
        ("bart", "Bart", ("Model", "ForConditionalGeneration")),
        ("blenderbot", "Blenderbot", ("Model", "ForConditionalGeneration")),
        ("blenderbot-small", "BlenderbotSmall", ("Model", "ForConditionalGeneration")),
        ("mbart", "MBart", ("Model", "ForConditionalGeneration")),
        ("marian", "Marian", ("Model", "MTModel")),
        ("pegasus", "Pegasus", ("Model", "ForConditionalGeneration")),
    ):
        name = f"{stem}Config"
        scaled = {"pad_token_id": 39} if family == "marian" else {}
        variants: dict[str, Mapping[str, Any]] = {"": scaled, "-scaled": {**scaled, "scale_embedding": True}}
        for head in classes:
            for variant, options in variants.items():
                unlike = (family, variant) == ("blenderbot-small", "-scaled")
                found.append(
                    Case(
                        name=f"{family}-{_WORDS[head]}{variant}",
                        family=family,
                        flax=f"Flax{stem}{head}",
                        torch=f"{stem}{head}",
                        config=partial(bart_like, name, **options),
                        inputs=_both,
                        skip_outputs=_UNSCALED if unlike else "",
                        fast=(family, head, variant) == ("bart", "ForConditionalGeneration", ""),
                    )
                )
        if family in ("bart", "mbart"):
            found += [
                Case(
                    name=f"{family}-{_WORDS[head]}",
                    family=family,
                    flax=f"Flax{stem}{head}",
                    torch=f"{stem}{head}",
                    config=partial(bart_like, name, num_labels=5),
                    inputs=_whole,
                )
                for head in ("ForSequenceClassification", "ForQuestionAnswering")
            ]
    return tuple(found)


_WORDS = {
    "Model": "base",
    "EncoderModel": "encoder",
    "MTModel": "translation",
    "ForCausalLM": "causal-lm",
    "ForConditionalGeneration": "conditional-generation",
    "ForSequenceClassification": "sequence-classification",
    "ForQuestionAnswering": "question-answering",
}


def _t5_cases() -> tuple[Case, ...]:
    plain = {"tie_word_embeddings": True, "feed_forward_proj": "relu"}
    gated = {"tie_word_embeddings": False, "feed_forward_proj": "gated-gelu"}
    local = {"local_radius": 3, "global_block_size": 4}
    families: dict[str, tuple[str, tuple[str, ...], dict[str, Mapping[str, Any]]]] = {
        "t5": (
            "T5",
            ("Model", "EncoderModel", "ForConditionalGeneration"),
            {"": plain, "-gated-untied": gated},
        ),
        "mt5": (
            "MT5",
            ("Model", "EncoderModel", "ForConditionalGeneration"),
            {"": gated, "-relu-tied": plain},
        ),
        "longt5": (
            "LongT5",
            ("Model", "ForConditionalGeneration"),
            {
                "-local": {**plain, **local},
                "-local-gated-untied": {**gated, **local},
                "-transient-global": {**plain, **local, "encoder_attention_type": "transient-global"},
                "-transient-global-gated-untied": {
                    **gated,
                    **local,
                    "encoder_attention_type": "transient-global",
                },
            },
        ),
    }
    return tuple(
        Case(
            name=f"{family}-{_WORDS[head]}{variant}",
            family=family,
            flax=f"Flax{stem}{head}",
            torch=f"{stem}{head}",
            config=partial(_t5_like, f"{stem}Config", **options),
            inputs=_source if head == "EncoderModel" else _long if family == "longt5" else _both,
            fast=(family, head, variant) == ("t5", "ForConditionalGeneration", "-gated-untied"),
        )
        for family, (stem, heads, variants) in families.items()
        for head in heads
        for variant, options in variants.items()
    )


def _pair_cases() -> tuple[Case, ...]:
    bert, roberta = partial(text_encoder), partial(text_encoder, "RobertaConfig")
    pairs = {
        "bert-bert": (bert, partial(causal_lm, "BertConfig")),
        "bert-bert-tied": (bert, partial(causal_lm, "BertConfig")),
        "bert-gpt2": (bert, partial(causal_lm, "GPT2Config")),
        "bert-gpt2-projected": (bert, partial(causal_lm, "GPT2Config", n_embd=20)),
        "bert-bart": (bert, partial(causal_lm, "BartConfig")),
        "roberta-roberta": (roberta, partial(causal_lm, "RobertaConfig")),
    }
    options = {"bert-bert-tied": {"tie_encoder_decoder": True}}
    return tuple(
        Case(
            name=f"encoder-decoder-{name}",
            family="encoder-decoder",
            flax="FlaxEncoderDecoderModel",
            torch="EncoderDecoderModel",
            config=partial(_pair, encoder, decoder, **options.get(name, {})),
            inputs=_both,
            flax_inputs=_roberta_positions if name == "roberta-roberta" else None,
        )
        for name, (encoder, decoder) in pairs.items()
    )


CASES: tuple[Case, ...] = (
    *_bart_cases(),
    Case(
        name="bart-causal-lm",
        family="bart",
        flax="FlaxBartForCausalLM",
        torch="BartForCausalLM",
        config=partial(bart_like, "BartConfig"),
        inputs=_whole,
    ),
    *_t5_cases(),
    *_pair_cases(),
)
