"""Addresses and variables that are checked before obstore gets them, since it ends in a panic on some."""

from __future__ import annotations

import os
import re
import urllib.parse
from collections.abc import Iterable

from bridge_core.errors import UsageError

__all__ = ["check_variables", "is_address"]

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def is_address(url: str) -> bool:
    """Return whether a text is an ``http`` or ``https`` URL with a host that can exist.

    >>> is_address("http://[::1]:9000/x"), is_address("https://host:x/"), is_address("host:9000")
    (True, False, False)
    """
    try:
        parts = urllib.parse.urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        return False
    is_plain = re.search(r"\s", parts.netloc) is None and _CONTROL.search(url) is None
    return parts.scheme in ("http", "https") and bool(host) and is_plain


def check_variables(
    texts: Iterable[str], *, addresses: Iterable[str] = (), names: Iterable[str] = ()
) -> None:
    """Refuse variables of the environment with a value that is not usable.

    Args:
        texts: Variables of one line of text, such as keys.
        addresses: Variables that hold a URL.
        names: Variables that hold a name of letters, digits and hyphens.

    Raises:
        UsageError: One is set to something else; the value is not shown, since it may be secret.
    """
    checks = (
        (texts, "one line of text", lambda value: _CONTROL.search(value) is None),
        (addresses, "a URL that begins with https:// or http://", is_address),
        (names, "a name of letters, digits and hyphens", re.compile(r"[A-Za-z0-9-]+").fullmatch),
    )
    for variables, expected, is_valid in checks:
        for variable in variables:
            value = os.environ.get(variable)
            if value and not is_valid(value):
                raise UsageError(
                    f"the variable {variable} of the environment is not {expected}.",
                    hint=f"Correct {variable}.",
                )
