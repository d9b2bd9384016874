"""From a solved equation to ops.

Every left tensor is cut into pieces, the pieces are put in the order of the right side, and every right
tensor is joined by the inverse of the ops that would cut it. So the chains of an equation and of its inverse
undo each other. A repeated axis cuts a tensor into pieces that are the same: they are copies on the right,
and must be equal on the left. Ops without an effect are left out.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from bridge_core.axes.layout import Layout, layout_ops
from bridge_core.axes.sizes import Solver
from bridge_core.axes.structure import Axes, Factors, Parts, Structure, layouts
from bridge_core.ops import (
    Duplicate,
    Op,
    Parallel,
    Reorder,
    RequireEqual,
    Reshape,
    Split,
    Unstack,
    inverse_chain,
    simplify_chain,
)

__all__ = ["compiled"]

Chain = tuple[Op, ...]
Place = tuple[tuple[str, int], ...]
"""The index of a tensor along the list axes of its term."""
Identity = tuple[frozenset[str], tuple[int, ...]]
"""Which piece: its axis names, list axes included, and its place along the list axes of either side.

Repeated axes are left out.
"""


@dataclass(frozen=True)
class _Piece:
    layout: Layout
    names: frozenset[str]
    place: Place


def compiled(
    structure: Structure,
    solver: Solver,
    inputs: Sequence[tuple[int, Place]],
    outputs: Sequence[tuple[int, Place]],
) -> Chain:
    """Return the chain from the left tensors to the right ones.

    Args:
        structure: The meaning of the equation.
        solver: The sizes of all axes.
        inputs: For each left tensor, its term and its place.
        outputs: For each right tensor, its term and its place.
    """
    cutter = _Cutter(structure, solver)
    list_axes = structure.list_axes
    left = [cutter.tensor(structure.left[term], list_axes.left[term], place) for term, place in inputs]
    right = [cutter.tensor(structure.right[term], list_axes.right[term], place) for term, place in outputs]
    makes = [piece for _, pieces in left for piece in pieces]
    takes = [piece for _, pieces in right for piece in pieces]
    left_ids, right_ids = [cutter.identity(p) for p in makes], [cutter.identity(p) for p in takes]
    position: dict[Identity, int] = {}
    between: dict[Identity, Layout] = {}
    for identity, piece in zip(right_ids, takes, strict=True):
        position.setdefault(identity, len(position))
        between.setdefault(identity, piece.layout)
    grouped = sorted(range(len(left_ids)), key=lambda i: position[left_ids[i]])
    spread = sorted(range(len(right_ids)), key=lambda i: position[right_ids[i]])

    cuts = []
    for chain, pieces in left:
        moved = [cutter.moved(p.layout, between[cutter.identity(p)]) for p in pieces]
        cuts.append(simplify_chain((*chain, *_lanes(moved))))
    ties, copies = [], []
    tied, copied = _by_position(left_ids, position), _by_position(right_ids, position)
    for identity, at in position.items():
        ties.append((RequireEqual(len(tied[at])),) if len(tied[at]) > 1 else ())
        moved = [cutter.moved(between[identity], takes[i].layout) for i in copied[at]]
        copies.append((Duplicate(len(moved)), *_lanes(moved)) if len(moved) > 1 else ())
    joins = [inverse_chain(chain) for chain, _ in right]
    return simplify_chain(
        (
            *_lanes(cuts),
            Reorder(tuple(grouped)),
            *_lanes(ties, [len(group) for group in tied]),
            *_lanes(copies),
            Reorder(tuple(spread)).inverse(),
            *_lanes(joins, [len(pieces) for _, pieces in right]),
        )
    )


def _by_position(identities: list[Identity], position: Mapping[Identity, int]) -> list[list[int]]:
    groups: list[list[int]] = [[] for _ in position]
    for i, identity in enumerate(identities):
        groups[position[identity]].append(i)
    return groups


def _lanes(chains: Sequence[Chain], counts: Sequence[int] = ()) -> Chain:
    if not any(chains):
        return ()
    return chains[0] if len(chains) == 1 else (Parallel(tuple(chains), tuple(counts)),)


class _Cutter:
    """Cuts tensors into pieces: splits concatenations, unstacks list axes and repeated axes."""

    def __init__(self, structure: Structure, solver: Solver) -> None:
        self.solver = solver
        self.repeated = structure.repeated
        self.listed: dict[frozenset[str], tuple[str, ...]] = {}
        self.done: dict[tuple[Axes, tuple[str, ...]], tuple[Chain, list[_Piece]]] = {}
        self.moves: dict[tuple[Layout, Layout], Chain] = {}
        left, right = structure.left, structure.right
        own_axes = (*structure.list_axes.left, *structure.list_axes.right)
        for axes, own in zip((*left, *right), own_axes, strict=True):
            for layout in layouts(axes):
                names = frozenset(itertools.chain(*layout, own)) - self.repeated
                self.listed[names] = tuple(dict.fromkeys((*self.listed.get(names, ()), *own)))

    def identity(self, piece: _Piece) -> Identity:
        """Return which piece it is; equal for pieces that hold the same values."""
        place = dict(piece.place)
        return piece.names, tuple(place[name] for name in self.listed[piece.names])

    def tensor(self, axes: Axes, own: tuple[str, ...], place: Place) -> tuple[Chain, list[_Piece]]:
        """Return the ops that cut one tensor, and its pieces."""
        if (axes, own) not in self.done:
            self.done[axes, own] = self._cut(axes, frozenset(own), ())
        chain, pieces = self.done[axes, own]
        return chain, [_Piece(p.layout, p.names, (*place, *p.place)) for p in pieces]

    def _cut(self, axes: Axes, gone: frozenset[str], place: Place) -> tuple[Chain, list[_Piece]]:
        if any(isinstance(factor, Parts) for factors in axes for factor in factors):
            return self._split(axes, gone, place)
        layout: Layout = tuple(next(layouts(axes)))
        names = gone.union(*layout) - self.repeated
        listed = [name for name in self.listed[names] if name not in gone]
        listed += [name for name in itertools.chain(*layout) if name in self.repeated]
        if not listed:
            return (), [_Piece(layout, names, place)]
        opened = _opened(axes, lambda factor: factor in listed)
        axis = opened.index((listed[0],))
        rest = (*opened[:axis], *opened[axis + 1 :])
        count = self.solver.sizes[listed[0]]
        inner = [self._cut(rest, gone | {listed[0]}, (*place, (listed[0], i))) for i in range(count)]
        return self._after(axes, opened, Unstack(axis, count), inner)

    def _split(self, axes: Axes, gone: frozenset[str], place: Place) -> tuple[Chain, list[_Piece]]:
        opened = _opened(axes, lambda factor: isinstance(factor, Parts))
        axis = next(i for i, factors in enumerate(opened) if any(isinstance(f, Parts) for f in factors))
        members = _members(opened[axis])
        inner = [self._cut((*opened[:axis], m, *opened[axis + 1 :]), gone, place) for m in members]
        return self._after(axes, opened, Split(axis, self.solver.shape(members)), inner)

    def _after(
        self, axes: Axes, opened: Axes, op: Op, inner: list[tuple[Chain, list[_Piece]]]
    ) -> tuple[Chain, list[_Piece]]:
        reshape = Reshape(self.solver.shape(axes), self.solver.shape(opened))
        chain = simplify_chain((reshape, op, *_lanes([chain for chain, _ in inner])))
        return chain, [piece for _, pieces in inner for piece in pieces]

    def moved(self, source: Layout, target: Layout) -> Chain:
        """Return the chain from one layout of a piece to another."""
        if (source, target) not in self.moves:
            self.moves[source, target] = layout_ops(source, target, self.solver.sizes)
        return self.moves[source, target]


def _opened(axes: Axes, is_separate: Callable[[str | Parts], bool]) -> Axes:
    """Return the axes with an axis of its own for each factor that is to be separate."""
    opened: list[Factors] = []
    for factors in axes:
        start = len(opened)
        for factor in factors:
            if len(opened) == start or is_separate(factor) or is_separate(opened[-1][-1]):
                opened.append((factor,))
            else:
                opened[-1] = (*opened[-1], factor)
        if len(opened) == start:
            opened.append(())
    return tuple(opened)


def _members(factors: Factors) -> tuple[Factors, ...]:
    """Return the parts of an axis; a part that has parts itself is replaced by them."""
    if len(factors) == 1 and isinstance(factors[0], Parts):
        return tuple(member for part in factors[0].members for member in _members(part))
    return (factors,)
