"""Writing states to files and folders, and proving that what was written is what was meant.

`bridge_core.output` decides when a destination changes; this module decides what stands in it.
"""

from __future__ import annotations

import contextlib
import functools
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from bridge_core.blocks import ScratchPool, scratch_bytes
from bridge_core.budget import Budget, Progress
from bridge_core.crew import work_off
from bridge_core.discovery import is_weights_name
from bridge_core.errors import (
    BridgeError,
    ConversionError,
    LimitExceeded,
    SystemFailure,
    UsageError,
    VerificationError,
)
from bridge_core.execute import FileTarget, checksum
from bridge_core.files import SourceFile
from bridge_core.formats.sharded import index_text, listed, partition, shard_state
from bridge_core.interfaces import Format, ShardNames
from bridge_core.keys import Key, join_key
from bridge_core.opening import open_file
from bridge_core.output import replacing_file, replacing_folder, write_all
from bridge_core.plugins import Registry, default_registry
from bridge_core.state import FlatState
from bridge_core.transpose import kernel_for

__all__ = ["Meter", "Saved", "Writer", "check_written"]

_BLOCK = 1 << 20

UNLIMITED = 1 << 62
"""Bytes of a shard where nobody set a limit."""


@dataclass(frozen=True)
class Saved:
    """What `save_state` wrote.

    Args:
        files: All files, the index last.
        format: Name of their format.
        total_bytes: Their size in all.
        checksums: Key -> CRC-32 of the tensor's little-endian row-major bytes, as they were written, where
            it was taken: not without verification, and not of tensors that the system copied whole. Tied
            keys whose values stand once have one entry.
    """

    files: tuple[Path, ...]
    format: str
    total_bytes: int
    checksums: Mapping[Key, int]


class Meter:
    """Turns the workers' reports into one monotonic count, one call at a time.

    Args:
        state: What is written.
        progress: The caller's function.
        verify: Whether every tensor is read again, which counts like writing it.
    """

    def __init__(
        self, state: FlatState, progress: Callable[[Progress], None] | None, *, verify: bool = False
    ) -> None:
        ties = state.metadata.ties
        specs = state.specs()
        self._to_write = sum(spec.nbytes for key, spec in specs.items() if key not in ties)
        self._total = self._to_write + (sum(spec.nbytes for spec in specs.values()) if verify else 0)
        self._done = 0
        self._progress = progress
        self._last: Key = ()
        self._lock = threading.Lock()

    def add(self, nbytes: int, key: Key) -> None:
        """Count bytes that were written."""
        # Formats may write tied tensors twice, or packed: the total is the tensors' own.
        self._count(nbytes, key, self._to_write, "writing")

    def verified(self, nbytes: int, key: Key) -> None:
        """Count bytes that were read again."""
        self._count(nbytes, key, self._total, "verifying")

    def finish(self) -> None:
        """Report everything as written, where packing wrote less."""
        if self._done < self._to_write:
            self.add(self._to_write - self._done, self._last)

    def _count(self, nbytes: int, key: Key, limit: int, phase: str) -> None:
        with self._lock:
            self._done = max(self._done, min(self._done + nbytes, limit))
            self._last = key
            if self._progress is not None:
                self._progress(Progress(self._done, self._total, key, phase))


