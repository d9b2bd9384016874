"""Which keys match the patterns of a rule, by the captures that distinguish its instances."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from bridge_core.rules import KeyIndex, Pattern, Rule
from bridge_core.state import Key

__all__ = ["Captures", "MatchedKeys", "Place", "counted", "list_lengths", "matched_keys"]

Captures = tuple[tuple[str, str], ...]
Place = tuple[int, ...]
"""The index of a tensor along the list axes of its pattern."""
MatchedKeys = Mapping[int, Mapping[Place, Key]]
"""Number of a pattern -> the keys that match it, by their places along its list axes."""


def matched_keys(
    rule: Rule,
    patterns: tuple[Pattern, ...],
    list_axes: tuple[tuple[str, ...], ...],
    keys: Iterable[Key] | KeyIndex,
) -> dict[Captures, dict[int, dict[Place, Key]]]:
    """Return the keys that match the patterns of one side, by the captures that both sides have."""
    instances: dict[Captures, dict[int, dict[Place, Key]]] = {}
    for key in keys.candidates(*patterns) if isinstance(keys, KeyIndex) else keys:
        for number, pattern in enumerate(patterns):
            captures = rule.bind(pattern, key)
            if captures is None:
                continue
            place = tuple(int(captures[name]) for name in list_axes[number])
            shared = tuple(sorted((n, v) for n, v in captures.items() if n not in list_axes[number]))
            instances.setdefault(shared, {}).setdefault(number, {})[place] = key
    return instances


def list_lengths(list_axes: tuple[tuple[str, ...], ...], matched: MatchedKeys) -> dict[str, int]:
    """Return how long every list axis is by the keys that match."""
    lengths: dict[str, int] = {}
    for number, names in enumerate(list_axes):
        for axis, name in enumerate(names):
            seen = max((place[axis] + 1 for place in matched.get(number, ())), default=0)
            lengths[name] = max(lengths.get(name, 0), seen)
    return lengths


def counted(sizes: Iterable[int]) -> Iterator[Place]:
    """Count through all places, the last axis first; as `itertools.product`, without lists of the numbers."""
    places: Iterator[Place] = iter([()])
    for size in sizes:
        places = _extended(places, size)
    return places


def _extended(places: Iterable[Place], size: int) -> Iterator[Place]:
    for place in places:
        for i in range(size):
            yield (*place, i)
