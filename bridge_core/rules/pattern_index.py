"""Which of many patterns may match a key, and which of many keys may match a pattern.

A pattern is found by one of its literal parts, at its place from the beginning or the end of a key. What is
found may match, and everything that matches is found: `Pattern.match` decides.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from bridge_core.rules.patterns import Any1, Int, Mixed, Pattern, Segment, Str
from bridge_core.state import Key

__all__ = ["KeyIndex", "PatternIndex"]

Literal = tuple[int, str]
"""The place of a part, negative from the end, and its text."""


class PatternIndex:
    """Patterns, found by the keys that they may match.

    Args:
        groups: Groups of patterns, as the sources of each rule.
    """

    def __init__(self, groups: Iterable[Iterable[Pattern]]) -> None:
        rows = [(number, _literals(pattern)) for number, group in enumerate(groups) for pattern in group]
        shared = Counter(literal for _, literals in rows for literal in literals)
        self._anywhere = sorted({number for number, literals in rows if not literals})
        self._places: dict[int, dict[str, list[int]]] = {}
        for number, literals in rows:
            if literals:
                place, text = min(literals, key=shared.__getitem__)
                self._places.setdefault(place, {}).setdefault(text, []).append(number)

    def candidates(self, key: Key) -> Sequence[int]:
        """Return the numbers of the groups with a pattern that may match a key, in ascending order."""
        length = len(key)
        found: list[int] = []
        for place, texts in self._places.items():
            if -length <= place < length:
                found += texts.get(key[place], ())
        if not found:
            return self._anywhere
        return sorted({*found, *self._anywhere})


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
        found: set[int] = set()
        for pattern in patterns:
            literals = _literals(pattern)
            if not literals:
                return iter(self._keys)
            fewest: list[int] = min((self._at(place).get(text, []) for place, text in literals), key=len)
            found.update(fewest)
        return map(self._keys.__getitem__, sorted(found))

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


def _literals(pattern: Pattern) -> list[Literal]:
    """Return the literal parts whose place is known, from the beginning as far as that goes."""
    segments = pattern.segments
    wide = [place for place, segment in enumerate(segments) if not _is_one_part(segment)]
    first, last = (wide[0], wide[-1]) if wide else (len(segments), len(segments))
    return [
        (place if place < first else place - len(segments), segment)
        for place, segment in enumerate(segments)
        if isinstance(segment, str) and not first <= place <= last
    ]


def _is_one_part(segment: Segment) -> bool:
    if isinstance(segment, Mixed):
        return all(isinstance(piece, str | Int | Str) for piece in segment.pieces)
    return isinstance(segment, str | Int | Str | Any1)
