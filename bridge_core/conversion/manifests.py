"""Writes the manifest of a conversion that was written in one part."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable

from bridge_core.checkpoint import (
    MANIFEST_NAME,
    Saved,
    WriteOptions,
    checked_filler,
    checksum,
    chosen_format,
    destination_at,
    manifest_name,
    open_state,
)
from bridge_core.conversion.prepared_work import PlannedConversion, source_identity
from bridge_core.errors import NeedsLocalPath, UsageError, VerificationError
from bridge_core.formats import FolderFormat
from bridge_core.io import CommitsFolders, Location, RemotePath
from bridge_core.plugins import Registry
from bridge_core.state import FlatState, Key
from bridge_core.transfer import Budget, run_jobs
from bridge_core.work import Manifest, SourceIdentity, WrittenFile, specs_digest, tensor_sums

__all__ = ["refuse_without_files", "write_manifest"]


def refuse_without_files(
    destination: str | os.PathLike[str] | RemotePath,
    writing: WriteOptions,
    registry: Registry,
    *,
    layout: str | None,
) -> None:
    """Refuse a manifest of a format that writes a checkpoint as one, before anything is written.

    Args:
        destination: The destination.
        writing: The options of writing.
        registry: The plugins.
        layout: The layout of what is written.

    Raises:
        UsageError: The format is such a one.
        NeedsLocalPath: The files are uploaded in one step.
    """
    if isinstance(destination, RemotePath) and isinstance(destination.system, CommitsFolders):
        raise NeedsLocalPath(
            "manifest=True (--manifest) is not possible where all files are uploaded in one step.",
            path=str(destination),
            hint="Write to a local folder with a manifest, and upload that folder.",
        )
    used = chosen_format(destination, writing, registry, layout=layout)
    if isinstance(used, FolderFormat):
        raise UsageError(
            f"manifest=True (--manifest) records single files, and the format {used.name} writes a "
            "checkpoint as one.",
            hint='Pass format="safetensors" (--format safetensors), or compare with the source: ckptbridge '
            "verify SRC DST.",
        )


def write_manifest(
    planned: PlannedConversion,
    saved: Saved,
    sidecar_files: Iterable[Location],
    registry: Registry,
    *,
    is_folder: bool,
    budget: Budget,
) -> None:
    """Write the manifest next to what was written, whose files are read once more.

    Args:
        planned: What was converted.
        saved: What was written.
        sidecar_files: Files that were copied next to it.
        registry: The plugins.
        is_folder: Whether a folder was written, and not one file.
        budget: Threads and memory.

    Raises:
        VerificationError: A file is no longer what was written.
        SystemFailure: The system failed.
    """
    used = registry.any_format(saved.format)
    *weights, last = map(_afresh, saved.files)
    # The index of a sharded set has no tensors.
    with_tensors = weights or [last]
    files = [_written_file(file, saved, registry, budget) for file in with_tensors]
    files += map(WrittenFile.of, (*([last] if weights else []), *map(_afresh, sidecar_files)))
    text, identity = _named_source(planned.source)
    versions = planned.versions(used, registry)
    manifest = Manifest(text, identity, planned.digest(), versions, saved.format, tuple(files))
    folder = destination_at(last.parent, registry)
    name = MANIFEST_NAME if is_folder else manifest_name(last.name)
    document = manifest.to_text().encode()
    folder.put(name, checked_filler(document, read_again=True))


def _named_source(source: FlatState) -> tuple[str, SourceIdentity]:
    """Return what a manifest records of a source; nothing but its tensors if it was in memory."""
    if source.location is None:
        return "", SourceIdentity((), specs_digest(source.specs()))
    return str(source.location), source_identity(source)


def _afresh(place: Location) -> Location:
    """Return a place of which nothing is remembered that its server said before it was written."""
    return RemotePath(place.system, place.url) if isinstance(place, RemotePath) else place


def _written_file(place: Location, saved: Saved, registry: Registry, budget: Budget) -> WrittenFile:
    """Return what is recorded of a file of weights, whose tensors are compared with what was written."""
    with open_state(place, format=saved.format, registry=registry) as state:
        stop, keys = threading.Event(), list(state)

        def sum_of(key: Key) -> int:
            return checksum(state.tensor(key), budget, stop)

        sums = dict(zip(keys, run_jobs(sum_of, keys, budget.threads, stop=stop), strict=True))
        differing = [key for key, crc in sums.items() if saved.checksums.get(key, crc) != crc]
        if differing:
            raise VerificationError(
                "the file was changed after it was written.",
                path=str(place),
                key=differing[0],
                hint="Convert again, and let no other program write to the destination.",
            )
        tensors = tensor_sums(state, sums)
    return WrittenFile.of(place, tensors)
