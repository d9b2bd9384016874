"""From pairs of names to rename rules: what all pairs change, with numbers as captures."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence

from bridge_core.plan import ProposedRename
from bridge_core.state import Key, join_key

__all__ = ["folded_renames"]

_PLAIN = re.compile(r"[\w-]+", re.ASCII)
_NUMBER = re.compile(r"(?<!\d)(\d{1,9})$")
_LETTERS = "ijklmn"
_OTHERS = "abcdef"

_MOST = 64
"""How many rules are proposed; of more nobody could check each."""


def folded_renames(
    pairs: Mapping[Key, Key],
    others: tuple[Collection[Key], Collection[Key]] = ((), ()),
    tail: str = "",
) -> tuple[ProposedRename, ...]:
    """Return rules that give every path its partner's name, and change no other; none if they cannot.

    Args:
        pairs: Path of the source -> path of the target.
        others: Paths of the source, and of the target, that no rule may match.
        tail: What follows a path in a pattern: ``*`` for layers, nothing for leaves.
    """
    if not all(_PLAIN.fullmatch(part) for pair in pairs.items() for path in pair for part in path):
        return ()
    cores = _cores(pairs, others) if tail else {(s, t): [(s, t)] for s, t in pairs.items()}
    groups: defaultdict[tuple[Key, Key, str], list[tuple[Key, Key]]] = defaultdict(list)
    for (source, target), members in cores.items():
        end = "**" if any(source != path for path, _ in members) else tail
        groups[_masked(source), _masked(target), end].append((source, target))
    renames = [rule for (_, _, end), group in groups.items() for rule in _rules(group, end)]
    return tuple(renames) if len(renames) <= _MOST else ()


_Core = tuple[Key, Key]


def _cores(
    pairs: Mapping[Key, Key], others: tuple[Collection[Key], Collection[Key]]
) -> dict[_Core, list[tuple[Key, Key]]]:
    """Return the shortest changes: beginnings of both paths -> the pairs that differ in nothing else.

    Nothing else of either side begins like that.
    """
    below: tuple[defaultdict[Key, set[_Core | None]], defaultdict[Key, set[_Core | None]]]
    below = (defaultdict(set), defaultdict(set))
    for pair in pairs.items():
        shared = _shared(*pair)
        cores = [_core(pair, cut) for cut in range(shared + 1)]
        for side in (0, 1):
            for core in cores:
                below[side][core[side]].add(core)
            for length in range(len(pair[side]) - shared):
                below[side][pair[side][:length]].add(None)
    for side, paths in enumerate(others):
        for path in paths:
            for length in range(len(path) + 1):
                if path[:length] in below[side]:
                    below[side][path[:length]].add(None)
    pairs_of: defaultdict[_Core, list[tuple[Key, Key]]] = defaultdict(list)
    for pair in pairs.items():
        for cut in range(_shared(*pair), -1, -1):
            core = _core(pair, cut)
            if cut == 0 or all(below[side][core[side]] == {core} for side in (0, 1)):
                pairs_of[core].append(pair)
                break
    return pairs_of


def _core(pair: tuple[Key, Key], cut: int) -> _Core:
    source, target = (path[: len(path) - cut] for path in pair)
    return source, target


def _shared(source: Key, target: Key) -> int:
    """Return how many last parts both have; at least one part of each is left."""
    number = 0
    while number + 1 < min(len(source), len(target)) and source[-1 - number] == target[-1 - number]:
        number += 1
    return number


def _masked(path: Key) -> Key:
    return tuple(_NUMBER.sub("#", part) for part in path)


def _numbers(path: Key) -> list[int]:
    return [int(match[1]) for part in path if (match := _NUMBER.search(part))]


def _rules(group: Sequence[tuple[Key, Key]], end: str) -> Iterable[ProposedRename]:
    """Yield one rule for pairs that differ in their numbers only; none if these differ in no simple way."""
    columns = [
        list(zip(*(_numbers(path) for path in side), strict=True)) for side in zip(*group, strict=True)
    ]
    varying = [[i for i, column in enumerate(side) if len(set(column)) > 1] for side in columns]
    if len(varying[0]) != len(varying[1]) or len(varying[0]) > len(_LETTERS):
        return
    names: tuple[dict[int, str], dict[int, str]] = ({}, {})
    where = []
    for letter, other, one, two in zip(_LETTERS, _OTHERS, *varying, strict=False):
        steps = {b - a for a, b in zip(columns[0][one], columns[1][two], strict=True)}
        if len(steps) > 1:
            return
        (step,) = steps
        names[0][one] = letter
        names[1][two] = letter if step == 0 else other
        if step:
            where.append(f"{other} = {letter} {'+' if step > 0 else '-'} {abs(step)}")
    yield _rule(group[0], names, tuple(where), end)


def _rule(
    pair: tuple[Key, Key], names: tuple[dict[int, str], dict[int, str]], where: tuple[str, ...], end: str
) -> ProposedRename:
    source, target = (_pattern(path, of, end) for path, of in zip(pair, names, strict=True))
    return ProposedRename(source, target, where)


def _pattern(path: Key, names: Mapping[int, str], end: str) -> str:
    parts, seen = [], 0
    for part in path:
        if _NUMBER.search(part):
            letter = names.get(seen)
            part = part if letter is None else _NUMBER.sub(f"{{{letter}:int}}", part)
            seen += 1
        parts.append(part)
    return join_key((*parts, end) if end else tuple(parts))
