"""Prefixes that would match a template as well as the chosen one, as ``student`` and ``teacher`` do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from bridge_core.plan import Rivals
from bridge_core.resolve.path_names import DEPTH, normal_form
from bridge_core.state import Key

__all__ = ["PrefixChoice", "find_rivals"]

_NEARLY = 0.9
"""Share of the best one's matches with which a prefix is its rival, where none matches everything."""


class PrefixChoice(NamedTuple):
    """The prefixes that are exchanged, and how many target names are matched then."""

    removed: Key
    added: Key
    matches: int


def find_rivals(
    sources: Sequence[Key],
    by_name: Mapping[Key, Key],
    chosen: PrefixChoice,
    fits: Callable[[Key, Key], bool] | None = None,
) -> Rivals | None:
    """Return the prefixes of one side between which nothing decides; None if one is best.

    Args:
        sources: The source's paths.
        by_name: Name of each target path in normal form -> path.
        chosen: The best match among the prefixes that most paths share.
        fits: Returns whether the shapes at a source path and a target path agree.
    """
    source_of = {normal_form(path): path for path in sources}
    pairs: dict[Key, list[tuple[Key, Key]]] = {}
    for name, path in source_of.items():
        for prefix, rest in _cuts(name):
            target = by_name.get(chosen.added + rest)
            if target is not None:
                pairs.setdefault(prefix, []).append((path, target))
    alike = _alike(pairs, chosen.removed, chosen.matches, len(by_name), 1, fits)
    if alike is not None:
        return Rivals(_as_written(alike[0], sources), "source", alike[1])
    pairs = {}
    for name, target in by_name.items():
        for prefix, rest in _cuts(name):
            source = source_of.get(chosen.removed + rest)
            if source is not None:
                pairs.setdefault(prefix, []).append((source, target))
    alike = _alike(pairs, chosen.added, chosen.matches, len(source_of), 0, fits)
    return None if alike is None else Rivals(_as_written(alike[0], by_name.values()), "template", alike[1])


def _cuts(name: Key) -> Iterable[tuple[Key, Key]]:
    return ((name[:depth], name[depth:]) for depth in range(1, min(DEPTH, len(name)) + 1))


def _alike(
    pairs: Mapping[Key, list[tuple[Key, Key]]],
    own: Key,
    matches: int,
    all_names: int,
    shared: int,
    fits: Callable[[Key, Key], bool] | None,
) -> tuple[list[Key], int] | None:
    """Return the prefixes that match alike, and how much they match."""
    counts = {prefix: len(matched) for prefix, matched in pairs.items()}
    top = counts.get(own, 0) if own else max(counts.values(), default=0)
    if not top or (not own and top <= matches):
        return None
    contenders = [prefix for prefix, n in counts.items() if n >= _least(top, all_names)]
    if len(contenders) > 1 and fits is not None:
        counts = {prefix: sum(fits(*pair) for pair in pairs[prefix]) for prefix in contenders}
        top = max(counts.values())
        contenders = [prefix for prefix in contenders if counts[prefix] >= max(1, _least(top, all_names))]
    first = own or max(contenders, key=lambda prefix: counts[prefix], default=())
    if first not in contenders:
        return None
    taken = {pair[shared] for pair in pairs[first]}
    others = {
        prefix: Counter(pair[shared] in taken for pair in pairs[prefix])
        for prefix in contenders
        if prefix != first
    }
    rivals = [prefix for prefix, overlap in others.items() if overlap[True] > overlap[False]]
    return ([prefix for prefix in contenders if prefix == first or prefix in rivals], top) if rivals else None


def _least(top: int, all_names: int) -> float:
    return top if top >= all_names else top * _NEARLY


def _as_written(prefixes: Iterable[Key], paths: Iterable[Key]) -> tuple[Key, ...]:
    """Return prefixes in normal form as the paths that have them are written."""
    written: dict[Key, Key] = dict.fromkeys(prefixes, ())
    for path in paths:
        for depth in range(1, min(DEPTH, len(path)) + 1):
            name = normal_form(path[:depth])
            if name in written:
                written[name] = written[name] or path[:depth]
    return tuple(found or prefix for prefix, found in written.items())
