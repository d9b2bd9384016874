"""Rules from pairs of folded leaves: patterns with captures, and relations between their numbers."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from bridge_core.proof.matching.equations import LETTERS, Alignment, Form
from bridge_core.proof.matching.folding import SLOT, NodePath, Side
from bridge_core.proof.matching.leaf_evidence import Draft
from bridge_core.proof.matching.matching import PatternPair
from bridge_core.state import Key

__all__ = ["PatternWriter", "pattern_of"]


def pattern_of(path: NodePath) -> str:
    """Return a path as a pattern, for people and in choices."""
    letters = iter(LETTERS)
    return _filled(path, [f"{{{next(letters)}:int}}" for node in path if node.count > 1])


def _filled(path: NodePath, captures: Sequence[str]) -> str:
    """Return a path as a pattern with these captures for its numbered parts."""
    rest = iter(captures)
    text = "".join(
        node.text.replace(SLOT, next(rest) if node.count > 1 else str(node.numbers[0])) if node.numbers else node.text
        for node in path
    )
    return text[1:]


@dataclass(frozen=True)
class _Numbers:
    """Captures of both sides, and how they are related; None in place of it if rules cannot say it."""

    ours: tuple[str, ...]
    theirs: tuple[str, ...]
    where: tuple[str, ...]


class PatternWriter:
    """Writes pairs of folded leaves as rules."""

    def __init__(self, source: Side, target: Side) -> None:
        """Count the keys of each pattern, to see where one must not take all of its numbers.

        Args:
            source: One side.
            target: The other.
        """
        self._sides = (source, target)
        self._counts = [
            Counter(text for root in side.roots for path in root.leaves for text in [_bare(path)] * _size(path))
            for side in self._sides
        ]

    def pairs(self, draft: Draft, form: Form, alignment: Alignment) -> tuple[PatternPair, ...]:
        """Return the rules for one pair of folded leaves; one for each key if numbers follow no relation."""
        ours = [node.numbers for node in draft.source if node.count > 1]
        theirs = [node.numbers for node in draft.target if node.count > 1]
        keys = self._keys(draft, alignment)
        numbers = _relations(ours, theirs, alignment)
        if numbers is not None:
            bounds = self._bounds(draft, numbers, ours, theirs)
            if bounds is not None:
                return (
                    PatternPair(
                        (_filled(draft.source, [f"{{{name}:int}}" for name in numbers.ours]),),
                        (_filled(draft.target, [f"{{{name}:int}}" for name in numbers.theirs]),),
                        form.equation,
                        keys,
                        (*numbers.where, *bounds),
                        dict(form.sizes),
                        draft.reason,
                        draft.confidence,
                    ),
                )
        return tuple(self._literal(draft, form, one) for one in keys)

    def _literal(
        self, draft: Draft, form: Form, keys: tuple[tuple[Key, ...], tuple[Key, ...]]
    ) -> PatternPair:
        """Return the rule for single keys: numbers that are axes become the order of the tensors."""
        names = tuple(
            tuple(".".join(side_key) for side_key in side) for side in (_stripped(keys[0]), _stripped(keys[1]))
        )
        return PatternPair(
            names[0], names[1], form.equation, (keys,), (), dict(form.sizes), draft.reason, draft.confidence
        )

    def _keys(self, draft: Draft, alignment: Alignment) -> tuple[tuple[tuple[Key, ...], tuple[Key, ...]], ...]:
        """Return the keys of each use of the rule."""
        ours, theirs = (
            side.keys_of(path) for side, path in zip(self._sides, (draft.source, draft.target), strict=True)
        )
        if alignment.flat:
            return tuple(((a,), (b,)) for a, b in zip(ours, theirs, strict=True))
        groups: list[dict[tuple[int, ...], list[Key]]] = []
        for number, (path, keys) in enumerate(((draft.source, ours), (draft.target, theirs))):
            counts = [node.count for node in path if node.count > 1]
            paired = [pair[number] for pair in alignment.pairs]
            group: dict[tuple[int, ...], list[Key]] = {}
            for place, key in zip(itertools.product(*map(range, counts)), keys, strict=True):
                group.setdefault(tuple(place[i] for i in paired), []).append(key)
            groups.append(group)
        return tuple((tuple(keys), tuple(groups[1][at])) for at, keys in groups[0].items())

    def _bounds(
        self, draft: Draft, numbers: _Numbers, ours: Sequence[Sequence[int]], theirs: Sequence[Sequence[int]]
    ) -> tuple[str, ...] | None:
        """Return comparisons that keep a pattern to its own numbers; None if none can."""
        bounds: list[str] = []
        for path, counts, names, lists in (
            (draft.source, self._counts[0], numbers.ours, ours),
            (draft.target, self._counts[1], numbers.theirs, theirs),
        ):
            if counts[_bare(path)] == _size(path):
                continue
            for name, values in zip(names, lists, strict=True):
                if len(values) != values[-1] - values[0] + 1:
                    return None
                bounds.append(f"{values[0]} <= {name} < {values[-1] + 1}")
        return tuple(dict.fromkeys(bounds))


def _stripped(keys: tuple[Key, ...]) -> tuple[Key, ...]:
    return keys


def _bare(path: NodePath) -> str:
    """Return the text that all numbers share, where those of one part are alike for a pattern."""
    return "".join(
        node.text if node.count > 1 or not node.numbers else node.text.replace(SLOT, str(node.numbers[0]))
        for node in path
    )


def _size(path: NodePath) -> int:
    size = 1
    for node in path:
        size *= node.count
    return size


def _relations(
    ours: Sequence[Sequence[int]], theirs: Sequence[Sequence[int]], alignment: Alignment
) -> _Numbers | None:
    names = [list(LETTERS[: len(ours)]), [f"{LETTERS[len(ours) + i]}" for i in range(len(theirs))]]
    where: list[str] = []
    if alignment.flat:
        if any(list(numbers) != list(range(len(numbers))) for numbers in (*ours, *theirs)):
            return None
        return _flat(names, [len(n) for n in ours], [len(n) for n in theirs])
    for a, b in alignment.pairs:
        if list(ours[a]) == list(theirs[b]):
            names[1][b] = names[0][a]
            continue
        relation = _relation(names[0][a], ours[a], names[1][b], theirs[b])
        if relation is None:
            return None
        where.append(relation)
    for places, side, lists in ((alignment.source_axes, 0, ours), (alignment.target_axes, 1, theirs)):
        for place in places:
            axis, values = names[side][place], lists[place]
            if list(values) != list(range(len(values))):
                names[side][place] = f"{axis}{axis}"
                relation = _relation(names[side][place], values, axis, range(len(values)))
                if relation is None:
                    return None
                where.append(relation)
    return _Numbers(tuple(names[0]), tuple(names[1]), tuple(where))


def _flat(names: list[list[str]], ours: list[int], theirs: list[int]) -> _Numbers | None:
    for single, several, sizes in ((names[0], names[1], theirs), (names[1], names[0], ours)):
        if len(single) == 1:
            terms = []
            rest = 1
            for name, size in zip(reversed(several), reversed(sizes), strict=True):
                terms.append(name if rest == 1 else f"{name}*{rest}")
                rest *= size
            text = f"{single[0]} = {' + '.join(reversed(terms))}"
            return _Numbers(tuple(names[0]), tuple(names[1]), (text,))
    return None


def _relation(one: str, ours: Sequence[int], other: str, theirs: Sequence[int]) -> str | None:
    """Return how numbers of one side follow from those of the other; None if it cannot be said."""
    shift = theirs[0] - ours[0]
    if all(b - a == shift for a, b in zip(ours, theirs, strict=True)):
        return f"{other} = {one} + {shift}" if shift > 0 else f"{one} = {other} + {-shift}"
    for name, values, base, index in ((other, theirs, one, ours), (one, ours, other, theirs)):
        if list(index) == list(range(index[0], index[0] + len(index))) and index[0] in (0, 1):
            at = base if index[0] == 0 else f"{base} - 1"
            step = values[1] - values[0]
            if index[0] == 0 and all(v == values[0] + step * n for n, v in enumerate(values)) and step > 1:
                return f"{name} = {step}*{base}" + (f" + {values[0]}" if values[0] else "")
            return f"{name} = [{', '.join(map(str, values))}][{at}]"
    return None
