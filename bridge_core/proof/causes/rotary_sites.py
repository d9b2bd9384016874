"""Rotary embeddings outside of attention: modules that return tables, or queries and keys rotated."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from bridge_core.proof.causes.attention_differences import difference_text, rotary_differences
from bridge_core.proof.causes.attention_words import place_text
from bridge_core.proof.causes.cause import Cause
from bridge_core.proof.causes.measures import comparable, relative_error, rounding
from bridge_core.proof.causes.rotary_readings import Rotation, read_rotation, read_table
from bridge_core.proof.causes.rotary_tables import half_table, tables_among
from bridge_core.proof.causes.site import Site
from bridge_core.state import Array

__all__ = ["rotary_causes"]


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
            yield _missing(same[0], without, place_text(site.target))
            return
        if read[0] is None or read[1] is None:
            continue
        yield from _causes(read[0], read[1], without, place_text(site.target), name)
        return


def _floats(arrays: object) -> dict[str, Array]:
    assert hasattr(arrays, "items")
    found = {name: np.asarray(value) for name, value in arrays.items()}
    return {
        name: a
        for name, a in found.items()
        if (a.dtype.kind in "fc" and a.size and comparable(a)) or a.dtype.kind == "c"
    }


def _causes(first: Rotation, second: Rotation, without: float, place: str, name: str) -> Iterator[Cause]:
    differences = list(rotary_differences(first.rotary, second.rotary))
    for difference in differences:
        yield Cause(
            difference.code,
            f"{difference_text(difference.what, difference.source, difference.target)}.",
            difference.source,
            difference.target,
            without,
            first.error,
            f"{place}: {difference.mend}.",
        )
    if abs(first.gain - second.gain) > 1e-4 * abs(first.gain):
        values = (f"{first.gain:.6g}", f"{second.gain:.6g}")
        what = f"what {name or 'the output'} is multiplied by"
        yield Cause(
            "rotary_scale",
            f"{difference_text(what, *values)}.",
            *values,
            without,
            first.error,
            f"{place}: multiply by {first.gain:.6g}.",
        )


def _missing(in_source: bool, without: float, place: str) -> Cause:
    values = ("not rotated", "rotated") if in_source else ("rotated", "not rotated")
    return Cause(
        "rotary_missing",
        f"{difference_text('the rotary embedding', *values)}.",
        *values,
        without,
        0.0,
        f"{place}: {'do not rotate' if in_source else 'rotate'} queries and keys.",
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
    yield from _causes(read[0][0], read[1][0], without, place_text(site.target), "the table")


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
