from __future__ import annotations

import base64
import socket
import sys
import traceback
from datetime import timedelta

import pytest
from support.errors import refused
from support.http_server import HttpServer

from bridge_core.errors import (
    AccessDenied,
    BridgeError,
    IntegrityError,
    MissingDependency,
    RemoteFailure,
    SourceNotFound,
    UsageError,
)
from bridge_core.io import FileSystem, RemotePath, WritableFileSystem
from ckptbridge_remote import Web, obstore_module, redirects
from ckptbridge_remote.remembered import Remembered

obstore = pytest.importorskip("obstore")

CONTENT = bytes(range(256)) * 40


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    with HttpServer({"model/w.bin": CONTENT, "empty": b""}) as server:
        yield server


@pytest.fixture
def web():
    return Web()


def test_a_file(web, server):
    url = f"{server.url}/model/w.bin"
    assert isinstance(web, FileSystem)
    assert not isinstance(web, WritableFileSystem)
    assert web.pinned(url) == url
    entry = web.entry(url)
    assert (entry.name, entry.size) == ("w.bin", len(CONTENT))
    assert [(request.method, request.range) for request in server.requests] == [("GET", "bytes=0-0")]
    server.requests.clear()
    for start, nbytes in ((0, 1), (0, len(CONTENT)), (len(CONTENT) - 1, 1), (5000, 300)):
        answer = web.read(url, start, nbytes, entry)
        assert bytes(answer.data) == CONTENT[start : start + nbytes]
        assert answer.version == entry.version != ""
    assert [request.range for request in server.requests][-1] == "bytes=5000-5299"
    assert len(server.requests) == 4


def test_more_than_a_range(web, server):
    url = f"{server.url}/model/w.bin"
    entry = web.entry(url)
    server.fail("long")
    with refused(RemoteFailure, "at most 300 bytes", "more"):
        web.read(url, 5000, 300, entry)
    with refused(RemoteFailure, "at most 1 bytes", "more"):
        web.entry(url)


def test_another_size_where_the_server_declares_no_version(web, server):
    url = f"{server.url}/model/w.bin"
    server.fail("no-version")
    entry = web.entry(url)
    server.files["model/w.bin"] = CONTENT + b"more"
    with refused(IntegrityError, len(CONTENT) + 4, len(CONTENT)):
        web.read(url, 5000, 300, entry)


def test_nothing_and_folders(web, server):
    assert web.entry(f"{server.url}/nothing") is None
    assert web.entry(f"{server.url}/empty").size == 0
    server.requests.clear()
    assert web.entry(f"{server.url}/model/").is_folder
    assert web.entry(server.url).is_folder
    assert web.entries(f"{server.url}/model/") is None
    assert server.requests == []


@pytest.mark.parametrize("name", ["a b", "ü-文", "a+b", "a%b", "a%20b", "a#b", "a?b", "a;b=c", "d/e/f"])
def test_names_with_signs(web, server, name):
    server.files[f"model/{name}"] = name.encode()
    path = RemotePath(web, f"{server.url}/model/w.bin").parent
    for part in name.split("/"):
        path /= part
    assert path.read_text() == name
    assert RemotePath(Web(), path.url).name == name.rpartition("/")[2]


def test_the_path_is_sent_as_it_was_written(web, server):
    for path in (
        "/model/w%2Ebin",
        "/model%2Fw.bin",
        "/model/w.bin?a=b%2Fc&d",
        "/model/./w.bin",
        "/model//w.bin",
    ):
        server.requests.clear()
        web.entry(server.url + path)
        assert server.requests[0].path == path.replace("/./", "/")


def test_files_of_one_host_share_a_store(web, server):
    for number in range(3):
        server.files[f"w-{number}"] = b"1"
        web.entry(f"{server.url}/w-{number}")
    assert len(web._stores._values) == 1


def test_another_content_has_another_version(web, server):
    url = f"{server.url}/model/w.bin"
    entry = web.entry(url)
    server.files["model/w.bin"] = CONTENT[::-1]
    assert web.read(url, 0, 1, entry).version != entry.version


