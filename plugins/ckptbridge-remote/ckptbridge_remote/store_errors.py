"""From an error of obstore to one that states what failed and what to do, without a secret in it.

The texts of obstore hold the URL with its signature, and what the server sent. Only a status and known words
are taken from them.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from types import TracebackType

from bridge_core.errors import (
    AccessDenied,
    BridgeError,
    RemoteFailure,
    SourceNotFound,
    SystemFailure,
    UsageError,
)
from bridge_core.io import shown_url

__all__ = ["Advice", "code_of", "is_of_credentials", "requests_to", "status_of"]

_STATUS = re.compile(r"Server returned non-2xx status code: (\d{3})\b")
_CODE = re.compile(r"<Code>([A-Za-z]{3,40})</Code>")
_ASKED = re.compile(r"Error performing [A-Z]+ (\S+)")
"""What was asked for, at the beginning of a text."""
_BAD_CREDENTIALS = re.compile(r"source: (OpenCredentials|DecodeCredentials|TokenRequest)\b")
_DENIALS = {"PermissionDeniedError": 403, "UnauthenticatedError": 401}
_TEMPORARY = frozenset({408, 425, 429, 500, 502, 503, 504})
_TEMPORARY_CODES = frozenset({"RequestTimeout", "SlowDown", "InternalError", "ServiceUnavailable"})
_CODES = {
    "ExpiredToken": "the credentials have expired",
    "InvalidObjectState": "the object is archived, and must be restored first",
    "InvalidAccessKeyId": "the access key is not known",
    "RequestTimeTooSkewed": "the clock of this machine is wrong",
    "SignatureDoesNotMatch": "the secret key does not belong to the access key",
}
"""Codes in a server's answer -> what they mean."""
_CAUSES = (
    (r"dns error[\s\S]*Temporary failure", "the name of the host cannot be looked up now", True),
    (r"dns error", "the host does not exist", False),
    (r"InvalidCertificate|invalid peer certificate|UnknownIssuer", "its certificate is not trusted", False),
    (
        r"Connect,[\s\S]*(InvalidMessage|InvalidContentType|AlertReceived)",
        "it does not speak TLS here",
        False,
    ),
    (r"Connection refused|ConnectionRefused", "it refuses the connection", True),
    (r"kind: Timeout|TimedOut", "it did not answer in time", True),
    (r"kind: Redirect", "its redirects do not end, or lead to a URL without encryption", False),
    (
        r"kind: (Connect|Request|Interrupted|Decode|Body)|error sending request|body error",
        "the connection broke",
        True,
    ),
)
"""Patterns of obstore's texts -> the cause, and whether the same request may succeed later."""


@dataclass(frozen=True)
class Advice:
    """What users of a kind of store can do.

    Args:
        credentials: The hint where credentials are missing, or others are needed.
        region: The hint where the region is wrong; None for a store without regions.
        endpoints: Variables of the environment that name the server.
    """

    credentials: str
    region: str | None = None
    endpoints: tuple[str, ...] = ()


def status_of(error: BaseException) -> int | None:
    """Return the status that a server answered with; None if there was no such answer."""
    match = _STATUS.search(str(error))
    return int(match[1]) if match else None


def code_of(error: BaseException) -> str:
    """Return the code of a store's answer, such as ``NoSuchKey``; empty if there is none."""
    match = _CODE.search(str(error))
    return match[1] if match else ""


def is_of_credentials(error: BaseException) -> bool:
    """Return whether credentials that are set could not be read."""
    return _BAD_CREDENTIALS.search(str(error)) is not None or type(error).__module__.startswith("botocore")


