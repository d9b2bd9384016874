"""Settling a layer: from the views of a source and of a target to leaf-by-leaf moves.

The best pair of views wins. Two pairs that lead to different tensors are an ambiguity, never a choice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bridge_core.ops import Op, inverse_chain, simplify_chain
from bridge_core.resolve.views import Role, View

__all__ = ["Move", "Outcome", "settle"]


@dataclass(frozen=True)
class Move:
    """One leaf from source to target, by names in their groups."""

    source: str
    target: str
    ops: tuple[Op, ...]


@dataclass(frozen=True)
class Outcome:
    """What a pair of views leads to.

    Args:
        source: The source's view.
        target: The target's view.
        moves: Leaves that go over.
        mismatched: Leaves that belong together and differ in shape: (source name, target name).
        missing: Target leaves that nothing fills, with their roles.
        unexpected: Source leaves that have no place, with their roles.
    """

    source: View
    target: View
    moves: tuple[Move, ...]
    mismatched: tuple[tuple[str, str], ...] = ()
    missing: Mapping[str, Role] | None = None
    unexpected: Mapping[str, Role] | None = None


def settle(source: Sequence[View], target: Sequence[View], residuals: frozenset[str]) -> tuple[Outcome, ...]:
    """Return the outcomes that remain possible: one if it is settled, several if it is ambiguous.

    Args:
        source: Views of the source.
        target: Views of the target.
        residuals: Roles that either side may lack.
    """
    ranked: dict[tuple[int, ...], list[Outcome]] = {}
    for s in source:
        for t in target:
            if s.kind == t.kind:
                outcome = _pair(s, t)
                ranked.setdefault(_rank(outcome, residuals), []).append(outcome)
    if not ranked:
        return ()
    best = ranked[min(ranked)]
    # An undecided layer that goes back to its own framework, into a place that fits, goes as it is.
    spelt_alike = [o for o in best if o.source.transform and o.source.transform == o.target.transform]
    distinct = {outcome.moves: outcome for outcome in reversed(spelt_alike or best)}
    return tuple(reversed(distinct.values()))


def _pair(source: View, target: View) -> Outcome:
    moves = []
    mismatched = []
    for role, place in source.leaves.items():
        other = target.leaves.get(role)
        if other is None:
            continue
        if place.shape == other.shape:
            ops = simplify_chain((*place.ops, *inverse_chain(other.ops)))
            moves.append(Move(place.name, other.name, ops))
        else:
            mismatched.append((place.name, other.name))
    return Outcome(
        source,
        target,
        tuple(moves),
        tuple(mismatched),
        {p.name: role for role, p in target.leaves.items() if role not in source.leaves},
        {p.name: role for role, p in source.leaves.items() if role not in target.leaves},
    )


def _rank(outcome: Outcome, residuals: frozenset[str]) -> tuple[int, ...]:
    """Smaller is better: what fails, then fallbacks, then how much goes over."""
    lacking = [
        role
        for roles in (outcome.missing or {}, outcome.unexpected or {})
        for role in roles.values()
        if not (role[0] and role[1] in residuals)
    ]
    fallbacks = outcome.source.fallback + outcome.target.fallback
    failing = bool(lacking or outcome.mismatched)
    if not failing:
        return (0, fallbacks)
    return (1, -len(outcome.moves) - len(outcome.mismatched), len(outcome.mismatched), fallbacks)
