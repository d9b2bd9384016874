"""Finds a tensor's content under other names, by probes and by sums of bits; no tensor is held for it."""

from __future__ import annotations

from collections.abc import Iterable, Set
from dataclasses import replace
from typing import Any

import numpy as np

from bridge_core.errors import BridgeError
from bridge_core.proof.differences.agreement import mapped
from bridge_core.proof.differences.between import relation_of
from bridge_core.proof.differences.blocks import bit_sum, elements, has_order, summary
from bridge_core.proof.differences.evidence import evidence_of
from bridge_core.proof.differences.relation import Relation
from bridge_core.proof.differences.value_maps import cast_map, is_castable
from bridge_core.state import Array, FlatState, Key, Tensor, TensorSpec

__all__ = ["known_relation", "OtherTensors"]

_PROBES = 48
_MOST_TRIES = 3
_MOST_COMPARISONS = 1_000_000
"""How many pairs of names are compared at most, so that the time stays in proportion to the tensors."""


def known_relation(left: Tensor, right: Tensor) -> Relation | None:
    """Return what `relation_of` does; None for tensors that cannot be read."""
    try:
        return relation_of(left, right)
    except BridgeError:
        return None


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
        self._by_start: dict[TensorSpec, dict[bytes, list[Key]]] = {}
        self._readable: dict[int, list[Key]] = {}
        self._sums: dict[tuple[int, str], dict[int, list[Key]]] = {}
        self._moments: dict[int, tuple[list[Key], Array]] = {}
        self._comparisons = _MOST_COMPARISONS

    def content_of(self, key: Key, right: Tensor, keys: Set[Key] | None = None) -> Relation | None:
        """Return the relation to another key's content; None if none is found, or if it proves nothing.

        Args:
            key: The right tensor's key; the left one of this name is not looked at.
            right: The right tensor.
            keys: The only left keys to look at; None for all.
        """
        try:
            return self._content_of(key, right, keys)
        except BridgeError:  # what cannot be read is not the same as anything
            return None

    def _content_of(self, key: Key, right: Tensor, allowed: Set[Key] | None) -> Relation | None:
        if right.spec.size < 2:
            return None
        places = np.random.default_rng(1).integers(0, right.spec.size, _PROBES)
        probe = elements(right, places)
        if not evidence_of(probe).prove_values():
            return None
        found = self._starting_as(right.spec, places, probe)
        for other in _by_likeness(key, _others(key, found, allowed)):
            if elements(self._tensors[other], places).tobytes() == probe.tobytes():
                relation = known_relation(self._tensors[other], right)
                if relation is not None and relation.kind == "equal":
                    return _of_other(other, relation)
        relation = self._by_sums(key, right, allowed) or self._by_moments(key, right, allowed)
        if relation is None and allowed is not None and self._comparisons > 0:
            self._comparisons -= len(allowed)
            relation = self._first(key, right, [other for other in allowed if self._may_be_cut(other, right)])
        return relation

    def _starting_as(self, spec: TensorSpec, places: Array, probe: Array) -> list[Key]:
        """Return the left tensors whose first probed elements are those of the right one; most have others.

        Args:
            spec: The spec of both.
            places: Where the elements are, the same for all tensors of one size.
            probe: The right tensor's elements.
        """
        known = self._by_start.get(spec)
        if known is None:
            known = self._by_start[spec] = {}
            for key in self._of_spec.get(spec, ()):
                start = elements(self._tensors[key], places[:2]).tobytes()
                known.setdefault(start, []).append(key)
        return known.get(probe[:2].tobytes(), [])

    def _candidates(self, size: int) -> list[Key]:
        """Return the left keys of a size that may be read completely."""
        if size not in self._readable:
            self._readable[size] = [key for key in self._of_size.get(size, ()) if self._may_read(key)]
        return self._readable[size]

    def _may_be_cut(self, key: Key, right: Tensor) -> bool:
        """Return whether the shapes differ along one axis only, as those of padded tensors do."""
        ours, theirs = self._tensors[key].spec, right.spec
        if len(ours.shape) != len(theirs.shape) or ours.dtype != theirs.dtype:
            return False
        return sum(one != other for one, other in zip(ours.shape, theirs.shape, strict=True)) == 1

    def _may_read(self, key: Key) -> bool:
        """Return whether a tensor may be read completely; from then on it may."""
        if key not in self._near:
            nbytes = self._tensors[key].spec.nbytes
            if nbytes > self._budget:
                return False
            self._budget -= nbytes
            self._near[key] = None
        return True

    def _by_sums(self, key: Key, right: Tensor, allowed: Set[Key] | None) -> Relation | None:
        """Compare those whose elements have the same sum of bits, as moved elements have."""
        at = (right.spec.size, right.spec.dtype.name)
        if at not in self._sums:
            self._sums[at] = {}
            for other in self._candidates(right.spec.size):
                self._sums[at].setdefault(self._sum(other, right.spec.dtype), []).append(other)
        alike = self._sums[at].get(bit_sum(right), []) if self._sums[at] else []
        return self._first(key, right, _others(key, alike, allowed))

    def _by_moments(self, key: Key, right: Tensor, allowed: Set[Key] | None) -> Relation | None:
        """Compare those with nearly the same mean and spread, as rounded or negated elements have."""
        if not has_order(right.spec.dtype):
            return None
        size = right.spec.size
        if size not in self._moments:
            keys = [k for k in self._candidates(size) if has_order(self._tensors[k].spec.dtype)]
            parts = [summary(self._tensors[k]) for k in keys]
            values = np.array([[abs(part.mean), part.spread] for part in parts]).reshape(-1, 2)
            self._moments[size] = keys, values
        keys, values = self._moments[size]
        if not keys:
            return None
        whole = summary(right)
        slack = 1e-3 * (whole.spread + abs(whole.mean) / 100)
        near = np.all(np.abs(values - [abs(whole.mean), whole.spread]) <= slack, axis=1)
        return self._first(key, right, _others(key, (keys[n] for n in np.flatnonzero(near)), allowed))

    def _first(self, key: Key, right: Tensor, others: list[Key]) -> Relation | None:
        self._comparisons -= len(others)
        if self._comparisons < 0:
            return None
        for other in _by_likeness(key, others)[:_MOST_TRIES]:
            relation = known_relation(self._tensors[other], right)
            if relation is not None:
                return _of_other(other, relation)
        return None

    def _sum(self, key: Key, dtype: np.dtype[Any]) -> int:
        left = self._tensors[key]
        if not is_castable(left.spec.dtype, dtype):
            return -1
        return bit_sum(mapped(left, cast_map(left.spec.dtype, dtype).apply, dtype))


def _others(key: Key, keys: Iterable[Key], allowed: Set[Key] | None) -> list[Key]:
    return [other for other in keys if other != key and (allowed is None or other in allowed)]


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
