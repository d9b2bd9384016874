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
        done: Bytes so far; those that verification reads again and those that are uploaded count too.
        total: Bytes of all tensors; twice that with verification, and once more with uploads.
        key: The tensor of the last bytes.
        phase: ``"writing"``, ``"verifying"``, ``"uploading"`` or ``"comparing"``.
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
        uploads: Whether the files are uploaded, which counts like writing them.
    """

    def __init__(
        self,
        state: FlatState,
        progress: Callable[[Progress], None] | None,
        *,
        verify: bool = False,
        uploads: bool = False,
    ) -> None:
        ties = state.metadata.ties
        specs = state.specs()
        to_write = sum(spec.nbytes for key, spec in specs.items() if key not in ties)
        self._limits = {
            "writing": to_write,
            "verifying": sum(spec.nbytes for spec in specs.values()) if verify else 0,
            "uploading": to_write if uploads else 0,
        }
        self._counted = dict.fromkeys(self._limits, 0)
        self._progress = progress
        self._last: Key = ()
        self._lock = threading.Lock()

    def add(self, nbytes: int, key: Key) -> None:
        """Count bytes that were written."""
        self._count(nbytes, key, "writing")

    def verified(self, nbytes: int, key: Key) -> None:
        """Count bytes that were read again."""
        self._count(nbytes, key, "verifying")

    def verified_behind(self, nbytes: int, key: Key) -> None:
        """Count bytes that were read again while others are still written."""
        self._count(nbytes, key, "verifying", shown="writing")

    def uploaded(self, nbytes: int) -> None:
        """Count bytes that were uploaded."""
        self._count(nbytes, self._last, "uploading")

    def finish(self) -> None:
        """Report all bytes as written, if packing wrote fewer, and as uploaded."""
        for phase in ("writing", "uploading"):
            missing = self._limits[phase] - self._counted[phase]
            if missing:
                self._count(missing, self._last, phase)

    def _count(self, nbytes: int, key: Key, phase: str, *, shown: str | None = None) -> None:
        with self._lock:
            # Formats may write tied tensors twice, or packed: the total is the tensors' own.
            self._counted[phase] = min(self._counted[phase] + nbytes, self._limits[phase])
            self._last = key
            if self._progress is not None:
                done, total = sum(self._counted.values()), sum(self._limits.values())
                self._progress(Progress(done, total, key, shown or phase))
