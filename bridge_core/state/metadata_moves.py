"""Metadata that follows its tensors: renamed, restricted to some keys, or joined.

Paths of layers do not have the collection that every key of a tree of variables begins with. A record is
moved only if it still describes the same tensors; otherwise it is forgotten, and later evidence decides.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace

from bridge_core.state.keys import Key, leaf_path
from bridge_core.state.layer_records import (
    Records,
    agreed_info,
    has_open_axes,
    joined_info,
    named_leaves,
    open_record,
    opened,
)
from bridge_core.state.metadata import LayerInfo, ModuleInfo, StateMetadata

__all__ = ["joined_metadata", "renamed_metadata", "restricted_metadata"]


def restricted_metadata(
    metadata: StateMetadata, layout: str | None, keys: Collection[Key], chosen: Collection[Key]
) -> StateMetadata:
    """Return the metadata of a state that is restricted to some of its keys.

    The record of a layer that loses some leaves names the others; that of a layer or module that loses all is
    removed. Keys that were tied to a removed key are tied to each other.

    Args:
        metadata: The state's metadata.
        layout: The state's layout.
        keys: All keys of the state.
        chosen: The keys that remain; a set or a mapping.
    """
    collections = {key: name for key, name in metadata.collections.items() if key in chosen}
    metadata = metadata.with_(
        ties=_restricted_ties(metadata.ties, chosen),
        collections=collections,
        boxes={key: box for key, box in metadata.boxes.items() if key in chosen},
        rules=metadata.rules_restricted(chosen),
    )
    dropped = {key for key in keys if key not in chosen}
    if not dropped:
        return metadata
    remaining: Collection[Key] = chosen
    gone = _ancestors(dropped) - _ancestors(remaining)
    empty = tuple(path for path in metadata.empty if not _is_below(path, gone))
    if _is_without_collections(metadata, layout, keys):
        dropped, remaining = {key[1:] for key in dropped}, {key[1:] for key in remaining}
        gone = _ancestors(dropped) - _ancestors(remaining)
    layers: dict[Key, LayerInfo] = {}
    for path, info in metadata.layers.items():
        if path in gone:
            continue
        named = named_leaves(info)
        left = {leaf for leaf in named if leaf_path(path, leaf) not in dropped}
        if len(left) == len(named):
            layers[path] = info
        elif left:
            layers[path] = replace(
                info,
                leaves=tuple(leaf for leaf in info.leaves if leaf in left),
                unclaimed=tuple(leaf for leaf in info.unclaimed if leaf in left),
            )
    return metadata.with_(
        layers=layers,
        modules={path: info for path, info in metadata.modules.items() if not _is_below(path, gone)},
        auxiliary_tensors={
            key: tensor for key, tensor in metadata.auxiliary_tensors.items() if not _is_below(key[:-1], gone)
        },
        empty=empty,
        source_names={key: name for key, name in metadata.source_names.items() if key in chosen},
    )


def renamed_metadata(metadata: StateMetadata, layout: str | None, names: Mapping[Key, Key]) -> StateMetadata:
    """Return the metadata of a state whose keys are renamed.

    A layer's record moves if all its leaves move together under their old names. It is forgotten if they do
    not, or if another tensor gets a name at the layer's path.

    Args:
        metadata: The state's metadata.
        layout: The state's layout.
        names: Each key of the state -> its new name.
    """
    if all(old == new for old, new in names.items()):
        return metadata
    paths, tree_form = names, metadata.tree_form
    if _is_without_collections(metadata, layout, names):
        if all(new[:1] == old[:1] for old, new in names.items()):
            paths = {old[1:]: new[1:] for old, new in names.items()}
        else:
            paths = {old[1:]: new for old, new in names.items()}
            tree_form = {name: form for name, form in tree_form.items() if name != layout}
    changed = {old: new for old, new in paths.items() if old != new}
    follow: Callable[[Key], Key | None] = _Moves(paths).follow if _has_paths(metadata) else lambda path: path
    follow_empty = follow if paths is names else _Moves(names).follow
    auxiliary_tensors = {}
    for key, tensor in metadata.auxiliary_tensors.items():
        new_path = follow(key[:-1])
        if new_path is not None:
            auxiliary_tensors[(*new_path, key[-1])] = tensor
    modules = Records[ModuleInfo](_same_module)
    for path, module in metadata.modules.items():
        modules.add(follow(path), module)
    taken = set(names.values()) if metadata.empty else set()
    new_empty = {follow_empty(path): None for path in metadata.empty}
    return replace(
        metadata,
        layers=_renamed_layers(metadata.layers, paths, changed, follow, _is_neutral(layout)),
        modules=modules.remaining(),
        ties={names.get(key, key): names.get(other, other) for key, other in metadata.ties.items()},
        collections={names.get(key, key): name for key, name in metadata.collections.items()},
        boxes={names.get(key, key): box for key, box in metadata.boxes.items()},
        auxiliary_tensors=auxiliary_tensors,
        empty=tuple(path for path in new_empty if path is not None and path not in taken),
        tree_form=tree_form,
        rules=metadata.rules_renamed(lambda key: names.get(key, key)),
        source_names={names.get(key, key): name for key, name in metadata.source_names.items()},
    )


def joined_metadata(
    one: StateMetadata,
    other: StateMetadata,
    layout: str | None,
    keys: tuple[Collection[Key], Collection[Key]],
) -> StateMetadata:
    """Return the metadata of a state made of two, which share no key.

    If both have a record of a layer and the records agree, its leaves are joined. If they differ, or one
    state adds a leaf to a layer that only the other has a record of, the record is forgotten.

    Args:
        one: The first state's metadata; its texts and its tree form come first.
        other: The second state's metadata.
        layout: The layout of both.
        keys: The keys of each.
    """
    parts = []
    for metadata, own in ((one, keys[0]), (other, keys[1])):
        is_without = _is_without_collections(metadata, layout, own)
        parts.append({key[1:] for key in own} if is_without else own)
    is_neutral = _is_neutral(layout)
    layers = Records[LayerInfo](joined_info if is_neutral else agreed_info)
    modules = Records[ModuleInfo](_same_module)
    for known in (one, other):
        for path, info in known.layers.items():
            layers.add(path, info)
        for path, module in known.modules.items():
            modules.add(path, module)
    for known, unknown, added in ((one, other, parts[1]), (other, one, parts[0])):
        parents = _leaf_parents(known.layers) if known.layers else {}
        for key in added if parents else ():
            path_there = parents.get(key[:-1])
            if path_there is not None and path_there not in unknown.layers:
                open_record(layers, path_there, key, is_neutral)
    auxiliary_tensors = {**one.auxiliary_tensors, **other.auxiliary_tensors}
    for key in one.auxiliary_tensors.keys() & other.auxiliary_tensors.keys():
        if one.auxiliary_tensors[key] != other.auxiliary_tensors[key]:
            del auxiliary_tensors[key]
    tree_form = {**other.tree_form, **one.tree_form}
    forms = {form for part in (one, other) if (form := part.tree_form.get(layout or ""))}
    if layout is not None and len(forms) > 1:
        del tree_form[layout]
    present = {*keys[0], *keys[1]} if one.empty or other.empty else set()
    empty = dict.fromkeys((*one.empty, *other.empty))
    return replace(
        one,
        layers=layers.remaining(),
        modules=modules.remaining(),
        ties={**one.ties, **other.ties},
        providers={**other.providers, **one.providers},
        notes=tuple(dict.fromkeys((*one.notes, *other.notes))),
        collections={**one.collections, **other.collections},
        boxes={**one.boxes, **other.boxes},
        separators={**other.separators, **one.separators},
        auxiliary_tensors=auxiliary_tensors,
        empty=tuple(path for path in empty if path not in present),
        tree_form=tree_form,
        extra={**other.extra, **one.extra},
        source_names={**one.source_names, **other.source_names},
        rules=(*(one.rules or ()), *other.rules) if other.rules else one.rules,
    )


class _Moves:
    """The new places of the paths above some keys that were renamed."""

    def __init__(self, names: Mapping[Key, Key]) -> None:
        direct = Records[Key](_same)
        above = Records[Key](_same)
        for old, new in names.items():
            same = old[-1:] == new[-1:]
            direct.add(old[:-1], new[:-1] if same else None)
        for old, new in names.items():
            same = old[-1:] == new[-1:]
            for tail in range(2, len(old) + 1):
                same = same and old[-tail : -tail + 1] == new[-tail : -tail + 1] != ()
                if old[:-tail] not in direct:
                    above.add(old[:-tail], new[:-tail] if same else None)
        self._paths = {**above, **direct}

    def follow(self, path: Key) -> Key | None:
        """Return the new path; None if the tensors at the path are no longer together.

        A path without keys moves with the nearest path above it.
        """
        for depth in range(len(path), 0, -1):
            if path[:depth] in self._paths:
                new = self._paths[path[:depth]]
                return (*new, *path[depth:]) if new is not None else None
        new = self._paths.get((), ())
        return (*new, *path) if new is not None else path or None


def _renamed_layers(
    layers: Mapping[Key, LayerInfo],
    paths: Mapping[Key, Key],
    changed: Mapping[Key, Key],
    follow: Callable[[Key], Key | None],
    is_neutral: bool,
) -> dict[Key, LayerInfo]:
    records = Records[LayerInfo](joined_info if is_neutral else agreed_info)
    own: set[Key] = set()
    origins: dict[Key, set[Key]] = {}
    for path, info in layers.items():
        named = named_leaves(info)
        leaves = [key for leaf in named if (key := leaf_path(path, leaf)) in paths]
        gone = path if named else follow(path)
        new_path = _common_path(path, leaves, paths) if leaves else gone
        if new_path is not None:
            records.add(new_path, info)
            origins.setdefault(new_path, set()).add(path)
            own.update(paths[key] for key in leaves)
        elif is_neutral and has_open_axes(info):
            for key in leaves:
                new = paths[key]
                records.add(new[:-1], opened(info, new[-1:]))
                own.add(new)
    old_parents, new_parents = _leaf_parents(layers), _leaf_parents(records.remaining())
    for old, new in changed.items():
        path_there = new_parents.get(new[:-1])
        if path_there is None or new in own:
            continue
        came_along = old[-1:] == new[-1:] and old_parents.get(old[:-1]) in origins.get(path_there, ())
        if not came_along:
            open_record(records, path_there, new, is_neutral)
    return records.remaining()


def _common_path(path: Key, leaves: Iterable[Key], names: Mapping[Key, Key]) -> Key | None:
    """Return the path below which all leaves have their old names; None if there is none."""
    common: Key | None = None
    for key in leaves:
        tail, new = key[len(path) :], names[key]
        above = new[: len(new) - len(tail)]
        if len(new) < len(tail) or new[len(above) :] != tail or (common is not None and common != above):
            return None
        common = above
    return common


def _leaf_parents(layers: Mapping[Key, LayerInfo]) -> dict[Key, Key]:
    """Return the paths that hold leaves of layers, each with the layer's path."""
    parents = {path: path for path in layers}
    for path, info in layers.items():
        for leaf in named_leaves(info):
            if "." in leaf:
                parents.setdefault(leaf_path(path, leaf)[:-1], path)
    return parents


