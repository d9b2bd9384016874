"""A small Mamba2 of transformers, and its weights under mamba2-jax's names."""

import numpy as np
import transformers

from support.rule_proofs import randomised

__all__ = ["by_hand", "model", "SIZES"]

SIZES = {
    "vocab_size": 41,
    "hidden_size": 24,
    "state_size": 9,
    "head_dim": 8,
    "num_heads": 6,
    "num_hidden_layers": 3,
    "conv_kernel": 4,
    "chunk_size": 4,
    "n_groups": 1,
}


def model():
    """Return the model, all its weights random, and its head not tied to the embedding."""
    return randomised(
        transformers.Mamba2ForCausalLM(transformers.Mamba2Config(**SIZES, tie_word_embeddings=False))
    )


def by_hand(weights):
    """Return the state of mamba2-jax's model, name by name."""
    tree = {
        "backbone/embedder/embedding": weights["backbone.embeddings.weight"],
        "backbone/final_norm/weight": weights["backbone.norm_f.weight"],
    }
    if "lm_head.weight" in weights:
        tree["lm_head/kernel"] = weights["lm_head.weight"].T
    for n in range(SIZES["num_hidden_layers"]):
        old, new = f"backbone.layers.{n}", f"backbone/layers/{n}"
        tree[f"{new}/norm/weight"] = weights[f"{old}.norm.weight"]
        tree[f"{new}/mixer/norm/weight"] = weights[f"{old}.mixer.norm.weight"]
        for leaf in ("A_log", "D", "dt_bias"):
            tree[f"{new}/mixer/{leaf}"] = weights[f"{old}.mixer.{leaf}"]
        for leaf in ("in_proj", "out_proj"):
            tree[f"{new}/mixer/{leaf}/kernel"] = weights[f"{old}.mixer.{leaf}.weight"].T
        tree[f"{new}/mixer/conv1d/conv/kernel"] = weights[f"{old}.mixer.conv1d.weight"].transpose(2, 1, 0)
        tree[f"{new}/mixer/conv1d/conv/bias"] = weights[f"{old}.mixer.conv1d.bias"]
    return {name: np.ascontiguousarray(value) for name, value in tree.items()}
