"""Finds what turned one tensor into another: cheap questions first, then every element.

The first relation that holds is named, in the order of simplicity: the same values in other places; other
values in the same places; both; a part of the values; the same values in an order without a name. What few or
equal values could show by chance is not named.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial

import numpy as np

from bridge_core.errors import UsageError
from bridge_core.proof.differences.agreement import EXACTLY, Within, fits_elements, largest_error, mapped
from bridge_core.proof.differences.blocks import (
    Summary,
    bits_of,
    elements,
    has_order,
    held,
    summary,
)
from bridge_core.proof.differences.candidates import (
    only_places,
    reshaping_moves,
    simple_moves,
    strided_moves,
)
from bridge_core.proof.differences.changed_parts import relation_in_parts
from bridge_core.proof.differences.evidence import ENOUGH, Evidence, evidence_of
from bridge_core.proof.differences.moves import Move, MoveName, identity
from bridge_core.proof.differences.partial_moves import (
    name_partial,
    partial_moves,
    picks_along,
    rows_found,
    share_values,
)
from bridge_core.proof.differences.relation import Relation
from bridge_core.proof.differences.slices import moves_by_slices, row_sums
from bridge_core.proof.differences.value_maps import (
    SAME,
    ValueMap,
    byte_swap,
    cast_map,
    fitted_maps,
    is_castable,
    rounding_maps,
)
from bridge_core.state import Array, Tensor, as_tensor, regions

__all__ = ["relation_between", "relation_of"]

_SAMPLE = 64
_MOST_RESHAPES = 4000
_UNORDERED = (("squared",), ("reciprocal",))
"""What cannot be told from the smallest and the largest value, so that it is not tried in other places."""
_BY_ROWS = ("swapped parts", "permuted")
"""What names the rows one by one where only one part was flipped."""


def relation_between(left: Array, right: Array, *, tolerance: float = 0.0) -> Relation | None:
    """Return what turned one array into another, or None if nothing is known to hold.

    A relation holds for every element. The same values in other places are compared by their bits; scaled
    and shifted values within the rounding of the dtype, which `Relation.error` states. Arrays that are equal
    give the kind ``"equal"``; arrays of few, equal or small values give None, since many relations hold.

    Args:
        left: An array of numbers or booleans; it is not written to.
        right: Another, of any shape and dtype.
        tolerance: How far values may differ, as a share of the largest absolute value of ``right``; with
            0.0 bits count.

    Raises:
        UnsupportedFeature: A value is not an array of numbers or booleans.
        UsageError: The tolerance is negative or not finite.

    >>> weight = np.arange(12.0).reshape(3, 4) + 0.1
    >>> relation_between(weight, np.ascontiguousarray(weight.T)).code
    'right = left.transpose(1, 0)'
    """
    if not (isinstance(tolerance, int | float) and 0 <= tolerance < math.inf):
        raise UsageError(f"expected tolerance= to be a number from 0 on, got {tolerance!r}.")
    return relation_of(as_tensor(left), as_tensor(right), tolerance=float(tolerance))


def relation_of(left: Tensor, right: Tensor, *, tolerance: float = 0.0) -> Relation | None:
    """Return what turned one tensor into another; see `relation_between`.

    A tensor that does not fit into the memory that is spared for it is read several times, by blocks.
    """
    return _relation_of(left, right, tolerance)


def _relation_of(left: Tensor, right: Tensor, tolerance: float, *, is_part: bool = False) -> Relation | None:
    if not left.spec.size or not right.spec.size:
        return None
    left, right = held(left), held(right)
    ours, theirs = summary(left), summary(right)
    search = _Search(left, right, ours, theirs, tolerance)
    search.is_part = is_part
    found = search.relation()
    if found is not None or search.hopeless:
        return found
    return _Search(right, left, theirs, ours, tolerance).reverse_relation()


class _Search:
    """What is known of a pair of tensors while it is searched."""

    def __init__(self, left: Tensor, right: Tensor, ours: Summary, theirs: Summary, tolerance: float) -> None:
        self.left, self.right = left, right
        self.ours, self.theirs = ours, theirs
        self.absolute = tolerance * self.theirs.largest
        self.tolerance = tolerance
        self.hopeless = self.is_part = False
        self.same_shape = left.spec.shape == right.spec.shape
        self.same_size = left.spec.size == right.spec.size
        self.places = self._places()
        self.evidence = evidence_of(elements(right, self.places), self.absolute)
        self.cast = cast_map(left.spec.dtype, right.spec.dtype)

    def _places(self) -> Array:
        size = self.right.spec.size
        if size <= 4096:
            return np.arange(size)
        count = 4096 if _in_memory(self.right) else 256
        return np.random.default_rng(0).integers(0, size, count)

    def relation(self) -> Relation | None:
        if self.same_shape and self._equal():
            return Relation("equal", "equal", "right = left", ("equal",))
        if self.ours.constant or self.theirs.constant:
            self.hopeless = True
            return self._constant()
        if not self.evidence.prove_values():
            self.hopeless = True
            return None
        if not is_castable(self.left.spec.dtype, self.right.spec.dtype):
            return None
        for finder in (self._moved, self._changed, self._in_parts, self._changed_and_moved, self._partial):
            found = finder()
            if found is not None:
                flipped = self._in_parts() if found.kind in _BY_ROWS else None
                return flipped if flipped is not None and "flipped" in flipped.kinds else found
        return self._reordered()

    def reverse_relation(self) -> Relation | None:
        """Return a rounding or a cast that turned the right tensor into the left one."""
        if not is_castable(self.left.spec.dtype, self.right.spec.dtype):
            return None
        for value_map in self._roundings():
            relation = self._with(value_map)
            if relation is not None:
                return Relation(
                    relation.kind,
                    relation.text,
                    relation.code.replace("left", "LEFT").replace("right", "left").replace("LEFT", "right"),
                    relation.kinds,
                    relation.error,
                    reverse=True,
                )
        return None

    def _equal(self) -> bool:
        if self.tolerance:
            within = Within(self.absolute)
            straight = identity(self.right.spec.shape)
            return self._error(straight, SAME, within) is not None
        if self.left.spec.dtype != self.right.spec.dtype or self.ours.bits != self.theirs.bits:
            return False
        return self._error(identity(self.right.spec.shape), SAME, EXACTLY) is not None

    def _constant(self) -> Relation | None:
        """Name a tensor that holds one value in place of many, as one that was never loaded."""
        if self.ours.constant == self.theirs.constant:
            return None
        tensor = self.right if self.theirs.constant else self.left
        if tensor.spec.size < 8:
            return None
        value = elements(tensor, np.zeros(1, np.int64))[0]
        side = "right" if self.theirs.constant else "left"
        text = f"never loaded, every value is {value}"
        code = f"{side} = np.full({list(tensor.spec.shape)}, {value})"
        return Relation("constant", text, code, ("constant",), reverse=side == "left")

    # The same values in other places.

    def _moved(self) -> Relation | None:
        """Name a move of unchanged values, or of values that were cast."""
        if not self.same_size:
            return None
        return self._move_of(self.cast)

    def _move_of(self, value_map: ValueMap) -> Relation | None:
        for move in self._moves(value_map):
            found = self._try(move, value_map)
            if found is not None:
                return found
        return None

    def _moves(self, value_map: ValueMap) -> Iterator[Move]:
        """Yield moves that may be, the simplest first; None if the values are not the same."""
        left, right = self.left.spec.shape, self.right.spec.shape
        exact = not self._within(value_map).absolute and value_map.within.bits
        changed = mapped(self.left, value_map.apply, value_map.dtype or np.dtype(np.float64))
        if value_map.within.bits and not self.tolerance:
            total = self.ours if value_map.apply is None else summary(changed)
            if total.bits != self.theirs.bits:
                return
        elif self.tolerance and value_map is SAME and not self._alike():
            return
        if not self.evidence.prove_order():
            return
        yield from simple_moves(left, right)
        if len(left) == len(right):
            near = 0.0 if exact else max(1e-5, 16 * self.tolerance)
            ours, theirs = row_sums(changed, exact=exact), row_sums(self.right, exact=exact)
            yield from moves_by_slices(ours, theirs, near=near)
        for count, move in enumerate(reshaping_moves(left, right)):
            if count > _MOST_RESHAPES:
                break
            yield move
        if exact:
            yield from strided_moves(left, right, only_places(changed, self.right))

    def _alike(self) -> bool:
        """Return whether both tensors may hold the same values within the tolerance."""
        slack = 2 * self.absolute
        return all(
            abs(one - other) <= slack
            for one, other in (
                (self.ours.least, self.theirs.least),
                (self.ours.most, self.theirs.most),
                (self.ours.mean, self.theirs.mean),
            )
        )

    # Other values in the same places, and both.

    def _value_maps(self) -> Iterator[ValueMap]:
        left, right = self.left.spec.dtype, self.right.spec.dtype
        if left == right:
            swapped = byte_swap(right)
            if swapped is not None and not self.tolerance:
                yield swapped
        yield from self._roundings()
        if left.kind != "b" and has_order(left):
            yield from fitted_maps(self.ours, self.theirs, right, self.absolute)

    def _wild(self) -> bool:
        """Return whether the ranges of the two have nothing to do with each other."""
        ours, theirs = self.ours, self.theirs
        return ours.finite != theirs.finite or not 1e-3 < (ours.largest or 1) / (theirs.largest or 1) < 1e3

    def _roundings(self) -> Iterator[ValueMap]:
        if self.cast is not SAME:
            yield self.cast
        elif not self.tolerance:
            yield from rounding_maps(self.right.spec.dtype, self.ours, self.theirs)

    def _changed(self) -> Relation | None:
        """Name what was done to each value, at its place."""
        if not self.same_shape:
            return None
        straight = identity(self.right.spec.shape)
        relations = (self._try(straight, value_map) for value_map in self._value_maps())
        return next((relation for relation in relations if relation is not None), None)

    def _changed_and_moved(self) -> Relation | None:
        if not self.same_size:
            return None
        relations = (
            self._move_of(value_map)
            for value_map in self._value_maps()
            if value_map is not self.cast
            and value_map.kinds not in _UNORDERED
            and (value_map.kinds != ("byte order",) or self._wild())
        )
        return next((relation for relation in relations if relation is not None), None)

    def _with(self, value_map: ValueMap) -> Relation | None:
        if self.same_shape:
            found = self._try(identity(self.right.spec.shape), value_map)
            if found is not None:
                return found
        return self._move_of(value_map) if self.same_size else None

    # A part of the values.

    def _in_parts(self) -> Relation | None:
        """Name what was done to one part, or the same to several, where all else is equal."""
        if self.is_part or not self._some_equal():
            return None
        relate = partial(_relation_of, tolerance=0.0, is_part=True)
        return relation_in_parts(self.left, self.right, self.theirs.largest, relate)

    def _some_equal(self) -> bool:
        """Return whether bits count, and some elements of the sample are equal at their places."""
        if self.tolerance or not self.same_shape or self.left.spec.dtype != self.right.spec.dtype:
            return False
        mine, theirs = elements(self.left, self.places), elements(self.right, self.places)
        return bool((bits_of(mine) == bits_of(theirs)).any())

    def _partial(self) -> Relation | None:
        if self.is_part or (self.left.spec.dtype != self.right.spec.dtype and not self.cast.apply):
            return None
        left, right = self.left.spec.shape, self.right.spec.shape
        for move in partial_moves(left, right):
            relation = self._try(move, self.cast)
            if relation is not None:
                return relation
        if self.tolerance or len(left) != len(right):
            return None
        changed = mapped(self.left, self.cast.apply, self.cast.dtype)
        sample = self.places[:: max(1, len(self.places) // 16)]
        if not share_values(changed, elements(self.right, sample)):
            return None
        for move in rows_found(row_sums(changed), row_sums(self.right), right):
            relation = self._try(move, self.cast)
            if relation is not None:
                return relation
        return None

    def _reordered(self) -> Relation | None:
        """Say that the values are the same, where the order has no name."""
        if self.tolerance or not self.same_size or self.left.spec.dtype != self.right.spec.dtype:
            return None
        if self.ours.bits != self.theirs.bits or self.evidence.digits < ENOUGH:
            return None
        if not (_in_memory(self.left) and _in_memory(self.right)):
            return None
        one, other = (
            np.sort(bits_of(tensor.read(regions.full(tensor.spec.shape))).reshape(-1))
            for tensor in (self.left, self.right)
        )
        if not np.array_equal(one, other):
            return None
        text = "reordered, the same values in an order without a name"
        return Relation("reordered", text, "np.sort(right, None) = np.sort(left, None)", ("reordered",))

    def _within(self, value_map: ValueMap) -> Within:
        within = value_map.within
        return Within(self.absolute, within.relative) if self.tolerance and within.bits else within

    def _error(self, move: Move, value_map: ValueMap, within: Within) -> float | None:
        sample = self.places[:: max(1, len(self.places) // _SAMPLE)]
        if not fits_elements(self.left, self.right, sample, move, value_map.apply, within):
            return None
        return largest_error(self.left, self.right, move, value_map.apply, within)

    def _try(self, move: Move, value_map: ValueMap) -> Relation | None:
        error = self._error(move, value_map, self._within(value_map))
        if error is None:
            return None
        name = name_partial(move, self.left, self.right) if picks_along(move) else move.name()
        if not self._proven(move, value_map, name):
            return None
        known = (move.places(self.places) >= 0).mean() if move.partial else 1.0
        if known < 0.5 and "other values" in name.texts[-1]:
            return None
        kinds = (*value_map.kinds, *name.kinds)
        if not kinds:
            return None
        text = " and ".join((*name.texts, *((value_map.text,) if value_map.text else ())))
        code = name.code.replace("{}", value_map.code.replace("{}", "left"))
        code = code if code.startswith("right[") else f"right = {code}"
        share = error / self.theirs.largest if self.theirs.largest else error
        return Relation(kinds[0] if not name.kinds else name.kinds[0], text, code, kinds, share)

    def _proven(self, move: Move, value_map: ValueMap, name: MoveName) -> bool:
        evidence = self._evidence(move, self._within(value_map))
        if not value_map.kinds and not name.kinds:
            return False
        if value_map.parameters and not evidence.prove_values(value_map.parameters):
            return False
        if name.kinds:
            bits = name.bits * (len(self.places) / self.right.spec.size) + 24 * value_map.parameters
            return evidence.prove_order(bits)
        return evidence.prove_values()

    def _evidence(self, move: Move, within: Within) -> Evidence:
        """Return what those elements prove that differ, or that a partial move explains."""
        places = self.places
        if move.partial:
            places = places[move.places(places) >= 0]
        elif self.same_shape:
            mine, theirs = elements(self.left, places), elements(self.right, places)
            if mine.dtype == theirs.dtype:
                places = places[bits_of(mine) != bits_of(theirs)]
        tolerance = within.absolute + within.relative * self.theirs.largest
        return evidence_of(elements(self.right, places), tolerance)


def _in_memory(tensor: Tensor) -> bool:
    return hasattr(tensor, "array")
