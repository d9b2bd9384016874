"""Rules from pairs of folded leaves: patterns with captures, and relations between their numbers."""

from __future__ import annotations

import itertools
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from bridge_core.proof.matching.equations import LETTERS, Alignment, Form
from bridge_core.proof.matching.folding import SLOT, NodePath, Side, numbers_of, slots_of
from bridge_core.proof.matching.fused import Fused
from bridge_core.proof.matching.leaf_evidence import Draft
from bridge_core.proof.matching.matching import PatternPair
from bridge_core.proof.matching.relations import Relations, flat_relations, relations_of
from bridge_core.state import Key

__all__ = ["PatternWriter", "filled", "literals", "pattern_of"]

_Numbers = tuple[int, ...]


def pattern_of(path: NodePath) -> str:
    """Return a path as a pattern, for people and in choices."""
    letters = iter(LETTERS)
    return filled(
        slots_of(path),
        [
            f"{{{next(letters)}:int}}" if node.count > 1 else str(node.numbers[0])
            for node in path
            if node.numbers
        ],
    )


def filled(text: str, numbers: Sequence[str]) -> str:
    """Return a text with its slots filled, without the separator at its beginning."""
    first, *rest = text[1:].split(SLOT)
    return first + "".join(number + part for number, part in zip(numbers, rest, strict=True))


@dataclass(frozen=True)
class _Use:
    """One key of the source and one of the target, with their numbers."""

    ours: _Numbers
    theirs: _Numbers
    keys: tuple[Key, Key]
    reason: str
    confidence: float


