"""Settling a layer: from the views of a source and of a target to moves of its leaves.

The best pair of views wins. Two pairs that lead to different tensors are an ambiguity, never a choice.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from bridge_core.ops import InsertZeros, Op, Parallel, Sum, inverse_chain, simplify_chain
from bridge_core.plan import Step, join_keeps, join_steps
from bridge_core.resolve.interpretations import Place, Role, View
from bridge_core.state import Key

__all__ = ["Keep", "Move", "Outcome", "pair", "settle"]


@dataclass(frozen=True)
class Move:
    """Leaves that go from source to target together, by names in their groups."""

    sources: tuple[str, ...]
    targets: tuple[str, ...]
    ops: tuple[Op, ...]


@dataclass(frozen=True)
class Keep:
    """A role that is added into another, and that the metadata keeps."""

    role: str
    sources: tuple[str, ...]
    ops: tuple[Op, ...]


@dataclass(frozen=True)
class Outcome:
    """What a pair of views leads to.

    Args:
        source: The source's view.
        target: The target's view.
        moves: Leaves that go over.
        mismatched: Leaves that belong together and differ in shape: (source name, target name).
        missing: Target leaves that nothing fills, each with its roles.
        unexpected: Source leaves that have no place, with their roles.
        keeps: What of the source the target only holds in sums.
    """

    source: View
    target: View
    moves: tuple[Move, ...]
    mismatched: tuple[tuple[str, str], ...] = ()
    missing: Mapping[str, tuple[Role, ...]] = field(default_factory=dict)
    unexpected: Mapping[str, Role] = field(default_factory=dict)
    keeps: tuple[Keep, ...] = ()


def settle(
    source: Sequence[View], target: Sequence[View], auxiliary_tensors: frozenset[str]
) -> tuple[Outcome, ...]:
    """Return the outcomes that remain possible: one if it is settled, several if it is ambiguous.

    Args:
        source: Views of the source.
        target: Views of the target.
        auxiliary_tensors: Roles that either side may lack.
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
    # An undecided layer that goes back to its own framework, into a place that fits, goes as it is.
    spelt_alike = [o for o in best if o.source.transform and o.source.transform == o.target.transform]
    distinct = {outcome.moves: outcome for outcome in reversed(spelt_alike or best)}
    return tuple(reversed(distinct.values()))


def pair(source: View, target: View) -> Outcome:
    """Return what comes of reading the source as the one view and the target as the other."""
    filled: list[Step] = []
    kept: list[Step] = []
    mismatched: list[tuple[str, str]] = []
    missing: dict[str, tuple[Role, ...]] = {}
    taken: set[Role] = set()
    for name, places in _by_name(target).items():
        lacking = tuple(role for role in places if role not in source.leaves)
        partly = len(lacking) < len(places) and all(role[0] and role[1] in target.zeros for role in lacking)
        differing = [r for r in places if r not in lacking and source.leaves[r].shape != places[r].shape]
        mismatched += [(source.leaves[role].name, name) for role in differing]
        taken.update(differing)
        if lacking and not partly:
            missing[name] = lacking
        elif not differing:
            step, keeps, used = _filling(name, places, source)
            filled.append(step)
            kept += keeps
            taken.update(used)
    unexpected = {place.name: role for role, place in source.leaves.items() if role not in taken}
    given = [
        _giving(name, places)
        for name, places in _by_name(source).items()
        if all(role in taken for role in places)
    ]
    made = {key for step in given for key in step.targets}
    whole = [step for step in filled if made.issuperset(step.sources)]
    wanted_roles = _by_name(target)
    for step in filled:
        if step not in whole:
            name = step.targets[0][0]
            missing[name] = tuple(wanted_roles[name])
    order = {place.name: i for i, place in enumerate(source.leaves.values())}
    moves = tuple(
        Move(tuple(k[0] for k in step.sources), tuple(k[0] for k in step.targets), step.ops)
        for step in sorted(join_steps(given, whole), key=lambda step: order[step.sources[0][0]])
    )
    wanted = [step for step in kept if made.issuperset(step.sources)]
    summed = tuple(
        Keep((step.auxiliary or ("",))[0], tuple(key[0] for key in step.sources), step.ops)
        for step in join_keeps(given, wanted)
    )
    return Outcome(source, target, moves, tuple(mismatched), missing, unexpected, summed)


def _by_name(view: View) -> dict[str, dict[Role, Place]]:
    """Return the leaves of a view, each with its parts in their order."""
    found: dict[str, dict[Role, Place]] = {}
    for role, place in sorted(view.leaves.items(), key=lambda item: item[1].part):
        found.setdefault(place.name, {})[role] = place
    order = dict.fromkeys(place.name for place in view.leaves.values())
    return {name: found[name] for name in order}


def _key(role: Role) -> Key:
    return ("layer" if role[0] else "beside", role[1])


def _giving(name: str, places: Mapping[Role, Place]) -> Step:
    """Return the step from a source leaf to its roles in the common form."""
    chains = tuple(place.ops for place in places.values())
    cut = next(iter(places.values())).cut
    ops = (cut, Parallel(chains)) if cut is not None else chains[0]
    return Step(((name,),), tuple(map(_key, places)), simplify_chain(ops))


def _filling(
    name: str, places: Mapping[Role, Place], source: View
) -> tuple[Step, tuple[Step, ...], tuple[Role, ...]]:
    """Return the step from roles to a target leaf, what is to be kept beside it, and the roles it takes."""
    used: list[Role] = []
    chains: list[tuple[Op, ...]] = []
    counts: list[int] = []
    keeps: list[Step] = []
    present = tuple(role in source.leaves for role in places)
    for role, place in places.items():
        if role not in source.leaves:
            continue
        added = (True, place.added_leaves or "")
        back = inverse_chain(place.ops)
        parts: list[Role] = [role]
        if added in source.leaves:
            parts.append(added)
            back = (Sum(2), *back)
            keeps += [Step((_key(part),), (), auxiliary=(part[1],)) for part in parts]
        chains.append(back)
        counts.append(len(parts))
        used += parts
    cut = next(iter(places.values())).cut
    zeros = () if all(present) else (InsertZeros(present),)
    join = (cut.inverse(),) if cut is not None else ()
    ops = simplify_chain((Parallel(tuple(chains), tuple(counts)), *zeros, *join))
    return Step(tuple(map(_key, used)), ((name,),), ops), tuple(keeps), tuple(used)


def _rank(outcome: Outcome, auxiliary_tensors: frozenset[str]) -> tuple[int, ...]:
    """Smaller is better: what fails, then fallbacks, then how much goes over."""
    absent: Iterable[Role] = (role for roles in outcome.missing.values() for role in roles)
    fillable = auxiliary_tensors | (
        outcome.target.zeros if outcome.target.kind == outcome.source.kind else set()
    )
    lacking = [role for role in absent if not (role[0] and role[1] in fillable)]
    surplus = [role for role in outcome.unexpected.values() if not (role[0] and role[1] in auxiliary_tensors)]
    fallbacks = outcome.source.fallback + outcome.target.fallback
    if not (lacking or surplus or outcome.mismatched):
        return (0, fallbacks)
    moved = sum(len(move.targets) for move in outcome.moves)
    return (1, -moved - len(outcome.mismatched), len(outcome.mismatched), fallbacks)
