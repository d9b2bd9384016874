"""Flax's msgpack checkpoints, read lazily and written streamed, without flax.

Files are byte for byte those of ``flax.serialization.msgpack_serialize`` if a state has only tensors and no
metadata. The metadata is stored as one more entry of a chunked leaf, where Flax reads only ``shape`` and
``chunks``: Flax restores the same tree either way.
"""

from __future__ import annotations

from bridge_core import Capabilities, FlatState, Key, SourceFile, WriteTarget
from bridge_core.formats import ShardNames
from bridge_core.state import DTYPES

__all__ = ["MsgpackFormat"]

_NODES = frozenset((*range(0xC7, 0xCA), *range(0xD4, 0xD9), 0xDE, 0xDF))
"""First bytes of extension values, which hold arrays, and of large maps."""


class MsgpackFormat:
    """Nested maps with arrays as extension values, as ``flax.serialization.to_bytes`` writes them.

    Python and numpy scalars are read as 0-d tensors (int64, uint64 above its range, float64, bool,
    complex128), and written as 0-d arrays. None, strings and byte strings hold no weights: they are left
    out, and ``metadata.notes`` names them.
    """

    name = "msgpack"
    extensions: tuple[str, ...] = (".msgpack",)
    layout: str | None = "flax"
    names: ShardNames | None = ShardNames(
        "flax_model.msgpack",
        "flax_model-{index:05d}-of-{count:05d}.msgpack",
        "flax_model.msgpack.index.json",
        separator="/",
    )
    capabilities = Capabilities(
        lazy=True,
        sliceable=True,
        streaming_write=True,
        dtypes=frozenset(DTYPES),
        metadata=True,
        nested=True,
    )

    def sniff(self, file: SourceFile) -> bool:
        """Return whether the file begins with a map that names a string, or an integer with a node."""
        head = file.read(0, min(file.size, 9))
        if head[:1] == b"\x80":  # an empty map; pickles begin with the same byte
            return file.size == 1 and file.path.suffix.lower() in ("", *self.extensions)
        if head[4:9] == b"\0\0\0\0{":
            return False  # the header length of a safetensors file
        width = {0xDE: 3, 0xDF: 5}.get(head[0], 1) if head else 0
        if not width or (width == 1 and not 0x80 < head[0] < 0x90):
            return False
        name = head[width : width + 1]
        if not name or 0xA0 <= name[0] < 0xC0 or name[0] in (0xD9, 0xDA, 0xDB):
            return True
        value = head[width + 1 : width + 2]
        return name[0] < 0x80 and bool(value) and (0x80 <= value[0] < 0x90 or value[0] in _NODES)

    def open(self, file: SourceFile) -> FlatState:
        """Open a file lazily; only names, shapes and dtypes are read.

        Raises:
            TruncatedFile: The file ends too early.
            MalformedFile: The file breaks msgpack's or Flax's rules, or its metadata is damaged.
            KeyConflict: Two entries of a map have the same name.
            LimitExceeded: The file declares too many entries, or nests too deep.
            UnsupportedFeature: A dtype or rank is not supported, or values are in other files.
        """
        from bridge_flax.msgpack.state import open_state

        return open_state(file)

    def open_with_texts(self, file: SourceFile) -> tuple[FlatState, dict[Key, str]]:
        """Open a file that is a part of a checkpoint, and read the strings in it.

        Orbax writes a string where the value is in another file; `open` refuses such a file.

        Returns:
            The state as `open` gives it, without its strings; and path -> string, for those of at most
            64 KiB.

        Raises:
            MalformedFile: As in `open`, or a string is not UTF-8.
            BadInputError: As in `open`.
        """
        from bridge_flax.msgpack.state import open_with_texts

        return open_with_texts(file)

    def write(self, state: FlatState, target: WriteTarget) -> None:
        """Write a state as nested maps, in the order of its keys.

        A state of unknown layout is written like one of layout ``flax``; ``metadata.extra`` has no place
        in a tree of arrays and is not written.

        Raises:
            KeyConflict: A key is both a tensor and the beginning of another key, or a name is reserved.
            UnsupportedFeature: The format cannot store a name, dtype or rank.
            LimitExceeded: The tree, or the metadata, is larger than the reader accepts.
        """
        from bridge_flax.msgpack.writer import lay_out

        target.fill(state, lay_out(state, self.capabilities.dtypes))
