"""The encoder and the decoder of `proof_transformers` in torch."""

import torch
from torch import nn

from support.proof_transformers import DECODER, ENCODER

__all__ = ["TorchDecoder", "TorchEncoder"]


def linear(into, out, bias, mistake):
    return TransposedLinear(into, out, bias) if mistake == "transposed_weight" else nn.Linear(into, out, bias)


class TransposedLinear(nn.Linear):
    def forward(self, x):
        return nn.functional.linear(x, self.weight.T, self.bias)


def split(x, heads, mistake):
    """Return ``(batch, heads, length, head_dim)``."""
    batch, length, n = x.shape
    if mistake == "head_order":
        return x.view(batch, length, n // heads, heads).permute(0, 3, 1, 2)
    return x.view(batch, length, heads, n // heads).transpose(1, 2)


def merge(x, mistake):
    batch, heads, length, size = x.shape
    if mistake == "merge_order":
        return x.reshape(batch, length, heads * size)
    if mistake == "head_order":
        return x.permute(0, 2, 3, 1).reshape(batch, length, heads * size)
    return x.transpose(1, 2).reshape(batch, length, heads * size)


def attend(q, k, v, scale, seen, mistake, softcap=None):
    if mistake == "qk_swapped":
        q, k = k, q
    logits = q @ k.transpose(-1, -2) * scale
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    if mistake == "mask_added" and seen is not None:
        logits = logits + seen.to(logits.dtype)
    elif seen is not None:
        logits = logits.masked_fill(~seen, torch.finfo(logits.dtype).min)
    dtype = logits.dtype
    if mistake == "softmax_dtype":
        logits = logits.to(torch.bfloat16)
    weights = torch.softmax(logits, 2 if mistake == "softmax_axis" else -1).to(dtype)
    if mistake == "attention_dropout":
        weights = torch.dropout(weights, 0.2, True)
    return weights @ v


class EncoderAttention(nn.Module):
    def __init__(self, s, mistake):
        super().__init__()
        self.heads, self.mistake = s.heads, mistake
        self.query, self.key, self.value = (nn.Linear(s.width, s.width) for _ in range(3))
        self.out = linear(s.width, s.width, True, mistake)

    def forward(self, x, mask):
        heads = self.heads // 2 if self.mistake == "head_count" else self.heads
        q, k, v = (split(f(x), heads, self.mistake) for f in (self.query, self.key, self.value))
        scale = {"attention_scale": 1 / q.shape[-1], "scale_missing": 1.0}.get(
            self.mistake, q.shape[-1] ** -0.5
        )
        seen = None if self.mistake == "mask_missing" else (mask != 0)[:, None, None]
        if self.mistake == "mask_sign":
            seen = ~seen
        if self.mistake == "causal_on":
            seen = seen & torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).tril()
        return self.out(merge(attend(q, k, v, scale, seen, self.mistake), self.mistake))


class EncoderBlock(nn.Module):
    def __init__(self, s, mistake):
        super().__init__()
        self.mistake = mistake
        epsilon = 1e-3 if mistake == "epsilon" else s.epsilon
        self.attention = EncoderAttention(s, mistake)
        self.attention_norm = nn.LayerNorm(s.width, epsilon)
        self.up = nn.Linear(s.width, s.hidden)
        self.down = nn.Linear(s.hidden, s.width)
        self.mlp_norm = nn.LayerNorm(s.width, epsilon)

    def mlp(self, x):
        x = self.up(x)
        if self.mistake == "relu":
            return self.down(torch.relu(x))
        return self.down(nn.functional.gelu(x, approximate="tanh" if self.mistake == "gelu" else "none"))

    def forward(self, x, mask):
        if self.mistake == "pre_norm":
            x = x + self.attention(self.attention_norm(x), mask)
            return x + self.mlp(self.mlp_norm(x))
        y = self.attention(x, mask)
        if self.mistake == "residual_scale":
            y = y * 0.5
        if self.mistake == "dropout":
            y = torch.dropout(y, 0.2, True)
        x = self.attention_norm(y if self.mistake == "residual_missing" else x + y)
        return self.mlp_norm(x + self.mlp(x))


class TorchEncoder(nn.Module):
    """Takes ids and a mask ``(batch, length)``; returns ``(batch, classes)``."""

    def __init__(self, sizes=ENCODER, mistake=None):
        super().__init__()
        s = self.sizes = sizes
        self.mistake = mistake
        self.tokens = nn.Embedding(s.vocabulary, s.width)
        self.positions = nn.Embedding(s.longest, s.width)
        self.norm = nn.LayerNorm(s.width, 1e-3 if mistake == "epsilon" else s.epsilon)
        self.blocks = nn.ModuleList(EncoderBlock(s, mistake) for _ in range(s.layers))
        self.head = nn.Linear(s.width, s.classes)

    def forward(self, ids, mask):
        x = self.tokens(ids)
        if self.mistake == "embedding_scale":
            x = x * self.sizes.width**0.5
        places = torch.arange(ids.shape[1]) + (2 if self.mistake == "position_offset" else 0)
        added = self.positions(places)
        x = self.norm(x if self.mistake == "position_missing" else x + added)
        for block in self.blocks:
            x = block(x, mask)
        return self.head(x[:, 0])


class RMSNorm(nn.Module):
    def __init__(self, width, epsilon, mistake):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(width))
        self.epsilon, self.mistake = epsilon, mistake

    def forward(self, x):
        if self.mistake == "layer_norm":
            x = x - x.mean(-1, keepdim=True)
        scale = self.weight if self.mistake == "one_plus_missing" else 1 + self.weight
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.epsilon) * scale


