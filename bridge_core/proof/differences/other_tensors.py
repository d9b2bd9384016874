"""Finds a tensor's content under other names, by probes and by sums of bits; no tensor is held for it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from bridge_core.errors import BridgeError
from bridge_core.proof.differences.agreement import mapped
from bridge_core.proof.differences.between import known_relation
from bridge_core.proof.differences.blocks import bit_sum, elements, has_order, summary
from bridge_core.proof.differences.evidence import evidence_of
from bridge_core.proof.differences.relation import Relation
from bridge_core.proof.differences.value_maps import cast_map
from bridge_core.state import Array, FlatState, Key, Tensor, TensorSpec

__all__ = ["OtherTensors"]

_PROBES = 48
_MOST_TRIES = 3


class OtherTensors:
    """The left state's tensors, looked up by content.

    Args:
        state: The left state.
        near: Keys whose content is read completely where another tensor's size fits: those that differ, or
            that only the left state has.
        budget: How many bytes of all others may be read; of the rest only a few elements are.
    """

    def __init__(self, state: FlatState, near: Iterable[Key], budget: int) -> None:
        self._tensors = state.tensors()
        self._near = dict.fromkeys(near)
        self._budget = budget
        self._of_size: dict[int, list[Key]] = {}
        self._of_spec: dict[TensorSpec, list[Key]] = {}
        for key, tensor in self._tensors.items():
            self._of_spec.setdefault(tensor.spec, []).append(key)
            self._of_size.setdefault(tensor.spec.size, []).append(key)
        self._sums: dict[tuple[Key, str], int] = {}
        self._moments: dict[Key, tuple[float, float]] = {}

    def content_of(self, key: Key, right: Tensor, keys: Iterable[Key] | None = None) -> Relation | None:
        """Return the relation to another key's content; None if none is found, or if it proves nothing.

        Args:
            key: The right tensor's key; the left one of this name is not looked at.
            right: The right tensor.
            keys: The only left keys to look at; None for all.
        """
        try:
            return self._content_of(key, right, None if keys is None else set(keys))
        except BridgeError:  # what cannot be read is not the same as anything
            return None

    def _content_of(self, key: Key, right: Tensor, allowed: set[Key] | None) -> Relation | None:
        if right.spec.size < 2:
            return None
        places = np.random.default_rng(1).integers(0, right.spec.size, _PROBES)
        probe = elements(right, places)
        if not evidence_of(probe).prove_values():
            return None
        others = [
            other
            for other in self._of_spec.get(right.spec, ())
            if other != key and (allowed is None or other in allowed)
        ]
        for other in _by_likeness(key, others):
            if self._holds(other, places, probe):
                relation = known_relation(self._tensors[other], right)
                if relation is not None and relation.kind == "equal":
                    return _of_other(other, relation)
        candidates = [
            other
            for other in _by_likeness(key, self._of_size.get(right.spec.size, ()))
            if other != key and (allowed is None or other in allowed) and self._may_read(other)
        ]
        relation = None
        if candidates:
            relation = self._by_sums(key, right, candidates) or self._by_moments(key, right, candidates)
        if relation is None and allowed is not None:
            relation = self._first(key, right, [other for other in allowed if self._may_be_cut(other, right)])
        return relation

    def _may_be_cut(self, key: Key, right: Tensor) -> bool:
        """Return whether the shapes differ along one axis only, as those of padded tensors do."""
        ours, theirs = self._tensors[key].spec, right.spec
        if len(ours.shape) != len(theirs.shape) or ours.dtype != theirs.dtype:
            return False
        return sum(one != other for one, other in zip(ours.shape, theirs.shape, strict=True)) == 1

    def _holds(self, key: Key, places: Array, probe: Array) -> bool:
        """Return whether a left tensor has some elements; most do not have the first two."""
        parts = (slice(0, 2), slice(2, None))
        return all(
            elements(self._tensors[key], places[part]).tobytes() == probe[part].tobytes() for part in parts
        )

    def _may_read(self, key: Key) -> bool:
        """Return whether a tensor may be read completely; from then on it may."""
        if key not in self._near:
            nbytes = self._tensors[key].spec.nbytes
            if nbytes > self._budget:
                return False
            self._budget -= nbytes
            self._near[key] = None
        return True

    def _by_sums(self, key: Key, right: Tensor, candidates: list[Key]) -> Relation | None:
        """Compare those whose elements have the same sum of bits, as moved elements have."""
        total = bit_sum(right)
        alike = [other for other in candidates if self._sum(other, right) == total]
        return self._first(key, right, alike)

    def _by_moments(self, key: Key, right: Tensor, candidates: list[Key]) -> Relation | None:
        """Compare those with nearly the same mean and spread, as rounded or negated elements have."""
        if not has_order(right.spec.dtype):
            return None
        whole = summary(right)
        near = []
        for other in candidates:
            if not has_order(self._tensors[other].spec.dtype):
                continue
            if other not in self._moments:
                ours = summary(self._tensors[other])
                self._moments[other] = ours.mean, ours.spread
            mean, spread = self._moments[other]
            slack = 1e-3 * (whole.spread + abs(whole.mean) / 100)
            if abs(spread - whole.spread) <= slack and abs(abs(mean) - abs(whole.mean)) <= slack:
                near.append(other)
        return self._first(key, right, near)

    def _first(self, key: Key, right: Tensor, others: list[Key]) -> Relation | None:
        for other in _by_likeness(key, others)[:_MOST_TRIES]:
            relation = known_relation(self._tensors[other], right)
            if relation is not None:
                return _of_other(other, relation)
        return None

    def _sum(self, key: Key, right: Tensor) -> int:
        left, dtype = self._tensors[key], right.spec.dtype
        if (key, dtype.name) not in self._sums:
            cast = cast_map(left.spec.dtype, dtype)
            self._sums[key, dtype.name] = bit_sum(mapped(left, cast.apply, dtype))
        return self._sums[key, dtype.name]


def _of_other(key: Key, relation: Relation) -> Relation:
    kinds = () if relation.kind == "equal" else relation.kinds
    return replace(relation, kind="other tensor", kinds=("other tensor", *kinds), other=key)


def _by_likeness(key: Key, others: Iterable[Key]) -> list[Key]:
    """Return keys with most parts in common first."""

    def unlike(other: Key) -> int:
        end = next(
            (n for n, (one, two) in enumerate(zip(key[::-1], other[::-1], strict=False)) if one != two),
            min(len(key), len(other)),
        )
        return -end - sum(one == two for one, two in zip(key, other, strict=False))

    return sorted(others, key=unlike)
