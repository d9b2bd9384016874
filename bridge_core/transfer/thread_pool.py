"""A thread pool that Ctrl-C cannot deadlock.

An interrupt strikes the main thread between any two steps of its Python code. The pools of the standard
library share locks with it, and one that it took and never released stops every worker. Here the caller
shares none: the workers take jobs by themselves, and it only waits for them to end.
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
from bridge_core.io import stopped_by

__all__ = ["run_jobs"]

J = TypeVar("J")
T = TypeVar("T")

_PAUSE = 0.2
"""Seconds; an interrupt that arrives just before a wait begins is handled only after it."""
_POLL = 0.01
"""Seconds between two looks at the threads after an error."""


def run_jobs(
    work: Callable[[J], T], jobs: Iterable[J], threads: int, *, stop: threading.Event | None = None
) -> list[T]:
    """Return the results of ``work`` for each job, in their order; all threads have ended.

    The first error or an interrupt ends the rest, and is raised.

    Args:
        work: A function of one job, called from the threads.
        jobs: The jobs, begun in this order.
        threads: The largest number of threads.
        stop: Set on an error or an interrupt, for work that checks it now and then; None if none does.

    Raises:
        LimitExceeded: The system starts no more threads.

    >>> run_jobs(abs, [1, -2, 3], 2)
    [1, 2, 3]
    """
    waiting = deque(enumerate(jobs))
    threads = min(threads, len(waiting))
    results: list[Any] = [None] * len(waiting)
    errors: list[BaseException] = []
    started: list[bool] = []
    ended: list[bool] = []
    closed: list[bool] = []
    ending = stop or threading.Event()

    def run(done: threading.Lock) -> None:
        started.append(True)  # first, so that the caller sees it, or this thread sees ``closed``
        sys.settrace(threading.gettrace())  # for debuggers and coverage, as threading.Thread does
        try:
            while waiting and not closed:
                try:
                    number, job = waiting.popleft()
                except IndexError:
                    return
                with stopped_by(ending):  # reads from servers end with the others
                    results[number] = work(job)
        except BaseException as err:
            errors.append(err)
            waiting.clear()
            ending.set()
        finally:
            ended.append(True)
            done.release()

    try:
        running: list[_thread.LockType] = []
        for _ in range(threads):
            done = threading.Lock()
            done.acquire()
            try:
                # One step, where threading.Thread takes many and an interrupt can strike between them.
                _thread.start_new_thread(run, (done,))
            except RuntimeError as err:
                raise LimitExceeded(
                    f"starting thread {len(running) + 1} of {threads} failed: {err}.",
                    hint="Pass workers=1 (--workers).",
                ) from err
            running.append(done)
        for done in running:
            while not done.acquire(timeout=_PAUSE):
                pass
    except BaseException:
        closed.append(True)
        ending.set()
        while len(ended) < len(started):
            # Through further interrupts too: what a worker uses must not be closed under it.
            try:  # noqa: SIM105 # contextlib.suppress is Python code that an interrupt can strike too
                time.sleep(_POLL)
            except KeyboardInterrupt:
                pass
        raise
    if errors:
        raise errors[0]
    return results
