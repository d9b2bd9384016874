"""From an error of obstore to one that states what failed and what to do, without a secret in it.

The texts of obstore hold the URL with its signature, and what the server sent. Only a status and known words
are taken from them.
"""

from __future__ import annotations

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
_TEMPORARY = frozenset({408, 425, 429, 500, 502, 503, 504})
_TEMPORARY_CODES = frozenset({"RequestTimeout", "SlowDown", "InternalError", "ServiceUnavailable"})
_CODES = {
    "AuthorizationHeaderMalformed": "the region is not that of the bucket",
    "ExpiredToken": "the credentials have expired",
    "InvalidObjectState": "the object is archived, and must be restored first",
    "InvalidAccessKeyId": "the access key is not known",
    "PermanentRedirect": "the region is not that of the bucket",
    "RequestTimeTooSkewed": "the clock of this machine is wrong",
    "SignatureDoesNotMatch": "the secret key does not belong to the access key",
}
"""Codes in a server's answer -> what they mean."""
_CAUSES = (
    (r"dns error[\s\S]*Temporary failure", "the name of the host cannot be looked up now", True),
    (r"dns error", "there is no host of this name", False),
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
        credentials: The hint where there are none, or others are needed.
        region: The hint where the region is wrong; None where there are no regions.
    """

    credentials: str
    region: str | None = None


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
        path, text, advice = shown_url(self._url), str(error), self._advice
        kind, status = type(error).__name__, status_of(error)
        code = code_of(error)
        reason = f": {_CODES[code]}" if code in _CODES else ""
        doing = "write" if self._writing else "read"
        if status not in _TEMPORARY and self._asked_for_credentials(text):
            return AccessDenied(
                "no credentials were found in the environment, and none are given to this machine.",
                path=path,
                hint=advice.credentials,
            )
        if is_of_credentials(error):
            what = f"the credentials of the environment cannot be used ({kind})."
            return AccessDenied(what, path=path, hint=advice.credentials)
        if isinstance(error, FileNotFoundError) or status == 404:
            what = "bucket" if code == "NoSuchBucket" else "file"
            return SourceNotFound(
                f"the {what} does not exist.", path=path, hint="Check the URL; in it, % begins an escape."
            )
        if _has_no_region(text, code, status) and advice.region:
            return RemoteFailure("the bucket is in another region.", path=path, hint=advice.region)
        if (
            kind in ("PermissionDeniedError", "UnauthenticatedError")
            or status in (401, 403)
            or code in _CODES
        ):
            answer = f"the server does not permit to {doing} it"
            status = status or (403 if kind == "PermissionDeniedError" else 401)
            return AccessDenied(f"{answer} (status {status}){reason}.", path=path, hint=advice.credentials)
        if kind == "NotSupportedError":
            return RemoteFailure(
                "the server sends complete files only, and not the parts that are asked for.",
                path=path,
                hint=f"Download it first: curl -L -O '{path}'",
            )
        if status == 416:
            return RemoteFailure("the file is shorter than it was when it was opened.", path=path)
        if status is not None:
            is_temporary = status in _TEMPORARY or code in _TEMPORARY_CODES
            return RemoteFailure(
                f"the server answered with status {status}.", path=path, is_temporary=is_temporary
            )
        for pattern, cause, is_temporary in _CAUSES:
            if re.search(pattern, text):
                return RemoteFailure(
                    f"the server cannot be reached: {cause}.",
                    path=path,
                    is_temporary=is_temporary,
                    hint=None if is_temporary else "Check the URL, and the endpoint if one is set.",
                )
        if isinstance(error, ValueError):
            return UsageError(
                "the path is not one that a store can have.",
                path=path,
                hint="Remove empty parts (//) and the parts . and .. from it.",
            )
        return RemoteFailure(f"the answer of the server cannot be used ({kind}).", path=path)

    def _asked_for_credentials(self, text: str) -> bool:
        """Return whether a request failed that was not one to the bucket."""
        scheme, _, rest = self._url.partition("://")
        asked = _ASKED.search(text[:1000])
        return scheme.lower() in ("s3", "gs") and asked is not None and rest.partition("/")[0] not in asked[1]


def _has_no_region(text: str, code: str, status: int | None) -> bool:
    """Return whether a request went to a region that does not have the bucket."""
    return (
        code in ("PermanentRedirect", "AuthorizationHeaderMalformed")
        or status in (301, 307)
        or "Received redirect without LOCATION" in text
    )