def _is_neutral(layout: str | None) -> bool:
    return layout in (None, "neutral")


def _same_module(one: ModuleInfo, other: ModuleInfo) -> ModuleInfo | None:
    joined = replace(one, parameters=tuple(dict.fromkeys((*one.parameters, *other.parameters))))
    return joined if replace(other, parameters=joined.parameters) == joined else None


def _same(one: Key, other: Key) -> Key | None:
    return one if one == other else None


def _has_paths(metadata: StateMetadata) -> bool:
    if metadata.modules or metadata.auxiliary_tensors or metadata.empty:
        return True
    return any(not named_leaves(info) for info in metadata.layers.values())


def _is_without_collections(metadata: StateMetadata, layout: str | None, keys: Collection[Key]) -> bool:
    """Return whether the paths of layers are without the collections of the state's keys.

    If the form is not known, the records show it: their leaves are keys of the state, or are not.
    """
    form = metadata.tree_form.get(layout or "")
    if form is not None or layout is None or not metadata.layers:
        return form == "variables"
    without: set[Key] = set()
    for path, info in metadata.layers.items():
        for leaf in named_leaves(info):
            key = leaf_path(path, leaf)
            if key in keys:
                return False
            without = without or {key[1:] for key in keys}
            if key in without:
                return True
    return False


def _ancestors(keys: Iterable[Key]) -> set[Key]:
    """Return all paths above some keys."""
    ancestors: set[Key] = set()
    for key in keys:
        path = key[:-1]
        while path not in ancestors:
            ancestors.add(path)
            path = path[:-1]
    return ancestors


def _is_below(path: Key, gone: Collection[Key]) -> bool:
    return bool(gone) and any(path[:depth] in gone for depth in range(len(path) + 1))


def _restricted_ties(ties: Mapping[Key, Key], chosen: Collection[Key]) -> dict[Key, Key]:
    restricted = {key: other for key, other in ties.items() if key in chosen and other in chosen}
    if len(restricted) == len(ties):
        return restricted
    canonical: dict[Key, Key] = {}
    for key in ties:
        if key in chosen and key not in restricted:
            passed, end = {key}, ties[key]
            while end not in chosen and end in ties and end not in passed:
                passed.add(end)
                end = ties[end]
            first = end if end in chosen else canonical.setdefault(end, key)
            if first != key:
                restricted[key] = first
    return restricted
