"""A state from the leaves of a msgpack file."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from bridge_core import (
    ArrayTensor,
    FileTensor,
    FlatState,
    Key,
    LimitExceeded,
    MalformedFile,
    SourceFile,
    StateMetadata,
    Tensor,
    TensorSpec,
    UnsupportedFeature,
)
from bridge_core.messages import listed
from bridge_core.state import DTYPES, checked_bools, load_metadata
from bridge_flax.msgpack.reader import Span, scan
from bridge_flax.msgpack.wire import MAX_METADATA, ROOT_METADATA

__all__ = ["open_state", "open_with_texts"]

_PLACEHOLDER = b"PLACEHOLDER://"
"""What Orbax writes in place of a value; the name of its file follows."""
_MAX_TEXT = 64 << 10
"""Most bytes of a string that is read as a text."""


def open_state(file: SourceFile) -> FlatState:
    """Open a file lazily; `MsgpackFormat.open` documents it."""
    leaves, empty, carried = scan(file)
    for key, leaf in leaves.items():
        _refuse_placeholder(leaf, file, key)
    return _state(file, leaves, empty, carried)


def open_with_texts(file: SourceFile) -> tuple[FlatState, dict[Key, str]]:
    """Open a file lazily, and read its strings; `MsgpackFormat.open_with_texts` documents it."""
    leaves, empty, carried = scan(file)
    texts = {
        key: text
        for key, leaf in leaves.items()
        if key != (ROOT_METADATA,) and (text := _text(leaf, file, key)) is not None
    }
    rest = {key: leaf for key, leaf in leaves.items() if key not in texts}
    return _state(file, rest, empty, carried), texts


def _text(leaf: object, file: SourceFile, key: Key) -> str | None:
    if not isinstance(leaf, Span) or leaf.what != "string" or leaf.nbytes > _MAX_TEXT:
        return None
    try:
        return file.read(leaf.offset, leaf.nbytes).decode("utf-8")
    except UnicodeDecodeError as err:
        raise MalformedFile(f"a string is not valid UTF-8: {err}.", path=file.name, key=key) from None


def _state(
    file: SourceFile, leaves: dict[Key, Any], empty: tuple[Key, ...], carried: tuple[Span, ...]
) -> FlatState:
    if isinstance(leaves.get((ROOT_METADATA,)), Span):
        carried = (*carried, leaves.pop((ROOT_METADATA,)))
    layout, metadata = _load(file, carried)
    tensors: dict[Key, Tensor] = {}
    numbers: list[str] = []
    ignored: list[str] = []
    for key, leaf in leaves.items():
        if isinstance(leaf, FileTensor):
            tensors[key] = _checked(leaf, file, key)
        elif leaf is None or isinstance(leaf, Span):
            ignored.append(f"{'/'.join(key)} ({leaf.what if leaf else None})")
        else:
            tensors[key] = ArrayTensor(_array(leaf))
            numbers.append(f"{'/'.join(key)} ({type(leaf).__name__})")
    known = {"python numbers": listed(numbers), "left out": listed(ignored)}
    metadata = metadata.with_(
        empty=empty,
        provenance={name: text for name, text in known.items() if text},
        notes=(f"left out, since these leaves hold no numbers: {listed(ignored)}",) if ignored else (),
    )
    return FlatState(tensors, layout=layout or "flax", metadata=metadata, close=file.close)


def _refuse_placeholder(leaf: object, file: SourceFile, key: Key) -> None:
    """Refuse a leaf whose value Orbax stores in another file of its checkpoint."""
    if not isinstance(leaf, Span) or leaf.what != "string" or leaf.nbytes < len(_PLACEHOLDER):
        return
    if file.read(leaf.offset, len(_PLACEHOLDER)) == _PLACEHOLDER:
        raise UnsupportedFeature(
            "the value is not in this file: the file is part of an Orbax checkpoint, and the values are in "
            "other files of it.",
            path=file.name,
            key=key,
            hint="Give the folder of the file. If no format reads it, run: pip install ckptbridge-orbax",
        )


def _load(file: SourceFile, carried: tuple[Span, ...]) -> tuple[str | None, StateMetadata]:
    if not carried:
        return None, StateMetadata()
    if len(carried) > 1:
        places = ", ".join(str(span.offset) for span in carried[:8])
        raise MalformedFile(
            f"expected the metadata of ckptbridge once, got it {len(carried)} times, at bytes {places}.",
            path=file.name,
        )
    (span,) = carried
    if span.nbytes > MAX_METADATA:
        raise LimitExceeded(
            f"the metadata of ckptbridge at byte {span.offset} is {span.nbytes} bytes; at most "
            f"{MAX_METADATA} bytes are read.",
            path=file.name,
        )
    layout, metadata, _ = load_metadata(file.read(span.offset, span.nbytes), path=file.name)
    return layout, metadata


def _checked(leaf: FileTensor, file: SourceFile, key: Key) -> Tensor:
    if leaf.spec.dtype != DTYPES["bool"]:
        return leaf
    raw = replace(leaf, spec=TensorSpec(leaf.spec.shape, DTYPES["uint8"]))
    return checked_bools(raw, path=file.name, key=key)


def _array(number: complex) -> np.ndarray[Any, np.dtype[Any]]:
    if isinstance(number, int) and not isinstance(number, bool):
        return np.array(number, np.int64 if number < 1 << 63 else np.uint64)
    return np.array(number)
