"""How many threads and how much memory a run may use."""

from __future__ import annotations

import re
from dataclasses import dataclass

from bridge_core.errors import UsageError
from bridge_core.io import processors

__all__ = ["Budget", "parse_size"]

_DEFAULT_MAX_RAM = 256 << 20

_SMALLEST_BLOCK = 64 << 10

_COPIES = 2
"""Blocks in memory at once in a thread: as read and as transformed."""


@dataclass(frozen=True)
class Budget:
    """How many threads and how much memory a run may use.

    Args:
        workers: Threads; None takes the processors that this process may use, at most four.
        max_ram: Bytes of buffers in all, None for the default.

    Raises:
        UsageError: Fewer than one thread, or less than 1 MB.
    """

    workers: int | None = None
    max_ram: int | None = None

    def __post_init__(self) -> None:
        """Check both limits."""
        if self.workers is not None and self.workers < 1:
            raise UsageError(f"{self.workers} workers can do no work; give at least 1.")
        if self.max_ram is not None and self.max_ram < 1_000_000:
            raise UsageError(f"a memory budget of {self.max_ram} bytes is too small; give at least 1 MB.")

    @property
    def threads(self) -> int:
        """Number of threads."""
        return self.workers or max(1, min(4, processors()))

    @property
    def block(self) -> int:
        """Bytes of the largest block that a thread handles at once."""
        share = (self.max_ram or _DEFAULT_MAX_RAM) // (self.threads * _COPIES)
        return max(_SMALLEST_BLOCK, share)


_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}

_BINARY = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(I?)B?", re.IGNORECASE)


def parse_size(size: int | str) -> int:
    """Return bytes for a number, or for a text such as ``"5GB"`` (10^9) or ``"512MiB"`` (2^20).

    Raises:
        UsageError: It is not a size, or not above zero.

    >>> parse_size("1.5KiB")
    1536
    """
    if isinstance(size, str):
        match = _SIZE.fullmatch(size.strip())
        if match is None or (match[3] and not match[2]):
            raise UsageError(f"{size!r} is no size.", hint="Write bytes, or e.g. 500MB, 5GB or 512MiB.")
        from decimal import Decimal  # 0.1 GB is no whole number of bytes in binary fractions

        unit = match[2].upper()
        size = int(Decimal(match[1]) * (_BINARY[unit] if match[3] else _UNITS[unit]))
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise UsageError(f"{size!r} is no size above zero.", hint="Write bytes, or e.g. 500MB or 5GB.")
    return size
