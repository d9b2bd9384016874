"""Writes a state to a file, or to a folder of shards, and checks what was written before it appears.

`bridge_core.io.atomic_write` decides when a destination changes; this module decides what is in it.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from bridge_core.checkpoint.destination_errors import shown_as
from bridge_core.checkpoint.detect_format import by_extension
from bridge_core.checkpoint.saved import Saved
from bridge_core.checkpoint.verification import check_written
from bridge_core.checkpoint.write_options import StrPath, WriteOptions, as_path, is_folder
from bridge_core.errors import (
    DestinationExists,
    UnsupportedFeature,
    UsageError,
    VerificationError,
)
from bridge_core.formats import FolderFormat, Format, ShardNames
from bridge_core.io import is_plain_name, replacing_file, replacing_folder, system_failures
from bridge_core.messages import listed, log
from bridge_core.plugins import Registry, held_layers
from bridge_core.state import DTYPES, FlatState, Key, check_given, held_ties, is_floating, join_key
from bridge_core.transfer import FileTarget, Meter, ScratchPool, kernel_for

__all__ = ["chosen_format", "write_checkpoint"]

_OF_PLUGINS = {".orbax": "orbax", ".h5": "hdf5", ".hdf5": "hdf5"}
"""Suffixes that are of one format, which may not be installed."""

_UNLIMITED = 1 << 62
"""Bytes of a shard where the caller sets no limit."""


def write_checkpoint(state: FlatState, path: StrPath, options: WriteOptions, registry: Registry) -> Saved:
    """Write a state to a file or a folder; errors as in `save_state`."""
    destination = as_path(path)
    if options.duplicate_tied:
        state = state.replace(metadata=state.metadata.with_(ties={}))
    state = _with_held_metadata(state, registry)
    used = chosen_format(path, options, registry, layout=state.layout)
    _refuse_contents(state, used, registry)
    if isinstance(used, FolderFormat):
        from bridge_core.checkpoint.folder_writing import write_folder_checkpoint

        log("checkpoint", "writing %s as %s: %d bytes", destination, used.name, state.nbytes)
        return write_folder_checkpoint(state, destination, used, options, registry)
    _refuse_places(options, used)
    if options.sidecar_files:
        _refuse_names(options, registry)
    writer = _Writer(state, used, registry, options)
    log("checkpoint", "writing %s as %s: %d bytes", destination, used.name, state.nbytes)
    if options.fills_folder(path):
        _refuse_other_checkpoint(destination, options, registry)
        return writer.write_folder(destination)
    _refuse_part(state, destination)
    return writer.write_file(destination)


def _with_held_metadata(state: FlatState, registry: Registry) -> FlatState:
    """Return the state without the metadata that contradicts its tensors, since no reader would accept it."""
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


def chosen_format(
    path: StrPath, options: WriteOptions, registry: Registry, *, layout: str | None
) -> Format | FolderFormat:
    """Return the format to write: as given, of the extension, or the usual one of the layout.

    Args:
        path: The destination.
        options: The options of writing.
        registry: Where formats are found.
        layout: The layout of the state.
    """
    if options.format is not None:
        return registry.any_format(options.format)
    name = as_path(path).name
    for candidate in registry.folder_formats.values():
        if name.lower().endswith(candidate.extensions):
            return candidate
    if not options.fills_folder(path) and (named := by_extension(name, registry)):
        return named
    for suffix, missing in _OF_PLUGINS.items():
        if name.lower().endswith(suffix) and missing not in (*registry.formats, *registry.folder_formats):
            return registry.any_format(missing)  # the error names the package to install
    framework = registry.frameworks.get(layout or "")
    return registry.format(framework.default_format if framework else "safetensors")


def _refuse_places(options: WriteOptions, used: Format) -> None:
    """Refuse a step and an item where the format has neither."""
    for value, argument in ((options.step, "to_step= (--to-step)"), (options.item, "to_item= (--to-item)")):
        if value is not None:
            raise UsageError(
                f"{argument} does not apply to the format {used.name}, which has no steps and items.",
                hint='Remove it, or pass a format whose checkpoints are folders, such as format="orbax" '
                "(--format orbax).",
            )


def _refuse_other_checkpoint(folder: Path, options: WriteOptions, registry: Registry) -> None:
    """Refuse to add files of weights to a folder checkpoint: they would be read in its place."""
    from bridge_core.checkpoint.folder_checkpoint import own_checkpoint

    if is_folder(folder) and (other := own_checkpoint(folder, registry)):
        way = f'pass format="{other.name}" (--format {other.name})' if options.format is None else ""
        raise DestinationExists(
            f"the destination is a checkpoint of the format {other.name}, and files of weights in it would "
            "be read in its place.",
            path=folder,
            hint="Give the name of a file or of a new folder" + (f", or {way}." if way else "."),
        )


def _refuse_contents(state: FlatState, used: Format | FolderFormat, registry: Registry) -> None:
    """Refuse the keys and dtypes that no file of the format can hold, before anything is written."""
    for key in state:
        if not key or not all(isinstance(part, str) for part in key):
            raise UsageError(
                f"expected a key, a tuple of one or more strings, got {key!r}.",
                hint='Write a key as a tuple, such as ("layers", "0", "weight").',
            )
    dtypes = used.capabilities.dtypes
    wrong = [key for key, spec in state.specs().items() if spec.dtype.name not in dtypes]
    if wrong:
        names = sorted({state.spec(key).dtype.name for key in wrong})
        keys = listed(map(join_key, wrong))
        have = "tensor has" if len(wrong) == 1 else "tensors have"
        raise UnsupportedFeature(
            f"the format {used.name} cannot hold {', '.join(names)}, which {len(wrong)} {have}: {keys}.",
            hint=_way_to_hold(names, used, registry),
        )


def _way_to_hold(names: Collection[str], used: Format | FolderFormat, registry: Registry) -> str:
    """Return how to write tensors of dtypes that a format cannot hold."""
    able = [other.name for other in registry.formats.values() if other.capabilities.dtypes >= {*names}]
    other = able[0] if able else None
    if (
        all(is_floating(DTYPES[name]) for name in names if name in DTYPES)
        and "float32" in used.capabilities.dtypes
    ):
        more = f", or pass another format, such as {other}" if other else ""
        return f'Cast them, dtype="float32" (--dtype float32){more}.'
    return (
        f'Pass another format, such as format="{other}" (--format {other}).' if other else "Leave them out."
    )


def _refuse_names(options: WriteOptions, registry: Registry) -> None:
    from bridge_core.checkpoint.weight_files import is_weights_name

    weights = is_weights_name(registry.formats.values())
    for name in options.sidecar_files:
        if not is_plain_name(name) or weights(name):
            raise UsageError(
                f"{name!r} cannot be the name of a sidecar file: expected a file name without folders that "
                "weights do not usually have.",
                hint="Give the sidecar file another name, such as 'config.json'.",
            )


def _refuse_part(state: FlatState, destination: Path) -> None:
    """Refuse to replace one of the shards that are read, which would break their set."""
    try:
        status = destination.stat()
    except (OSError, ValueError):  # the writer reports a path that cannot be used
        return
    if state.is_part((status.st_dev, status.st_ino)):
        raise DestinationExists(
            "the destination is one of the shards that the source is read from; replacing it would break the "
            "set.",
            path=destination,
            hint="Give another destination, or the folder itself to replace all its shards.",
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
            with shown_as(temporary, destination):
                self._check(temporary, sums)
                size = temporary.stat().st_size

        with replacing_file(destination, overwrite=self.options.overwrite, check=check) as temporary:
            with shown_as(temporary, destination):
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
                f"the format {self.format.name} has no usual file names, so it cannot fill a folder.",
                hint="Give a file name without max_shard_size= (--max-shard-size), or pass "
                'format="safetensors" (--format safetensors).',
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
            with shown_as(temporary, destination):
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
            with shown_as(temporary, destination):
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
                raise TypeError("the file that it should write is gone, or is no longer a plain file")
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
                err.hint = f"It was written by {self._foreign.origin}. To do without this plugin, {way}."
            raise
        self.state.check_unchanged()
