"""The file ``_METADATA``: the tree of an item, as every version of Orbax wrote it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bridge_core import Key, KeyConflict, LimitExceeded, MalformedFile, UnsupportedFeature, join_key
from bridge_core.io import SourceFolder, parse_json
from bridge_core.messages import shown
from bridge_core.state import MARKER, is_unicode
from ckptbridge_orbax.array_names import array_name, check_name
from ckptbridge_orbax.file_names import TREE

__all__ = [
    "DICT",
    "EMPTY_NODES",
    "NODES",
    "SEQUENCE",
    "SEQUENCE_NODE",
    "Leaf",
    "TreeMetadata",
    "read_tree_metadata",
]

NODES = "orbax.nodes"
"""The name in ``metadata.extra`` of a JSON object: path -> what Orbax stored there, if not a dictionary."""

_MOST_BYTES = 512 << 20
_MOST_PARTS = 500
SEQUENCE, DICT = 1, 2
"""Orbax's numbers of the nodes that a part of a path is a name in."""
EMPTY_NODES = ("Dict", "List", "Tuple", "NamedTuple", "None")
"""Orbax's words for nodes without children."""
SEQUENCE_NODE = "Sequence"
"""Our word for a list or tuple with children, which the file does not distinguish."""


@dataclass(frozen=True, slots=True)
class Leaf:
    """An entry of the tree that is not an empty node.

    Args:
        key: Its path.
        name: The name of its array: the parts joined by dots, which Orbax does not escape.
        value_type: Orbax's word for what was saved, such as ``jax.Array``, ``scalar`` or ``string``.
        in_aggregate: Whether the value is in the msgpack file of the item.
    """

    key: Key
    name: str
    value_type: str
    in_aggregate: bool


@dataclass(frozen=True)
class TreeMetadata:
    """What ``_METADATA`` declares.

    Args:
        leaves: The leaves, in the order of the file.
        empty: Paths of the nodes without children, None included.
        nodes: Path -> kind of a sequence or of an empty node that is not a dictionary.
        use_ocdbt: Whether the arrays are in a database; None if the version did not record it.
        stores_fill: Whether parts of arrays that equal the fill value are stored.
        custom: The texts of the user's metadata.
    """

    leaves: tuple[Leaf, ...]
    empty: tuple[Key, ...]
    nodes: Mapping[Key, str]
    use_ocdbt: bool | None
    stores_fill: bool
    custom: Mapping[str, str]

    @property
    def carried(self) -> str | None:
        """The metadata that ckptbridge stored."""
        return self.custom.get(MARKER)

    @property
    def extra(self) -> dict[str, str]:
        """The user's texts, and the kinds of nodes as one JSON text."""
        extra = {name: text for name, text in self.custom.items() if name != MARKER}
        if self.nodes:
            kinds = {join_key(path, escape=True): kind for path, kind in self.nodes.items()}
            extra[NODES] = json.dumps(kinds)
        return extra


def read_tree_metadata(folder: SourceFolder) -> TreeMetadata:
    """Read ``_METADATA``.

    Raises:
        MalformedFile: It is not JSON, or does not describe a tree.
        KeyConflict: Two entries have one path, or are stored under one name.
        UnsafeFile: A name would lead out of the checkpoint.
        LimitExceeded: It is too large.
        UnsupportedFeature: A name is not valid Unicode.
    """
    path = str(folder.path / TREE)
    document = parse_json(folder.read(TREE, _MOST_BYTES), path=path, what="the tree", constants=True)
    entries = document.get("tree_metadata")
    if not isinstance(entries, dict):
        raise MalformedFile(f"expected an object as 'tree_metadata', got {shown(entries)}.", path=path)
    leaves: dict[str, Leaf] = {}
    empty: dict[Key, None] = {}
    nodes: dict[Key, str] = {}
    keys: set[Key] = set()
    for text, entry in entries.items():
        key, sequences = _key(text, entry, path)
        if key in keys:
            raise KeyConflict("the tree has two entries of this path.", path=path, key=key)
        keys.add(key)
        nodes.update(dict.fromkeys(sequences, SEQUENCE_NODE))
        value = entry.get("value_metadata")
        kind = value.get("value_type") if isinstance(value, dict) else None
        if not isinstance(value, dict) or not isinstance(kind, str):
            raise MalformedFile(f"expected a 'value_type', got {shown(value)}.", path=path, key=key)
        if kind in EMPTY_NODES:
            empty[key] = None
            if kind != "Dict":
                nodes[key] = kind
            continue
        skip = value.get("skip_deserialize", False)
        if not isinstance(skip, bool):
            raise MalformedFile(
                f"expected true or false as 'skip_deserialize', got {shown(skip)}.", path=path, key=key
            )
        leaf = Leaf(key, check_name(array_name(key), key, path), kind, skip)
        other = leaves.setdefault(leaf.name, leaf)
        if other is not leaf:
            raise KeyConflict(
                f"{list(other.key)} has the same name in Orbax's files, {leaf.name!r}, so that one of the "
                "two was lost.",
                path=path,
                key=str(list(key)),
                hint="Save the tree again, with names that do not contain dots.",
            )
    use_ocdbt = document.get("use_ocdbt")
    return TreeMetadata(
        tuple(leaves.values()),
        tuple(empty),
        nodes,
        use_ocdbt if isinstance(use_ocdbt, bool) else None,
        document.get("store_array_data_equal_to_fill_value") is True,
        _texts(document.get("custom_metadata")),
    )


def _key(text: str, entry: Any, path: str) -> tuple[Key, list[Key]]:
    """Return the path of an entry, and the paths above it that are sequences."""
    parts = entry.get("key_metadata") if isinstance(entry, dict) else None
    if not isinstance(parts, list):
        raise MalformedFile(
            f"expected a list as 'key_metadata' of the entry {shown(text)}, got {shown(parts)}.", path=path
        )
    if len(parts) > _MOST_PARTS:
        raise LimitExceeded(
            f"the path {shown(text)} has {len(parts)} parts; at most {_MOST_PARTS} are supported.", path=path
        )
    key: list[str] = []
    sequences: list[Key] = []
    for part in parts:
        name = part.get("key") if isinstance(part, dict) else None
        kind = part.get("key_type") if isinstance(part, dict) else None
        if type(name) is int:
            name = str(name)
        if not isinstance(name, str) or type(kind) is not int or kind not in (SEQUENCE, DICT):
            raise MalformedFile(
                f"expected a 'key' and the 'key_type' 1 or 2 in the path {shown(text)}, got {shown(part)}.",
                path=path,
            )
        if not is_unicode(name):
            raise UnsupportedFeature(f"the name {shown(name)} is not valid Unicode.", path=path)
        if kind == SEQUENCE:
            sequences.append(tuple(key))
        key.append(name)
    return tuple(key), sequences


def _texts(custom: Any) -> dict[str, str]:
    if not isinstance(custom, dict):
        return {}
    return {name: text for name, text in custom.items() if isinstance(text, str)}
