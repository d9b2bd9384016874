"""The stage that long work is in, as a line on stderr that is only shown on a terminal."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator

from bridge_core.cli.terminal import is_terminal

__all__ = ["stages"]


@contextlib.contextmanager
def stages(*, shown: bool = True) -> Iterator[Callable[[str], None] | None]:
    """Give a function to report stages to; None where nothing is shown.

    Args:
        shown: Whether the command may show it.
    """
    if not shown or not is_terminal(sys.stderr):
        yield None
        return
    from rich.console import Console

    with Console(stderr=True).status("starting") as status:
        yield lambda stage: status.update(stage)
