"""Small diffusion models in Linen, named as diffusers' Flax models were, each beside its torch model."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
from torch import nn

from support.diffusion_torch import (
    ADDED,
    GROUPS,
    HEADS,
    LATENT,
    SCALE,
    TEXT,
    TIME,
    WIDTHS,
    Autoencoder,
    ControlNet,
    UNet,
)

__all__ = ["MODELS", "Model"]


def linen_conv(width: int, name: str, size: int = 3, stride: int = 1) -> linen.Conv:
    return linen.Conv(width, (size, size), (stride, stride), [(size // 2, size // 2)] * 2, name=name)


def linen_norm(name: str) -> linen.GroupNorm:
    return linen.GroupNorm(GROUPS, epsilon=1e-5, name=name)


def linen_attend(q: Any, k: Any, v: Any, heads: int) -> Any:
    split = [t.reshape(*t.shape[:2], heads, -1) for t in (q, k, v)]
    return linen.dot_product_attention(*split).reshape(q.shape)


class LinenResnet(linen.Module):
    width: int
    timed: bool

    @linen.compact
    def __call__(self, x: Any, time: Any) -> Any:
        y = linen_conv(self.width, "conv1")(linen.silu(linen_norm("norm1")(x)))
        if self.timed:
            y = y + linen.Dense(self.width, name="time_emb_proj")(linen.silu(time))[:, None, None]
        y = linen_conv(self.width, "conv2")(linen.silu(linen_norm("norm2")(y)))
        return y + (x if x.shape[-1] == self.width else linen_conv(self.width, "conv_shortcut", 1)(x))


class LinenCrossAttention(linen.Module):
    @linen.compact
    def __call__(self, x: Any, context: Any) -> Any:
        width = x.shape[-1]
        q = linen.Dense(width, use_bias=False, name="to_q")(x)
        k, v = (linen.Dense(width, use_bias=False, name=name)(context) for name in ("to_k", "to_v"))
        return linen.Dense(width, name="to_out_0")(linen_attend(q, k, v, HEADS))


class LinenGate(linen.Module):
    @linen.compact
    def __call__(self, x: Any) -> Any:
        value, gate = jnp.split(linen.Dense(8 * x.shape[-1], name="proj")(x), 2, axis=-1)
        return value * linen.gelu(gate)


class LinenFeedForward(linen.Module):
    @linen.compact
    def __call__(self, x: Any) -> Any:
        return linen.Dense(x.shape[-1], name="net_2")(LinenGate(name="net_0")(x))


class LinenTransformerBlock(linen.Module):
    @linen.compact
    def __call__(self, x: Any, context: Any) -> Any:
        norm1, norm2, norm3 = (linen.LayerNorm(epsilon=1e-5, name=f"norm{n}") for n in (1, 2, 3))
        normed = norm1(x)
        x = x + LinenCrossAttention(name="attn1")(normed, normed)
        x = x + LinenCrossAttention(name="attn2")(norm2(x), context)
        return x + LinenFeedForward(name="ff")(norm3(x))


class LinenTransformer(linen.Module):
    depth: int
    linear: bool

    @linen.compact
    def __call__(self, x: Any, context: Any) -> Any:
        width = x.shape[-1]
        into, out = (
            linen.Dense(width, name=name) if self.linear else linen_conv(width, name, 1)
            for name in ("proj_in", "proj_out")
        )
        y = into(linen_norm("norm")(x)).reshape(x.shape[0], -1, width)
        for n in range(self.depth):
            y = LinenTransformerBlock(name=f"transformer_blocks_{n}")(y, context)
        return x + out(y.reshape(x.shape))


class LinenSpatialAttention(linen.Module):
    @linen.compact
    def __call__(self, x: Any, context: Any) -> Any:
        y = linen_norm("group_norm")(x).reshape(x.shape[0], -1, x.shape[-1])
        layers = [linen.Dense(x.shape[-1], name=n) for n in ("query", "key", "value", "proj_attn")]
        y = layers[3](linen_attend(*(layer(y) for layer in layers[:3]), heads=1))
        return x + y.reshape(x.shape)


class LinenSampler(linen.Module):
    stride: int

    @linen.compact
    def __call__(self, x: Any) -> Any:
        x = x if self.stride == 2 else x.repeat(2, axis=1).repeat(2, axis=2)
        return linen_conv(x.shape[-1], "conv", stride=self.stride)(x)


class LinenBlock(linen.Module):
    widths: tuple[int, ...]
    attention: Callable[..., linen.Module] | None = None
    attentions: int = 0
    way: str = ""
    timed: bool = True

    @linen.compact
    def __call__(self, x: Any, time: Any, context: Any, kept: list[Any], skips: bool = False) -> Any:
        for n, width in enumerate(self.widths):
            x = jnp.concatenate([x, kept.pop()], axis=-1) if skips else x
            x = LinenResnet(width, self.timed, name=f"resnets_{n}")(x, time)
            if self.attention is not None and n < self.attentions:
                x = self.attention(name=f"attentions_{n}")(x, context)
            kept.extend([] if skips else [x])
        if self.way:
            x = LinenSampler(2 if self.way == "down" else 1, name=f"{self.way}samplers_0")(x)
            kept.extend([] if skips else [x])
        return x


class LinenEmbedding(linen.Module):
    @linen.compact
    def __call__(self, x: Any) -> Any:
        return linen.Dense(TIME, name="linear_2")(linen.silu(linen.Dense(TIME, name="linear_1")(x)))


class LinenCondition(linen.Module):
    @linen.compact
    def __call__(self, x: Any) -> Any:
        for name, width in zip(("conv_in", "blocks_0", "blocks_1"), (WIDTHS[0], *WIDTHS), strict=True):
            x = linen.silu(linen_conv(width, name)(x))
        return linen_conv(WIDTHS[0], "conv_out")(x)


class LinenUNet(linen.Module):
    """A UNet, or the half of it that is a ControlNet; images come channels first, as in diffusers."""

    depth: int = 1
    linear: bool = False
    added: bool = False
    control: bool = False

    @linen.compact
    def __call__(self, x: Any, time: Any, text: Any, more: Any) -> Any:
        a, b = WIDTHS
        attention = functools.partial(LinenTransformer, self.depth, self.linear)
        time = LinenEmbedding(name="time_embedding")(time)
        time = time + LinenEmbedding(name="add_embedding")(more) if self.added else time
        x = linen_conv(a, "conv_in")(jnp.moveaxis(x, 1, -1))
        if self.control:
            x = x + LinenCondition(name="controlnet_cond_embedding")(jnp.moveaxis(more, 1, -1))
        kept = [x]
        x = LinenBlock((a,), attention, 1, "down", name="down_blocks_0")(x, time, text, kept)
        x = LinenBlock((b,), name="down_blocks_1")(x, time, text, kept)
        x = LinenBlock((b, b), attention, 1, name="mid_block")(x, time, text, [])
        if self.control:
            names = [*(f"controlnet_down_blocks_{n}" for n in range(len(kept))), "controlnet_mid_block"]
            made = [linen_conv(y.shape[-1], n, 1)(y) for n, y in zip(names, [*kept, x], strict=True)]
            return SCALE * jnp.concatenate([jnp.moveaxis(y, -1, 1).reshape(len(y), -1) for y in made], axis=1)
        x = LinenBlock((b, b), way="up", name="up_blocks_0")(x, time, text, kept, skips=True)
        x = LinenBlock((a, a), attention, 2, name="up_blocks_1")(x, time, text, kept, skips=True)
        x = linen_conv(LATENT, "conv_out")(linen.silu(linen_norm("conv_norm_out")(x)))
        return jnp.moveaxis(x, -1, 1)


class LinenCoder(linen.Module):
    outside: int
    way: str

    @linen.compact
    def __call__(self, x: Any) -> Any:
        a, b = WIDTHS if self.way == "down" else WIDTHS[::-1]
        last = WIDTHS[-1]
        blocks = [
            LinenBlock((a,), way=self.way, timed=False, name=f"{self.way}_blocks_0"),
            LinenBlock((b,), timed=False, name=f"{self.way}_blocks_1"),
        ]
        middle = LinenBlock((last, last), LinenSpatialAttention, 1, timed=False, name="mid_block")
        x = linen_conv(a, "conv_in")(x)
        for block in [*blocks, middle] if self.way == "down" else [middle, *blocks]:
            x = block(x, None, None, [])
        return linen_conv(self.outside, "conv_out")(linen.silu(linen_norm("conv_norm_out")(x)))


class LinenAutoencoder(linen.Module):
    @linen.compact
    def __call__(self, x: Any) -> Any:
        x = LinenCoder(2 * LATENT, "down", name="encoder")(jnp.moveaxis(x, 1, -1))
        mean, _ = jnp.split(linen_conv(2 * LATENT, "quant_conv", 1)(x), 2, axis=-1)
        x = LinenCoder(3, "up", name="decoder")(linen_conv(LATENT, "post_quant_conv", 1)(mean))
        return jnp.moveaxis(x, -1, 1)


# -- both -------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Model:
    """One model in both frameworks.

    Args:
        name: What it stands for.
        torch: Makes the torch model.
        linen: The Linen model.
        shapes: Shapes of its inputs, which both take as they are.
        deprecated: Whether torch's attention has its deprecated names.
    """

    name: str
    torch: Callable[[], nn.Module]
    linen: linen.Module
    shapes: tuple[tuple[int, ...], ...]
    deprecated: bool = False

    def __str__(self) -> str:
        return self.name

    def inputs(self) -> list[np.ndarray]:
        rng = np.random.default_rng(3)
        return [rng.standard_normal(shape).astype(np.float32) for shape in self.shapes]

    def abstract_inputs(self) -> list[jax.ShapeDtypeStruct]:
        return [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in self.shapes]


_COMMON = ((2, LATENT, 8, 8), (2, WIDTHS[0]), (2, 5, TEXT))

MODELS = (
    Model("unet", UNet, LinenUNet(), (*_COMMON, (2, ADDED))),
    Model(
        "unet-xl",
        lambda: UNet(depth=2, linear=True, added=True),
        LinenUNet(depth=2, linear=True, added=True),
        (*_COMMON, (2, ADDED)),
    ),
    Model("vae", Autoencoder, LinenAutoencoder(), ((2, 3, 8, 8),)),
    Model(
        "vae-deprecated",
        lambda: Autoencoder(deprecated=True),
        LinenAutoencoder(),
        ((2, 3, 8, 8),),
        deprecated=True,
    ),
    Model("controlnet", ControlNet, LinenUNet(control=True), (*_COMMON, (2, 3, 8, 8))),
)
