"""``-v``: what the library logs, on stderr."""

from __future__ import annotations

import logging

from bridge_core.cli.terminal import complain

__all__ = ["show_log"]


def show_log(verbosity: int) -> None:
    """Show what is logged under ``ckptbridge``; replaces what an earlier call set.

    Args:
        verbosity: 0 nothing, 1 each stage (INFO), 2 or more everything (DEBUG).
    """
    logger = logging.getLogger("ckptbridge")
    for handler in [handler for handler in logger.handlers if isinstance(handler, _Lines)]:
        logger.removeHandler(handler)
    if verbosity > 0:
        logger.addHandler(_Lines())
        logger.setLevel(logging.INFO if verbosity == 1 else logging.DEBUG)


class _Lines(logging.Handler):
    """Prints each record as one line, escaped as everything that may come from a file."""

    def emit(self, record: logging.LogRecord) -> None:
        complain(f"{record.getMessage()}", label=record.name)
