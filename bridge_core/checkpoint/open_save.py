"""Opening and saving states by path: any format, single files, folders and sharded sets.

Reading finds the format by content and the weights of a folder by their usual names. Writing goes
through `bridge_core.output`: the destination is the old one or the new one, whole, at every moment.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from bridge_core.checkpoint.checkpoint_writer import UNLIMITED, Saved, Writer
from bridge_core.checkpoint.detect_format import by_extension, open_file
from bridge_core.checkpoint.weight_files import find_weights, is_weights_name
from bridge_core.errors import DestinationExists, UnsupportedFeature, UsageError
from bridge_core.formats import Format
from bridge_core.io import SourceFile, is_plain_name
from bridge_core.messages import listed
from bridge_core.plugins import Registry, default_registry
from bridge_core.public import renamed
from bridge_core.state import FlatState, as_state, join_key
from bridge_core.transfer import Budget, Meter, Progress, parse_size

__all__ = ["as_path", "names_folder", "open_state", "save_state", "StrPath"]

StrPath = str | os.PathLike[str]

_BASE_NAME = re.compile(r"\w[\w-]*", re.ASCII)


def as_path(path: StrPath) -> Path:
    """Return a path; an empty one, as an unset variable gives, must not stand for the current folder.

    Raises:
        UsageError: It is empty.
    """
    if not os.fspath(path):
        raise UsageError("the path is empty.", hint="Write '.' for the current folder.")
    return Path(path)


def open_state(
    path: StrPath,
    *,
    format: str | None = None,
    layout: str | None = None,
    registry: Registry | None = None,
    follow_links: bool = False,
) -> FlatState:
    """Open weights lazily; use the state as a context manager, or close it.

    Args:
        path: A file of any name, an index, or a folder (see `find_weights`).
        format: Name of the format; None to tell by content.
        layout: Whose names and axes these are; None to take what the file says, or else the one framework
            whose names they look like.
        registry: The plugins; None for all that are installed.
        follow_links: Whether shards may be symbolic links that lead out of their folder.

    Raises:
        BadInputError: The file is damaged, unsafe, or of no known format.
        SystemFailure: The system refuses.
        UsageError: No plugin provides the format.
    """
    registry = default_registry() if registry is None else registry
    chosen = registry.format(format) if format else None
    place = as_path(path)
    if _is_folder(place):
        place = find_weights(place, format=format, layout=layout, registry=registry)
    used, state = open_file(place, registry, chosen, follow_links=follow_links)
    known = {**state.metadata.provenance, "path": str(place), "format": used.name}
    return state.replace(
        layout=layout or state.layout or used.layout or registry.layout_of(state.specs()),
        metadata=state.metadata.with_(provenance=known),
    )


@renamed(beside="sidecar_files", stem="base_name")
def save_state(
    state: Mapping[Any, Any],
    path: StrPath,
    *,
    format: str | None = None,
    max_shard_size: int | str | None = None,
    overwrite: bool = False,
    registry: Registry | None = None,
    workers: int | None = None,
    max_ram: int | str | None = None,
    progress: Callable[[Progress], None] | None = None,
    verify: bool = False,
    sidecar_files: Mapping[str, SourceFile | bytes] | None = None,
    base_name: str | None = None,
) -> Saved:
    """Write a state to a file, or to a folder in Hugging Face's manner.

    A folder is written where ``max_shard_size`` is given, ``path`` ends with a slash, or a folder stands
    there. Its files get the format's usual names: one file if all fits, else shards and an index. With
    ``overwrite`` an existing folder is replaced whole, so its inode changes: all files with usual names of
    weights, of any format and variant, are gone afterwards, and everything else in it is carried over.

    The destination may be the source itself, with ``overwrite``: the source stays readable until it is
    closed. It may not be one file of a sharded set that is read.

    Args:
        state: A FlatState, or a dict from tuple keys or dotted names to arrays.
        path: Where to; its folder must exist.
        format: Name of the format; None goes by the extension, or else by the state's layout.
        max_shard_size: Bytes of tensors in a shard, or a text such as ``"5GB"``.
        overwrite: Whether to replace what stands there.
        registry: The plugins; None for all that are installed.
        workers: Threads; None for the processors at hand, at most four.
        max_ram: Bytes of buffers in all; None for the default.
        progress: Called with `Progress`, one call at a time, from any thread.
        verify: Read every tensor again and compare checksums, before the destination is touched.
        beside: Name -> file that a folder gets a copy of, or its content. A single file has no place for it.
        stem: First part of the names in a folder, in place of the format's own.

    Raises:
        BadInputError: A source is damaged, or the format cannot hold a tensor or a name.
        DestinationExists: Something stands there, and ``overwrite`` is off; or it is a part of the source.
        SystemFailure: Disk, permission or memory.
        UsageError: Options that make no sense.
        VerificationError: What was written is not what was to be written.
    """
    registry = default_registry() if registry is None else registry
    state = as_state(state)
    limit = None if max_shard_size is None else parse_size(max_shard_size)
    budget = Budget(workers, None if max_ram is None else parse_size(max_ram))
    destination = as_path(path)
    folder = limit is not None or names_folder(path)
    used = _choose(state, destination, format, registry, folder=folder)
    _refuse(state, used)
    meter = Meter(state, progress, verify=verify)
    files = _checked_sidecar_files(sidecar_files or {}, registry)
    writer = Writer(state, used, registry, budget, meter, verify, files, _checked_base_name(base_name))
    if folder:
        return writer.write_folder(destination, limit or UNLIMITED, overwrite=overwrite)
    _refuse_part(state, destination)
    return writer.write_file(destination, overwrite=overwrite)


def names_folder(path: StrPath) -> bool:
    """Tell whether a path of a destination means a folder."""
    return os.fspath(path).endswith(os.sep) or _is_folder(as_path(path))


def _checked_sidecar_files(
    sidecar_files: Mapping[str, SourceFile | bytes], registry: Registry
) -> Mapping[str, SourceFile | bytes]:
    weights = is_weights_name(registry.formats.values())
    for name in sidecar_files:
        if not is_plain_name(name) or weights(name):
            raise UsageError(f"{name!r} is no name for a file beside the weights.")
    return sidecar_files


def _checked_base_name(base_name: str | None) -> str | None:
    if base_name is not None and _BASE_NAME.fullmatch(base_name) is None:
        raise UsageError(
            f"{base_name!r} is no first part of a file name; letters, digits, '_' and '-' make one."
        )
    return base_name


def _refuse_part(state: FlatState, destination: Path) -> None:
    """Refuse to break a set in pieces by writing over one of them."""
    try:
        status = destination.stat()
    except (OSError, ValueError):  # what stands in the way is said where the path is used
        return
    if state.is_part((status.st_dev, status.st_ino)):
        raise DestinationExists(
            "is one of the files that the weights are read from; replacing it would break their set.",
            path=destination,
            hint="Write elsewhere, or replace the whole folder.",
        )


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # what stands in the way is said where the path is used
        return False


def _choose(
    state: FlatState, destination: Path, format: str | None, registry: Registry, *, folder: bool
) -> Format:
    if format is not None:
        return registry.format(format)
    if not folder and (named := by_extension(destination.name, registry.formats.values())):
        return named
    framework = registry.frameworks.get(state.layout or "")
    return registry.format(framework.default_format if framework else "safetensors")


def _refuse(state: FlatState, used: Format) -> None:
    """Refuse what no file of the format can hold, all at once and before anything is made."""
    for key in state:
        if not key or not all(isinstance(part, str) for part in key):
            raise UsageError(f"{key!r} is no key; a tuple of strings was expected.")
    dtypes = used.capabilities.dtypes
    wrong = [key for key, spec in state.specs().items() if spec.dtype.name not in dtypes]
    if wrong:
        names = sorted({state.spec(key).dtype.name for key in wrong})
        keys = listed(map(join_key, wrong))
        raise UnsupportedFeature(
            f"{used.name} cannot hold {', '.join(names)}, which {len(wrong)} tensors have: {keys}.",
            hint="Cast them, or choose another format.",
        )
