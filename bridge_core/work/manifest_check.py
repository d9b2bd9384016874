"""Compares a checkpoint with its manifest, and names what is damaged: a tensor, a header or a file."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from bridge_core.checkpoint import MANIFEST_NAME, checksum, is_weights_name, locate, manifest_name, open_state
from bridge_core.errors import BridgeError, NeedsLocalPath, SourceNotFound, SystemFailure
from bridge_core.io import Location, names_in, open_location
from bridge_core.messages import count, listed
from bridge_core.plugins import Registry, given_registry
from bridge_core.state import FlatState, join_key
from bridge_core.transfer import Budget, Progress, parse_size, run_jobs
from bridge_core.work.digests import file_digest
from bridge_core.work.manifest import Manifest, read_manifest
from bridge_core.work.written_file import WrittenFile

__all__ = ["Damage", "ManifestCheck", "verify_manifest"]


@dataclass(frozen=True)
class Damage:
    """A file that is not what the manifest records.

    Args:
        file: Its name.
        problem: ``"missing"``, ``"extra"``, ``"size"``, ``"tensors"`` (values differ), ``"header"``
            (tensors cannot be read, or have other names, dtypes or shapes) or ``"content"`` (bytes differ
            that are of no tensor).
        text: What is wrong, as a sentence.
        tensors: Names of the tensors whose values differ.
    """

    file: str
    problem: str
    text: str
    tensors: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {
            "file": self.file,
            "problem": self.problem,
            "message": self.text,
            "tensors": list(self.tensors),
        }


@dataclass(frozen=True)
class ManifestCheck:
    """What comparing a checkpoint with its manifest gave.

    Args:
        path: The manifest.
        files: How many files it records.
        tensors: How many tensors it records.
        total_bytes: Size of these files together.
        damage: What differs; nothing if all is as it was written.
    """

    path: str
    files: int
    tensors: int
    total_bytes: int
    damage: tuple[Damage, ...]

    @property
    def intact(self) -> bool:
        """Whether everything is as it was written."""
        return not self.damage

    def to_json(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {
            "manifest": self.path,
            "intact": self.intact,
            "files": self.files,
            "tensors": self.tensors,
            "total_bytes": self.total_bytes,
            "damage": [one.to_json() for one in self.damage],
        }


def verify_manifest(
    path: Any,
    *,
    workers: int | None = None,
    max_ram: int | str | None = None,
    progress: Callable[[Progress], None] | None = None,
    registry: Registry | None = None,
) -> ManifestCheck:
    """Compare a checkpoint with the manifest that was written with it, without its source.

    Every byte of every file is read. Where a file differs, its tensors are compared one by one. Files that
    the manifest does not record are ignored, unless they have the usual name of weights.

    Args:
        path: Path or URL of the folder, of a file or index in it, or of the manifest.
        workers: Number of threads; None for the available processors, at most four.
        max_ram: Largest bytes of all buffers together, or a text such as ``"512MB"``; None for 256 MiB.
        progress: Called as files are compared.
        registry: The plugins; None for all that are installed.

    Raises:
        SourceNotFound: The manifest does not exist.
        MalformedFile: The manifest is damaged.
        SystemFailure: The system failed to read.
        UsageError: A value is not valid.
    """
    registry = given_registry(registry)
    budget = Budget(workers, None if max_ram is None else parse_size(max_ram))
    place = _manifest_of(locate(path, registry))
    manifest = read_manifest(place.read_bytes(), path=str(place))
    folder = place.parent
    check = _Check(manifest, folder, budget, registry, progress)
    results = run_jobs(check.of_file, manifest.files, budget.threads, stop=check.stop)
    damage = [one for one in results if one is not None]
    if place.name == MANIFEST_NAME:
        damage += _extra_files(manifest, folder, registry)
    return ManifestCheck(
        str(place),
        len(manifest.files),
        sum(len(file.tensors) for file in manifest.files),
        sum(file.size for file in manifest.files),
        tuple(damage),
    )


def _manifest_of(place: Location) -> Location:
    """Return the manifest of what a user names.

    Raises:
        SourceNotFound: It has none.
    """
    if place.is_dir():
        ways = [place / MANIFEST_NAME]
    elif place.name == MANIFEST_NAME or place.name.endswith(manifest_name("")):
        ways = [place]
    else:
        ways = [place.with_name(manifest_name(place.name)), place.with_name(MANIFEST_NAME)]
    for way in ways:
        if way.is_file():
            return way
    raise SourceNotFound(
        f"there is no manifest: expected {listed([way.name for way in ways])}.",
        path=str(place),
        hint="When converting, pass manifest=True (--manifest) to write one. Without one compare "
        "with the source: ckptbridge verify SRC DST.",
    )


def _extra_files(manifest: Manifest, folder: Location, registry: Registry) -> list[Damage]:
    weights = is_weights_name(registry.formats.values())
    known = {file.name for file in manifest.files}
    try:
        names = names_in(folder)
    except NeedsLocalPath:  # the server does not list folders
        return []
    return [
        Damage(name, "extra", f"{name} has the name of weights, and is not in the manifest.")
        for name in names
        if name not in known and weights(name)
    ]


class _Check:
    """Compares the files of a manifest, from several threads.

    Attributes:
        stop: Ends the work when it is set.
    """

    def __init__(
        self,
        manifest: Manifest,
        folder: Location,
        budget: Budget,
        registry: Registry,
        progress: Callable[[Progress], None] | None,
    ) -> None:
        self._format = manifest.format
        self._folder = folder
        self._budget = budget
        self._registry = registry
        self._progress = progress
        self._total = sum(file.size for file in manifest.files)
        self._done = 0
        self._lock = threading.Lock()
        self.stop = threading.Event()

    def _report(self, file: WrittenFile, nbytes: int) -> None:
        with self._lock:
            self._done += nbytes
            if self._progress is not None:
                self._progress(Progress(self._done, self._total, (file.name,), "comparing"))

    def of_file(self, file: WrittenFile) -> Damage | None:
        """Return what is wrong with one file; None if nothing is."""
        place = self._folder / file.name
        if not place.is_file():
            return Damage(file.name, "missing", f"{file.name} is missing.")
        with open_location(place) as opened:
            size = opened.size
        if size != file.size:
            text = f"{file.name} has {size} bytes instead of {file.size}."
            return Damage(file.name, "size", text)
        report = functools.partial(self._report, file)
        if file_digest(place, stop=self.stop, report=report) == file.sha256:
            return None
        if not file.tensors:
            text = f"{file.name} differs: its SHA-256 is not that of the manifest."
            return Damage(file.name, "content", text)
        return self._damage_in(file, place)

    def _damage_in(self, file: WrittenFile, place: Location) -> Damage:
        """Return which tensors of a file differ, or that its header does."""
        try:
            with open_state(place, format=self._format, registry=self._registry) as state:
                return self._differing(file, state)
        except SystemFailure:
            raise
        except BridgeError as err:
            text = f"the header of {file.name} is damaged: {err.message}"
            return Damage(file.name, "header", text)

    def _differing(self, file: WrittenFile, state: FlatState) -> Damage:
        names = {join_key(key, escape=True): key for key in state}
        others = names.keys() ^ file.tensors.keys()
        for name in names.keys() & file.tensors.keys():
            spec, recorded = state.spec(names[name]), file.tensors[name]
            if (spec.dtype.name, spec.shape) != (recorded.dtype, recorded.shape):
                others.add(name)
        if others:
            text = (
                f"the header of {file.name} is damaged: {count(len(others), 'tensor')} "
                f"{'has' if len(others) == 1 else 'have'} another name, dtype or shape: "
                f"{listed(sorted(others))}."
            )
            return Damage(file.name, "header", text)
        differing = [name for name in file.tensors if self._differs(state, names[name], file, name)]
        if differing:
            text = (
                f"{file.name}: the values of {count(len(differing), 'tensor')} differ: {listed(differing)}."
            )
            return Damage(file.name, "tensors", text, tuple(differing))
        text = f"the header or the padding of {file.name} differs; the values of its tensors are right."
        return Damage(file.name, "header", text)

    def _differs(self, state: FlatState, key: Any, file: WrittenFile, name: str) -> bool:
        try:
            return checksum(state.tensor(key), self._budget, self.stop) != file.tensors[name].crc32
        except SystemFailure:
            raise
        except BridgeError:  # a format may have checksums of its own, or values that are not valid
            return True
