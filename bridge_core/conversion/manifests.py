"""Writes the manifest of a conversion that was written in one part."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

from bridge_core.checkpoint import (
    MANIFEST_NAME,
    Saved,
    checksum,
    destination_at,
    manifest_name,
    open_state,
)
from bridge_core.conversion.options import ConversionOptions
from bridge_core.conversion.prepared_work import plan_digest, source_identity, versions_of
from bridge_core.errors import UsageError, VerificationError
from bridge_core.io import Location, RemotePath, open_location, scheme_of, shown_url
from bridge_core.plan import Plan
from bridge_core.plugins import Guidance, Registry
from bridge_core.state import FlatState, Key
from bridge_core.transfer import Budget
from bridge_core.work import Manifest, SourceIdentity, WrittenFile, file_digest, specs_digest, tensor_sums

__all__ = ["refuse_manifest_of_folder_format", "write_manifest"]


def write_manifest(
    src: Any,
    source: FlatState,
    plan: Plan,
    known: Guidance,
    options: ConversionOptions,
    saved: Saved,
    sidecar_files: Iterable[Location],
    registry: Registry,
    *,
    is_folder: bool,
    budget: Budget,
) -> None:
    """Write the manifest next to what was written, whose files are read once more.

    Args:
        src: What the caller gave as the source.
        source: Its state.
        plan: The plan.
        known: What a model library adds.
        options: The options of the conversion.
        saved: What was written.
        sidecar_files: Files that were copied next to it.
        registry: The plugins.
        is_folder: Whether a folder was written, and not one file.
        budget: Threads and memory.

    Raises:
        VerificationError: A file is no longer what was written.
        SystemFailure: The system failed.
    """
    used = registry.format(saved.format)
    names, identity = _named_source(src, source)
    index = saved.files[-1] if len(saved.files) > 1 else None
    files = [
        _written_file(file, {} if file == index else saved.checksums, saved.format, registry, budget)
        if file != index
        else _other_file(file)
        for file in saved.files
    ]
    files += map(_other_file, sidecar_files)
    versions = versions_of(plan, source, known, used, registry, options)
    manifest = Manifest(names, identity, plan_digest(plan), versions, saved.format, tuple(files))
    first = saved.files[0]
    folder = destination_at(first.parent if isinstance(first, RemotePath) else str(first.parent), registry)
    text = manifest.to_text().encode()
    name = MANIFEST_NAME if is_folder else manifest_name(first.name)
    folder.put(name, lambda path: _write(path, text))


def refuse_manifest_of_folder_format(name: str) -> UsageError:
    """Return the error that the files of a checkpoint that is written as one are not recorded."""
    return UsageError(
        f"manifest= (--manifest) records single files, and the format {name} writes a checkpoint as one.",
        hint='Pass format="safetensors" (--format safetensors), or compare with: ckptbridge verify SRC DST.',
    )


def _write(path: Any, text: bytes) -> None:
    path.write_bytes(text)


def _named_source(src: Any, source: FlatState) -> tuple[str, SourceIdentity]:
    if isinstance(src, str | os.PathLike | RemotePath):
        place: Any = src
        if isinstance(src, str) and scheme_of(src):
            place = source.location
        text = shown_url(place.url) if isinstance(place, RemotePath) else str(place)
        return text, source_identity(source, place)
    return "", SourceIdentity((), specs_digest(source.specs()))


def _other_file(place: Location) -> WrittenFile:
    with open_location(place) as file:
        size = file.size
    return WrittenFile(place.name, size, file_digest(place))


def _written_file(
    place: Location, known: Mapping[Key, int], used: str, registry: Registry, budget: Budget
) -> WrittenFile:
    """Return what is recorded of a file of weights, whose tensors are compared with what was written."""
    with open_state(place, format=used, registry=registry) as state:
        sums = {key: checksum(state.tensor(key), budget) for key in state}
        differing = [key for key, crc in sums.items() if known.get(key, crc) != crc]
        if differing:
            raise VerificationError(
                "the file was changed after it was written.",
                path=str(place),
                key=differing[0],
                hint="Convert again, and let no other program write to the destination.",
            )
        tensors = tensor_sums(state, sums)
    other = _other_file(place)
    return WrittenFile(other.name, other.size, other.sha256, tensors)
