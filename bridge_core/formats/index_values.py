"""The values in an index of shards: names of tensors, names of files, and the size of all."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from bridge_core.errors import MalformedFile, ShardError, UnsafeFile, UnsupportedFeature
from bridge_core.io import SourceFile, is_plain_name
from bridge_core.state import is_unicode

__all__ = ["check_shard_name", "check_tensor_name", "check_text", "total_size"]

_LARGEST_TOTAL = (1 << 63) - 1
_LONGEST_NAME = 255
"""Bytes in the name of a file."""


def check_tensor_name(name: str, path: str) -> None:
    """Check that an index names a tensor by a text that has a UTF-8 form.

    Raises:
        MalformedFile: It does not.
    """
    if not is_unicode(name):
        raise MalformedFile(f"'weight_map' has the name {name!r}, which holds a lone surrogate.", path=path)


def check_text(names: Iterable[str]) -> None:
    """Check that an index can hold names of tensors.

    Raises:
        UnsupportedFeature: One has no UTF-8 form.
    """
    for name in names:
        if not is_unicode(name):
            raise UnsupportedFeature(
                f"the name {name!r} holds a lone surrogate, which no UTF-8 text can hold.",
                hint="Rename the tensor.",
            )


def check_shard_name(name: str, file: SourceFile) -> None:
    """Check that an index names a plain file beside it as a shard.

    Raises:
        ShardError: It names itself.
        UnsafeFile: It names something else.
    """
    if not is_plain_name(name) or not is_unicode(name) or len(name.encode()) > _LONGEST_NAME:
        raise UnsafeFile(
            f"names the shard {name[:_LONGEST_NAME]!r}; only plain file names beside the index are opened.",
            path=file.name,
        )
    if name == file.path.name:
        raise ShardError("lists itself as a shard.", path=file.name)


def total_size(value: Any, path: str) -> int | None:
    """Return the number of bytes that an index states; None if it states none.

    Raises:
        MalformedFile: It is not a number of bytes.
    """
    if value is None:
        return None
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not 0 <= value <= _LARGEST_TOTAL or value != int(value):
        shown = repr(value) if len(repr(value)) < 40 else f"{repr(value)[:37]}..."
        raise MalformedFile(
            f"'total_size' is {shown}; a number of bytes was expected.",
            path=path,
            hint="Write the set again, or take 'total_size' out of the index: nothing is read by it.",
        )
    return int(value)
