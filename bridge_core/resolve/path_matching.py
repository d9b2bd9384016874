"""Matching layer paths of a source to those of a target, where lists and prefixes have other names.

torch writes ``layers.0``, Linen ``layers_0``, NNX ``("layers", 0)``: a trailing ``_<number>`` counts as a
part of its own when no exact match exists.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

from bridge_core.plan import Rivals
from bridge_core.resolve.path_names import DEPTH, normal_form, renamed
from bridge_core.resolve.rival_prefixes import PrefixChoice, find_rivals
from bridge_core.state import Key

__all__ = ["PathMatch", "match_paths"]


@dataclass(frozen=True)
class PathMatch:
    """Which target path each source path belongs to.

    Args:
        targets: Source path -> target path.
        removed: Prefix that only the source has.
        added: Prefix that only the target has.
        rivals: Prefixes that match equally well, so that none was chosen.
    """

    targets: dict[Key, Key]
    removed: Key = ()
    added: Key = ()
    rivals: Rivals | None = None


def match_paths(
    source: Iterable[Key],
    target: Iterable[Key],
    fits: Callable[[Key, Key], bool] | None = None,
) -> PathMatch:
    """Match paths; the time is linear in their number.

    A prefix is removed, added or replaced only where names do not match without one, and where no other
    prefix would do as well: of rivals none is chosen.

    Args:
        source: The source's paths.
        target: The target's paths.
        fits: Returns whether the shapes at a source path and a target path agree; decides between rivals.
    """
    sources, targets = tuple(source), tuple(target)
    exact = set(targets)
    if exact == set(sources):  # every name matches, so that no prefix can match more
        return PathMatch({path: path for path in sources})
    by_name = _unique(targets)
    best: tuple[int, int, Key, Key] = (_count_matches(sources, by_name), 0, (), ())
    rivals = None
    if best[0] < min(len(sources), len(by_name)):
        for (removed, inner), (added, outer) in itertools.product(_prefixes(sources), _prefixes(targets)):
            if not (removed and added) or (inner and outer):
                score = (_count_matches(sources, by_name, removed, added), -len(removed) - len(added))
                if score > best[:2]:
                    best = (*score, removed, added)
        rivals = find_rivals(sources, by_name, PrefixChoice(best[2], best[3], best[0]), fits)
    _, _, removed, added = best if rivals is None else (0, 0, (), ())
    result: dict[Key, Key] = {}
    for path in sources:
        if not removed and not added and path in exact:
            result[path] = path
    taken = set(result.values())
    for path in sources:
        if path not in result:
            target_path = by_name.get(renamed(path, removed, added))
            if target_path is not None and target_path not in taken:
                result[path] = target_path
                taken.add(target_path)
    return PathMatch({path: result[path] for path in sources if path in result}, removed, added, rivals)


def _count_matches(paths: Iterable[Key], names: Collection[Key], removed: Key = (), added: Key = ()) -> int:
    """Return how many names are matched; two paths that match one count once."""
    return len({name for path in paths if (name := renamed(path, removed, added)) in names})


def _unique(paths: Iterable[Key]) -> dict[Key, Key]:
    names: dict[Key, Key] = {}
    twice: set[Key] = set()
    for path in paths:
        name = normal_form(path)
        if name in names:
            twice.add(name)
        names[name] = path
    return {name: path for name, path in names.items() if name not in twice}


def _prefixes(paths: tuple[Key, ...]) -> list[tuple[Key, bool]]:
    """Return the empty prefix and every short prefix that half of the paths share.

    Each has a flag, whether something follows it in half of the paths: only such a prefix is exchanged for
    another, or any name could become any.
    """
    counts: Counter[Key] = Counter()
    whole: Counter[Key] = Counter()
    for path in paths:
        name = normal_form(path)
        counts.update(name[:depth] for depth in range(1, min(DEPTH, len(name)) + 1))
        whole[name] += 1
    common = [
        (prefix, (count - whole[prefix]) * 2 >= len(paths) and count - whole[prefix] > 1)
        for prefix, count in counts.items()
        if count * 2 >= len(paths)
    ]
    return [((), True), *sorted(common, key=lambda item: len(item[0]))]
