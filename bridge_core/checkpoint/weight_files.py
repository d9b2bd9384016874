"""Finds the files of a folder that hold its weights, by the usual names of every registered format."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from bridge_core.checkpoint.detect_format import open_file, recognises, speaks_for
from bridge_core.checkpoint.locations import locate
from bridge_core.checkpoint.own_files import way_to_finish
from bridge_core.checkpoint.partial_files import part_of
from bridge_core.checkpoint.write_options import StrPath
from bridge_core.errors import BridgeError, MalformedFile, ShardError, SystemFailure, UsageError
from bridge_core.formats import Format, shard_name
from bridge_core.io import Location, RemotePath, files_in, is_unfinished, names_in, open_location
from bridge_core.messages import count, listed
from bridge_core.plugins import Registry, given_registry

__all__ = ["find_weights", "is_training_file", "is_weights_name"]

_PREFERRED = ("safetensors", "torch", "msgpack")
"""Formats that a folder is searched for first; the others follow in the order of registration."""

_STEMS = ("diffusion_pytorch_model", "diffusion_flax_model")
"""First parts of file names that other tools use in place of a format's own."""

_SAFETENSORS, _TORCH_SUFFIXES = ".safetensors", frozenset({".bin", ".pt", ".pth", ".ckpt"})

_NOT_WEIGHTS = re.compile(
    r"training_args\..*|(optimizer|scheduler|scaler|trainer_state|random_states|rng_state).*"
    r"|.*_optim_states\.pth?",
    re.IGNORECASE,
)
_FOREIGN: tuple[tuple[re.Pattern[str], str, str], ...] = (
    (
        re.compile(r".*\.distcp"),
        "a distributed torch checkpoint (DCP)",
        "Turn it into one file with torch.distributed.checkpoint.format_utils.dcp_to_torch_save.",
    ),
    (
        re.compile(r"_METADATA|_CHECKPOINT_METADATA|manifest\.ocdbt"),
        "an Orbax checkpoint",
        "Run: pip install ckptbridge-orbax. Or restore it with Orbax, and save it with "
        "flax.serialization.to_bytes.",
    ),
)
"""Files that are only in folders of other checkpoints, what these are, and what to do."""


_MOST_INNER, _MOST_INNER_REMOTE = 200, 8


@dataclass(frozen=True)
class _Name:
    """A usual name, as a pattern; better ranks are lower."""

    format: Format
    pattern: re.Pattern[str]
    rank: tuple[int, ...]
    shown: str
    shard: bool = False


def _names(formats: Iterable[Format]) -> Iterator[_Name]:
    """Yield all usual names: unvaried before variants, then by format, stem, and the index first."""
    order = {name: place for place, name in enumerate(_PREFERRED)}
    ranked = sorted(formats, key=lambda f: order.get(f.name, len(order)))
    for place, candidate in enumerate(ranked):
        names = candidate.names
        if names is None:
            continue
        suffix = max((e for e in candidate.extensions if names.single.endswith(e)), key=len, default="")
        own = names.single.removesuffix(suffix)
        variant, tail = r"\.([A-Za-z0-9_]+)", re.escape(suffix)
        for nth, stem in enumerate((own, *(s for s in _STEMS if s != own))):
            single, head = stem + suffix, re.escape(stem)
            index = names.index if nth == 0 else f"{single}.index.json"

            def name(
                pattern: str, *rank: int, shown: str, shard: bool = False, candidate: Format = candidate
            ) -> _Name:
                return _Name(candidate, re.compile(pattern), rank, shown, shard)

            yield name(re.escape(index), 0, place, nth, 0, shown=index)
            yield name(re.escape(single), 0, place, nth, 1, shown=single)
            varied = re.escape(index.removesuffix(".json")) + variant + r"\.json"
            yield name(varied, 1, place, nth, 0, shown=f"{index.removesuffix('.json')}.*.json")
            varied = head + variant + tail + r"\.index\.json"
            yield name(varied, 1, place, nth, 0, shown=f"{stem}.*{suffix}.index.json")
            yield name(head + variant + tail, 1, place, nth, 1, shown=f"{stem}.*{suffix}")
            numbered = head + rf"({variant})?-\d+-of-\d+({variant})?" + tail
            yield name(numbered, 2, place, nth, 0, shown=f"{stem}-*{suffix}", shard=True)
        template = re.escape(names.shard)
        for field in ("index", "count"):
            template = re.sub(rf"\\\{{{field}[^}}]*\\\}}", r"\\d+", template)
        yield _Name(candidate, re.compile(template), (2, place, 0, 1), names.shard, shard=True)


