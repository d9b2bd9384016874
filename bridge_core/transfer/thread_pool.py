"""Working jobs off with several threads, in a way that Ctrl-C cannot lock up.

An interrupt strikes the main thread between any two steps of its Python code. The pools of the standard
library share locks with it, and one that it took and never gave back stops every worker. Here the caller
shares none: the workers take jobs by themselves, and it only waits for them to leave.
"""

from __future__ import annotations

import _thread
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from bridge_core.errors import LimitExceeded

__all__ = ["work_off"]

J = TypeVar("J")
T = TypeVar("T")

_PAUSE = 0.2
"""Seconds; an interrupt that arrives just before a wait begins is seen only after it."""
_GLANCE = 0.01


def work_off(
    work: Callable[[J], T], jobs: Iterable[J], threads: int, *, stop: threading.Event | None = None
) -> list[T]:
    """Return what ``work`` gives for each job, in their order; no worker is left when this ends.

    The first error ends the rest, and is raised. So does an interrupt.

    Args:
        work: Called from the threads.
        jobs: What to call it with, taken in this order.
        threads: How many threads at most.
        stop: Set on an error or an interrupt, for work that looks at it now and then.

    Raises:
        LimitExceeded: The system starts no more threads.

    >>> work_off(abs, [1, -2, 3], 2)
    [1, 2, 3]
    """
    waiting = deque(enumerate(jobs))
    threads = min(threads, len(waiting))
    results: list[Any] = [None] * len(waiting)
    errors: list[BaseException] = []
    came: list[bool] = []
    left: list[bool] = []
    shut: list[bool] = []

    def run(door: threading.Lock) -> None:
        came.append(True)  # first, so that either the caller sees it or it sees that all is shut
        sys.settrace(threading.gettrace())  # for debuggers and coverage, as threading.Thread does
        try:
            while waiting and not shut:
                try:
                    number, job = waiting.popleft()
                except IndexError:
                    return
                results[number] = work(job)
        except BaseException as err:
            errors.append(err)
            waiting.clear()
            if stop is not None:
                stop.set()
        finally:
            left.append(True)
            door.release()

    try:
        doors = []
        for _ in range(threads):
            door = threading.Lock()
            door.acquire()
            try:
                # One step, where threading.Thread takes many and an interrupt can strike between them.
                _thread.start_new_thread(run, (door,))
            except RuntimeError as err:
                raise LimitExceeded("no memory for a thread.", hint="Lower --workers.") from err
            doors.append(door)
        for door in doors:
            while not door.acquire(timeout=_PAUSE):
                pass
    except BaseException:
        shut.append(True)
        if stop is not None:
            stop.set()
        while len(left) < len(came):
            # Through further interrupts too: what a worker uses must not be closed under it.
            try:  # noqa: SIM105 # contextlib.suppress is Python code that an interrupt can strike too
                time.sleep(_GLANCE)
            except KeyboardInterrupt:
                pass
        raise
    if errors:
        raise errors[0]
    return results
