"""The entries of an untrusted header, checked against the size of its file."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from typing import Any

import numpy as np

from bridge_core.errors import KeyConflict, MalformedFile, PluginError, TruncatedFile, UnsupportedFeature
from bridge_core.formats.header_reader import StoredTensor
from bridge_core.messages import count, nearest, shown
from bridge_core.state import MAX_RANK, TensorSpec, is_unicode, regions

__all__ = ["Placed", "checked_texts", "placed_tensors"]

Placed = tuple[TensorSpec, int]
"""The spec of a tensor, and its first byte in the file."""

_END = 1 << 63
"""Bytes that no tensor and no file reaches."""


def placed_tensors(
    stored: Iterable[StoredTensor],
    dtypes: Mapping[Hashable, np.dtype[Any]],
    *,
    path: str,
    start: int,
    size: int,
    alignment: int,
) -> dict[str, Placed]:
    """Return name -> spec and place of the tensors of a header.

    Args:
        stored: The entries of the header.
        dtypes: Dtype as the file spells it -> dtype.
        path: The file, for errors.
        start: First byte behind the header.
        size: Bytes of the file.
        alignment: The file may end with fewer bytes than this behind the last tensor.

    Raises:
        MalformedFile: A name, shape or place is not valid, tensors overlap, or bytes are left over.
        TruncatedFile: A tensor ends behind the end of the file.
        KeyConflict: A name is repeated.
        UnsupportedFeature: A dtype is not known, or a tensor has too many axes.
        PluginError: The format did not return `StoredTensor` objects.
    """
    placed: dict[str, Placed] = {}
    for one in stored:
        if not isinstance(one, StoredTensor):
            raise PluginError(
                f"read_header returned {shown(one)} among its tensors; expected StoredTensor objects.",
                path=path,
            )
        name = _name(one.name, path)
        if name in placed:
            raise KeyConflict("the header has this name twice.", path=path, key=name)
        placed[name] = (_spec(one, dtypes, path), _integer(one.offset, "offset", path, name))
        _check_nbytes(one, placed[name][0], path)
    _check_places(placed, path=path, start=start, size=size, alignment=alignment)
    return placed


def checked_texts(texts: object, path: str) -> dict[str, str]:
    """Return the texts of a header, if all are valid.

    Raises:
        MalformedFile: They are not a mapping of texts to texts, or not valid Unicode.
    """
    good = isinstance(texts, Mapping) and all(
        isinstance(part, str) and is_unicode(part) for pair in texts.items() for part in pair
    )
    if not good:
        raise MalformedFile(
            f"expected texts with texts as names in the header, got {shown(texts)}.", path=path
        )
    return dict(texts)  # type: ignore[call-overload, no-any-return]


def _name(name: object, path: str) -> str:
    if not isinstance(name, str) or not is_unicode(name):
        raise MalformedFile(f"expected a text as the name of a tensor, got {shown(name)}.", path=path)
    return str(name)


def _integer(value: object, what: str, path: str, name: str) -> int:
    # True equals 1 and 1.0 equals 1, but a header that holds them is damaged.
    if not isinstance(value, int | np.integer) or isinstance(value, bool) or not 0 <= value < _END:
        raise MalformedFile(
            f"expected a whole number from 0 to 2**63 - 1 as {what}, got {shown(value)}.", path=path, key=name
        )
    return int(value)


def _spec(one: StoredTensor, dtypes: Mapping[Hashable, np.dtype[Any]], path: str) -> TensorSpec:
    name, shape = one.name, one.shape
    try:
        dtype = dtypes.get(one.dtype)
    except TypeError:  # a list or an object in its place
        dtype = None
    if dtype is None:
        hint = nearest(shown(one.dtype).strip("'"), map(str, dtypes))
        raise UnsupportedFeature(
            f"the dtype {shown(one.dtype)} is not known.", path=path, key=name, hint=hint
        )
    if not isinstance(shape, list | tuple):
        raise MalformedFile(
            f"expected a list of sizes as the shape, got {shown(shape)}.", path=path, key=name
        )
    if len(shape) > MAX_RANK:
        raise UnsupportedFeature(
            f"expected at most {MAX_RANK} axes, as in numpy, got {len(shape)}.", path=path, key=name
        )
    sizes = tuple(_integer(n, "size of an axis", path, name) for n in shape)
    if regions.size(tuple(n for n in sizes if n)) * dtype.itemsize >= _END:
        raise MalformedFile(f"the shape {shown(list(sizes))} is too large.", path=path, key=name)
    return TensorSpec(sizes, dtype)


def _check_nbytes(one: StoredTensor, spec: TensorSpec, path: str) -> None:
    if one.nbytes is not None and _integer(one.nbytes, "length", path, one.name) != spec.nbytes:
        raise MalformedFile(
            f"expected the {count(spec.nbytes, 'byte')} of {spec}, got a length of {shown(one.nbytes)}.",
            path=path,
            key=one.name,
        )


def _check_places(placed: Mapping[str, Placed], *, path: str, start: int, size: int, alignment: int) -> None:
    position = start
    for offset, nbytes, name in sorted((at, spec.nbytes, name) for name, (spec, at) in placed.items()):
        if offset < start:
            raise MalformedFile(
                f"expected data behind the header, which ends at byte {start}, got byte {offset}.",
                path=path,
                key=name,
            )
        if offset < position and nbytes:
            raise MalformedFile(
                f"expected data behind the tensor before it, which ends at byte {position}, got byte "
                f"{offset}.",
                path=path,
                key=name,
            )
        position = max(position, offset + nbytes)
        if position > size:
            raise TruncatedFile(
                f"the tensor ends at byte {offset + nbytes}, but the file is only {count(size, 'byte')}.",
                path=path,
                key=name,
                hint="The file was cut off: fetch it again.",
            )
    if size - position >= alignment:
        raise MalformedFile(
            f"the last tensor ends at byte {position}, but {count(size - position, 'byte')} more are in the "
            "file.",
            path=path,
        )
