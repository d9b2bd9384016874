"""Which numbers of the projections belong to which head."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from bridge_core.state import Array

if TYPE_CHECKING:
    from bridge_core.proof.causes.attention_core import Form

__all__ = ["FUSED", "LEAVES", "merged", "separated", "split_heads"]

FUSED = ("3 h d", "h 3 d", "h d 3", "g 3 d")
"""How one projection may hold queries, keys and values; ``g``: by groups of heads that share a key."""

LEAVES = {"q": "query", "k": "key", "v": "value"}
"""Role of a projection -> its name in the layer kind."""


def split_heads(x: Array, heads: int, split: str) -> Array | None:
    """Return ``(batch, length, heads, head_dim)`` of ``(batch, length, n)``; None if it does not divide."""
    batch, length, n = x.shape
    if heads < 1 or n % heads:
        return None
    if split == "h d":
        return x.reshape(batch, length, heads, n // heads)
    if split == "d h":
        return x.reshape(batch, length, n // heads, heads).swapaxes(2, 3)
    return x.reshape(batch, heads, length, n // heads).swapaxes(1, 2)


def merged(x: Array, merge: str) -> Array:
    """Return ``(batch, length, n)`` of the heads' outputs ``(batch, heads, length, head_dim)``."""
    batch, heads, length, head_dim = x.shape
    axes = {"h d": (0, 2, 1, 3), "d h": (0, 2, 3, 1), "h t d": (0, 1, 2, 3)}[merge]
    return x.transpose(axes).reshape(batch, length, heads * head_dim)


def separated(
    projected: Mapping[str, Array], weights: Mapping[str, Array], form: Form
) -> tuple[Array, ...] | None:
    """Return what is used as query, key and value, ``(batch, length, n)``; None if it does not divide."""
    if "x q" in projected:
        arrays = {name: _project(projected["x " + name], weights, name, form.changes) for name in "qkv"}
    elif "qkv" in projected:
        pieces = _pieces(projected["qkv"], form)
        if pieces is None:
            return None
        arrays = dict(zip("qkv", pieces, strict=True))
    elif "kv" in projected:
        halves = _pairs(projected["kv"], form)
        if halves is None:
            return None
        arrays = {"q": projected["q"], "k": halves[0], "v": halves[1]}
    else:
        arrays = dict(projected)
    result = tuple(arrays[name] for name in form.roles)
    if form.sequence == 0:
        result = tuple(x.swapaxes(0, 1) for x in result)
    return result


def _project(x: Array, weights: Mapping[str, Array], name: str, changes: tuple[str, ...]) -> Array:
    leaf = LEAVES[name]
    kernel = weights[f"{leaf}.kernel"]
    result = x @ (kernel.T if f"{leaf}.kernel transposed" in changes else kernel)
    bias = weights.get(f"{leaf}.bias")
    if bias is not None and f"{leaf}.bias missing" not in changes:
        result = result + bias * (2 if f"{leaf}.bias doubled" in changes else 1)
    return result


def _pieces(x: Array, form: Form) -> tuple[Array, Array, Array] | None:
    """Divide one projection that holds queries, keys and values."""
    batch, length, n = x.shape
    units = form.heads + 2 * form.kv_heads
    if n % units:
        return None
    size = n // units
    if form.fused == "3 h d":
        q, kv = form.heads * size, form.kv_heads * size
        return x[..., :q], x[..., q : q + kv], x[..., q + kv :]
    if form.fused == "g 3 d":
        times = form.heads // form.kv_heads
        y = x.reshape(batch, length, form.kv_heads, times + 2, size)
        return tuple(
            p.reshape(batch, length, -1) for p in (y[..., :times, :], y[..., times, :], y[..., times + 1, :])
        )  # type: ignore[return-value]
    if form.heads != form.kv_heads:
        return None
    shape = (form.heads, 3, size) if form.fused == "h 3 d" else (form.heads, size, 3)
    y = np.moveaxis(x.reshape(batch, length, *shape), 3 if form.fused == "h 3 d" else 4, 0)
    return tuple(y.reshape(3, batch, length, -1))  # type: ignore[return-value]


def _pairs(x: Array, form: Form) -> tuple[Array, Array] | None:
    batch, length, n = x.shape
    if n % (2 * form.kv_heads):
        return None
    size = n // (2 * form.kv_heads)
    if form.fused in ("3 h d", "g 3 d"):
        return x[..., : n // 2], x[..., n // 2 :]
    shape = (form.kv_heads, 2, size) if form.fused == "h 3 d" else (form.kv_heads, size, 2)
    y = np.moveaxis(x.reshape(batch, length, *shape), 3 if form.fused == "h 3 d" else 4, 0)
    pieces = y.reshape(2, batch, length, -1)
    return pieces[0], pieces[1]
