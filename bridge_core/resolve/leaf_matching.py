"""Matching the leaves of a layer: from the interpretations of a source and of a target to moves of leaves.

The best pair of interpretations wins. Two pairs that lead to different tensors are an ambiguity: nothing is
chosen between them.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from bridge_core.ops import InsertZeros, Op, Parallel, Sum, inverse_chain, simplify_chain
from bridge_core.plan import Step, join_keeps, join_steps
from bridge_core.resolve.evidence import PARAMETER
from bridge_core.resolve.interpretations import Interpretation, LeafUse, Role
from bridge_core.state import Key

__all__ = ["Keep", "Move", "Outcome", "is_complete", "match_leaves", "pair"]


class Move(NamedTuple):
    """Leaves that go from source to target in one step, by names in their groups."""

    sources: tuple[str, ...]
    targets: tuple[str, ...]
    ops: tuple[Op, ...]


@dataclass(frozen=True)
class Keep:
    """A role that is added into another, and that the metadata stores."""

    role: str
    sources: tuple[str, ...]
    ops: tuple[Op, ...]


@dataclass(frozen=True)
class Outcome:
    """What a pair of interpretations leads to.

    Args:
        source: The source's interpretation.
        target: The target's interpretation.
        moves: Leaves that are moved.
        mismatched: Leaves that match and differ in shape: (source name, target name).
        missing: Target leaves that nothing fills, each with its roles.
        unexpected: Source leaves that the target has no place for, with their roles.
        stored: Roles of the source that the target only holds in sums, for the metadata to store.
    """

    source: Interpretation
    target: Interpretation
    moves: tuple[Move, ...]
    mismatched: tuple[tuple[str, str], ...] = ()
    missing: Mapping[str, tuple[Role, ...]] = field(default_factory=dict)
    unexpected: Mapping[str, Role] = field(default_factory=dict)
    stored: tuple[Keep, ...] = ()

    @functools.cached_property
    def moves_with_kinds(self) -> tuple[tuple[str, bool, Move], ...]:
        """Each move, after the kind of its leaves and whether the target only holds them in sums."""
        roles = {use.name: role for role, use in self.source.leaves.items()}
        unchanged = {name for name, (is_leaf, _) in roles.items() if not is_leaf}
        summands = {name for keep in self.stored for name in keep.sources}
        return tuple(
            (
                PARAMETER if move.sources[0] in unchanged else self.source.kind,
                not summands.isdisjoint(move.sources),
                move,
            )
            for move in self.moves
        )


def match_leaves(
    source: Sequence[Interpretation], target: Sequence[Interpretation], auxiliary_tensors: frozenset[str]
) -> tuple[Outcome, ...]:
    """Return the outcomes that remain possible: several if the match is ambiguous, or none.

    Args:
        source: Interpretations of the source.
        target: Interpretations of the target.
        auxiliary_tensors: Roles that need not be on either side.
    """
    ranked: dict[tuple[int, ...], list[Outcome]] = {}
    for s in source:
        for t in target:
            if s.kind == t.kind:
                outcome = pair(s, t)
                ranked.setdefault(_rank(outcome, auxiliary_tensors), []).append(outcome)
    if not ranked:
        return ()
    best = ranked[min(ranked)]
    # An undecided layer that goes back to its own framework, and fits there, is copied unchanged.
    same_layout = [o for o in best if o.source.transform and o.source.transform == o.target.transform]
    distinct = {outcome.moves: outcome for outcome in reversed(same_layout or best)}
    return tuple(reversed(distinct.values()))


def pair(source: Interpretation, target: Interpretation) -> Outcome:
    """Return what follows from one interpretation of the source and one of the target."""
    fills: list[Step] = []
    keeps: list[Step] = []
    mismatched: list[tuple[str, str]] = []
    missing: dict[str, tuple[Role, ...]] = {}
    taken: set[Role] = set()
    target_uses = _uses_by_name(target)
    for name, uses in target_uses.items():
        absent = tuple(role for role in uses if role not in source.leaves)
        zeros_do = len(absent) < len(uses) and all(role[0] and role[1] in target.zeros for role in absent)
        differing = [r for r in uses if r not in absent and source.leaves[r].shape != uses[r].shape]
        mismatched += [(source.leaves[role].name, name) for role in differing]
        taken.update(differing)
        if absent and not zeros_do:
            missing[name] = absent
        elif not differing:
            fill, summands, roles = _fill(name, uses, source)
            fills.append(fill)
            keeps += summands
            taken.update(roles)
    unexpected = {use.name: role for role, use in source.leaves.items() if role not in taken}
    reads = [
        _read(name, uses)
        for name, uses in _uses_by_name(source).items()
        if all(role in taken for role in uses)
    ]
    available = {key for step in reads for key in step.targets}
    complete = [step for step in fills if available.issuperset(step.sources)]
    for step in fills:
        if step not in complete:
            name = step.targets[0][0]
            missing[name] = tuple(target_uses[name])
    order = {use.name: i for i, use in enumerate(source.leaves.values())}
    moves = tuple(
        Move(tuple(k[0] for k in step.sources), tuple(k[0] for k in step.targets), step.ops)
        for step in sorted(join_steps(reads, complete), key=lambda step: order[step.sources[0][0]])
    )
    possible_keeps = [step for step in keeps if available.issuperset(step.sources)]
    summed = tuple(
        Keep((step.auxiliary or ("",))[0], tuple(key[0] for key in step.sources), step.ops)
        for step in join_keeps(reads, possible_keeps)
    )
    return Outcome(source, target, moves, tuple(mismatched), missing, unexpected, summed)


def _uses_by_name(interpretation: Interpretation) -> dict[str, dict[Role, LeafUse]]:
    """Return the leaves of an interpretation, each with its parts in their order."""
    uses: dict[str, dict[Role, LeafUse]] = {use.name: {} for use in interpretation.leaves.values()}
    for role, use in sorted(interpretation.leaves.items(), key=lambda item: item[1].part):
        uses[use.name][role] = use
    return uses


def _key(role: Role) -> Key:
    return ("layer" if role[0] else "parameter", role[1])


def _read(name: str, uses: Mapping[Role, LeafUse]) -> Step:
    """Return the step from a source leaf to its roles in the common form."""
    chains = tuple(use.ops for use in uses.values())
    cut = next(iter(uses.values())).cut
    ops = (cut, Parallel(chains)) if cut is not None else chains[0]
    return Step(((name,),), tuple(map(_key, uses)), simplify_chain(ops))


def _fill(
    name: str, uses: Mapping[Role, LeafUse], source: Interpretation
) -> tuple[Step, list[Step], list[Role]]:
    """Return the step from roles to a target leaf, the summands to store, and the roles that it takes."""
    taken: list[Role] = []
    chains: list[tuple[Op, ...]] = []
    counts: list[int] = []
    keeps: list[Step] = []
    present = tuple(role in source.leaves for role in uses)
    for role, use in uses.items():
        if role not in source.leaves:
            continue
        added = (True, use.added_leaves or "")
        back = inverse_chain(use.ops)
        summands: list[Role] = [role]
        if added in source.leaves:
            summands.append(added)
            back = (Sum(2), *back)
            keeps += [Step((_key(summand),), (), auxiliary=(summand[1],)) for summand in summands]
        chains.append(back)
        counts.append(len(summands))
        taken += summands
    cut = next(iter(uses.values())).cut
    zeros = () if all(present) else (InsertZeros(present),)
    join = (cut.inverse(),) if cut is not None else ()
    ops = simplify_chain((Parallel(tuple(chains), tuple(counts)), *zeros, *join))
    return Step(tuple(map(_key, taken)), ((name,),), ops), keeps, taken


def _rank(outcome: Outcome, auxiliary_tensors: frozenset[str]) -> tuple[int, ...]:
    """Smaller is better: what fails, then fallbacks, then how much is moved."""
    if is_complete(outcome, auxiliary_tensors):
        return (0, outcome.source.fallback + outcome.target.fallback)
    moved = sum(len(move.targets) for move in outcome.moves)
    fallbacks = outcome.source.fallback + outcome.target.fallback
    return (1, -moved - len(outcome.mismatched), len(outcome.mismatched), fallbacks)


def is_complete(outcome: Outcome, auxiliary_tensors: frozenset[str]) -> bool:
    """Return whether everything of both sides has its place.

    Args:
        outcome: What a pair of interpretations leads to.
        auxiliary_tensors: Roles that need not be on either side.
    """
    absent: Iterable[Role] = (role for roles in outcome.missing.values() for role in roles)
    fillable = auxiliary_tensors | outcome.target.zeros
    missing = [role for role in absent if not (role[0] and role[1] in fillable)]
    surplus = [role for role in outcome.unexpected.values() if not (role[0] and role[1] in auxiliary_tensors)]
    return not (missing or surplus or outcome.mismatched)
