"""The msgpack file ``checkpoint`` of old versions: a tree with values, or with names of arrays.

T5X stores a specification of tensorstore's in place of a value. It only shows that there is an array: which
one follows from the path of the entry, and all else from the array's own description.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from bridge_core import FlatState, Key, default_registry, join_key
from bridge_core.io import SourceFolder, parse_json
from bridge_core.state import natural_order
from ckptbridge_orbax.array_names import array_name
from ckptbridge_orbax.file_names import AGGREGATE, STRINGS

__all__ = ["Aggregate"]

_PLACEHOLDER = "PLACEHOLDER://"
_MOST_BYTES = 64 << 20
"""Most bytes of the file of strings."""


@dataclass(frozen=True)
class Aggregate:
    """A msgpack tree.

    Args:
        state: The leaves with values.
        placeholders: Leaf -> name of its array.
        embedded: Paths of specifications of arrays.
        left_out: Strings: path and what it is.
        strings: Names of the placeholders that are strings.
    """

    state: FlatState
    placeholders: Mapping[Key, str]
    embedded: frozenset[Key]
    left_out: tuple[str, ...]
    strings: frozenset[str]

    @classmethod
    def open(cls, folder: SourceFolder) -> Aggregate:
        """Open the file; values stay in it until they are asked for.

        Raises:
            BadInputError: The file is damaged.
        """
        msgpack: Any = default_registry().format("msgpack")
        file = folder.open(AGGREGATE)
        try:
            state, texts = msgpack.open_with_texts(file)
            strings = _strings(folder)
        except BaseException:
            file.close()
            raise
        embedded = frozenset(
            key[:-1] for key in texts if key[-1] == "driver" and (*key[:-1], "kvstore", "driver") in texts
        )
        placeholders, left_out = {}, []
        for key, text in texts.items():
            if text.startswith(_PLACEHOLDER):
                placeholders[key] = text.removeprefix(_PLACEHOLDER)
            elif _above(key, embedded) is None:
                left_out.append(f"{join_key(key)} (string)")
        return cls(state, placeholders, embedded, tuple(left_out), strings)

    @property
    def empty(self) -> tuple[Key, ...]:
        """Paths of empty nodes."""
        return tuple(key for key in self.state.metadata.empty if _above(key, self.embedded) is None)

    def leaves(self, names: Collection[str]) -> dict[Key, str | None]:
        """Return all leaves: the name of an array, or None if the value is in the file.

        Args:
            names: The arrays that there are.
        """
        values = [key for key in self.state if _above(key, self.embedded) is None]
        leaves: dict[Key, str | None] = dict.fromkeys(values)
        leaves.update(self.placeholders)
        leaves.update({key: _array_of(key, names) for key in self.embedded})
        if self.embedded or (values and self.placeholders):
            return {key: leaves[key] for key in sorted(leaves, key=natural_order)}
        return leaves


def _array_of(key: Key, names: Collection[str]) -> str:
    """Return the name of the array of a path: T5X names it without the first parts of the path."""
    candidates = (array_name(key[start:]) for start in range(len(key)))
    return next((name for name in candidates if name in names), array_name(key))


def _above(key: Key, nodes: frozenset[Key]) -> Key | None:
    """Return the node that a path is below."""
    if not nodes:
        return None
    return next((key[:end] for end in range(1, len(key)) if key[:end] in nodes), None)


def _strings(folder: SourceFolder) -> frozenset[str]:
    if STRINGS not in folder.files:
        return frozenset()
    path = str(folder.path / STRINGS)
    return frozenset(parse_json(folder.read(STRINGS, _MOST_BYTES), path=path, what="the file of strings"))
