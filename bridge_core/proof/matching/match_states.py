"""From two checkpoints to proposed rules."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

from bridge_core.errors import UsageError
from bridge_core.plugins import Registry, given_registry
from bridge_core.proof.matching.checking import with_checked_rules
from bridge_core.proof.matching.doubts import with_doubts
from bridge_core.proof.matching.equations import Alignment, Form
from bridge_core.proof.matching.folding import Node, NodePath, Side, fold, slots_of
from bridge_core.proof.matching.fused import Fused
from bridge_core.proof.matching.known_names import likeness
from bridge_core.proof.matching.leaf_evidence import Draft, LeafEvidence
from bridge_core.proof.matching.matching import Choice, Matching, Option, PatternPair, Unmatched
from bridge_core.proof.matching.outcome import DraftChoice, Outcome
from bridge_core.proof.matching.patterns import PatternWriter, pattern_of
from bridge_core.proof.matching.pools import Pools
from bridge_core.proof.matching.profiles import Profiles
from bridge_core.proof.matching.transforms import ways_between
from bridge_core.state import FlatState, VariableCollections

__all__ = ["match_states"]

_AUXILIARY = {"num_batches_tracked": "the count of batches, which outputs do not depend on"}
_WHOLE = "whole numbers, no weights"


def match_states(
    source: FlatState,
    target: FlatState,
    registry: Registry | None = None,
    *,
    names: bool = True,
    check: bool = True,
) -> Matching:
    """Return proposed rules between two opened states, of which only headers are read.

    Args:
        source: The source, with a layout.
        target: The target's template, with a layout.
        registry: The plugins; None for all that are installed.
        names: Whether exact names may decide what shapes and trees leave open.
        check: Whether to plan with the rules, there and back.

    Raises:
        UsageError: A layout is not known.
    """
    registry = given_registry(registry)
    sides = [_side(state, what, registry) for state, what in ((source, "source"), (target, "target"))]
    ours, theirs = sides
    ways = ways_between(registry, ours.layout, theirs.layout)
    evidence = LeafEvidence(ways, ours, theirs)
    outcome = _assigned(ours, theirs, evidence, names=names)
    matching = _Result(ours, theirs).matching(with_doubts(outcome, evidence) if names else outcome)
    return with_checked_rules(matching, source, target, registry, check=check)


def _assigned(ours: Side, theirs: Side, evidence: LeafEvidence, *, names: bool) -> Outcome:
    """Return the assignment, with linear layers as both frameworks store them unless trees deny it.

    A model whose other leaves are stored in another order, as in libraries with layouts of their own, is
    matched without that assumption. Leaves of a class that one side has more of are matched by themselves:
    any of them may be the one too many, so that they say nothing of the trees.
    """
    known = Profiles(ours, theirs)
    single, shared = _parted((ours, theirs), known.is_one_sided)
    outcome = Outcome()
    outcome.ours, outcome.theirs = map(_leaves, single)
    uneven, even = _parted(shared, lambda leaf: not known.is_balanced(leaf))
    outcome.add(_matched(*even, evidence, (ours, theirs), names=names))
    outcome.add(Pools(Profiles(*uneven), evidence, names=names).match_leaves(*map(_leaves, uneven)))
    return outcome


def _leaves(side: Side) -> list[NodePath]:
    return [path for root in side.roots for path in root.leaves]


def _matched(
    ours: Side, theirs: Side, evidence: LeafEvidence, complete: tuple[Side, Side], *, names: bool
) -> Outcome:
    profiles = Profiles(ours, theirs)
    roots = [(root,) for root in ours.roots], [(root,) for root in theirs.roots]
    pools = Pools(profiles, evidence, names=names)
    outcome = pools.match(*roots)
    if pools.against or any(map(evidence.speaks_against, outcome.drafts)):
        unusual = LeafEvidence(evidence.ways, *complete, usual=False)
        outcome = Pools(profiles, unusual, names=names, usual=False).match(*roots)
    return outcome


def _parted(
    sides: tuple[Side, Side], is_first: Callable[[Node], bool]
) -> tuple[tuple[Side, Side], tuple[Side, Side]]:
    """Return the trees of both sides with some leaves only, and those with the others only."""
    parts = []
    for gone in (lambda leaf: not is_first(leaf), is_first):
        trees = [tuple(node for root in side.roots for node in _kept(root, gone)) for side in sides]
        parts.append((replace(sides[0], roots=trees[0]), replace(sides[1], roots=trees[1])))
    return parts[0], parts[1]


def _kept(node: Node, gone: Callable[[Node], bool]) -> list[Node]:
    if node.is_leaf:
        return [] if gone(node) else [node]
    children = tuple(kept for child in node.children for kept in _kept(child, gone))
    if len(children) == len(node.children) and all(
        a is b for a, b in zip(children, node.children, strict=True)
    ):
        return [node]
    return [replace(node, children=children)] if children else []


def _side(state: FlatState, what: str, registry: Registry) -> Side:
    if state.layout is None:
        raise UsageError(
            f"the layout of the {what} is not known: its names are those of no framework, or of several.",
            hint="Pass layout=torch (--layout)."
            if what == "source"
            else "Pass like_layout=flax (--like-layout).",
        )
    framework = registry.frameworks.get(state.layout)
    leaves = framework.collections if framework is not None else {}
    known = {
        leaf.parts[-1]
        for transform in registry.checked_transforms_of.get(state.layout, ())
        for leaf in transform.leaves
    }
    return fold(state, state.layout, VariableCollections.of_state(state, state.layout, leaves), known)


class _Result:
    """Makes data for callers of what pools found."""

    def __init__(self, ours: Side, theirs: Side) -> None:
        self._ours, self._theirs = ours, theirs
        self._writer = PatternWriter(ours, theirs)

    def matching(self, outcome: Outcome) -> Matching:
        pairs, choices = self._parts(outcome)
        return Matching(
            self._ours.layout,
            self._theirs.layout,
            pairs,
            choices,
            _unmatched(outcome.ours, self._ours, self._theirs),
            _unmatched(outcome.theirs, self._theirs, self._ours),
        )

    def _parts(self, outcome: Outcome) -> tuple[tuple[PatternPair, ...], tuple[Choice, ...]]:
        single = [(draft, *draft.forms[0]) for draft in outcome.drafts if len(draft.forms) == 1]
        pairs = list(self._writer.pairs(single))
        choices = [self._orientation(draft) for draft in outcome.drafts if len(draft.forms) > 1]
        for fused in outcome.fused:
            rules = self._writer.fused(fused)
            if len(rules) == 1:
                pairs += rules
            else:
                choices.append(_order_choice(fused, rules))
        choices += [self._choice(choice) for choice in outcome.choices]
        return tuple(pairs), tuple(choices)

    def _orientation(self, draft: Draft) -> Choice:
        source, target = pattern_of(draft.source), pattern_of(draft.target)
        return Choice(
            (source,),
            (target,),
            tuple(self._option(draft, form, alignment) for form, alignment in draft.forms),
            f"how the axes of {source} become those of {target}",
        )

    def _option(self, draft: Draft, form: Form, alignment: Alignment) -> Option:
        source, target = pattern_of(draft.source), pattern_of(draft.target)
        pairs = self._writer.pairs([(draft, form, alignment)])
        return Option(source, target, pairs, (), likeness(source, target))

    def _choice(self, choice: DraftChoice) -> Choice:
        options: list[Option] = []
        for one, other, outcome in choice.options:
            source, target = pattern_of(one), pattern_of(other)
            if len(outcome.drafts) == 1 and not outcome.choices:
                options += [
                    Option(source, target, option.pairs, (), option.likeness)
                    for option in (self._option(outcome.drafts[0], *form) for form in outcome.drafts[0].forms)
                ]
                continue
            pairs, inner = self._parts(outcome)
            options.append(Option(source, target, pairs, inner, likeness(source, target)))
        return Choice(
            tuple(map(pattern_of, choice.ours)),
            tuple(map(pattern_of, choice.theirs)),
            tuple(options),
            choice.reason,
        )


def _order_choice(fused: Fused, rules: tuple[PatternPair, ...]) -> Choice:
    whole, parts = pattern_of(fused.packed), ", ".join(map(pattern_of, fused.parts))
    source, target = (whole, parts) if fused.is_source else (parts, whole)
    options = tuple(Option(source, target, (rule,), (), 1 / (n + 2)) for n, rule in enumerate(rules))
    return Choice((source,), (target,), options, f"in which order {whole} holds {parts}")


def _unmatched(paths: list[NodePath], side: Side, other: Side) -> tuple[Unmatched, ...]:
    others = [path for root in other.roots for path in root.leaves]
    unmatched = []
    for path in _whole(paths, side):
        leaf = path[-1]
        why = _AUXILIARY.get(leaf.text[1:], "" if leaf.sort == "f" else _WHOLE)
        near = sorted(others, key=lambda candidate: _distance(leaf, candidate[-1]))[:3]
        shape = leaf.shape or ()
        unmatched.append(
            Unmatched(pattern_of(path), side.keys_of(path), shape, tuple(map(pattern_of, near)), why)
        )
    return tuple(unmatched)


def _whole(paths: list[NodePath], side: Side) -> list[NodePath]:
    """Return one path for each key, where a pattern with numbers would take other keys as well."""
    known = Counter(slots_of(path) for root in side.roots for path in root.leaves)
    whole: list[NodePath] = []
    for path in paths:
        if known[slots_of(path)] == 1:
            whole.append(path)
            continue
        choices = [
            [replace(node, numbers=(n,)) for n in node.numbers] if node.numbers else [node] for node in path
        ]
        whole += itertools.product(*choices)
    return whole


def _distance(one: Node, other: Node) -> float:
    first, second = sorted(one.shape or ()), sorted(other.shape or ())
    if len(first) != len(second):
        return 1e6 + abs(len(first) - len(second))
    return sum(abs(a - b) / max(a, b, 1) for a, b in zip(first, second, strict=True))