def test_without_an_etag_the_time_of_the_last_change_is_the_version(web, server):
    url = f"{server.url}/model/w.bin"
    server.fail("no-version")
    assert web.entry(url).version == ""
    server.modified = "Mon, 30 Nov 2026 10:00:00 GMT"
    entry = web.entry(url)
    assert entry.version == web.read(url, 5, 1, entry).version != ""
    server.modified = "Mon, 30 Nov 2026 10:00:01 GMT"
    assert entry.version != web.read(url, 5, 1, entry).version


@pytest.mark.parametrize("status", [401, 403])
def test_access_is_denied(web, server, status):
    url = f"{server.url}/model/w.bin?X-Amz-Signature=s3cr3t"
    entry = web.entry(url)
    server.fail(status, body=b"token s3cr3t")
    for request in (lambda: web.entry(url), lambda: web.read(url, 0, 1, entry)):
        with refused(AccessDenied, f"{server.url}/model/w.bin", str(status), hint="signed"):
            request()


@pytest.mark.parametrize(
    ("how", "is_temporary"),
    [
        (400, False),
        (408, True),
        (416, False),
        (429, True),
        (500, True),
        (501, False),
        (503, True),
        ("truncated", True),
    ],
)
def test_failures(web, server, how, is_temporary):
    url = f"{server.url}/model/w.bin"
    entry = web.entry(url)
    server.heal()
    server.fail(how)
    with refused(RemoteFailure, url) as caught:
        web.read(url, 0, 100, entry)
    assert caught.value.is_temporary == is_temporary
    assert len(server.requests) == 1, "the caller repeats requests"


def test_ranges_that_were_not_asked_for(web, server):
    url = f"{server.url}/model/w.bin"
    entry = web.entry(url)
    for how, named in (
        ("complete", "complete files"),
        ("shifted", "cannot be used"),
        ("no-size", "cannot be used"),
    ):
        server.heal()
        server.fail(how)
        for request in (lambda: web.read(url, 0, 100, entry), lambda: web.entry(url)):
            with refused(RemoteFailure, url, named) as caught:
                request()
            assert not caught.value.is_temporary
    server.heal()
    server.fail("complete")
    with refused(RemoteFailure, hint=f"curl -L -O '{url}'"):
        web.entry(url)


def test_a_short_answer_is_returned_for_the_reader_to_refuse(web, server):
    url = f"{server.url}/model/w.bin"
    entry = web.entry(url)
    server.fail("short")
    assert len(memoryview(web.read(url, 0, 100, entry).data)) == 50


def test_a_file_that_is_gone(web, server):
    url = f"{server.url}/model/w.bin"
    entry = web.entry(url)
    server.files.clear()
    with refused(SourceNotFound, url):
        web.read(url, 0, 1, entry)


def test_redirects_are_followed(web, server, monkeypatch):
    with HttpServer({"there/w": b"123"}) as other:
        server.fail("redirect", headers={"Location": f"{other.url}/there/w"})
        entry = web.entry(f"{server.url}/w")
        assert (entry.name, entry.size) == ("w", 3)
        assert bytes(web.read(f"{server.url}/w", 1, 2, entry).data) == b"23"
    server.heal()
    server.fail("redirect", headers={"Location": f"{server.url}/w"})
    with refused(RemoteFailure, "redirects") as caught:
        web.entry(f"{server.url}/w")
    assert not caught.value.is_temporary


def test_the_query_of_a_url_is_sent_to_its_host_only(web, server):
    url = f"http://me:p4ssw0rd@127.0.0.1:{server.port}/w?token=s1gn4ture"
    with HttpServer({"there/w": b"123"}) as other:
        server.fail("redirect", headers={"Location": f"{other.url}/there/w?signed=1"})
        entry = web.entry(url)
        assert (entry.name, entry.size) == ("w", 3)
        assert bytes(web.read(url, 1, 2, entry).data) == b"23"
        assert len(server.requests) == 1, "the place is remembered"
        assert server.requests[0].path == "/w?token=s1gn4ture"
        assert server.requests[0].headers["authorization"].startswith("Basic ")
        sent = str([request.headers for request in other.requests])
        assert "s1gn4ture" not in sent
        assert "authorization" not in sent
        assert {request.path for request in other.requests} == {"/there/w?signed=1"}


