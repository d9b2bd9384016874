"""What a run may take, and what it reports on the way."""

from __future__ import annotations

import os
from dataclasses import dataclass

from bridge_core.errors import UsageError
from bridge_core.keys import Key

__all__ = ["Budget", "Progress"]

_DEFAULT_MAX_RAM = 256 << 20
_SMALLEST_BLOCK = 64 << 10
_COPIES = 2
"""Blocks alive at once in a worker: as read and as transformed."""


@dataclass(frozen=True)
class Progress:
    """A report to the caller's ``progress`` function.

    Args:
        done: Bytes so far; where everything is read again, those count too.
        total: Bytes in all.
        key: The tensor that was just worked on.
        phase: ``"writing"``, ``"verifying"`` or ``"comparing"``.
    """

    done: int
    total: int
    key: Key
    phase: str = "writing"


@dataclass(frozen=True)
class Budget:
    """How much a run may take.

    Args:
        workers: Threads; None takes the processors that this process may use, at most four.
        max_ram: Bytes of buffers in all, None for the default.

    Raises:
        UsageError: No worker, or a budget too small for any block.
    """

    workers: int | None = None
    max_ram: int | None = None

    def __post_init__(self) -> None:
        """Check."""
        if self.workers is not None and self.workers < 1:
            raise UsageError(f"{self.workers} workers can do no work; give at least 1.")
        if self.max_ram is not None and self.max_ram < 1_000_000:
            raise UsageError(f"a memory budget of {self.max_ram} bytes is too small; give at least 1 MB.")

    @property
    def threads(self) -> int:
        """Number of threads."""
        return self.workers or max(1, min(4, len(os.sched_getaffinity(0))))

    @property
    def block(self) -> int:
        """Bytes of the largest block that a worker handles at once."""
        share = (self.max_ram or _DEFAULT_MAX_RAM) // (self.threads * _COPIES)
        return max(_SMALLEST_BLOCK, share)
