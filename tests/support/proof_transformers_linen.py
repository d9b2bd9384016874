"""The encoder and the decoder of `proof_transformers` in Linen."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from support.proof_transformers import DECODER, ENCODER, DecoderSizes, EncoderSizes

__all__ = ["LinenDecoder", "LinenEncoder", "attend", "decoder_mask", "merge", "rotate", "split"]


def split(x, heads, mistake):
    """Return ``(batch, length, heads, head_dim)``."""
    batch, length, n = x.shape
    if mistake == "head_order":
        return x.reshape(batch, length, n // heads, heads).swapaxes(2, 3)
    return x.reshape(batch, length, heads, n // heads)


def merge(x, mistake):
    batch, length, heads, size = x.shape
    if mistake == "merge_order":
        return x.swapaxes(1, 2).reshape(batch, length, heads * size)
    if mistake == "head_order":
        return x.swapaxes(2, 3).reshape(batch, length, heads * size)
    return x.reshape(batch, length, heads * size)


def attend(q, k, v, scale, seen, mistake, softcap=None, key=None):
    if mistake == "qk_swapped":
        q, k = k, q
    logits = jnp.einsum("bthd,bshd->bhts", q, k) * scale
    if softcap is not None:
        logits = softcap * jnp.tanh(logits / softcap)
    if mistake == "mask_added" and seen is not None:
        logits = logits + seen.astype(logits.dtype)
    elif seen is not None:
        logits = jnp.where(seen, logits, jnp.finfo(logits.dtype).min)
    dtype = logits.dtype
    if mistake == "softmax_dtype":
        logits = logits.astype(jnp.bfloat16)
    weights = jax.nn.softmax(logits, 2 if mistake == "softmax_axis" else -1).astype(dtype)
    if mistake == "attention_dropout":
        key = jax.random.key(7) if key is None else key
        weights = jnp.where(jax.random.bernoulli(key, 0.8, weights.shape), weights / 0.8, 0)
    return jnp.einsum("bhts,bshd->bthd", weights, v)


def transposed_product(x, kernel, *_, **__):
    return x @ kernel.T


class EncoderAttention(nn.Module):
    sizes: EncoderSizes
    mistake: str | None

    @nn.compact
    def __call__(self, x, mask):
        width, mistake = self.sizes.width, self.mistake
        heads = self.sizes.heads // (2 if mistake == "head_count" else 1)
        q, k, v = (split(nn.Dense(width, name=n)(x), heads, mistake) for n in ("query", "key", "value"))
        scale = {"attention_scale": 1 / q.shape[-1], "scale_missing": 1.0}.get(mistake, q.shape[-1] ** -0.5)
        seen = None if mistake == "mask_missing" else (mask != 0)[:, None, None]
        if mistake == "mask_sign":
            seen = ~seen
        if mistake == "causal_on":
            seen = seen & jnp.tril(jnp.ones((x.shape[1], x.shape[1]), bool))
        y = merge(attend(q, k, v, scale, seen, mistake), mistake)
        product = transposed_product if mistake == "transposed_weight" else None
        return nn.Dense(width, dot_general=product, name="out")(y)


class EncoderBlock(nn.Module):
    sizes: EncoderSizes
    mistake: str | None

    def setup(self):
        s = self.sizes
        epsilon = 1e-3 if self.mistake == "epsilon" else s.epsilon
        self.attention = EncoderAttention(s, self.mistake)
        self.attention_norm = nn.LayerNorm(epsilon=epsilon)
        self.up = nn.Dense(s.hidden)
        self.down = nn.Dense(s.width)
        self.mlp_norm = nn.LayerNorm(epsilon=epsilon)

    def mlp(self, x):
        x = self.up(x)
        if self.mistake == "relu":
            return self.down(nn.relu(x))
        return self.down(nn.gelu(x, approximate=self.mistake == "gelu"))

    def __call__(self, x, mask):
        if self.mistake == "pre_norm":
            x = x + self.attention(self.attention_norm(x), mask)
            return x + self.mlp(self.mlp_norm(x))
        y = self.attention(x, mask)
        if self.mistake == "residual_scale":
            y = y * 0.5
        if self.mistake == "dropout":
            y = jnp.where(jax.random.bernoulli(jax.random.key(3), 0.8, y.shape), y / 0.8, 0)
        x = self.attention_norm(y if self.mistake == "residual_missing" else x + y)
        return self.mlp_norm(x + self.mlp(x))


class LinenEncoder(nn.Module):
    """Takes ids and a mask ``(batch, length)``; returns ``(batch, classes)``."""

    sizes: EncoderSizes = ENCODER
    mistake: str | None = None

    @nn.compact
    def __call__(self, ids, mask):
        s, mistake = self.sizes, self.mistake
        x = nn.Embed(s.vocabulary, s.width, name="tokens")(ids)
        if mistake == "embedding_scale":
            x = x * s.width**0.5
        places = jnp.arange(ids.shape[1]) + (2 if mistake == "position_offset" else 0)
        added = nn.Embed(s.longest, s.width, name="positions")(places)
        x = x if mistake == "position_missing" else x + added
        x = nn.LayerNorm(epsilon=1e-3 if mistake == "epsilon" else s.epsilon, name="norm")(x)
        for n in range(s.layers):
            x = EncoderBlock(s, mistake, name=f"blocks_{n}")(x, mask)
        return nn.Dense(s.classes, name="head")(x[:, 0])


class RMSNorm(nn.Module):
    epsilon: float
    mistake: str | None

    @nn.compact
    def __call__(self, x):
        weight = self.param("weight", nn.initializers.zeros, x.shape[-1:])
        if self.mistake == "layer_norm":
            x = x - x.mean(-1, keepdims=True)
        scale = weight if self.mistake == "one_plus_missing" else 1 + weight
        return x * jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + self.epsilon) * scale


def rotate(x, theta, mistake, offset=0):
    """Rotate ``(batch, length, heads, head_dim)``."""
    size = x.shape[-1] // 2 if mistake == "rotary_partial" else x.shape[-1]
    x, rest = x[..., :size], x[..., size:]
    places = jnp.arange(x.shape[1], dtype=x.dtype) + offset
    angles = places[:, None] * theta ** (-jnp.arange(0, size, 2, dtype=x.dtype) / size)
    cosine, sine = jnp.cos(angles)[:, None], jnp.sin(angles)[:, None]
    if mistake == "rotary_sign":
        sine = -sine
    if mistake == "rotary_layout":
        a, b = x[..., 0::2], x[..., 1::2]
        return jnp.stack((a * cosine - b * sine, b * cosine + a * sine), -1).reshape(x.shape)
    a, b = jnp.split(x, 2, -1)
    return jnp.concatenate((a * cosine - b * sine, b * cosine + a * sine, rest), -1)


def decoder_mask(length, s, mistake):
    """Return what each position sees, bool ``(length, length)``."""
    back = jnp.arange(length)[:, None] - jnp.arange(length)
    window = {"window": s.window + 1, "window_missing": 1000}.get(mistake, s.window)
    ahead = {"causal_off": 1000, "mask_shift": 1}.get(mistake, 0)
    return (back >= -ahead) & (back < window)


def decoder_core(q, k, v, s, mistake):
    """Return the heads' outputs joined, of projections ``(batch, length, n)``."""
    length = q.shape[1]
    q, k, v = (split(y, n, mistake) for y, n in ((q, s.heads), (k, s.kv_heads), (v, s.kv_heads)))
    theta = 5e5 if mistake == "rotary_theta" else s.theta
    if mistake != "rotary_missing":
        q = rotate(q, theta, mistake, 1 if mistake == "query_offset" else 0)
        if mistake != "rotary_queries":
            k = rotate(k, theta, mistake)
    times = s.heads // s.kv_heads
    if mistake == "kv_tile":
        k, v = (jnp.tile(y, (1, 1, times, 1)) for y in (k, v))
    else:
        k, v = (jnp.repeat(y, times, 2) for y in (k, v))
    scale = {"attention_scale": 1.0, "width_scale": s.width**-0.5}.get(mistake, s.head_dim**-0.5)
    softcap = 20.0 if mistake == "softcap" else None
    return merge(attend(q, k, v, scale, decoder_mask(length, s, mistake), mistake, softcap), mistake)


