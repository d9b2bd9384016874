"""Fills the files of one state by its format, and reads them back."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Mapping
from pathlib import Path

from bridge_core.checkpoint.verification import check_written
from bridge_core.checkpoint.write_options import WriteOptions
from bridge_core.errors import VerificationError
from bridge_core.formats import Format
from bridge_core.io import Location, system_failures
from bridge_core.plugins import Registry
from bridge_core.state import FlatState, Key
from bridge_core.transfer import (
    FileTarget,
    Meter,
    ScratchPool,
    WriteBehind,
    is_large,
    is_worth_reading_behind,
    kernel_for,
)

__all__ = ["FileWriter"]


class FileWriter:
    """Writes the files of one state; they share memory and count into one report of progress.

    Args:
        state: All that is written; a file may hold a part of it.
        used: The format.
        registry: The plugins.
        options: The options of writing.
        uploads: Whether the files are uploaded afterwards, which counts as progress.

    Attributes:
        meter: Counts what is written, read again and uploaded.
        overflows: Key -> number of values outside the range of the dtype that they were cast to.
    """

    def __init__(
        self,
        state: FlatState,
        used: Format,
        registry: Registry,
        options: WriteOptions,
        *,
        uploads: bool = False,
    ) -> None:
        self.state = state
        self.format = used
        self.registry = registry
        self.options = options
        self.meter = Meter(state, options.progress, verify=options.verify, uploads=uploads)
        self.overflows: dict[Key, int] = {}
        self._foreign = registry.foreign_plugin("formats", used.name)
        self._behind: WriteBehind | None = None
        # An upload reads the files again. A plugin's format may change a file after it was filled, so that it
        # has to be compared at the end.
        is_read_again = uploads or (options.verify and self._foreign is not None)
        drops = is_large(state.nbytes)
        reads_back = options.verify and is_worth_reading_behind(state.nbytes)
        if (drops or reads_back) and not is_read_again:
            report = self.meter.verified_behind
            self._behind = WriteBehind(reads_back=options.verify, drops=drops, report=report)

    @functools.cached_property
    def _pool(self) -> ScratchPool:
        """Scratch memory for all the files."""
        return ScratchPool(kernel_for(self.state.nbytes))

    def fill(self, state: FlatState, path: Path, destination: Location) -> Mapping[Key, int]:
        """Write a file, and return the CRC-32 of each tensor that went through memory.

        Args:
            state: What the file holds.
            path: An empty file.
            destination: What errors of plugins call it.
        """
        options = self.options
        target = FileTarget(
            path,
            options.budget,
            self.meter.add,
            sums=options.verify,
            pool=self._pool,
            behind=self._behind,
        )
        plugins = self.registry.foreign_failures("formats", self.format.name, f"write {destination}")
        with plugins, system_failures(path, "writing"), self._forgetting(on_success=False):
            self.format.write(state, target)
            if self._foreign is not None and (path.is_symlink() or not path.is_file()):
                raise TypeError("the file that it should write is gone, or is no longer a plain file")
        self.overflows.update(target.overflows)
        return target.checksums

    @contextlib.contextmanager
    def _forgetting(self, *, on_success: bool) -> Iterator[None]:
        """Forget which files are on their way to the disk, after an error or in any case."""
        try:
            yield
        except BaseException:
            on_success = True
            raise
        finally:
            if on_success and self._behind is not None:
                self._behind.forget()

    def check(self, state: FlatState, path: Path, sums: Mapping[Key, int]) -> Mapping[Key, int]:
        """Read a file back and compare it; with verification also its values.

        Args:
            state: What the file holds, or all files of an index.
            path: The file or index.
            sums: What `fill` returned.

        Returns:
            Key -> CRC-32 of each tensor as it was read; nothing without verification.

        Raises:
            VerificationError: The file differs from the state.
            IntegrityError: The source changed since it was opened.
        """
        try:
            with self._forgetting(on_success=True):
                if self._behind is not None:
                    self._behind.finish()
                read = check_written(
                    path,
                    state,
                    self.format,
                    registry=self.registry,
                    checksums=sums if self.options.verify else None,
                    budget=self.options.budget,
                    report=self.meter.verified,
                    read_back=None if self._behind is None else self._behind.sum_of,
                )
        except VerificationError as err:
            if self._foreign is not None and self._foreign.way_without:
                way = self._foreign.way_without
                err.hint = f"It was written by {self._foreign.origin}. To do without this plugin, {way}."
            raise
        self.state.check_unchanged()
        return read
