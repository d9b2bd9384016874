"""Daemon threads that run requests to servers; they end when nothing was asked for a while."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

__all__ = ["RequestThreads"]

_IDLE = 5.0
"""Seconds after which a thread without work ends."""


class RequestThreads:
    """A bounded number of threads, started when they are needed.

    Args:
        most: The largest number of threads.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._jobs: deque[Callable[[], None]] = deque()
        self._changed = threading.Condition(threading.Lock())
        self._running = self._idle = 0

    def submit(self, job: Callable[[], None], *, first: bool) -> None:
        """Run a job on a thread.

        Args:
            job: A function that raises nothing.
            first: Whether it goes before the jobs that wait.
        """
        with self._changed:
            (self._jobs.appendleft if first else self._jobs.append)(job)
            if self._idle >= len(self._jobs):
                self._changed.notify()
                return
            if self._running < self._most and self._start():
                return
            if self._running:
                return
            self._jobs.remove(job)
        job()  # the system starts no thread

    def _start(self) -> bool:
        try:
            threading.Thread(target=self._run, name="ckptbridge request", daemon=True).start()
        except RuntimeError:
            return False
        self._running += 1
        return True

    def _run(self) -> None:
        while True:
            with self._changed:
                self._idle += 1
                has_job = self._changed.wait_for(lambda: self._jobs, _IDLE)
                self._idle -= 1
                if not has_job:
                    self._running -= 1
                    return
                job = self._jobs.popleft()
            job()
            del job
