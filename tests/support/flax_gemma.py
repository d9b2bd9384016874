"""Gemma 3's text model in Linen, with the names and the mathematics of DeepMind's code."""

from dataclasses import dataclass

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

__all__ = ["GemmaSizes", "LinenGemma"]

ALL_BUT_ONE = 6
"""One layer of so many sees everything; the others see a window."""


@dataclass(frozen=True)
class GemmaSizes:
    """Sizes of a model.

    Args:
        transposed: Whether the gates are stored as ``2 hidden width``; as ``2 width hidden`` if not.
    """

    vocabulary: int
    width: int
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    window: int
    transposed: bool = True


class Weight(nn.Module):
    """One parameter, below the module's name."""

    shape: tuple
    leaf: str = "w"

    @nn.compact
    def __call__(self):
        return self.param(self.leaf, nn.initializers.normal(), self.shape)


def normal(x, scale):
    return x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + 1e-6) * (1 + scale)


def rms(name, x):
    return normal(x, Weight(x.shape[-1:], "scale", name=name)())


def rotated(x, base):
    """Rotate halves of ``(batch, place, heads, size)`` by angles that grow with the place."""
    half = x.shape[-1] // 2
    angles = np.arange(x.shape[1])[:, None] / base ** (np.arange(half) / half)
    sine, cosine = (jnp.asarray(f(angles), x.dtype)[:, None] for f in (np.sin, np.cos))
    first, second = x[..., :half], x[..., half:]
    return jnp.concatenate((first * cosine - second * sine, second * cosine + first * sine), -1)


class Attention(nn.Module):
    sizes: GemmaSizes
    sees_all: bool

    @nn.compact
    def __call__(self, x):
        s = self.sizes
        if s.heads == s.kv_heads:
            qkv = Weight((3, s.heads, s.width, s.head_dim), name="qkv_einsum")()
            q, k, v = jnp.einsum("btd,sndh->sbtnh", x, qkv)
        else:
            q = jnp.einsum("btd,ndh->btnh", x, Weight((s.heads, s.width, s.head_dim), name="q_einsum")())
            kv = Weight((2, s.kv_heads, s.width, s.head_dim), name="kv_einsum")()
            k, v = jnp.einsum("btd,sndh->sbtnh", x, kv)
        base = 1e6 if self.sees_all else 1e4
        q, k = rotated(rms("_query_norm", q), base), rotated(rms("_key_norm", k), base)
        k, v = (jnp.repeat(y, s.heads // s.kv_heads, 2) for y in (k, v))
        scores = jnp.einsum("btnh,bsnh->bnts", q * s.head_dim**-0.5, k)
        back = np.arange(x.shape[1])[:, None] - np.arange(x.shape[1])
        seen = (back >= 0) & (self.sees_all | (back < s.window))
        mixed = jnp.einsum("bnts,bsnh->btnh", nn.softmax(jnp.where(seen, scores, -1e30)), v)
        return jnp.einsum(
            "btnh,nhd->btd", mixed, Weight((s.heads, s.head_dim, s.width), name="attn_vec_einsum")()
        )


class FeedForward(nn.Module):
    sizes: GemmaSizes

    @nn.compact
    def __call__(self, x):
        width, hidden, transposed = self.sizes.width, self.sizes.hidden, self.sizes.transposed
        shape = (2, hidden, width) if transposed else (2, width, hidden)
        gates = self.param("gating_einsum", nn.initializers.normal(), shape)
        gate, up = jnp.einsum("btd,sfd->sbtf" if transposed else "btd,sdf->sbtf", x, gates)
        return (nn.gelu(gate) * up) @ self.param("linear", nn.initializers.normal(), (hidden, width))


class Block(nn.Module):
    sizes: GemmaSizes
    sees_all: bool

    @nn.compact
    def __call__(self, x):
        y = Attention(self.sizes, self.sees_all, name="attn")(rms("pre_attention_norm", x))
        x = x + rms("post_attention_norm", y)
        y = FeedForward(self.sizes, name="mlp")(rms("pre_ffw_norm", x))
        return x + rms("post_ffw_norm", y)


class LinenGemma(nn.Module):
    """Takes tokens ``(batch, length)``; returns logits."""

    sizes: GemmaSizes

    @nn.compact
    def __call__(self, tokens):
        s = self.sizes
        table = Weight((s.vocabulary, s.width), "input_embedding", name="embedder")()
        x = table[tokens] * s.width**0.5
        for n in range(s.layers):
            x = Block(s, (n + 1) % ALL_BUT_ONE == 0, name=f"layer_{n}")(x)
        return rms("final_norm", x) @ table.T
