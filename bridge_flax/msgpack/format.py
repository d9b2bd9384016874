"""Flax's msgpack checkpoints, read lazily and written streamed, without flax.

Files are byte for byte those of ``flax.serialization.msgpack_serialize`` while a state carries nothing but
its tensors. What the bridge knows beside them travels as one more entry inside a chunked leaf, where Flax
looks at ``shape`` and ``chunks`` alone: Flax restores the same tree either way.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from bridge_core import (
    ArrayTensor,
    Capabilities,
    FileTensor,
    FlatState,
    Key,
    LimitExceeded,
    MalformedFile,
    SourceFile,
    StateMetadata,
    Tensor,
    TensorSpec,
    WriteTarget,
)
from bridge_core.formats import ShardNames
from bridge_core.messages import listed
from bridge_core.state import DTYPES, checked_bools, load_metadata
from bridge_flax.msgpack.reader import ChunkedTensor, Span, scan
from bridge_flax.msgpack.writer import MAX_METADATA, ROOT_METADATA, lay_out

__all__ = ["MsgpackFormat"]


class MsgpackFormat:
    """Nested maps with arrays as extension values, as ``flax.serialization.to_bytes`` writes them.

    Python and numpy scalars are read as 0-d tensors (int64, uint64 above its range, float64, bool,
    complex128), and written as 0-d arrays. None, strings and byte strings hold no weights: they are left
    out, and ``metadata.provenance`` names them.
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
        """Tell whether the file begins with a map whose first name is a string."""
        head = file.read(0, min(file.size, 9))
        if head[:1] == b"\x80":
            return file.size == 1  # an empty map; pickles begin with the same byte
        if head[4:9] == b"\0\0\0\0{":
            return False  # the header length of a safetensors file
        width = {0xDE: 3, 0xDF: 5}.get(head[0], 1) if head else 0
        if not width or (width == 1 and not 0x80 < head[0] < 0x90):
            return False
        name = head[width : width + 1]
        return not name or 0xA0 <= name[0] < 0xC0 or name[0] in (0xD9, 0xDA, 0xDB)

    def open(self, file: SourceFile) -> FlatState:
        """Open a file; reads names, shapes and dtypes alone.

        Raises:
            TruncatedFile: It ends too early.
            MalformedFile: It breaks msgpack's or Flax's rules, or carries damaged metadata.
            KeyConflict: A map names an entry twice.
            LimitExceeded: It claims too many entries, or nests too deep.
            UnsupportedFeature: A dtype or rank that is not supported.
        """
        leaves, empty, carried = scan(file)
        if isinstance(leaves.get((ROOT_METADATA,)), Span):
            carried = (*carried, leaves.pop((ROOT_METADATA,)))
        layout, metadata = _load(file, carried)
        tensors: dict[Key, Tensor] = {}
        numbers: list[str] = []
        ignored: list[str] = []
        for key, leaf in leaves.items():
            if isinstance(leaf, FileTensor | ChunkedTensor):
                tensors[key] = _checked(leaf, file, key)
            elif leaf is None or isinstance(leaf, Span):
                ignored.append(f"{'/'.join(key)} ({leaf.what if leaf else None})")
            else:
                tensors[key] = ArrayTensor(_array(leaf))
                numbers.append(f"{'/'.join(key)} ({type(leaf).__name__})")
        notes = {"python numbers": listed(numbers), "left out": listed(ignored)}
        metadata = metadata.with_(empty=empty, provenance={k: v for k, v in notes.items() if v})
        return FlatState(tensors, layout=layout or self.layout, metadata=metadata, close=file.close)

    def write(self, state: FlatState, target: WriteTarget) -> None:
        """Write a state as nested maps, in the order of its keys.

        A state of unknown layout is written like one of layout ``flax``; ``metadata.extra`` has no place
        in a tree of arrays and is not written.

        Raises:
            KeyConflict: A tensor stands where others need a folder, or a name is reserved.
            UnsupportedFeature: A name, dtype or rank that the format lacks.
            LimitExceeded: The tree, or the metadata, is larger than what is read back.
        """
        target.fill(state, lay_out(state, self.capabilities.dtypes))


def _load(file: SourceFile, carried: tuple[Span, ...]) -> tuple[str | None, StateMetadata]:
    if not carried:
        return None, StateMetadata()
    if len(carried) > 1:
        raise MalformedFile(f"carries the bridge's metadata {len(carried)} times.", path=file.name)
    (span,) = carried
    if span.nbytes > MAX_METADATA:
        raise LimitExceeded(
            f"carries {span.nbytes} bytes of metadata; at most {MAX_METADATA} are read.", path=file.name
        )
    layout, metadata, _ = load_metadata(file.read(span.offset, span.nbytes), path=file.name)
    return layout, metadata


def _checked(leaf: FileTensor | ChunkedTensor, file: SourceFile, key: Key) -> Tensor:
    if leaf.spec.dtype != DTYPES["bool"]:
        return leaf
    raw = replace(leaf, spec=TensorSpec(leaf.spec.shape, DTYPES["uint8"]))
    return checked_bools(raw, path=file.name, key=key)


def _array(number: complex) -> np.ndarray[Any, np.dtype[Any]]:
    if isinstance(number, int) and not isinstance(number, bool):
        return np.array(number, np.int64 if number < 1 << 63 else np.uint64)
    return np.array(number)
