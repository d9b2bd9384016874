"""The decoder of `proof_transformers` in NNX."""

import jax
import jax.numpy as jnp
from flax import nnx

from support.proof_transformers import DECODER
from support.proof_transformers_linen import decoder_core

__all__ = ["NnxDecoder"]


class RMSNorm(nnx.Module):
    def __init__(self, width, epsilon, mistake):
        self.weight = nnx.Param(jnp.zeros(width))
        self.epsilon, self.mistake = epsilon, mistake

    def __call__(self, x):
        if self.mistake == "layer_norm":
            x = x - x.mean(-1, keepdims=True)
        scale = self.weight[...] if self.mistake == "one_plus_missing" else 1 + self.weight[...]
        return x * jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + self.epsilon) * scale


class DecoderAttention(nnx.Module):
    def __init__(self, s, mistake, rngs):
        self.sizes, self.mistake = s, mistake
        self.q_proj = nnx.Linear(s.width, s.heads * s.head_dim, use_bias=False, rngs=rngs)
        self.k_proj = nnx.Linear(s.width, s.kv_heads * s.head_dim, use_bias=False, rngs=rngs)
        self.v_proj = nnx.Linear(s.width, s.kv_heads * s.head_dim, use_bias=False, rngs=rngs)
        self.o_proj = nnx.Linear(s.heads * s.head_dim, s.width, use_bias=False, rngs=rngs)

    def __call__(self, x):
        q, k, v = self.q_proj(x), self.k_proj(x), self.v_proj(x)
        return self.o_proj(decoder_core(q, k, v, self.sizes, self.mistake))


class DecoderBlock(nnx.Module):
    def __init__(self, s, mistake, rngs):
        self.mistake = mistake
        epsilon = 1e-3 if mistake == "epsilon" else s.epsilon
        self.attention_norm = RMSNorm(s.width, epsilon, mistake)
        self.attention = DecoderAttention(s, mistake, rngs)
        self.mlp_norm = RMSNorm(s.width, epsilon, mistake)
        self.gate = nnx.Linear(s.width, s.hidden, use_bias=False, rngs=rngs)
        self.up = nnx.Linear(s.width, s.hidden, use_bias=False, rngs=rngs)
        self.down = nnx.Linear(s.hidden, s.width, use_bias=False, rngs=rngs)

    def mlp(self, x):
        gate, up = self.gate(x), self.up(x)
        if self.mistake == "gate_swapped":
            gate, up = up, gate
        f = (lambda y: nnx.gelu(y, approximate=False)) if self.mistake == "activation" else nnx.silu
        return self.down(f(gate) * up)

    def __call__(self, x):
        if self.mistake == "post_norm":
            x = self.attention_norm(x + self.attention(x))
            return self.mlp_norm(x + self.mlp(x))
        y = self.attention(self.attention_norm(x))
        x = x + (0.5 * y if self.mistake == "residual_scale" else y)
        return x + self.mlp(self.mlp_norm(x))


class NnxDecoder(nnx.Module):
    """Takes ids ``(batch, length)``; returns logits."""

    def __init__(self, sizes=DECODER, mistake=None, rngs=None):
        s = self.sizes = sizes
        rngs = nnx.Rngs(0) if rngs is None else rngs
        self.mistake = mistake
        self.tokens = nnx.Embed(s.vocabulary, s.width, rngs=rngs)
        self.blocks = nnx.List([DecoderBlock(s, mistake, rngs) for _ in range(s.layers)])
        self.norm = RMSNorm(s.width, 1e-3 if mistake == "epsilon" else s.epsilon, mistake)
        if not s.tied or mistake == "untied":
            self.head = nnx.Linear(s.width, s.vocabulary, use_bias=False, rngs=rngs)

    def __call__(self, ids):
        x = self.tokens(ids)
        if self.mistake != "embedding_scale":
            x = x * self.sizes.width**0.5
        for block in self.blocks:
            x = block(x)
        y = x if self.mistake == "final_norm_missing" else self.norm(x)
        return self.head(y) if hasattr(self, "head") else self.tokens.attend(y)
