"""The encoder and decoder-only text families."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from zoo.case import Case

__all__ = ["CASES"]

VOCABULARY = 40

SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 32,
    "pad_token_id": 1,
}

HEADS = {
    "model": "Model",
    "pre-training": "ForPreTraining",
    "masked-lm": "ForMaskedLM",
    "causal-lm": "ForCausalLM",
    "next-sentence": "ForNextSentencePrediction",
    "sequence-classification": "ForSequenceClassification",
    "multiple-choice": "ForMultipleChoice",
    "token-classification": "ForTokenClassification",
    "question-answering": "ForQuestionAnswering",
}
COMMON = (
    "model",
    "masked-lm",
    "sequence-classification",
    "multiple-choice",
    "token-classification",
    "question-answering",
)
DECODER = {"is_decoder": True}
CROSS = {"is_decoder": True, "add_cross_attention": True}
UNTIED = {"tie_word_embeddings": False}
TORCH_NAMES = {"BertForCausalLM": "BertLMHeadModel"}


def config_of(name: str, **options: Any) -> Callable[[], Any]:
    """Return what builds a config of this class."""

    def build() -> Any:
        import transformers

        return getattr(transformers, name)(**options)

    return build


def tokens(*shape: int, types: bool = False, encoder: int = 0) -> dict[str, np.ndarray]:
    """Return tokens, the last one of the last row masked; with the output of an encoder if asked."""
    rng = np.random.default_rng(7)
    mask = np.ones(shape, np.int64)
    mask[(-1,) * len(shape)] = 0
    made = {"input_ids": rng.integers(3, VOCABULARY, shape), "attention_mask": mask}
    if types:
        made["token_type_ids"] = rng.integers(0, 2, shape)
    if encoder:
        made["encoder_hidden_states"] = rng.normal(size=(shape[0], 5, encoder)).astype(np.float32)
        made["encoder_attention_mask"] = np.ones((shape[0], 5), np.int64)
    return made


def family(
    name: str,
    stem: str,
    heads: Iterable[str],
    config: Mapping[str, Any],
    *,
    types: bool = False,
    fast: Iterable[str] = (),
    length: int = 7,
    **fields: Any,
) -> tuple[Case, ...]:
    """Return one case for each head of a family.

    Args:
        name: Name of the family, and of a variant after a slash.
        stem: What the names of its classes start with.
        heads: Names of heads as in `HEADS`, or what the names of the classes end with.
        config: Options of the config.
        types: Whether tokens have types.
        fast: The heads that are part of the default run.
        length: Number of tokens.
        **fields: Further fields of the cases.
    """
    encoder = 16 if config.get("add_cross_attention") else 0
    cases = []
    for head in heads:
        shape = (2, 3, length) if head == "multiple-choice" else (2, length)
        ending = HEADS.get(head, head)
        case = Case(
            name=f"{name.replace('/', '-')}-{'lm' if ending == 'LMHeadModel' else head}",
            family=name.partition("/")[0].replace("-", "_"),
            flax=f"Flax{stem}{ending}",
            torch=TORCH_NAMES.get(f"{stem}{ending}", f"{stem}{ending}"),
            config=config_of(f"{stem}Config", **config),
            inputs=functools.partial(tokens, *shape, types=types, encoder=encoder),
            fast=head in fast,
            **fields,
        )
        cases.append(case)
    return tuple(cases)


def bert_like(
    name: str, stem: str, heads: Iterable[str] = COMMON, *, fast: Iterable[str] = (), **options: Any
) -> tuple[Case, ...]:
    """Return the encoder cases of a family built like BERT; one more has its embeddings not tied."""
    sizes = {**SIZES, "type_vocab_size": 2, **options}
    return (
        *family(name, stem, heads, sizes, types=True, fast=fast),
        *family(f"{name}/untied", stem, ("masked-lm",), {**sizes, **UNTIED}, types=True),
    )


def decoders(name: str, stem: str, *, skip_outputs: str = "", **options: Any) -> tuple[Case, ...]:
    """Return the cases of an encoder family's causal class, without and with cross-attention.

    ``skip_outputs`` is about the latter.
    """
    sizes = {**SIZES, "type_vocab_size": 2, **options}
    return (
        *family(name, stem, ("causal-lm",), {**sizes, **DECODER}, types=True),
        *family(
            f"{name}/cross", stem, ("causal-lm",), {**sizes, **CROSS}, types=True, skip_outputs=skip_outputs
        ),
    )


PAIRWISE = ("pre-training", "next-sentence")
NO_POOLING = {"flax_kwargs": {"add_pooling_layer": False}, "torch_kwargs": {"add_pooling_layer": False}}
BERT = {**SIZES, "type_vocab_size": 2}
NARROW = {"embedding_size": 12}
BLOCKS = {"attention_type": "block_sparse", "block_size": 2, "num_random_blocks": 1}
DISTIL = {
    "vocab_size": VOCABULARY,
    "dim": 16,
    "hidden_dim": 24,
    "n_layers": 2,
    "n_heads": 2,
    "max_position_embeddings": 32,
}

ENCODERS = (
    *bert_like("albert", "Albert", (*COMMON, "pre-training"), **NARROW),
    *family(
        "albert/groups",
        "Albert",
        ("model",),
        {**BERT, **NARROW, "num_hidden_layers": 4, "num_hidden_groups": 2, "inner_group_num": 2},
        types=True,
    ),
    *bert_like("bert", "Bert", (*COMMON, *PAIRWISE), fast=("masked-lm",)),
    *decoders("bert", "Bert"),
    *family("bert/no-pooling", "Bert", ("model",), BERT, types=True, **NO_POOLING),
    *bert_like("big-bird", "BigBird", (*COMMON, "pre-training"), attention_type="original_full"),
    *decoders(
        "big-bird",
        "BigBird",
        attention_type="original_full",
        skip_outputs="torch's BigBirdLayer hands the encoder's states to its self-attention, too",
    ),
    *family("big-bird/sparse", "BigBird", ("model", "masked-lm"), {**BERT, **BLOCKS}, types=True, length=32),
    *family("distilbert", "DistilBert", COMMON, DISTIL),
    *family("distilbert/untied", "DistilBert", ("masked-lm",), {**DISTIL, **UNTIED}),
    *family("distilbert/sinusoidal", "DistilBert", ("model",), {**DISTIL, "sinusoidal_pos_embds": True}),
    *bert_like("electra", "Electra", (*COMMON, "pre-training"), fast=("masked-lm",), **NARROW),
    *decoders("electra", "Electra", **NARROW),
    *bert_like("roberta", "Roberta"),
    *decoders("roberta", "Roberta"),
    *bert_like("roberta-prelayernorm", "RobertaPreLayerNorm"),
    *decoders("roberta-prelayernorm", "RobertaPreLayerNorm"),
    *bert_like("roformer", "RoFormer", fast=("model",)),
    *family("roformer/rotary-value", "RoFormer", ("model",), {**BERT, "rotary_value": True}, types=True),
    *bert_like("xlm-roberta", "XLMRoberta"),
    *decoders("xlm-roberta", "XLMRoberta"),
)

CAUSAL = ("model", "causal-lm")
LM = ("model", "LMHeadModel")
GPT2 = {
    "vocab_size": VOCABULARY,
    "n_embd": 16,
    "n_layer": 2,
    "n_head": 2,
    "n_inner": 24,
    "n_positions": 32,
}
NEO = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "num_layers": 2,
    "num_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 32,
    "attention_types": [[["global", "local"], 1]],
    "window_size": 3,
}
GROUPED = {**SIZES, "num_key_value_heads": 1}
BLOOM = {"vocab_size": VOCABULARY, "hidden_size": 16, "n_layer": 2, "n_head": 2}
OPT = {**SIZES, "ffn_dim": 24, "word_embed_proj_dim": 16}
XGLM = {
    "vocab_size": VOCABULARY,
    "d_model": 16,
    "num_layers": 2,
    "attention_heads": 2,
    "ffn_dim": 24,
    "max_position_embeddings": 32,
}
POST_NORM = {"do_layer_norm_before": False}

DECODERS = (
    *family("bloom", "Bloom", CAUSAL, BLOOM),
    *family("bloom/untied", "Bloom", ("causal-lm",), {**BLOOM, **UNTIED}),
    *family("bloom/post", "Bloom", ("model",), {**BLOOM, "apply_residual_connection_post_layernorm": True}),
    *family("gpt2", "GPT2", LM, GPT2),
    *family("gpt2/untied", "GPT2", ("LMHeadModel",), {**GPT2, **UNTIED}),
    *family("gpt2/cross", "GPT2", LM, {**GPT2, "add_cross_attention": True}, fast=("LMHeadModel",)),
    *family("gpt-neo", "GPTNeo", CAUSAL, NEO),
    *family("gpt-neo/untied", "GPTNeo", ("causal-lm",), {**NEO, **UNTIED}),
    *family("gptj", "GPTJ", CAUSAL, {**GPT2, "rotary_dim": 4, **UNTIED}),
    *family("gemma", "Gemma", CAUSAL, {**GROUPED, "head_dim": 10}),
    *family("llama", "Llama", CAUSAL, GROUPED, fast=("causal-lm",)),
    *family("llama/tied", "Llama", ("causal-lm",), {**GROUPED, "tie_word_embeddings": True}),
    *family("llama/biases", "Llama", ("model",), {**GROUPED, "attention_bias": True}),
    *family("mistral", "Mistral", CAUSAL, GROUPED),
    *family(
        "mistral/window",
        "Mistral",
        ("model",),
        {**GROUPED, "sliding_window": 3},
        skip_outputs="FlaxMistralAttention masks with triu(k=-sliding_window): one token more than torch",
    ),
    *family("mistral/tied", "Mistral", ("causal-lm",), {**GROUPED, "tie_word_embeddings": True}),
    *family("opt", "OPT", CAUSAL, OPT),
    *family("opt/untied", "OPT", ("causal-lm",), {**OPT, **UNTIED}),
    *family("opt/projected", "OPT", CAUSAL, {**OPT, "word_embed_proj_dim": 12, **POST_NORM}),
    *family("opt/no-final-norm", "OPT", ("model",), {**OPT, "_remove_final_layer_norm": True}),
    *family("xglm", "XGLM", CAUSAL, XGLM),
    *family("xglm/untied", "XGLM", ("causal-lm",), {**XGLM, **UNTIED}),
)

CASES: tuple[Case, ...] = (*ENCODERS, *DECODERS)
