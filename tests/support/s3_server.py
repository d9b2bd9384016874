"""An object store on this machine: moto's, with requests recorded, checked and failed on demand."""

from __future__ import annotations

import functools
import hashlib
import io
import os
import threading
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from support.http_server import Fault, Request

BUCKET = "bucket"
ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "AKIDTEST",
    "AWS_SECRET_ACCESS_KEY": "s3cr3t-k3y",
    "AWS_REGION": "us-east-1",
}


class S3Server:
    """Speaks the protocol of S3, and the XML interface of Google Cloud Storage, which is the same.

    Attributes:
        url: Its endpoint.
        requests: Every request, in order.
    """

    def __init__(self) -> None:
        from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
        from werkzeug.serving import WSGIRequestHandler, make_server

        quiet = type("Quiet", (WSGIRequestHandler,), {"log": lambda *texts: None})
        self._app = DomainDispatcherApplication(create_backend_app)
        self._faults: list[Fault] = []
        self.requests: list[Request] = []
        self._server = make_server("127.0.0.1", 0, self._answer, threaded=True, request_handler=quiet)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()
        self.client = _client(self.url)

    def environment(self) -> dict[str, str]:
        """Return the variables with which it is reached as S3, and as Google Cloud Storage."""
        return {**ENVIRONMENT, "AWS_ENDPOINT_URL": self.url, "STORAGE_EMULATOR_HOST": self.url}

    def empty(self) -> None:
        """Make the bucket anew, without objects, and forget faults and requests."""
        self._faults.clear()
        if BUCKET in [bucket["Name"] for bucket in self.client.list_buckets()["Buckets"]]:
            for upload in self.uploads():
                self.client.abort_multipart_upload(
                    Bucket=BUCKET, Key=upload["Key"], UploadId=upload["UploadId"]
                )
            for key in self.keys():
                self.client.delete_object(Bucket=BUCKET, Key=key)
        else:
            self.client.create_bucket(Bucket=BUCKET)
        self.requests.clear()

    def put(self, key: str, content: bytes) -> None:
        """Store an object."""
        self.client.put_object(Bucket=BUCKET, Key=key, Body=content)
        self.requests.clear()

    def get(self, key: str) -> bytes:
        """Return an object."""
        content: bytes = self.client.get_object(Bucket=BUCKET, Key=key)["Body"].read()
        return content

    def keys(self) -> list[str]:
        """Return the names of all objects."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET)
        return [entry["Key"] for page in pages for entry in page.get("Contents", ())]

    def uploads(self) -> list[dict[str, Any]]:
        """Return the multipart uploads that were neither completed nor aborted."""
        return list(self.client.list_multipart_uploads(Bucket=BUCKET).get("Uploads", ()))

    def fail(self, how: int | str, **details: Any) -> Fault:
        """Answer with a status from now on, or wait (see `Fault`)."""
        fault = Fault(how, **details)
        self._faults.insert(0, fault)
        return fault

    def close(self) -> None:
        """Stop."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _answer(self, environment: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        headers = {
            name[5:].lower().replace("_", "-"): value
            for name, value in environment.items()
            if name.startswith("HTTP_")
        }
        request = Request(environment["REQUEST_METHOD"], environment["RAW_URI"], headers)
        self.requests.append(request)
        body = environment["wsgi.input"].read(int(environment.get("CONTENT_LENGTH") or 0))
        environment["wsgi.input"] = io.BytesIO(body)
        for fault in self._faults:
            if fault.times != 0 and fault.when(request):
                fault.times = fault.times and fault.times - 1
                if isinstance(fault.how, int):
                    return _refuse(start, fault.how, fault.headers, fault.body)
                fault.event.wait(30)
                break
        digest = headers.get("x-amz-content-sha256", "")
        if len(digest) == 64 and digest != hashlib.sha256(body).hexdigest():
            return _refuse(start, 400, {}, b"<Error><Code>XAmzContentSHA256Mismatch</Code></Error>")
        try:
            answer: Iterable[bytes] = self._app(environment, start)
        except Exception:  # a part arrives after its upload was aborted
            return _refuse(start, 500, {}, b"")
        return answer


def _refuse(start: Callable[..., Any], status: int, headers: dict[str, str], body: bytes) -> list[bytes]:
    start(f"{status} Refused", [("Content-Length", str(len(body))), *headers.items()])
    return [body]


def _client(url: str) -> Any:
    import boto3

    return boto3.client(
        "s3",
        endpoint_url=url,
        region_name=ENVIRONMENT["AWS_REGION"],
        aws_access_key_id=ENVIRONMENT["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=ENVIRONMENT["AWS_SECRET_ACCESS_KEY"],
    )


@functools.cache
def running_server() -> S3Server:
    """Return the server of this process, started once."""
    return S3Server()


def emptied(monkeypatch: pytest.MonkeyPatch) -> S3Server:
    """Return the server with an empty bucket; the environment leads to it for one test.

    The test is skipped where moto is not installed.
    """
    pytest.importorskip("moto.moto_server.werkzeug_app")
    pytest.importorskip("obstore")
    server = running_server()
    server.empty()
    for name in [name for name in os.environ if name.startswith(("AWS_", "GOOGLE_"))]:
        monkeypatch.delenv(name)
    files = {"AWS_CONFIG_FILE": os.devnull, "AWS_SHARED_CREDENTIALS_FILE": os.devnull}
    for name, value in {**server.environment(), **files, "NO_PROXY": "127.0.0.1,localhost"}.items():
        monkeypatch.setenv(name, value)
    return server