def is_weights_name(formats: Iterable[Format]) -> Callable[[str], bool]:
    """Return a test for the usual names of weights, shards and indexes.

    The patterns take milliseconds to compile, so they are made when the first name is tested.
    """
    patterns = functools.cache(lambda: [name.pattern for name in _names(formats)])
    return lambda name: any(pattern.fullmatch(name) for pattern in patterns())


def is_training_file(name: str) -> bool:
    """Return whether a file has the name of one that a training run writes next to the weights."""
    return _NOT_WEIGHTS.fullmatch(name) is not None


def find_weights(
    folder: StrPath | RemotePath,
    *,
    format: str | None = None,
    layout: str | None = None,
    registry: Registry | None = None,
) -> Location:
    """Return the file or index that holds a folder's weights.

    Files with usual names are taken in this order: those in the wanted layout; names without a variant before
    ``model.fp16.*``; safetensors, torch, msgpack, others; an index before a single file. Without a usual
    name, it is the only file that looks like weights, or the safetensors one of two with the same name.

    Args:
        folder: The folder, or its URL.
        format: Name of the only format to look for; None for all.
        layout: The layout to prefer; None for no preference.
        registry: The plugins; None for all that are installed.

    Raises:
        MalformedFile: The folder has no weights, or several files without a usual name.
        ShardError: The folder has shards without an index, or other parts of a model.
        SystemFailure: The folder cannot be listed.
        UsageError: The folder has several variants, and no file without one.
    """
    registry = given_registry(registry)
    formats = (registry.format(format),) if format else tuple(registry.formats.values())
    usual = tuple(_names(formats))
    folder = locate(folder, registry)
    files = files_in(folder)
    name_of: dict[str, _Name] = {}
    for file in files:
        for name in usual:
            if not name.shard and name.pattern.fullmatch(file) and shard_name(file) is None:
                known = name_of.get(file)
                name_of[file] = name if known is None or name.rank < known.rank else known
    if not name_of:
        return folder / _sole_weights(folder, files, _Contents(formats, registry), usual)

    def rank(file: str) -> tuple[int, ...]:
        name = name_of[file]
        if layout is None or len(name_of) == 1:
            return name.rank
        stated = _layout_of(folder / file, name.format, registry)
        return (0 if stated == layout else 1 if stated is None else 2, *name.rank)

    ranks = {file: rank(file) for file in name_of}
    best = min(ranks.values())
    chosen = min(ranks, key=lambda file: ranks[file])
    rivals = {file: _variant(file, name_of) for file, value in ranks.items() if value[:-1] == best[:-1]}
    if len(set(rivals.values())) > 1:
        _refuse_parts(folder, list(rivals))
        raise UsageError(
            f"the folder holds {len(rivals)} variants of the weights: {listed(rivals)}.",
            path=folder,
            hint=f"Give one of the files, such as {folder / chosen}.",
        )
    return folder / chosen


def _variant(file: str, name_of: Mapping[str, _Name]) -> str | None:
    match = name_of[file].pattern.fullmatch(file)
    return match[1] if match and match.re.groups else None


def _layout_of(path: Location, candidate: Format, registry: Registry) -> str | None:
    """Return the layout of a candidate; None if it is not known."""
    if candidate.layout is not None:
        return candidate.layout
    try:
        with open_file(path, registry, candidate)[1] as state:
            return state.layout
    except BridgeError:  # opening the file reports it, if the file is chosen
        return None


def _sole_weights(folder: Location, files: list[str], contents: _Contents, usual: tuple[_Name, ...]) -> str:
    indexes = [name for name in files if name.endswith(".index.json")]
    if len(indexes) == 1:
        return indexes[0]
    seen = indexes or contents.weights(folder, files)
    _refuse_shards(folder, seen)
    _refuse_foreign(folder, files, folder, contents.registry)
    _refuse_parts(folder, seen)
    if len(seen) == 1:
        return seen[0]
    if (twin := _of_one_save(seen)) is not None:
        return twin
    if seen:
        raise MalformedFile(
            f"the folder holds {len(seen)} files that may be the weights: {listed(seen)}.",
            path=folder,
            hint=f"Give one of the files, such as {folder / seen[0]}; merge them first if they belong to one "
            "model.",
        )
    for inner in _inner_folders(folder):
        _refuse_foreign(folder, names_in(inner), inner, contents.registry)
    raise _no_weights(folder, usual)


