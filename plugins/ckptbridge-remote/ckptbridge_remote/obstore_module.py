"""The module obstore, imported when a URL is first used, and the options of its stores."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

from bridge_core.errors import MissingDependency, SystemFailure

__all__ = ["MOST_STORES", "for_reading", "for_writing", "load_obstore"]

MOST_STORES = 64
"""Stores that are remembered, each with its connections."""
_CONNECTING = timedelta(seconds=10)
_WAITING = timedelta(seconds=30)
"""How long a server may send nothing."""
_READING = timedelta(minutes=10)
"""How long the answer to one request may take: 8 MiB arrive in it at 14 kB/s."""
_WRITING = timedelta(minutes=15)
_REPEATING = timedelta(minutes=2)

_user: list[int] = []
"""The process that used obstore first, whose threads serve all requests."""


def load_obstore() -> Any:
    """Return the module obstore.

    Raises:
        MissingDependency: It cannot be imported.
        SystemFailure: The process was forked from one that has used obstore, and a request would not end.
    """
    try:
        import obstore
    except ImportError as err:
        raise MissingDependency(
            f"reading from URLs needs obstore, and importing it failed: {err}.",
            hint="Run: pip install 'ckptbridge[remote]'.",
        ) from err
    if not _user:
        _user.append(os.getpid())
    if _user[0] != os.getpid():
        raise SystemFailure(
            "this process was forked from one that has read from URLs, and obstore does not work in it.",
            hint="Start processes anew: ProcessPoolExecutor(mp_context="
            'multiprocessing.get_context("spawn")).',
        )
    return obstore


def for_reading(*, plain: bool, headers: dict[str, str] | None = None) -> dict[str, Any]:
    """Return the options of a store that reads; it repeats no request, since its caller does.

    Args:
        plain: Whether connections may be without encryption.
        headers: What every request has.
    """
    client: dict[str, Any] = {
        "allow_http": plain,
        "connect_timeout": _CONNECTING,
        "read_timeout": _WAITING,
        "timeout": _READING,
    }
    if headers:
        client["default_headers"] = headers
    return {"client_options": client, "retry_config": {"max_retries": 0}}


def for_writing(*, plain: bool) -> dict[str, Any]:
    """Return the options of a store that writes, which repeats its requests."""
    # A limit for silence would include the time in which a part is sent.
    client = {"allow_http": plain, "connect_timeout": _CONNECTING, "timeout": _WRITING}
    return {"client_options": client, "retry_config": {"max_retries": 5, "retry_timeout": _REPEATING}}
