"""npz, as `numpy.load` reads it: a zip archive of ``.npy`` members."""

from __future__ import annotations

from bridge_core.formats.base import Capabilities, ShardNames, WriteTarget
from bridge_core.io import SourceFile
from bridge_core.state import DTYPES, FlatState

__all__ = ["NpzFormat"]


class NpzFormat:
    """``.npz``: what `numpy.savez` writes, without pickled objects."""

    name = "npz"
    extensions: tuple[str, ...] = (".npz",)
    layout: str | None = None
    capabilities = Capabilities(
        lazy=True, sliceable=True, streaming_write=True, dtypes=frozenset(DTYPES), metadata=True
    )
    names: ShardNames | None = None

    def sniff(self, file: SourceFile) -> bool:
        """Return whether the file is a zip archive whose first member is a ``.npy`` file."""
        if file.size < 30:
            return False
        head = file.read(0, 30)
        length = int.from_bytes(head[26:28], "little")
        if head[:4] != b"PK\3\4" or file.size < 30 + length:
            return False
        return file.read(30, length).endswith(b".npy")

    def open(self, file: SourceFile) -> FlatState:
        """Open lazily; a compressed member is inflated completely at its first use, under a limit.

        Raises:
            BadInputError: The file is damaged, or holds what is not supported.
        """
        from bridge_core.formats.npz_archive import open_archive

        return open_archive(file)

    def write(self, state: FlatState, target: WriteTarget) -> None:
        """Write all members uncompressed, each aligned to 64 bytes for mapping.

        Raises:
            KeyConflict: Two keys have one flat name, or a name is reserved.
            UnsupportedFeature: A name cannot be stored in a zip archive.
            LimitExceeded: The metadata would be larger than readers accept.
        """
        from bridge_core.formats.npz_archive import lay_out

        target.fill(state, lay_out(state))
