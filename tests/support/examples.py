"""How many examples a test of a property draws: few in every run, more where they are asked for.

TIMES_EXAMPLES=20 pytest tests/ops
"""

from __future__ import annotations

import os

__all__ = ["examples"]

TIMES = int(os.environ.get("TIMES_EXAMPLES", "1"))


def examples(number):
    """Return how many examples to draw.

    Args:
        number: How many the default run draws.
    """
    return number * TIMES
