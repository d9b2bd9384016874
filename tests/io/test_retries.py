"""Requests that fail for a time are repeated, and the error at the end names what was tried."""

import itertools
import threading

import pytest
from support.errors import refused
from support.memory_filesystem import temporary

from bridge_core.errors import AccessDenied, RemoteFailure
from bridge_core.io import retries
from bridge_core.io.retries import repeated


@pytest.fixture
def pauses(monkeypatch):
    """The seconds of the pauses, none of which takes time."""
    seconds = []
    monkeypatch.setattr(retries, "sleep", lambda pause, _ended: seconds.append(pause))
    return seconds


def failing(*errors):
    """Return a request that raises some errors and then returns 7."""
    left = list(errors)

    def request():
        if left:
            raise left.pop(0)
        return 7

    return request


def test_a_request_that_succeeds_is_made_once(pauses):
    assert repeated(failing(), "reading", "mem://a") == 7
    assert pauses == []


def test_a_temporary_failure_is_repeated_with_growing_pauses(pauses):
    assert repeated(failing(*[temporary()] * 5), "reading", "mem://a") == 7
    assert len(pauses) == 5
    assert all(1.7 < later / earlier < 5.1 for earlier, later in itertools.pairwise(pauses))
    assert 0.1 < pauses[0] < 0.3


def test_the_pause_that_a_server_asks_for_is_made_within_a_limit(pauses):
    repeated(failing(temporary(retry_after=4), temporary(retry_after=3600)), "reading", "mem://a")
    assert pauses == [4, 30]


def test_all_pauses_together_have_a_limit(pauses):
    with pytest.raises(RemoteFailure):
        repeated(failing(*[temporary(retry_after=29)] * 6), "reading", "mem://a")
    assert pauses == [29, 29]


def test_the_last_failure_is_named(pauses):
    with refused(RemoteFailure, "mem://a", "reading bytes 0 to 9", "6 times", "status 503", hint="again"):
        repeated(failing(*[temporary("status 503.")] * 6), "reading bytes 0 to 9", "mem://a")


def test_its_own_hint_is_preserved_and_no_cause_is_printed(pauses):
    error = RemoteFailure("no route.", is_temporary=True, hint="Set a proxy.")
    with pytest.raises(RemoteFailure, match="Set a proxy") as caught:
        repeated(failing(*[error] * 6), "reading", "mem://a")
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


@pytest.mark.parametrize("error", [RemoteFailure("status 416."), AccessDenied("status 403.")])
def test_a_lasting_failure_is_not_repeated(error, pauses):
    with pytest.raises(type(error)) as caught:
        repeated(failing(error), "reading", "mem://a")
    assert caught.value is error
    assert pauses == []


def test_an_event_ends_the_tries():
    ended = threading.Event()
    ended.set()
    with pytest.raises(RemoteFailure, match="1 time "):
        repeated(failing(*[temporary()] * 6), "reading", "mem://a", ended=ended)
