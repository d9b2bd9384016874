"""How many examples a test of a property draws, and whether every run draws the same ones.

HYPOTHESIS_PROFILE=nightly pytest tests/ops   ten times as many
HYPOTHESIS_PROFILE=ci pytest tests/ops        the same in every run; by default where CI is set
TIMES_EXAMPLES=20 pytest tests/ops            twenty times as many
"""

from __future__ import annotations

import os

from hypothesis import settings

__all__ = ["examples", "load_profile"]

PROFILE = os.environ.get("HYPOTHESIS_PROFILE") or ("ci" if os.environ.get("CI") else "dev")
TIMES = int(os.environ.get("TIMES_EXAMPLES") or {"nightly": 10}.get(PROFILE, 1))


def examples(number):
    """Return how many examples to draw.

    Args:
        number: How many the default run draws.
    """
    return number * TIMES


def load_profile():
    """Register the profiles ``ci``, ``dev`` and ``nightly``, and load the one that is asked for.

    None has a deadline: a busy machine is not a fault. ``ci`` draws the same examples in every run, so that
    a change fails for what it changes; the others draw new ones.
    """
    for name in ("ci", "dev", "nightly"):
        settings.register_profile(
            name,
            deadline=None,
            max_examples=examples(100),
            derandomize=name == "ci",
            print_blob=name != "dev",
        )
    settings.load_profile(PROFILE)
