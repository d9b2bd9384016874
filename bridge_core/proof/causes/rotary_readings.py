"""The settings of a rotation, read from its angles or from what it did."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bridge_core.proof.causes.rotary import THETAS, Rotary, tables
from bridge_core.state import Array

__all__ = ["Rotation", "read_rotation", "read_table"]


@dataclass(frozen=True, eq=False)
class Rotation:
    """A rotation that was read from arrays.

    Args:
        rotary: Its settings.
        error: How far the angles of these settings are from those that were read.
        gain: What numbers are multiplied by in addition.
    """

    rotary: Rotary
    error: float
    gain: float = 1.0


def read_table(angles: Array, layout: str, limit: float) -> Rotation | None:
    """Return the rotation with these angles; None if they are not those of consecutive positions.

    Args:
        angles: Complex ``(batch or 1, length, n)``.
        layout: Layout of the rotation that is returned.
        limit: Error of the angles that is rounding.
    """
    if angles.shape[1] < 2:
        return None
    gain = float(np.median(np.abs(angles)))
    if not gain or np.abs(np.abs(angles) - gain).max() > 10 * limit * gain:
        return None
    unit = angles[:1] / np.abs(angles[:1])
    step = np.angle((unit[:, 1:] * unit[:, :-1].conj()).mean((0, 1)))
    n = len(step)
    if not step.all():
        return None
    sign = 1 if step[0] > 0 else -1
    factor = _near(abs(float(step[0])), (1.0, 0.5, 0.25, 0.125, 0.0625))
    thetas = list(THETAS)
    if n > 1:
        ratio = abs(float(step[0] / step[1]))
        if ratio > 0:
            thetas = [t for t in THETAS if abs(t ** (1 / n) / ratio - 1) < 1e-3]
            thetas += [float(f"{ratio**n:.{d}e}") for d in (0, 1, 2, 3, 4, 5, 8)]
    smallest = int(np.argmin(np.abs(step)))
    offset = float(np.angle(unit[0, 0, smallest]) / step[smallest])
    if abs(offset - round(offset)) < 0.05:
        offset = float(round(offset))
    best: Rotation | None = None
    for theta in thetas:
        rotary = Rotary(layout=layout, theta=theta, size=2 * n, offset=offset, factor=factor, sign=sign)
        cosine, sine = tables(rotary, np.arange(angles.shape[1])[None].astype(float))
        off = float(np.abs(cosine + 1j * sign * sine - unit).max())
        if off <= limit:
            return Rotation(rotary, off, gain)
        if best is None or off < best.error:
            best = Rotation(rotary, off, gain)
    return None


def _near(x: float, usual: tuple[float, ...]) -> float:
    return next((u for u in usual if abs(x / u - 1) < 1e-4), x)


def read_rotation(x: Array, y: Array, limit: float) -> Rotation | None:
    """Return the rotation that turns one array into another; None if none does.

    Args:
        x: ``(batch, length, heads, head_dim)``.
        y: The same shape.
        limit: Relative error that is rounding.
    """
    head_dim = x.shape[-1]
    largest = np.abs(x).max()
    for size in (head_dim // 4, head_dim // 2, head_dim * 3 // 4, head_dim):
        if size < 2 or size % 2 or np.abs(y[..., size:] - x[..., size:]).max(initial=0) > limit * largest:
            continue
        for layout in ("halves", "interleaved"):
            first, second = (_pairs(a[..., :size], layout) for a in (x, y))
            with np.errstate(all="ignore"):
                angles = (second * first.conj()).sum(2) / (np.abs(first) ** 2).sum(2)
            if not np.isfinite(angles).all():
                continue
            if np.abs(first * angles[:, :, None] - second).max() > limit * largest:
                continue
            rotation = read_table(angles, layout, 16 * limit)
            if rotation is not None:
                return rotation if rotation.rotary.size else None
    return None


def _pairs(x: Array, layout: str) -> Array:
    half = x.shape[-1] // 2
    if layout == "halves":
        return np.asarray(x[..., :half] + 1j * x[..., half:])
    return np.asarray(x[..., 0::2] + 1j * x[..., 1::2])
