"""The layout of a Flax msgpack file, computed before any tensor is read.

Every length follows from names, shapes and dtypes, so the heads are computed first and the tensors are
streamed to the places between them. The bytes are those that Flax itself would write.
"""

from __future__ import annotations

import math
from typing import Any

from bridge_core import (
    FileImage,
    FlatState,
    Key,
    KeyConflict,
    LimitExceeded,
    StateMetadata,
    TensorSpec,
    UnsupportedFeature,
    join_key,
)
from bridge_core.formats import Extent
from bridge_core.messages import listed
from bridge_core.state import MARKER, dump_metadata, is_unicode, unflatten_tree
from bridge_flax.msgpack.wire import (
    CHUNKED,
    MAX_DEPTH,
    MAX_METADATA,
    MAX_NAME,
    MAX_RANK,
    ROOT_METADATA,
    Meter,
    array_head,
    bin_head,
    ext_head,
    integer,
    map_head,
    text,
)

__all__ = ["MAX_CHUNK_SIZE", "lay_out"]

MAX_CHUNK_SIZE = 1 << 30
"""Bytes of the largest leaf that is written as one array, and of a chunk; Flax's own number."""

_NDARRAY = 1


def lay_out(state: FlatState, dtypes: frozenset[str]) -> FileImage:
    """Return the complete file except the tensors' values.

    Args:
        state: What to write.
        dtypes: Names of the dtypes that are allowed.

    Raises:
        KeyConflict: A key is both a tensor and the beginning of another key, or a name is reserved.
        UnsupportedFeature: The format cannot store a name, dtype or rank.
        LimitExceeded: The tree, or the metadata, is larger than the reader accepts.
    """
    specs = state.specs()
    empty = state.metadata.empty
    for key in (*specs, *empty):
        _check_key(key)
    _check_specs(specs, dtypes)
    tree = unflatten_tree({key: _Leaf(key, spec) for key, spec in specs.items()}, empty)
    carried = _carried(state)
    carrier = min(specs, key=lambda key: (specs[key].nbytes == 0, specs[key].nbytes, key), default=None)
    layout = _Layout(carrier, carried)
    if carried is not None and carrier is None:
        tree[ROOT_METADATA] = carried
    layout.add_tree(tree)
    return layout.image()


class _Leaf:
    """A tensor's place in the tree."""

    def __init__(self, key: Key, spec: TensorSpec) -> None:
        self.key = key
        self.spec = spec


class _Layout:
    """Collects heads and the places between them.

    Args:
        carrier: The tensor that carries the metadata.
        carried: The metadata's text; None if there is none.
    """

    def __init__(self, carrier: Key | None, carried: str | None) -> None:
        self._carrier = carrier
        self._carried = carried
        self._meter = Meter("the msgpack file to write")
        self._head = bytearray()
        self._position = 0
        self._segments: list[tuple[int, bytes]] = []
        self._slots: dict[Key, tuple[Extent, ...]] = {}

    def add_tree(self, tree: dict[str, Any]) -> None:
        self._head += map_head(len(tree))
        pending = [iter(tree.items())]
        while pending:
            for name, value in pending[-1]:
                self._meter.enter(len(pending))
                self._head += text(name)
                if isinstance(value, dict):
                    self._head += map_head(len(value))
                    pending.append(iter(value.items()))
                    break
                if isinstance(value, str):
                    self._head += text(value)
                else:
                    self._add_tensor(value.key, value.spec)
            else:
                pending.pop()

    def image(self) -> FileImage:
        self._flush()
        return FileImage(self._position, tuple(self._segments), self._slots)

    def _add_tensor(self, key: Key, spec: TensorSpec) -> None:
        carried = self._carried if key == self._carrier else None
        if carried is None and spec.nbytes <= MAX_CHUNK_SIZE:
            self._slots[key] = (self._add_array(spec.shape, spec, 0),)
            return
        self._head += map_head(3 if carried is None else 4)
        self._head += text(CHUNKED) + b"\xc3"
        self._head += text("shape") + map_head(len(spec.shape))
        for axis, n in enumerate(spec.shape):
            self._head += text(str(axis)) + integer(n)
        step = max(1, MAX_CHUNK_SIZE // spec.dtype.itemsize)
        count = max(1, math.ceil(spec.size / step))
        self._head += text("chunks") + map_head(count)
        extents = []
        for index in range(count):
            self._head += text(str(index))
            begin = index * step
            length = min(step, spec.size - begin)
            extents.append(self._add_array((length,), spec, begin * spec.dtype.itemsize))
        if carried is not None:
            self._head += text(MARKER) + text(carried)
        self._slots[key] = tuple(extents)

    def _add_array(self, shape: tuple[int, ...], spec: TensorSpec, start: int) -> Extent:
        nbytes = math.prod(shape) * spec.dtype.itemsize
        head = array_head(3) + array_head(len(shape)) + b"".join(integer(n) for n in shape)
        head += text(spec.dtype.name) + bin_head(nbytes)
        self._head += ext_head(_NDARRAY, len(head) + nbytes) + head
        self._flush()
        extent = Extent(start, nbytes, self._position)
        self._position += nbytes
        return extent

    def _flush(self) -> None:
        if self._head:
            self._segments.append((self._position, bytes(self._head)))
            self._position += len(self._head)
            self._head.clear()


def _carried(state: FlatState) -> str | None:
    """Return the metadata as text, or None where the tree itself shows all of it."""
    metadata = state.metadata.with_(empty=())
    carried = dump_metadata(state.layout, metadata.without_own_separator(state.layout))
    if carried in (dump_metadata(None, StateMetadata()), dump_metadata("flax", StateMetadata())):
        return None
    carried = dump_metadata(state.layout, metadata)
    if len(carried) > MAX_METADATA:
        raise LimitExceeded(
            f"the metadata of ckptbridge is {len(carried)} bytes; at most {MAX_METADATA} bytes are stored."
        )
    return carried


def _check_key(key: Key) -> None:
    if CHUNKED in key or key[:1] == (ROOT_METADATA,):
        raise KeyConflict(
            f"the name {CHUNKED if CHUNKED in key else ROOT_METADATA!r} is reserved in msgpack files.",
            key=key,
            hint="Rename the tensor.",
        )
    if len(key) > MAX_DEPTH:
        raise LimitExceeded(
            f"the key has {len(key)} parts; msgpack files support at most {MAX_DEPTH}.",
            key=(*key[:8], "..."),
            hint="Rename the tensor.",
        )
    for part in key:
        if not is_unicode(part):
            raise UnsupportedFeature(
                f"the name {part[:80]!r} contains a lone surrogate, which UTF-8 cannot encode.",
                hint="Rename the tensor.",
            )
        if (length := len(part.encode())) > MAX_NAME:
            raise UnsupportedFeature(
                f"the name {part[:40]!r}... is {length} bytes; at most {MAX_NAME} bytes are supported.",
                hint="Rename the tensor.",
            )


def _check_specs(specs: dict[Key, TensorSpec], dtypes: frozenset[str]) -> None:
    wrong = {key: spec for key, spec in specs.items() if spec.dtype.name not in dtypes}
    wrong |= {key: spec for key, spec in specs.items() if len(spec.shape) > MAX_RANK}
    if wrong:
        names = listed(f"{join_key(key)} ({spec})" for key, spec in wrong.items())
        raise UnsupportedFeature(
            f"msgpack files cannot store the dtype or the number of axes of {len(wrong)} tensors: {names}. "
            f"At most {MAX_RANK} axes are supported."
        )
