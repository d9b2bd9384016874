"""A server of files over HTTP that answers ranges, records requests, and fails on demand."""

from __future__ import annotations

import hashlib
import threading
import urllib.parse
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Request:
    """A request that the server got."""

    method: str
    path: str
    headers: dict[str, str]

    @property
    def range(self) -> str | None:
        """What it asks for, such as ``bytes=0-9``."""
        return self.headers.get("range")


@dataclass
class Fault:
    """What the server does in place of a good answer.

    Args:
        how: A status; or "truncated" (the connection ends early), "short" (fewer bytes, and declared as
            such), "long" (more bytes than the range has), "complete" (200 to a range), "shifted" (another
            range), "redirect", "waits" (until the event is set, and then a good answer), "no-version" (no
            ETag), "no-size" (an unknown size).
        times: How many requests; None for all.
        when: Which requests.
        headers: Headers of the answer.
        body: Content of the answer.
        event: What "waits" waits for.
    """

    how: int | str
    times: int | None = None
    when: Callable[[Request], bool] = lambda request: True
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    event: threading.Event = field(default_factory=threading.Event)


class HttpServer:
    """Serves files at ``url``; a context manager.

    Attributes:
        files: Path without its first slash, decoded -> content.
        modified: What Last-Modified says; None for none.
        requests: Every request, in order.
    """

    def __init__(self, files: dict[str, bytes] | None = None) -> None:
        self.files = dict(files or {})
        self.modified: str | None = None
        self.requests: list[Request] = []
        self._faults: list[Fault] = []
        self._lock = threading.Lock()

    def fail(self, how: int | str, **details: Any) -> Fault:
        """Answer requests with a fault from now on, before the faults that were added earlier."""
        fault = Fault(how, **details)
        with self._lock:
            self._faults.insert(0, fault)
        return fault

    def heal(self) -> None:
        """Forget faults and requests."""
        with self._lock:
            self._faults.clear()
            self.requests.clear()

    @property
    def port(self) -> int:
        """The port that it listens at."""
        port: int = self._server.server_address[1]
        return port

    @property
    def url(self) -> str:
        """The URL of its root, without a slash at its end."""
        return f"http://127.0.0.1:{self.port}"

    def fault_of(self, request: Request) -> Fault | None:
        """Record a request, and return the fault meant for it."""
        with self._lock:
            self.requests.append(request)
            for fault in self._faults:
                if fault.times != 0 and fault.when(request):
                    fault.times = fault.times and fault.times - 1
                    return fault
        return None

    def __enter__(self) -> HttpServer:
        handler = type("Handler", (_Handler,), {"owner": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Handler(BaseHTTPRequestHandler):
    disable_nagle_algorithm = True  # else each answer waits 40 ms for the client's acknowledgement
    owner: HttpServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        request = Request(self.command, self.path, headers)
        fault = self.owner.fault_of(request)
        how = fault.how if fault else ""
        extra = dict(fault.headers) if fault else {}
        if fault and how == "waits":
            fault.event.wait(30)
        elif fault and isinstance(how, int):
            return self._answer(how, extra, fault.body)
        elif fault and how == "redirect":
            return self._answer(302, extra, b"")
        name = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path)[1:]
        content = self.owner.files.get(name)
        if content is None:
            return self._answer(404, {}, b"nothing here")
        if how != "no-version":
            extra.setdefault("ETag", f'"{hashlib.md5(content).hexdigest()}"')
        if self.owner.modified:
            extra["Last-Modified"] = self.owner.modified
        extra["Accept-Ranges"] = "bytes"
        asked = request.range if how != "complete" else None
        if asked is None:
            return self._answer(200, extra, content)
        first, last = asked.removeprefix("bytes=").split("-")
        start = int(first) if first else len(content) - int(last)
        end = min(int(last) if first and last else len(content) - 1, len(content) - 1)
        if start > end:
            return self._answer(416, {"Content-Range": f"bytes */{len(content)}"}, b"")
        if how == "shifted":
            start, end = start + 1, end + 1
        body = content[start : end + 1]
        size = "*" if how == "no-size" else len(content)
        extra["Content-Range"] = f"bytes {start}-{end}/{size}"
        if how == "short":
            body = body[: len(body) // 2]
        elif how == "long":
            body += bytes(1000)
        declared = len(body)
        if how == "truncated":
            body = body[: len(body) // 2]
        return self._answer(206, extra, body, declared)

    do_HEAD = do_PUT = do_GET

    def _answer(self, status: int, headers: dict[str, str], body: bytes, declared: int | None = None) -> None:
        size = len(body) if declared is None else declared
        try:
            self.send_response(status)
            for name, value in {"Content-Length": str(size), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)
        except ConnectionError:
            self.close_connection = True
        if size != len(body):
            self.close_connection = True

    def log_message(self, *texts: object) -> None:
        """Print nothing."""
