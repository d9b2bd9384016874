"""Which of many patterns may match a key, and which of many keys may match a pattern.

Both are found by the literal parts of patterns, at their places from the beginning or the end of a key. What
is found may match, and everything that matches is found: `Pattern.match` decides.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from operator import itemgetter
from typing import Any

from bridge_core.rules.patterns import Pattern
from bridge_core.state import Key

__all__ = ["KeyIndex", "PatternIndex"]


class PatternIndex:
    """Patterns, found by the keys that they may match.

    Args:
        groups: Groups of patterns, as the sources of each rule.
    """

    def __init__(self, groups: Iterable[Iterable[Pattern]]) -> None:
        anywhere: set[int] = set()
        by_places: dict[tuple[int, ...], dict[Any, list[int]]] = {}
        for number, group in enumerate(groups):
            for literals in (pattern.literals for pattern in group):
                if literals:
                    places, texts = zip(*literals, strict=True)
                    of_places = by_places.setdefault(places, {})
                    of_places.setdefault(texts if len(texts) > 1 else texts[0], []).append(number)
                else:
                    anywhere.add(number)
        self._anywhere = sorted(anywhere)
        self._by_places = [
            (max(place + 1 if place >= 0 else -place for place in places), itemgetter(*places), numbers)
            for places, numbers in by_places.items()
        ]

    def candidates(self, key: Key) -> Sequence[int]:
        """Return the numbers of the groups that may match a key, in ascending order."""
        length = len(key)
        group_numbers: list[int] = []
        for least, texts_of, numbers in self._by_places:
            if length >= least:
                group_numbers += numbers.get(texts_of(key), ())
        if not group_numbers:
            return self._anywhere
        return sorted({*group_numbers, *self._anywhere})


class KeyIndex:
    """Keys, found by the patterns that may match them.

    Args:
        keys: The keys.
    """

    def __init__(self, keys: Iterable[Key]) -> None:
        self._keys = tuple(dict.fromkeys(keys))
        self._places: dict[int, dict[str, list[int]]] = {}

    def candidates(self, *patterns: Pattern) -> Iterator[Key]:
        """Return the keys that one of the patterns may match, in their order."""
        key_numbers: set[int] = set()
        for pattern in patterns:
            literals = pattern.literals
            if not literals:
                return iter(self._keys)
            fewest: list[int] = min((self._at(place).get(text, []) for place, text in literals), key=len)
            key_numbers.update(fewest)
        return map(self._keys.__getitem__, sorted(key_numbers))

    def has_match(self, pattern: Pattern) -> bool:
        """Return whether the pattern matches a key."""
        return any(pattern.match(key) is not None for key in self.candidates(pattern))

    def _at(self, place: int) -> dict[str, list[int]]:
        """Return the keys by the text that they have at a place."""
        texts = self._places.get(place)
        if texts is None:
            texts = self._places[place] = {}
            least = place + 1 if place >= 0 else -place
            for number, key in enumerate(self._keys):
                if len(key) >= least:
                    texts.setdefault(key[place], []).append(number)
        return texts
