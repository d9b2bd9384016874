"""Requests to the hub and to the hosts that it stores files on, over huggingface_hub's session."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urljoin, urlsplit

from bridge_core.errors import BridgeError, MissingDependency, RemoteFailure

__all__ = ["Answer", "HubClient", "of_network"]

_REDIRECTS = 5
_LARGEST_JSON = 64 << 20
"""Bytes of an answer of the hub's API that are read; a page of a listing has at most some hundred kB."""
_CHUNK = 1 << 20
_READING = 600.0
"""Seconds that a body may take: 8 MiB arrive in it at 14 kB/s."""
_NETWORK = ("requests", "urllib3", "httpx", "httpcore", "h11", "h2", "ssl", "socket")


@dataclass(frozen=True)
class Answer:
    """The answer to a request, of which only status and headers were read.

    Args:
        status: The HTTP status.
        headers: The headers; their names in any case.
        url: What was asked for, which may be signed.
        response: The response of requests or httpx.
    """

    status: int
    headers: Mapping[str, str]
    url: str
    response: Any

    @property
    def location(self) -> str | None:
        """Where a redirect points; an address without meaning if that is not a URL."""
        target = self.headers.get("Location")
        if not target or not 300 <= self.status < 400:
            return None
        try:
            address = urljoin(self.url, target)
            _origin(address)
        except ValueError:
            return "about:invalid"
        return address

    @property
    def host(self) -> str:
        """The host that answered."""
        return urlsplit(self.url).hostname or ""

    def body(self, nbytes: int) -> bytearray:
        """Return the body; one byte more than ``nbytes`` of one that is longer.

        Raises:
            RemoteFailure: It does not arrive in time.
        """
        data = bytearray()
        end = time.monotonic() + _READING
        for chunk in self._chunks():
            data += chunk
            if len(data) <= nbytes and time.monotonic() > end:
                raise RemoteFailure(
                    f"{self.host} sent only {len(data)} bytes in {_READING:.0f} s.", is_temporary=True
                )
            if len(data) > nbytes:
                del data[nbytes + 1 :]
                break
        return data

    def _chunks(self) -> Iterator[bytes]:
        """Return the chunks of the body as they arrive, so that slow ones are noticed."""
        read = getattr(getattr(self.response, "raw", None), "read1", None)  # of urllib3 2
        if read is not None:
            return iter(lambda: read(_CHUNK), b"")
        if hasattr(self.response, "iter_content"):
            return iter(self.response.iter_content(_CHUNK))
        return iter(self.response.iter_bytes())

    def parsed(self, path: str) -> Any:
        """Return the JSON of the body.

        Args:
            path: What the request was about, for errors.
        """
        data = self.body(_LARGEST_JSON)
        try:
            if len(data) <= _LARGEST_JSON:
                return json.loads(data)
        except (ValueError, RecursionError):
            pass
        raise RemoteFailure(f"the answer of {self.host} is not the JSON that was expected.", path=path)


