"""``-v``: what the library logs, on stderr."""

from __future__ import annotations

import logging
from collections.abc import Callable

from bridge_core.cli.terminal import complain

__all__ = ["show_log"]


def show_log(verbosity: int) -> Callable[[], None]:
    """Show what is logged under ``ckptbridge``.

    Args:
        verbosity: 1 for each stage (INFO), 2 or more for everything (DEBUG).

    Returns:
        What ends it, for a process that runs more than one command.
    """
    logger, handler = logging.getLogger("ckptbridge"), _Lines()
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO if verbosity == 1 else logging.DEBUG)

    def end() -> None:
        logger.removeHandler(handler)
        logger.setLevel(level)

    return end


class _Lines(logging.Handler):
    """Prints each record as one line, escaped like every text that may come from a file."""

    def emit(self, record: logging.LogRecord) -> None:
        complain(record.getMessage(), label=record.name)
