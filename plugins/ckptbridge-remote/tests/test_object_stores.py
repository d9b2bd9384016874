from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from support.errors import refused
from support.http_server import HttpServer
from support.s3_server import BUCKET, S3Server, emptied

from bridge_core.errors import AccessDenied, MissingDependency, RemoteFailure, SourceNotFound, UsageError
from bridge_core.io import RemotePath, WritableFileSystem
from ckptbridge_remote import AmazonS3, GoogleStorage

ODD = [
    "a b",
    "ü-文",
    "a+b",
    "a%b",
    "a%20b",
    "a#b",
    "a?b",
    "~x",
    "a*[b]",
    'a"b',
    "a\\b",
    "a&b=c;d,e@f$g!h'(i)",
]


@pytest.fixture
def server(monkeypatch) -> S3Server:
    return emptied(monkeypatch)


@pytest.fixture(params=[AmazonS3, GoogleStorage])
def system(request, server):
    return request.param()


def at(system, path=""):
    return f"{system.schemes[0]}://{BUCKET}/{path}"


def test_objects_and_folders(system, server):
    server.put("model/w.bin", b"0123456789")
    server.put("model/sub/x", b"")
    server.put("model-2/y", b"1")
    assert isinstance(system, WritableFileSystem)
    entry = system.entry(at(system, "model/w.bin"))
    assert (entry.name, entry.size, entry.is_folder) == ("w.bin", 10, False)
    assert system.entry(at(system, "model/sub/x")).size == 0
    for folder in ("model", "model/", "model/sub", ""):
        assert system.entry(at(system, folder)).is_folder
    for nothing in ("nothing", "mode", "model/w.bin/x", "nothing/"):
        assert system.entry(at(system, nothing)) is None
    listed = {entry.name: entry for entry in system.entries(at(system, "model"))}
    assert {name: entry.size for name, entry in listed.items()} == {"w.bin": 10, "sub": None}
    assert listed["w.bin"] == entry
    assert system.entries(at(system, "model/")) == system.entries(at(system, "model"))
    assert [entry.name for entry in system.entries(at(system))] == ["model", "model-2"]
    assert system.pinned(at(system, "model/w.bin")) == at(system, "model/w.bin")


def test_the_mark_of_a_folder_is_not_an_entry(system, server):
    server.put("model/", b"")
    server.put("model/w", b"1")
    assert [entry.name for entry in system.entries(at(system, "model"))] == ["w"]
    assert system.entry(at(system, "model")).is_folder


def test_ranges(system, server):
    server.put("w", bytes(range(256)) * 40)
    entry = system.entry(at(system, "w"))
    server.requests.clear()
    for start, nbytes in ((0, 1), (0, 10240), (10239, 1), (5000, 300)):
        answer = system.read(at(system, "w"), start, nbytes, entry)
        assert bytes(memoryview(answer.data)) == (bytes(range(256)) * 40)[start : start + nbytes]
        assert answer.version == entry.version != ""
    assert [request.range for request in server.requests][-1] == "bytes=5000-5299"
    assert len(server.requests) == 4, "one request for each range"


def test_a_changed_object_has_another_version(system, server):
    server.put("w", b"before")
    entry = system.entry(at(system, "w"))
    server.put("w", b"after!")
    answer = system.read(at(system, "w"), 0, 6, entry)
    assert (bytes(answer.data), answer.version != entry.version) == (b"after!", True)


@pytest.mark.parametrize("name", ODD)
def test_names_with_signs(system, server, name, tmp_path):
    server.put(f"d/{name}", name.encode())
    path = RemotePath(system, at(system, "d"))
    (child,) = path.iterdir()
    assert child.name == name
    assert child.read_text() == name
    assert RemotePath(system, child.url).read_text() == name, "a path of its own, not known from the listing"
    (tmp_path / "x").write_bytes(b"new")
    system.upload(child.url, tmp_path / "x")
    assert server.get(f"d/{name}") == b"new"
    assert server.keys() == [f"d/{name}"]
    system.remove(child.url)
    assert server.keys() == []


