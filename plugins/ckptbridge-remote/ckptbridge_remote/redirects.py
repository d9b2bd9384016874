"""Where a URL with a query leads, found without showing the query to other servers.

obstore follows redirects by itself, and then sends the URL that it came from, with its query, to the server
that it is led to (as ``Referer``). A query may hold a signature or a token.
"""

from __future__ import annotations

import http.client
import socket
import ssl
import string
import urllib.error
import urllib.parse
import urllib.request
from typing import Any

from bridge_core.errors import RemoteFailure
from bridge_core.io import shown_url

__all__ = ["final_url"]

_MOST_REDIRECTS = 10
_WAITING = 30.0
"""Seconds that a server may send nothing."""
_REDIRECTS = frozenset({301, 302, 303, 307, 308})


def final_url(url: str, headers: dict[str, str]) -> str:
    """Return the URL that redirects lead to; the URL itself without any, or if refused.

    Args:
        url: A URL without a user.
        headers: What the first server gets, such as a password, and no other.

    Raises:
        RemoteFailure: The server cannot be reached, or its redirects lead nowhere.
    """
    here = url
    for number in range(_MOST_REDIRECTS):
        target = _redirect(here, url, {} if number else headers)
        if target is None:
            return here
        target = urllib.parse.urljoin(here, target)
        scheme = urllib.parse.urlsplit(target).scheme
        if scheme not in ("http", "https") or (here.startswith("https://") and scheme == "http"):
            raise RemoteFailure("the server redirects to a URL without encryption.", path=shown_url(url))
        here = target
    raise RemoteFailure(f"{_MOST_REDIRECTS} redirects do not end.", path=shown_url(url))


class _NotFollowed(urllib.request.HTTPRedirectHandler):
    """Leaves a redirect as an error."""

    def redirect_request(self, *_answer: Any) -> None:
        return None


def _redirect(url: str, named: str, headers: dict[str, str]) -> str | None:
    """Return what a server redirects to; None if it answers in another way."""
    escaped = urllib.parse.quote(url.partition("#")[0], safe=string.punctuation)
    request = urllib.request.Request(
        escaped, headers={"Range": "bytes=0-0", "User-Agent": "ckptbridge", **headers}
    )
    try:
        with urllib.request.build_opener(_NotFollowed).open(request, timeout=_WAITING):
            return None
    except urllib.error.HTTPError as error:
        with error:
            return error.headers.get("Location") if error.code in _REDIRECTS else None
    except (OSError, http.client.HTTPException) as error:
        cause, is_temporary = _cause_of(error)
        raise RemoteFailure(
            f"the server cannot be reached: {cause}.",
            path=shown_url(named),
            is_temporary=is_temporary,
            hint=None if is_temporary else "Check the URL.",
        ) from None


def _cause_of(error: BaseException) -> tuple[str, bool]:
    """Return why a server was not reached, and whether it may be reached later."""
    reason = getattr(error, "reason", error)
    if isinstance(reason, socket.gaierror) and reason.errno != socket.EAI_AGAIN:
        return "the host does not exist", False
    if isinstance(reason, ssl.SSLCertVerificationError):
        return "its certificate is not trusted", False
    if isinstance(reason, ssl.SSLError):
        return "it does not speak TLS here", False
    if isinstance(reason, TimeoutError):
        return "it did not answer in time", True
    return "the connection broke", True
