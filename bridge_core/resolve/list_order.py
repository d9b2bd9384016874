"""Pairs of numbered names that contradict each other: lists out of order, items with two names for one."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping

from bridge_core.resolve.tree_pairs import split_numbers
from bridge_core.state import Key

__all__ = ["without_contradictions"]

_List = tuple[Key, Key]
"""The names before a number, of both sides."""


def without_contradictions(pairs: Mapping[Key, Key], known: Mapping[Key, Key]) -> dict[Key, Key]:
    """Return the pairs that agree with each other and with known ones about lists.

    The items of a list keep their order, and what has one name in all items of a list has one name in all
    items of the other list. A number is not exchanged for another one of the same list by a single pair.

    >>> without_contradictions({("a", "0"): ("a", "3")}, {("a", n): ("a", n) for n in ("1", "2")})
    {}
    >>> without_contradictions({("a", "2"): ("a", "1")}, {("a", "0"): ("a", "0")})
    {('a', '2'): ('a', '1')}

    Args:
        pairs: Source path -> target path; these can be left out.
        known: The same of those that are not asked about.
    """
    numbers: defaultdict[_List, set[tuple[int, int]]] = defaultdict(set)
    strict: defaultdict[_List, set[tuple[int, int]]] = defaultdict(set)
    names: defaultdict[tuple[Key, ...], defaultdict[Key, set[tuple[str, str]]]] = defaultdict(
        lambda: defaultdict(set)
    )
    for source, target in (*known.items(), *pairs.items()):
        for one, other, a, b in _numbered(source, target):
            numbers[one[:a], other[:b]].add((int(one[a]), int(other[b])))
            if _depths(one, a) == _depths(other, b):
                strict[one[:a], other[:b]].add((int(one[a]), int(other[b])))
            names[one[:a], other[:b], one[a + 1 :]][_named(other[b + 1 :])].add((one[a], other[b]))
            names[other[:b], one[:a], other[b + 1 :], ()][_named(one[a + 1 :])].add((one[a], other[b]))
    disordered = {place for place, rows in numbers.items() if _is_disordered(place, rows, strict[place])}
    renamed = {place for place, suffixes in names.items() if _is_renamed(list(suffixes.values()))}
    return {
        source: target
        for source, target in pairs.items()
        if not any(
            (one[:a], other[:b]) in disordered
            or (one[:a], other[:b], one[a + 1 :]) in renamed
            or (other[:b], one[:a], other[b + 1 :], ()) in renamed
            for one, other, a, b in _numbered(source, target)
        )
    }


def _numbered(source: Key, target: Key) -> Iterator[tuple[Key, Key, int, int]]:
    one, other = split_numbers(source), split_numbers(target)
    for a, part in enumerate(one):
        if part.isdigit():
            for b, partner in enumerate(other):
                if partner.isdigit():
                    yield one, other, a, b


def _named(path: Key) -> Key:
    return tuple("#" if part.isdigit() else part for part in path)


def _depths(path: Key, at: int) -> tuple[int, int]:
    """Return how many numbers are before a place, and how many from there on."""
    return sum(map(str.isdigit, path[:at])), sum(map(str.isdigit, path[at:]))


def _is_disordered(place: _List, rows: set[tuple[int, int]], same_depth: Collection[tuple[int, int]]) -> bool:
    """Return whether numbers do not keep their order, or only one number of a list changes.

    Args:
        place: The list on both sides.
        rows: Numbers of both sides that occur together.
        same_depth: Those of them that have as many numbers before and after them on both sides.
    """
    if len(rows) == 1:
        ((one, other),) = rows
        return place[0] == place[1] and one != other
    if len({a for a, _ in same_depth}) != len(same_depth) or len({b for _, b in same_depth}) != len(
        same_depth
    ):
        return True
    highest: int | None = None
    for _, group in itertools.groupby(sorted(rows), lambda row: row[0]):
        partners = [b for _, b in group]
        if highest is not None and partners[0] < highest:
            return True
        highest = partners[-1]
    return False


def _is_renamed(items: list[set[tuple[str, str]]]) -> bool:
    """Return whether two items of a list call what has one name on the other side by different names."""
    return any(
        one[0] != other[0] and one[1] != other[1]
        for n, rows in enumerate(items)
        for others in items[n + 1 :]
        for one in rows
        for other in others
    )
