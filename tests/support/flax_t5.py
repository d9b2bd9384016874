"""T5 in Linen with the names and shapes of T5X: a set of weights for each layer, or scanned layers."""

from dataclasses import dataclass

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

__all__ = ["LinenT5", "T5Sizes"]

_BUCKETS = 32


@dataclass(frozen=True)
class T5Sizes:
    """What a model is made of. With ``scan`` heads are an axis, and every layer has a position bias.

    ``farthest`` and ``scale`` (of the logits) are T5's own where they are not given.
    """

    vocabulary: int
    width: int
    depth: int
    hidden: int
    encoder: int
    decoder: int
    heads: int
    gated: bool
    tied: bool
    scan: bool
    farthest: int = 128
    scale: float = 1.0


def buckets(queries, keys, farthest, *, both_sides):
    """Return the number of the distance's bucket for each query and key: exact near by, logarithmic afar."""
    distance = np.arange(keys)[None] - np.arange(queries)[:, None]
    number = _BUCKETS // 2 if both_sides else _BUCKETS
    start = np.where(distance > 0, number, 0) if both_sides else 0
    back = np.abs(distance) if both_sides else np.maximum(-distance, 0)
    exact = number // 2
    with np.errstate(divide="ignore"):
        afar = np.log(back.astype(np.float32) / exact) / np.log(farthest / exact)
    far = exact + np.maximum(afar * (number - exact), 0).astype(int)
    return start + np.where(back < exact, back, np.minimum(far, number - 1))


class Norm(nn.Module):
    @nn.compact
    def __call__(self, x):
        scale = self.param("scale", nn.initializers.ones, x.shape[-1:])
        return x / jnp.sqrt(jnp.mean(x * x, axis=-1, keepdims=True) + 1e-6) * scale


class Linear(nn.Module):
    """A product over the last axes of the input. T5X stores a matrix, unless layers are scanned."""

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    matrix: bool = True

    @nn.compact
    def __call__(self, x):
        shape = (*self.inputs, *self.outputs)
        stored = (int(np.prod(self.inputs)), int(np.prod(self.outputs))) if self.matrix else shape
        kernel = self.param("kernel", nn.initializers.normal(0.2), stored).reshape(shape)
        return jnp.tensordot(x, kernel, axes=len(self.inputs))


class PositionBias(nn.Module):
    sizes: T5Sizes
    both_sides: bool

    @nn.compact
    def __call__(self, queries, keys):
        table = self.param("rel_embedding", nn.initializers.normal(), (self.sizes.heads, _BUCKETS))
        return table[:, buckets(queries, keys, self.sizes.farthest, both_sides=self.both_sides)]


class Attention(nn.Module):
    sizes: T5Sizes

    @nn.compact
    def __call__(self, x, context, bias):
        sizes = self.sizes
        wide, split = (sizes.width,), (sizes.heads, sizes.depth)
        into = [Linear(wide, split, not sizes.scan, name=name) for name in ("query", "key", "value")]
        query, key, value = (make(source) for make, source in zip(into, (x, context, context), strict=True))
        scores = jnp.einsum("bqhd,bkhd->bhqk", query, key) * sizes.scale + bias
        mixed = jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores), value)
        return Linear(split, wide, not sizes.scan, name="out")(mixed)


class MLP(nn.Module):
    sizes: T5Sizes

    @nn.compact
    def __call__(self, x):
        wide, hidden = (self.sizes.width,), (self.sizes.hidden,)
        if self.sizes.gated:
            y = nn.gelu(Linear(wide, hidden, name="wi_0")(x)) * Linear(wide, hidden, name="wi_1")(x)
        else:
            y = nn.relu(Linear(wide, hidden, name="wi")(x))
        return Linear(hidden, wide, name="wo")(y)


class EncoderLayer(nn.Module):
    sizes: T5Sizes

    @nn.compact
    def __call__(self, x, bias):
        if self.sizes.scan:
            bias = PositionBias(self.sizes, True, name="relpos_bias")(x.shape[1], x.shape[1])
        y = Norm(name="pre_attention_layer_norm")(x)
        x = x + Attention(self.sizes, name="attention")(y, y, bias)
        return x + MLP(self.sizes, name="mlp")(Norm(name="pre_mlp_layer_norm")(x)), None


class DecoderLayer(nn.Module):
    sizes: T5Sizes

    @nn.compact
    def __call__(self, x, encoded, bias):
        if self.sizes.scan:
            bias = PositionBias(self.sizes, False, name="relpos_bias")(x.shape[1], x.shape[1])
        causal = jnp.where(jnp.tri(x.shape[1], dtype=bool), 0, -1e10)
        y = Norm(name="pre_self_attention_layer_norm")(x)
        x = x + Attention(self.sizes, name="self_attention")(y, y, bias + causal)
        y = Norm(name="pre_cross_attention_layer_norm")(x)
        x = x + Attention(self.sizes, name="encoder_decoder_attention")(y, encoded, 0.0)
        return x + MLP(self.sizes, name="mlp")(Norm(name="pre_mlp_layer_norm")(x)), None


def through_layers(sizes, layer, name, length, x, *context):
    """Apply the layers of a stack; without scan they share one position bias."""
    if sizes.scan:
        scanned = nn.scan(
            layer,
            variable_axes={"params": 1},
            split_rngs={"params": True},
            in_axes=nn.broadcast,
            length=length,
        )
        return scanned(sizes, name=name)(x, *context, 0.0)[0]
    bias = PositionBias(sizes, name == "encoder", name="relpos_bias")(x.shape[1], x.shape[1])
    for n in range(length):
        x, _ = layer(sizes, name=f"layers_{n}")(x, *context, bias)
    return x


class Encoder(nn.Module):
    sizes: T5Sizes

    @nn.compact
    def __call__(self, x):
        x = through_layers(self.sizes, EncoderLayer, "encoder", self.sizes.encoder, x)
        return Norm(name="encoder_norm")(x)


class Decoder(nn.Module):
    sizes: T5Sizes

    @nn.compact
    def __call__(self, x, encoded, table):
        x = through_layers(self.sizes, DecoderLayer, "decoder", self.sizes.decoder, x, encoded)
        x = Norm(name="decoder_norm")(x)
        if self.sizes.tied:
            return x @ table.T / np.sqrt(self.sizes.width)
        return Linear((self.sizes.width,), (self.sizes.vocabulary,), name="logits_dense")(x)


class LinenT5(nn.Module):
    """The logits for tokens of the encoder and of the decoder."""

    sizes: T5Sizes

    @nn.compact
    def __call__(self, read, written):
        embedder = nn.Embed(self.sizes.vocabulary, self.sizes.width, name="token_embedder")
        encoded = Encoder(self.sizes, name="encoder")(embedder(read))
        return Decoder(self.sizes, name="decoder")(embedder(written), encoded, embedder.embedding)
