"""The assignment of two folded trees: from the top down to leaves, with what stays open as choices.

A *pool* is what must correspond completely: at first both trees, then what is inside a pair of nodes. Its
items are grouped by what they hold; an item that has no counterpart is replaced by what is inside it, which
is how trees that nest differently meet. Names decide only what is left, and only if they are exact.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from bridge_core.proof.matching.assignment import components, possible_pairs
from bridge_core.proof.matching.folding import NodePath, texts_of
from bridge_core.proof.matching.fused import fused_leaves
from bridge_core.proof.matching.items import (
    by_value,
    equal_counts,
    in_order,
    inside_of,
    is_stacked,
    leaf_paths,
    length,
    listed_alike,
    lists_to_open,
    normal_path,
    single_paths,
    with_one_meaning,
    with_same_names,
)
from bridge_core.proof.matching.leaf_evidence import LeafEvidence
from bridge_core.proof.matching.outcome import DraftChoice, Outcome
from bridge_core.proof.matching.profiles import Profiles
from bridge_core.proof.matching.tree_forms import TreeForms

__all__ = ["Pools"]

_LONGEST = 64
"""How many trees of one form are looked at one by one where they are listed in other ways."""

_LARGEST_LAYER = 12
"""How many leaves a layer has at most, on both sides together."""


class Pools:
    """The assignment of two trees, one pool after another."""

    def __init__(
        self, profiles: Profiles, evidence: LeafEvidence, *, names: bool = True, usual: bool = True
    ) -> None:
        """Remember the evidence.

        Args:
            profiles: The profiles of both sides.
            evidence: What is known of leaves.
            names: Whether exact names may decide what the rest leaves open.
            usual: Whether linear layers are stored as both frameworks' own, unless nothing fits so.
        """
        self._usual = usual
        self.against = 0  # how many groups fit only if linear layers are stored otherwise
        self._profiles = profiles
        self._evidence = evidence
        self._names = names
        self._forms = TreeForms(profiles)

    def match(
        self, ours: Sequence[NodePath], theirs: Sequence[NodePath], depths: tuple[int, int] = (0, 0)
    ) -> Outcome:
        """Return the pairs of two pools.

        Args:
            ours: Items of the source.
            theirs: Items of the target.
            depths: How long the path to the source's pool is, and the path to the target's.
        """
        ours, theirs = ([normal_path(path) for path in paths] for paths in (ours, theirs))
        while True:
            groups, left, right = self._grouped(ours, theirs)
            swaps = self._opened(left, right, depths)
            if swaps is None:
                break
            ours = [new for path in ours for new in swaps.get(id(path), [path])]
            theirs = [new for path in theirs for new in swaps.get(id(path), [path])]
        groups, left, right = self._without_split(groups, left, right)
        outcome = Outcome()
        for group in groups:
            outcome.add(self._group(*group))
        outcome.add(self._rest(left, right, depths))
        return outcome

    def match_leaves(self, ours: Sequence[NodePath], theirs: Sequence[NodePath]) -> Outcome:
        """Return the pairs of leaves whose places show nothing; only their names can.

        Args:
            ours: Paths to leaves of the source.
            theirs: Paths to leaves of the target.
        """
        return self._rest([normal_path(p) for p in ours], [normal_path(p) for p in theirs], (0, 0))

    def _without_split(
        self,
        groups: list[tuple[list[NodePath], list[NodePath]]],
        left: list[NodePath],
        right: list[NodePath],
    ) -> tuple[list[tuple[list[NodePath], list[NodePath]]], list[NodePath], list[NodePath]]:
        """Return groups without leaves of a class that both sides have left over in other numbers.

        Layers that only some of a list are like can be one pattern on one side and two on the other.
        """
        classes = [
            {self._profiles.class_of(leaf[-1]) for path in paths for leaf in leaf_paths(path)}
            for paths in (left, right)
        ]
        split = classes[0] & classes[1]
        others = []
        for group in groups:
            if group[0][0][-1].is_leaf and self._profiles.class_of(group[0][0][-1]) in split:
                left, right = [*left, *group[0]], [*right, *group[1]]
            else:
                others.append(group)
        return others, left, right

    # Grouping

    def _grouped(
        self, ours: list[NodePath], theirs: list[NodePath]
    ) -> tuple[list[tuple[list[NodePath], list[NodePath]]], list[NodePath], list[NodePath]]:
        """Return groups that have as many items on both sides, and the items that are in none.

        Trees of one form belong together. Others that hold as much may have exchanged leaves with what is
        next to them, so they do only if nothing there is like what is in them.
        """
        groups, ours, theirs, apart = self._of_one_form(ours, theirs, common=False)
        alike, ours, theirs, more_apart = self._of_one_form(ours, theirs, common=True)
        groups += alike
        others = Counter(t for path in (*ours, *theirs) for t in set(self._forms.types(path)))
        for level in (False, True):
            more, left, right = equal_counts(
                ours,
                theirs,
                lambda path, reduced=level: self._profiles.of(path, reduced=reduced),  # type: ignore[misc]
            )
            for group in more:
                paths = (*group[0], *group[1])
                inside = Counter(t for path in paths for t in set(self._forms.types(path)))
                nested = not all(path[-1].is_leaf for path in paths)
                if nested and any(others[t] > n for t, n in inside.items()):
                    left += group[0]
                    right += group[1]
                elif self._profiles.of(group[0][0], reduced=level):
                    groups.append(group)
                else:
                    left += group[0]
                    right += group[1]
            ours, theirs = left, right
        return groups, [*ours, *apart[0], *more_apart[0]], [*theirs, *apart[1], *more_apart[1]]

    def _of_one_form(
        self, ours: list[NodePath], theirs: list[NodePath], *, common: bool
    ) -> tuple[
        list[tuple[list[NodePath], list[NodePath]]],
        list[NodePath],
        list[NodePath],
        tuple[list[NodePath], list[NodePath]],
    ]:
        """Return groups of trees of one form, the rest, and what is listed in other ways on both sides.

        If both sides have as many trees of a form in lists of other lengths, a list of one side may be parts
        of several of the other, whatever lengths are equal.
        """
        groups: list[tuple[list[NodePath], list[NodePath]]] = []
        rest: tuple[list[NodePath], list[NodePath]] = ([], [])
        apart: tuple[list[NodePath], list[NodePath]] = ([], [])
        forms = by_value(ours, theirs, lambda path: self._forms.form(path[-1], common=common))
        listed = {form: listed_alike(*pair) for form, pair in forms.items()}
        inside = [
            self._forms.forms_inside(path[-1], common=common)
            for form, pair in forms.items()
            if not listed[form].alike
            for path in (*pair[0], *pair[1])
        ]
        for form, pair in forms.items():
            lists = listed[form]
            if form == -1 or not (pair[0] and pair[1]):
                into = rest
            elif not lists.alike and (lists.as_many or any(form in below for below in inside)):
                into = apart
            else:
                groups += lists.groups
                pair, into = lists.rest, rest
            for place, paths in zip(into, pair, strict=True):
                place += paths
        return groups, *rest, apart

    def _opened(
        self, left: list[NodePath], right: list[NodePath], depths: tuple[int, int]
    ) -> dict[int, list[NodePath]] | None:
        """Return what replaces the largest items without a counterpart; None if all are leaves."""
        if not left or not right:
            return None
        profiles = {id(path): self._profiles.of(path) for path in (*left, *right)}
        forms = by_value(left, right, lambda path: self._forms.form(path[-1], common=False))
        for form, pair in forms.items():
            if listed_alike(*pair).as_many and sum(map(length, pair[0])) <= _LONGEST:
                if is_stacked(form, forms, profiles):
                    continue
                swaps = {
                    id(path): single_paths(path, range(depth, len(path)))
                    for paths, depth in zip(pair, depths, strict=True)
                    for path in paths
                    if any(node.count > 1 for node in path[depth:])
                }
                if swaps:
                    return swaps
        inside = [self._forms.forms_inside(path[-1], common=False) for path in (*left, *right)]
        for ours, theirs, depth in ((left, right, depths[0]), (right, left, depths[1])):
            known = {profiles[id(path)] for path in theirs}
            for path in ours:
                if any(self._forms.form(path[-1], common=False) in below for below in inside):
                    continue  # others of its form are not in the pool yet
                places = lists_to_open(path, depth, profiles[id(path)], known)
                if places:
                    return {id(path): single_paths(path, places)}
        nested = [path for path in (*left, *right) if not path[-1].is_leaf]
        if not nested:
            return None
        largest = max(sum(n for _, n in profiles[id(path)]) for path in nested)
        return {
            id(path): [normal_path((*path, child)) for child in path[-1].children]
            for path in nested
            if sum(n for _, n in profiles[id(path)]) == largest
        }

    # Groups

    def _pair(self, ours: NodePath, theirs: NodePath, reason: str, confidence: float = 1.0) -> Outcome:
        """Return what one pair of items gives."""
        ours, theirs = normal_path(ours), normal_path(theirs)
        if ours[-1].is_leaf and theirs[-1].is_leaf:
            draft = self._evidence.draft(ours, theirs)
            if draft is None:
                return Outcome(ours=[ours], theirs=[theirs], misfits=1)
            why = replace(draft, reason=reason, confidence=min(confidence, draft.confidence))
            return Outcome(drafts=[why], usual=draft.usual)
        inside = leaf_paths if self._is_nested_layer(ours, theirs) else inside_of
        inner = self.match(inside(ours), inside(theirs), (len(ours), len(theirs)))
        inner.drafts = [replace(one, confidence=min(confidence, one.confidence)) for one in inner.drafts]
        return inner

    def _is_nested_layer(self, *paths: NodePath) -> bool:
        """Return whether a side names a layer that frameworks nest in other ways, such as a weight norm.

        Its magnitude and its bias have one size, and either may be the outer one.
        """
        texts = [next(texts_of(leaf)) for path in paths for leaf in leaf_paths(path)]
        return len(texts) <= _LARGEST_LAYER and any(
            text.endswith(self._evidence.ways.nested) for text in texts
        )

    def _group(self, ours: list[NodePath], theirs: list[NodePath]) -> Outcome:
        if len(ours) == 1:
            return self._pair(ours[0], theirs[0], "the only one of its shapes in its place")
        ordered = in_order(ours, theirs)
        if ordered is not None:
            outcome = Outcome()
            for one, other in ordered:
                outcome.add(self._pair(one, other, "by the order of its numbers"))
            return outcome
        outcomes = [[self._pair(one, other, "") for other in theirs] for one in ours]
        least = [min(row, key=lambda o: o.open_ends).open_ends for row in outcomes]
        allowed = [[o.open_ends <= low for o in row] for row, low in zip(outcomes, least, strict=True)]
        usual = [
            [a and o.usual for a, o in zip(*row, strict=True)] for row in zip(allowed, outcomes, strict=True)
        ]
        possible = possible_pairs(usual) if self._usual else None
        if possible is None and self._usual and not all(o.usual for row in outcomes for o in row):
            self._count_against(allowed, outcomes)
        possible = (
            possible
            or possible_pairs(allowed)
            or possible_pairs([[not o.misfits for o in row] for row in outcomes])
            or [[True] * len(theirs) for _ in ours]
        )
        outcome = Outcome()
        for rows, columns in components(possible):
            outcome.add(self._component(ours, theirs, rows, columns, outcomes, possible))
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
        matched = with_one_meaning(left, right) if self._names else None
        if matched is not None and all(possible[rows[a]][columns[b]] for a, b in matched):
            outcome = Outcome()
            for a, b in matched:
                outcome.add(self._pair(left[a], right[b], "names of one meaning", 0.9))
            return outcome
        options = [(ours[r], theirs[c], found[r][c]) for r in rows for c in columns if possible[r][c]]
        reason = f"{len(rows)} and {len(columns)} of the same shapes in the same place"
        return Outcome(choices=[DraftChoice(left, right, options, reason)])

    def _rest(self, left: list[NodePath], right: list[NodePath], depths: tuple[int, int]) -> Outcome:
        """Return choices among leaves of which one side has more, and those without a partner."""
        outcome = Outcome()
        if not left or not right:
            outcome.ours = [leaf for path in left for leaf in leaf_paths(path)]
            outcome.theirs = [leaf for path in right for leaf in leaf_paths(path)]
            return outcome
        fused = fused_leaves(left, right, self._evidence, names=self._names)
        if fused:
            gone = {id(path) for one in fused for path in (one.packed, *one.parts)}
            outcome = self.match(
                [path for path in left if id(path) not in gone],
                [path for path in right if id(path) not in gone],
                depths,
            )
            outcome.fused += fused
            return outcome
        drafts = {
            (a, b): draft
            for a, one in enumerate(left)
            for b, other in enumerate(right)
            if one[-1].is_leaf
            and other[-1].is_leaf
            and (draft := self._evidence.draft(one, other)) is not None
        }
        pairs = [[(a, b) in drafts for b in range(len(right))] for a in range(len(left))]
        used: set[int] = set()
        for rows, columns in components(pairs):
            used |= set(columns)
            ours, theirs = [left[r] for r in rows], [right[c] for c in columns]
            if not theirs:
                outcome.ours += [leaf for path in ours for leaf in leaf_paths(path)]
                continue
            same = with_same_names(ours, theirs) if self._names else None
            if same is not None and all((rows[a], columns[b]) in drafts for a, b in same):
                for a, b in same:
                    draft = drafts[rows[a], columns[b]]
                    outcome.drafts.append(replace(draft, reason="the same name", confidence=0.8))
                outcome.ours += [path for a, path in enumerate(ours) if a not in {a for a, _ in same}]
                outcome.theirs += [path for b, path in enumerate(theirs) if b not in {b for _, b in same}]
                continue
            options = [
                (left[r], right[c], Outcome(drafts=[drafts[r, c]]))
                for r in rows
                for c in columns
                if pairs[r][c]
            ]
            reason = f"{len(rows)} of these shapes at the source, {len(columns)} at the target"
            outcome.choices.append(DraftChoice(ours, theirs, options, reason))
        outcome.theirs += [leaf for c, path in enumerate(right) if c not in used for leaf in leaf_paths(path)]
        return outcome
