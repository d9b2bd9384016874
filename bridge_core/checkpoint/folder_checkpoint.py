"""Checkpoints that are folders: which format reads one, and which step and item of it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from bridge_core.checkpoint.local_copies import needs_local_path
from bridge_core.checkpoint.metadata_check import check_metadata
from bridge_core.errors import BridgeError, MalformedFile, UsageError
from bridge_core.formats import FolderContents, FolderFormat, FolderItem, Format
from bridge_core.io import Location, RemotePath, folder_at, system_failures
from bridge_core.messages import count, listed, log
from bridge_core.plugins import Registry
from bridge_core.state import FlatState, select_entry, unknown_entry

__all__ = [
    "contents_of",
    "folder_format",
    "naming_checkpoint",
    "notes_of_others",
    "open_checkpoint",
    "own_checkpoint",
]


_MOST_INNER = 8
"""Folders in a folder at a URL that are listed to recognise it."""


def folder_format(
    path: Location, registry: Registry, chosen: Format | FolderFormat | None = None
) -> FolderFormat | None:
    """Return the format whose checkpoint a folder is; None if it is a folder of files.

    A folder with weights of a usual name, such as ``model.safetensors``, is a folder of files.

    Args:
        path: The folder.
        registry: Where formats are found.
        chosen: The format that the caller gives; None to look at the folder.

    Raises:
        MalformedFile: Several formats recognise it.
        SystemFailure: It cannot be listed.
    """
    if chosen is not None:
        return chosen if isinstance(chosen, FolderFormat) else None
    if not registry.folder_formats or (isinstance(path, RemotePath) and _has_usual_weights(path, registry)):
        return None
    recognising = [
        candidate
        for candidate in registry.folder_formats.values()
        if registry.asks("formats", candidate, "sniff_folder", folder_at(path, most_inner=_MOST_INNER))
    ]
    if not recognising or _has_usual_weights(path, registry):
        return None
    if len(recognising) > 1:
        names = [candidate.name for candidate in recognising]
        raise MalformedFile(
            f"{len(names)} formats recognise the folder: {', '.join(names)}.",
            path=path,
            hint=f'Pass the format, such as format="{names[0]}" (--format {names[0]}).',
        )
    return recognising[0]


def notes_of_others(path: Location, registry: Registry) -> tuple[str, ...]:
    """Return a note for each format whose checkpoint a folder of files also is, or holds."""
    return tuple(
        f'the folder also holds a checkpoint of the format {name}, which was not read; format="{name}" '
        f"(--format {name}) reads it"
        for name, candidate in registry.folder_formats.items()
        if registry.asks("formats", candidate, "sniff_folder", folder_at(path, most_inner=0))
    )


def _has_usual_weights(path: Location, registry: Registry) -> bool:
    from bridge_core.checkpoint.weight_files import is_weights_name

    usual = is_weights_name(registry.formats.values())
    return any(usual(name) for name in folder_at(path).files)


def own_checkpoint(path: Location, registry: Registry) -> FolderFormat | None:
    """Return the format of a folder that is a checkpoint itself, and not a folder with checkpoints in it.

    A checkpoint in a folder has a name with the suffix of its format, and an item has any other name.
    """
    used = folder_format(path, registry)
    if used is None:
        return None
    try:
        contents = contents_of(path, registry, used, step=None, follow_links=False)
    except BridgeError:  # damaged, or not finished: it is one all the same
        return used
    suffixes = tuple(used.extensions)
    items = [item for item in contents.items if not item.name.lower().endswith(suffixes)]
    return used if contents.steps or items else None


@contextlib.contextmanager
def naming_checkpoint(path: Location, registry: Registry) -> Iterator[None]:
    """Let errors about a file or folder that is a part of a folder checkpoint say which folder to give."""
    try:
        yield
    except MalformedFile as err:
        around = _checkpoint_around(path, registry)
        if around is not None:
            folder, used = around
            way = f"If it is a part of the {used.name} checkpoint {folder}, give that folder."
            err.hint = f"{err.hint} {way}" if err.hint else way
        raise


def _checkpoint_around(path: Location, registry: Registry) -> tuple[Location, FolderFormat] | None:
    """Return the item that a file or folder is in, at most three folders up, or the step right above."""
    if isinstance(path, RemotePath):  # it would cost many requests, to complete a hint
        return None
    for depth, folder in enumerate(list(path.absolute().parents)[:3]):
        with contextlib.suppress(BridgeError):
            used = folder_format(folder, registry)
            if used is None:
                continue
            contents = contents_of(folder, registry, used, step=None, follow_links=False)
            is_item = contents.item == ""
            is_step = depth == 0 and contents.item is not None and not contents.steps
            if is_item or is_step:
                return folder, used
    return None


def contents_of(
    path: Location, registry: Registry, chosen: FolderFormat, *, step: int | None, follow_links: bool
) -> FolderContents:
    """Return the steps and items of a folder checkpoint; errors as in `open_checkpoint`."""
    if isinstance(path, RemotePath) and chosen.capabilities.needs_path:
        raise needs_local_path(path, f"checkpoints of the format {chosen.name}", is_folder=True)
    with _reading(chosen, path, registry):
        return chosen.contents(folder_at(path, follow_links=follow_links), step)


def open_checkpoint(
    path: Location,
    used: FolderFormat,
    registry: Registry,
    *,
    step: int | None = None,
    entry: str | None = None,
    follow_links: bool = False,
) -> FlatState:
    """Open one item of a folder checkpoint.

    Args:
        path: The folder: the checkpoint, a step of it, or an item.
        used: Its format.
        registry: Where formats are found.
        step: The step; None for the latest one that is complete.
        entry: Name of an item, or of an item and an entry in it, or of an entry in the item that holds the
            weights, joined by dots; None for that item.
        follow_links: Whether symbolic links may lead out of the folder.

    Returns:
        The state, whose `close` closes everything. Its provenance has the step and the item.

    Raises:
        BadInputError: The checkpoint is damaged, unsafe or not complete.
        NeedsLocalPath: It is at a URL, and a library opens checkpoints of its format by name.
        UsageError: There is no such step or entry, or names do not show which item holds the weights.
    """
    contents = contents_of(path, registry, used, step=step, follow_links=follow_links)
    item, inner = _item_and_entry(contents, entry, path)
    with _reading(used, path, registry):
        folder = folder_at(path, follow_links=follow_links)
        state = used.open_folder(folder, step=contents.step, item=item.name)
        if not isinstance(state, FlatState):
            raise TypeError(f"opening a folder should return a FlatState, got {type(state).__name__}")
        if registry.foreign_plugin("formats", used.name) is not None:
            from bridge_core.plugins import guarded_state

            doing = f"read {path}"
            state = guarded_state(
                state,
                lambda: registry.failures_of("formats", used.name, doing, damaged=str(path)),
            )
    try:
        check_metadata(state, registry, str(path))
        log("checkpoint", "opened %s: %s, step %s, item %r", path, used.name, contents.step, item.name)
        state = _described(state, contents, item)
        return state if inner is None else _inner_entry(state, inner, contents)
    except BaseException as err:
        state.close()
        if isinstance(err, BridgeError):
            err.path = err.path or str(path)
        raise


def _item_and_entry(
    contents: FolderContents, entry: str | None, path: Location
) -> tuple[FolderItem, str | None]:
    """Return the item to read, and the path of an entry in it."""
    items = {item.name: item for item in contents.items}
    if entry is not None:
        for name in sorted(items, key=len, reverse=True):
            if name and entry == name:
                return _with_tensors(items[name], path), None
            if name and entry.startswith(f"{name}."):
                return _with_tensors(items[name], path), entry[len(name) + 1 :]
    if contents.item is not None:
        return items[contents.item], entry
    names = [item.name for item in contents.items if item.has_tensors]
    if not names:
        raise MalformedFile(
            f"the checkpoint holds no item with tensors{_of_step(contents)}, only "
            f"{listed(f'{item.name} ({item.what})' for item in contents.items) or 'no items'}.",
            path=path,
        )
    raise UsageError(
        f"the checkpoint holds {len(names)} items with tensors{_of_step(contents)}, and their names do not "
        f"show which holds the weights: {listed(names)}.",
        path=path,
        hint=f'Pass the item, such as entry="{names[0]}" (--entry {names[0]}).',
    )


def _with_tensors(item: FolderItem, path: Location) -> FolderItem:
    if not item.has_tensors:
        raise UsageError(
            f"the item {item.name!r} holds no tensors: it is {item.what}.",
            path=path,
            hint="Pass the name of an item that holds tensors; 'ckptbridge inspect' lists the items.",
        )
    return item


def _of_step(contents: FolderContents) -> str:
    return "" if contents.step is None else f" in step {contents.step}"


def _described(state: FlatState, contents: FolderContents, item: FolderItem) -> FlatState:
    """Return the state with the step and the item in its provenance, and what was not read in its notes."""
    metadata = state.metadata
    provenance, notes = dict(metadata.provenance), []
    if contents.step is not None:
        provenance["step"] = str(contents.step)
        if len(contents.steps) > 1:
            others = [str(step) for step in reversed(contents.steps) if step != contents.step]
            more = f" and {len(others) - 8} more" if len(others) > 8 else ""
            notes.append(
                f"step {contents.step} was read, of {count(len(contents.steps), 'step')}; not read: "
                f"{', '.join(others[:8])}{more}"
            )
    if item.name:
        provenance["item"] = item.name
        rest = [f"{other.name} ({other.what})" for other in contents.items if other.name != item.name]
        notes += [f"the item {item.name!r} was read; not read: {listed(rest)}"] if rest else []
    if contents.unfinished:
        notes.append(f"not read, since their writing did not finish: {listed(contents.unfinished)}")
    metadata = metadata.with_(provenance=provenance, notes=(*notes, *metadata.notes))
    return state.replace(metadata=metadata)


def _inner_entry(state: FlatState, entry: str, contents: FolderContents) -> FlatState:
    try:
        return select_entry(state, entry)
    except UsageError as err:
        items = [item.name for item in contents.items if item.name and item.has_tensors]
        if not items:
            raise
        entries = dict.fromkeys(key[0] for key in state if len(key) > 1)
        raise unknown_entry(entry, dict.fromkeys([*items, *entries])) from err


@contextlib.contextmanager
def _reading(used: FolderFormat, path: Location, registry: Registry) -> Iterator[None]:
    """Let errors of a format's code name the folder, and the plugin unless it is ckptbridge's own."""
    try:
        with (
            registry.failures_of("formats", used.name, f"read {path}", damaged=str(path)),
            system_failures(path, "reading"),
        ):
            yield
    except BridgeError as err:
        err.path = err.path or str(path)
        raise
