"""Ties: keys that share one tensor, so that the files of many formats store it once.

`StateMetadata.ties` maps a tied key to a key whose values it has. That key may be tied itself, and files of
other programs may tie keys in a circle. `Ties` follows every chain once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from bridge_core.state.flat_state import FlatState
from bridge_core.state.keys import Key
from bridge_core.state.tensors import TensorSpec

__all__ = ["Ties", "held_ties", "may_be_tied"]


class Ties:
    """Tied keys, each with the canonical key of its tensor.

    >>> ties = Ties({("c",): ("b",), ("b",): ("a",)})
    >>> ties.root(("c",)), ties.root(("x",))
    (('a',), ('x',))

    Args:
        ties: Tied key -> a key whose values it has. In a circle, the first key that is listed is canonical.
    """

    def __init__(self, ties: Mapping[Key, Key]) -> None:
        """Find the canonical key of every tied key."""
        self._roots: dict[Key, Key] = {}
        for first in ties:
            path: dict[Key, None] = {}
            key = first
            while key in ties and key not in self._roots and key not in path:
                path[key] = None
                key = ties[key]
            self._roots.update(dict.fromkeys(path, self._roots.get(key, key)))

    def __iter__(self) -> Iterator[tuple[Key, Key]]:
        """Iterate over the tied keys with their canonical keys, chain by chain."""
        return ((key, root) for key, root in self._roots.items() if key != root)

    def root(self, key: Key) -> Key:
        """Return the canonical key of a key's tensor; the key itself if it is not tied."""
        return self._roots.get(key, key)

    def groups(self) -> dict[Key, list[Key]]:
        """Return the tied keys of every canonical key."""
        groups: dict[Key, list[Key]] = {}
        for key, root in self:
            groups.setdefault(root, []).append(key)
        return groups

    @classmethod
    def within(cls, ties: Mapping[Key, Key], keys: Iterable[Key]) -> Ties:
        """Return the ties between some keys; a chain ends where it would leave them."""
        present = keys if isinstance(keys, Mapping | set | frozenset) else set(keys)
        return cls({key: other for key, other in ties.items() if key in present and other in present})

    @classmethod
    def aliases(cls, state: FlatState) -> Ties:
        """Return the ties of a state whose keys hold the very same `Tensor`."""
        return cls(
            {
                key: other
                for key, other in state.metadata.ties.items()
                if key in state and other in state and state.tensor(key) is state.tensor(other)
            }
        )


def may_be_tied(one: TensorSpec, other: TensorSpec) -> bool:
    """Return whether tensors can hold the same values; the order of their axes may differ."""
    return one.dtype == other.dtype and one.size == other.size


def held_ties(state: FlatState) -> dict[Key, Key]:
    """Return the ties of a state that match its tensors, as a file may record them.

    Both ends of each tie are tensors of the state that can hold the same values. Circles are opened: the key
    that is listed first is the canonical one.
    """
    possible = {
        key: other
        for key, other in state.metadata.ties.items()
        if key != other and all(end in state and any(end) for end in (key, other))
        if may_be_tied(state.spec(key), state.spec(other))
    }
    ties = Ties(possible)
    return {key: other for key, other in possible.items() if ties.root(key) != key}