@dataclass(frozen=True)
class Writer:
    """One state on its way to one destination.

    Args:
        state: What to write.
        format: How.
        registry: The plugins.
        budget: Threads and memory.
        meter: Counts the bytes.
        verify: Whether to read every tensor again.
        beside: Name -> file that a folder gets a copy of, or its content.
        stem: First part of the names in a folder; None for the format's own.
    """

    state: FlatState
    format: Format
    registry: Registry
    budget: Budget
    meter: Meter
    verify: bool
    beside: Mapping[str, SourceFile | bytes] = field(default_factory=dict)
    stem: str | None = None

    @functools.cached_property
    def pool(self) -> ScratchPool:
        """Scratch memory for all the files, as much as the largest block needs."""
        needs = (scratch_bytes(tensor, self.budget.block) for tensor in self.state.tensors().values())
        return ScratchPool(max(needs, default=0), kernel_for(self.state.nbytes))

    def write_file(self, destination: Path, *, overwrite: bool) -> Saved:
        """Write one file; errors as in `save_state`."""
        sums: dict[Key, int] = {}
        size = 0

        def check(temporary: Path) -> None:
            nonlocal size
            with _shown_as(temporary, destination):
                self._check(temporary, sums)
                size = temporary.stat().st_size

        with replacing_file(destination, overwrite=overwrite, check=check) as temporary:
            with _shown_as(temporary, destination):
                sums.update(self._fill(self.state, temporary))
            self.meter.finish()
        return Saved((destination,), self.format.name, size, sums)

    def write_folder(self, destination: Path, limit: int, *, overwrite: bool) -> Saved:
        """Write one file or a sharded set into a folder; errors as in `save_state`."""
        names = self.format.names
        if names is None:
            raise UsageError(
                f"format {self.format.name} has no usual file names, so it cannot fill a folder.",
                hint="Give a file name and no shard size.",
            )
        names = names if self.stem is None else names.with_stem(self.stem)
        groups = partition(self.state, limit, names)
        sums: dict[Key, int] = {}
        written: list[str] = []
        total = 0

        def check(temporary: Path) -> None:
            nonlocal total
            with _shown_as(temporary, destination):
                self._check(temporary / written[-1], sums)
                self._check_beside(temporary)
                total = sum((temporary / name).stat().st_size for name in written)

        weights = is_weights_name(self.registry.formats.values())
        with replacing_folder(
            destination,
            overwrite=overwrite,
            check=check,
            keep=lambda entry: entry.is_dir() or not (weights(entry.name) or entry.name in self.beside),
        ) as temporary:
            with _shown_as(temporary, destination):
                for name, data in self._parts(groups, names):
                    written.append(name)
                    _create(temporary / name, data if isinstance(data, bytes) else b"")
                    if isinstance(data, FlatState):
                        sums.update(self._fill(data, temporary / name))
                for name, source in self.beside.items():
                    _copy(source, temporary / name)
            self.meter.finish()
        files = tuple(destination / name for name in written)
        return Saved(files, self.format.name, total, sums)

    def _parts(self, groups: list[list[Key]], names: ShardNames) -> Iterator[tuple[str, FlatState | bytes]]:
        """Yield the files of a folder: their names, and the tensors or the text that they hold."""
        if len(groups) == 1:
            yield names.single, self.state
            return
        files: dict[Key, str] = {}
        for number, keys in enumerate(groups, 1):
            name = names.shard.format(index=number, count=len(groups))
            files.update(dict.fromkeys(keys, name))
            if number == 1:
                index_text(self.state, dict.fromkeys(self.state, name), names)  # refuses names, early
            yield name, shard_state(self.state, keys)
        yield names.index, index_text(self.state, files, names)

    def _fill(self, state: FlatState, path: Path) -> Mapping[Key, int]:
        target = FileTarget(path, self.budget, self.meter.add, sums=self.verify, pool=self.pool)
        try:
            self.format.write(state, target)
        except MemoryError as err:
            raise LimitExceeded("writing needs more memory than there is.", path=path) from err
        except OSError as err:
            raise SystemFailure(f"writing failed: {err.strerror or err}.", path=path) from err
        return target.checksums

    def _check(self, path: Path, sums: Mapping[Key, int]) -> None:
        check_written(
            path,
            self.state,
            self.format,
            registry=self.registry,
            checksums=sums if self.verify else None,
            budget=self.budget,
            report=self.meter.verified,
        )
        self.state.check_unchanged()

    def _check_beside(self, folder: Path) -> None:
        for name, source in self.beside.items():
            if self.verify and not _same_bytes(source, folder / name):
                raise VerificationError("the bytes read again differ from the source's.", path=folder / name)
            if isinstance(source, SourceFile):
                source.check_unchanged()


