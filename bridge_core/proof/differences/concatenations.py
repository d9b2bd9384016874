"""Tensors that are several others one after another, as a fused qkv is its three parts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from bridge_core.errors import BridgeError
from bridge_core.ops import Permute, chain_tensors
from bridge_core.proof.differences.blocks import bits_of, blocks, elements, held
from bridge_core.proof.differences.changed_parts import part_of
from bridge_core.proof.differences.evidence import evidence_of
from bridge_core.proof.differences.relation import Relation
from bridge_core.state import Key, Tensor, join_key

__all__ = ["Concatenations"]

_MOST_PARTS = 64
_MOST_TRIES = 3
"""How many tensors with the right first elements are compared at each place."""

_SAMPLE = 256

_LISTED = 8

Layout = tuple[int, bool]
"""The axis of a concatenation, and whether its parts are transposed before."""


class Concatenations:
    """The left state's tensors of which a right one may consist.

    Args:
        tensors: Key -> tensor. A few elements of each are read, and all of those that seem to be parts.
    """

    def __init__(self, tensors: Mapping[Key, Tensor]) -> None:
        self._tensors = tensors
        self._starting: dict[object, dict[bytes, list[tuple[Key, Tensor]]]] = {}

    def of(self, right: Tensor) -> Relation | None:
        """Return the relation of a tensor to the tensors that it consists of; None if it does not.

        Every element is compared, by its bits; each part must prove by its values that it is the one.

        Args:
            right: The right tensor.
        """
        try:
            return self._of(held(right)) if len(self._tensors) > 1 and right.spec.size > 1 else None
        except BridgeError:  # what cannot be read is not the same as anything
            return None

    def _of(self, right: Tensor) -> Relation | None:
        rank = len(right.spec.shape)
        layouts = [(axis, turned) for turned in (False, True)[: 1 + (rank == 2)] for axis in range(rank)]
        for axis, turned in layouts:
            parts = self._parts(right, axis, turned)
            if parts:
                return _relation(parts, axis, turned)
        return None

    def _parts(self, right: Tensor, axis: int, turned: bool) -> list[Key]:
        """Return the keys of the parts along an axis, in order; empty if they do not make up all of it."""
        shape = right.spec.shape
        starting = self._index(right, axis, turned)
        parts: list[Key] = []
        at = 0
        while starting and at < shape[axis] and len(parts) < _MOST_PARTS:
            start = elements(right, _first_places(shape, axis, at)).tobytes()
            fitting = [
                (key, part)
                for key, part in starting.get(start, ())
                if key not in parts and at + part.spec.shape[axis] <= shape[axis]
            ]
            longest = sorted(fitting, key=lambda one: -one[1].spec.shape[axis])[:_MOST_TRIES]
            match = next(((key, part) for key, part in longest if _is_at(part, right, axis, at)), None)
            if match is None:
                return []
            parts.append(match[0])
            at += match[1].spec.shape[axis]
        return parts if at == shape[axis] and len(parts) > 1 else []

    def _index(self, right: Tensor, axis: int, turned: bool) -> dict[bytes, list[tuple[Key, Tensor]]]:
        """Return the tensors of which the right one may consist, by their first elements."""
        shape, dtype = right.spec.shape, right.spec.dtype
        across = (*shape[:axis], *shape[axis + 1 :])
        at = (dtype, len(shape), axis, turned, across)
        if at not in self._starting:
            index = self._starting[at] = {}
            for key, tensor in self._fitting(right, turned):
                size = tensor.spec.shape
                if size[axis] and (*size[:axis], *size[axis + 1 :]) == across:
                    start = elements(tensor, _first_places(size, axis, 0)).tobytes()
                    index.setdefault(start, []).append((key, tensor))
        return self._starting[at]

    def _fitting(self, right: Tensor, turned: bool) -> Iterator[tuple[Key, Tensor]]:
        for key, tensor in self._tensors.items():
            if tensor.spec.dtype == right.spec.dtype and len(tensor.spec.shape) == len(right.spec.shape):
                yield key, chain_tensors((tensor,), (Permute((1, 0)),))[0] if turned else tensor


def _first_places(shape: tuple[int, ...], axis: int, at: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Return the places of two elements of one slice: its first and its last."""
    ends = (
        [at if n == axis else 0 for n in range(len(shape))],
        [at if n == axis else size - 1 for n, size in enumerate(shape)],
    )
    return np.array([np.ravel_multi_index(end, shape) for end in ends])


def _is_at(part: Tensor, right: Tensor, axis: int, at: int) -> bool:
    """Return whether a part is in the right tensor from some place on, and its values prove it."""
    shape = right.spec.shape
    stop = at + part.spec.shape[axis]
    box = tuple(slice(at, stop, 1) if n == axis else slice(0, size, 1) for n, size in enumerate(shape))
    there = part_of(right, box)
    places = np.random.default_rng(0).integers(0, part.spec.size, min(_SAMPLE, part.spec.size))
    sample = elements(there, places)
    if not evidence_of(sample).prove_values() or elements(part, places).tobytes() != sample.tobytes():
        return False
    return all(
        np.array_equal(bits_of(part.read(region)), bits_of(there.read(region)))
        for region in blocks(part, square=True)
    )


def _relation(parts: Sequence[Key], axis: int, turned: bool) -> Relation:
    names = [join_key(key) for key in parts]
    first = "transposed and " if turned else ""
    arrays = ", ".join(f"left[{name!r}]{'.T' if turned else ''}" for name in names)
    return Relation(
        "concatenated",
        f"{first}concatenated from {_in_order(names)} along axis {axis}",
        f"right = np.concatenate([{arrays}], axis={axis})",
        ("transposed", "concatenated") if turned else ("concatenated",),
        others=tuple(parts),
    )


def _in_order(names: Sequence[str]) -> str:
    """Return names in their order, of many the first two and the last."""
    if len(names) <= _LISTED:
        return f"{', '.join(names[:-1])} and {names[-1]}"
    return f"{names[0]}, {names[1]}, ... and {names[-1]} ({len(names)} tensors)"