def _refuse_foreign(folder: Location, files: Iterable[str], holding: Location, registry: Registry) -> None:
    """Refuse a folder by what is in it, or in a folder in it, as the steps of a training run are."""
    for pattern, what, hint in _FOREIGN:
        if any(pattern.fullmatch(name) for name in files):
            where = "the folder is" if holding == folder else f"the folder {holding.name} in it is"
            why = "which no installed format reads"
            if "Orbax" in what and "orbax" in registry.folder_formats:
                why, hint = "and not a file of the wanted format", "Remove format= (--format)."
            raise MalformedFile(f"{where} {what}, {why}.", path=folder, hint=hint)


def _inner_folders(folder: Location) -> Sequence[Location]:
    """Return some of the folders in a folder; none that cannot be listed, and no links."""
    names = names_in(folder)
    if isinstance(folder, RemotePath):  # each costs a request
        return [inner for name in names if (inner := folder / name).is_dir()][:_MOST_INNER_REMOTE]
    entries = [entry for name in names[:_MOST_INNER] if not (entry := folder / name).is_symlink()]
    return [entry for entry in entries if entry.is_dir() and os.access(entry, os.R_OK | os.X_OK)]


def _of_one_save(files: list[str]) -> str | None:
    """Return the safetensors file of two that are one save in two formats by their names.

    >>> _of_one_save(["open_clip_model.safetensors", "open_clip_pytorch_model.bin"])
    'open_clip_model.safetensors'
    >>> _of_one_save(["best.safetensors", "last.pt"])
    """
    if len(files) != 2:
        return None
    (stem, suffix), (other_stem, other_suffix) = map(os.path.splitext, sorted(files, key=_is_not_safetensors))
    is_one = stem.replace("pytorch_model", "model") == other_stem.replace("pytorch_model", "model")
    in_two = suffix.lower() == _SAFETENSORS and other_suffix.lower() in _TORCH_SUFFIXES
    return stem + suffix if is_one and in_two else None


def _is_not_safetensors(name: str) -> bool:
    return not name.lower().endswith(_SAFETENSORS)


def _no_weights(folder: Location, usual: tuple[_Name, ...]) -> MalformedFile:
    from bridge_core.checkpoint.no_weights import what_else

    other = what_else(folder)
    names = [name.shown for name in usual if name.rank[0] == name.rank[2] == 0 and ".json" not in name.shown]
    return MalformedFile(
        f"the folder does not hold weights{f': {other.what}' if other.what else ''}. Expected a file with a "
        f"usual name ({listed(dict.fromkeys(names))}), its index, or one other file of weights.",
        path=folder,
        hint=other.way_on or "Give the file of weights itself, or the folder that holds it.",
    )


def _refuse_shards(folder: Location, seen: list[str]) -> None:
    shards = [name for name in seen if (shard := shard_name(name)) is not None and shard.total > 1]
    if shards:
        finish = way_to_finish(names_in(folder))
        why = ", since the conversion that writes it is not finished" if finish else ""
        raise ShardError(
            f"the folder holds {count(len(shards), 'shard')} without an index{why}: {listed(shards)}.",
            path=folder,
            hint=finish or "Download the index (*.index.json) into the folder.",
        )


def _refuse_parts(folder: Location, seen: list[str]) -> None:
    parts = {name: part for name in seen if (part := part_of(folder / name)) is not None}
    slices = [name for name, part in parts.items() if part.tensors != "changes"]
    if slices:
        raise ShardError(
            f"the folder holds only parts of a model: {listed(slices)}.",
            path=folder,
            hint=parts[slices[0]].way_on,
        )


@dataclass(frozen=True)
class _Contents:
    """Finds files of weights by their content, in some formats."""

    formats: tuple[Format, ...]
    registry: Registry

    def weights(self, folder: Location, files: Iterable[str]) -> list[str]:
        """Return the files that look like weights.

        A file that only another plugin's format recognises, and not by its extension, counts only if there is
        no other: such a format may recognise every file, even a README. At a URL, where each file that is
        looked at costs a request, only those with the extension of a format are.
        """
        if isinstance(folder, RemotePath):
            extensions = tuple(extension for one in self.formats for extension in one.extensions)
            files = [name for name in files if name.lower().endswith(extensions)]
        formats_of = {name: matching for name in files if (matching := self._recognising(folder / name))}
        certain = [
            name
            for name, matching in formats_of.items()
            if any(speaks_for(candidate, name, self.registry) for candidate in matching)
        ]
        return certain or list(formats_of)

    def _recognising(self, path: Location) -> list[Format]:
        if path.name.startswith(".") or is_training_file(path.name) or is_unfinished(path.name):
            return []
        try:
            with open_location(path) as file:
                return [candidate for candidate in self.formats if recognises(candidate, file, self.registry)]
        except (MalformedFile, SystemFailure):
            return []
