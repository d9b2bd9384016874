"""Repeating requests that failed for a time, with growing pauses."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

from bridge_core.errors import RemoteFailure
from bridge_core.messages import count

__all__ = ["repeated"]

T = TypeVar("T")

_TRIES = 6
_FIRST_PAUSE = 0.2
"""Seconds; each pause is `_GROWTH` times as long as the one before."""
_GROWTH = 3.0
_JITTER = 0.25
"""The part by which a pause is longer or shorter, so that many clients do not come back at the same time."""
_LONGEST_PAUSE = 30.0
"""Seconds, also where the server asks for more."""
_ALL_PAUSES = 60.0
"""Seconds of all pauses of one request together."""

_HINT = "Check the connection and the server, then run the same command again."


def repeated(request: Callable[[], T], doing: str, path: str, *, ended: threading.Event | None = None) -> T:
    """Return what a request returns; it is repeated, with growing pauses, if it may succeed.

    Args:
        request: Makes the request once; it raises `RemoteFailure` with ``is_temporary`` if another try may
            succeed.
        doing: What it does, for the error: ``"reading bytes 0 to 9"``.
        path: The URL as messages show it.
        ended: When it is set, a pause ends, and the request is not repeated; None for never.

    Raises:
        RemoteFailure: The last try failed, or the failure is not temporary.
    """
    ended = ended or threading.Event()
    started, paused = time.monotonic(), 0.0
    for number in range(1, _TRIES + 1):
        try:
            return request()
        except RemoteFailure as err:
            failure = err
        if not failure.is_temporary:
            failure.path = failure.path or path
            raise failure from None
        pause = _pause(number, failure.retry_after)
        if number == _TRIES or paused + pause > _ALL_PAUSES:
            break
        sleep(pause, ended)
        if ended.is_set():
            break
        paused += pause
    tried = f"{count(number, 'time')} in {time.monotonic() - started:.0f} s"
    raise RemoteFailure(
        f"{doing} failed, tried {tried}; the last answer: {failure.message}",
        path=path,
        hint=failure.hint or _HINT,
        is_temporary=True,
        retry_after=failure.retry_after,
    ) from None


def sleep(seconds: float, ended: threading.Event) -> None:
    """Wait for some seconds, or until an event is set; tests replace it."""
    ended.wait(seconds)


def _pause(number: int, retry_after: float | None) -> float:
    """Return the seconds to wait after a number of failures."""
    import random  # only failures need it

    pause = _FIRST_PAUSE * _GROWTH ** (number - 1) * random.uniform(1 - _JITTER, 1 + _JITTER)
    return min(max(pause, retry_after or 0.0), _LONGEST_PAUSE)
