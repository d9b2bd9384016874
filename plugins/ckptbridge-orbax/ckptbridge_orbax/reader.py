"""An item of an Orbax checkpoint as a lazy state."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from bridge_core import FlatState, Key, LimitExceeded, MalformedFile, StateMetadata, Tensor, join_key
from bridge_core.io import SourceFolder
from bridge_core.messages import count, listed
from bridge_core.state import Array, LazyTensor, Region, is_unicode, load_metadata, natural_order
from ckptbridge_orbax.aggregate import Aggregate
from ckptbridge_orbax.array_names import check_name
from ckptbridge_orbax.array_store import ArrayStore, StoredArray
from ckptbridge_orbax.file_names import AGGREGATE, MANIFEST, TREE
from ckptbridge_orbax.item_files import ItemFiles
from ckptbridge_orbax.tree_metadata import TreeMetadata, read_tree_metadata

__all__ = ["open_item"]

_NUMBERS = ("jax.Array", "np.ndarray", "scalar")
"""Orbax's words for leaves that have an array."""
_ALONE = ("array",)
"""The key of an item that is one array, not a tree."""
_LEAST_NBYTES, _MOST_COMPRESSION = 1 << 30, 1 << 16
"""An array may be this large, and more by this factor than all files of the item: zstd reaches 43690."""


@dataclass
class _Tree:
    """The leaves of an item, in order.

    Args:
        names: Tensor -> name of its array, or None if its value is in the aggregate.
        left_out: Leaves that hold no numbers: path and what it is.
        empty: Paths of empty nodes.
        notes: What is to be known about the item.
    """

    names: dict[Key, str | None] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    empty: tuple[Key, ...] = ()
    notes: list[str] = field(default_factory=list)


def open_item(folder: SourceFolder) -> FlatState:
    """Open an item; `OrbaxFormat.open_folder` documents the errors."""
    files = ItemFiles(folder)
    metadata = read_tree_metadata(folder) if TREE in files else None
    aggregate = Aggregate.open(folder) if AGGREGATE in files else None
    store = None
    try:
        store = ArrayStore(
            files, _use_ocdbt(metadata, files), fill_missing=metadata is None or not metadata.stores_fill
        )
        tree = _tree(metadata, aggregate, store, files.path)
        tensors = _tensors(tree, aggregate, store, files)
        layout, described = _metadata(metadata, tree, files.path)
        close = _Item(files, aggregate, store)
        return FlatState(tensors, layout=layout or "flax", metadata=described, close=close)
    except BaseException:
        _Item(files, aggregate, store)()
        raise


@dataclass(frozen=True)
class _Item:
    """The ``close`` of a state."""

    files: ItemFiles
    aggregate: Aggregate | None
    store: ArrayStore | None

    def __call__(self) -> None:
        if self.aggregate is not None:
            self.aggregate.state.close()
        if self.store is not None:
            self.store.close()

    def check_unchanged(self) -> None:
        """Check that no file of the item changed."""
        self.files.check_unchanged()
        if self.aggregate is not None:
            self.aggregate.state.check_unchanged()


def _use_ocdbt(metadata: TreeMetadata | None, files: ItemFiles) -> bool | None:
    """Return whether there must be a database; a tree without arrays has none, whatever it declares."""
    if metadata is None:
        return None
    has_arrays = any(not leaf.in_aggregate and leaf.value_type != "string" for leaf in metadata.leaves)
    return metadata.use_ocdbt if has_arrays or MANIFEST in files else False


def _tree(metadata: TreeMetadata | None, aggregate: Aggregate | None, store: ArrayStore, path: str) -> _Tree:
    """Return which leaves there are, and where their values are."""
    if metadata is not None:
        tree = _of_metadata(metadata, aggregate, store, path)
    elif aggregate is not None:
        tree = _of_aggregate(aggregate, store, path)
    else:
        tree = _of_names(store, path)
    known = set(tree.names.values())
    unnamed = sorted(name for name in store.names if name not in known)
    if unnamed:
        tree.notes.append(
            f"{count(len(unnamed), 'array')} not read, which the tree does not name: {listed(unnamed)}"
        )
    return tree


def _of_metadata(metadata: TreeMetadata, aggregate: Aggregate | None, store: ArrayStore, path: str) -> _Tree:
    nothing = [key for key in metadata.empty if metadata.nodes.get(key) == "None"]
    tree = _Tree(empty=metadata.empty)  # optax's states without values are None to Orbax
    tree.left_out = [f"{join_key(key)} (None)" for key in nothing]
    missing: list[Key] = []
    for leaf in metadata.leaves:
        name = leaf.name
        if aggregate is not None:
            name = aggregate.placeholders.get(leaf.key, name)
            if leaf.key in aggregate.state and (leaf.in_aggregate or name not in store):
                tree.names[leaf.key] = None
                continue
        if name in store and not leaf.in_aggregate:
            tree.names[leaf.key or _ALONE] = name
        elif leaf.value_type in _NUMBERS:
            missing.append(leaf.key)
        else:
            tree.left_out.append(f"{join_key(leaf.key)} ({leaf.value_type})")
    _refuse_missing(missing, path)
    return tree


