"""Which modules of two models belong together: those whose weights the plan links."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from bridge_core.plan import Plan
from bridge_core.plugins import ModuleCall
from bridge_core.proof.running.models import Side, module_path
from bridge_core.proof.running.weights import links
from bridge_core.state import FlatState, Key

__all__ = ["CallPair", "LinkedPaths", "calls_inside", "linked_paths", "paired_calls", "paired_paths"]

N = TypeVar("N")

_NEAR = 0.7
"""Modules with a larger part of their weights in common may be one another."""


@dataclass(frozen=True, eq=False)
class LinkedPaths:
    """The steps of a plan below each module of both models.

    Args:
        source: Path of a source's leaf -> numbers of the steps that read it.
        target: Path of a target's leaf -> numbers of the steps that write it.
    """

    source: Mapping[Key, frozenset[int]]
    target: Mapping[Key, frozenset[int]]

    def below(self, path: Key, *, target: bool = False) -> frozenset[int]:
        """Return the numbers of all steps that concern a leaf below a path."""
        leaves = self.target if target else self.source
        size = len(path)
        numbers_below: set[int] = set()
        for leaf, numbers in leaves.items():
            if leaf[:size] == path:
                numbers_below |= numbers
        return frozenset(numbers_below)


@dataclass(frozen=True, eq=False)
class CallPair:
    """Calls of modules that belong together: one of each side, or one and the parts of it.

    Args:
        source: Calls of the source, in order; several if the target has one module for them.
        target: Calls of the target.
        near: Whether one side's module holds weights that the other side's model has elsewhere.
    """

    source: tuple[ModuleCall, ...]
    target: tuple[ModuleCall, ...]
    near: bool = False

    @property
    def single(self) -> bool:
        """Whether it is one call of each side."""
        return len(self.source) == len(self.target) == 1


def linked_paths(plan: Plan, source: Side, target: Side, values: FlatState) -> LinkedPaths:
    """Return which steps of a plan concern which leaves.

    Args:
        plan: From the source's weights to the target's.
        source: The source's side.
        target: The target's side.
        values: The source's weights.
    """
    of_source: dict[Key, set[int]] = {}
    of_target: dict[Key, set[int]] = {}
    for number, (sources, targets) in enumerate(links(plan)):
        for key in sources:
            of_source.setdefault(module_path(key, values, source.framework), set()).add(number)
        for key in targets:
            of_target.setdefault(module_path(key, target.weights, target.framework), set()).add(number)
    return LinkedPaths(
        {path: frozenset(numbers) for path, numbers in of_source.items()},
        {path: frozenset(numbers) for path, numbers in of_target.items()},
    )


def paired_paths(
    source: Iterable[Key], target: Iterable[Key], linked: LinkedPaths
) -> list[tuple[tuple[Key, ...], tuple[Key, ...]]]:
    """Return which modules belong together, by path, in the source's order.

    Args:
        source: Paths of the source's modules.
        target: Paths of the target's.
        linked: What the plan links.
    """
    groups = _groups(
        list(source),
        list(target),
        lambda path: linked.below(path),
        lambda path: linked.below(path, target=True),
    )
    return [
        pair
        for ours, theirs in groups
        for pair in _pairs_of_group(ours, theirs, _path_inside, lambda path: path)
    ]


def paired_calls(
    source: Sequence[ModuleCall], target: Sequence[ModuleCall], linked: LinkedPaths
) -> list[CallPair]:
    """Return which calls belong together, in the order of the source; the models' own come first.

    Args:
        source: Calls of the source, in order; the first is the model's.
        target: Calls of the target.
        linked: What the plan links.
    """
    if not source or not target:
        return []
    below: dict[tuple[bool, Key], frozenset[int]] = {}

    def steps(call: ModuleCall, is_target: bool) -> frozenset[int]:
        if (is_target, call.path) not in below:
            below[is_target, call.path] = linked.below(call.path, target=is_target)
        return below[is_target, call.path]

    pairs = [CallPair((source[0],), (target[0],))]
    for grouped in (_groups, _near_groups):
        groups = grouped(
            list(source[1:]),
            list(target[1:]),
            lambda call: steps(call, False),
            lambda call: steps(call, True),
        )
        for ours, theirs in groups:
            for one, other in _pairs_of_group(ours, theirs, _call_inside, lambda call: call.path):
                pairs.append(CallPair(one, other, near=grouped is _near_groups))
    return sorted(pairs, key=lambda pair: pair.source[0].began)


def calls_inside(outer: ModuleCall, calls: Iterable[ModuleCall]) -> list[ModuleCall]:
    """Return the calls that began and ended while another one ran."""
    return [call for call in calls if _call_inside(call, outer)]


def _groups(
    source: list[N],
    target: list[N],
    source_steps: Callable[[N], frozenset[int]],
    target_steps: Callable[[N], frozenset[int]],
) -> list[tuple[list[N], list[N]]]:
    """Return the nodes of both sides that hold the weights of the same steps."""
    groups: dict[frozenset[int], tuple[list[N], list[N]]] = {}
    for node in source:
        groups.setdefault(source_steps(node), ([], []))[0].append(node)
    for node in target:
        groups.setdefault(target_steps(node), ([], []))[1].append(node)
    return [(ours, theirs) for numbers, (ours, theirs) in groups.items() if numbers and ours and theirs]


def _near_groups(
    source: list[N],
    target: list[N],
    source_steps: Callable[[N], frozenset[int]],
    target_steps: Callable[[N], frozenset[int]],
) -> list[tuple[list[N], list[N]]]:
    """Return the other nodes that hold the weights of nearly the same steps, each side's best partner.

    A table of positions may be in the first attention of one model, and above all layers in the other.
    """
    nodes: list[dict[frozenset[int], list[N]]] = [{}, {}]
    for place, side, steps in zip(nodes, (source, target), (source_steps, target_steps), strict=True):
        for node in side:
            place.setdefault(steps(node), []).append(node)
    ours, theirs = (
        {one: place[one] for one in place if one not in other} for place, other in (nodes, nodes[::-1])
    )
    best = [
        {one: max(others, key=lambda other: _likeness(one, other), default=one) for one in own}
        for own, others in ((ours, theirs), (theirs, ours))
    ]
    return [
        (ours[one], theirs[other])
        for one, other in best[0].items()
        if best[1].get(other) == one and _likeness(one, other) > _NEAR
    ]


def _likeness(one: frozenset[int], other: frozenset[int]) -> float:
    return len(one & other) / max(len(one | other), 1)


def _pairs_of_group(
    source: list[N], target: list[N], inside: Callable[[N, N], bool], identity: Callable[[N], Any]
) -> list[tuple[tuple[N, ...], tuple[N, ...]]]:
    """Return the pairs of a group: innermost with innermost, outermost with outermost, in order."""
    inner_source, outer_source = _ends(source, inside)
    inner_target, outer_target = _ends(target, inside)
    pairs = _in_order(inner_source, inner_target, identity)
    wrappers = [node for node in outer_source if node not in inner_source]
    others = [node for node in outer_target if node not in inner_target]
    return [*pairs, *_in_order(wrappers, others, identity)]


def _ends(nodes: list[N], inside: Callable[[N, N], bool]) -> tuple[list[N], list[N]]:
    """Return the nodes that hold none of the others, and those that none of the others holds."""
    inner = [node for node in nodes if not any(inside(other, node) for other in nodes if other is not node)]
    outer = [node for node in nodes if not any(inside(node, other) for other in nodes if other is not node)]
    return inner, outer


def _in_order(
    source: list[N], target: list[N], identity: Callable[[N], Any]
) -> list[tuple[tuple[N, ...], tuple[N, ...]]]:
    """Pair nodes one by one; several of one side with one of the other where each belongs to a module."""
    if not source or not target:
        return []
    if len(source) == len(target):
        return [((one,), (other,)) for one, other in zip(source, target, strict=True)]
    few, many = (source, target) if len(source) < len(target) else (target, source)
    modules = len({identity(node) for node in many})
    if modules > 1 and len(many) % len(few) == 0 and len(many) // len(few) == modules:
        size = len(many) // len(few)
        chunks = [tuple(many[n : n + size]) for n in range(0, len(many), size)]
        return [
            ((one,), chunk) if few is source else (chunk, (one,))
            for one, chunk in zip(few, chunks, strict=True)
        ]
    return [((one,), (other,)) for one, other in zip(source, target, strict=False)]


def _path_inside(path: Key, outer: Key) -> bool:
    return len(path) > len(outer) and path[: len(outer)] == outer


def _call_inside(call: ModuleCall, outer: ModuleCall) -> bool:
    return outer.began < call.began and call.ended < outer.ended
