"""The values in an index of shards: names of tensors, names of files, and the size of all."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from bridge_core.errors import MalformedFile, ShardError, UnsafeFile, UnsupportedFeature
from bridge_core.io import SourceFile, is_plain_name
from bridge_core.messages import shown
from bridge_core.state import is_unicode

__all__ = ["check_shard_name", "check_tensor_name", "check_text", "total_size"]

_LARGEST_TOTAL = (1 << 63) - 1
_LONGEST_NAME = 255
"""Bytes in the name of a file."""


def check_tensor_name(name: str, path: str) -> None:
    """Check that the name of a tensor in an index can be encoded as UTF-8.

    Raises:
        MalformedFile: The name holds a lone surrogate.
    """
    if not is_unicode(name):
        raise MalformedFile(
            f"the name {name!r} in 'weight_map' holds a lone surrogate, which is not valid Unicode.",
            path=path,
        )


def check_text(names: Iterable[str]) -> None:
    """Check that the names of tensors can be written to an index, which is UTF-8.

    Raises:
        UnsupportedFeature: A name holds a lone surrogate.
    """
    for name in names:
        if not is_unicode(name):
            raise UnsupportedFeature(
                f"the name {name!r} holds a lone surrogate, which no UTF-8 text can hold.",
                hint="Rename the tensor.",
            )


def check_shard_name(name: str, file: SourceFile) -> None:
    """Check that a shard in an index is a plain file name, without a folder.

    Raises:
        ShardError: The name is that of the index itself.
        UnsafeFile: The name is a path, empty, or longer than a file name may be.
    """
    if not is_plain_name(name) or not is_unicode(name) or len(name.encode()) > _LONGEST_NAME:
        raise UnsafeFile(
            f"the index names the shard {name[:_LONGEST_NAME]!r}; expected a plain file name: shards are "
            "opened only in the folder of the index.",
            path=file.name,
        )
    if name == file.path.name:
        raise ShardError("the index lists itself as a shard.", path=file.name)


def total_size(value: Any, path: str) -> int | None:
    """Return the bytes of all tensors that an index states; None if it states nothing.

    Raises:
        MalformedFile: The value is not a non-negative number of bytes.
    """
    if value is None:
        return None
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not 0 <= value <= _LARGEST_TOTAL or value != int(value):
        raise MalformedFile(
            f"expected a number of bytes as 'total_size' in the index, got {shown(value, 40)}.",
            path=path,
            hint="Write the set again, or remove 'total_size' from the index: it is only compared.",
        )
    return int(value)
