"""Forms that move values: flattening and other orders of axes, parts of features, pooling over tokens."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping

import numpy as np

from bridge_core.proof.causes.forms import Candidate, Family, Settings, Task
from bridge_core.state import Array

__all__ = ["PART", "REARRANGE", "TOKENS"]

LETTERS = {2: "nc", 3: "ntc", 4: "nhwc", 5: "ndhwc"}
"""Rank -> what its axes are called, channels last."""

MAX_ORDERS = 200


def _rearrange(x: Array, weights: Mapping[str, Array], settings: Settings) -> Array:
    """Return the values in another order of axes.

    Args:
        x: Array of any shape.
        weights: Not used.
        settings: ``cut`` (sizes that the last axis is cut into, or None), ``order`` (of the axes then, as
            letters, those of the cut axis are p, q, ...) and ``shape``.
    """
    letters = LETTERS.get(x.ndim, "abcdefgh"[: x.ndim])
    if settings["cut"] is not None:
        cut = settings["cut"]
        x, letters = x.reshape(*x.shape[:-1], *cut), letters[:-1] + "pqrs"[: len(cut)]
    order = [letters.index(letter) for letter in settings["order"].split()]
    return x.transpose(order).reshape(x.shape[0], *settings["shape"])


def _rearrange_candidates(task: Task) -> Iterator[Candidate]:
    x, observed = task.x, task.observed
    if x.size != observed.size or x.ndim < 2 or x.ndim > 5 or not x.size:
        return
    if observed.ndim < 2 or x.shape[0] != observed.shape[0]:
        return
    letters = LETTERS[x.ndim]
    shape = observed.shape[1:]
    for order in _orders(letters):
        sizes = [x.shape[letters.index(letter)] for letter in order.split()]
        if _merges(sizes[1:], shape):
            plain = order.replace(" ", "") == letters
            yield {"cut": None, "order": order, "shape": shape}, 0.0 if plain else 0.2
    if x.ndim == 2 and 3 < observed.ndim < 6:  # a vector becomes a map
        for places in itertools.permutations(range(len(shape))):
            cut = tuple(shape[place] for place in places)
            order = " ".join(["n", *("pqrs"[places.index(axis)] for axis in range(len(shape)))])
            yield {"cut": cut, "order": order, "shape": shape}, 0.1 * (places[0] != len(shape) - 1)
    if observed.ndim > 2 and x.ndim < 5:
        cuts = {
            (n, x.shape[-1] // n) for n in (*shape, *(x.shape[-1] // n for n in shape)) if 1 < n < x.shape[-1]
        }
        for cut in sorted(one for one in cuts if math.prod(one) == x.shape[-1]):
            for order in _orders(letters[:-1] + "pq"):
                sizes = [
                    cut["pq".index(letter)] if letter in "pq" else x.shape[letters.index(letter)]
                    for letter in order.split()
                ]
                if _merges(sizes[1:], shape):
                    yield {"cut": cut, "order": order, "shape": shape}, 0.3


def _orders(letters: str) -> Iterator[str]:
    """Yield orders of axes in which the first one stays: unchanged, channels first, then the others."""
    rest = letters[1:]
    likely = [rest, rest[-1] + rest[:-1]]
    others = ("".join(order) for order in itertools.permutations(rest))
    for order in itertools.islice(dict.fromkeys([*likely, *others]), MAX_ORDERS):
        yield " ".join(letters[0] + order)


def _merges(sizes: list[int], shape: tuple[int, ...]) -> bool:
    """Return whether neighbouring sizes multiply to a shape."""
    place = 0
    for size in shape:
        product = 1
        while place < len(sizes) and (product < size or sizes[place] == 1):
            product *= sizes[place]
            place += 1
        if product != size:
            return False
    return place == len(sizes)


def _tokens(x: Array, weights: Mapping[str, Array], settings: Settings) -> Array:
    """Return one vector for each sample, x ``[n, .., c]``."""
    axes = tuple(range(1, x.ndim - 1))
    take = settings["take"]
    if take in ("first", "last"):
        return x.reshape(x.shape[0], -1, x.shape[-1])[:, 0 if take == "first" else -1]
    if take == "max":
        return np.asarray(np.max(x, axis=axes))
    return np.asarray(np.mean(x, axis=axes) if take == "mean" else np.sum(x, axis=axes))


def _tokens_candidates(task: Task) -> Iterator[Candidate]:
    x, observed = task.x, task.observed
    if x.ndim > 2 and observed.shape == (x.shape[0], x.shape[-1]):
        for place, take in enumerate(("first", "mean", "last", "max", "sum")):
            yield {"take": take}, 0.1 * place


def _part(x: Array, weights: Mapping[str, Array], settings: Settings) -> Array:
    """Return one of several equal parts of the features: neighbouring ones, or every n-th."""
    part, number = settings["part"], settings["parts"]
    size = x.shape[-1] // number
    return x[..., part::number] if settings["interleaved"] else x[..., part * size : (part + 1) * size]


def _part_candidates(task: Task) -> Iterator[Candidate]:
    x, observed = task.x, task.observed
    number = x.shape[-1] // max(observed.shape[-1], 1) if x.ndim and observed.ndim else 0
    if 2 <= number <= 9 and x.shape == (*observed.shape[:-1], observed.shape[-1] * number):
        for interleaved, part in itertools.product((False, True), range(number)):
            yield {"part": part, "parts": number, "interleaved": interleaved}, 0.1 * interleaved


REARRANGE = Family("rearrange", _rearrange_candidates, _rearrange)
TOKENS = Family("tokens", _tokens_candidates, _tokens)
PART = Family("part", _part_candidates, _part)
