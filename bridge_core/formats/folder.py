"""The interface of formats whose checkpoints are folders, with steps and items."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar, runtime_checkable

from bridge_core.formats.base import Capabilities, WriteTarget
from bridge_core.io import SourceFolder
from bridge_core.state import Array, FlatState, Key, Region

__all__ = ["FolderContents", "FolderFormat", "FolderItem", "FolderTarget"]

_Job = TypeVar("_Job")


@dataclass(frozen=True)
class FolderItem:
    """One part of a folder checkpoint that was saved by itself.

    Args:
        name: Its name; empty if the folder itself is the only item.
        what: What it is, in words, such as ``"a tree of arrays"`` or ``"JSON"``.
        has_tensors: Whether it holds tensors.
    """

    name: str
    what: str
    has_tensors: bool = True


@dataclass(frozen=True)
class FolderContents:
    """What a folder checkpoint holds, as far as its names show.

    Args:
        steps: The steps that are complete, in ascending order; empty if the folder is not a root of steps.
        step: The step whose items are listed; None if there are no steps.
        items: The items of that step.
        item: Name of the item that is read if the caller names none; None if names do not show which item
            holds the weights.
        unfinished: Names of folders whose writing did not finish, which are not read.
    """

    steps: tuple[int, ...] = ()
    step: int | None = None
    items: tuple[FolderItem, ...] = ()
    item: str | None = None
    unfinished: tuple[str, ...] = ()


class FolderTarget(Protocol):
    """A temporary folder that becomes the destination once everything in it is safe."""

    @property
    def path(self) -> Path:
        """The temporary folder, for libraries that write by name. It exists and is empty."""
        ...

    @property
    def block_nbytes(self) -> int:
        """Bytes of the largest array that one thread should hold at once."""
        ...

    @property
    def replaces(self) -> SourceFolder | None:
        """The folder that is replaced, whose other items stay; None if nothing stays."""
        ...

    def file(self, name: str) -> WriteTarget:
        """Create a file in the folder, to be written like a file of a single-file format.

        Args:
            name: The relative name, its parts joined by slashes; folders in it are made.
        """
        ...

    def boxes(self, state: FlatState, key: Key, shape: tuple[int, ...]) -> Iterator[tuple[Region, Array]]:
        """Yield a tensor's values box by box, in row-major order of the boxes.

        An array is C-contiguous and valid until the next one is yielded. Boxes of different tensors may be
        read by several threads at once; those of one tensor by one thread.

        Args:
            state: The state that holds the tensor.
            key: The tensor's key.
            shape: Shape of a box; those at the ends are smaller. If each box is one run of the tensor's
                row-major values, their checksum is taken on the way, and verification does not read the
                source again.
        """
        ...

    def run(self, work: Callable[[_Job], None], jobs: Iterable[_Job]) -> None:
        """Do jobs with the threads that the caller allows; the first error ends the others.

        Args:
            work: Does one job.
            jobs: The jobs, in the order in which they begin.
        """
        ...


@runtime_checkable
class FolderFormat(Protocol):
    """A format whose checkpoints are folders.

    A checkpoint may be one tree, several items (as weights and the state of an optimizer), or steps of a
    training run, each with items.
    """

    name: str
    """Short name, e.g. ``"orbax"``."""
    extensions: tuple[str, ...]
    """Suffixes of new folders, the usual one first."""
    layout: str | None
    """The layout of checkpoints that do not record theirs; None if every checkpoint records it."""
    capabilities: Capabilities

    def sniff_folder(self, folder: SourceFolder) -> bool:
        """Return whether a folder is a checkpoint of this format, damaged or not.

        Damage raises nothing. It looks for markers of the format's own in the folder, and in the folders
        directly in it.
        """
        ...

    def contents(self, folder: SourceFolder, step: int | None = None) -> FolderContents:
        """Return the steps of a checkpoint, and the items of one step; reads names only.

        Args:
            folder: The checkpoint, a step of it, or an item.
            step: The step; None for the latest one that is complete.

        Raises:
            BadInputError: The folder is damaged, or its writing did not finish.
            UsageError: The checkpoint has no such step, or has no steps.
        """
        ...

    def open_folder(
        self, folder: SourceFolder, *, step: int | None = None, item: str | None = None
    ) -> FlatState:
        """Open one item as a lazy state; the state's `close` must close what is open.

        Args:
            folder: The checkpoint, a step of it, or an item.
            step: The step; None for the latest one that is complete.
            item: Name of the item, one of `contents`; None for its `item`.

        Raises:
            BadInputError: The checkpoint is damaged, unsafe, not complete, or holds what is not supported.
            UsageError: There is no such step or item.
        """
        ...

    def write_folder(
        self, state: FlatState, target: FolderTarget, *, step: int | None = None, item: str | None = None
    ) -> None:
        """Write all tensors and the metadata of a state to the folder of ``target``.

        Args:
            state: The tensors, which are read a box at a time, and the metadata.
            target: The folder to write, and how to write it with bounded memory.
            step: Number of the step that the folder will be; None if it will not be a step.
            item: Name of the item to write in a step; None to write the item itself into the folder.

        Raises:
            BridgeError: The format cannot store the state; nothing was written.
        """
        ...
