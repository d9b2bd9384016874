"""The weights of a folder, and notes about what else is in it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import PurePath

from bridge_core.checkpoint.choice import Choice, choose_file
from bridge_core.checkpoint.partial_files import part_of
from bridge_core.checkpoint.weight_files import find_weights, is_training_file
from bridge_core.errors import BridgeError, ShardError
from bridge_core.formats import read_shard_index, shard_name
from bridge_core.io import Location, files_in, is_unfinished, open_location, size_of, system_failures
from bridge_core.messages import count, listed
from bridge_core.plugins import Registry
from bridge_core.state import LeftOut

__all__ = ["choose_weights"]

_SUFFIXES_OF_OTHERS = (".ckpt", ".gguf", ".h5", ".keras", ".onnx", ".ot", ".pt", ".pth", ".tflite")
"""Suffixes of weights that no format of the core has first, or that are of other programs."""


def choose_weights(folder: Location, *, format: str | None, layout: str | None, registry: Registry) -> Choice:
    """Return the file or index of a folder's weights; of two saves in it, none is taken for the newer one.

    Args:
        folder: The folder.
        format: Name of the only format to look for; None for all.
        layout: The layout to prefer; None for no preference.
        registry: The plugins.

    Raises:
        ShardError: The folder has two saves of the same format and variant, or only parts of one.
        TruncatedFile: The download of the file is not finished.
        MalformedFile, SystemFailure, UsageError: As `find_weights`.
    """
    chosen = find_weights(folder, format=format, layout=layout, registry=registry).name
    files = files_in(folder)
    alike = [name for name in files if name != chosen and _family(name) == _family(chosen)]
    notes: list[str] = []
    if _is_index(chosen):
        singles = [name for name in alike if not _is_index(name) and shard_name(name) is None]
        if singles:
            chosen, note = _index_or_file(folder, chosen, singles[0])
            notes += note
    elif shards := [name for name in alike if _is_shard(name)]:
        raise ShardError(
            f"the folder holds two saves: {chosen}, and {count(len(shards), 'shard')} without an index: "
            f"{listed(shards)}.",
            path=folder,
            hint=f"Remove the save that is out of date, or give the file itself: {folder / chosen}.",
        )
    notes += choose_file(folder / chosen).notes
    notes += _passed_over(folder, chosen, _others(files, chosen, registry))
    return Choice(folder / chosen, tuple(notes), _training_files(folder, files))


def _training_files(folder: Location, files: Iterable[str]) -> tuple[LeftOut, ...]:
    """Return the files that a training run writes next to the weights, with their sizes."""
    left_out = []
    for name in filter(is_training_file, files):
        with system_failures(folder / name, "reading the size of the file"):
            size = size_of(folder / name)
        reason = "optimizer state" if name.startswith("optimizer") else "state of the training"
        left_out.append(LeftOut(name, f"{reason}, a file next to the weights", size))
    return tuple(left_out)


def _passed_over(folder: Location, chosen: str, others: list[str]) -> list[str]:
    changes = [
        name for name in others if (part := part_of(folder / name)) is not None and part.tensors == "changes"
    ]
    rest = [name for name in others if name not in changes]
    notes = [f"{chosen} was read; next to it, and not read: {listed(rest)}"] if rest else []
    if changes:
        notes.append(f"the changes of an adapter next to {chosen} are not in the result: {listed(changes)}")
    return notes


def _index_or_file(folder: Location, index: str, single: str) -> tuple[str, list[str]]:
    """Choose between an index and a single file with the usual name of the same format.

    A tool that saves into the folder of an earlier save leaves one of them behind.
    """
    shards = _shards_of(folder / index)
    if single in shards or not shards:
        return index, []
    there = [name for name in shards if (folder / name).exists()]
    if not there:
        return single, [
            f"{single} was read, and not {index}: none of the {len(shards)} files that the index names exists"
        ]
    raise ShardError(
        f"the folder holds two saves: {single}, and {index} with {len(there)} of its {len(shards)} files. "
        "Names do not show which of them is the model's; transformers reads the single file.",
        path=folder,
        hint=f"Remove the save that is out of date, or give the file itself: {folder / single} or "
        f"{folder / index}.",
    )


def _shards_of(index: Location) -> set[str]:
    """Return the files that an index names; none if it is damaged, which opening it reports."""
    try:
        with open_location(index) as file:
            return set(read_shard_index(file).weight_map.values())
    except BridgeError:
        return set()


def _others(files: Iterable[str], chosen: str, registry: Registry) -> list[str]:
    """Return the other files of a folder that may hold weights or a part of them."""
    formats = registry.formats.values()
    suffixes = tuple({*_SUFFIXES_OF_OTHERS, *(suffix for f in formats for suffix in f.extensions)})
    family = _family(chosen)
    return [
        name
        for name in files
        if name != chosen
        and not name.startswith(".")
        and not is_training_file(name)
        and not (_is_index(chosen) and _family(name) == family)
        and (name.lower().endswith(suffixes) or (is_unfinished(name) and name.startswith(f"{chosen}.")))
    ]


def _is_index(name: str) -> bool:
    return name.endswith(".json") and ".index." in name


def _is_shard(name: str) -> bool:
    shard = shard_name(name)
    return shard is not None and shard.total > 1


def _family(name: str) -> frozenset[str]:
    """Return the parts of a name that a single file, its shards and its index share.

    >>> _family("model.safetensors.index.fp16.json") == _family("model.fp16-00001-of-00002.safetensors")
    True
    """
    if _is_index(name):
        name = name.removesuffix(".json").replace(".index", "", 1)
    elif (shard := shard_name(name)) is not None:
        name = shard.head.rstrip("-_") + shard.tail
    return frozenset(PurePath(name).name.split("."))
