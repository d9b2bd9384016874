"""A folder of shards that several processes write together: each writes some files, one of them the index."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from bridge_core.checkpoint.destinations import as_destined, destination_at
from bridge_core.checkpoint.file_writing import FileWriter
from bridge_core.checkpoint.saved import Saved
from bridge_core.checkpoint.shards import PlannedFile, plan_files, write_planned_file
from bridge_core.checkpoint.weight_files import is_weights_name
from bridge_core.checkpoint.write_checks import checked_state
from bridge_core.checkpoint.write_options import Destined, WriteOptions, as_path
from bridge_core.errors import DestinationExists, UsageError
from bridge_core.formats import FolderFormat
from bridge_core.io import RemotePath
from bridge_core.plugins import Registry
from bridge_core.state import FlatState, Key, Tensor

__all__ = ["JointFolder"]

_SHARD_SIZE = 5_000_000_000


class JointFolder:
    """What is written by several processes, the same in each of them.

    Nothing is written before `write`, and the folder is not a checkpoint before `finish`.

    Args:
        state: The tensors; only specs, ties and metadata are used.
        path: The folder, or its URL; it holds no weights yet.
        options: The options of writing. Without ``max_shard_size`` every process gets a file, and none is
            larger than 5 GB unless one tensor is.
        registry: The plugins.
        writers: The number of processes.

    Raises:
        DestinationExists: The folder holds weights.
        UsageError: An option or a key is not valid, or the format writes no shards.
        UnsupportedFeature: The format cannot hold a dtype.
    """

    def __init__(
        self, state: FlatState, path: Destined, options: WriteOptions, registry: Registry, writers: int
    ) -> None:
        if options.overwrite:
            raise UsageError(
                "overwrite=True cannot be combined with arrays on several hosts: nothing is replaced.",
                hint="Remove overwrite=True, and give a new folder.",
            )
        if options.max_shard_size is None:
            share = min(_SHARD_SIZE, -(-state.nbytes // writers))
            options = replace(options, max_shard_size=max(1, share))
        destined = as_destined(path, registry)
        self.state, used = checked_state(state, destined, options, registry)
        if isinstance(used, FolderFormat):
            raise UsageError(
                f"the format {used.name} writes a checkpoint as one; several processes cannot.",
                hint='Pass format="safetensors".',
            )
        self.format = used
        self._folder: Path | RemotePath = destined if isinstance(destined, RemotePath) else as_path(destined)
        self._options, self._registry = options, registry
        self._destination = destination_at(destined, registry)
        self._planned = plan_files(self.state, used, options)
        self._writers = writers
        self._written: list[str] = []
        self._refuse_weights()

    @property
    def rounds(self) -> tuple[tuple[PlannedFile, ...], ...]:
        """The files that are written at the same time, one by each process in their order."""
        files = self._planned.files
        return tuple(files[at : at + self._writers] for at in range(0, len(files), self._writers))

    @property
    def description(self) -> tuple[str, ...]:
        """Texts that are equal in processes that write the same."""
        specs = (f"{key} {spec}" for key, spec in self.state.specs().items())
        return (str(self._folder), self.format.name, *self._planned.names, *specs)

    def write(self, file: PlannedFile, values: Mapping[Key, Tensor]) -> None:
        """Write one file; it appears when it is complete.

        Args:
            file: One of ``rounds``.
            values: The tensors of the file whose values the state does not have.

        Raises:
            VerificationError: What was written differs from the state.
            SystemFailure: The system failed: disk, permission or memory.
        """
        # Tied keys share one tensor, before and afterwards.
        others = {id(self.state.tensor(key)): tensor for key, tensor in values.items()}
        tensors = {key: others.get(id(tensor), tensor) for key, tensor in self.state.tensors().items()}
        state = self.state.replace(tensors=tensors)
        writer = FileWriter(state.select(file.keys), self.format, self._registry, self._options)

        def fill(path: Path) -> None:
            write_planned_file(
                state,
                file,
                path,
                self.format,
                self._options,
                self._registry,
                destination=self._folder / file.name,
                writer=writer,
            )

        self._destination.put(file.name, fill)
        self._written.append(file.name)
        writer.meter.finish()

    def finish(self) -> None:
        """Write the index; one process does, after all of them have written their files."""
        if self._planned.index_name is not None:
            text = self._planned.index_text or b""

            def fill(path: Path) -> None:
                path.write_bytes(text)

            self._destination.put(self._planned.index_name, fill)
            self._written.append(self._planned.index_name)

    def undo(self) -> None:
        """Remove what this process wrote."""
        for name in reversed(self._written):
            self._destination.remove(name)
        self._destination.remove_if_empty()

    def saved(self) -> Saved:
        """Return what all processes wrote."""
        sizes = self._destination.sizes()
        files = tuple(self._folder / name for name in self._planned.names)
        return Saved(files, self.format.name, sum(sizes.get(name, 0) for name in self._planned.names), {})

    def _refuse_weights(self) -> None:
        is_weights = is_weights_name(self._registry.formats.values())
        present = [name for name in self._destination.names() if is_weights(name)]
        if present:
            raise DestinationExists(
                f"the folder holds weights, such as {present[0]}; a tree on several hosts replaces none.",
                path=self._folder,
                hint="Give a new folder.",
            )
