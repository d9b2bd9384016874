"""From the status of an answer of the hub to an error that shows what to do."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime

from bridge_core.errors import AccessDenied, BridgeError, RemoteFailure, SourceNotFound
from ckptbridge_remote.hub_client import Answer, HubClient
from ckptbridge_remote.hub_place import HubPlace

__all__ = ["failed_transfer", "is_missing_repo", "refusal", "retry_after"]

_TEMPORARY = frozenset({408, 425, 429})
"""Statuses below 500 after which the same request may succeed."""
_LOG_IN = "set HF_TOKEN or run: hf auth login"


def is_missing_repo(answer: Answer) -> bool:
    """Return whether the repository does not exist or is not visible: the hub does not distinguish these."""
    code = answer.headers.get("X-Error-Code")
    return code == "RepoNotFound" or (answer.status in (401, 404) and not code and not _is_bad_token(answer))


def refusal(place: HubPlace, answer: Answer, client: HubClient, *, writing: bool = False) -> BridgeError:
    """Return the error of an answer of the hub that is not what was asked for.

    Texts of the server are left out: they may repeat what was sent.

    Args:
        place: What was asked about.
        answer: The answer.
        client: Whether a token was sent, and the address of the hub.
        writing: Whether the request was part of an upload.
    """
    path, code = place.url, answer.headers.get("X-Error-Code")
    doing = "writing" if writing else "reading"
    if code == "GatedRepo":
        return AccessDenied(
            f"{place.name} is gated: its authors give access to users who accept their conditions.",
            path=path,
            hint=f"Accept the conditions at {client.endpoint}{place.page}, and {_LOG_IN}.",
        )
    if _is_bad_token(answer):
        return AccessDenied(
            "the hub does not accept the token that was sent.",
            path=path,
            hint=f"Make a new one at {client.endpoint}/settings/tokens, then {_LOG_IN}.",
        )
    if writing and answer.status == 401 and not client.has_token:
        return AccessDenied(
            "writing to the hub needs a token, and none was sent.",
            path=path,
            hint=f"To send one, {_LOG_IN}.",
        )
    if is_missing_repo(answer):
        return _missing_repo(place, client, writing=writing)
    if code == "RevisionNotFound":
        return SourceNotFound(
            f"{place.name} has no branch, tag or commit {place.revision or 'main'!r}.", path=path
        )
    if code == "EntryNotFound":
        return SourceNotFound(f"{place.name} has no file {place.path!r} at this revision.", path=path)
    if answer.status in (401, 403, 451):
        return AccessDenied(
            f"the hub does not permit {doing} {place.name} (status {answer.status}).",
            path=path,
            hint=f"Check at {client.endpoint}/settings/tokens what the token permits."
            if client.has_token
            else f"To send a token, {_LOG_IN}.",
        )
    return failed_transfer(answer, path)


def failed_transfer(answer: Answer, path: str) -> RemoteFailure:
    """Return the failure of an answer with a status that has nothing to do with access.

    Args:
        answer: The answer of the hub, or of a host that it stores files on.
        path: What was asked for.
    """
    temporary = answer.status >= 500 or answer.status in _TEMPORARY
    return RemoteFailure(
        f"{answer.host} answered with status {answer.status}.",
        path=path,
        is_temporary=temporary,
        retry_after=retry_after(answer.headers) if temporary else None,
    )


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Return how many seconds a server asks to wait: ``Retry-After``, or the ``RateLimit`` of the hub.

    >>> retry_after({"Retry-After": "3"}), retry_after({"RateLimit": '"resolvers";r=0;t=55'})
    (3.0, 55.0)
    """
    text = headers.get("Retry-After")
    if text:
        if re.fullmatch(r"\d{1,6}(\.\d+)?", text.strip(), re.ASCII):
            return float(text)
        try:
            return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
        except (ValueError, OverflowError):
            return None
    limit = re.search(r";\s*r=0\b.*;\s*t=(\d{1,6})\b", headers.get("RateLimit", ""), re.ASCII)
    return float(limit[1]) if limit else None


def _is_bad_token(answer: Answer) -> bool:
    text = answer.headers.get("X-Error-Message", "")
    return answer.status == 401 and text == "Invalid credentials in Authorization header"


def _missing_repo(place: HubPlace, client: HubClient, *, writing: bool) -> SourceNotFound:
    if client.has_token:
        problem = f"{place.name} does not exist on the hub, or is private and the token does not give access."
        check = "check the name, and what the token permits"
    else:
        problem = f"{place.name} does not exist on the hub, or is private; no token was sent."
        check = f"check the name; for a private repository {_LOG_IN}"
    kind = "" if place.kind == "model" else f" --repo-type {place.kind}"
    hint = f"Create it with: hf repo create {place.repo}{kind}; or {check}." if writing else ""
    return SourceNotFound(problem, path=place.url, hint=hint or f"{check[0].upper()}{check[1:]}.")
