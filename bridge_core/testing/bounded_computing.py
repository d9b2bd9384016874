"""Stopping code that does not end: so much time of the processor, however busy the machine is."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["MOST_SECONDS", "Endless", "bounded_computing"]

MOST_SECONDS = 8
"""Seconds of computing that reading a file of a few hundred bytes may take: thousands of times the usual."""


class Endless(BaseException):
    """Code that ran for too long; no `Exception`, so that the code itself does not catch it."""


@contextmanager
def bounded_computing() -> Iterator[None]:
    """Stop what runs in the block after `MOST_SECONDS` of computing, where the system has such timers.

    Raises:
        Endless: It ran for longer.
    """
    set_timer = getattr(signal, "setitimer", None)  # Windows has none
    if set_timer is None or threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: object) -> None:
        raise Endless(f"still computing after {MOST_SECONDS} seconds")

    usual = signal.signal(signal.SIGVTALRM, stop)
    set_timer(signal.ITIMER_VIRTUAL, MOST_SECONDS)
    try:
        yield
    finally:
        set_timer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, usual)