def test_a_place_that_has_expired_is_asked_for_again(web, server):
    url = f"{server.url}/w?token=s1gn4ture"
    with HttpServer({"w": b"123"}) as other:
        server.fail("redirect", headers={"Location": f"{other.url}/w?signed=1"})
        entry = web.entry(url)
        server.fail("redirect", headers={"Location": f"{other.url}/w?signed=2"})
        other.fail(403, when=lambda request: "signed=1" in request.path)
        assert bytes(web.read(url, 0, 3, entry).data) == b"123"
        other.fail(403)
        with refused(AccessDenied, f"{server.url}/w"):
            web.read(url, 0, 3, entry)


@pytest.mark.parametrize("target", ["http://127.0.0.1:{port}/w?a", "ftp://127.0.0.1:{port}/w"])
def test_redirects_of_a_query_that_lead_nowhere(web, server, target):
    server.fail("redirect", headers={"Location": target.format(port=server.port)})
    with refused(RemoteFailure, f"{server.url}/w", "redirect") as caught:
        web.entry(f"{server.url}/w?token=s1gn4ture")
    assert not caught.value.is_temporary


def test_a_redirect_does_not_leave_encryption(monkeypatch):
    targets = {"https://host/w?a": "/w?b", "https://host/w?b": "http://host/w"}
    monkeypatch.setattr(redirects, "_redirect", lambda url, named, headers: targets[url])
    with refused(RemoteFailure, "https://host/w", "without encryption"):
        redirects.final_url("https://host/w?a", {})


def test_what_was_not_used_for_long_is_forgotten():
    known, made = Remembered(64), []
    for number in [*range(64), 0, 64, 0, 1]:
        known.get(number, lambda number=number: made.append(number) or object())
    assert made == [*range(65), 1]


def test_where_urls_with_a_query_lead_is_remembered_for_some_of_them(web, monkeypatch):
    monkeypatch.setattr("ckptbridge_remote.web.final_url", lambda url, headers: url)
    for number in range(1100):
        web._place(f"https://host/w?signature={number}")
    assert len(web._places._values) == 1024


def test_a_server_with_a_query_that_cannot_be_reached(web, server):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        with refused(RemoteFailure, f"http://127.0.0.1:{port}/w:", "connection") as caught:
            web.entry(f"http://127.0.0.1:{port}/w?token=s1gn4ture")
    assert caught.value.is_temporary
    with refused(RemoteFailure, "TLS") as caught:
        web.entry(f"https://127.0.0.1:{server.port}/w?token=s1gn4ture")
    assert not caught.value.is_temporary


def test_a_password_is_sent_to_its_host_only(web, server):
    url = f"http://me%40lab:p%3Aw@127.0.0.1:{server.port}/model/w.bin"
    assert web.entry(url).size == len(CONTENT)
    name, token = server.requests[0].headers["authorization"].split()
    assert (name, base64.b64decode(token)) == ("Basic", b"me@lab:p:w")
    with HttpServer({"w": b"123"}) as other:
        server.fail("redirect", headers={"Location": f"http://localhost:{other.port}/w"})
        assert web.entry(url).size == 3
        assert "authorization" not in other.requests[0].headers
        server.heal()
        server.fail("redirect", headers={"Location": f"{other.url}/w"})
        web.entry(url)
        assert "authorization" not in other.requests[1].headers, "another port is another server"
    server.heal()
    web.entry(f"{server.url}/model/w.bin")
    assert "authorization" not in server.requests[0].headers


SECRETS = ("p4ssw0rd", "s1gn4ture", "cDRzc3cwcmQ", "bWU6cDRzc3cwcmQ")


