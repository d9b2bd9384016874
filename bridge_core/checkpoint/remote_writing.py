"""Writes a state to a URL: each file to a local temporary file, checked, then uploaded; the index last.

A store replaces one file in one step, and never several. So the files of a new set never get the names of
files that are there: until the index, or the only file of weights, is replaced, the folder holds the old
checkpoint, and from then on the new one. What belongs to the old one only is removed after that.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterable
from dataclasses import replace
from pathlib import Path

from bridge_core.checkpoint.destinations import Destination, LocalFolder, StoreFolder, sizes_at
from bridge_core.checkpoint.file_writing import FileWriter
from bridge_core.checkpoint.local_copies import upload_command
from bridge_core.checkpoint.locations import writable
from bridge_core.checkpoint.own_files import MANIFEST_NAME, WORK_FOLDER, manifest_name
from bridge_core.checkpoint.remote_changes import Changes
from bridge_core.checkpoint.saved import Saved
from bridge_core.checkpoint.shards import PlannedFile, PlannedFiles, plan_files, write_planned_file
from bridge_core.checkpoint.sidecar_files import checked_filler, fill_file
from bridge_core.checkpoint.write_checks import refuse_other_checkpoint
from bridge_core.checkpoint.write_options import USUAL_SHARD_SIZE, WriteOptions
from bridge_core.errors import (
    BridgeError,
    DestinationExists,
    NeedsLocalPath,
    RemoteFailure,
    VerificationError,
)
from bridge_core.formats import FolderFormat, Format
from bridge_core.io import (
    CommitsFolders,
    Location,
    RemotePath,
    scratch_folder,
    shown_url,
)
from bridge_core.messages import count, listed, log
from bridge_core.plugins import Registry
from bridge_core.state import FlatState, Key

__all__ = ["write_remote_checkpoint"]

Put = Callable[[str, Callable[[Path], None]], int]


def write_remote_checkpoint(
    state: FlatState,
    place: RemotePath,
    used: Format | FolderFormat,
    options: WriteOptions,
    registry: Registry,
) -> Saved:
    """Write a state to a file or a folder at a URL.

    Args:
        state: The state, as `checked_state` returns it.
        place: The destination.
        used: The format.
        options: The options of writing.
        registry: The plugins.

    Raises:
        AccessDenied, RemoteFailure: The server does not take it.
        DestinationExists: There are files and ``overwrite`` is off, or the source is read from there.
        NeedsLocalPath: The format's checkpoints are folders.
        SourceNotFound: The destination, such as a repository, does not exist.
        VerificationError: What was written differs from the state.
    """
    if isinstance(used, FolderFormat):
        command = upload_command(place)
        raise NeedsLocalPath(
            f"checkpoints of the format {used.name} are written by a library that needs a local folder.",
            path=str(place),
            hint="Write to a local folder, and upload it" + (f": {command}" if command else "."),
        )
    _refuse_own_source(state.location, place)
    is_folder = options.fills_folder(place)
    if is_folder and options.max_shard_size is None:  # the local disk needs room for one shard
        options = replace(options, max_shard_size=USUAL_SHARD_SIZE)
    writer = FileWriter(state, used, registry, options, uploads=True)
    if isinstance(place.system, CommitsFolders):
        return _commit(writer, place, place.system, is_folder=is_folder)
    return _write_folder(writer, place) if is_folder else _write_object(writer, place)


def _refuse_own_source(source: Location | None, destination: RemotePath) -> None:
    """Refuse to write to the URL that a source is read from, where no older version would remain.

    Args:
        source: Where the source is; None for one in memory.
        destination: Where it is written.

    Raises:
        DestinationExists: They are one file or folder, or the source is a file of the folder.
    """
    if not isinstance(source, RemotePath) or isinstance(destination.system, CommitsFolders):
        return  # a source that is read at a commit stays
    if _bare(destination.url) in (_bare(source.url), _bare(source.parent.url)):
        raise DestinationExists(
            "the source is read from the destination, whose files would be replaced while they are read.",
            path=str(destination),
            hint="Give the URL of another file or folder.",
        )


def _write_object(writer: FileWriter, place: RemotePath) -> Saved:
    """Write a single file, which the store replaces in one step."""
    entry = place.entry()
    if entry is not None and not writer.options.overwrite:
        raise _exists(place)
    if entry is not None and writer.state.is_part((place.url, entry.version)):
        _refuse_own_source(place, place)
    folder = StoreFolder(writable(place), place.parent.url)
    files = _Files(writer, folder)
    changes = Changes(folder)
    with changes.undone_on_failure():
        files.put(_only_file(writer, place.name), changes.add if entry is None else changes.replace_last)
    if entry is not None:
        _remove_old(folder, [manifest_name(place.name)])
    writer.meter.finish()
    return files.saved((place.name,), place.parent)


def _write_folder(writer: FileWriter, place: RemotePath) -> Saved:
    """Write one file or a sharded set, and the sidecar files."""
    from bridge_core.checkpoint.weight_files import is_weights_name

    options = writer.options
    folder = StoreFolder(writable(place), place.url)
    there = frozenset(folder.names())
    if there and not options.overwrite:
        raise _exists(place)
    refuse_other_checkpoint(place, options, writer.registry)
    planned = plan_files(writer.state, writer.format, options, taken=there)
    sidecar_files = _fillers(options)
    files = _Files(writer, folder)
    changes = Changes(folder)
    with changes.undone_on_failure():
        for name in sorted(sidecar_files.keys() - there):  # early, to see whether the store can be written
            changes.add(name, sidecar_files[name])
        for file in planned.files if planned.index_name is not None else ():
            files.put(file, changes.add)
        files.compare_sizes()
        for name in sorted(sidecar_files.keys() & there):
            changes.replace(name, sidecar_files[name])
        if planned.index_name is not None:
            put = changes.replace if planned.index_name in there else changes.add
            files.put_index(planned, put)
        else:
            only = planned.files[0]
            files.put(only, changes.replace_last if only.name in there else changes.add)
    weights = is_weights_name(writer.registry.formats.values())
    old = [name for name in there if weights(name) and name not in planned.names]
    _remove_old(folder, [*old, *({MANIFEST_NAME} & there)])
    unfinished = folder.folder(WORK_FOLDER)
    _remove_old(unfinished, unfinished.names() if there else ())
    writer.meter.finish()
    return files.saved(planned.names, place)


def _commit(writer: FileWriter, place: RemotePath, system: CommitsFolders, *, is_folder: bool) -> Saved:
    """Write all files to a local folder, and upload them in one step."""
    from bridge_core.checkpoint.weight_files import is_weights_name

    options = writer.options
    RemotePath.pinned(system, place.url)  # a missing repository is refused before anything is written
    target = place if is_folder else place.parent
    there = frozenset(sizes_at(system, target.url))
    only = _only_file(writer, place.name)
    planned = plan_files(writer.state, writer.format, options) if is_folder else PlannedFiles((only,))
    sidecar_files = _fillers(options)
    weights = is_weights_name(writer.registry.formats.values())
    old = sorted(name for name in there if is_folder and weights(name))
    if not options.overwrite and there & {*old, *planned.names, *sidecar_files}:
        raise _exists(place)
    with scratch_folder() as local:
        files = _Files(writer, LocalFolder(local), shown=target)
        for file in planned.files:
            files.put(file)
        if planned.index_name is not None:
            files.put_index(planned)
        for name, fill in sidecar_files.items():
            files.folder.put(name, fill)
        names = (*planned.names, *sidecar_files)
        log("checkpoint", "uploading %d files to %s", len(names), target)
        outdated = (*old, *({MANIFEST_NAME} & there if is_folder else ()))
        removed = tuple(name for name in outdated if name not in planned.names)
        url = system.upload_folder(target.url, local, names, *([removed] if removed else []))
    writer.meter.finish()
    return files.saved(planned.names, RemotePath(system, url))


class _Files:
    """The files of one state, on their way to a folder."""

    def __init__(self, writer: FileWriter, folder: Destination, shown: RemotePath | None = None) -> None:
        self.folder = folder
        self._writer = writer
        self._shown = shown
        self._sizes: dict[str, int] = {}
        self._checksums: dict[Key, int] = {}

    def put(self, file: PlannedFile, put: Put | None = None) -> None:
        """Write a file of tensors, check it, and hand it over.

        Args:
            file: The file.
            put: How it is handed over; None for the folder's `put`.
        """
        writer = self._writer

        def fill(path: Path) -> None:
            saved = write_planned_file(
                writer.state,
                file,
                path,
                writer.format,
                writer.options,
                writer.registry,
                destination=self._shown / file.name if self._shown else None,
                writer=writer,
            )
            self._checksums.update(saved.checksums)
            log("checkpoint", "uploading %s to %s: %d bytes", file.name, self.folder.name, saved.total_bytes)

        self._sizes[file.name] = (put or self.folder.put)(file.name, fill)
        writer.meter.uploaded(file.nbytes)

    def put_index(self, planned: PlannedFiles, put: Put | None = None) -> None:
        """Write the index and hand it over."""
        assert planned.index_name is not None
        fill = functools.partial(fill_file, planned.index_text or b"")
        self._sizes[planned.index_name] = (put or self.folder.put)(planned.index_name, fill)

    def compare_sizes(self) -> None:
        """Compare what the store lists with what was written.

        Raises:
            VerificationError: A file is missing or has another size.
        """
        if not self._sizes:
            return
        listed_sizes = self.folder.sizes()
        wrong = [name for name, size in self._sizes.items() if listed_sizes.get(name) != size]
        if wrong:
            raise VerificationError(
                f"the store lists {count(len(wrong), 'file')} with another size than was uploaded, or not: "
                f"{listed(wrong)}.",
                path=self.folder.name,
                hint="Convert again.",
            )

    def saved(self, names: Iterable[str], folder: RemotePath) -> Saved:
        """Return what was written."""
        writer = self._writer
        files = tuple(folder / name for name in names)
        total = sum(self._sizes.values())
        return Saved(files, writer.format.name, total, self._checksums, writer.overflows)


def _only_file(writer: FileWriter, name: str) -> PlannedFile:
    return PlannedFile(name, tuple(writer.state), writer.state.nbytes, is_shard=False)


def _fillers(options: WriteOptions) -> dict[str, Callable[[Path], None]]:
    """Return for each sidecar file how it is written to an empty local file, and compared."""
    return {
        name: checked_filler(source, read_again=options.verify)
        for name, source in options.sidecar_files.items()
    }


def _remove_old(folder: StoreFolder, names: Collection[str]) -> None:
    """Remove the weights that were replaced, indexes first, so that none names a file that is gone."""
    left: dict[str, BridgeError] = {}
    for name in sorted(names, key=lambda name: (not name.endswith(".json"), name)):
        try:
            folder.remove(name)
        except BridgeError as err:
            left[name] = err
    if left:
        cause = next(iter(left.values()))
        raise RemoteFailure(
            f"the new checkpoint is complete, but {count(len(left), 'file')} of the old one could not be "
            f"removed: {listed(left)}: {cause.message}",
            path=folder.name,
            hint="Remove these files.",
        ) from None


def _exists(place: RemotePath) -> DestinationExists:
    return DestinationExists(
        "the destination exists.", path=str(place), hint="Pass overwrite=True (--overwrite) to replace it."
    )


def _bare(url: str) -> str:
    """Return a URL as it names a file, without credentials, a query and a slash at its end."""
    return shown_url(url).rstrip("/")
