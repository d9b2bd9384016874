"""The options of writing a checkpoint."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from bridge_core.errors import UsageError
from bridge_core.io import Location, RemotePath, SourceFile, scheme_of, shown_url
from bridge_core.messages import shown
from bridge_core.public import require_bool
from bridge_core.transfer import Budget, Progress, parse_size

__all__ = [
    "Destined",
    "StrPath",
    "USUAL_SHARD_SIZE",
    "WriteOptions",
    "as_location",
    "as_path",
    "is_folder",
    "require_step",
]

StrPath = str | os.PathLike[str]

Destined = StrPath | RemotePath
"""A destination as the caller gave it, a URL as a path at its file system."""

USUAL_SHARD_SIZE = "5GB"
"""Largest shard of a folder at a URL, or written in parts, where the caller gives no limit."""

_BASE_NAME = re.compile(r"\w[\w-]*", re.ASCII)


@dataclass(frozen=True)
class WriteOptions:
    """The options of writing a checkpoint; see `bridge_core.save_state` for each field.

    Raises:
        UsageError: A value is of another type, a size or a number of threads is not valid, or the base name
            has other characters than letters, digits, '_' and '-'.
    """

    format: str | None = None
    max_shard_size: int | str | None = None
    workers: int | None = None
    max_ram: int | str | None = None
    overwrite: bool = False
    verify: bool = False
    progress: Callable[[Progress], None] | None = None
    sidecar_files: Mapping[str, SourceFile | bytes] = field(default_factory=dict)
    base_name: str | None = None
    duplicate_tied: bool = False
    """Whether each of several tied tensors is written in full."""
    step: int | None = None
    """Number of the step to write, in a format whose checkpoints have steps."""
    item: str | None = None
    """Name of the item to write, in a format whose checkpoints have items."""

    def __post_init__(self) -> None:
        """Check the types, the sizes, the number of threads and the base name."""
        _ = self.shard_nbytes, self.budget
        require_bool("overwrite", self.overwrite)
        require_bool("verify", self.verify)
        require_step(self.step, "to_step")
        if self.item is not None and not isinstance(self.item, str):
            raise UsageError(f"expected to_item= to be the name of an item, got {shown(self.item)}.")
        for argument, value, expected, is_one in (
            ("progress", self.progress, "a function", self.progress is None or callable(self.progress)),
            ("sidecar_files", self.sidecar_files, "a dict of names", isinstance(self.sidecar_files, Mapping)),
        ):
            if not is_one:
                raise UsageError(f"expected {argument}= to be {expected}, got {shown(value)}.")
        if self.base_name is not None and (
            not isinstance(self.base_name, str) or _BASE_NAME.fullmatch(self.base_name) is None
        ):
            raise UsageError(
                f"base_name={self.base_name!r} cannot begin a file name: only letters, digits, '_' and '-' "
                "can.",
                hint='Pass a name such as base_name="model".',
            )

    @functools.cached_property
    def shard_nbytes(self) -> int | None:
        """Largest bytes of tensors in a shard; None if the caller sets no limit."""
        return None if self.max_shard_size is None else parse_size(self.max_shard_size)

    @functools.cached_property
    def budget(self) -> Budget:
        """Threads and memory."""
        return Budget(self.workers, None if self.max_ram is None else parse_size(self.max_ram))

    def fills_folder(self, destination: Destined) -> bool:
        """Return whether a destination is a folder.

        It is one for shards, by its name, or because it exists as one.
        """
        if isinstance(destination, RemotePath):
            is_named_so = destination.url.endswith("/") or not destination.name
            return self.max_shard_size is not None or is_named_so or destination.is_dir()
        path = as_path(destination)
        ends_as_folder = os.fspath(destination).endswith((os.sep, os.altsep or os.sep))
        return self.max_shard_size is not None or ends_as_folder or is_folder(path)


def as_path(path: StrPath) -> Path:
    """Return a path; an empty one, as an unset shell variable gives, is refused.

    Raises:
        UsageError: The value is not a path, is empty, or is an address such as ``https://...``.
    """
    text = os.fspath(path) if isinstance(path, str | os.PathLike) else None
    if not isinstance(text, str):
        raise UsageError(f"expected a path, a str or a pathlib.Path, got {shown(path)}.")
    if not text:
        raise UsageError("the path is empty.", hint="Write '.' for the current folder.")
    if scheme_of(text) and not os.path.lexists(text):
        raise UsageError(
            f"expected the path of a local file or folder, got the address {shown_url(text)}.",
            hint="Download the source first, or write to a local path and upload the result.",
        )
    return Path(path)


def as_location(destination: Destined) -> Location:
    """Return where a destination is; errors as in `as_path`."""
    return destination if isinstance(destination, RemotePath) else as_path(destination)


def is_folder(path: Location) -> bool:
    """Return whether a path is a folder; the code that uses the path reports one that cannot be read."""
    if isinstance(path, RemotePath):
        return path.is_dir()
    try:
        return path.is_dir()
    except OSError:
        return False


def require_step(step: object, argument: str = "step") -> None:
    """Check the argument that gives a step.

    Args:
        step: Its value.
        argument: Its name; the option of the command has the same name, with hyphens.

    Raises:
        UsageError: It is neither None nor an integer from zero up.
    """
    if step is not None and (not isinstance(step, int) or isinstance(step, bool) or step < 0):
        raise UsageError(
            f"expected {argument}= to be the number of a step, got {shown(step)}.",
            hint=f"Pass {argument}=1000 (--{argument.replace('_', '-')} 1000).",
        )
