"""Random weights of Gemma 2 and 3, Llama and Qwen, and what other code bases call them, made name by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

__all__ = [
    "DecoderSizes",
    "deepmind",
    "gemma_weights",
    "llama_weights",
    "released_names",
    "stacked",
    "tunix_gemma",
    "tunix_llama",
]

Weights = dict[str, np.ndarray]


@dataclass(frozen=True)
class DecoderSizes:
    """Sizes of a decoder; heads x head_dim is not its width."""

    layers: int = 3
    vocabulary: int = 41
    width: int = 20
    hidden: int = 50
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 6
    experts: int = 0

    def config(self, model_type: str) -> dict[str, object]:
        """What a config.json has of them."""
        return {
            "model_type": model_type,
            "vocab_size": self.vocabulary,
            "hidden_size": self.width,
            "intermediate_size": self.hidden,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_dim,
        }


class _Random:
    def __init__(self, seed: int = 0) -> None:
        self.generator = np.random.default_rng(seed)

    def __call__(self, *shape: int) -> np.ndarray:
        return self.generator.standard_normal(shape).astype(np.float32)


def _attention(sizes: DecoderSizes, random: _Random) -> Weights:
    rows = {"q": sizes.heads, "k": sizes.kv_heads, "v": sizes.kv_heads}
    made = {f"{x}_proj.weight": random(n * sizes.head_dim, sizes.width) for x, n in rows.items()}
    return {**made, "o_proj.weight": random(sizes.width, sizes.heads * sizes.head_dim)}


def _gated(sizes: DecoderSizes, random: _Random, start: str = "") -> Weights:
    made = {f"{start}{x}_proj.weight": random(sizes.hidden, sizes.width) for x in ("gate", "up")}
    return {**made, f"{start}down_proj.weight": random(sizes.width, sizes.hidden)}


def gemma_weights(sizes: DecoderSizes, family: int, prefix: str = "model.") -> Weights:
    """Return the weights of transformers' Gemma 2 or 3, without the head."""
    random = _Random(family)
    weights = {"embed_tokens.weight": random(sizes.vocabulary, sizes.width), "norm.weight": random(sizes.width)}
    norms = ["input", "post_attention", "pre_feedforward", "post_feedforward"]
    for n in range(sizes.layers):
        layer = {f"self_attn.{name}": value for name, value in _attention(sizes, random).items()}
        layer |= {f"mlp.{name}": value for name, value in _gated(sizes, random).items()}
        layer |= {f"{norm}_layernorm.weight": random(sizes.width) for norm in norms}
        if family == 3:
            layer |= {f"self_attn.{x}_norm.weight": random(sizes.head_dim) for x in "qk"}
        weights |= {f"layers.{n}.{name}": value for name, value in layer.items()}
    return {f"{prefix}{name}": value for name, value in weights.items()}


def llama_weights(sizes: DecoderSizes, kind: str, prefix: str = "model.", *, head: bool = True) -> Weights:
    """Return the weights of transformers' Llama, Qwen 2 (with biases) or Qwen 3 (with norms of heads)."""
    random = _Random(len(kind))
    weights = {"embed_tokens.weight": random(sizes.vocabulary, sizes.width), "norm.weight": random(sizes.width)}
    for n in range(sizes.layers):
        layer = {f"self_attn.{name}": value for name, value in _attention(sizes, random).items()}
        if kind == "qwen2":
            rows = {"q": sizes.heads, "k": sizes.kv_heads, "v": sizes.kv_heads}
            layer |= {f"self_attn.{x}_proj.bias": random(m * sizes.head_dim) for x, m in rows.items()}
        if kind == "qwen3":
            layer |= {f"self_attn.{x}_norm.weight": random(sizes.head_dim) for x in "qk"}
        starts = [f"experts.{e}." for e in range(sizes.experts)] or [""]
        for start in starts:
            layer |= {f"mlp.{name}": value for name, value in _gated(sizes, random, start).items()}
        if sizes.experts:
            layer["mlp.gate.weight"] = random(sizes.experts, sizes.width)
        layer |= {f"{x}_layernorm.weight": random(sizes.width) for x in ("input", "post_attention")}
        weights |= {f"layers.{n}.{name}": value for name, value in layer.items()}
    weights = {f"{prefix}{name}": value for name, value in weights.items()}
    return {**weights, "lm_head.weight": random(sizes.vocabulary, sizes.width)} if head else weights


def _heads_first(weight: np.ndarray, sizes: DecoderSizes) -> np.ndarray:
    """From ``(heads head_dim) width`` to ``heads width head_dim``."""
    return weight.reshape(-1, sizes.head_dim, sizes.width).transpose(0, 2, 1)


def _gemma_attention(layer: Mapping[str, np.ndarray], sizes: DecoderSizes) -> Weights:
    """Return DeepMind's arrays of the attention, which Tunix has as well."""
    q, k, v = (_heads_first(layer[f"self_attn.{x}_proj.weight"], sizes) for x in "qkv")
    equal = sizes.heads == sizes.kv_heads
    made = {"qkv_einsum/w": np.stack((q, k, v))} if equal else {"q_einsum/w": q, "kv_einsum/w": np.stack((k, v))}
    out = layer["self_attn.o_proj.weight"].T
    made["attn_vec_einsum/w"] = out.reshape(sizes.heads, sizes.head_dim, sizes.width)
    for own, other in (("query", "q"), ("key", "k")):
        if f"self_attn.{other}_norm.weight" in layer:
            made[f"_{own}_norm/scale"] = layer[f"self_attn.{other}_norm.weight"]
    return {f"attn/{name}": np.ascontiguousarray(value) for name, value in made.items()}


