"""What a file format and a framework adapter must offer; hooks return objects of these shapes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from bridge_core.files import SourceFile
from bridge_core.keys import Key
from bridge_core.state import FlatState
from bridge_core.tensors import Array, TensorSpec

__all__ = [
    "Capabilities",
    "Extent",
    "FileImage",
    "Format",
    "Framework",
    "Relocating",
    "ShardNames",
    "WriteTarget",
]


@dataclass(frozen=True)
class Capabilities:
    """What a format can do; the contract tests hold it to its word.

    Args:
        lazy: Opening reads headers alone.
        sliceable: Reading a region reads about that region alone.
        streaming_write: Writing needs memory for a block, not for a tensor.
        dtypes: Names of the dtypes it stores bit for bit.
        metadata: It keeps the bridge's metadata through a write and a read.
        nested: It keeps tuple keys whose parts hold any character.
    """

    lazy: bool
    sliceable: bool
    streaming_write: bool
    dtypes: frozenset[str]
    metadata: bool = True
    nested: bool = False


@dataclass(frozen=True)
class ShardNames:
    """Usual file names of a format, in the manner of Hugging Face.

    Args:
        single: Name of an unsharded file, e.g. ``model.safetensors``.
        shard: Template of a shard, with ``{index:05d}`` and ``{count:05d}``.
        index: Name of the index file.
        separator: What joins keys in the index.
        ties: How a file holds tied tensors that are one `Tensor` in the state: ``"copied"``, each in
            full; ``"shared"``, each by name and the values once; ``"dropped"``, the kept one alone.
    """

    single: str
    shard: str
    index: str
    separator: str = "."
    ties: str = "copied"

    def with_stem(self, stem: str) -> ShardNames:
        """Return the same names with another first part.

        >>> ShardNames("model.pt", "model-{index}.pt", "model.pt.index.json").with_stem("unet").shard
        'unet-{index}.pt'
        """
        old = self.single.partition(".")[0]
        single, shard, index = (
            stem + name.removeprefix(old) for name in (self.single, self.shard, self.index)
        )
        return replace(self, single=single, shard=shard, index=index)


@dataclass(frozen=True)
class Extent:
    """Where a run of a tensor's row-major bytes stands in a file.

    Args:
        start: First byte within the tensor.
        nbytes: Length of the run.
        offset: Position in the file.
    """

    start: int
    nbytes: int
    offset: int


@dataclass(frozen=True)
class FileImage:
    """A file laid out before any tensor is read: headers, and places for the tensors' bytes.

    Args:
        size: Bytes of the whole file.
        segments: ``(offset, bytes)`` of everything that is no tensor and known beforehand.
        slots: Key -> extents, together the tensor's little-endian row-major bytes. Keys of the state
            that are missing here share the slot of another key and are not written again.
        seeds: Key -> CRC-32 of bytes that stand before the tensor in the same checksum.
        finish: Given the CRC-32 of each slot's key (seed included), returns the last
            ``(offset, bytes)``; None where the format keeps no checksum.
        pack: Elements a byte for keys whose dtype the format packs; they are written packed.
    """

    size: int
    segments: tuple[tuple[int, bytes], ...]
    slots: Mapping[Key, tuple[Extent, ...]]
    seeds: Mapping[Key, int] = field(default_factory=dict)
    finish: Callable[[Mapping[Key, int]], Iterable[tuple[int, bytes]]] | None = None
    pack: Mapping[Key, int] = field(default_factory=dict)


class WriteTarget(Protocol):
    """A temporary file that becomes the destination once everything in it is safe."""

    @property
    def path(self) -> Path:
        """The temporary file, for libraries that open files by name. It exists and is empty."""
        ...

    def fill(self, state: FlatState, image: FileImage) -> None:
        """Write a laid-out file: the fast way, with bounded memory, several workers and progress."""
        ...

    def blocks(self, state: FlatState, key: Key) -> Iterator[Array]:
        """Yield a tensor's values in row-major order, flat, a bounded block at a time."""
        ...


@runtime_checkable
class Format(Protocol):
    """A file format for one file of tensors."""

    name: str
    """Short name, e.g. ``"safetensors"``."""
    extensions: tuple[str, ...]
    """Suffixes of new files, the usual one first."""
    layout: str | None
    """The layout its files are in when they do not say so; None if they always do."""
    capabilities: Capabilities
    names: ShardNames | None
    """Usual names in a folder; None if it has none."""

    def sniff(self, file: SourceFile) -> bool:
        """Tell from the content whether the file is of this format, damaged or not; never raise for that."""
        ...

    def open(self, file: SourceFile) -> FlatState:
        """Open a file. The state's `close` must close ``file``; on an error the caller does."""
        ...

    def write(self, state: FlatState, target: WriteTarget) -> None:
        """Write a whole state. Must refuse what it cannot store before writing any byte."""
        ...


@runtime_checkable
class Framework(Protocol):
    """An adapter between a framework's live objects and flat states in that framework's layout."""

    name: str
    """Also the name of its layout, e.g. ``"torch"``."""
    collections: Mapping[str, tuple[str, ...]]
    """Heads of keys, e.g. ``{"params": (), "batch_stats": ("mean", "var")}``: which roles stand under
    which; the first is the default. Empty if keys have no heads."""
    default_format: str
    """Format of a destination that does not say which."""

    def owns(self, names: Mapping[Key, TensorSpec]) -> bool:
        """Tell from names alone whether a state looks like this framework's."""
        ...

    def accepts(self, value: Any) -> bool:
        """Tell whether a live object is this framework's; must not import the framework."""
        ...

    def state(self, value: Any) -> FlatState:
        """Return a live object's tensors (shapes alone where it is abstract), with module types in
        the metadata. The object is not changed and its tensors are not copied where possible."""
        ...

    def build(self, state: FlatState, like: Any) -> Any:
        """Return live tensors in the structure of ``like`` (None: the framework's plain tree)."""
        ...


@runtime_checkable
class Relocating(Protocol):
    """A framework adapter some of whose leaves stand apart from the layer that they belong to."""

    def place(self, key: Key, present: Collection[Key]) -> tuple[Key, str] | None:
        """Return the layer path and leaf name of such a leaf, or None for one that stands where it belongs.

        Args:
            key: A key without its collection head.
            present: Every key of the state, without heads.
        """
        ...

    def spell(self, path: Key, leaf: str) -> Key | None:
        """Return the key of a leaf that `place` gave, or None for one that stands where it belongs.

        Args:
            path: The layer's path.
            leaf: Its leaf name.
        """
        ...
