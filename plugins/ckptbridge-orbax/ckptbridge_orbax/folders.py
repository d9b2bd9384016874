"""Roots, steps and items of Orbax checkpoints, by the names in their folders."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

from bridge_core import BridgeError, MalformedFile, UsageError
from bridge_core.formats import FolderContents, FolderItem
from bridge_core.io import SourceFolder
from bridge_core.messages import listed, nearest
from ckptbridge_orbax.file_names import (
    AGGREGATE,
    ARRAY_FILES,
    COMMITTED,
    DEFAULT_ITEM,
    MANIFEST,
    PROCESS,
    STEP,
    TEMPORARY,
    TREE,
)

__all__ = ["contents_of", "is_checkpoint", "item_folder"]

_V1_FILE = "orbax.checkpoint"
_ITEM_FILES = (TREE, MANIFEST)
_GROUP_FILES = (".zgroup", "zarr.json")
_WITH_WEIGHTS = ("params", "model_params", "model", "state", "items", DEFAULT_ITEM)
"""Names of items that hold the weights, the most telling first."""
_STEP_NAME = re.compile(r"(.*?)(\d{1,18})", re.DOTALL)
_MOST_LOOKED_AT = 1000
"""Folders of a folder that are looked at to recognise it."""


def is_checkpoint(folder: SourceFolder) -> bool:
    """Return whether a folder is an item, a step or a root of steps; damage raises nothing."""
    with contextlib.suppress(BridgeError):
        if _has_marker(folder) or any(TEMPORARY in name for name in folder.folders):
            return True
        for name in _child_names(folder)[:_MOST_LOOKED_AT]:
            with contextlib.suppress(BridgeError):
                child = folder.folder(name)
                if _has_marker(child) or (_step_number(name) is not None and _has_items(child)):
                    return True
    return False


def contents_of(folder: SourceFolder, step: int | None) -> FolderContents:
    """Return the steps of a checkpoint and the items of one; `OrbaxFormat.contents` documents it."""
    return _located(folder, step)[0]


def item_folder(folder: SourceFolder, step: int | None, item: str | None) -> SourceFolder:
    """Return the folder of an item; `OrbaxFormat.open_folder` documents it."""
    contents, place = _located(folder, step)
    names = [one.name for one in contents.items]
    where = "" if contents.step is None else f" in step {contents.step}"
    if item is None:
        item = contents.item
    if item is None:
        raise UsageError(
            f"the checkpoint holds {len(names)} items{where}, and their names do not show which holds the "
            f"weights: {listed(names)}.",
            path=folder.name,
            hint=f"Pass the item, such as {names[0]!r}." if names else None,
        )
    if item not in names:
        raise UsageError(
            f"the checkpoint holds no item {item!r}{where}.",
            path=folder.name,
            hint=nearest(item, names, listing="Items") if names != [""] else "The folder itself is the item.",
        )
    chosen = next(one for one in contents.items if one.name == item)
    if not chosen.has_tensors:
        raise UsageError(f"the item {item!r} holds no tensors: it is {chosen.what}.", path=folder.name)
    return place.folder(item) if item else place


def _located(folder: SourceFolder, step: int | None) -> tuple[FolderContents, SourceFolder]:
    """Return the contents, and the folder of the step."""
    _refuse_unfinished(folder)
    kind = _kind(folder)
    steps: dict[int, str] = {}
    unfinished_steps: tuple[str, ...] = ()
    if kind is None and not folder.files & {STEP, _V1_FILE}:
        steps, unfinished_steps = _steps(folder)
    if not steps:
        if step is not None:
            raise UsageError(
                f"the checkpoint has no steps, so that step {step} cannot be read.",
                path=folder.name,
                hint="Leave out step= (--step), or give the folder that holds the steps.",
            )
        items, unfinished = _items(folder)
        if not any(one.has_tensors for one in items):
            raise _nothing(folder, items, unfinished)
        return FolderContents(items=items, item=_default(items), unfinished=unfinished), folder
    chosen = max(steps) if step is None else step
    if chosen not in steps:
        unfinished_one = [name for name in unfinished_steps if _step_number(_final(name)) == chosen]
        if unfinished_one:
            raise _unfinished(folder, unfinished_one[0])
        raise UsageError(
            f"the checkpoint has no step {chosen}.",
            path=folder.name,
            hint=nearest(str(chosen), list(map(str, sorted(steps))), listing="Steps"),
        )
    place = folder.folder(steps[chosen])
    items, unfinished = _items(place)
    unfinished = (*unfinished_steps, *(f"{steps[chosen]}/{name}" for name in unfinished))
    contents = FolderContents(tuple(sorted(steps)), chosen, items, _default(items), unfinished)
    return contents, place


def _steps(folder: SourceFolder) -> tuple[dict[int, str], tuple[str, ...]]:
    """Return the folders of the steps by number, and the names of those that are not finished.

    Items, too, may have names that end in digits. So a folder is a root only if its folders that hold data
    have such names, with the same beginning, or are themselves folders of items.
    """
    steps: dict[int, str] = {}
    beginnings: set[str] = set()
    unfinished = [name for name in folder.folders if TEMPORARY in name]
    for name, child in _children(folder):
        number = _step_number(name)
        is_item = bool(child.files & {*_ITEM_FILES}) or (STEP not in child.files and _kind(child) is not None)
        if number is None:
            if is_item and not child.path.is_symlink():  # a link may be the name of the latest step
                return {}, ()
            continue
        if not is_item and STEP not in child.files and not _has_items(child):
            if any(TEMPORARY in inner for inner in child.folders):
                unfinished.append(name)
            continue
        if is_item:
            beginnings.add(name.rstrip("0123456789"))
        if number in steps:
            raise MalformedFile(
                f"two folders are step {number}: {steps[number]} and {name}.",
                path=folder.name,
                hint="Give the folder of the step that you want.",
            )
        steps[number] = name
    if len(beginnings) > 1:
        return {}, ()
    return steps, tuple(sorted(unfinished))


def _items(folder: SourceFolder) -> tuple[tuple[FolderItem, ...], tuple[str, ...]]:
    """Return the items of a step, sorted, and the names of those that are not finished."""
    kind = _kind(folder)
    if kind is not None:
        return (FolderItem("", kind),), ()
    items = []
    for name, child in _children(folder):
        kind = _kind(child)
        items.append(FolderItem(name, kind or _what_else(child), has_tensors=kind is not None))
    return tuple(items), tuple(sorted(name for name in folder.folders if TEMPORARY in name))


def _default(items: tuple[FolderItem, ...]) -> str | None:
    """Return the item that holds the weights, by its name or since no other holds tensors."""
    names = [one.name for one in items if one.has_tensors]
    return next((name for name in _WITH_WEIGHTS if name in names), names[0] if len(names) == 1 else None)


def _kind(folder: SourceFolder) -> str | None:
    """Return what an item with tensors is, in words; None if a folder is not one."""
    if folder.files & {*_ITEM_FILES} or any(name.startswith(PROCESS) for name in folder.folders):
        return "a tree of arrays"
    if AGGREGATE in folder.files and _is_msgpack_map(folder):
        return "a tree of arrays"
    if folder.files & {*ARRAY_FILES, *_GROUP_FILES, STEP, _V1_FILE}:
        return None
    for _, child in _children(folder, _MOST_LOOKED_AT):
        if child.files & {*ARRAY_FILES}:
            return "arrays without a tree"
    return None


def _what_else(folder: SourceFolder) -> str:
    if folder.files & {"jax_random_key", "np_random_key"} or folder.folders & {"jax_random_key"}:
        return "a key of random numbers"
    if folder.files - {COMMITTED} == {"metadata"}:
        return "JSON"
    return "other files"


def _has_marker(folder: SourceFolder) -> bool:
    """Return whether a folder holds what only Orbax writes."""
    return (
        bool(folder.files & {*_ITEM_FILES, STEP, _V1_FILE})
        or any(name.startswith(PROCESS) for name in folder.folders)
        or (AGGREGATE in folder.files and _is_msgpack_map(folder))
    )


def _has_items(folder: SourceFolder) -> bool:
    return any(_kind(child) is not None for _, child in _children(folder, _MOST_LOOKED_AT))


def _is_msgpack_map(folder: SourceFolder) -> bool:
    """Return whether the file ``checkpoint`` is msgpack; TensorFlow has a text of this name."""
    with contextlib.suppress(BridgeError), folder.open(AGGREGATE) as file:
        head = file.read(0, min(file.size, 1))
        return bool(head) and (0x80 <= head[0] < 0x90 or head[0] in (0xDE, 0xDF))
    return False


def _children(folder: SourceFolder, most: int | None = None) -> Iterator[tuple[str, SourceFolder]]:
    for name in _child_names(folder)[:most]:
        yield name, folder.folder(name)


def _child_names(folder: SourceFolder) -> list[str]:
    """Return the names of the folders in a folder that are finished, sorted; not those of databases."""
    return sorted(
        name for name in folder.folders if TEMPORARY not in name and not name.startswith((PROCESS, "."))
    )


def _step_number(name: str) -> int | None:
    """Return the number that ends the name of a step.

    >>> [_step_number(name) for name in ("20", "checkpoint_00000005", "params")]
    [20, 5, None]
    """
    match = _STEP_NAME.fullmatch(name)
    return int(match[2]) if match and match[2].isascii() else None


def _final(name: str) -> str:
    return name.partition(TEMPORARY)[0]


def _refuse_unfinished(folder: SourceFolder) -> None:
    path = folder.path.absolute()
    for part in (path, path.parent):
        if TEMPORARY in part.name:
            raise _unfinished(folder, part.name)


def _unfinished(folder: SourceFolder, name: str) -> MalformedFile:
    return MalformedFile(
        f"the writing of {name} did not finish, and its values may be incomplete.",
        path=folder.name,
        hint="Read a step that is complete, or save the checkpoint again.",
    )


def _nothing(
    folder: SourceFolder, items: tuple[FolderItem, ...], unfinished: tuple[str, ...]
) -> MalformedFile:
    if unfinished:
        return _unfinished(folder, unfinished[0])
    what = listed(f"{one.name} ({one.what})" for one in items) or "nothing"
    return MalformedFile(
        "the folder is not a checkpoint of Orbax: expected a file _METADATA, manifest.ocdbt or "
        f"checkpoint in it, or in the folders in it, got {what}.",
        path=folder.name,
    )
