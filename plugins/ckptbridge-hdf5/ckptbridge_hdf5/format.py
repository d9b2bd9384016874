"""The format itself: what ckptbridge calls to recognise, open and write its HDF5 files."""

from __future__ import annotations

from bridge_core import Capabilities, FlatState, SourceFile, WriteTarget
from bridge_core.formats import ShardNames
from bridge_core.state import DTYPES

__all__ = ["Hdf5Format"]

_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_FIRST_BYTES = 4 << 10


class Hdf5Format:
    """HDF5 files of ckptbridge: one contiguous dataset a tensor, an index, and SHA-256 of everything."""

    name = "hdf5"
    extensions: tuple[str, ...] = (".h5", ".hdf5")
    layout: str | None = None
    names: ShardNames | None = ShardNames(
        "model.h5", "model-{index:05d}-of-{count:05d}.h5", "model.h5.index.json", ties="shared"
    )
    capabilities = Capabilities(
        lazy=True,
        sliceable=True,
        streaming_write=True,
        dtypes=frozenset(DTYPES),
        metadata=True,
        nested=True,
        needs_path=True,
    )

    def sniff(self, file: SourceFile) -> bool:
        """Return whether the file has an HDF5 signature at one of the offsets that HDF5 allows.

        Of a file at a URL only the first 4 KiB are looked at: each offset after them would take a request.
        """
        offset = 0
        while offset + len(_SIGNATURE) <= file.size:
            if file.read(offset, len(_SIGNATURE)) == _SIGNATURE:
                return True
            offset = offset * 2 or 512
            if file.is_remote and offset + len(_SIGNATURE) > _FIRST_BYTES:
                break
        return False

    def open(self, file: SourceFile) -> FlatState:
        """Open a file lazily; values are read and verified in blocks of 256 KiB when they are asked for.

        Raises:
            UnsafeFile: The file refers to other files, or needs filters from outside of HDF5.
            UnsupportedFeature: Another program wrote the file, or a newer version of this plugin.
            IntegrityError: A checksum differs.
            TruncatedFile: The file ends too early.
            LimitExceeded: The file declares more data than it can hold.
            MalformedFile: The file is not an HDF5 file, or contradicts itself.
        """
        from ckptbridge_hdf5.reader import open_file

        return open_file(file, is_hdf5=self.sniff(file))

    def write(self, state: FlatState, target: WriteTarget) -> None:
        """Write a state: the structure first, then each tensor block by block, then index and guard.

        Raises:
            UnsupportedFeature: A name is not valid Unicode, or a tensor has more than 32 axes.
            LimitExceeded: There are too many tensors for one index.
            SystemFailure: Writing failed.
            MissingDependency: h5py cannot be imported.
        """
        from ckptbridge_hdf5.writer import write_file

        write_file(state, target)