def test_names_may_be_written_without_escapes(system, server):
    for name in ("a b", "ü-文", "a+b", "50%"):
        server.put(name, b"1")
        assert system.entry(at(system, name)).name == name


@pytest.mark.parametrize(
    ("url", "named"),
    [
        ("s3://bucket/a?b", "query"),
        ("s3://bucket/a#b", "fragment"),
        ("s3:///a", "bucket"),
        ("s3://user:secret@bucket/a", "bucket"),
        ("s3://bucket/a%ff", "UTF-8"),
    ],
)
def test_urls_that_are_not_of_an_object(url, named):
    with refused(UsageError, named) as caught:
        AmazonS3().pinned(url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("key", ["a//b", "a/../b", "./a"])
def test_keys_that_the_client_does_not_take(system, server, key):
    with refused(UsageError, at(system, key), "empty part"):
        system.entry(at(system, key))


def test_a_folder_with_a_key_that_the_client_does_not_take(system, server):
    server.put("d//x", b"1")
    with refused(UsageError, at(system, "d"), "empty part"):
        system.entries(at(system, "d"))


def test_many_pages(system, server, monkeypatch):
    monkeypatch.setenv("MOTO_S3_DEFAULT_MAX_KEYS", "4")
    for number in range(10):
        server.put(f"many/{number}", b"")
    entries = system.entries(at(system, "many"))
    assert sorted(entry.name for entry in entries) == [*"0123456789"]
    assert len(server.requests) == 3


def test_many_threads(system, server):
    server.put("w", bytes(range(256)))
    entry = system.entry(at(system, "w"))
    start = threading.Barrier(8)

    def read(number):
        start.wait()
        return bytes(system.read(at(system, "w"), number, 2, entry).data)

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(read, range(8))) == [bytes([number, number + 1]) for number in range(8)]


def test_no_such_bucket(server):
    with refused(SourceNotFound, "s3://other-bucket/x", "the bucket does not exist"):
        AmazonS3().entry("s3://other-bucket/x")
    with refused(SourceNotFound, "the bucket does not exist"):
        AmazonS3().entries("s3://other-bucket")


def test_no_such_object_when_it_is_read(system, server):
    server.put("w", b"1")
    entry = system.entry(at(system, "w"))
    server.client.delete_object(Bucket=BUCKET, Key="w")
    with refused(SourceNotFound, at(system, "w")):
        system.read(at(system, "w"), 0, 1, entry)


def test_a_shorter_object_when_it_is_read(system, server):
    server.put("w", b"123456")
    entry = system.entry(at(system, "w"))
    server.put("w", b"1")
    with refused(RemoteFailure, "shorter"):
        system.read(at(system, "w"), 4, 1, entry)


@pytest.mark.parametrize("status", [401, 403])
def test_access_is_denied(system, server, status):
    server.put("w", b"1")
    hint = {"s3": "AWS_ACCESS_KEY_ID", "gs": "GOOGLE_APPLICATION_CREDENTIALS"}[system.schemes[0]]
    entry = system.entry(at(system, "w"))
    server.fail(status, body=b"<Error><Code>InvalidAccessKeyId</Code><Key>s3cr3t</Key></Error>")
    for request in (
        lambda: system.entry(at(system, "w")),
        lambda: system.entry(at(system, "w/")),
        lambda: system.entries(at(system)),
        lambda: system.read(at(system, "w"), 0, 1, entry),
        lambda: system.remove(at(system, "w")),
    ):
        with refused(AccessDenied, str(status), hint=hint) as caught:
            request()
        assert "s3cr3t" not in str(caught.value)


def test_a_missing_file_where_listing_is_not_permitted(server):
    server.put("w", b"1")
    server.fail(403, when=lambda request: "list-type" in request.path)
    assert AmazonS3().entry("s3://bucket/other") is None
    with refused(AccessDenied):
        AmazonS3().entry("s3://bucket/other/")


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_temporary_failures_are_not_repeated_here(system, server, status):
    server.put("w", b"1")
    entry = system.entry(at(system, "w"))
    server.requests.clear()
    server.fail(status)
    with refused(RemoteFailure, str(status)) as caught:
        system.read(at(system, "w"), 0, 1, entry)
    assert caught.value.is_temporary
    assert len(server.requests) == 1


