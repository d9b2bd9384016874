"""Reading with proof: no byte of a tensor is handed out before its block's SHA-256 was compared."""

from __future__ import annotations

import hashlib
from typing import Any

from bridge_core import IntegrityError, Key, SourceFile
from ckptbridge_hdf5.layout import BLOCK, Entry

__all__ = ["CheckedBytes"]


class CheckedBytes:
    """A tensor's bytes, read in whole blocks.

    Args:
        file: The open file.
        entry: Where the bytes stand, and their digests.
        key: The tensor, for errors.
    """

    def __init__(self, file: SourceFile, entry: Entry, key: Key) -> None:
        self._file = file
        self._entry = entry
        self._key = key

    def read_into(self, offset: int, buffer: Any) -> None:
        """Fill a writable contiguous buffer from ``offset`` within the tensor.

        Raises:
            IntegrityError: A block differs from its SHA-256.
            TruncatedFile: The file ends first.
        """
        view = memoryview(buffer).cast("B")
        done = 0
        while done < len(view):
            block, skip = divmod(offset + done, BLOCK)
            start = block * BLOCK
            length = min(BLOCK, self._entry.spec.nbytes - start)
            wanted = view[done : done + length - skip]
            whole = wanted if len(wanted) == length else memoryview(bytearray(length))
            self._file.read_into(self._entry.offset + start, whole)
            if hashlib.sha256(whole).digest() != self._entry.digest(block):
                raise IntegrityError(
                    f"bytes {start} to {start + length} of its values differ from their SHA-256.",
                    path=self._file.name,
                    key=self._key,
                )
            if whole is not wanted:
                wanted[:] = whole[skip : skip + len(wanted)]
            done += len(wanted)
