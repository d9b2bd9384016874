"""The search for concatenations: the observed array is read piece by piece."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from bridge_core.proof.causes.activations import ACTIVATIONS
from bridge_core.proof.causes.expressions import Expression, Term
from bridge_core.proof.causes.measures import fits
from bridge_core.proof.causes.search import POINTWISE, Search, activation
from bridge_core.state import Array

__all__ = ["concatenations"]

FUNCTIONS = (None, *POINTWISE, "sin", "cos")
MOST_PIECES = 6
FEW = 64


@dataclass(frozen=True, eq=False)
class _Piece:
    name: str
    array: Array
    weight: bool


def concatenations(search: Search) -> Iterator[Expression]:
    """Yield concatenations of recorded arrays, their activations, and weights repeated for each sample."""
    observed = search.observed
    if observed.dtype.kind != "f":
        return
    for axis in range(-1, -observed.ndim, -1):
        pieces = list(_pieces(search, axis))
        for terms in _read(search, pieces, axis, 0, ()):
            plain = sum(not term.steps for term in terms)
            yield Expression(terms, "concat", axis=axis, cost=2 * len(terms) - plain)
            return


def _pieces(search: Search, axis: int) -> Iterator[_Piece]:
    shape = search.observed.shape
    for name in search.bases:
        array = search.arrays[name]
        if array.ndim == len(shape) and array.dtype.kind == "f" and _between(array.shape, shape, axis):
            yield _Piece(name, array, False)
    for name, weight in search.weights.items():
        if not weight.size or weight.shape[-1:] != shape[-1:] or axis == -1:
            continue
        wide = weight.reshape((1,) * (len(shape) - weight.ndim) + weight.shape)
        full = (shape[0], *wide.shape[1:])
        if wide.ndim == len(shape) and wide.shape[0] == 1 and _between(full, shape, axis):
            yield _Piece(f"weight {name}", np.broadcast_to(wide, full), True)


def _between(shape: tuple[int, ...], whole: tuple[int, ...], axis: int) -> bool:
    """Return whether an array may be a piece of another one."""
    rest, others = list(shape), list(whole)
    return 0 < rest.pop(axis) < others.pop(axis) and rest == others


def _read(
    search: Search, pieces: list[_Piece], axis: int, place: int, terms: tuple[Term, ...]
) -> Iterator[tuple[Term, ...]]:
    """Yield the pieces from a place on along the axis, after those that were read before it."""
    whole = search.observed.shape[axis]
    if place == whole:
        if len(terms) > 1 and not all(term.base.startswith("weight ") for term in terms):
            yield terms
        return
    if len(terms) == MOST_PIECES:
        return
    for piece in pieces:
        length = piece.array.shape[axis]
        if place + length > whole:
            continue
        index = [slice(None)] * search.observed.ndim
        index[axis % len(index)] = slice(place, place + length)
        for name in _functions(search, piece, search.observed[tuple(index)]):
            steps = () if name is None else (activation(name),)
            yield from _read(search, pieces, axis, place + length, (*terms, Term(piece.name, steps)))


def _functions(search: Search, piece: _Piece, seen: Array) -> Iterator[str | None]:
    """Yield the first function of a piece that gives what was seen."""
    step = max(1, seen.size // FEW)
    few = np.unravel_index(np.arange(0, seen.size, step), seen.shape)
    scale = search.limit * float(np.max(np.abs(search.observed)))
    x, y = piece.array[few], seen[few]
    for name in FUNCTIONS[:1] if piece.weight else FUNCTIONS:
        if not search.work.allows(4 * x.size):
            return
        with np.errstate(all="ignore"):
            if not np.max(np.abs((x if name is None else ACTIVATIONS[name](x)) - y)) <= scale:
                continue
            value = piece.array if name is None else ACTIVATIONS[name](piece.array)
        if fits(value, seen, max(search.limit, scale / max(float(np.max(np.abs(seen))), 1e-30))):
            yield name
            return
