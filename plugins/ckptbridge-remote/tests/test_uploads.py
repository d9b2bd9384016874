from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest
from support.errors import refused
from support.s3_server import S3Server, emptied

import ckptbridge_remote.uploads as uploads
from bridge_core.errors import (
    AccessDenied,
    IntegrityError,
    RemoteFailure,
    SourceNotFound,
    SystemFailure,
    UsageError,
)
from ckptbridge_remote import AmazonS3, GoogleStorage

MB = 1 << 20
PART = 5 * MB
"""The smallest part that S3 takes."""
HEADERS = {"ETag": '"x"', "Last-Modified": "Mon, 30 Nov 2026 10:00:00 GMT"}


@pytest.fixture
def server(monkeypatch) -> S3Server:
    return emptied(monkeypatch)


@pytest.fixture
def small_parts(monkeypatch):
    """Parts of 5 MiB, one after the other."""
    monkeypatch.setattr(uploads, "_PART", PART)
    monkeypatch.setattr(uploads, "_IN_FLIGHT", PART)


@pytest.fixture
def large(tmp_path):
    path = tmp_path / "large"
    path.write_bytes(os.urandom(MB) * 12)
    return path


def is_a_part(request):
    return "partNumber=" in request.path


def is_part(number):
    return lambda request: f"partNumber={number}&" in request.path


def test_a_large_file_goes_in_parts(server, tmp_path):
    path = tmp_path / "w"
    path.write_bytes(os.urandom(8 * MB) * 5)
    server.put("w", b"old")
    AmazonS3().upload("s3://bucket/w", path)
    assert server.get("w") == path.read_bytes()
    assert sum(map(is_a_part, server.requests)) == 3
    assert server.uploads() == []


def test_google_storage_takes_parts(server, small_parts, large):
    GoogleStorage().upload("gs://bucket/w", large)
    assert server.get("w") == large.read_bytes()
    assert sum(map(is_a_part, server.requests)) == 3


@pytest.mark.parametrize("size", [0, 1, 5 * MB, 5 * MB + 1])
def test_sizes_around_one_part(server, small_parts, tmp_path, size):
    path = tmp_path / "w"
    path.write_bytes(bytes(size))
    AmazonS3().upload("s3://bucket/d/w", path)
    assert server.get("d/w") == bytes(size)


def test_the_server_can_check_the_bytes(server, small_parts, large):
    AmazonS3().upload("s3://bucket/w", large)
    sent = [request for request in server.requests if request.method == "PUT"]
    assert len(sent) == 3
    assert all(len(request.headers["x-amz-content-sha256"]) == 64 for request in sent)


def test_parts_grow_so_that_there_are_few(monkeypatch):
    for size in (1, 160 << 30, 5 << 40):
        part = uploads.part_size(size)
        assert -(-size // part) <= 10_000
        assert part % MB == 0
        assert part >= 16 * MB


def test_a_failing_part_is_repeated(server, small_parts, large):
    server.fail(503, times=2, when=is_part(2))
    AmazonS3().upload("s3://bucket/w", large)
    assert server.get("w") == large.read_bytes()


@pytest.mark.parametrize("when", [is_part(2), is_part(1), lambda request: request.path.endswith("?uploads=")])
def test_a_failure_leaves_nothing(server, small_parts, large, when):
    server.put("w", b"old")
    server.fail(403, when=when)
    with refused(AccessDenied, "s3://bucket/w", "write", hint="AWS_ACCESS_KEY_ID"):
        AmazonS3().upload("s3://bucket/w", large)
    assert server.uploads() == []
    assert server.get("w") == b"old"


def test_an_upload_that_cannot_be_completed_leaves_nothing(server, small_parts, large):
    server.put("w", b"old")
    server.fail(400, when=lambda request: request.method == "POST" and "uploadId=" in request.path)
    with refused(RemoteFailure, "400"):
        AmazonS3().upload("s3://bucket/w", large)
    assert server.uploads() == []
    assert server.get("w") == b"old"


def test_an_interrupt_leaves_nothing(server, small_parts, large):
    server.put("w", b"old")
    held = server.fail("waits", when=is_part(1))
    before = signal.getsignal(signal.SIGINT)

    def interrupt(*_frame):
        held.event.set()
        raise KeyboardInterrupt

    def when_it_waits(request):
        if is_part(1)(request):
            os.kill(os.getpid(), signal.SIGINT)
        return False

    server.fail(500, when=when_it_waits)
    signal.signal(signal.SIGINT, interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            AmazonS3().upload("s3://bucket/w", large)
    finally:
        signal.signal(signal.SIGINT, before)
    assert any(request.method == "DELETE" and "uploadId=" in request.path for request in server.requests)
    assert not any(map(is_part(3), server.requests))
    assert server.uploads() == []
    assert server.get("w") == b"old"


def test_a_local_file_that_changes(server, small_parts, large):
    def cut(request):
        if is_part(1)(request):
            os.truncate(large, 6 * MB)
        return False

    server.fail(500, when=cut)
    with refused(IntegrityError, large, "changed"):
        AmazonS3().upload("s3://bucket/w", large)
    assert server.uploads() == []
    assert server.keys() == []


def test_a_local_file_that_is_missing(server, tmp_path):
    with refused(SystemFailure, tmp_path / "w"):
        AmazonS3().upload("s3://bucket/w", tmp_path / "w")


def test_what_the_server_stored_is_compared(server, tmp_path):
    (tmp_path / "w").write_bytes(b"12345")
    server.fail(200, when=lambda request: request.method == "HEAD", headers=HEADERS)
    server.fail(503, when=lambda request: request.method == "HEAD", times=1)
    with refused(RemoteFailure, "5 bytes", "0"):
        AmazonS3().upload("s3://bucket/w", tmp_path / "w")


def test_no_such_bucket(server, tmp_path):
    (tmp_path / "w").write_bytes(b"1")
    with refused(SourceNotFound, "bucket"):
        AmazonS3().upload("s3://other-bucket/w", tmp_path / "w")
    with refused(UsageError, "folder"):
        AmazonS3().upload("s3://bucket/w/", tmp_path / "w")


def test_removing(server):
    for system in (AmazonS3(), GoogleStorage()):
        url = f"{system.schemes[0]}://bucket/w"
        server.put("w", b"1")
        system.remove(url)
        assert server.keys() == []
        system.remove(url)
        # S3's call for many objects is missing from some stores that speak its protocol.
        assert not any(request.method == "POST" for request in server.requests)
    server.fail(404, body=b"<Error><Code>NoSuchKey</Code></Error>")  # as Google Cloud Storage answers
    GoogleStorage().remove("gs://bucket/w")


PEAK = """
import re, sys
from pathlib import Path
from ckptbridge_remote import AmazonS3

def peak():  # ru_maxrss would begin with that of the parent
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) << 10

AmazonS3().upload("s3://bucket/small", Path(sys.argv[1]))
before = peak()
AmazonS3().upload("s3://bucket/w", Path(sys.argv[2]))
print(peak() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
def test_memory_is_bounded(server, tmp_path):
    small, path = tmp_path / "small", tmp_path / "w"
    small.write_bytes(b"1")
    with path.open("wb") as file:
        file.truncate(240 * MB)
    run = subprocess.run(
        [sys.executable, "-c", PEAK, small, path], capture_output=True, text=True, check=False, timeout=120
    )
    assert run.returncode == 0, run.stderr
    assert 32 * MB < int(run.stdout) < 8 * 16 * MB, "four parts are sent while others are read"