class HubClient:
    """Sends requests to one hub, with the token, and to other hosts, without it.

    Args:
        endpoint: The address of the hub; by default that of huggingface_hub, which ``HF_ENDPOINT`` sets.
        token: The token; by default that of ``hf auth login`` or ``HF_TOKEN``.
    """

    def __init__(self, endpoint: str | None = None, token: str | None = None) -> None:
        self._endpoint, self.token = endpoint, token

    @property
    def endpoint(self) -> str:
        """The address of the hub, without a slash at its end."""
        constants = _huggingface_hub().constants
        return str(self._endpoint or constants.ENDPOINT).rstrip("/")

    @property
    def has_token(self) -> bool:
        """Whether requests to the hub carry a token."""
        return "authorization" in self._hub_headers()

    def is_hub(self, url: str) -> bool:
        """Return whether a URL is the hub's own: scheme, host and port are those of its address."""
        return _origin(url) == _origin(self.endpoint)

    def online(self, path: str) -> Any:
        """Return huggingface_hub, if it may be used now.

        Args:
            path: What will be asked for, for errors.

        Raises:
            MissingDependency: huggingface_hub is not installed.
            RemoteFailure: ``HF_HUB_OFFLINE`` is set.
        """
        hub = _huggingface_hub()
        if hub.constants.HF_HUB_OFFLINE:
            raise RemoteFailure(
                "the environment variable HF_HUB_OFFLINE is set, so that the hub is not asked.",
                path=path,
                hint="Unset it, or give the path of a copy on this machine.",
            )
        return hub

    @contextmanager
    def answer(
        self,
        method: str,
        url: str,
        *,
        path: str,
        headers: Mapping[str, str] | None = None,
        body: object = None,
    ) -> Iterator[Answer]:
        """Send a request, and give the answer until the end of the ``with`` block.

        Redirects inside the hub are followed. Others are returned, and so is every status.

        Args:
            method: The HTTP method.
            url: The URL; one that begins with ``/`` is the hub's.
            path: What it is about, for errors.
            headers: Headers in addition to those of the hub.
            body: An object to send as JSON.

        Raises:
            MissingDependency: huggingface_hub is not installed.
            RemoteFailure: There is no connection, or it was broken, or ``HF_HUB_OFFLINE`` is set.
        """
        hub = self.online(path)
        url = self.endpoint + url if url.startswith("/") else url
        for _ in range(_REDIRECTS):
            own = self._hub_headers() if self.is_hub(url) else {}
            sent = {"Accept-Encoding": "identity", **own, **(headers or {})}
            timeout = hub.constants.HF_HUB_DOWNLOAD_TIMEOUT
            has_answered = False
            try:
                with _streamed(hub.utils.get_session(), method, url, sent, body, timeout) as answer:
                    has_answered, target = True, answer.location
                    if target is None or not self.is_hub(url) or not self.is_hub(target):
                        yield answer
                        return
            except BridgeError:
                raise
            except Exception as error:
                host = urlsplit(url).hostname or ""
                failure = of_network(error, host, path)
                if failure is None and isinstance(error, ValueError) and not has_answered:
                    failure = RemoteFailure(f"the answer of {host} is malformed.", path=path)
                if failure is None:
                    raise
                raise failure from None
            url = target  # inside the hub
        raise RemoteFailure(f"{urlsplit(url).hostname} redirects without an end.", path=path)

    def _hub_headers(self) -> dict[str, str]:
        """Return what identifies the caller; huggingface_hub's own function may send a request for it."""
        hub = _huggingface_hub()
        token = self.token
        if token is None and not hub.constants.HF_HUB_DISABLE_IMPLICIT_TOKEN:
            token = hub.get_token()
        return {"user-agent": "ckptbridge", **({"authorization": f"Bearer {token}"} if token else {})}


def of_network(error: BaseException, host: str, path: str) -> RemoteFailure | None:
    """Return the failure that an exception of an HTTP library is; None for other exceptions.

    The text of such an exception is left out: it contains the URL, which may be signed.

    Args:
        error: The exception.
        host: The host that was asked.
        path: What the request was about.
    """
    kinds = type(error).__mro__
    if not any(kind.__module__.startswith(_NETWORK) for kind in kinds) and not isinstance(error, OSError):
        return None
    return RemoteFailure(
        f"the connection to {host} failed ({type(error).__name__}).",
        path=path,
        is_temporary=not isinstance(error, ValueError),  # which a wrong URL or header is
    )


@contextmanager
def _streamed(
    session: Any, method: str, url: str, headers: Mapping[str, str], body: object, timeout: float
) -> Iterator[Answer]:
    """Send a request with requests or httpx, whichever this huggingface_hub uses; the body is not read."""
    if callable(getattr(session, "stream", None)):  # httpx
        with session.stream(
            method, url, headers=headers, json=body, timeout=timeout, follow_redirects=False
        ) as response:
            yield Answer(response.status_code, response.headers, url, response)
    else:
        with session.request(
            method, url, headers=headers, json=body, timeout=timeout, allow_redirects=False, stream=True
        ) as response:
            yield Answer(response.status_code, response.headers, url, response)


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)


def _huggingface_hub() -> Any:
    """Return huggingface_hub, with the modules that are used here."""
    try:
        import huggingface_hub
        import huggingface_hub.constants
        import huggingface_hub.utils
    except ImportError:
        raise MissingDependency(
            "hf:// URLs need huggingface_hub, which cannot be imported.",
            hint="Run: pip install 'ckptbridge[hf]'.",
        ) from None
    return huggingface_hub
