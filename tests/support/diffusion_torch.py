"""Small diffusion models in torch: the structure and the names of diffusers, little of its arithmetic."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

__all__ = ["Autoencoder", "ControlNet", "UNet"]

GROUPS, HEADS = 4, 2
WIDTHS = (8, 16)
TIME, TEXT, ADDED, LATENT = 32, 12, 20, 4
SCALE = 0.1
"""What a ControlNet multiplies its results by, or their rounding would be above any tolerance."""


def norm(width: int) -> nn.GroupNorm:
    return nn.GroupNorm(GROUPS, width, eps=1e-5)


def conv(inside: int, outside: int, size: int = 3) -> nn.Conv2d:
    return nn.Conv2d(inside, outside, size, padding=size // 2)


def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, heads: int) -> torch.Tensor:
    split = [t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (q, k, v)]
    return F.scaled_dot_product_attention(*split).transpose(1, 2).flatten(2)


class Resnet(nn.Module):
    def __init__(self, inside: int, outside: int, timed: bool) -> None:
        super().__init__()
        self.norm1, self.conv1 = norm(inside), conv(inside, outside)
        if timed:
            self.time_emb_proj = nn.Linear(TIME, outside)
        self.norm2, self.conv2 = norm(outside), conv(outside, outside)
        if inside != outside:
            self.conv_shortcut = conv(inside, outside, 1)

    def forward(self, x: torch.Tensor, time: torch.Tensor | None) -> torch.Tensor:
        y = self.conv1(F.silu(self.norm1(x)))
        if time is not None:
            y = y + self.time_emb_proj(F.silu(time))[:, :, None, None]
        y = self.conv2(F.silu(self.norm2(y)))
        return y + (self.conv_shortcut(x) if hasattr(self, "conv_shortcut") else x)


class CrossAttention(nn.Module):
    def __init__(self, width: int, context: int) -> None:
        super().__init__()
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_k = nn.Linear(context, width, bias=False)
        self.to_v = nn.Linear(context, width, bias=False)
        self.to_out = nn.ModuleList([nn.Linear(width, width), nn.Dropout(0.0)])

    def forward(self, x: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        return self.to_out[0](attend(self.to_q(x), self.to_k(context), self.to_v(context), HEADS))


class Gate(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj = nn.Linear(width, 8 * width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        value, gate = self.proj(x).chunk(2, dim=-1)
        return value * F.gelu(gate, approximate="tanh")


class FeedForward(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.net = nn.ModuleList([Gate(width), nn.Dropout(0.0), nn.Linear(4 * width, width)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net[2](self.net[0](x))


class TransformerBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.attn1 = nn.LayerNorm(width), CrossAttention(width, width)
        self.norm2, self.attn2 = nn.LayerNorm(width), CrossAttention(width, TEXT)
        self.norm3, self.ff = nn.LayerNorm(width), FeedForward(width)

    def forward(self, x: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        normed = self.norm1(x)
        x = x + self.attn1(normed, normed)
        x = x + self.attn2(self.norm2(x), context)
        return x + self.ff(self.norm3(x))


class Transformer(nn.Module):
    def __init__(self, width: int, depth: int, linear: bool) -> None:
        super().__init__()
        project = nn.Linear if linear else lambda a, b: conv(a, b, 1)
        self.norm, self.proj_in = norm(width), project(width, width)
        self.transformer_blocks = nn.ModuleList(TransformerBlock(width) for _ in range(depth))
        self.proj_out = project(width, width)
        self.linear = linear

    def forward(self, x: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        def flat(y: torch.Tensor) -> torch.Tensor:
            return y.flatten(2).transpose(1, 2)

        def square(y: torch.Tensor) -> torch.Tensor:
            return y.transpose(1, 2).unflatten(2, x.shape[2:])

        y = self.norm(x)
        y = self.proj_in(flat(y)) if self.linear else flat(self.proj_in(y))
        for block in self.transformer_blocks:
            y = block(y, context)
        y = square(self.proj_out(y)) if self.linear else self.proj_out(square(y))
        return x + y


class SpatialAttention(nn.Module):
    """The attention of a VAE, under its current names or the deprecated ones."""

    def __init__(self, width: int, deprecated: bool) -> None:
        super().__init__()
        self.group_norm = norm(width)
        self.names = ("query", "key", "value", "proj_attn") if deprecated else ("to_q", "to_k", "to_v")
        for name in self.names:
            self.add_module(name, nn.Linear(width, width))
        if not deprecated:
            self.to_out = nn.ModuleList([nn.Linear(width, width), nn.Dropout(0.0)])

    def forward(self, x: torch.Tensor, _: Any) -> torch.Tensor:
        y = self.group_norm(x).flatten(2).transpose(1, 2)
        y = attend(*(self.get_submodule(name)(y) for name in self.names[:3]), heads=1)
        y = self.proj_attn(y) if hasattr(self, "proj_attn") else self.to_out[0](y)
        return x + y.transpose(1, 2).unflatten(2, x.shape[2:])


class Sampler(nn.Module):
    def __init__(self, width: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, stride=stride, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x if self.conv.stride[0] == 2 else F.interpolate(x, scale_factor=2.0))


class Block(nn.Module):
    """Resnets, an attention after each of the first of them, and a sampler where ``way`` names one."""

    def __init__(self, widths: list[tuple[int, int]], attentions: tuple[nn.Module, ...] = (), **options: Any):
        super().__init__()
        self.way = options.get("way", "")
        self.resnets = nn.ModuleList(Resnet(a, b, options.get("timed", True)) for a, b in widths)
        self.attentions = nn.ModuleList(attentions)
        if self.way:
            sampler = Sampler(widths[-1][1], 2 if self.way == "down" else 1)
            self.add_module(f"{self.way}samplers", nn.ModuleList([sampler]))

    def forward(self, x: Any, time: Any, context: Any, kept: list[Any], skips: bool = False) -> Any:
        """Keep every result; one that takes skips takes them off the list instead."""
        for n, resnet in enumerate(self.resnets):
            x = resnet(torch.cat([x, kept.pop()], dim=1) if skips else x, time)
            x = self.attentions[n](x, context) if n < len(self.attentions) else x
            kept.extend([] if skips else [x])
        if self.way:
            x = self.get_submodule(f"{self.way}samplers.0")(x)
            kept.extend([] if skips else [x])
        return x


class Embedding(nn.Module):
    def __init__(self, inside: int) -> None:
        super().__init__()
        self.linear_1, self.linear_2 = nn.Linear(inside, TIME), nn.Linear(TIME, TIME)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear_2(F.silu(self.linear_1(x)))


class Down(nn.Module):
    """What a UNet and a ControlNet have in common."""

    def __init__(self, depth: int = 1, linear: bool = False) -> None:
        super().__init__()
        a, b = WIDTHS
        self.conv_in, self.time_embedding = conv(LATENT, a), Embedding(a)
        crossed = Block([(a, a)], (Transformer(a, depth, linear),), way="down")
        self.down_blocks = nn.ModuleList([crossed, Block([(a, b)])])
        self.mid_block = Block([(b, b), (b, b)], (Transformer(b, depth, linear),))

    def down(self, x: Any, time: Any, text: Any) -> list[Any]:
        kept = [x]
        for block in self.down_blocks:
            x = block(x, time, text, kept)
        return [*kept, self.mid_block(x, time, text, [])]


class UNet(Down):
    def __init__(self, depth: int = 1, linear: bool = False, added: bool = False) -> None:
        super().__init__(depth, linear)
        a, b = WIDTHS
        if added:
            self.add_embedding = Embedding(ADDED)
        crossed = [Transformer(a, depth, linear) for _ in range(2)]
        up = Block([(b + a, a), (a + a, a)], tuple(crossed))
        self.up_blocks = nn.ModuleList([Block([(b + b, b), (b + a, b)], way="up"), up])
        self.conv_norm_out, self.conv_out = norm(a), conv(a, LATENT)

    def forward(self, x: Any, time: Any, text: Any, added: Any) -> Any:
        time = self.time_embedding(time)
        time = time + self.add_embedding(added) if hasattr(self, "add_embedding") else time
        *kept, x = self.down(self.conv_in(x), time, text)
        for block in self.up_blocks:
            x = block(x, time, text, kept, skips=True)
        return self.conv_out(F.silu(self.conv_norm_out(x)))


class Condition(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        a, b = WIDTHS
        self.conv_in, self.conv_out = conv(3, a), conv(b, a)
        self.blocks = nn.ModuleList([conv(a, a), conv(a, b)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.silu(self.conv_in(x))
        for block in self.blocks:
            x = F.silu(block(x))
        return self.conv_out(x)


class ControlNet(Down):
    def __init__(self) -> None:
        super().__init__()
        a, b = WIDTHS
        self.controlnet_cond_embedding = Condition()
        self.controlnet_down_blocks = nn.ModuleList(conv(width, width, 1) for width in (a, a, a, b))
        self.controlnet_mid_block = conv(b, b, 1)

    def forward(self, x: Any, time: Any, text: Any, image: Any) -> Any:
        x = self.conv_in(x) + self.controlnet_cond_embedding(image)
        *kept, x = self.down(x, self.time_embedding(time), text)
        made = [block(y) for block, y in zip(self.controlnet_down_blocks, kept, strict=True)]
        return SCALE * torch.cat([y.flatten(1) for y in (*made, self.controlnet_mid_block(x))], dim=1)


class Coder(nn.Module):
    def __init__(self, inside: int, outside: int, way: str, deprecated: bool) -> None:
        super().__init__()
        a, b = WIDTHS if way == "down" else WIDTHS[::-1]
        self.way, last = way, WIDTHS[-1]
        self.conv_in = conv(inside, a)
        first = Block([(a, a)], way=way, timed=False)
        blocks = nn.ModuleList([first, Block([(a, b)], timed=False)])
        self.add_module(f"{way}_blocks", blocks)
        attention = SpatialAttention(last, deprecated)
        self.mid_block = Block([(last, last), (last, last)], (attention,), timed=False)
        self.conv_norm_out, self.conv_out = norm(b), conv(b, outside)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        blocks = list(self.get_submodule(f"{self.way}_blocks"))
        x = self.conv_in(x)
        for block in [*blocks, self.mid_block] if self.way == "down" else [self.mid_block, *blocks]:
            x = block(x, None, None, [])
        return self.conv_out(F.silu(self.conv_norm_out(x)))


class Autoencoder(nn.Module):
    def __init__(self, deprecated: bool = False) -> None:
        super().__init__()
        self.encoder = Coder(3, 2 * LATENT, "down", deprecated)
        self.decoder = Coder(LATENT, 3, "up", deprecated)
        self.quant_conv, self.post_quant_conv = conv(2 * LATENT, 2 * LATENT, 1), conv(LATENT, LATENT, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mean, _ = self.quant_conv(self.encoder(x)).chunk(2, dim=1)
        return self.decoder(self.post_quant_conv(mean))
