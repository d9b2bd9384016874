"""How many threads and how much memory a run may use."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from bridge_core.errors import UsageError
from bridge_core.io import processors
from bridge_core.messages import shown

__all__ = ["Budget", "parse_size"]

_DEFAULT_MAX_RAM = 256 << 20
"""Bytes; chosen with ``benchmarks/file_to_file.py`` and ``benchmarks/memory.py``."""

_SMALLEST_BLOCK = 64 << 10
"""Bytes."""

_COPIES = 2
"""Blocks that a thread has in memory at once: the values as read, and the result."""

_REMOTE_SHARE = 1 / 3
"""The share of the memory that blocks get when a source is at a server, and the share of what is fetched from
it; the rest is for copies of single blocks and for checksums."""

_HOW_TO_WRITE = 'Write an integer, "500MB" (10^6 bytes) or "512MiB" (2^20 bytes).'


@dataclass(frozen=True)
class Budget:
    """How many threads and how much memory a run may use.

    Args:
        workers: Threads; None for one per processor that this process may use, at most four.
        max_ram: Bytes of all buffers together; None for 256 MiB.
        is_shared: Whether a part of ``max_ram`` is for what is fetched from servers.

    Raises:
        UsageError: ``workers`` is not an integer or less than 1, or ``max_ram`` less than 1 MB.
    """

    workers: int | None = None
    max_ram: int | None = None
    is_shared: bool = False

    def __post_init__(self) -> None:
        """Compare both values with the least that is allowed."""
        if self.workers is not None and (
            not isinstance(self.workers, int) or isinstance(self.workers, bool) or self.workers < 1
        ):
            raise UsageError(
                f"expected at least 1 thread as workers= (--workers), got {shown(self.workers)}.",
                hint="Pass workers=1 (--workers 1).",
            )
        if self.max_ram is not None and self.max_ram < 1_000_000:
            raise UsageError(
                f"expected a memory budget of at least 1 MB, got {self.max_ram} bytes.",
                hint='Pass max_ram="256MB" (--max-ram).',
            )

    @property
    def threads(self) -> int:
        """Number of threads."""
        return self.workers or max(1, min(4, processors()))

    @property
    def block(self) -> int:
        """Bytes of the largest block that a thread handles at once."""
        share = (self.max_ram or _DEFAULT_MAX_RAM) // (self.threads * _COPIES)
        return max(_SMALLEST_BLOCK, int(share * _REMOTE_SHARE) if self.is_shared else share)

    @property
    def fetch_nbytes(self) -> int:
        """Bytes of what is fetched from servers, if `after_fetches` is used for the rest."""
        return int((self.max_ram or _DEFAULT_MAX_RAM) * _REMOTE_SHARE)

    @property
    def after_fetches(self) -> Budget:
        """The same budget, of which what is fetched from servers takes a share."""
        return replace(self, is_shared=True)


_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}

_BINARY = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(I?)B?", re.IGNORECASE)


def parse_size(size: int | str) -> int:
    """Return bytes from an integer, or a text such as ``"5GB"`` (10^9) or ``"512MiB"`` (2^20).

    Raises:
        UsageError: The argument is not a size, or is less than 1.

    >>> parse_size("1.5KiB")
    1536
    """
    if isinstance(size, str):
        match = _SIZE.fullmatch(size.strip())
        if match is None or (match[3] and not match[2]):
            raise UsageError(f"expected a number of bytes, got {shown(size)}.", hint=_HOW_TO_WRITE)
        from decimal import Decimal  # in binary fractions 0.1 GB is not an integer of bytes

        unit = match[2].upper()
        size = int(Decimal(match[1]) * (_BINARY[unit] if match[3] else _UNITS[unit]))
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise UsageError(f"expected a size of at least 1 byte, got {shown(size)}.", hint=_HOW_TO_WRITE)
    return size
