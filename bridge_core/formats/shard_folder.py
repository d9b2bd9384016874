"""Names of shards, such as ``model-00001-of-00003.safetensors``, and their folder."""

from __future__ import annotations

import re
from collections.abc import Collection, Container, Iterable
from typing import NamedTuple

from bridge_core.errors import ShardError
from bridge_core.io import Location, RemotePath, control_file, names_in, unfinished_downloads
from bridge_core.messages import count, listed

__all__ = ["ShardFolder", "ShardName", "check_complete", "compare_folder", "shard_name"]

_NUMBERED = r"(?s)(.*?)(\d{1,9})[-_]of[-_](\d{1,9})(?!\d)(.*)"


class ShardName(NamedTuple):
    """A file name that numbers a shard and counts all shards of its set."""

    head: str
    number: int
    total: int
    tail: str
    digits: int
    """Digits of the total, zeros before it included: two sets in a folder may differ in these only."""

    @property
    def set_name(self) -> SetName:
        """The parts that the names of one set have in common."""
        return SetName(self.head, self.total, self.tail, self.digits)


class SetName(NamedTuple):
    """What the names of the shards of one set have in common; see `ShardName`."""

    head: str
    total: int
    tail: str
    digits: int


class ShardFolder(NamedTuple):
    """What a report should mention about a folder of shards.

    Args:
        notes: Texts for a report.
        absent: How many shards there are of those that their names count; empty if none is missing.
    """

    notes: tuple[str, ...]
    absent: str


def shard_name(name: str) -> ShardName | None:
    """Return the parts of a shard's file name; None for other file names.

    >>> shard_name("model-00002-of-00003.safetensors")
    ShardName(head='model-', number=2, total=3, tail='.safetensors', digits=5)
    """
    match = re.fullmatch(_NUMBERED, name) if "of" in name else None
    return ShardName(match[1], int(match[2]), int(match[3]), match[4], len(match[3])) if match else None


def compare_folder(names: Iterable[str], folder: Location, *, index: str) -> ShardFolder:
    """Compare the shards that an index names with the files that are numbered like them.

    Args:
        names: File names of the shards that the index names.
        folder: The folder of the index.
        index: The index, for errors.

    Raises:
        ShardError: A file is numbered as a shard of the same set, and the index does not name it.
        SystemFailure: The folder cannot be listed.
    """
    names = set(names)
    sets: dict[SetName, set[int]] = {}
    for shard in map(shard_name, names):
        if shard is not None:
            sets.setdefault(shard.set_name, set()).add(shard.number)
    if not sets:
        return ShardFolder((), "")
    omitted, leftover = _other_shards(names, sets, folder)
    if omitted:
        raise ShardError(
            f"the index does not name {count(len(omitted), 'file')} that {'are' if omitted[1:] else 'is'} "
            f"numbered as a shard of the same set: {listed(omitted)}.",
            path=index,
            hint="Fetch the index again, or move files of another set to another folder.",
        )
    absent = ", ".join(
        f"{len(numbers)} of the {total} shards that the name '{head}N-of-{total}{tail}' counts"
        for (head, total, tail, _), numbers in sets.items()
        if len(numbers) < total
    )
    notes = (
        [f"shards of another set are in the same folder, and were not read: {listed(leftover)}"]
        if leftover
        else []
    )
    notes += [f"the index names {absent}"] if absent else []
    return ShardFolder(tuple(notes), absent)


def check_complete(names: Iterable[str], folder: Location, *, index: str) -> None:
    """Check that every shard exists, and that none is still being downloaded.

    Args:
        names: File names of the shards.
        folder: The folder of the index.
        index: The index, for errors.

    Raises:
        ShardError: A shard is missing, or its download is not finished.
    """
    names = tuple(names)
    if isinstance(folder, RemotePath) and not _listed(folder):  # a listing answers for all shards
        folder.ask_for(names)
    missing = [name for name in names if not (folder / name).exists()]
    if missing:
        begun = unfinished_downloads(folder, missing)
        raise ShardError(
            f"{len(missing)} of {count(len(names), 'shard')} of the index "
            f"{'is' if len(missing) == 1 else 'are'} missing: {listed(missing)}."
            + (f" Unfinished downloads: {listed(begun)}." if begun else ""),
            path=index,
            hint="Finish the download." if begun else "Fetch the missing files into the folder of the index.",
        )
    for name in names:
        control = control_file(folder / name)
        if control is not None:
            raise ShardError(
                f"the download of the shard {name!r} is not finished: {control.name} is next to it.",
                path=index,
                hint=f"Finish the download, or delete {control.name} if it is left from an earlier one.",
            )


def _other_shards(
    names: Container[str], sets: Collection[SetName], folder: Location
) -> tuple[list[str], list[str]]:
    """Return other files of these sets, and files of sets that differ only in their size or in digits."""
    frames = {(one.head, one.tail) for one in sets}
    omitted: list[str] = []
    leftover: list[str] = []
    for name in _listed(folder):
        shard = shard_name(name)
        if shard is None or name in names or (shard.head, shard.tail) not in frames:
            continue
        if (folder / name).is_file():
            (omitted if shard.set_name in sets else leftover).append(name)
    return omitted, leftover


def _listed(folder: Location) -> list[str]:
    """Return the names in a folder, sorted; none of one at a URL that its server does not list."""
    if isinstance(folder, RemotePath):
        return list(folder.listed_names())
    return names_in(folder)