class PatternWriter:
    """Writes pairs of folded leaves as rules."""

    def __init__(self, source: Side, target: Side) -> None:
        """List the numbers of each pattern, to see where one must not take all of them.

        Args:
            source: One side.
            target: The other.
        """
        self._sides = (source, target)
        self._all: list[dict[str, set[_Numbers]]] = []
        for side in self._sides:
            numbers: dict[str, set[_Numbers]] = defaultdict(set)
            for root in side.roots:
                for path in root.leaves:
                    numbers[slots_of(path)].update(numbers_of(path))
            self._all.append(numbers)

    def pairs(self, drafts: Iterable[tuple[Draft, Form, Alignment]]) -> tuple[PatternPair, ...]:
        """Return the rules for pairs of folded leaves, those of one pattern and equation joined."""
        rules: list[PatternPair] = []
        joined: dict[tuple[str, str, Form], list[_Use]] = {}
        for draft, form, alignment in drafts:
            if alignment.flat or alignment.source_axes or alignment.target_axes:
                rules += self._with_axes(draft, form, alignment)
                continue
            at = (slots_of(draft.source), slots_of(draft.target), form)
            uses = joined.setdefault(at, [])
            uses += [
                _Use(a, b, (ours, theirs), draft.reason, draft.confidence)
                for a, b, ours, theirs in zip(
                    numbers_of(draft.source),
                    numbers_of(draft.target),
                    self._sides[0].keys_of(draft.source),
                    self._sides[1].keys_of(draft.target),
                    strict=True,
                )
            ]
        for (ours, theirs, form), uses in joined.items():
            rules += self._rules(ours, theirs, form, uses)
        return tuple(rules)

    def _rules(self, ours: str, theirs: str, form: Form, uses: list[_Use]) -> Iterator[PatternPair]:
        """Yield one rule for all uses if patterns can say it, else several."""
        rule = self._rule(ours, theirs, form, uses)
        if rule is not None:
            yield rule
            return
        # Without a relation for all, those of each value of the first number that varies, and so on.
        place = next(i for i in range(len(uses[0].ours)) if len({use.ours[i] for use in uses}) > 1)
        groups: dict[int, list[_Use]] = defaultdict(list)
        for use in uses:
            groups[use.ours[place]].append(use)
        for group in groups.values():
            yield from self._rules(ours, theirs, form, group)

    def _rule(self, ours: str, theirs: str, form: Form, uses: list[_Use]) -> PatternPair | None:
        columns = [
            [sorted({numbers[i] for numbers in side}) for i in range(len(side[0]))]
            for side in ([use.ours for use in uses], [use.theirs for use in uses])
        ]
        varying = [[i for i, values in enumerate(side) if len(values) > 1] for side in columns]
        if len(varying[0]) != len(varying[1]):
            return None
        for a, b in zip(*varying, strict=True):
            if len({(use.ours[a], use.theirs[b]) for use in uses}) != len(columns[0][a]):
                return None
        lists = [[columns[side][i] for i in varying[side]] for side in (0, 1)]
        pairs = tuple((i, i) for i in range(len(varying[0])))
        relations = relations_of(lists[0], lists[1], Alignment(pairs))
        if relations is None or not _fit(uses, varying, lists):
            return None
        bounds: list[str] = []
        for side, text in enumerate((ours, theirs)):
            taken = {use.ours if side == 0 else use.theirs for use in uses}
            names = relations.ours if side == 0 else relations.theirs
            side_bounds = self._bounds(side, text, columns[side], varying[side], names, taken)
            if side_bounds is None:
                return None
            bounds += side_bounds
        return PatternPair(
            (_written(ours, columns[0], varying[0], relations.ours),),
            (_written(theirs, columns[1], varying[1], relations.theirs),),
            form.equation,
            tuple(((use.keys[0],), (use.keys[1],)) for use in uses),
            (*relations.where, *dict.fromkeys(bounds)),
            dict(form.sizes),
            min(uses, key=lambda use: use.confidence).reason,
            min(use.confidence for use in uses),
        )

    def _bounds(
        self,
        side: int,
        text: str,
        columns: list[list[int]],
        varying: list[int],
        names: Sequence[str],
        taken: set[_Numbers],
    ) -> list[str] | None:
        """Return comparisons that keep a pattern to its own numbers; None if none do."""
        constant = [i for i in range(len(columns)) if i not in varying]
        matching = {
            numbers for numbers in self._all[side][text] if all(numbers[i] == columns[i][0] for i in constant)
        }
        if matching == taken:
            return []
        bounds = []
        for i, name in zip(varying, names, strict=True):
            low, high = columns[i][0], columns[i][-1]
            if {numbers[i] for numbers in matching} != set(columns[i]):
                bounds.append(f"{low} <= {name} < {high + 1}")
                matching = {numbers for numbers in matching if low <= numbers[i] <= high}
        return bounds if matching == taken else None

    def _with_axes(self, draft: Draft, form: Form, alignment: Alignment) -> Iterator[PatternPair]:
        """Yield the rule where numbers of one side are an axis of the other, or count in another way."""
        ours = [node.numbers for node in draft.source if node.count > 1]
        theirs = [node.numbers for node in draft.target if node.count > 1]
        keys = self._keys(draft, alignment)
        relations = flat_relations(ours, theirs) if alignment.flat else relations_of(ours, theirs, alignment)
        bounds = self._axes_bounds(draft, relations) if relations is not None else None
        if (relations is None or bounds is None) and alignment.pairs:
            for part in _split(draft, form, alignment):
                yield from self._with_axes(*part)
            return
        if relations is None or bounds is None:
            for one in keys:
                yield literal(draft, form, alignment, one)
            return
        yield PatternPair(
            (_named(draft.source, relations.ours),),
            (_named(draft.target, relations.theirs),),
            form.equation,
            keys,
            (*relations.where, *bounds),
            dict(form.sizes),
            draft.reason,
            draft.confidence,
        )

    def fused(self, fused: Fused) -> tuple[PatternPair, ...]:
        """Return the rule of each order of a fused leaf's parts."""
        return tuple(rule for way in fused.ways for rule in self._fused(fused, *way))

    def _fused(
        self, fused: Fused, order: Sequence[int], form: Form, alignment: Alignment
    ) -> Iterator[PatternPair]:
        parts = [fused.parts[n] for n in order]
        ends = [(fused.packed, part) if fused.is_source else (part, fused.packed) for part in parts]
        drafts = [Draft(*pair, ((form, alignment),), fused.reason, fused.confidence) for pair in ends]
        lists = [[node.numbers for node in path if node.count > 1] for path in ends[0]]
        relations = relations_of(lists[0], lists[1], alignment)
        bounds = [relations and self._axes_bounds(draft, relations) for draft in drafts]
        uses = [self._keys(draft, alignment) for draft in drafts]
        keys = tuple(_joined(some, is_source=fused.is_source) for some in zip(*uses, strict=True))
        if relations is None or any(bound is None for bound in bounds):
            if not (alignment.source_axes or alignment.target_axes):
                for use in keys:
                    ours, theirs = (tuple(".".join(key) for key in side) for side in use)
                    sizes = dict(form.sizes)
                    yield PatternPair(
                        ours, theirs, form.equation, (use,), (), sizes, fused.reason, fused.confidence
                    )
            return
        sources = tuple(dict.fromkeys(_named(draft.source, relations.ours) for draft in drafts))
        targets = tuple(dict.fromkeys(_named(draft.target, relations.theirs) for draft in drafts))
        where = dict.fromkeys((*relations.where, *(text for bound in bounds for text in bound or ())))
        yield PatternPair(
            sources,
            targets,
            form.equation,
            keys,
            tuple(where),
            dict(form.sizes),
            fused.reason,
            fused.confidence,
        )

    def _axes_bounds(self, draft: Draft, relations: Relations) -> list[str] | None:
        bounds: list[str] = []
        for side, (path, names) in enumerate(
            ((draft.source, relations.ours), (draft.target, relations.theirs))
        ):
            nodes = [node for node in path if node.numbers]
            columns = [list(node.numbers) for node in nodes]
            varying = [i for i, node in enumerate(nodes) if node.count > 1]
            found = self._bounds(side, slots_of(path), columns, varying, names, set(numbers_of(path)))
            if found is None:
                return None
            bounds += found
        return list(dict.fromkeys(bounds))

    def _keys(
        self, draft: Draft, alignment: Alignment
    ) -> tuple[tuple[tuple[Key, ...], tuple[Key, ...]], ...]:
        """Return the keys of each use of the rule."""
        ours, theirs = (
            side.keys_of(path) for side, path in zip(self._sides, (draft.source, draft.target), strict=True)
        )
        if alignment.flat:
            return tuple(((a,), (b,)) for a, b in zip(ours, theirs, strict=True))
        groups: list[dict[_Numbers, list[Key]]] = []
        for number, (path, keys) in enumerate(((draft.source, ours), (draft.target, theirs))):
            counts = [node.count for node in path if node.count > 1]
            paired = [pair[number] for pair in alignment.pairs]
            group: dict[_Numbers, list[Key]] = {}
            for place, key in zip(itertools.product(*map(range, counts)), keys, strict=True):
                group.setdefault(tuple(place[i] for i in paired), []).append(key)
            groups.append(group)
        return tuple((tuple(keys), tuple(groups[1][at])) for at, keys in groups[0].items())