class requests_to:
    """Turns the errors of obstore's calls into errors that name the URL.

    Args:
        url: What is asked for; errors show it without a password and a signature.
        advice: What the user can do.
        writing: Whether it is written to.

    Raises:
        SourceNotFound: There is no such file.
        AccessDenied: Credentials are missing, or do not suffice.
        RemoteFailure: For all others.
    """

    def __init__(self, url: str, advice: Advice, *, writing: bool = False) -> None:
        self._url, self._advice, self._writing = url, advice, writing
        self._path = shown_url(url)

    def __enter__(self) -> None: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        is_panic = type(error).__name__ == "PanicException"  # of obstore; not an Exception
        if not (isinstance(error, Exception) or is_panic) or isinstance(error, (BridgeError, MemoryError)):
            return
        assert error is not None
        raise self._failure(error) from None  # the text of the cause holds the signature of the URL

    def _failure(self, error: BaseException) -> SystemFailure | UsageError:
        status = status_of(error)
        if status not in _TEMPORARY and self._asked_for_credentials(str(error)):
            what = "no credentials were found in the environment, and none are given to this machine."
            return self._denied(what)
        if status not in _TEMPORARY and is_of_credentials(error):
            return self._denied(f"the credentials of the environment cannot be used ({_kind(error)}).")
        if isinstance(error, FileNotFoundError) or status == 404:
            what = "bucket" if code_of(error) == "NoSuchBucket" else "file"
            hint = "Check the URL; in it, % begins an escape."
            return SourceNotFound(f"the {what} does not exist.", path=self._path, hint=hint)
        return self._refusal(error, status) or self._broken_answer(error, status) or self._no_answer(error)

    def _refusal(self, error: BaseException, status: int | None) -> SystemFailure | None:
        """Return the error for an answer that asks for other credentials or another region."""
        code, kind = code_of(error), _kind(error)
        if _is_elsewhere(error, status) and self._advice.region:
            return self._failed("the bucket is in another region.", hint=self._advice.region)
        if kind in _DENIALS or status in (401, 403) or code in _CODES:
            reason = f": {_CODES[code]}" if code in _CODES else ""
            doing = "write" if self._writing else "read"
            return self._denied(
                f"the server does not permit to {doing} it (status {status or _DENIALS.get(kind)}){reason}."
            )
        return None

    def _broken_answer(self, error: BaseException, status: int | None) -> SystemFailure | None:
        """Return the error for any other status, and for an answer without ranges."""
        if _kind(error) == "NotSupportedError":
            return self._failed(
                "the server sends complete files only, and not the parts that are asked for.",
                hint=f"Download it first: curl -L -O '{self._path}'",
            )
        if status == 416:
            return self._failed("the file is shorter than it was when it was opened.")
        if status is not None:
            is_temporary = status in _TEMPORARY or code_of(error) in _TEMPORARY_CODES
            return self._failed(f"the server answered with status {status}.", is_temporary=is_temporary)
        return None

    def _no_answer(self, error: BaseException) -> SystemFailure | UsageError:
        """Return the error for a connection that failed, and for what obstore did not ask for."""
        for pattern, cause, is_temporary in _CAUSES:
            if re.search(pattern, str(error)):
                hint = None if is_temporary else "Check the URL, and the endpoint if one is set."
                what = f"the server cannot be reached: {cause}."
                return self._failed(what, is_temporary=is_temporary, hint=hint)
        if isinstance(error, ValueError) or _kind(error) == "InvalidPathError":
            return UsageError(
                "a key in a store cannot have an empty part or the parts . and .., and one here does.",
                path=self._path,
                hint="Rename the object, or correct the URL.",
            )
        return self._failed(f"the answer of the server cannot be used ({_kind(error)}).")

    def _asked_for_credentials(self, text: str) -> bool:
        """Return whether a request failed that was not one to the bucket."""
        scheme, _, rest = self._url.partition("://")
        asked = _ASKED.search(text[:1000])
        if scheme.lower() not in ("s3", "gs") or asked is None:
            return False
        endpoints = tuple(filter(None, map(os.environ.get, self._advice.endpoints)))
        return rest.partition("/")[0] not in asked[1] and not asked[1].startswith(endpoints)

    def _denied(self, what: str) -> AccessDenied:
        return AccessDenied(what, path=self._path, hint=self._advice.credentials)

    def _failed(self, what: str, *, is_temporary: bool = False, hint: str | None = None) -> RemoteFailure:
        return RemoteFailure(what, path=self._path, is_temporary=is_temporary, hint=hint)


def _kind(error: BaseException) -> str:
    return type(error).__name__


def _is_elsewhere(error: BaseException, status: int | None) -> bool:
    """Return whether a request went to a region that does not have the bucket."""
    is_known = code_of(error) in ("PermanentRedirect", "AuthorizationHeaderMalformed")
    return is_known or status in (301, 307) or "Received redirect without LOCATION" in str(error)
