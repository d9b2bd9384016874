"""The assignment of two folded trees: from the whole down to leaves, with what stays open as choices.

A *pool* is what must correspond as a whole: at first both trees, then what is inside a pair of nodes. Its items
are grouped by what they hold; an item that has no counterpart is replaced by what is inside it, which is how
trees that nest differently meet. Nothing is decided by names unless the evidence says so explicitly.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, replace
from math import prod

from bridge_core.proof.matching.assignment import components, possible_pairs
from bridge_core.proof.matching.folding import SLOT, Node, NodePath
from bridge_core.proof.matching.known_names import meaning
from bridge_core.proof.matching.leaf_evidence import Draft, LeafEvidence
from bridge_core.proof.matching.profiles import Profile, Profiles

__all__ = ["DraftChoice", "Outcome", "Pools"]


@dataclass(eq=False)
class Outcome:
    """What the matching of a pool found.

    Args:
        drafts: Pairs of leaves.
        choices: What is open.
        ours: Leaves of the source without a partner.
        theirs: Leaves of the target without a partner.
        misfits: How many pairs of leaves no equation fits.
        usual: Whether all leaves with two axes may be linear layers as both frameworks store them.
    """

    drafts: list[Draft] = field(default_factory=list)
    choices: list[DraftChoice] = field(default_factory=list)
    ours: list[NodePath] = field(default_factory=list)
    theirs: list[NodePath] = field(default_factory=list)
    misfits: int = 0
    usual: bool = True

    def add(self, other: Outcome) -> None:
        """Add what another pool found."""
        self.drafts += other.drafts
        self.choices += other.choices
        self.ours += other.ours
        self.theirs += other.theirs
        self.misfits += other.misfits
        self.usual = self.usual and other.usual

    @property
    def open_ends(self) -> int:
        """How many leaves have no partner."""
        return len(self.ours) + len(self.theirs) + 2 * self.misfits


@dataclass(eq=False)
class DraftChoice:
    """Items that cannot be told apart, and what each pair of them would be."""

    ours: list[NodePath]
    theirs: list[NodePath]
    options: list[tuple[NodePath, NodePath, Outcome]]
    reason: str


class Pools:
    """The assignment of two trees, one pool after another."""

    def __init__(self, profiles: Profiles, evidence: LeafEvidence, *, names: bool = True, usual: bool = True) -> None:
        """Remember the evidence.

        Args:
            profiles: The profiles of both sides.
            evidence: What is known of leaves.
            names: Whether exact names may settle what the rest leaves open.
            usual: Whether linear layers are stored as both frameworks' own, unless nothing fits so.
        """
        self._usual = usual
        self.against = 0
        """How many groups fit only if linear layers are stored otherwise."""
        self._profiles = profiles
        self._evidence = evidence
        self._names = names
        self._hashes: dict[int, int] = {}
        self._numbers: dict[Hashable, int] = {}
        self._kept: list[Node] = []

    def match(self, ours: Sequence[NodePath], theirs: Sequence[NodePath]) -> Outcome:
        """Return the pairs of two pools."""
        ours, theirs = [_normal(path) for path in ours], [_normal(path) for path in theirs]
        while True:
            groups, left, right = self._grouped(ours, theirs)
            step = self._opened(left, right)
            if step is None:
                break
            swaps = step
            ours = [new for path in ours for new in swaps.get(id(path), [path])]
            theirs = [new for path in theirs for new in swaps.get(id(path), [path])]
        outcome = Outcome()
        for group in groups:
            outcome.add(self._group(*group))
        outcome.add(self._rest(left, right))
        return outcome

    # Grouping

    def _grouped(
        self, ours: list[NodePath], theirs: list[NodePath]
    ) -> tuple[list[tuple[list[NodePath], list[NodePath]]], list[NodePath], list[NodePath]]:
        """Return groups that have as many items on both sides, and the items that are in none."""
        groups = []
        levels: tuple[Callable[[NodePath], Hashable], ...] = (
            self._structure,
            lambda path: self._profiles.of(path),
            lambda path: self._profiles.of(path, reduced=True),
        )
        for level in levels:
            sorted_items: dict[Hashable, tuple[list[NodePath], list[NodePath]]] = {}
            for number, paths in enumerate((ours, theirs)):
                for path in paths:
                    sorted_items.setdefault(level(path), ([], []))[number].append(path)
            ours, theirs = [], []
            for name, (left, right) in sorted_items.items():
                if left and len(left) == len(right) and name != ():
                    groups.append((left, right))
                else:
                    ours += left
                    theirs += right
        return groups, ours, theirs

    def _structure(self, path: NodePath) -> Hashable:
        return (prod(node.count for node in path), self._hash(path[-1]))

    def _hash(self, node: Node) -> int:
        """Return a number for what is below a node, whatever the names; numbers count by how many they are."""
        known = self._hashes.get(id(node))
        if known is None:
            content: Hashable
            if node.is_leaf:
                content = ("leaf", self._profiles.class_of(node), prod(node.shape or ()))
            elif len(node.children) == 1 and node.children[0].count == 1:
                known = self._hashes[id(node)] = self._hash(node.children[0])
                self._kept.append(node)
                return known
            else:
                content = tuple(sorted((child.count, self._hash(child)) for child in node.children))
            known = self._hashes[id(node)] = self._numbers.setdefault(content, len(self._numbers))
            self._kept.append(node)
        return known

    def _opened(self, left: list[NodePath], right: list[NodePath]) -> dict[int, list[NodePath]] | None:
        """Return what replaces the largest items without a counterpart; None if all are leaves."""
        if not left or not right:
            return None
        profiles = {id(path): self._profiles.of(path) for path in (*left, *right)}
        for ours, theirs in ((left, right), (right, left)):
            known = {profiles[id(path)] for path in theirs}
            for path in ours:
                single = _divided(profiles[id(path)], path[-1].count)
                if path[-1].count > 1 and single in known:
                    return {id(path): _elements(path)}
        nested = [path for path in (*left, *right) if not path[-1].is_leaf]
        if not nested:
            return None
        largest = max(sum(n for _, n in profiles[id(path)]) for path in nested)
        return {
            id(path): [_normal((*path, child)) for child in path[-1].children]
            for path in nested
            if sum(n for _, n in profiles[id(path)]) == largest
        }

    # Groups

    def _pair(self, ours: NodePath, theirs: NodePath, reason: str, confidence: float = 1.0) -> Outcome:
        """Return what one pair of items gives."""
        ours, theirs = _normal(ours), _normal(theirs)
        if ours[-1].is_leaf and theirs[-1].is_leaf:
            draft = self._evidence.draft(ours, theirs)
            if draft is None:
                return Outcome(ours=[ours], theirs=[theirs], misfits=1)
            why = replace(draft, reason=reason, confidence=min(confidence, draft.confidence))
            return Outcome(drafts=[why], usual=draft.usual)
        inner = self.match(_inside(ours), _inside(theirs))
        for draft_number, draft in enumerate(inner.drafts):
            inner.drafts[draft_number] = replace(draft, confidence=min(confidence, draft.confidence))
        return inner

    def _group(self, ours: list[NodePath], theirs: list[NodePath]) -> Outcome:
        if len(ours) == 1:
            return self._pair(ours[0], theirs[0], "the only one of its shapes in its place")
        ordered = _in_order(ours, theirs)
        if ordered is not None:
            outcome = Outcome()
            for one, other in ordered:
                outcome.add(self._pair(one, other, "by the order of its numbers"))
            return outcome
        found = [[self._pair(one, other, "") for other in theirs] for one in ours]
        least = [min(row, key=lambda o: o.open_ends).open_ends for row in found]
        allowed = [[o.open_ends <= low for o in row] for row, low in zip(found, least, strict=True)]
        usual = [[a and o.usual for a, o in zip(*row, strict=True)] for row in zip(allowed, found, strict=True)]
        possible = possible_pairs(usual) if self._usual else None
        if possible is None and self._usual and not all(o.usual for row in found for o in row):
            self._count_against(allowed, found)
        possible = possible or possible_pairs(allowed) or possible_pairs([[not o.misfits for o in row] for row in found])
        if possible is None:
            possible = [[True] * len(theirs) for _ in ours]
        outcome = Outcome()
        for rows, columns in components(possible):
            outcome.add(self._component(ours, theirs, rows, columns, found, possible))
        return outcome

    def _count_against(self, allowed: list[list[bool]], found: list[list[Outcome]]) -> None:
        """Count a group of repeated layers that only fits if nothing in it is stored as usual."""
        unusual = [
            [a and not o.usual for a, o in zip(*row, strict=True)] for row in zip(allowed, found, strict=True)
        ]
        paths = [draft.source for row in found for o in row for draft in o.drafts]
        if possible_pairs(unusual) and any(node.count > 1 for path in paths for node in path):
            self.against += 1

    def _component(
        self,
        ours: list[NodePath],
        theirs: list[NodePath],
        rows: list[int],
        columns: list[int],
        found: list[list[Outcome]],
        possible: list[list[bool]],
    ) -> Outcome:
        if len(rows) == len(columns) == 1:
            return self._pair(ours[rows[0]], theirs[columns[0]], "no other partner fits", 0.95)
        left, right = [ours[r] for r in rows], [theirs[c] for c in columns]
        matched = _by_names(left, right) if self._names else None
        if matched is not None and all(possible[rows[a]][columns[b]] for a, b in matched):
            outcome = Outcome()
            for a, b in matched:
                outcome.add(self._pair(left[a], right[b], "names of one meaning", 0.9))
            return outcome
        options = [
            (ours[r], theirs[c], found[r][c]) for r in rows for c in columns if possible[r][c]
        ]
        reason = f"{len(rows)} and {len(columns)} of the same shapes in the same place"
        return Outcome(choices=[DraftChoice(left, right, options, reason)])

    def _rest(self, left: list[NodePath], right: list[NodePath]) -> Outcome:
        """Return choices among leaves of which one side has more, and those without a partner."""
        outcome = Outcome()
        if not left or not right:
            outcome.ours = [leaf for path in left for leaf in _leaves(path)]
            outcome.theirs = [leaf for path in right for leaf in _leaves(path)]
            return outcome
        drafts = {
            (a, b): draft
            for a, one in enumerate(left)
            for b, other in enumerate(right)
            if one[-1].is_leaf and other[-1].is_leaf and (draft := self._evidence.draft(one, other)) is not None
        }
        pairs = [[(a, b) in drafts for b in range(len(right))] for a in range(len(left))]
        used: set[int] = set()
        for rows, columns in components(pairs):
            used |= set(columns)
            ours, theirs = [left[r] for r in rows], [right[c] for c in columns]
            if not theirs:
                outcome.ours += [leaf for path in ours for leaf in _leaves(path)]
                continue
            options = [
                (left[r], right[c], Outcome(drafts=[drafts[r, c]])) for r in rows for c in columns if pairs[r][c]
            ]
            reason = f"{len(rows)} of these shapes at the source, {len(columns)} at the target"
            outcome.choices.append(DraftChoice(ours, theirs, options, reason))
        outcome.theirs += [
            leaf for c, path in enumerate(right) if c not in used for leaf in _leaves(path)
        ]
        return outcome


def _normal(path: NodePath) -> NodePath:
    """Return a path that goes down as long as there is one way."""
    while len(path[-1].children) == 1:
        path = (*path, path[-1].children[0])
    return path


def _inside(path: NodePath) -> list[NodePath]:
    return [(*path, child) for child in path[-1].children] or [path]


def _leaves(path: NodePath) -> list[NodePath]:
    return [(*path[:-1], *rest) for rest in path[-1].leaves]


def _divided(profile: Profile, number: int) -> Profile:
    return tuple((name, n // number) for name, n in profile)


def _elements(path: NodePath) -> list[NodePath]:
    """Return one path for each number of the last node."""
    return [(*path[:-1], replace(path[-1], numbers=(n,))) for n in path[-1].numbers]


def _in_order(
    ours: list[NodePath], theirs: list[NodePath]
) -> list[tuple[NodePath, NodePath]] | None:
    """Return items that are numbered on both sides, in pairs by the order of their numbers."""
    numbered = []
    for paths in (ours, theirs):
        texts = {tuple(node.text for node in path) for path in paths}
        if len(texts) > 1 or SLOT not in "".join(next(iter(texts))):
            return None
        order = [tuple(node.numbers for node in path if node.numbers) for path in paths]
        if len(set(order)) < len(order):
            return None
        numbered.append([path for _, path in sorted(zip(order, paths, strict=True), key=lambda pair: pair[0])])
    return list(zip(*numbered, strict=True))


def _by_names(ours: list[NodePath], theirs: list[NodePath]) -> list[tuple[int, int]] | None:
    """Return the pairs of names of one meaning, if each name of both sides is in one of them."""
    if len(ours) != len(theirs):
        return None
    texts = [_meanings(ours), _meanings(theirs)]
    for first, second in zip(*texts, strict=True):
        if Counter(first) == Counter(second) and len(set(first)) == len(first):
            return [(a, second.index(name)) for a, name in enumerate(first)]
    return None


def _meanings(paths: list[NodePath]) -> list[list[str]]:
    """Return what names mean below what all share: the whole rest, the last part, and the first."""
    shared = 0
    while all(len(path) > shared + 1 and path[shared].text == paths[0][shared].text for path in paths):
        shared += 1
    ends = [len(path) - (path[-1].is_leaf and len(path) > shared + 1) for path in paths]
    rests = [
        "".join(node.text.replace(SLOT, "#") for node in path[shared:end])
        for path, end in zip(paths, ends, strict=True)
    ]
    meant = [meaning(rest) for rest in rests]
    return [meant, [text.rpartition(".")[2] for text in meant], [text.partition(".")[0] for text in meant]]
