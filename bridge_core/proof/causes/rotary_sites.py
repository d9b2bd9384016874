"""Rotary embeddings outside of attention: modules that return tables, or queries and keys rotated."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from bridge_core.proof.causes.attention_differences import rotary_differences
from bridge_core.proof.causes.cause import Cause
from bridge_core.proof.causes.measures import comparable, relative_error, rounding
from bridge_core.proof.causes.rotary import THETAS, Rotary, tables
from bridge_core.proof.causes.rotary_tables import half_table, tables_among
from bridge_core.proof.causes.site import ModuleView, Site
from bridge_core.state import Array

__all__ = ["Rotation", "read_rotation", "read_table", "rotary_causes"]


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


def rotary_causes(site: Site) -> Iterator[Cause]:
    """Yield the causes at a module that computes tables of angles, or that rotates its input.

    Args:
        site: Where two models part.
    """
    if site.at is not None:
        return
    outputs = [_floats(view.outputs) for view in (site.source, site.target)]
    if not all(outputs) or any(view.weights and view.children for view in (site.source, site.target)):
        return
    limit = 4 * rounding(site, *outputs[0].values(), *outputs[1].values())
    yield from _table_causes(site, outputs, limit)
    for name, (x, first, second) in _turned(site, outputs):
        without = relative_error(first, second)
        if without <= limit:
            continue
        same = [relative_error(x, y) <= limit for y in (first, second)]
        read = [None if same[n] else read_rotation(x, y, limit) for n, y in enumerate((first, second))]
        if any(same) and any(r is not None for r in read):
            yield _missing(same[0], without, _label(site.target))
            return
        if read[0] is None or read[1] is None:
            continue
        yield from _causes(read[0], read[1], without, _label(site.target), name)
        return


def _floats(arrays: object) -> dict[str, Array]:
    assert hasattr(arrays, "items")
    found = {name: np.asarray(value) for name, value in arrays.items()}
    return {
        name: a
        for name, a in found.items()
        if (a.dtype.kind in "fc" and a.size and comparable(a)) or a.dtype.kind == "c"
    }


def _label(view: ModuleView) -> str:
    return ".".join(map(str, view.path)) or view.type.rpartition(".")[2]


def _causes(first: Rotation, second: Rotation, without: float, place: str, name: str) -> Iterator[Cause]:
    differences = list(rotary_differences(first.rotary, second.rotary))
    for difference in differences:
        yield Cause(
            difference.code,
            f"{difference.what} differs: {difference.source} in the source,"
            f" {difference.target} in the target.",
            difference.source,
            difference.target,
            without,
            first.error,
            f"In the target's {place}: {difference.mend}.",
        )
    if abs(first.gain - second.gain) > 1e-4 * abs(first.gain):
        yield Cause(
            "rotary_scale",
            f"What {name or 'the output'} is multiplied by differs: {first.gain:.6g} in the source,"
            f" {second.gain:.6g} in the target.",
            f"{first.gain:.6g}",
            f"{second.gain:.6g}",
            without,
            first.error,
            f"In the target's {place}: multiply by {first.gain:.6g}.",
        )


def _missing(in_source: bool, without: float, place: str) -> Cause:
    values = ("not rotated", "rotated") if in_source else ("rotated", "not rotated")
    return Cause(
        "rotary_missing",
        f"The rotary embedding differs: {values[0]} in the source, {values[1]} in the target.",
        *values,
        without,
        0.0,
        f"In the target's {place}: {'do not rotate' if in_source else 'rotate'} queries and keys.",
    )


def _table_causes(site: Site, outputs: list[dict[str, Array]], limit: float) -> Iterator[Cause]:
    """Yield the causes at a module that returns cosine and sine."""
    read: list[tuple[Rotation, Array] | None] = []
    for arrays in outputs:
        length = max((a.shape[-2] for a in arrays.values() if a.ndim > 1), default=0)
        batch = max((a.shape[0] for a in arrays.values() if a.ndim > 2), default=1)
        raw = _raw_table(arrays, batch, length)
        if raw is None:
            return
        layout, angles = raw
        rotation = read_table(angles, layout, limit)
        read.append(None if rotation is None else (rotation, angles))
    if read[0] is None or read[1] is None:
        return
    shared = [
        name for name in outputs[0] if name in outputs[1] and outputs[0][name].shape == outputs[1][name].shape
    ]
    without = max((relative_error(outputs[0][n], outputs[1][n]) for n in shared), default=float("inf"))
    if without <= limit or not np.isfinite(without):
        without = 1.0
    yield from _causes(read[0][0], read[1][0], without, _label(site.target), "the table")


def _raw_table(arrays: dict[str, Array], batch: int, length: int) -> tuple[str, Array] | None:
    """Return how a table repeats its angles, and ``cos + i sin``, complex ``(batch or 1, length, n)``."""
    for _, (cosine, sine) in tables_among(arrays, batch, length):
        full = next(
            (a for a in arrays.values() if a.dtype.kind == "f" and a.shape[-1] == 2 * cosine.shape[-1]), None
        )
        layout = "halves"
        if full is not None and cosine.shape[-1] > 1:
            n = full.shape[-1]
            if not np.array_equal(full[..., : n // 2], full[..., n // 2 :]):
                layout = "interleaved"
        return layout, cosine + 1j * sine
    if len(arrays) == 1:
        table = next(iter(arrays.values()))
        if table.dtype.kind == "f" and table.ndim >= 2 and table.shape[-1] % 2 == 0:
            half = table.shape[-1] // 2
            pairs = {"a": table[..., :half], "b": table[..., half:]}
            for _, (cosine, sine) in tables_among(pairs, batch, length):
                if cosine.shape[-1] == half or half_table(pairs["a"]).shape[-1] == cosine.shape[-1]:
                    return "halves", cosine + 1j * sine
    return None


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


def _turned(site: Site, outputs: list[dict[str, Array]]) -> Iterator[tuple[str, tuple[Array, Array, Array]]]:
    """Yield input and both outputs as ``(batch, length, heads, head_dim)``, for both readings of the axes."""
    inputs = _floats(site.source.inputs)
    for (name, first), second in zip(outputs[0].items(), outputs[1].values(), strict=False):
        if first.shape != second.shape or first.ndim not in (3, 4) or first.dtype.kind == "c":
            continue
        for x in inputs.values():
            if x.shape != first.shape or x.dtype.kind == "c":
                continue
            arrays = [np.asarray(a, np.float64) for a in (x, first, second)]
            if first.ndim == 3:
                arrays = [a[:, :, None] for a in arrays]
                yield name, (arrays[0], arrays[1], arrays[2])
                continue
            yield name, (arrays[0], arrays[1], arrays[2])
            arrays = [a.swapaxes(1, 2) for a in arrays]
            yield name, (arrays[0], arrays[1], arrays[2])
