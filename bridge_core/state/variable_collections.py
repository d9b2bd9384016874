"""Variable collections: the first part of Flax's keys, such as ``params``.

A Linen tree has collections, or is a bare tree of parameters; only all of its keys together show which. torch
has none. Code that needs a key without its collection uses the `VariableCollections` of the state.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from bridge_core.state.flat_state import FlatState
from bridge_core.state.keys import Key

__all__ = ["VariableCollections"]


@dataclass(frozen=True, slots=True)
class VariableCollections:
    """The collections of a framework, and whether the keys of one state begin with them.

    Args:
        leaves: Collection -> names of the leaves that are usually in it; the first collection is the default.
            Empty if the framework has no collections.
        present: Whether every key begins with a collection.
        boxed: Keys with one more part at the end, which names the value in its box (``nnx.Variable`` or
            ``flax.linen.Partitioned``).
    """

    leaves: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    present: bool = False
    boxed: frozenset[Key] = frozenset()
    default: str = field(init=False)
    """The collection of all leaves that no other collection names; empty without collections."""
    _by_leaf: Mapping[str, str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Set the default, and each leaf's first collection."""
        object.__setattr__(self, "default", next(iter(self.leaves), ""))
        by_leaf: dict[str, str] = {}
        for name, leaves in self.leaves.items():
            for leaf in leaves:
                by_leaf.setdefault(leaf, name)
        object.__setattr__(self, "_by_leaf", by_leaf)

    @classmethod
    def of_state(
        cls, state: FlatState, framework: str, leaves: Mapping[str, tuple[str, ...]]
    ) -> VariableCollections:
        """Return the collections of a state, by its metadata or else by its keys.

        Args:
            state: The state.
            framework: The framework of the state's layout.
            leaves: The framework's collections, as for the class.
        """
        if not leaves:
            return cls()
        form = state.metadata.tree_form.get(framework)
        if form is not None:
            return cls(leaves, form == "variables")
        first_parts = {key[0] for key in state if len(key) > 1}
        named = next(iter(leaves)) in first_parts or (bool(first_parts) and first_parts <= set(leaves))
        return cls(leaves, named)

    def of(self, kind: str | None, leaf: str) -> str:
        """Return the collection that a leaf is usually in; empty without collections.

        Args:
            kind: Kind of the leaf's layer; None if no layer is known, which gives the default.
            leaf: Neutral name of the leaf.
        """
        return self.default if kind is None else self._by_leaf.get(leaf, self.default)

    def strip(self, key: Key) -> Key:
        """Return a key of the state without its collection and its box."""
        name = key[:-1] if key in self.boxed else key
        return name[1:] if self.present else name

    def spellings(self, key: Key) -> tuple[Key, ...]:
        """Return the names that a user may write for a key: without collection or box, or with.

        >>> VariableCollections(present=True, boxed=frozenset([("params", "w", "value")])).spellings(
        ...     ("params", "w", "value")
        ... )
        (('params', 'w', 'value'), ('params', 'w'), ('w', 'value'), ('w',))
        """
        names = (key, key[:-1]) if key in self.boxed else (key,)
        names = (*names, *(name[1:] for name in names)) if self.present else names
        if not any("." in part for part in key):
            return names
        return (*names, *(tuple(".".join(name).split(".")) for name in names))

    def names(self, keys: Iterable[Key]) -> dict[Key, Key]:
        """Return the keys of a state, each with the key that `strip` gives."""
        if self.boxed:
            return {key: self.strip(key) for key in keys}
        return {key: key[1:] for key in keys} if self.present else {key: key for key in keys}

    def split(self, key: Key) -> tuple[str, Key]:
        """Return the collection, empty if keys have none, and the rest of a key."""
        return (key[0] if self.present else "", self.strip(key))

    def join(self, name: str, key: Key) -> Key:
        """Return a key from a collection, which is ignored if keys have none, and the rest."""
        return (name, *key) if self.present else key
