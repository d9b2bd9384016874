"""Writing states to files and folders, and proving that what was written is what was meant.

`bridge_core.output` decides when a destination changes; this module decides what stands in it.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from bridge_core.checkpoint.verification import check_written
from bridge_core.checkpoint.weight_files import is_weights_name
from bridge_core.errors import BridgeError, LimitExceeded, SystemFailure, UsageError, VerificationError
from bridge_core.formats import Format, ShardNames, index_text, partition, shard_state
from bridge_core.io import SourceFile, replacing_file, replacing_folder, write_all
from bridge_core.plugins import Registry
from bridge_core.state import FlatState, Key
from bridge_core.transfer import Budget, FileTarget, Meter, ScratchPool, kernel_for

__all__ = ["Saved", "UNLIMITED", "Writer"]

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
    sidecar_files: Mapping[str, SourceFile | bytes] = field(default_factory=dict)
    base_name: str | None = None

    @functools.cached_property
    def pool(self) -> ScratchPool:
        """Scratch memory for all the files."""
        return ScratchPool(kernel_for(self.state.nbytes))

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
        names = names if self.base_name is None else names.with_base_name(self.base_name)
        groups = partition(self.state, limit, names)
        sums: dict[Key, int] = {}
        written: list[str] = []
        total = 0

        def check(temporary: Path) -> None:
            nonlocal total
            with _shown_as(temporary, destination):
                self._check(temporary / written[-1], sums)
                self._check_sidecar_files(temporary)
                total = sum((temporary / name).stat().st_size for name in written)

        weights = is_weights_name(self.registry.formats.values())
        with replacing_folder(
            destination,
            overwrite=overwrite,
            check=check,
            keep=lambda entry: (
                entry.is_dir() or not (weights(entry.name) or entry.name in self.sidecar_files)
            ),
        ) as temporary:
            with _shown_as(temporary, destination):
                for name, data in self._parts(groups, names):
                    written.append(name)
                    _create(temporary / name, data if isinstance(data, bytes) else b"")
                    if isinstance(data, FlatState):
                        sums.update(self._fill(data, temporary / name))
                for name, source in self.sidecar_files.items():
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

    def _check_sidecar_files(self, folder: Path) -> None:
        for name, source in self.sidecar_files.items():
            if self.verify and not _same_bytes(source, folder / name):
                raise VerificationError("the bytes read again differ from the source's.", path=folder / name)
            if isinstance(source, SourceFile):
                source.check_unchanged()


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