@pytest.mark.parametrize(
    "how", [400, 401, 403, 404, 416, 429, 500, "complete", "truncated", "shifted", "no-size"]
)
def test_nothing_secret_is_in_an_error(web, server, how):
    url = f"http://me:p4ssw0rd@127.0.0.1:{server.port}/model/w.bin?sig=s1gn4ture"
    entry = web.entry(url)
    server.fail(how, body=b"s1gn4ture")
    with pytest.raises(BridgeError) as caught:
        web.read(url, 0, 100, entry)
    error = caught.value
    shown = "".join([*traceback.format_exception(error), repr(error), str(vars(error)), str(error.to_json())])
    assert not [secret for secret in SECRETS if secret in shown]
    assert f"http://127.0.0.1:{server.port}/model/w.bin" in shown


def test_servers_that_cannot_be_reached(web, monkeypatch):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        with refused(RemoteFailure, "refuses the connection") as caught:
            web.entry(f"http://127.0.0.1:{port}/w")
    assert caught.value.is_temporary


def test_a_server_without_encryption(web, server):
    with refused(RemoteFailure, "TLS", hint="URL") as caught:
        web.entry(f"https://127.0.0.1:{server.port}/w")
    assert not caught.value.is_temporary


CONNECT = """Generic HTTP error: Error performing GET https://host/w?sig=s1gn4ture in 1ms - HTTP error: error
sending request\n\nDebug source:\nGeneric { inner: Http( HttpError { kind: Connect, source: %s"""


@pytest.mark.parametrize(
    ("text", "named", "is_temporary"),
    [
        ('"dns error", error: "Name or service not known"', "host does not exist", False),
        ('"dns error", error: "nodename nor servname provided, or not known"', "host does not exist", False),
        ('"dns error", error: "Temporary failure in name resolution"', "looked up now", True),
        ("InvalidCertificate(UnknownIssuer)", "certificate", False),
        ("ConnectError( code: 104, ConnectionReset", "connection broke", True),
    ],
)
def test_causes_of_a_missing_answer(web, monkeypatch, text, named, is_temporary):
    """The texts are those of obstore 0.12, since no test may ask a host that is elsewhere."""

    def fails(*_args, **_options):
        raise obstore.exceptions.GenericError(CONNECT % text)

    monkeypatch.setattr("ckptbridge_remote.web.final_url", lambda url, headers: url)
    monkeypatch.setattr("obstore.get", fails)
    with refused(RemoteFailure, "https://host/w", named) as caught:
        web.entry("https://host/w?sig=s1gn4ture")
    assert caught.value.is_temporary == is_temporary
    assert "s1gn4ture" not in str(caught.value)


def test_pages_of_the_hub(web):
    url = "https://huggingface.co/org/model/blob/main/sub/w.safetensors?download=true"
    with refused(UsageError, "page", hint="hf://org/model@main/sub/w.safetensors"):
        web.pinned(url)
    with refused(UsageError, "page", hint="hf://org/model@v1"):
        web.pinned("https://hf.co/org/model/tree/v1")
    url = "https://huggingface.co/org/model/resolve/main/w.safetensors"
    assert web.pinned(url) == url


def test_urls_without_a_host(web):
    for url in (
        "https:///w",
        "https://",
        "http://:80/w",
        "https://?x",
        "https://host:99999/w",
        "https://host/a\0b",
        "https://[::1/w",
    ):
        for request in (web.pinned, web.entry):
            with refused(UsageError, "host"):
                request(url)


def test_without_obstore(web, monkeypatch):
    monkeypatch.setitem(sys.modules, "obstore", None)
    with refused(MissingDependency, "obstore", hint="pip install 'ckptbridge[remote]'"):
        web.entry("https://host/w")


def test_a_server_that_does_not_answer(server, monkeypatch):
    monkeypatch.setattr(obstore_module, "_WAITING", timedelta(milliseconds=50))
    waits = server.fail("waits")
    with refused(RemoteFailure, "in time") as caught:
        Web().entry(f"{server.url}/model/w.bin")
    waits.event.set()
    assert caught.value.is_temporary


def test_what_a_panic_of_the_client_becomes(web, server, monkeypatch):
    panic = type("PanicException", (BaseException,), {})

    def fails(*_args, **_options):
        raise panic("s3cr3t")

    monkeypatch.setattr("obstore.get", fails)
    with refused(RemoteFailure, "PanicException") as caught:
        web.entry(f"{server.url}/model/w.bin")
    assert "s3cr3t" not in str(caught.value)
