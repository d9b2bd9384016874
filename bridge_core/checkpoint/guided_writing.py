"""The options of writing, completed with what a model library knows about the checkpoint."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace

from bridge_core.checkpoint.format_choice import chosen_format
from bridge_core.checkpoint.locations import location_of
from bridge_core.checkpoint.write_options import Destined, WriteOptions
from bridge_core.formats import FolderFormat
from bridge_core.io import SourceFile, open_listed
from bridge_core.plugins import Guidance, Registry
from bridge_core.state import FlatState

__all__ = ["guided"]


@contextlib.contextmanager
def guided(
    options: WriteOptions,
    known: Guidance,
    source: FlatState,
    destination: Destined,
    registry: Registry,
    *,
    layout: str | None,
    follow_links: bool,
) -> Iterator[WriteOptions]:
    """Yield the options of writing with what a library adds.

    The sidecar files are open inside the block.

    Args:
        options: The caller's options, which go first.
        known: What the library adds.
        source: The weights; the sidecar files are in their folder.
        destination: The destination; only a folder of files gets sidecar files and a limit of its shards.
        registry: Where formats are found.
        layout: The layout of what is written.
        follow_links: Whether the sidecar files may be symbolic links that lead out of their folder.
    """
    options = replace(options, base_name=known.base_name, duplicate_tied=known.duplicate_tied)
    used = chosen_format(destination, options, registry, layout=layout)
    if isinstance(used, FolderFormat) or not options.fills_folder(destination):
        yield options
        return
    limit = known.max_shard_size if options.max_shard_size is None else options.max_shard_size
    sidecar_files: dict[str, SourceFile | bytes] = {}
    with contextlib.ExitStack() as files:
        for name in known.sidecar_files:
            where = location_of(source)
            assert where is not None, "a library is asked about checkpoints that were opened"
            file = files.enter_context(open_listed(where.parent / name, follow_links=follow_links))
            sidecar_files[name] = known.sidecar_contents.get(name, file)
        yield replace(options, max_shard_size=limit, sidecar_files=sidecar_files)