def check_written(
    path: Path,
    state: FlatState,
    used: Format,
    *,
    registry: Registry | None = None,
    checksums: Mapping[Key, int] | None = None,
    budget: Budget | None = None,
    report: Callable[[int, Key], None] | None = None,
) -> None:
    """Open what was written, and prove that it holds the state.

    Args:
        path: The file or index.
        state: What was to be written.
        used: Its format.
        registry: The plugins; None for all that are installed.
        checksums: CRC-32 of tensors as they were written; None compares names, shapes, dtypes and ties
            alone. Tensors that have none here are read from the state again.
        budget: Threads and memory.
        report: Called with (bytes, key) from any worker as values are compared.

    Raises:
        VerificationError: It cannot be opened again, or holds something else.
        SystemFailure: The system failed to read.
    """
    registry = default_registry() if registry is None else registry
    budget = budget or Budget()
    try:
        with open_file(path, registry, used)[1] as written:
            _compare_specs(written, state, path)
            if used.capabilities.metadata:
                _compare_ties(written, state, path)
            if checksums is not None:
                _compare_values(written, state, checksums, budget, path, report)
    except (ConversionError, SystemFailure, LimitExceeded):
        raise
    except BridgeError as err:
        raise VerificationError(f"what was written cannot be read again: {err.message}", path=path) from err


def _compare_specs(written: FlatState, state: FlatState, path: Path) -> None:
    wanted, found = state.specs(), written.specs()
    problems = []
    for what, keys in (
        ("lacks", wanted.keys() - found.keys()),
        ("has unasked", found.keys() - wanted.keys()),
        (
            "has with another shape or dtype",
            {k for k in wanted.keys() & found.keys() if wanted[k] != found[k]},
        ),
    ):
        if keys:
            problems.append(f"{what} {listed(map(join_key, sorted(keys)))}")
    if problems:
        raise VerificationError(f"the file as written {'; '.join(problems)}.", path=path)


def _compare_ties(written: FlatState, state: FlatState, path: Path) -> None:
    wanted = {key: kept for key, kept in state.metadata.ties.items() if key in state and kept in state}
    lost = [key for key in wanted if _root(key, written) != _root(wanted[key], written)]
    if lost:
        raise VerificationError(f"the file as written does not tie {listed(map(join_key, lost))}.", path=path)


def _root(key: Key, state: FlatState) -> Key:
    seen = {key}
    while (kept := state.metadata.ties.get(key)) is not None and kept not in seen:
        key = kept
        seen.add(key)
    return key


def _compare_values(
    written: FlatState,
    state: FlatState,
    checksums: Mapping[Key, int],
    budget: Budget,
    path: Path,
    report: Callable[[int, Key], None] | None,
) -> None:
    stop = threading.Event()

    def differs(key: Key) -> bool:
        wanted = checksums.get(key)
        if wanted is None:
            wanted = checksums.get(_root(key, state))
        if wanted is None:
            wanted = checksum(state.tensor(key), budget, stop)
        found = checksum(written.tensor(key), budget, stop)
        if report is not None:
            report(state.spec(key).nbytes, key)
        return found != wanted

    found = work_off(differs, state, budget.threads, stop=stop)
    wrong = [key for key, bad in zip(state, found, strict=True) if bad]
    if wrong:
        raise VerificationError(f"the values read again differ in {listed(map(join_key, wrong))}.", path=path)


def _copy(source: SourceFile | bytes, path: Path) -> None:
    """Copy a file in blocks, or write a content.

    Raises:
        SystemFailure: Writing failed.
    """
    if isinstance(source, bytes):
        _create(path, source)
        return
    _create(path, b"")
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        for start in range(0, source.size, _BLOCK):
            block = source.read(start, min(_BLOCK, source.size - start))
            write_all(fd, block, start)
    except OSError as err:
        raise SystemFailure(f"writing failed: {err.strerror or err}.", path=path) from err
    finally:
        os.close(fd)


def _same_bytes(source: SourceFile | bytes, path: Path) -> bool:
    if isinstance(source, bytes):
        return path.read_bytes() == source
    with SourceFile(path) as copy:
        if copy.size != source.size:
            return False
        blocks = ((at, min(_BLOCK, source.size - at)) for at in range(0, source.size, _BLOCK))
        return all(copy.read(*block) == source.read(*block) for block in blocks)


def _create(path: Path, data: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        write_all(fd, data, 0)
    finally:
        os.close(fd)


@contextlib.contextmanager
def _shown_as(temporary: Path, destination: Path) -> Iterator[None]:
    """Let errors name the destination, not the temporary that stands in for it."""
    try:
        yield
    except OSError as err:
        raise SystemFailure(f"writing failed: {err.strerror or err}.", path=destination) from err
    except BridgeError as err:
        if err.path is not None and Path(err.path).is_relative_to(temporary):
            err.path = destination / Path(err.path).relative_to(temporary)
        raise
