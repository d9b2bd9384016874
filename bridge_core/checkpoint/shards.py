"""The files of a folder of weights: planned by their names and keys, and written one at a time."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from bridge_core.checkpoint.destination_errors import shown_as
from bridge_core.checkpoint.file_writing import FileWriter
from bridge_core.checkpoint.saved import Saved
from bridge_core.checkpoint.write_options import WriteOptions
from bridge_core.errors import UsageError
from bridge_core.formats import Format, ShardNames
from bridge_core.io import Location, create_file
from bridge_core.plugins import Registry
from bridge_core.state import FlatState, Key

__all__ = ["plan_files", "PlannedFile", "PlannedFiles", "write_planned_file"]

_NUMBER = re.compile(r"\{(index|count)[^}]*\}")
_USUAL_DIGITS = 5

_UNLIMITED = 1 << 62
"""Bytes of a shard where the caller sets no limit."""


@dataclass(frozen=True)
class PlannedFile:
    """One file of weights that is to be written.

    Args:
        name: Its name in the folder.
        keys: The keys of its tensors, tied ones included, in the order of the state.
        nbytes: Bytes of its tensors; tied ones count once.
        is_shard: Whether it holds a part of the state, and an index the metadata.
    """

    name: str
    keys: tuple[Key, ...]
    nbytes: int
    is_shard: bool

    def part_of(self, state: FlatState) -> FlatState:
        """Return what the file holds.

        Args:
            state: The state that was planned.
        """
        if not self.is_shard:
            return state
        from bridge_core.formats import shard_state

        return shard_state(state, self.keys)


@dataclass(frozen=True)
class PlannedFiles:
    """The files of weights of a folder: equal states, formats and options give equal plans.

    Args:
        files: The files that hold tensors, at least one.
        index_name: Name of the index; None for one file, which needs none.
        index_text: Content of the index; None for one file.
    """

    files: tuple[PlannedFile, ...]
    index_name: str | None = None
    index_text: bytes | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all files, the index last."""
        return (*(file.name for file in self.files), *([self.index_name] if self.index_name else []))


def plan_files(
    state: FlatState, used: Format, options: WriteOptions, *, taken: Collection[str] = ()
) -> PlannedFiles:
    """Return the files of a folder that holds a state: one, or shards and an index.

    Only specs, ties and metadata are used; no value is read.

    Args:
        state: The state, as `checked_state` returns it.
        used: The format.
        options: The largest shard, and the first part of the names.
        taken: Names that no shard may have: those of files that must stay until the index is replaced. The
            shards then have more digits in their names, ``model-000001-of-000002.safetensors``.

    Raises:
        UsageError: The format has no usual names, or the limit is less than 1 byte.
        KeyConflict: Two keys have one name in the index.
        UnsupportedFeature: A name cannot be encoded as UTF-8.
    """
    from bridge_core.formats import index_text, partition

    names = _usual_names(used, options)
    groups = partition(state, options.shard_nbytes or _UNLIMITED, names)
    if len(groups) == 1:
        only = PlannedFile(names.single, tuple(groups[0]), _nbytes(state, groups[0]), is_shard=False)
        return PlannedFiles((only,))
    shards = _shard_names(names, len(groups), taken)
    files = tuple(
        PlannedFile(name, tuple(keys), _nbytes(state, keys), is_shard=True)
        for name, keys in zip(shards, groups, strict=True)
    )
    holders = {key: file.name for file in files for key in file.keys}
    return PlannedFiles(files, names.index, index_text(state, holders, names))


def _shard_names(names: ShardNames, number: int, taken: Collection[str]) -> list[str]:
    """Return the names of shards; where one is taken, with more digits, which all readers accept."""
    for digits in itertools.chain([None], itertools.count(_USUAL_DIGITS + 1)):
        template = names.shard if digits is None else _NUMBER.sub(rf"{{\1:0{digits}d}}", names.shard)
        shards = [template.format(index=index, count=number) for index in range(1, number + 1)]
        if not {*shards} & {*taken}:
            return shards
    raise AssertionError("unreachable")


def _nbytes(state: FlatState, keys: Iterable[Key]) -> int:
    ties = state.metadata.ties
    return sum(state.spec(key).nbytes for key in keys if key not in ties)


def _usual_names(used: Format, options: WriteOptions) -> ShardNames:
    """Return the names of the files of a folder.

    Raises:
        UsageError: The format has none.
    """
    names = used.names
    if names is None:
        raise UsageError(
            f"the format {used.name} has no usual file names, so it cannot fill a folder.",
            hint="Give a file name without max_shard_size= (--max-shard-size), or pass "
            'format="safetensors" (--format safetensors).',
        )
    return names if options.base_name is None else names.with_base_name(options.base_name)


def write_planned_file(
    state: FlatState,
    planned: PlannedFile,
    path: Path,
    used: Format,
    options: WriteOptions,
    registry: Registry,
    *,
    destination: Location | None = None,
    writer: FileWriter | None = None,
) -> Saved:
    """Write one file of a folder to a local path, read it back and compare it.

    Args:
        state: The state that was planned.
        planned: The file.
        path: Where it is written: a file that is empty or does not exist yet.
        used: The format.
        options: The options of writing; ``verify`` compares the values too.
        registry: The plugins.
        destination: What errors call the file; None for ``path``.
        writer: Writes the files of this state, if several are written; None for a new one.

    Returns:
        What was written. With verification it has the CRC-32 of every tensor of the file, ties included,
        as it was read back; the overflows are those of this writer until now.

    Raises:
        VerificationError: What was written differs from the state.
        IntegrityError: A source is damaged, or changed since it was opened.
        SystemFailure: The system failed: disk, permission or memory.
    """
    writer = writer or FileWriter(state, used, registry, options)
    part = planned.part_of(state)
    with shown_as(path, destination or path):
        if not path.exists():
            os.close(create_file(path))
        sums = writer.fill(part, path, destination or path)
        read = writer.check(part, path, sums)
        size = path.stat().st_size
    return Saved((destination or path,), used.name, size, read, dict(writer.overflows))
