"""Rotary embeddings: turning pairs of a head's numbers by angles that grow with the position."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from bridge_core.state import Array

__all__ = ["LAYOUTS", "Rotary", "frequencies", "rotate", "rotated", "tables", "THETAS"]

LAYOUTS = ("halves", "interleaved")
THETAS = (1e4, 5e5, 1e6, 1e5, 1e3, 1e2, 1.6e5, 2e5, 2e6, 5e6, 1e7)
"""Bases in use, the usual one first; 100 is that of vision models."""


@dataclass(frozen=True)
class Rotary:
    """How queries and keys are rotated.

    Args:
        layout: Which two numbers are turned together: those of both ``"halves"``, or neighbours
            (``"interleaved"``).
        theta: The base of the frequencies; None where ``table`` is given.
        size: How many of a head's numbers are rotated, from the first on.
        divisor: What the exponents are divided by; None for ``size``.
        offset: What is added to each position.
        ahead: What is added to the positions of queries only.
        factor: What each position is multiplied by: a scaling of the context's length.
        sign: -1 turns the other way.
        on: What is rotated.
        step: How far exponents are from each other: 2 by the definition.
        positions: Name of an input that has the positions; None for 0, 1, 2 ...
        table: Name of the cosines and sines that the module was given.
        exchanged: Whether sine and cosine are exchanged.
    """

    layout: str = "halves"
    theta: float | None = 1e4
    size: int = 0
    divisor: int | None = None
    offset: float = 0
    ahead: float = 0
    factor: float = 1.0
    sign: int = 1
    on: str = "qk"
    step: int = 2
    positions: str | None = None
    table: str | None = None
    exchanged: bool = False


def frequencies(rotary: Rotary) -> Array:
    """Return the angles of one position: ``(size / 2,)``."""
    assert rotary.theta is not None
    exponents = rotary.step * np.arange(rotary.size // 2) / (rotary.divisor or rotary.size)
    result: Array = rotary.theta**-exponents
    return result


def tables(rotary: Rotary, positions: Array) -> tuple[Array, Array]:
    """Return cosine and sine of each position's angles, ``(..., length, size / 2)``."""
    places = (positions + rotary.offset) * rotary.factor
    angles = places[..., None] * frequencies(rotary)
    return np.cos(angles), np.sin(angles)


def rotate(x: Array, cosine: Array, sine: Array, layout: str, sign: int = 1) -> Array:
    """Rotate the last axis; the numbers after the tables' size stay.

    Args:
        x: ``(..., head_dim)``.
        cosine: Of half the rotated size, or of all of it in the order of ``layout``; fits ``x``'s other axes.
        sine: The same.
        layout: ``"halves"`` or ``"interleaved"``.
        sign: -1 turns the other way.
    """
    half = cosine.shape[-1]
    halves = layout == "halves"
    first, second = (
        (x[..., :half], x[..., half : 2 * half])
        if halves
        else (x[..., 0 : 2 * half : 2], x[..., 1 : 2 * half : 2])
    )
    sine = sign * sine
    turned = (first * cosine - second * sine, second * cosine + first * sine)
    if halves:
        return np.concatenate((*turned, x[..., 2 * half :]), -1)
    pairs = np.stack(turned, -1).reshape(*turned[0].shape[:-1], 2 * half)
    return np.concatenate((pairs, x[..., 2 * half :]), -1)


def rotated(x: Array, rotary: Rotary, given: dict[str, Any], *, queries: bool) -> Array | None:
    """Return ``(batch, length, heads, head_dim)`` rotated; None if the sizes do not fit.

    Args:
        x: Queries or keys.
        rotary: How.
        given: Name -> positions ``(batch or 1, length)``, or a pair of tables ``(batch or 1, length, n)``.
        queries: Whether these are queries.
    """
    length, head_dim = x.shape[1], x.shape[-1]
    if rotary.table is not None:
        cosine, sine = given[rotary.table]
        if cosine.shape[1] != length or cosine.shape[-1] > head_dim // 2:
            return None
    else:
        if rotary.size > head_dim or rotary.size < 2 or rotary.size % 2:
            return None
        positions = given[rotary.positions] if rotary.positions else np.arange(length)[None]
        if positions.shape[-1] != length:
            return None
        cosine, sine = tables(rotary, positions + (rotary.ahead if queries else 0))
    if rotary.exchanged:
        cosine, sine = sine, cosine
    return rotate(x, cosine[:, :, None], sine[:, :, None], rotary.layout, rotary.sign)
