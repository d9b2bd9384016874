"""An executor whose worker is killed in the middle of a part, as the system does when memory is short."""

import json
import os
import signal
from pathlib import Path

from bridge_core import run_part
from bridge_core.conversion.by_executor import run_listed_part

__all__ = ["Deadly"]


class Deadly:
    """Hands parts to an executor, and lets the process that runs one of them be killed, once.

    Args:
        executor: The executor.
        workers: How many workers it has.
        part: The part; its process is killed after the first bytes of its file are written.
        marker: A file that is made when that has happened.
    """

    def __init__(self, executor, *, workers, part, marker):
        self.executor, self._max_workers = executor, workers
        self.part, self.marker = part, marker

    def submit(self, function, work, part, *others):
        assert function is run_listed_part
        if part == self.part:
            return self.executor.submit(_run_and_die, str(self.marker), work, part, *others)
        return self.executor.submit(function, work, part, *others)


def _run_and_die(marker, work, part, running, token):
    if Path(marker).exists():
        return run_listed_part(work, part, running, token)

    def die(progress):
        Path(marker).write_text(f"{progress.done} of {progress.total} bytes")
        if hasattr(signal, "SIGKILL"):
            os.kill(os.getpid(), signal.SIGKILL)
        os._exit(9)  # Windows has no signals that cannot be caught

    return run_part(work, part, **json.loads(running), progress=die)
