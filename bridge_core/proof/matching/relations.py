"""How the numbers of one side follow from those of the other, as ``where`` specifies it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bridge_core.proof.matching.equations import LETTERS, Alignment

__all__ = ["Relations", "flat_relations", "relations_of"]


@dataclass(frozen=True)
class Relations:
    """Captures of both sides, and how they are related.

    Args:
        ours: Captures of the source, in order.
        theirs: Captures of the target; one of both sides has one value on both.
        where: Relations.
    """

    ours: tuple[str, ...]
    theirs: tuple[str, ...]
    where: tuple[str, ...]


def relations_of(
    ours: Sequence[Sequence[int]], theirs: Sequence[Sequence[int]], alignment: Alignment
) -> Relations | None:
    """Return the captures and relations of numbers that are paired in order; None if rules cannot say it.

    Args:
        ours: Numbers of each capture of the source, increasing.
        theirs: The same of the target.
        alignment: Which belong together, and which are axes of the other side.

    >>> relations_of([[1, 2]], [[0, 1]], Alignment(((0, 0),)))
    Relations(ours=('i',), theirs=('j',), where=('i = j + 1',))
    """
    names = _names(ours, theirs)
    where: list[str] = []
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
                names[side][place] = f"{axis}_number"
                relation = _relation(names[side][place], values, axis, range(len(values)))
                if relation is None:
                    return None
                where.append(relation)
    return Relations(tuple(names[0]), tuple(names[1]), tuple(where))


def flat_relations(ours: Sequence[Sequence[int]], theirs: Sequence[Sequence[int]]) -> Relations | None:
    """Return the relation of one number of a side to several of the other; None if rules cannot say it.

    >>> flat_relations([[0, 1, 2, 3]], [[0, 1], [0, 1]]).where
    ('i = j*2 + l',)
    """
    if any(list(numbers) != list(range(len(numbers))) for numbers in (*ours, *theirs)):
        return None
    names = _names(ours, theirs)
    for single, several, lists in ((names[0], names[1], theirs), (names[1], names[0], ours)):
        if len(single) == 1:
            terms: list[str] = []
            rest = 1
            for name, numbers in zip(reversed(several), reversed(lists), strict=True):
                terms.append(name if rest == 1 else f"{name}*{rest}")
                rest *= len(numbers)
            text = f"{single[0]} = {' + '.join(reversed(terms))}"
            return Relations(tuple(names[0]), tuple(names[1]), (text,))
    return None


def _names(ours: Sequence[object], theirs: Sequence[object]) -> list[list[str]]:
    return [list(LETTERS[: len(ours)]), list(LETTERS[len(ours) : len(ours) + len(theirs)])]


def _relation(one: str, ours: Sequence[int], other: str, theirs: Sequence[int]) -> str | None:
    """Return how numbers of one side follow from those of the other; None if it cannot be said."""
    shift = theirs[0] - ours[0]
    if all(b - a == shift for a, b in zip(ours, theirs, strict=True)):
        return f"{other} = {one} + {shift}" if shift > 0 else f"{one} = {other} + {-shift}"
    for name, values, base, index in ((other, theirs, one, ours), (one, ours, other, theirs)):
        if list(index) == list(range(index[0], index[0] + len(index))) and index[0] in (0, 1):
            at = base if index[0] == 0 else f"{base} - 1"
            step = values[1] - values[0]
            if index[0] == 0 and step > 1 and all(v == values[0] + step * n for n, v in enumerate(values)):
                return f"{name} = {step}*{base}" + (f" + {values[0]}" if values[0] else "")
            return f"{name} = [{', '.join(map(str, values))}][{at}]"
    return None
