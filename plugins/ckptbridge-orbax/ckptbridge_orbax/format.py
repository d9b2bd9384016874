"""The format itself: what ckptbridge calls to recognise, open and write Orbax checkpoints."""

from __future__ import annotations

from bridge_core import Capabilities, FlatState
from bridge_core.formats import FolderContents, FolderTarget
from bridge_core.io import SourceFolder
from ckptbridge_orbax.zarr_metadata import STORED_DTYPES

__all__ = ["OrbaxFormat"]


class OrbaxFormat:
    """Folders of Orbax: a tree, a step with items, or a run of steps, read without JAX and Orbax.

    Python scalars are read as 0-d tensors. None and strings hold no weights: they are left out, and
    ``metadata.notes`` names them. Keys of typed random numbers are read as their uint32 data.
    """

    name = "orbax"
    extensions: tuple[str, ...] = (".orbax",)
    layout: str | None = "flax"
    capabilities = Capabilities(
        lazy=True,
        sliceable=True,
        streaming_write=True,
        dtypes=STORED_DTYPES,
        metadata=True,
        nested=False,  # names that are not those of folders cannot be stored
        needs_path=True,
    )

    def sniff_folder(self, folder: SourceFolder) -> bool:
        """Return whether a folder is an item, a step or a root of steps, by the names in it."""
        from ckptbridge_orbax.folders import is_checkpoint

        return is_checkpoint(folder)

    def contents(self, folder: SourceFolder, step: int | None = None) -> FolderContents:
        """Return the steps, and the items of one step; reads names only.

        Raises:
            MalformedFile: The folder is not an Orbax checkpoint, or its writing did not finish.
            UsageError: The checkpoint has no such step, or has no steps.
        """
        from ckptbridge_orbax.folders import contents_of

        return contents_of(folder, step)

    def open_folder(
        self, folder: SourceFolder, *, step: int | None = None, item: str | None = None
    ) -> FlatState:
        """Open one item lazily; the description of every array is read and checked, and no value.

        Raises:
            MalformedFile: The item is damaged or not complete.
            IntegrityError: A checksum of the database that holds the arrays differs.
            UnsafeFile: A name or a symbolic link leads out of the checkpoint.
            LimitExceeded: An array declares chunks that are too large to be read, or more data than there
                is.
            KeyConflict: Two keys are the name of one array.
            UnsupportedFeature: A dtype or codec is not supported.
            UsageError: There is no such step or item.
            MissingDependency: tensorstore cannot be imported.
        """
        from ckptbridge_orbax.folders import item_folder
        from ckptbridge_orbax.reader import open_item

        return open_item(item_folder(folder, step, item))

    def write_folder(
        self, state: FlatState, target: FolderTarget, *, step: int | None = None, item: str | None = None
    ) -> None:
        """Write a state as one item that Orbax restores on any device.

        Raises:
            UnsupportedFeature: Orbax cannot store a name or a dtype.
            KeyConflict: Two keys are the name of one array.
            SystemFailure: Writing failed.
            MissingDependency: tensorstore cannot be imported.
        """
        from ckptbridge_orbax.writer import write_folder

        write_folder(state, target, step, item)
