"""Opens and saves states by path: any format, single files, folders and sharded sets.

Reading finds the format by content, and the weights of a folder by their usual names. A destination holds
either its old or its new content, complete, at every moment.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from bridge_core.checkpoint.choice import Choice, choose_file
from bridge_core.checkpoint.detect_format import open_file
from bridge_core.checkpoint.folder_checkpoint import (
    folder_format,
    naming_checkpoint,
    notes_of_others,
    open_checkpoint,
)
from bridge_core.checkpoint.locations import locate
from bridge_core.checkpoint.saved import Saved
from bridge_core.checkpoint.write_options import StrPath, WriteOptions, is_folder, require_step
from bridge_core.errors import UsageError
from bridge_core.io import Location, RemotePath, SourceFile
from bridge_core.plugins import Registry, given_registry
from bridge_core.public import renamed
from bridge_core.state import FlatState, as_state, require_entry_path
from bridge_core.transfer import Progress

if TYPE_CHECKING:
    from bridge_core.formats import FolderFormat, Format

__all__ = ["open_state", "save_state"]


def open_state(
    path: StrPath | RemotePath,
    *,
    format: str | None = None,
    layout: str | None = None,
    registry: Registry | None = None,
    follow_links: bool = False,
    entry: str | None = None,
    step: int | None = None,
) -> FlatState:
    """Open weights lazily, as a state that reads a tensor when it is asked for.

    The state holds the file open: use it as a context manager, or close it. `metadata.provenance` names the
    file, its format, and the reason for the layout; a URL without credentials, and of the version that is
    read, where the server has versions.

    Args:
        path: A file of any name, an index, or a folder: of files (see `find_weights`), or a checkpoint of a
            format whose checkpoints are folders. A file that is only a part of a model, such as one shard, is
            opened with a note about that. It may be a URL of an installed file system, such as
            ``hf://org/model`` or ``s3://bucket/model.safetensors``.
        format: Name of the format; None to detect it by content.
        layout: ``"neutral"`` or the name of a framework; None for the layout that the file records or its
            format has, or else that of the only framework that the keys match.
        registry: The plugins; None for all that are installed.
        follow_links: Whether shards may be symbolic links that lead out of their folder.
        entry: The entry of the file to read, as ``"model_ema"`` or ``"ckpt.model_ema"``: a dict in a torch
            file, a collection of a Flax tree, an item of an Orbax checkpoint, or a prefix of keys. None takes
            the usual one.
        step: The step of a checkpoint that has steps; None for the latest one that is complete.

    Returns:
        The state; its `layout` is None if neither the file nor its keys determine it.

    Raises:
        SourceNotFound: The file or folder does not exist.
        BadInputError: The file is damaged, unsafe, or of no known format.
        SystemFailure: The system failed to open or read it, or a server does not give it.
        MissingDependency: The plugin that reads URLs of this kind is not installed.
        NeedsLocalPath: It is at a URL, and a library opens files of its format by name.
        UsageError: No plugin provides the format, or the file has no such entry or step.
    """
    require_entry_path(entry)
    require_step(step)
    registry = given_registry(registry)
    chosen = registry.any_format(format) if format else None
    if layout is not None:
        registry.require_layout(layout, "layout")
    place = locate(path, registry)
    used: Format | FolderFormat
    of_folders = folder_format(place, registry, chosen) if is_folder(place) else None
    if of_folders is not None:
        used, choice = of_folders, Choice(place)
        state = open_checkpoint(
            place, of_folders, registry, step=step, entry=entry, follow_links=follow_links
        )
    else:
        _refuse_step(step, place)
        of_files = registry.format(format) if format else None
        with naming_checkpoint(place, registry):
            if is_folder(place):
                from bridge_core.checkpoint.folder_weights import choose_weights

                choice = choose_weights(place, format=format, layout=layout, registry=registry)
                others = () if format else notes_of_others(place, registry)
                choice = replace(choice, notes=(*choice.notes, *others))
            else:
                choice = choose_file(place)
            used, state = open_file(choice.path, registry, of_files, follow_links=follow_links, entry=entry)
    known = {**state.metadata.provenance, "path": str(choice.path), "format": used.name}
    notes = (*choice.notes, *state.metadata.notes)
    own_layout, reason = (layout, "as given") if layout else _layout(state, used, registry)
    if reason:
        known["layout"] = reason
    left_out = (*choice.left_out, *state.metadata.left_out)
    metadata = state.metadata.with_(provenance=known, notes=notes, left_out=left_out)
    opened = state.replace(metadata=metadata)
    opened.layout, opened.location = own_layout, choice.path
    return opened


def _refuse_step(step: int | None, path: Location) -> None:
    if step is not None:
        raise UsageError(
            f"the source has no steps, so it has no step {step}.",
            path=path,
            hint="Remove step= (--step), or give the folder that holds the steps, or the file of one step.",
        )


def _layout(state: FlatState, used: Format | FolderFormat, registry: Registry) -> tuple[str | None, str]:
    """Return the layout that a file records, or else that its format or its keys show; and the reason."""
    if used.layout is None:
        if state.layout:
            return state.layout, "recorded in the file"
        layout = registry.layout_of(state.specs())
        return layout, "the only layout that the keys match" if layout else ""
    recorded = state.metadata.layers or state.metadata.tree_form
    if recorded or state.layout not in (None, used.layout):
        return state.layout or used.layout, "recorded in the file"
    layout = registry.unless_neutral(used.layout, state.specs())
    return layout, "the layout of this format" if layout else ""


@renamed(beside="sidecar_files", stem="base_name")
def save_state(
    state: Mapping[Any, Any],
    path: StrPath | RemotePath,
    *,
    format: str | None = None,
    layout: str | None = None,
    max_shard_size: int | str | None = None,
    overwrite: bool = False,
    registry: Registry | None = None,
    workers: int | None = None,
    max_ram: int | str | None = None,
    progress: Callable[[Progress], None] | None = None,
    verify: bool = False,
    sidecar_files: Mapping[str, SourceFile | bytes] | None = None,
    base_name: str | None = None,
    step: int | None = None,
    item: str | None = None,
) -> Saved:
    """Write a state to a file, or to a folder laid out as Hugging Face's libraries do.

    A folder is written if ``max_shard_size`` is given, ``path`` ends with a slash, or ``path`` is a folder
    already. Its files get the format's usual names: one file if all fits, else shards and an index. With
    ``overwrite`` an existing folder is replaced as one, so its inode changes: all files with usual names of
    weights, of any format and variant, are gone afterwards, and all its other files stay.

    The destination may be the source itself, with ``overwrite``: the source stays readable until it is
    closed. It may not be one file of a sharded set that is read. At a URL it may not be the source.

    Args:
        state: A FlatState, or a dict from tuple keys or dotted names to arrays; it is not changed.
        path: The destination; its folder must exist. Or a URL of a store, as for ``dst`` of `convert`, where
            it is explained what happens at a URL.
        format: Name of the format; None for that of the extension, or else of the state's layout.
        layout: The layout of a plain mapping, or of a state without one: the name of a framework, or
            ``"neutral"``. The file records it where the format has a place for it.
        max_shard_size: Largest bytes of tensors in a shard, or a text such as ``"5GB"`` (10^9) or
            ``"5GiB"`` (2^30); None for no limit, and for 5GB in a folder at a URL.
        overwrite: Whether to replace an existing destination.
        registry: The plugins; None for all that are installed.
        workers: Number of threads; None for the available processors, at most four.
        max_ram: Largest bytes of all buffers together, or a text such as ``"512MB"``; None for 256 MiB.
        progress: Called with `Progress`, one call at a time, from any thread.
        verify: Whether to read every tensor back and compare checksums before the destination changes.
        sidecar_files: Name -> file to copy next to the weights, or its content; only for a folder.
        base_name: First part of the file names in a folder; None for the format's own.
        step: Number of the step to write, in a format whose checkpoints have steps; ``path`` is then the
            folder that holds the steps. None to write ``path`` itself.
        item: Name of the item to write, in a format whose checkpoints have items, as ``"params"``.

    Raises:
        BadInputError: A source is damaged, or the format cannot hold a tensor or a name.
        DestinationExists: The destination exists and ``overwrite`` is off, or it is a part of the source.
        SystemFailure: The system failed: disk, permission or memory.
        UsageError: Options exclude each other or are not valid, or the state is in another layout.
        VerificationError: What was written differs from the state.
    """
    options = WriteOptions(
        format=format,
        max_shard_size=max_shard_size,
        workers=workers,
        max_ram=max_ram,
        overwrite=overwrite,
        verify=verify,
        progress=progress,
        sidecar_files=sidecar_files or {},
        base_name=base_name,
        step=step,
        item=item,
    )
    registry = given_registry(registry)
    from bridge_core.checkpoint.checkpoint_writer import write_checkpoint  # reading does not need it

    return write_checkpoint(_with_layout(state, layout, registry), path, options, registry)


def _with_layout(state: Mapping[Any, Any], layout: str | None, registry: Registry) -> FlatState:
    if layout is None:
        return as_state(state)
    if layout != "neutral":
        registry.framework(layout)
    if isinstance(state, FlatState) and state.layout not in (None, layout):
        raise UsageError(
            f"expected a state in the layout {layout!r}, as layout= gives it, got one in the layout "
            f"{state.layout!r}.",
            hint=f"Omit layout=, or convert the state to {layout!r} first.",
        )
    return as_state(state, layout=layout)