def _layers(weights: Mapping[str, np.ndarray], sizes: DecoderSizes, prefix: str) -> list[Weights]:
    starts = [f"{prefix}layers.{n}." for n in range(sizes.layers)]
    return [
        {name.removeprefix(start): value for name, value in weights.items() if name.startswith(start)}
        for start in starts
    ]


_GEMMA_NORMS = {
    "pre_attention_norm": "input",
    "post_attention_norm": "post_attention",
    "pre_ffw_norm": "pre_feedforward",
    "post_ffw_norm": "post_feedforward",
}


def deepmind(
    weights: Mapping[str, np.ndarray], sizes: DecoderSizes, *, transposed: bool = True, prefix: str = "model."
) -> Weights:
    """Return the variables of DeepMind's model, without a collection."""
    tree = {
        "embedder/input_embedding": weights[f"{prefix}embed_tokens.weight"],
        "final_norm/scale": weights[f"{prefix}norm.weight"],
    }
    for n, layer in enumerate(_layers(weights, sizes, prefix)):
        made = _gemma_attention(layer, sizes)
        gates = np.stack([layer[f"mlp.{x}_proj.weight"] for x in ("gate", "up")])
        made["mlp/gating_einsum"] = gates if transposed else gates.transpose(0, 2, 1)
        made["mlp/linear"] = layer["mlp.down_proj.weight"].T
        made |= {f"{own}/scale": layer[f"{other}_layernorm.weight"] for own, other in _GEMMA_NORMS.items()}
        tree |= {f"layer_{n}/{name}": np.ascontiguousarray(value) for name, value in made.items()}
    return tree


def released_names(tree: Mapping[str, np.ndarray]) -> Weights:
    """Return variables as the released files call them: with ``w`` below each array of the MLP."""
    ends = ("mlp/linear", "mlp/gating_einsum")
    named = {f"{name}/w" if name.endswith(ends) else name: value for name, value in tree.items()}
    return {f"transformer/{name}": value for name, value in named.items()}


def stacked(tree: Mapping[str, np.ndarray], pattern: int) -> Weights:
    """Return variables with the layers of each place in the pattern stacked."""
    released = released_names(tree)
    made = {name: value for name, value in released.items() if not name.startswith("transformer/layer_")}
    slices: dict[str, dict[int, np.ndarray]] = {}
    for name, value in released.items():
        if name not in made:
            layer, _, rest = name.removeprefix("transformer/layer_").partition("/")
            place, number = int(layer) % pattern, int(layer) // pattern
            slices.setdefault(f"transformer/stacked_layers/attention_type_{place}/{rest}", {})[number] = value
    return made | {name: np.stack([s[n] for n in sorted(s)]) for name, s in slices.items()}


def tunix_gemma(weights: Mapping[str, np.ndarray], sizes: DecoderSizes, family: int) -> Weights:
    """Return the variables of Tunix's Gemma (family 2) or Gemma3."""
    tree = {
        "embedder/input_embedding": weights["model.embed_tokens.weight"],
        "final_norm/scale": weights["model.norm.weight"],
    }
    for n, layer in enumerate(_layers(weights, sizes, "model.")):
        made = _gemma_attention(layer, sizes)
        made |= {f"mlp/{x}_proj/kernel": layer[f"mlp.{x}_proj.weight"].T for x in ("gate", "up", "down")}
        for own, other in _GEMMA_NORMS.items():
            name = "post_attn_norm" if own == "post_attention_norm" and family == 2 else own
            made[f"{name}/scale"] = layer[f"{other}_layernorm.weight"]
        tree |= {f"layers/{n}/{name}": np.ascontiguousarray(value) for name, value in made.items()}
    return tree


def tunix_llama(
    weights: Mapping[str, np.ndarray], sizes: DecoderSizes, prefix: str = "model."
) -> Weights:
    """Return the variables of Tunix's Llama3, Qwen2 or Qwen3."""
    tree = {
        "embedder/input_embedding": weights[f"{prefix}embed_tokens.weight"],
        "final_norm/w": weights[f"{prefix}norm.weight"],
    }
    if "lm_head.weight" in weights:
        tree["lm_head/w"] = weights["lm_head.weight"].T
    for n, layer in enumerate(_layers(weights, sizes, prefix)):
        made = {}
        for x in "qkv":
            heads = _heads_first(layer[f"self_attn.{x}_proj.weight"], sizes)
            made[f"attn/{x}_proj/w"] = heads.transpose(1, 0, 2)
            if f"self_attn.{x}_proj.bias" in layer:
                made[f"attn/{x}_bias"] = layer[f"self_attn.{x}_proj.bias"]
            if f"self_attn.{x}_norm.weight" in layer:
                made[f"attn/{x}_norm/w"] = layer[f"self_attn.{x}_norm.weight"]
        out = layer["self_attn.o_proj.weight"].T
        made["attn/o_proj/w"] = out.reshape(sizes.heads, sizes.head_dim, sizes.width)
        for x in ("gate", "up", "down"):
            if sizes.experts:
                every = [layer[f"mlp.experts.{e}.{x}_proj.weight"].T for e in range(sizes.experts)]
                made[f"mlp/{x}_proj"] = np.stack(every)
            else:
                made[f"mlp/{x}_proj/kernel"] = layer[f"mlp.{x}_proj.weight"].T
        if sizes.experts:
            made["mlp/router/kernel"] = layer["mlp.gate.weight"].T
        made |= {f"{x}_layernorm/w": layer[f"{x}_layernorm.weight"] for x in ("input", "post_attention")}
        tree |= {f"layers/{n}/{name}": np.ascontiguousarray(value) for name, value in made.items()}
    return {name: np.ascontiguousarray(value) for name, value in tree.items()}