def _joined(
    uses: Sequence[tuple[tuple[Key, ...], tuple[Key, ...]]], *, is_source: bool
) -> tuple[tuple[Key, ...], tuple[Key, ...]]:
    """Return the keys of a fused tensor's use, and of its parts."""
    parts = tuple(key for use in uses for key in use[int(is_source)])
    whole = uses[0][1 - int(is_source)]
    return (whole, parts) if is_source else (parts, whole)


def literal(
    draft: Draft, form: Form, alignment: Alignment, keys: tuple[tuple[Key, ...], tuple[Key, ...]]
) -> PatternPair:
    """Return the rule for single keys: an axis of numbers becomes as many tensors in order."""
    equation = form.equation
    counts = {LETTERS[i]: draft_count for i, draft_count in _axis_counts(draft, alignment)}
    if counts:
        left, right = equation.split(" -> ")
        for letter, n in counts.items():
            left, right = (re.sub(rf"\b{letter}\b", str(n), term) for term in (left, right))
        terms = [", ".join([term] * len(side)) for term, side in zip((left, right), keys, strict=True)]
        equation = " -> ".join(terms)
    names = [tuple(".".join(key) for key in side) for side in keys]
    return PatternPair(
        names[0], names[1], equation, (keys,), (), dict(form.sizes), draft.reason, draft.confidence
    )