class DecoderAttention(nn.Module):
    sizes: DecoderSizes
    mistake: str | None

    @nn.compact
    def __call__(self, x):
        s = self.sizes
        q = nn.Dense(s.heads * s.head_dim, use_bias=False, name="q_proj")(x)
        k = nn.Dense(s.kv_heads * s.head_dim, use_bias=False, name="k_proj")(x)
        v = nn.Dense(s.kv_heads * s.head_dim, use_bias=False, name="v_proj")(x)
        y = decoder_core(q, k, v, s, self.mistake)
        return nn.Dense(s.width, use_bias=False, name="o_proj")(y)


class DecoderBlock(nn.Module):
    sizes: DecoderSizes
    mistake: str | None

    def setup(self):
        s = self.sizes
        epsilon = 1e-3 if self.mistake == "epsilon" else s.epsilon
        self.attention_norm = RMSNorm(epsilon, self.mistake)
        self.attention = DecoderAttention(s, self.mistake)
        self.mlp_norm = RMSNorm(epsilon, self.mistake)
        self.gate = nn.Dense(s.hidden, use_bias=False)
        self.up = nn.Dense(s.hidden, use_bias=False)
        self.down = nn.Dense(s.width, use_bias=False)

    def mlp(self, x):
        gate, up = self.gate(x), self.up(x)
        if self.mistake == "gate_swapped":
            gate, up = up, gate
        f = (lambda y: nn.gelu(y, approximate=False)) if self.mistake == "activation" else nn.silu
        return self.down(f(gate) * up)

    def __call__(self, x):
        if self.mistake == "post_norm":
            x = self.attention_norm(x + self.attention(x))
            return self.mlp_norm(x + self.mlp(x))
        y = self.attention(self.attention_norm(x))
        x = x + (0.5 * y if self.mistake == "residual_scale" else y)
        return x + self.mlp(self.mlp_norm(x))


class LinenDecoder(nn.Module):
    """Takes ids ``(batch, length)``; returns logits."""

    sizes: DecoderSizes = DECODER
    mistake: str | None = None

    @nn.compact
    def __call__(self, ids):
        s, mistake = self.sizes, self.mistake
        tokens = nn.Embed(s.vocabulary, s.width, name="tokens")
        x = tokens(ids)
        if mistake != "embedding_scale":
            x = x * s.width**0.5
        for n in range(s.layers):
            x = DecoderBlock(s, mistake, name=f"blocks_{n}")(x)
        y = RMSNorm(1e-3 if mistake == "epsilon" else s.epsilon, mistake, name="norm")(x)
        y = x if mistake == "final_norm_missing" else y
        if s.tied and mistake != "untied":
            return tokens.attend(y)
        return nn.Dense(s.vocabulary, use_bias=False, name="head")(y)
