"""Causes at a module that returns a bias for each pair of positions: T5's buckets of distances."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from bridge_core.proof.causes.attention_core import Buckets
from bridge_core.proof.causes.attention_differences import difference_text, relative_difference
from bridge_core.proof.causes.attention_words import place_text
from bridge_core.proof.causes.cause import Cause
from bridge_core.proof.causes.masks import relative_buckets
from bridge_core.proof.causes.measures import relative_error, rounding
from bridge_core.proof.causes.site import ModuleView, Site
from bridge_core.state import Array

__all__ = ["bucket_causes"]

_DISTANCES = (128, 20, 64, 256, 32, 512, 16, 8)
_FARTHEST = 1024
"""Farthest distances that are tried: those in use, then every number."""


def bucket_causes(site: Site) -> Iterator[Cause]:
    """Yield the causes at a module that looks up a bias for the distance of each query and key.

    Args:
        site: Where two models part.
    """
    outputs = [_three_axes(view) for view in (site.source, site.target)]
    if site.at is not None or outputs[0] is None or outputs[1] is None:
        return
    for name, table in _tables(site):
        pair = [_heads_first(array, table.shape[1]) for array in outputs if array is not None]
        biases = [bias for bias in pair if bias is not None]
        if len(biases) < 2 or biases[0].shape != biases[1].shape:
            continue
        limit = rounding(site, outputs[0], outputs[1])
        without = relative_error(biases[0], biases[1])
        if without <= limit:
            return
        read = [_read(bias, name, table, limit) for bias in biases]
        if read[0] is None or read[1] is None:
            continue
        difference = relative_difference(read[0][0], read[1][0])
        yield Cause(
            difference.code,
            f"{difference_text(difference.what, difference.source, difference.target)}.",
            difference.source,
            difference.target,
            without,
            read[0][1],
            f"{place_text(site.target)}: {difference.mend}.",
        )
        return


def _three_axes(view: ModuleView) -> Array | None:
    for value in view.outputs.values():
        array = np.asarray(value)
        if array.dtype.kind == "f" and array.ndim == 4 and array.shape[0] == 1:
            array = array[0]
        if array.dtype.kind == "f" and array.ndim == 3 and 0 < array.size <= 1 << 22:
            return array
    return None


def _tables(site: Site) -> Iterator[tuple[str, Array]]:
    """Yield learned tables, ``(buckets, heads)``."""
    for view in (site.source, site.target):
        for key, value in view.weights.items():
            array = np.asarray(value)
            if array.ndim == 2 and array.dtype.kind == "f":
                table = array.astype(np.float64)
                name = ".".join(map(str, key))
                yield name, table
                yield name, table.T


def _heads_first(array: Array, heads: int) -> Array | None:
    """Return ``(heads, queries, keys)``."""
    x = np.asarray(array, np.float64)
    if x.shape[0] == heads:
        return x
    return x.transpose(2, 0, 1) if x.shape[2] == heads else None


def _read(bias: Array, name: str, table: Array, limit: float) -> tuple[Buckets, float] | None:
    """Return the buckets that give a bias, and the error; None if none do."""
    _, queries, keys = bias.shape
    places = np.arange(queries)
    for both in (True, False):
        for reverse in (False, True):
            for distance in dict.fromkeys((*_DISTANCES, *range(len(table) // 4 + 1, _FARTHEST))):
                numbers = relative_buckets(places, keys, len(table), distance, both, reverse)
                few = (slice(None), slice(None, None, max(queries // 3, 1)))
                if relative_error(bias[few], table[numbers[few[1]]].transpose(2, 0, 1)) > limit:
                    continue
                off = relative_error(bias, table[numbers].transpose(2, 0, 1))
                if off <= limit:
                    return Buckets(name, distance, both, reverse), off
    return None
