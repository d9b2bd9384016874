"""Vision transformers in Linen, with the names of big_vision or of google-research/vision_transformer."""

import flax.linen as nn
import jax.numpy as jnp

from support.flax_siglip import EncoderBlock, MAPHead

__all__ = ["LinenVit"]


class Positions(nn.Module):
    @nn.compact
    def __call__(self, x):
        return x + self.param("pos_embedding", nn.initializers.normal(), (1, *x.shape[1:]))


class Transformer(nn.Module):
    """Blocks and a norm; with ``positions`` it adds those of all tokens before, the class token's too."""

    layers: int
    heads: int
    hidden: int
    positions: bool

    @nn.compact
    def __call__(self, x):
        if self.positions:
            x = Positions(name="posembed_input")(x)
        for n in range(self.layers):
            x, _ = EncoderBlock(self.heads, self.hidden, name=f"encoderblock_{n}")(x)
        return nn.LayerNorm(name="encoder_norm")(x)


class LinenVit(nn.Module):
    """Takes images ``(batch, height, width, 3)``; returns a logit for each class.

    Args:
        pool: ``tok``, ``gap`` or ``map``, as in big_vision; ``original`` for vision_transformer, whose class
            token has a position.
    """

    width: int
    patch: int
    layers: int
    heads: int
    hidden: int
    classes: int
    pool: str

    @nn.compact
    def __call__(self, image):
        size = (self.patch, self.patch)
        x = nn.Conv(self.width, size, strides=size, padding="VALID", name="embedding")(image)
        x = x.reshape(len(x), -1, self.width)
        if self.pool != "original":
            x = x + self.param("pos_embedding", nn.initializers.normal(), (1, *x.shape[1:]))
        if self.pool in ("tok", "original"):
            token = self.param("cls", nn.initializers.zeros, (1, 1, self.width))
            x = jnp.concatenate([jnp.broadcast_to(token, (len(x), 1, self.width)), x], axis=1)
        sizes = self.layers, self.heads, self.hidden
        x = Transformer(*sizes, self.pool == "original", name="Transformer")(x)
        if self.pool == "map":
            x = MAPHead(self.heads, self.hidden, name="MAPHead_0")(x)
        else:
            x = x.mean(axis=1) if self.pool == "gap" else x[:, 0]
        return nn.Dense(self.classes, name="head")(x)
