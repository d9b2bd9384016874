"""Jobs on several threads: order, errors, and interrupts at any moment."""

import _thread
import signal
import threading
import time

import pytest
from support.errors import refused

from bridge_core import LimitExceeded
from bridge_core.transfer.thread_pool import run_jobs


@pytest.mark.parametrize("threads", [1, 3, 50])
def test_results_come_in_the_order_of_the_jobs(threads):
    def work(job):
        time.sleep(0.002 * (job % 3))
        return job * job

    assert run_jobs(work, range(20), threads) == [n * n for n in range(20)]


def test_no_jobs_need_no_thread():
    assert run_jobs(abs, [], 4) == []


def test_the_first_error_ends_the_rest_and_is_raised():
    stop = threading.Event()
    begun = []

    def work(job):
        begun.append(job)
        if job == 1:
            raise ValueError("bad")
        stop.wait(10)

    with pytest.raises(ValueError, match="bad"):
        run_jobs(work, range(100), 2, stop=stop)
    assert sorted(begun) == [0, 1]


def test_a_system_without_threads_is_a_limit(monkeypatch):
    def refuse(*_):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(_thread, "start_new_thread", refuse)
    with refused(LimitExceeded, "thread 1 of 1", hint="--workers"):
        run_jobs(abs, [1], 1)


# Python drops an interrupt that strikes inside one of its own callbacks, and says so.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_interrupts_at_any_moment_leave_no_worker_behind():
    working = []

    def work(_):
        working.append(True)
        time.sleep(0.0001)
        working.pop()

    interrupted = 0
    previous = signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        for n in range(300):
            try:
                signal.setitimer(signal.ITIMER_REAL, 1e-5 * (n + 1))
                run_jobs(work, range(200), 3)
            except KeyboardInterrupt:
                interrupted += 1
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
            assert not working
    finally:
        signal.signal(signal.SIGALRM, previous)
    assert interrupted > 100