def rotate(x, theta, mistake, offset=0):
    """Rotate ``(batch, heads, length, head_dim)``."""
    size = x.shape[-1] // 2 if mistake == "rotary_partial" else x.shape[-1]
    x, rest = x[..., :size], x[..., size:]
    places = torch.arange(x.shape[2], dtype=x.dtype) + offset
    angles = places[:, None] * theta ** (-torch.arange(0, size, 2, dtype=x.dtype) / size)
    cosine, sine = angles.cos(), angles.sin()
    if mistake == "rotary_sign":
        sine = -sine
    if mistake == "rotary_layout":
        a, b = x[..., 0::2], x[..., 1::2]
        return torch.stack((a * cosine - b * sine, b * cosine + a * sine), -1).flatten(-2)
    a, b = x.chunk(2, -1)
    return torch.cat((a * cosine - b * sine, b * cosine + a * sine, rest), -1)


class DecoderAttention(nn.Module):
    def __init__(self, s, mistake):
        super().__init__()
        self.sizes, self.mistake = s, mistake
        self.q_proj = nn.Linear(s.width, s.heads * s.head_dim, bias=False)
        self.k_proj = nn.Linear(s.width, s.kv_heads * s.head_dim, bias=False)
        self.v_proj = nn.Linear(s.width, s.kv_heads * s.head_dim, bias=False)
        self.o_proj = nn.Linear(s.heads * s.head_dim, s.width, bias=False)

    def forward(self, x):
        s, mistake = self.sizes, self.mistake
        q = split(self.q_proj(x), s.heads, mistake)
        k = split(self.k_proj(x), s.kv_heads, mistake)
        v = split(self.v_proj(x), s.kv_heads, mistake)
        theta = 5e5 if mistake == "rotary_theta" else s.theta
        if mistake != "rotary_missing":
            q = rotate(q, theta, mistake, 1 if mistake == "query_offset" else 0)
            if mistake != "rotary_queries":
                k = rotate(k, theta, mistake)
        times = s.heads // s.kv_heads
        if mistake == "kv_tile":
            k, v = (y.repeat(1, times, 1, 1) for y in (k, v))
        else:
            k, v = (y.repeat_interleave(times, 1) for y in (k, v))
        back = torch.arange(x.shape[1])[:, None] - torch.arange(x.shape[1])
        window = {"window": s.window + 1, "window_missing": 1000}.get(mistake, s.window)
        ahead = {"causal_off": 1000, "mask_shift": 1}.get(mistake, 0)
        seen = (back >= -ahead) & (back < window)
        scale = {"attention_scale": 1.0, "width_scale": s.width**-0.5}.get(mistake, s.head_dim**-0.5)
        softcap = 20.0 if mistake == "softcap" else None
        return self.o_proj(merge(attend(q, k, v, scale, seen, mistake, softcap), mistake))


class DecoderBlock(nn.Module):
    def __init__(self, s, mistake):
        super().__init__()
        self.mistake = mistake
        epsilon = 1e-3 if mistake == "epsilon" else s.epsilon
        self.attention_norm = RMSNorm(s.width, epsilon, mistake)
        self.attention = DecoderAttention(s, mistake)
        self.mlp_norm = RMSNorm(s.width, epsilon, mistake)
        self.gate = nn.Linear(s.width, s.hidden, bias=False)
        self.up = nn.Linear(s.width, s.hidden, bias=False)
        self.down = nn.Linear(s.hidden, s.width, bias=False)

    def mlp(self, x):
        gate, up = self.gate(x), self.up(x)
        if self.mistake == "gate_swapped":
            gate, up = up, gate
        f = nn.functional.gelu if self.mistake == "activation" else nn.functional.silu
        return self.down(f(gate) * up)

    def forward(self, x):
        if self.mistake == "post_norm":
            x = self.attention_norm(x + self.attention(x))
            return self.mlp_norm(x + self.mlp(x))
        y = self.attention(self.attention_norm(x))
        x = x + (0.5 * y if self.mistake == "residual_scale" else y)
        return x + self.mlp(self.mlp_norm(x))


class TorchDecoder(nn.Module):
    """Takes ids ``(batch, length)``; returns logits."""

    def __init__(self, sizes=DECODER, mistake=None):
        super().__init__()
        s = self.sizes = sizes
        self.mistake = mistake
        self.tokens = nn.Embedding(s.vocabulary, s.width)
        self.blocks = nn.ModuleList(DecoderBlock(s, mistake) for _ in range(s.layers))
        self.norm = RMSNorm(s.width, 1e-3 if mistake == "epsilon" else s.epsilon, mistake)
        self.head = nn.Linear(s.width, s.vocabulary, bias=False)
        if s.tied and mistake != "untied":
            self.head.weight = self.tokens.weight

    def forward(self, ids):
        x = self.tokens(ids)
        if self.mistake != "embedding_scale":
            x = x * self.sizes.width**0.5
        for block in self.blocks:
            x = block(x)
        return self.head(x if self.mistake == "final_norm_missing" else self.norm(x))