def _of_aggregate(aggregate: Aggregate, store: ArrayStore, path: str) -> _Tree:
    tree = _Tree(empty=aggregate.empty, left_out=list(aggregate.left_out))
    tree.notes += aggregate.state.metadata.notes
    missing: list[Key] = []
    for key, name in aggregate.leaves(store.names).items():
        if name is None or check_name(name, key, path) in store:
            tree.names[key] = name
        elif name in aggregate.strings:
            tree.left_out.append(f"{join_key(key)} (string)")
        else:
            missing.append(key)
    _refuse_missing(missing, path)
    return tree


def _refuse_missing(keys: list[Key], path: str) -> None:
    if keys:
        raise MalformedFile(
            f"the values of {count(len(keys), 'tensor')} are not in the checkpoint: "
            f"{listed(map(join_key, keys))}.",
            path=path,
            key=keys[0] if len(keys) == 1 else None,
            hint="Copy or download the checkpoint again, or save it again.",
        )


def _of_names(store: ArrayStore, path: str) -> _Tree:
    tree = _Tree()
    for name in sorted(store.names, key=lambda name: natural_order(tuple(name.split(".")))):
        if not is_unicode(name):
            raise MalformedFile(f"the name {name!r} of an array is not valid UTF-8.", path=path)
        key = tuple(name.split(".")) if name else _ALONE
        tree.names[key] = check_name(name, key, path)
    if tree.names:
        tree.notes.append(f"the folder has no {TREE}: the names of its arrays were split at their dots")
    return tree


def _tensors(
    tree: _Tree, aggregate: Aggregate | None, store: ArrayStore, files: ItemFiles
) -> dict[Key, Tensor]:
    keys = {name: key for key, name in tree.names.items() if name is not None}
    arrays = store.arrays(keys)
    most = _LEAST_NBYTES + _MOST_COMPRESSION * files.nbytes
    for stored in arrays.values():
        _check_parts(stored, store, keys[stored.name], files.path)
        if stored.array.spec.nbytes > most:
            raise LimitExceeded(
                f"the array {stored.array.spec} is {stored.array.spec.nbytes} bytes, and all files of the "
                f"checkpoint are {files.nbytes} bytes.",
                path=files.path,
                key=keys[stored.name],
            )
    filled = [join_key(keys[name]) for name, stored in arrays.items() if stored.missing]
    if filled:
        tree.notes.append(
            "parts that are not stored are read as the fill value, as the version of Orbax that wrote them "
            f"does, in {count(len(filled), 'tensor')}: {listed(filled)}"
        )
    tensors: dict[Key, Tensor] = {}
    for key, name in tree.names.items():
        if name is not None:
            tensors[key] = _tensor(store, arrays[name], key, files.path)
        elif aggregate is not None:
            tensors[key] = aggregate.state.tensor(key)
    return tensors


def _check_parts(stored: StoredArray, store: ArrayStore, key: Key, path: str) -> None:
    """Refuse an array whose parts are not all stored, if its writer always stores them.

    Without a fill value tensorstore stores every part. With one it left out equal parts, until
    Orbax asked it not to and recorded that.
    """
    if stored.missing and not (store.fill_missing and stored.array.has_fill):
        raise MalformedFile(
            f"{stored.missing} of the {stored.missing + stored.parts} parts of the array are missing.",
            path=path,
            key=key,
            hint="Copy or download the checkpoint again.",
        )


def _tensor(store: ArrayStore, stored: StoredArray, key: Key, path: str) -> LazyTensor:
    spec = stored.array.spec

    def read(region: Region) -> Array:
        return store.read(stored, region, key)

    def read_into(region: Region, out: Array) -> None:
        store.read_into(stored, region, out, key)

    def read_bools(region: Region) -> Array:
        values = store.read(stored, region, key)
        if values.size and (most := values.view(np.uint8).max()) > 1:
            raise MalformedFile(f"expected 0 or 1 in a bool tensor, got the byte {most}.", path=path, key=key)
        return values

    if spec.dtype == np.bool_:
        return LazyTensor(spec, read_bools, stored.array.chunk_shape)
    return LazyTensor(spec, read, stored.array.chunk_shape, read_into)


def _metadata(metadata: TreeMetadata | None, tree: _Tree, path: str) -> tuple[str | None, StateMetadata]:
    layout: str | None = None
    described = StateMetadata()
    if metadata is not None and metadata.carried is not None:
        layout, described, _ = load_metadata(metadata.carried, path=path)
    notes = [*_left_out(tree.left_out), *tree.notes]
    return layout, described.with_(
        empty=tree.empty,
        extra=metadata.extra if metadata is not None else {},
        notes=tuple(notes),
    )


def _left_out(leaves: Iterable[str]) -> list[str]:
    names = listed(leaves)
    return [f"left out, since these leaves hold no numbers: {names}"] if names else []
