"""Which source a conversion in parts reads: its files, and the specs of its tensors."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bridge_core.formats import read_shard_index
from bridge_core.io import Location, RemotePath, open_location
from bridge_core.state import Key, TensorSpec
from bridge_core.work.digests import json_digest, specs_digest
from bridge_core.work.json_fields import Fields

__all__ = ["FileIdentity", "SourceIdentity", "identity_of_source"]


@dataclass(frozen=True)
class FileIdentity:
    """A file of the source, and what changes when it is written again.

    Args:
        name: Its path in the folder of the source, with slashes.
        size: Bytes.
        mtime_ns: When a local file was last written, in nanoseconds; None for a remote one.
        version: What the server of a remote file declares, such as an ETag; empty if nothing.
    """

    name: str
    size: int
    mtime_ns: int | None = None
    version: str = ""

    @classmethod
    def of(cls, place: Location, name: str) -> FileIdentity:
        """Return the present identity of a file."""
        if isinstance(place, RemotePath):
            entry = place.entry()
            size = entry.size if entry is not None else None
            return cls(name, size or 0, None, entry.version if entry is not None else "")
        status = place.stat()
        return cls(name, status.st_size, status.st_mtime_ns)

    def to_json(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {
            "name": self.name,
            "size": self.size,
            **({"mtime_ns": self.mtime_ns} if self.mtime_ns is not None else {}),
            **({"version": self.version} if self.version else {}),
        }


@dataclass(frozen=True)
class SourceIdentity:
    """Which source it is.

    Args:
        files: Its files, in their order.
        specs: SHA-256 of the keys, dtypes and shapes of its tensors.
    """

    files: tuple[FileIdentity, ...]
    specs: str

    @property
    def digest(self) -> str:
        """SHA-256 of all of it."""
        return json_digest(self.to_json())

    def to_json(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {"files": [file.to_json() for file in self.files], "specs": self.specs}

    @classmethod
    def of_json(cls, fields: Fields) -> SourceIdentity:
        """Return the identity that a document records.

        Raises:
            MalformedFile: A field is missing or of another type.
        """
        files = tuple(
            FileIdentity(
                file.text("name"),
                file.number("size"),
                file.optional_number("mtime_ns"),
                file.optional_text("version") or "",
            )
            for file in fields.objects("files")
        )
        return cls(files, fields.digest("specs"))

    def changes(self, now: SourceIdentity) -> list[str]:
        """Return what is different in the source now, a phrase for each file."""
        before = {file.name: file for file in self.files}
        after = {file.name: file for file in now.files}
        phrases = [f"{name} is missing" for name in before.keys() - after.keys()]
        phrases += [f"{name} is new" for name in after.keys() - before.keys()]
        for name in before.keys() & after.keys():
            if before[name].size != after[name].size:
                phrases.append(f"{name} has {after[name].size} bytes instead of {before[name].size}")
            elif before[name] != after[name]:
                phrases.append(f"{name} was written again")
        if not phrases and self.specs != now.specs:
            phrases.append("its tensors have other names, dtypes or shapes")
        return sorted(phrases)


def identity_of_source(
    place: Location, specs: Mapping[Key, TensorSpec], sidecar_files: Iterable[str] = ()
) -> SourceIdentity:
    """Return the identity of a source.

    Args:
        place: The file of weights, the index of a sharded set, or the folder of one checkpoint.
        specs: The specs of its tensors.
        sidecar_files: Names of files in its folder that are copied too.
    """
    files = dict(_files(place))
    folder = place if place.is_dir() else place.parent
    files.update((name, folder / name) for name in sidecar_files)
    return SourceIdentity(
        tuple(FileIdentity.of(each, name) for name, each in files.items()), specs_digest(specs)
    )


def _files(place: Location) -> Iterator[tuple[str, Location]]:
    if isinstance(place, Path) and place.is_dir():
        for path in sorted(path for path in place.rglob("*") if path.is_file()):
            yield path.relative_to(place).as_posix(), path
        return
    yield place.name, place
    if place.suffix == ".json":
        for name in _shards(place):
            yield name, place.parent / name


def _shards(index: Location) -> list[str]:
    """Return the names of the shards of an index; errors are those of opening the set."""
    with open_location(index) as file:
        return sorted({*read_shard_index(file).weight_map.values()})
