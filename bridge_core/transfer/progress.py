"""Progress reports to the caller while bytes are written, verified or compared."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

from bridge_core.state import FlatState, Key

__all__ = ["Meter", "Progress"]


@dataclass(frozen=True)
class Progress:
    """A report to the caller's ``progress`` function.

    Args:
        done: Bytes so far; those that verification reads again count too.
        total: Bytes of all tensors; twice that with verification.
        key: The tensor of the last bytes.
        phase: ``"writing"``, ``"verifying"`` or ``"comparing"``.
    """

    done: int
    total: int
    key: Key
    phase: str = "writing"


class Meter:
    """Turns the reports of several threads into one monotonic count, one call at a time.

    Args:
        state: The state that is written.
        progress: The caller's function.
        verify: Whether every tensor is read again, which counts like writing it.
    """

    def __init__(
        self, state: FlatState, progress: Callable[[Progress], None] | None, *, verify: bool = False
    ) -> None:
        ties = state.metadata.ties
        specs = state.specs()
        self._to_write = sum(spec.nbytes for key, spec in specs.items() if key not in ties)
        self._total = self._to_write + (sum(spec.nbytes for spec in specs.values()) if verify else 0)
        self._done = 0
        self._progress = progress
        self._last: Key = ()
        self._lock = threading.Lock()

    def add(self, nbytes: int, key: Key) -> None:
        """Count bytes that were written."""
        # Formats may write tied tensors twice, or packed: the total is the tensors' own.
        self._count(nbytes, key, self._to_write, "writing")

    def verified(self, nbytes: int, key: Key) -> None:
        """Count bytes that were read again."""
        self._count(nbytes, key, self._total, "verifying")

    def finish(self) -> None:
        """Report all bytes as written, if packing wrote fewer."""
        if self._done < self._to_write:
            self.add(self._to_write - self._done, self._last)

    def _count(self, nbytes: int, key: Key, limit: int, phase: str) -> None:
        with self._lock:
            self._done = max(self._done, min(self._done + nbytes, limit))
            self._last = key
            if self._progress is not None:
                self._progress(Progress(self._done, self._total, key, phase))
