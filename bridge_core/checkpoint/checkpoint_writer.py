"""Writes a state to a file, or to a folder of shards, and checks what was written before it appears.

`bridge_core.io.atomic_write` decides when a destination changes; this module decides what is in it.
"""

from __future__ import annotations

from pathlib import Path

from bridge_core.checkpoint.destination_errors import shown_as
from bridge_core.checkpoint.file_writing import FileWriter
from bridge_core.checkpoint.locations import as_destined
from bridge_core.checkpoint.own_files import describes_old_weights, remove_manifest_of
from bridge_core.checkpoint.saved import Saved
from bridge_core.checkpoint.shards import plan_files
from bridge_core.checkpoint.write_checks import checked_state, refuse_other_checkpoint
from bridge_core.checkpoint.write_options import Destined, WriteOptions, as_location
from bridge_core.errors import DestinationExists
from bridge_core.formats import FolderFormat
from bridge_core.io import RemotePath, replacing_file, replacing_folder
from bridge_core.messages import log
from bridge_core.plugins import Registry
from bridge_core.state import FlatState, Key

__all__ = ["write_checkpoint"]


def write_checkpoint(state: FlatState, path: Destined, options: WriteOptions, registry: Registry) -> Saved:
    """Write a state to a file or a folder; errors as in `save_state`."""
    path = as_destined(path, registry)
    destination = as_location(path)
    state, used = checked_state(state, path, options, registry)
    log("checkpoint", "writing %s as %s: %d bytes", destination, used.name, state.nbytes)
    if isinstance(destination, RemotePath):
        from bridge_core.checkpoint.remote_writing import write_remote_checkpoint

        return write_remote_checkpoint(state, destination, used, options, registry)
    if isinstance(used, FolderFormat):
        from bridge_core.checkpoint.folder_writing import write_folder_checkpoint

        return write_folder_checkpoint(state, destination, used, options, registry)
    writer = FileWriter(state, used, registry, options)
    if options.fills_folder(path):
        refuse_other_checkpoint(destination, options, registry)
        return _write_folder(writer, destination)
    _refuse_part(state, destination)
    return _write_file(writer, destination)


def _refuse_part(state: FlatState, destination: Path) -> None:
    """Refuse to replace one of the shards that are read, which would break their set."""
    try:
        status = destination.stat()
    except (OSError, ValueError):  # the writer reports a path that cannot be used
        return
    if state.is_part((status.st_dev, status.st_ino)):
        raise DestinationExists(
            "the destination is one of the shards that the source is read from; replacing it would break the "
            "set.",
            path=destination,
            hint="Give another destination, or the folder itself to replace all its shards.",
        )


def _write_file(writer: FileWriter, destination: Path) -> Saved:
    sums: dict[Key, int] = {}
    size = 0

    def check(temporary: Path) -> None:
        nonlocal size
        with shown_as(temporary, destination):
            writer.check(writer.state, temporary, sums)
            size = temporary.stat().st_size

    with replacing_file(destination, overwrite=writer.options.overwrite, check=check) as temporary:
        with shown_as(temporary, destination):
            sums.update(writer.fill(writer.state, temporary, destination))
        writer.meter.finish()
    remove_manifest_of(destination)
    return Saved((destination,), writer.format.name, size, sums, writer.overflows)


def _write_folder(writer: FileWriter, destination: Path) -> Saved:
    """Write one file or a sharded set, and the sidecar files."""
    from bridge_core.checkpoint.sidecar_files import check_copy, copy_file, create_file
    from bridge_core.checkpoint.weight_files import is_weights_name

    options, state = writer.options, writer.state
    planned = plan_files(state, writer.format, options)
    sidecar_files = options.sidecar_files
    sums: dict[Key, int] = {}
    total = 0

    def check(temporary: Path) -> None:
        nonlocal total
        with shown_as(temporary, destination):
            writer.check(state, temporary / planned.names[-1], sums)
            for name, source in sidecar_files.items():
                check_copy(source, temporary / name, read_again=options.verify)
            total = sum((temporary / name).stat().st_size for name in planned.names)

    weights = is_weights_name(writer.registry.formats.values())
    with replacing_folder(
        destination,
        overwrite=options.overwrite,
        check=check,
        keep=lambda entry: (
            not (
                describes_old_weights(entry.name)
                or (not entry.is_dir() and (weights(entry.name) or entry.name in sidecar_files))
            )
        ),
    ) as temporary:
        with shown_as(temporary, destination):
            for file in planned.files:
                create_file(temporary / file.name, b"")
                part = file.part_of(state)
                sums.update(writer.fill(part, temporary / file.name, destination / file.name))
            if planned.index_name is not None:
                create_file(temporary / planned.index_name, planned.index_text or b"")
            for name, source in sidecar_files.items():
                copy_file(source, temporary / name)
        writer.meter.finish()
    files = tuple(destination / name for name in planned.names)
    return Saved(files, writer.format.name, total, sums, writer.overflows)
