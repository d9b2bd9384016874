"""SigLIP's two towers in Linen, with big_vision's names: a block for each layer, or one scanned block."""

import flax.linen as nn
import jax
import jax.numpy as jnp

__all__ = ["LinenSiglip"]


class MlpBlock(nn.Module):
    hidden: int

    @nn.compact
    def __call__(self, x):
        y = nn.gelu(nn.Dense(self.hidden)(x))
        return nn.Dense(x.shape[-1])(y)


class EncoderBlock(nn.Module):
    heads: int
    hidden: int

    @nn.compact
    def __call__(self, x, _=None):
        y = nn.LayerNorm()(x)
        x = x + nn.MultiHeadDotProductAttention(self.heads, name="MultiHeadDotProductAttention_0")(y, y)
        return x + MlpBlock(self.hidden, name="MlpBlock_0")(nn.LayerNorm()(x)), None


class Encoder(nn.Module):
    layers: int
    heads: int
    hidden: int
    scan: bool

    @nn.compact
    def __call__(self, x):
        if self.scan:
            block = nn.scan(
                EncoderBlock, variable_axes={"params": 0}, split_rngs={"params": True}, length=self.layers
            )
            x, _ = block(self.heads, self.hidden, name="encoderblock")(x, None)
        else:
            for n in range(self.layers):
                x, _ = EncoderBlock(self.heads, self.hidden, name=f"encoderblock_{n}")(x)
        return nn.LayerNorm(name="encoder_norm")(x)


class MAPHead(nn.Module):
    """A learnt query that attends to all places."""

    heads: int
    hidden: int

    @nn.compact
    def __call__(self, x):
        probe = self.param("probe", nn.initializers.normal(), (1, 1, x.shape[-1]))
        query = jnp.broadcast_to(probe, (len(x), *probe.shape[1:]))
        x = nn.MultiHeadDotProductAttention(self.heads, name="MultiHeadDotProductAttention_0")(query, x)
        return (x + MlpBlock(self.hidden, name="MlpBlock_0")(nn.LayerNorm()(x)))[:, 0]


def positions(module, x):
    return x + module.param("pos_embedding", nn.initializers.normal(), (1, *x.shape[1:]))


class ImageTower(nn.Module):
    width: int
    patch: int
    encoder: tuple
    scan: bool

    @nn.compact
    def __call__(self, image):
        size = (self.patch, self.patch)
        x = nn.Conv(self.width, size, strides=size, padding="VALID", name="embedding")(image)
        x = positions(self, x.reshape(len(x), -1, self.width))
        x = Encoder(*self.encoder, self.scan, name="Transformer")(x)
        return MAPHead(*self.encoder[1:], name="MAPHead_0")(x)


class TextTower(nn.Module):
    vocabulary: int
    width: int
    encoder: tuple
    scan: bool

    @nn.compact
    def __call__(self, tokens):
        x = positions(self, nn.Embed(self.vocabulary, self.width)(tokens))
        x = Encoder(*self.encoder, self.scan)(x)
        return nn.Dense(self.width, name="head")(x[:, -1])


class LinenSiglip(nn.Module):
    """Takes images ``(batch, height, width, 3)`` and tokens; returns a logit for each image and text.

    Args:
        encoders: Of both towers, the image's first: layers, heads and the width of the MLP.
    """

    width: int
    patch: int
    vocabulary: int
    encoders: tuple
    scan: bool = False

    @nn.compact
    def __call__(self, image, tokens):
        image_side = ImageTower(self.width, self.patch, self.encoders[0], self.scan, name="img")(image)
        text_side = TextTower(self.vocabulary, self.width, self.encoders[1], self.scan, name="txt")(tokens)
        scale, bias = (self.param(name, nn.initializers.zeros, (1,)) for name in ("t", "b"))
        one, other = (x / jnp.linalg.norm(x, axis=-1, keepdims=True) for x in (image_side, text_side))
        with jax.default_matmul_precision("highest"):
            return one @ other.T * jnp.exp(scale) + bias
