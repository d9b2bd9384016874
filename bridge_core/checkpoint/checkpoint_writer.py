"""Writes a state to a file, or to a folder of shards, and checks what was written before it appears.

`bridge_core.io.atomic_write` decides when a destination changes; this module decides what is in it.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from bridge_core.checkpoint.detect_format import by_extension
from bridge_core.checkpoint.verification import check_written
from bridge_core.checkpoint.write_options import StrPath, WriteOptions, as_path
from bridge_core.errors import (
    BridgeError,
    DestinationExists,
    UnsupportedFeature,
    UsageError,
    VerificationError,
)
from bridge_core.formats import Format, ShardNames
from bridge_core.io import is_plain_name, replacing_file, replacing_folder, system_failures
from bridge_core.messages import listed, log
from bridge_core.plugins import Registry, held_layers
from bridge_core.state import FlatState, Key, check_given, held_ties, join_key
from bridge_core.transfer import FileTarget, Meter, ScratchPool, kernel_for

__all__ = ["Saved", "write_checkpoint"]

_UNLIMITED = 1 << 62
"""Bytes of a shard where nobody set a limit."""


@dataclass(frozen=True)
class Saved:
    """What `save_state` wrote.

    Args:
        files: All files, the index last.
        format: Name of their format.
        total_bytes: Their size in all.
        checksums: Key -> CRC-32 of the tensor's little-endian row-major bytes, as they were written, where
            it was taken: not without verification, and not of tensors that the system copied. Tied
            keys whose values are stored once have one entry.
        overflows: Key -> how many values left the range of the dtype that they were cast to.
    """

    files: tuple[Path, ...]
    format: str
    total_bytes: int
    checksums: Mapping[Key, int]
    overflows: Mapping[Key, int] = field(default_factory=dict)


def write_checkpoint(state: FlatState, path: StrPath, options: WriteOptions, registry: Registry) -> Saved:
    """Write a state to a file or a folder; errors as in `save_state`."""
    destination = as_path(path)
    folder = options.fills_folder(path)
    if options.duplicate_tied:
        state = state.replace(metadata=state.metadata.with_(ties={}))
    state = _with_held_metadata(state, registry)
    used = _choose(state, destination, options.format, registry, folder=folder)
    _refuse_contents(state, used)
    if options.sidecar_files:
        _refuse_names(options, registry)
    writer = _Writer(state, used, registry, options)
    log("checkpoint", "writing %s as %s: %d bytes", destination, used.name, state.nbytes)
    if folder:
        return writer.write_folder(destination)
    _refuse_part(state, destination)
    return writer.write_file(destination)


def _with_held_metadata(state: FlatState, registry: Registry) -> FlatState:
    """Return the state without metadata that its tensors contradict, which no reader would accept."""
    metadata = state.metadata
    check_given(metadata)
    if not (metadata.ties or metadata.layers or metadata.empty or metadata.tree_form):
        return state
    tree_form = metadata.tree_form
    if tree_form.get(state.layout or "") == "variables" and any(len(key) < 2 for key in state):
        tree_form = {name: form for name, form in tree_form.items() if name != state.layout}
    held = metadata.with_(
        ties=held_ties(state),
        layers=held_layers(state, registry),
        empty=tuple(node for node in metadata.empty if node not in state),
        tree_form=tree_form,
    )
    return state.replace(metadata=held)


def _choose(
    state: FlatState, destination: Path, format: str | None, registry: Registry, *, folder: bool
) -> Format:
    if format is not None:
        return registry.format(format)
    if not folder and (named := by_extension(destination.name, registry)):
        return named
    framework = registry.frameworks.get(state.layout or "")
    return registry.format(framework.default_format if framework else "safetensors")


def _refuse_contents(state: FlatState, used: Format) -> None:
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


def _refuse_names(options: WriteOptions, registry: Registry) -> None:
    from bridge_core.checkpoint.weight_files import is_weights_name

    weights = is_weights_name(registry.formats.values())
    for name in options.sidecar_files:
        if not is_plain_name(name) or weights(name):
            raise UsageError(f"{name!r} is no name for a file beside the weights.")


def _refuse_part(state: FlatState, destination: Path) -> None:
    """Refuse to break a set in pieces by writing over one of them."""
    try:
        status = destination.stat()
    except (OSError, ValueError):  # what is in the way is said where the path is used
        return
    if state.is_part((status.st_dev, status.st_ino)):
        raise DestinationExists(
            "is one of the files that the weights are read from; replacing it would break their set.",
            path=destination,
            hint="Write elsewhere, or replace the whole folder.",
        )


class _Writer:
    """One state on its way to one destination."""

    def __init__(self, state: FlatState, used: Format, registry: Registry, options: WriteOptions) -> None:
        self.state = state
        self.format = used
        self.registry = registry
        self.options = options
        self._foreign = registry.foreign_plugin("formats", used.name)
        self.meter = Meter(state, options.progress, verify=options.verify)
        self.overflows: dict[Key, int] = {}

    @functools.cached_property
    def pool(self) -> ScratchPool:
        """Scratch memory for all the files."""
        return ScratchPool(kernel_for(self.state.nbytes))

    def write_file(self, destination: Path) -> Saved:
        sums: dict[Key, int] = {}
        size = 0

        def check(temporary: Path) -> None:
            nonlocal size
            with _shown_as(temporary, destination):
                self._check(temporary, sums)
                size = temporary.stat().st_size

        with replacing_file(destination, overwrite=self.options.overwrite, check=check) as temporary:
            with _shown_as(temporary, destination):
                sums.update(self._fill(self.state, temporary, destination))
            self.meter.finish()
        return Saved((destination,), self.format.name, size, sums, self.overflows)

    def write_folder(self, destination: Path) -> Saved:
        """Write one file or a sharded set, and the sidecar files."""
        from bridge_core.checkpoint.sidecar_files import check_copy, copy_file, create_file
        from bridge_core.checkpoint.weight_files import is_weights_name
        from bridge_core.formats import partition

        names = self.format.names
        if names is None:
            raise UsageError(
                f"format {self.format.name} has no usual file names, so it cannot fill a folder.",
                hint="Give a file name and no shard size.",
            )
        if self.options.base_name is not None:
            names = names.with_base_name(self.options.base_name)
        sidecar_files = self.options.sidecar_files
        groups = partition(self.state, self.options.shard_nbytes or _UNLIMITED, names)
        sums: dict[Key, int] = {}
        written: list[str] = []
        total = 0

        def check(temporary: Path) -> None:
            nonlocal total
            with _shown_as(temporary, destination):
                self._check(temporary / written[-1], sums)
                for name, source in sidecar_files.items():
                    check_copy(source, temporary / name, read_again=self.options.verify)
                total = sum((temporary / name).stat().st_size for name in written)

        weights = is_weights_name(self.registry.formats.values())
        with replacing_folder(
            destination,
            overwrite=self.options.overwrite,
            check=check,
            keep=lambda entry: entry.is_dir() or not (weights(entry.name) or entry.name in sidecar_files),
        ) as temporary:
            with _shown_as(temporary, destination):
                for name, data in self._parts(groups, names):
                    written.append(name)
                    create_file(temporary / name, data if isinstance(data, bytes) else b"")
                    if isinstance(data, FlatState):
                        sums.update(self._fill(data, temporary / name, destination / name))
                for name, source in sidecar_files.items():
                    copy_file(source, temporary / name)
            self.meter.finish()
        files = tuple(destination / name for name in written)
        return Saved(files, self.format.name, total, sums, self.overflows)

    def _parts(self, groups: list[list[Key]], names: ShardNames) -> Iterator[tuple[str, FlatState | bytes]]:
        """Yield the files of a folder: their names, and the tensors or the text that they hold."""
        if len(groups) == 1:
            yield names.single, self.state
            return
        from bridge_core.formats import index_text, shard_state

        files: dict[Key, str] = {}
        for number, keys in enumerate(groups, 1):
            name = names.shard.format(index=number, count=len(groups))
            files.update(dict.fromkeys(keys, name))
            if number == 1:
                index_text(self.state, dict.fromkeys(self.state, name), names)  # refuses names, early
            yield name, shard_state(self.state, keys)
        yield names.index, index_text(self.state, files, names)

    def _fill(self, state: FlatState, path: Path, destination: Path) -> Mapping[Key, int]:
        options = self.options
        target = FileTarget(path, options.budget, self.meter.add, sums=options.verify, pool=self.pool)
        plugins = self.registry.foreign_failures("formats", self.format.name, f"write {destination}")
        with plugins, system_failures(path, "writing"):
            self.format.write(state, target)
            if self._foreign is not None and (path.is_symlink() or not path.is_file()):
                raise TypeError("the file that it was to write is gone, or is not a plain file any more")
        self.overflows.update(target.overflows)
        return target.checksums

    def _check(self, path: Path, sums: Mapping[Key, int]) -> None:
        try:
            check_written(
                path,
                self.state,
                self.format,
                registry=self.registry,
                checksums=sums if self.options.verify else None,
                budget=self.options.budget,
                report=self.meter.verified,
            )
        except VerificationError as err:
            if self._foreign is not None and self._foreign.way_without:
                way = self._foreign.way_without
                err.hint = f"{self._foreign.origin} wrote it; to do without this plugin, {way}."
            raise
        self.state.check_unchanged()


@contextlib.contextmanager
def _shown_as(temporary: Path, destination: Path) -> Iterator[None]:
    """Let errors name the destination, not the temporary that is written in its place."""
    try:
        with system_failures(destination, "writing"):
            yield
    except BridgeError as err:
        if err.path is not None and Path(err.path).is_relative_to(temporary):
            err.path = destination / Path(err.path).relative_to(temporary)
        raise
