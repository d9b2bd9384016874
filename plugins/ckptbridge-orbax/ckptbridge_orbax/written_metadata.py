"""The JSON files of a written checkpoint: the tree, the custom metadata, and what a step holds."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from bridge_core import FlatState, Key, KeyConflict, StateMetadata, UnsupportedFeature, join_key
from bridge_core.io import SourceFolder, parse_json
from bridge_core.state import MARKER, dump_metadata, is_unicode
from ckptbridge_orbax.file_names import STEP
from ckptbridge_orbax.tree_metadata import DICT, EMPTY_NODES, NODES, SEQUENCE, SEQUENCE_NODE

__all__ = ["checkpoint_text", "tree_text"]

_MAX_NBYTES = 16 << 20

_HANDLER = "orbax.checkpoint._src.handlers.standard_checkpoint_handler.StandardCheckpointHandler"


def tree_text(state: FlatState) -> bytes:
    """Return the content of ``_METADATA``: the tree of tensors and empty nodes, and the metadata.

    A tensor is an ``np.ndarray`` to Orbax, which it restores on any device: a ``jax.Array`` would need the
    devices that it was on.

    Raises:
        KeyConflict: A name in ``metadata.extra`` is reserved.
        UnsupportedFeature: A text in ``metadata.extra`` is not valid Unicode.
    """
    nodes = _recorded_nodes(state.metadata)
    children = _children(state)
    sequences = frozenset(
        path
        for path, names in children.items()
        if nodes.get(join_key(path, escape=True)) == SEQUENCE_NODE and names == _numbers(len(names))
    )
    tree = {_path_text(key): _entry(key, sequences, "np.ndarray") for key in state}
    for path in state.metadata.empty:
        if path and path not in children:
            kind = nodes.get(join_key(path, escape=True))
            tree[_path_text(path)] = _entry(path, sequences, kind if kind in EMPTY_NODES else "Dict")
    return _json(
        {
            "tree_metadata": tree,
            # Without a key there is no database.
            "use_ocdbt": len(state) > 0,
            "use_zarr3": False,
            "store_array_data_equal_to_fill_value": True,
            "custom_metadata": _custom_metadata(state) or None,
        }
    )


def checkpoint_text(item: str | None, replaced: SourceFolder | None = None) -> bytes:
    """Return the content of ``_CHECKPOINT_METADATA``.

    It has no times of its own, so that it depends on nothing else.

    Args:
        item: Name of the item in the folder; None if the folder is the item.
        replaced: The step that is replaced, whose other items stay; None if there is none.

    Raises:
        MalformedFile: The file of the step that is replaced is damaged.
    """
    document = {
        "item_handlers": _HANDLER if item is None else {item: _HANDLER},
        "metrics": {},
        "performance_metrics": {},
        "init_timestamp_nsecs": None,
        "commit_timestamp_nsecs": None,
        "custom_metadata": {},
    }
    if item is not None and replaced is not None and STEP in replaced.files:
        known = parse_json(replaced.read(STEP, _MAX_NBYTES), path=str(replaced.path / STEP), what="the step")
        document |= {name: value for name, value in known.items() if name in document}
        handlers = known.get("item_handlers")
        others = handlers if isinstance(handlers, dict) else {}
        document["item_handlers"] = {
            **{name: handler for name, handler in others.items() if name in replaced.folders},
            item: _HANDLER,
        }
    return _json(document)


def _json(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document).encode()


def _path_text(key: Key) -> str:
    """Return a path as Orbax writes it, which is how Python shows a tuple."""
    return str(key)


def _entry(key: Key, sequences: frozenset[Key], value_type: str) -> dict[str, Any]:
    parts = [
        {"key": part, "key_type": SEQUENCE if key[:depth] in sequences else DICT}
        for depth, part in enumerate(key)
    ]
    value = {"value_type": value_type, "skip_deserialize": value_type in EMPTY_NODES}
    return {"key_metadata": parts, "value_metadata": value}


def _recorded_nodes(metadata: StateMetadata) -> dict[str, str]:
    """Return what a reader recorded about nodes; nothing if the record is damaged."""
    try:
        nodes = json.loads(metadata.extra.get(NODES, "{}"))
    except (ValueError, RecursionError):
        return {}
    if not isinstance(nodes, dict):
        return {}
    return {path: kind for path, kind in nodes.items() if isinstance(kind, str)}


def _children(state: FlatState) -> dict[Key, set[str]]:
    """Return the names in each node that is not empty."""
    children: dict[Key, set[str]] = {}
    for key in (*state, *state.metadata.empty):
        for depth, part in enumerate(key):
            children.setdefault(key[:depth], set()).add(part)
    return children


def _numbers(count: int) -> set[str]:
    return set(map(str, range(count)))


def _custom_metadata(state: FlatState) -> dict[str, str]:
    """Return the texts for other readers, and the metadata where the tree does not show all of it."""
    texts = {name: text for name, text in state.metadata.extra.items() if name != NODES}
    if MARKER in texts:
        raise KeyConflict(
            f"the name {MARKER!r} in metadata.extra is reserved for the bridge's metadata.",
            hint="Rename or remove it.",
        )
    for text in _flat(texts):
        if not is_unicode(text):
            raise UnsupportedFeature(
                f"metadata.extra contains {text[:80]!r} with a lone surrogate, which UTF-8 cannot encode.",
                hint="Change the text.",
            )
    known, layout = state.metadata.with_(empty=()), state.layout
    bare = dump_metadata(layout, known.without_own_separator(layout))
    nothing = (dump_metadata(None, StateMetadata()), dump_metadata("flax", StateMetadata()))
    return texts if bare in nothing else {**texts, MARKER: dump_metadata(layout, known)}


def _flat(texts: Mapping[str, str]) -> Iterable[str]:
    return (text for pair in texts.items() for text in pair)
