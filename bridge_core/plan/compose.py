"""Joining the steps of two plans into the steps of one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from bridge_core.ops import Op, Parallel, Reorder, Select, simplify_chain
from bridge_core.plan.step import Dropped, Step, quick_step
from bridge_core.state import Key, join_key

__all__ = ["join_keeps", "join_steps", "traced"]

_OPEN = ("undecided", "unclaimed", "name")
"""Evidence of tensors that the first plan leaves to the second."""


def join_steps(
    first: Sequence[Step], second: Sequence[Step], makers: Mapping[Key, Step] | None = None
) -> tuple[Step, ...]:
    """Return steps that do what the first and then the second do, with op chains simplified.

    Steps that share a key between them become one step: where one splits a tensor and several join its parts
    with others, the result is one step over all of their tensors.

    Args:
        first: The steps of the first plan.
        second: The steps of the second plan.
        makers: Target of the first steps -> the step, if the caller has them.
    """
    if makers is None:
        makers = {key: step for step in first for key in step.targets}
    shared = _shared(first, second, makers)
    steps = [step for step in first if not step.targets]
    done: set[int] = set()
    chains: dict[tuple[int, int], tuple[Op, ...]] = {}
    for step in second:
        if not step.sources:
            steps.append(step)
            continue
        maker = makers[step.sources[0]]
        group = shared.get(id(maker)) if shared else None
        if group is None:
            steps.append(_single(maker, step, chains))
        elif id(group) not in done:
            done.add(id(group))
            steps.append(_several(*group))
    return tuple(steps)


def join_keeps(first: Sequence[Step], second: Sequence[Step]) -> tuple[Step, ...]:
    """Return the second plan's steps that store values in the metadata.

    Their sources are those of the first plan.
    """
    if not second:
        return ()
    makers = {key: step for step in first for key in step.targets}
    joined = []
    for step in second:
        maker = makers[step.sources[0]]
        at = maker.targets.index(step.sources[0])
        chosen = () if len(maker.targets) == 1 else (Select((at,), len(maker.targets)),)
        ops = simplify_chain((*maker.ops, *chosen, *step.ops))
        joined.append(replace(step, sources=maker.sources, ops=ops))
    return tuple(joined)


def traced(dropped: Dropped, origin: Mapping[Key, Key]) -> Dropped:
    """Return a key that the second plan drops, by its name in the first plan's source."""
    key = origin.get(dropped.key, dropped.key)
    if dropped.tied_to is None:
        return replace(dropped, key=key)
    canonical_key = origin.get(dropped.tied_to, dropped.tied_to)
    return Dropped(key, f"tied to {join_key(canonical_key)}", canonical_key)


Group = tuple[list[Step], list[Step]]


def _shared(first: Sequence[Step], second: Iterable[Step], makers: Mapping[Key, Step]) -> dict[int, Group]:
    """Return, for each first step that is not simply followed by one step of one tensor, its group."""
    group_of: dict[int, Group] = {}
    none_splits = all(len(step.targets) < 2 for step in first)
    for step in second:
        if len(step.sources) < 2 and (
            none_splits or not step.sources or len(makers[step.sources[0]].targets) == 1
        ):
            continue
        sources = list({id(makers[key]): makers[key] for key in step.sources}.values())
        groups = {id(group_of[id(m)]): group_of[id(m)] for m in sources if id(m) in group_of}
        merged: Group = ([], [])
        for before, after in groups.values():
            merged[0].extend(before)
            merged[1].extend(after)
        merged[0].extend(maker for maker in sources if id(maker) not in group_of)
        merged[1].append(step)
        for maker in merged[0]:
            group_of[id(maker)] = merged
    place = {id(step): i for i, step in enumerate((*first, *second))} if group_of else {}
    for group in {id(group): group for group in group_of.values()}.values():
        for part in group:
            part.sort(key=lambda step: place[id(step)])
    return group_of


def _single(first: Step, second: Step, chains: dict[tuple[int, int], tuple[Op, ...]]) -> Step:
    """Return both steps as one: one of them, where the other changes nothing.

    Args:
        first: A step of the first plan.
        second: The only step that takes what it makes.
        chains: Chains joined before, by the identities of their parts: steps of layers that are alike have
            theirs in common.
    """
    # Each chain is in its shortest form by itself.
    ops = first.ops or second.ops
    if first.ops and second.ops:
        pair = (id(first.ops), id(second.ops))
        if pair not in chains:
            chains[pair] = simplify_chain((*first.ops, *second.ops))
        ops = chains[pair]
    evidence = _evidence(first, second)
    auxiliary = second.auxiliary or first.auxiliary
    rule = _together(first.rule, second.rule)
    for step in (first, second):
        if (
            step.evidence == evidence
            and step.kind == second.kind
            and step.ops == ops
            and step.sources == first.sources
            and step.targets == second.targets
            and step.auxiliary == auxiliary
            and step.rule == rule
        ):
            return step
    return quick_step(first.sources, second.targets, ops, second.kind, evidence, auxiliary, rule)


def _several(first: list[Step], second: list[Step]) -> Step:
    neutral_keys = [key for step in first for key in step.targets]
    places = {key: i for i, key in enumerate(neutral_keys)}
    indices = tuple(places[key] for step in second for key in step.sources)
    are_all = len(indices) == len(neutral_keys)
    chosen: Op = Reorder(indices) if are_all else Select(indices, len(neutral_keys))
    ops = (
        Parallel(tuple(s.ops for s in first), tuple(len(s.sources) for s in first)),
        chosen,
        Parallel(tuple(s.ops for s in second), tuple(len(s.sources) for s in second)),
    )
    sources = tuple(key for step in first for key in step.sources)
    targets = tuple(key for step in second for key in step.targets)
    labels = tuple(step.rule for step in (*first, *second))
    return Step(
        sources,
        targets,
        simplify_chain(ops),
        second[0].kind,
        _evidence(first[0], second[0]),
        second[0].auxiliary or first[0].auxiliary,
        _together(*labels),
    )


def _evidence(first: Step, second: Step) -> str:
    # The first plan knew a parameter as one, unless the target's template had to decide.
    as_named = second.kind == "parameter" and second.evidence != "rule" and first.evidence not in _OPEN
    return first.evidence if as_named else second.evidence


def _together(*labels: str) -> str:
    if not any(labels):
        return ""
    return ", ".join(label for label in dict.fromkeys(labels) if label)