def literals(pair: PatternPair) -> tuple[PatternPair, ...]:
    """Return a rule of one tensor each as rules of single keys."""
    if any(len(ours) + len(theirs) > 2 for ours, theirs in pair.keys):
        return (pair,)
    return tuple(
        replace(
            pair,
            sources=(".".join(ours[0]),),
            targets=(".".join(theirs[0]),),
            where=(),
            keys=((ours, theirs),),
        )
        for ours, theirs in pair.keys
    )


def _split(draft: Draft, form: Form, alignment: Alignment) -> Iterator[tuple[Draft, Form, Alignment]]:
    """Yield a pair of leaves for each value of its last pair of numbers, which become parts of the names."""
    paths = (draft.source, draft.target)
    places = [[i for i, node in enumerate(path) if node.count > 1] for path in paths]
    *rest, gone = alignment.pairs

    def moved(place: int, side: int) -> int:
        return place - (place > gone[side])

    letters = {}
    for side, offsets in ((0, (0, 0)), (1, (len(places[0]), len(places[0]) - 1))):
        for place in range(len(places[side])):
            if place != gone[side]:
                letters[LETTERS[offsets[0] + place]] = LETTERS[offsets[1] + moved(place, side)]
    equation = re.sub(r"\w+", lambda match: letters.get(match[0], match[0]), form.equation)
    fewer = Alignment(
        tuple((moved(a, 0), moved(b, 1)) for a, b in rest),
        tuple(moved(place, 0) for place in alignment.source_axes),
        tuple(moved(place, 1) for place in alignment.target_axes),
    )
    nodes = [path[places[side][gone[side]]] for side, path in enumerate(paths)]
    for ours, theirs in zip(nodes[0].numbers, nodes[1].numbers, strict=True):
        source, target = (
            tuple(replace(one, numbers=(n,)) if one is node else one for one in path)
            for path, node, n in zip(paths, nodes, (ours, theirs), strict=True)
        )
        yield replace(draft, source=source, target=target), replace(form, equation=equation), fewer


def _axis_counts(draft: Draft, alignment: Alignment) -> Iterator[tuple[int, int]]:
    ours = [node.count for node in draft.source if node.count > 1]
    theirs = [node.count for node in draft.target if node.count > 1]
    for i in alignment.source_axes:
        yield i, ours[i]
    for i in alignment.target_axes:
        yield len(ours) + i, theirs[i]


def _fit(uses: list[_Use], varying: list[list[int]], lists: list[list[list[int]]]) -> bool:
    """Return whether numbers are paired by their rank, as relations of sorted numbers say."""
    for place, (a, b) in enumerate(zip(*varying, strict=True)):
        ranks = dict(zip(lists[0][place], lists[1][place], strict=True))
        if any(ranks[use.ours[a]] != use.theirs[b] for use in uses):
            return False
    return True


def _written(text: str, columns: list[list[int]], varying: list[int], names: Sequence[str]) -> str:
    captures = dict(zip(varying, names, strict=True))
    return filled(
        text,
        [f"{{{captures[i]}:int}}" if i in captures else str(values[0]) for i, values in enumerate(columns)],
    )


def _named(path: NodePath, names: Sequence[str]) -> str:
    rest = iter(names)
    return filled(
        slots_of(path),
        [
            f"{{{next(rest)}:int}}" if node.count > 1 else str(node.numbers[0])
            for node in path
            if node.numbers
        ],
    )
