"""The interfaces of file formats, which hooks of plugins return."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, runtime_checkable

from bridge_core.formats.file_layout import FileImage
from bridge_core.io import SourceFile
from bridge_core.state import Array, FlatState, Key

__all__ = ["Capabilities", "Format", "FormatWithEntries", "ShardNames", "WriteTarget"]


@dataclass(frozen=True)
class Capabilities:
    """What a format can do; `FormatContract` tests each of these.

    Args:
        lazy: Opening a file reads only headers.
        sliceable: Reading a region reads little more than the bytes of that region.
        streaming_write: Writing needs memory for a block, not for a tensor.
        dtypes: Names of the dtypes that are stored bit for bit.
        metadata: The bridge's metadata survives a write and a read.
        nested: Tuple keys whose parts hold any character survive a write and a read.
        needs_path: Opening needs a local path, since a library opens it by name.
    """

    lazy: bool
    sliceable: bool
    streaming_write: bool
    dtypes: frozenset[str]
    metadata: bool = True
    nested: bool = False
    needs_path: bool = False


@dataclass(frozen=True)
class ShardNames:
    """Usual file names of a format, in the manner of Hugging Face.

    Args:
        single: Name of an unsharded file, e.g. ``model.safetensors``.
        shard: Template of a shard, with ``{index:05d}`` and ``{count:05d}``.
        index: Name of the index file.
        separator: What joins keys in the index.
        ties: How a file holds tied tensors that are one `Tensor` in the state: ``"copied"``, each in
            full; ``"shared"``, each by name and the values once; ``"dropped"``, only the canonical one.
        recorded_separator: Whether keys are joined by the separator that the state's metadata records.
    """

    single: str
    shard: str
    index: str
    separator: str = "."
    ties: str = "copied"
    recorded_separator: bool = False

    def separator_in(self, state: FlatState) -> str:
        """Return what joins the keys of a state in the index."""
        return state.metadata.separator(state.layout) if self.recorded_separator else self.separator

    def with_base_name(self, base_name: str) -> ShardNames:
        """Return the same names with another first part.

        >>> ShardNames("model.pt", "model-{index}.pt", "model.pt.index.json").with_base_name("unet").shard
        'unet-{index}.pt'
        """
        old = self.single.partition(".")[0]
        single, shard, index = (
            base_name + name.removeprefix(old) for name in (self.single, self.shard, self.index)
        )
        return replace(self, single=single, shard=shard, index=index)


class WriteTarget(Protocol):
    """A temporary file that becomes the destination once everything in it is safe."""

    @property
    def path(self) -> Path:
        """The temporary file, for libraries that open files by name. It exists and is empty."""
        ...

    def fill(self, state: FlatState, image: FileImage) -> None:
        """Write a laid-out file: the fast way, with bounded memory, several workers and progress.

        Args:
            state: The tensors to write.
            image: The bytes around the tensors, and the place of each tensor.
        """
        ...

    def blocks(self, state: FlatState, key: Key) -> Iterator[Array]:
        """Yield a tensor's values in row-major order, flat, a bounded block at a time.

        A block is valid until the next one is yielded.

        Args:
            state: The state that holds the tensor.
            key: The tensor's key.
        """
        ...


@runtime_checkable
class Format(Protocol):
    """A file format for one file of tensors."""

    name: str
    """Short name, e.g. ``"safetensors"``."""
    extensions: tuple[str, ...]
    """Suffixes of new files, the usual one first."""
    layout: str | None
    """The layout of files that do not record theirs; None if every file records it."""
    capabilities: Capabilities
    names: ShardNames | None
    """Usual names in a folder; None if it has none."""

    def sniff(self, file: SourceFile) -> bool:
        """Return whether the content is of this format, damaged or not; damage raises nothing.

        Where this is true of a format of ckptbridge and of one of another plugin, the format with the longer
        extension that ends the file's name opens it, and otherwise ckptbridge's format.

        Args:
            file: The open file. It stays open.
        """
        ...

    def open(self, file: SourceFile) -> FlatState:
        """Open a file as a lazy state; the state's `close` must close ``file``.

        Args:
            file: The file. If this method raises, the caller closes it.

        Raises:
            BadInputError: The file is damaged, unsafe, or holds what is not supported.
        """
        ...

    def write(self, state: FlatState, target: WriteTarget) -> None:
        """Write all tensors and the metadata of a state to the temporary file of ``target``.

        Args:
            state: The tensors, which are read a block at a time, and the metadata.
            target: The file to write, and how to write it with bounded memory.

        Raises:
            BridgeError: The format cannot store the state; no byte was written.
        """
        ...


@runtime_checkable
class FormatWithEntries(Format, Protocol):
    """A format whose files hold more than weights, so that it chooses an entry to read.

    For every other format an entry is a path that the names of the tensors begin with.
    """

    def open_entry(self, file: SourceFile, entry: str) -> FlatState:
        """Open one entry of a file; the names of the tensors are those below the entry.

        Args:
            file: As for `open`.
            entry: Path of the entry in the file, joined by dots.

        Raises:
            UsageError: The file does not have this entry.
        """
        ...
