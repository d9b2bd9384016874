"""safetensors, read by byte ranges and written header-first, without the library.

The library has no streaming writer, corrupts arrays that are not C-contiguous, accepts duplicate names
and reads complete tensors for a slice; hence this reader and this writer. Files are byte for byte those
of the library unless a state holds something that the library cannot store.
"""

from __future__ import annotations

from bridge_core.formats.base import Capabilities, ShardNames, WriteTarget
from bridge_core.formats.safetensors_codes import CODES
from bridge_core.io import SourceFile
from bridge_core.state import FlatState

__all__ = ["SafetensorsFormat"]


class SafetensorsFormat:
    """``.safetensors``: flat names, and one byte range for each tensor."""

    name = "safetensors"
    extensions: tuple[str, ...] = (".safetensors",)
    layout: str | None = None
    capabilities = Capabilities(
        lazy=True, sliceable=True, streaming_write=True, dtypes=frozenset(CODES.values()), metadata=True
    )
    names: ShardNames | None = ShardNames(
        "model.safetensors",
        "model-{index:05d}-of-{count:05d}.safetensors",
        "model.safetensors.index.json",
        ties="dropped",
        recorded_separator=True,
    )

    def sniff(self, file: SourceFile) -> bool:
        """Return whether the file begins with eight bytes of length and then a JSON object."""
        if file.size < 10:
            return False
        head = file.read(0, 10)
        return head[8:] in (b'{"', b"{}", b"{ ", b"{\n", b"{\t", b"{\r") and any(head[:8])

    def open(self, file: SourceFile) -> FlatState:
        """Open lazily.

        Raises:
            BadInputError: The file is damaged, or holds what is not supported.
        """
        from bridge_core.formats.safetensors_reader import open_file

        return open_file(file)

    def write(self, state: FlatState, target: WriteTarget) -> None:
        """Write the header, then the tensors.

        Raises:
            KeyConflict: Two keys have one flat name, or a name is reserved.
            UnsupportedFeature: A dtype or a name cannot be stored in safetensors.
            LimitExceeded: The header would be larger than readers accept.
        """
        from bridge_core.formats.safetensors_writer import lay_out

        target.fill(state, lay_out(state))
