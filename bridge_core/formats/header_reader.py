"""What the author of a format reads a header with, and the entry of a tensor in a header."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, Protocol

from bridge_core.errors import LimitExceeded, TruncatedFile
from bridge_core.io import parse_json
from bridge_core.messages import count

__all__ = ["HeaderReader", "HeaderSource", "StoredTensor"]


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """The entry of one tensor in a header.

    Args:
        name: Its name in the file.
        dtype: Its dtype as the file spells it: a name in ``dtypes`` of the format.
        shape: Sizes of its axes.
        offset: First of its bytes in the file, counted from the beginning of the file.
        nbytes: Number of its bytes; None if the header does not have it. A number that does not fit dtype and
            shape is refused.
    """

    name: str
    dtype: Hashable
    shape: tuple[int, ...]
    offset: int
    nbytes: int | None = None


class HeaderSource(Protocol):
    """What a header is read from: a file, or a header that is not written yet."""

    name: str
    size: int

    def read(self, offset: int, nbytes: int) -> bytes:
        """Return exactly ``nbytes`` bytes from ``offset``."""
        ...


class HeaderReader:
    """Reads a header from its beginning to its end, and never more than a limit.

    Args:
        file: The file.
        position: First byte of the header.
        limit: The most bytes that are read.
    """

    def __init__(self, file: HeaderSource, position: int, limit: int) -> None:
        self._file = file
        self._limit = position + limit
        self.position = position
        """The next byte to read, counted from the beginning of the file."""

    @property
    def path(self) -> str:
        """The file, for errors: ``MalformedFile("...", path=header.path)``."""
        return self._file.name

    @property
    def file_size(self) -> int:
        """Bytes of the complete file."""
        return self._file.size

    def read(self, nbytes: int) -> bytes:
        """Return the next ``nbytes`` bytes.

        Raises:
            TruncatedFile: The file ends first; checked before any memory is taken.
            LimitExceeded: The header would be larger than the format's ``header_limit``.
        """
        if nbytes < 0:
            raise ValueError(f"the header declares a length of {nbytes}")
        end = self.position + nbytes
        if end > self._file.size:
            raise TruncatedFile(
                f"the header ends at byte {end}, but the file is only {count(self._file.size, 'byte')}.",
                path=self.path,
                hint="The file was cut off, or is damaged: fetch it again.",
            )
        if end > self._limit:
            raise LimitExceeded(
                f"the header ends at byte {end}; expected at most {self._limit}.",
                path=self.path,
                hint="The file is damaged, or is not of this format.",
            )
        data = self._file.read(self.position, nbytes)
        self.position = end
        return data

    def integer(self, nbytes: int, *, signed: bool = False) -> int:
        """Return the next ``nbytes`` bytes as a little-endian integer."""
        return int.from_bytes(self.read(nbytes), "little", signed=signed)

    def text(self, nbytes: int) -> str:
        """Return the next ``nbytes`` bytes as a text in UTF-8."""
        return self.read(nbytes).decode()

    def json(self, nbytes: int) -> dict[str, Any]:
        """Return the next ``nbytes`` bytes as a JSON object in which no name is repeated.

        Raises:
            MalformedFile: They are not one.
            KeyConflict: An object has a name twice.
        """
        return parse_json(self.read(nbytes), path=self.path, what="the header")