def test_another_region(server):
    server.fail(301, body=b"<Error><Code>PermanentRedirect</Code></Error>")
    with refused(RemoteFailure, "region", hint="AWS_REGION") as caught:
        AmazonS3().entries("s3://bucket/x")
    assert not caught.value.is_temporary


def test_one_request_shows_what_is_at_a_url(system, server):
    server.put("w", b"1")
    system.entry(at(system, "w"))
    assert [request.range for request in server.requests] == ["bytes=0-0"]


@pytest.mark.parametrize(
    ("status", "code", "named"),
    [
        (403, "InvalidAccessKeyId", "access key"),
        (403, "SignatureDoesNotMatch", "secret key"),
        (403, "RequestTimeTooSkewed", "clock"),
        (403, "InvalidObjectState", "archived"),
        (400, "ExpiredToken", "expired"),
    ],
)
def test_the_reason_of_a_refusal(server, status, code, named):
    server.fail(status, body=f"<Error><Code>{code}</Code></Error>".encode())
    with refused(AccessDenied, named, str(status)):
        AmazonS3().entry("s3://bucket/w")


@pytest.mark.parametrize("how", [403, 404, "truncated"])
def test_no_credentials(server, monkeypatch, how):
    """The machine is asked last, at an address that a test can set."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    with HttpServer() as machine:
        monkeypatch.setenv("AWS_METADATA_ENDPOINT", machine.url)
        machine.fail(how)
        machine.files["latest/api/token"] = b"12345678"
        with refused(AccessDenied, "no credentials", hint="AWS_ACCESS_KEY_ID"):
            AmazonS3().entry("s3://bucket/w")
        assert machine.requests[0].path == "/latest/api/token"
    assert server.requests == []


def test_credentials_that_cannot_be_read(server, monkeypatch):
    monkeypatch.delenv("STORAGE_EMULATOR_HOST")
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", os.devnull)
    with refused(AccessDenied, "credentials", hint="GOOGLE_APPLICATION_CREDENTIALS"):
        GoogleStorage().entry("gs://bucket/w")


def test_credentials_of_the_environment_are_followed(server, monkeypatch):
    system = AmazonS3()
    server.put("w", b"1")
    system.entry("s3://bucket/w")
    assert "AKIDTEST" in server.requests[-1].headers["authorization"]
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "ANOTHER")
    system.entry("s3://bucket/w")
    assert "ANOTHER" in server.requests[-1].headers["authorization"]
    monkeypatch.setenv("AWS_NO_SIGN_REQUEST", "yes")
    with refused(AccessDenied):
        system.entry("s3://bucket/w")
    assert "authorization" not in server.requests[-1].headers


def test_the_region_of_the_environment(server, monkeypatch):
    server.put("w", b"1")
    monkeypatch.delenv("AWS_REGION")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    AmazonS3().entry("s3://bucket/w")
    assert "/eu-central-1/s3/" in server.requests[-1].headers["authorization"]


def test_an_endpoint_of_one_bucket(server, monkeypatch):
    with HttpServer({"w": b"1"}) as endpoint:
        endpoint.modified = "Mon, 30 Nov 2026 10:00:00 GMT"
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint.url)
        monkeypatch.setenv("AWS_VIRTUAL_HOSTED_STYLE_REQUEST", "true")
        assert AmazonS3().entry("s3://bucket/w").size == 1
        with refused(SourceNotFound, "s3://bucket/other"):
            AmazonS3().entry("s3://bucket/other")


def test_a_profile(server, monkeypatch, tmp_path):
    pytest.importorskip("boto3")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name)
    config, credentials = tmp_path / "config", tmp_path / "credentials"
    config.write_text(f"[profile lab]\nregion = eu-west-3\nendpoint_url = {server.url}\n")
    credentials.write_text("[lab]\naws_access_key_id = AKIDLAB\naws_secret_access_key = hidden\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(credentials))
    monkeypatch.setenv("AWS_PROFILE", "lab")
    server.put("w", b"1")
    assert AmazonS3().entry("s3://bucket/w").size == 1
    signed = server.requests[-1].headers["authorization"]
    assert "AKIDLAB" in signed
    assert "/eu-west-3/s3/" in signed
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    AmazonS3().entry("s3://bucket/w")
    assert "/eu-west-1/s3/" in server.requests[-1].headers["authorization"], "variables come first"
    config.write_text("[profile lab]\nendpoint_url = https://other.invalid\n")
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
    assert AmazonS3().entry("s3://bucket/w").size == 1
    monkeypatch.setenv("AWS_PROFILE", "unknown")
    with refused(AccessDenied, "credentials", hint="AWS_PROFILE"):
        AmazonS3().entry("s3://bucket/w")


def test_a_profile_without_boto3(server, monkeypatch):
    monkeypatch.setenv("AWS_PROFILE", "lab")
    monkeypatch.setitem(sys.modules, "boto3", None)
    with refused(MissingDependency, "boto3", hint="pip install boto3"):
        AmazonS3().entry("s3://bucket/w")


def test_without_obstore(monkeypatch):
    monkeypatch.setitem(sys.modules, "obstore", None)
    for system in (AmazonS3(), GoogleStorage()):
        with refused(MissingDependency, "obstore", hint="pip install 'ckptbridge[remote]'"):
            system.entry(at(system, "w"))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked on POSIX only")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:os.fork:RuntimeWarning")  # of JAX, if another test loaded it
def test_a_forked_process_is_refused_and_does_not_hang(server):
    server.put("w", b"1")
    AmazonS3().entry("s3://bucket/w")
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        try:
            AmazonS3().entry("s3://bucket/w")
            text = "no error"
        except BaseException as error:
            text = f"{type(error).__name__}: {error}"
        os.write(theirs, text.encode())
        os._exit(0)
    os.close(theirs)
    os.waitpid(child, 0)
    with os.fdopen(ours) as answer:
        text = answer.read()
    assert "SystemFailure" in text
    assert 'get_context("spawn")' in text


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        *(
            ("AWS_ENDPOINT_URL", value)
            for value in ("host:9000", "http://", "http://[::1", "ftp://x", "http://a b")
        ),
        ("AWS_REGION", "us east"),
        ("AWS_ACCESS_KEY_ID", "AKID\n"),
        ("AWS_SECRET_ACCESS_KEY", "s3cr3t\n"),
        ("AWS_SESSION_TOKEN", "s3cr3t\r"),
        ("STORAGE_EMULATOR_HOST", "host port"),
        ("GOOGLE_BEARER_TOKEN", "s3cr3t\n"),
    ],
)
def test_variables_that_are_not_usable(server, monkeypatch, variable, value):
    monkeypatch.setenv(variable, value)
    system = AmazonS3() if variable.startswith("AWS") else GoogleStorage()
    with refused(UsageError, variable) as caught:
        system.entry(at(system, "w"))
    assert "s3cr3t" not in str(caught.value)


def test_a_setting_that_the_client_does_not_know(server, monkeypatch):
    monkeypatch.setenv("AWS_CHECKSUM_ALGORITHM", "s3cr3t")
    with refused(UsageError, "environment", hint="AWS_") as caught:
        AmazonS3().entry("s3://bucket/w")
    assert "s3cr3t" not in str(caught.value)


LOADED = """
import sys
import ckptbridge_remote
list(ckptbridge_remote.bridge_filesystems())
print(sorted({"obstore", "boto3", "huggingface_hub"} & set(sys.modules)))
"""


def test_nothing_is_loaded_before_a_url_is_used():
    run = subprocess.run([sys.executable, "-c", LOADED], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
