"""Sharded sets: several files of one format, and the JSON index that says which tensor is in which.

The index is untrusted: it names files, and nothing but plain files beside it is opened. Any format with
usual names (`ShardNames`) can be sharded; what the bridge knows beside the tensors stands in the index.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bridge_core.errors import FileWarning, KeyConflict, LimitExceeded, MalformedFile, ShardError, UsageError
from bridge_core.formats.base import Format, ShardNames
from bridge_core.formats.index_values import check_shard_name, check_tensor_name, check_text, total_size
from bridge_core.formats.shard_folder import ShardFolder, check_complete, compare_folder
from bridge_core.io import SourceFile, open_listed, parse_json
from bridge_core.messages import listed
from bridge_core.state import (
    MARKER,
    PACKED,
    FlatState,
    Key,
    StateMetadata,
    Tensor,
    Ties,
    dump_metadata,
    flat_names,
    join_key,
    load_metadata,
    separator_of,
)

__all__ = ["index_text", "open_sharded", "OpenShard", "partition", "shard_state"]

_LARGEST_INDEX = 100 << 20

OpenShard = Callable[[SourceFile, Format | None], tuple[Format, FlatState]]
"""Opens a file, as the format given or else as the one its content shows."""


def open_sharded(
    file: SourceFile, open_shard: OpenShard, formats: Iterable[Format], *, follow_links: bool = False
) -> tuple[Format, FlatState]:
    """Open an index and all its shards as one state; closes the index, and the shards on an error.

    Tensors come in the order of the index, then tied ones that it does not name.

    Args:
        file: The index.
        open_shard: Opens one shard.
        formats: Those whose usual index names are known.
        follow_links: Whether shards may be symbolic links that lead anywhere. Links within the folder,
            and those of a Hugging Face cache from ``snapshots`` into ``blobs``, are followed always.

    Raises:
        KeyConflict: A tensor stands in two shards.
        LimitExceeded: The index is larger than any index has a reason to be.
        MalformedFile: The index breaks the rules, or a shard those of its format.
        ShardError: The index and its shards disagree.
        UnsafeFile: The index names something other than a plain file beside it.
    """
    with file:
        index = _read_index(file)
    folder = file.path.parent
    claimed = next((f for f in formats if f.names and file.path.name == f.names.index), None)
    sources = _open_files(index, folder, file, follow_links)
    states: dict[str, FlatState] = {}
    with ExitStack() as undo:
        for source in sources.values():
            undo.callback(source.close)
        shard_format: Format | None = None
        for name, source in sources.items():
            found, state = open_shard(source, claimed or shard_format)
            undo.callback(state.close)
            expected = claimed or shard_format or found
            if found.name != expected.name:
                raise ShardError(
                    f"shard {name!r} is of format {found.name}; {expected.name} was expected.", path=file.name
                )
            shard_format = found
            states[name] = state
        assert shard_format is not None
        identities = frozenset(source.identity for source in (file, *sources.values()))
        close = _Shards(tuple(states.values()), identities)
        merged = _merge(index, states, shard_format.names, file.name, close)
        merged = _with_notes(merged, compare_folder(sources, folder, index=file.name))
        undo.pop_all()
    return shard_format, merged


@dataclass(frozen=True)
class _Index:
    weight_map: Mapping[str, str]
    total_size: int | None
    marker: tuple[str | None, StateMetadata, bool] | None


@dataclass(frozen=True)
class _Shards:
    """Closes and checks all shards; what a merged state has for its ``close``."""

    states: tuple[FlatState, ...]
    identities: frozenset[tuple[int, int]]

    def __call__(self) -> None:
        for state in self.states:
            state.close()

    def check_unchanged(self) -> None:
        for state in self.states:
            state.check_unchanged()


def _read_index(file: SourceFile) -> _Index:
    if file.size > _LARGEST_INDEX:
        raise LimitExceeded(
            f"is {file.size} bytes long; an index has at most {_LARGEST_INDEX}.", path=file.name
        )
    document = parse_json(file.read(0, file.size), path=file.name, what="the index")
    weight_map = document.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        found = (
            "is missing" if weight_map is None else "names no tensor" if weight_map == {} else "is no object"
        )
        raise MalformedFile(
            f"'weight_map' {found}.", path=file.name, hint="Give the weights, or the index of a sharded set."
        )
    for key, shard in weight_map.items():
        check_tensor_name(key, file.name)
        if not isinstance(shard, str):
            raise MalformedFile(
                f"'weight_map' gives {shard!r}; a file name was expected.", path=file.name, key=key
            )
    for shard in dict.fromkeys(weight_map.values()):
        check_shard_name(shard, file)
    described = document.get("metadata")
    if described is not None and not isinstance(described, dict):
        raise MalformedFile("'metadata' is no object.", path=file.name)
    marker = (described or {}).get(MARKER)
    if marker is not None and not isinstance(marker, str):
        raise MalformedFile(f"'metadata.{MARKER}' is no text.", path=file.name)
    return _Index(
        weight_map,
        total_size((described or {}).get("total_size"), file.name),
        None if marker is None else load_metadata(marker, path=file.name),
    )


def _open_files(index: _Index, folder: Path, file: SourceFile, follow_links: bool) -> dict[str, SourceFile]:
    """Open every shard, or none."""
    names = dict.fromkeys(index.weight_map.values())
    check_complete(names, folder, index=file.name)
    sources: dict[str, SourceFile] = {}
    with ExitStack() as undo:
        for name in names:
            source = open_listed(folder / name, follow_links=follow_links)
            undo.callback(source.close)
            if source.identity == file.identity:
                raise ShardError(f"lists itself as the shard {name!r}.", path=file.name)
            sources[name] = source
        undo.pop_all()
    return sources


def _with_notes(state: FlatState, beside: ShardFolder) -> FlatState:
    if not beside.notes:
        return state
    known = state.metadata
    part = {"part": beside.absent} if beside.absent else {}
    notes = (*known.notes, *beside.notes)
    return state.replace(metadata=known.with_(notes=notes, provenance={**known.provenance, **part}))


def _merge(
    index: _Index, states: Mapping[str, FlatState], names: ShardNames | None, path: str, close: _Shards
) -> FlatState:
    escaped = index.marker is not None and index.marker[2]
    separator = names.separator if names else "."
    states = _split_alike(index, states)
    holders: dict[str, list[tuple[str, Key]]] = {}
    for shard, state in states.items():
        joined = state.metadata.provenance.get("separator", separator)
        if not escaped:
            flat_names(state, joined)
        for key in state:
            name = join_key(key, joined, escape=escaped)
            holders.setdefault(name, []).append((shard, key))
    _compare(index, holders, states, path)
    tensors: dict[Key, Tensor] = {}
    for name in (*index.weight_map, *(n for n in holders if n not in index.weight_map)):
        shard, key = holders[name][0]
        tensors[key] = states[shard].tensor(key)
    layouts = {state.layout for state in states.values() if state.layout is not None}
    if len(layouts) > 1:
        raise ShardError(f"the shards are in different layouts: {', '.join(sorted(layouts))}.", path=path)
    layout = next(iter(layouts), None)
    metadata = _merged_metadata([state.metadata for state in states.values()])
    if index.marker is not None:
        layout = index.marker[0] or layout
        metadata = index.marker[1].with_(
            extra=metadata.extra, ties={**metadata.ties, **index.marker[1].ties}, notes=metadata.notes
        )
    if any("separator" in state.metadata.provenance for state in states.values()):
        metadata = metadata.with_(provenance={"separator": "/"})
    for alias, kept in metadata.ties.items():
        if kept not in tensors:
            raise MalformedFile(
                f"ties {'.'.join(alias)!r} to {'.'.join(kept)!r}, which no shard has.", path=path
            )
        tensors.setdefault(alias, tensors[kept])
    _compare_sizes(index.total_size, tensors, metadata.ties, path)
    return FlatState(tensors, layout=layout, metadata=metadata, close=close)


def _split_alike(index: _Index, states: Mapping[str, FlatState]) -> Mapping[str, FlatState]:
    """Return the shards with names that are split as those of the whole set show."""
    slashed = {
        shard: {key: "/".join(key) for key in state}
        for shard, state in states.items()
        if state.metadata.provenance.get("separator") == "/"
    }
    named = (name for names in slashed.values() for name in names.values())
    if not slashed or (index.marker is None and separator_of((*index.weight_map, *named)) == "/"):
        return states
    dotted = dict(states)
    for shard, names in slashed.items():
        part = states[shard].rename(names)
        dotted[shard] = part.replace(metadata=part.metadata.with_(provenance={}))
    return dotted


def _compare(
    index: _Index,
    holders: Mapping[str, list[tuple[str, Key]]],
    states: Mapping[str, FlatState],
    path: str,
) -> None:
    for name, places in holders.items():
        if len(places) > 1:
            where = ", ".join(shard for shard, _ in places)
            raise KeyConflict(f"stands in several shards: {where}.", path=path, key=name)
    absent = [n for n, shard in index.weight_map.items() if n not in holders or holders[n][0][0] != shard]
    if absent:
        raise ShardError(
            f"{len(absent)} tensors are not in the shards that the index names: {listed(absent)}.", path=path
        )
    extra = [
        name
        for name, [(shard, key)] in holders.items()
        if name not in index.weight_map and key not in states[shard].metadata.ties
    ]
    if extra:
        raise ShardError(
            f"the shards hold {len(extra)} tensors that the index does not name: {listed(extra)}.", path=path
        )


def _compare_sizes(
    total_size: int | None, tensors: Mapping[Key, Tensor], ties: Mapping[Key, Key], path: str
) -> None:
    """Warn of a wrong total; writers differ in whether ties count twice and narrow elements are packed."""
    if total_size is None:
        return
    specs = [(tensor.spec, key in ties) for key, tensor in tensors.items()]
    possible = {
        sum(-(-spec.nbytes // (PACKED.get(spec.dtype.name, 1) if packed else 1)) for spec, tied in specs
            if twice or not tied)
        for twice in (False, True)
        for packed in (False, True)
    }  # fmt: skip
    if total_size not in possible:
        warnings.warn(
            f"{path}: 'total_size' is {total_size}, but the shards hold {min(possible)} bytes of tensors.",
            FileWarning,
            stacklevel=2,
        )


def _merged_metadata(parts: list[StateMetadata]) -> StateMetadata:
    def union(field: str) -> dict[Any, Any]:
        merged: dict[Any, Any] = {}
        for part in reversed(parts):
            merged.update(getattr(part, field))
        return merged

    return StateMetadata(
        layers=union("layers"),
        ties=union("ties"),
        collections=union("collections"),
        auxiliary_tensors=union("auxiliary_tensors"),
        empty=tuple(dict.fromkeys(path for part in parts for path in part.empty)),
        tree_form=union("tree_form"),
        extra=union("extra"),
        providers=union("providers"),
        notes=tuple(dict.fromkeys(note for part in parts for note in part.notes)),
    )


def partition(state: FlatState, limit: int, names: ShardNames) -> list[list[Key]]:
    """Divide keys over shards of at most ``limit`` bytes of tensors, in their order.

    A tensor larger than the limit gets a shard of its own; tied keys go where the canonical key goes. There
    is at least one shard, and none is empty unless there are no keys.

    Raises:
        UsageError: The limit is no positive number.
    """
    if limit < 1:
        raise UsageError(f"shards of {limit} bytes can hold nothing.")
    ties = Ties.within(state.metadata.ties, state)
    canonical = {key: ties.root(key) for key in state}
    free = _free(state, names)
    sizes: dict[Key, int] = {}
    for key, root in canonical.items():
        sizes[root] = sizes.get(root, 0) + (0 if key in free else state.spec(key).nbytes)
    place: dict[Key, int] = {}
    used = count = 0
    for key in (key for key, root in canonical.items() if root == key):
        if used and used + sizes[key] > limit:
            count, used = count + 1, 0
        place[key] = count
        used += sizes[key]
    shards: list[list[Key]] = [[] for _ in range(count + 1)]
    for key, root in canonical.items():
        shards[place[root]].append(key)
    return shards


def _free(state: FlatState, names: ShardNames) -> set[Key]:
    """Return the tied keys whose values a file of this format does not hold a second time."""
    if names.ties == "copied":
        return set()
    ties = Ties.within(state.metadata.ties, state)
    return {key for key, root in ties if state.tensor(key) is state.tensor(root)}


def shard_state(state: FlatState, keys: Iterable[Key]) -> FlatState:
    """Return what one shard's file holds: its tensors and ties, and no more of the bridge's metadata."""
    metadata = StateMetadata(ties=state.metadata.ties, extra=state.metadata.extra)
    return state.replace(metadata=metadata).select(keys)


def index_text(state: FlatState, files: Mapping[Key, str], names: ShardNames) -> bytes:
    """Return the index of a state whose tensors stand in these files.

    Raises:
        KeyConflict: Two keys flatten to one name.
        UnsupportedFeature: A name has no UTF-8 form.
    """
    flat, escaped = flat_names(state, names.separator)
    check_text(flat.values())
    free = _free(state, names)
    total = sum(state.spec(key).nbytes for key in state if key not in free)
    marker = dump_metadata(state.layout, state.metadata, escaped_names=escaped)
    listed = {flat[key]: files[key] for key in state if names.ties != "dropped" or key not in free}
    document = {"metadata": {"total_size": total, MARKER: marker}, "weight_map": listed}
    return json.dumps(document, indent=2, ensure_ascii=False).encode() + b"\n"
