"""Opening and saving states by path: any format, single files, folders and sharded sets.

Reading finds the format by content and the weights of a folder by their usual names. A destination is the
old one or the new one, complete, at every moment.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from bridge_core.checkpoint.checkpoint_writer import Saved, write_checkpoint
from bridge_core.checkpoint.choice import choose_file
from bridge_core.checkpoint.detect_format import open_file
from bridge_core.checkpoint.write_options import StrPath, WriteOptions, as_path, is_folder
from bridge_core.errors import UsageError
from bridge_core.io import SourceFile
from bridge_core.plugins import Registry, default_registry
from bridge_core.public import renamed
from bridge_core.state import FlatState, as_state, require_entry_path
from bridge_core.transfer import Progress

if TYPE_CHECKING:
    from bridge_core.formats import Format

__all__ = ["open_state", "save_state"]


def open_state(
    path: StrPath,
    *,
    format: str | None = None,
    layout: str | None = None,
    registry: Registry | None = None,
    follow_links: bool = False,
    entry: str | None = None,
) -> FlatState:
    """Open weights lazily; use the state as a context manager, or close it.

    Args:
        path: A file of any name, an index, or a folder (see `find_weights`). A file that is a part of a
            model, such as one shard, is opened with a note that says so.
        format: Name of the format; None to go by content.
        layout: Whose names and axes these are; None to take what the file says, or else the one framework
            whose names they look like.
        registry: The plugins; None for all that are installed.
        follow_links: Whether shards may be symbolic links that lead out of their folder.
        entry: The entry of the file to read, as ``"model_ema"`` or ``"ckpt.model_ema"``: of a torch file, a
            collection of a Flax tree, or what names of tensors begin with. None takes the usual one.

    Raises:
        BadInputError: The file is damaged, unsafe, or of no known format.
        SystemFailure: The system refuses.
        UsageError: No plugin provides the format, or there is no such entry.
    """
    require_entry_path(entry)
    registry = default_registry() if registry is None else registry
    chosen = registry.format(format) if format else None
    place = as_path(path)
    if is_folder(place):
        from bridge_core.checkpoint.folder_weights import choose_weights

        choice = choose_weights(place, format=format, layout=layout, registry=registry)
    else:
        choice = choose_file(place)
    used, state = open_file(choice.path, registry, chosen, follow_links=follow_links, entry=entry)
    known = {**state.metadata.provenance, "path": str(choice.path), "format": used.name}
    notes = (*choice.notes, *state.metadata.notes)
    opened = state.replace(metadata=state.metadata.with_(provenance=known, notes=notes))
    opened.layout = layout or _layout(state, used, registry)
    return opened


def _layout(state: FlatState, used: Format, registry: Registry) -> str | None:
    """Return the layout that a file records, or else that which its names, or its format, show."""
    if used.layout is None:
        return state.layout or registry.layout_of(state.specs())
    recorded = state.metadata.layers or state.metadata.tree_form
    if recorded or state.layout not in (None, used.layout):
        return state.layout or used.layout
    return registry.unless_neutral(used.layout, state.specs())


@renamed(beside="sidecar_files", stem="base_name")
def save_state(
    state: Mapping[Any, Any],
    path: StrPath,
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
) -> Saved:
    """Write a state to a file, or to a folder in Hugging Face's manner.

    A folder is written where ``max_shard_size`` is given, ``path`` ends with a slash, or is a folder
    already. Its files get the format's usual names: one file if all fits, else shards and an index. With
    ``overwrite`` an existing folder is replaced as one, so its inode changes: all files with usual names of
    weights, of any format and variant, are gone afterwards, and everything else in it is carried over.

    The destination may be the source itself, with ``overwrite``: the source stays readable until it is
    closed. It may not be one file of a sharded set that is read.

    Args:
        state: A FlatState, or a dict from tuple keys or dotted names to arrays.
        path: Where to; its folder must exist.
        format: Name of the format; None goes by the extension, or else by the state's layout.
        layout: Whose names and axes these are, for a plain mapping or a state without a layout: the name of
            a framework, or ``"neutral"``. `open_state` then knows it.
        max_shard_size: Bytes of tensors in a shard, or a text such as ``"5GB"``.
        overwrite: Whether to replace an existing destination.
        registry: The plugins; None for all that are installed.
        workers: Threads; None for the processors at hand, at most four.
        max_ram: Bytes of buffers in all; None for the default.
        progress: Called with `Progress`, one call at a time, from any thread.
        verify: Read every tensor again and compare checksums, before the destination is touched.
        sidecar_files: Name -> file that a folder gets a copy of, or its content; a single file has no place
            for it.
        base_name: First part of the names in a folder, in place of the format's own.

    Raises:
        BadInputError: A source is damaged, or the format cannot hold a tensor or a name.
        DestinationExists: The destination exists, and ``overwrite`` is off; or it is a part of the source.
        SystemFailure: Disk, permission or memory.
        UsageError: Options that make no sense, or the state is in another layout.
        VerificationError: What was written is not what was to be written.
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
    )
    registry = registry or default_registry()
    return write_checkpoint(_with_layout(state, layout, registry), path, options, registry)


def _with_layout(state: Mapping[Any, Any], layout: str | None, registry: Registry) -> FlatState:
    if layout is None:
        return as_state(state)
    if layout != "neutral":
        registry.framework(layout)
    if isinstance(state, FlatState) and state.layout not in (None, layout):
        raise UsageError(
            f"the state is in the layout of {state.layout}; layout={layout!r} was given.",
            hint="Leave the layout out, or convert the state first.",
        )
    return as_state(state, layout=layout)
