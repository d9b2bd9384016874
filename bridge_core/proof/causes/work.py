"""Work: how much a search may still compute, counted in values so that every run does the same."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Work"]

OVERHEAD = 10_000
"""Values that numpy computes in the time that the calls of one candidate take anyway."""

USUAL = 300_000_000
"""About a second of one CPU."""


@dataclass(eq=False)
class Work:
    """What is left of a budget; the only thing here that changes.

    Args:
        left: Values that may still be computed.
    """

    left: int = USUAL

    def allows(self, values: int) -> bool:
        """Take what a candidate costs, and return whether it may be tried.

        Args:
            values: Values that are computed for it, in all arrays together.
        """
        self.left -= values + OVERHEAD
        return self.left > 0
