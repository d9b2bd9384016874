"""Sharded sets: several files of one format, and a JSON index that maps tensors to files.

The index is untrusted: it names files, and only plain files in its own folder are opened. Any format with
usual names (`ShardNames`) can be sharded; the bridge's metadata is stored in the index.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Hashable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from bridge_core.errors import FileWarning, KeyConflict, MalformedFile, ShardError, UsageError
from bridge_core.formats.base import Format, ShardNames
from bridge_core.formats.index_values import check_text
from bridge_core.formats.shard_folder import ShardFolder, check_complete, compare_folder
from bridge_core.formats.shard_index import ShardIndex, read_shard_index
from bridge_core.io import Location, SourceFile, open_listed
from bridge_core.messages import count, listed
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
    separator_of,
)

__all__ = ["index_text", "open_sharded", "OpenShard", "partition", "shard_state"]

OpenShard = Callable[[SourceFile, Format | None], tuple[Format, FlatState]]
"""Opens a file: as the given format, or as the format of its content if None is given."""


def open_sharded(
    file: SourceFile, open_shard: OpenShard, formats: Iterable[Format], *, follow_links: bool = False
) -> tuple[Format, FlatState]:
    """Open an index and all its shards as one state.

    The index is closed, and on an error the shards are closed too. Tensors come in the order of the
    index, then tied ones that it does not name.

    Args:
        file: The index.
        open_shard: Opens one shard.
        formats: Formats whose usual index names are recognised.
        follow_links: Whether shards may be symbolic links that lead anywhere. Links within the folder,
            and those of a Hugging Face cache from ``snapshots`` into ``blobs``, are always followed.

    Raises:
        KeyConflict: A tensor is in two shards.
        LimitExceeded: The index is larger than 100 MiB.
        MalformedFile: The index breaks the rules, or a shard those of its format.
        ShardError: The index and its shards disagree.
        UnsafeFile: The index names something other than a plain file in its folder.
    """
    with file:
        index = read_shard_index(file)
    folder = file.path.parent
    by_name = next((f for f in formats if f.names and file.path.name == f.names.index), None)
    sources = _open_files(index, folder, file, follow_links)
    states: dict[str, FlatState] = {}
    with ExitStack() as undo:
        for source in sources.values():
            undo.callback(source.close)
        shard_format: Format | None = None
        for name, source in sources.items():
            used, state = open_shard(source, by_name or shard_format)
            undo.callback(state.close)
            expected = by_name or shard_format or used
            if used.name != expected.name:
                raise ShardError(
                    f"expected the format {expected.name} of the shard {name!r}, got {used.name}.",
                    path=file.name,
                )
            shard_format = used
            states[name] = state
        assert shard_format is not None
        identities = frozenset(source.identity for source in (file, *sources.values()))
        close = _Shards(tuple(states.values()), identities)
        merged = _merge(index, states, shard_format.names, file.name, close)
        merged = _with_notes(merged, compare_folder(sources, folder, index=file.name))
        undo.pop_all()
    return shard_format, merged


@dataclass(frozen=True)
class _Shards:
    """The ``close`` of a merged state: closes all shards, and checks that they are unchanged."""

    states: tuple[FlatState, ...]
    identities: frozenset[Hashable]

    def __call__(self) -> None:
        for state in self.states:
            state.close()

    def check_unchanged(self) -> None:
        for state in self.states:
            state.check_unchanged()


def _open_files(
    index: ShardIndex, folder: Location, file: SourceFile, follow_links: bool
) -> dict[str, SourceFile]:
    """Open all shards; on an error none stays open."""
    names = dict.fromkeys(index.weight_map.values())
    check_complete(names, folder, index=file.name)
    sources: dict[str, SourceFile] = {}
    with ExitStack() as undo:
        for name in names:
            source = open_listed(folder / name, follow_links=follow_links)
            undo.callback(source.close)
            if source.identity == file.identity:
                raise ShardError(f"the index lists itself as the shard {name!r}.", path=file.name)
            sources[name] = source
            source.prefetch_header()
        undo.pop_all()
    return sources


def _with_notes(state: FlatState, folder: ShardFolder) -> FlatState:
    if not folder.notes:
        return state
    metadata = state.metadata
    part = {"part": folder.absent} if folder.absent else {}
    notes = (*metadata.notes, *folder.notes)
    return state.replace(metadata=metadata.with_(notes=notes, provenance={**metadata.provenance, **part}))


def _merge(
    index: ShardIndex, states: Mapping[str, FlatState], names: ShardNames | None, path: str, close: _Shards
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
        raise ShardError(
            f"expected one layout in all shards, got {' and '.join(sorted(layouts))}.", path=path
        )
    layout = next(iter(layouts), None)
    metadata = _merged_metadata([state.metadata for state in states.values()])
    if index.marker is not None:
        layout = index.marker[0] or layout
        metadata = index.marker[1].with_(
            extra=metadata.extra, ties={**metadata.ties, **index.marker[1].ties}, notes=metadata.notes
        )
    if any("separator" in state.metadata.provenance for state in states.values()):
        metadata = metadata.with_(provenance={"separator": "/"})
    for key, canonical in metadata.ties.items():
        if canonical not in tensors:
            raise MalformedFile(
                f"the tensor is tied to {join_key(canonical)!r}, which is not in any shard.",
                path=path,
                key=key,
            )
        tensors.setdefault(key, tensors[canonical])
    _compare_sizes(index.total_size, tensors, metadata.ties, path)
    return FlatState(tensors, layout=layout, metadata=metadata, close=close)


def _split_alike(index: ShardIndex, states: Mapping[str, FlatState]) -> Mapping[str, FlatState]:
    """Return the shards with names split by the separator that all names of the set show."""
    slashed = {
        shard: {key: "/".join(key) for key in state}
        for shard, state in states.items()
        if state.metadata.provenance.get("separator") == "/"
    }
    named = (name for names in slashed.values() for name in names.values())
    recorded = None if index.marker is None else index.marker[1].separator(index.marker[0])
    if not slashed or (recorded or separator_of((*index.weight_map, *named))) == "/":
        return states
    dotted = dict(states)
    for shard, names in slashed.items():
        part = states[shard].rename(names)
        dotted[shard] = part.replace(metadata=part.metadata.with_(provenance={}, separators={}))
    return dotted


def _compare(
    index: ShardIndex,
    holders: Mapping[str, list[tuple[str, Key]]],
    states: Mapping[str, FlatState],
    path: str,
) -> None:
    for name, places in holders.items():
        if len(places) > 1:
            where = ", ".join(shard for shard, _ in places)
            raise KeyConflict(f"the tensor is in {len(places)} shards: {where}.", path=path, key=name)
    absent = [n for n, shard in index.weight_map.items() if n not in holders or holders[n][0][0] != shard]
    if absent:
        raise ShardError(
            f"the index assigns {count(len(absent), 'tensor')} to shards that do not hold "
            f"{'them' if absent[1:] else 'it'}: {listed(absent)}.",
            path=path,
            hint="Fetch the index and its shards again, from one revision.",
        )
    extra = [
        name
        for name, [(shard, key)] in holders.items()
        if name not in index.weight_map and key not in states[shard].metadata.ties
    ]
    if extra:
        raise ShardError(
            f"the shards hold {count(len(extra), 'tensor')} that the index does not name: {listed(extra)}.",
            path=path,
            hint="Fetch the index and its shards again, from one revision.",
        )


def _compare_sizes(
    total_size: int | None, tensors: Mapping[Key, Tensor], ties: Mapping[Key, Key], path: str
) -> None:
    """Warn of a wrong total; writers differ in counting ties and packing narrow elements."""
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
            f"{path}: 'total_size' is {total_size} bytes, but the tensors in the shards are {min(possible)}.",
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
        boxes=union("boxes"),
        separators=union("separators"),
        auxiliary_tensors=union("auxiliary_tensors"),
        empty=tuple(dict.fromkeys(path for part in parts for path in part.empty)),
        tree_form=union("tree_form"),
        extra=union("extra"),
        providers=union("providers"),
        notes=tuple(dict.fromkeys(note for part in parts for note in part.notes)),
    )


def partition(state: FlatState, limit: int, names: ShardNames) -> list[list[Key]]:
    """Divide keys over shards of at most ``limit`` bytes of tensors, in their order.

    A tensor larger than the limit gets a shard of its own; tied keys go where the canonical key goes. No
    shard is empty, but for the only one of a state without keys.

    Args:
        state: The state; only its specs and ties are used.
        limit: Bytes of the tensors in a shard.
        names: Names of the format, which determine how tied tensors count.

    Raises:
        UsageError: The limit is less than 1.
    """
    if limit < 1:
        raise UsageError(
            f"expected a shard size of at least 1 byte, got {limit}.",
            hint='Pass max_shard_size="5GB" (--max-shard-size).',
        )
    ties = Ties.within(state.metadata.ties, state)
    canonical = {key: ties.root(key) for key in state}
    free = _free(state, names)
    sizes: dict[Key, int] = {}
    for key, root in canonical.items():
        sizes[root] = sizes.get(root, 0) + (0 if key in free else state.spec(key).nbytes)
    place: dict[Key, int] = {}
    used = last = 0
    for key in (key for key, root in canonical.items() if root == key):
        if used and used + sizes[key] > limit:
            last, used = last + 1, 0
        place[key] = last
        used += sizes[key]
    shards: list[list[Key]] = [[] for _ in range(last + 1)]
    for key, root in canonical.items():
        shards[place[root]].append(key)
    return shards


def _free(state: FlatState, names: ShardNames) -> set[Key]:
    """Return the tied keys whose values a file of this format does not store a second time."""
    if names.ties == "copied":
        return set()
    ties = Ties.within(state.metadata.ties, state)
    return {key for key, root in ties if state.tensor(key) is state.tensor(root)}


def shard_state(state: FlatState, keys: Iterable[Key]) -> FlatState:
    """Return the state of one shard's file: its tensors and ties, without other metadata.

    Args:
        state: The state of all shards.
        keys: The keys of one shard, in the order of the state.
    """
    known = state.metadata
    own = {"": "/"} if known.separator(state.layout) == "/" else {}
    metadata = StateMetadata(ties=known.ties, extra=known.extra, separators=own)
    # Only what the shard holds is looked through: selecting from a large state costs as much as the state.
    part = {key: state.tensor(key) for key in keys}
    return state.replace(tensors=part, metadata=metadata).select(part)


def index_text(state: FlatState, files: Mapping[Key, str], names: ShardNames) -> bytes:
    """Return the index of a state as UTF-8 text.

    Args:
        state: The state.
        files: Key -> file name of its shard.
        names: Names of the format of the shards.

    Raises:
        KeyConflict: Two keys flatten to one name.
        UnsupportedFeature: A name cannot be encoded as UTF-8.
    """
    flat, escaped = flat_names(state, names.separator_in(state))
    check_text(flat.values())
    free = _free(state, names)
    total = sum(state.spec(key).nbytes for key in state if key not in free)
    marker = dump_metadata(state.layout, state.metadata, escaped_names=escaped)
    weight_map = {flat[key]: files[key] for key in state if names.ties != "dropped" or key not in free}
    document = {"metadata": {"total_size": total, MARKER: marker}, "weight_map": weight_map}
    return json.dumps(document, indent=2, ensure_ascii=False).encode() + b"\n"
