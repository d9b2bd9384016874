"""A file at a URL is read as a local one: by few small requests, and of one version."""

import gc
import os
import threading

import numpy as np
import pytest
from support.errors import refused
from support.memory_filesystem import MemoryFileSystem, assert_nothing_held, temporary

from bridge_core.errors import (
    AccessDenied,
    IntegrityError,
    NeedsLocalPath,
    RemoteFailure,
    SourceIsFolder,
    SourceNotFound,
    SystemFailure,
    TruncatedFile,
)
from bridge_core.io import RemoteFile, retries
from bridge_core.io.fetching import shared_fetcher

SIZE = 4 << 20
HEAD = SIZE // 512
DATA = np.random.default_rng(0).integers(0, 256, SIZE, np.uint8).tobytes()


@pytest.fixture
def system():
    return MemoryFileSystem({"host/a.bin": DATA})


@pytest.fixture
def file(system):
    with system.path("a.bin").open_source() as file:
        system.forget_requests()
        yield file


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    monkeypatch.setattr(retries, "sleep", lambda _pause, _ended: None)


@pytest.fixture(autouse=True)
def nothing_left():
    yield
    gc.collect()
    assert_nothing_held()


def ranges(system):
    return [(request.start, request.start + request.nbytes) for request in system.made("read")]


def test_opening_asks_for_the_entry_once(system):
    with system.path("a.bin").open_source() as file:
        assert file.size == SIZE
        assert file.name == "mem://host/a.bin"
    assert [request.method for request in system.requests] == ["entry"]


def test_small_reads_at_the_beginning_are_one_request(system, file):
    assert [file.read(at, 10) for at in (0, 8, 100, HEAD - 10)] == [
        DATA[at : at + 10] for at in (0, 8, 100, HEAD - 10)
    ]
    assert ranges(system) == [(0, HEAD)]


def test_a_longer_header_is_a_second_request_for_the_rest(system, file):
    assert file.read(0, 8) == DATA[:8]
    assert file.read(8, 3 * HEAD) == DATA[8 : 8 + 3 * HEAD]
    assert ranges(system) == [(0, HEAD), (HEAD, 8 + 3 * HEAD)]


def test_small_reads_at_the_end_are_one_request(system, file):
    assert file.read(SIZE - 22, 22) == DATA[-22:]
    assert file.read(SIZE - 4000, 100) == DATA[-4000:-3900]
    assert ranges(system) == [(SIZE - HEAD, SIZE)]


def test_a_small_read_in_the_middle_fetches_little_around_it(system, file):
    assert file.read(SIZE // 2, 10) == DATA[SIZE // 2 : SIZE // 2 + 10]
    assert file.read(SIZE // 2 + 10, 1000) == DATA[SIZE // 2 + 10 : SIZE // 2 + 1010]
    assert ranges(system) == [(SIZE // 2, SIZE // 2 + 4096)]


def test_a_large_read_fetches_its_bytes_and_no_others(system, file):
    assert file.read(1 << 20, 3 << 20) == DATA[1 << 20 :]
    assert ranges(system) == [(1 << 20, SIZE)]


def test_small_files_are_one_request():
    system = MemoryFileSystem({"host/a.bin": DATA[:100]})
    with system.path("a.bin").open_source() as file:
        assert file.read(0, 100) + file.read(90, 10) == DATA[:100] + DATA[90:100]
        assert file.read(100, 0) == b""
    assert ranges(system) == [(0, 100)]


@pytest.mark.parametrize(("stride", "nbytes"), [(3000, 1000), (400_000, 50_000), (600_000, 100)])
def test_runs_are_read_by_few_requests(stride, nbytes, system, file):
    count = 6
    buffer = bytearray(count * nbytes)
    file.read_runs(200_000, stride, nbytes, buffer)
    expected = b"".join(DATA[at : at + nbytes] for at in range(200_000, 200_000 + count * stride, stride))
    assert bytes(buffer) == expected
    far = stride - nbytes > 256 << 10
    assert len(ranges(system)) == (count if far else 1)


def test_ranges_are_read_at_the_same_time(system, file):
    buffers = [bytearray(1000) for _ in range(4)]
    offsets = [1 << 20, 3 << 20, 2 << 20, 1 << 19]
    everyone = threading.Barrier(4, timeout=20)
    system.on_read = lambda _request: everyone.wait()
    file.read_ranges(zip(offsets, buffers, strict=True))
    assert [bytes(buffer) for buffer in buffers] == [DATA[at : at + 1000] for at in offsets]


def test_nothing_and_folders_are_refused(system):
    with refused(SourceNotFound, "mem://host/b.bin", "does not exist"):
        system.path("b.bin").open_source()
    with refused(SourceIsFolder, "mem://host", "got a folder"):
        system.path().open_source()


def test_a_range_outside_is_refused_without_a_request(system, file):
    for offset, nbytes in ((SIZE - 1, 2), (-1, 1)):
        with refused(TruncatedFile, f"ends at byte {SIZE}"):
            file.read_into(offset, bytearray(nbytes))
    assert system.requests == []


def test_there_is_no_descriptor_and_no_copy_by_the_system(file):
    with refused(NeedsLocalPath, "mem://host/a.bin", "at a URL"):
        _ = file.fd
    assert file.copy_to(0, 0, 10, 0) is False
    assert file.is_remote
    assert not file.can_copy


def test_temporary_failures_are_repeated(system, file):
    system.fail(*[temporary()] * 5)
    assert file.read(0, 10) == DATA[:10]
    assert system.reads == 6


def test_a_server_that_stays_away_is_named(system, file):
    system.fail(*[temporary("the server answered 503.")] * 6)
    with refused(RemoteFailure, "mem://host/a.bin", "bytes 0 to", "6 times", "503", hint="connection"):
        file.read(0, 10)
    assert file.read(0, 10) == DATA[:10]  # the next read tries again


def test_what_is_at_a_url_is_asked_again_after_a_temporary_failure(system):
    system.fail(temporary(), temporary(), methods=("entry", "entries"))
    assert system.path("a.bin").is_file()
    assert len(system.made("entry")) == 3
    system.fail(temporary(), methods=("entries",))
    assert [path.name for path in system.path().iterdir()] == ["a.bin"]


def test_a_lasting_failure_is_not_repeated(system, file):
    system.fail(AccessDenied("the server answered 403.", path="mem://host/a.bin"))
    with refused(AccessDenied, "403"):
        file.read(0, 10)
    assert system.reads == 1


def test_short_answers_are_repeated_and_then_refused(system, file):
    system.short_answers = 2
    assert file.read(0, 10) == DATA[:10]
    system.short_answers = 6
    with refused(RemoteFailure, f"expected {HEAD} bytes", f"got {HEAD - 1}"):
        file.read(SIZE - 10, 10)


def test_failures_of_a_file_system_itself_are_named_without_their_text(system, file):
    system.fail(ValueError("https://host/?signature=secret"))
    with pytest.raises(RemoteFailure, match="memory failed with ValueError") as caught:
        file.read(0, 10)
    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("changed", [DATA[::-1], DATA + b"more", DATA[:-1]])
def test_another_version_is_refused(changed, system, file):
    assert file.read(0, 10) == DATA[:10]
    system.files["host/a.bin"] = changed
    with refused(IntegrityError, "mem://host/a.bin", "changed at the server", hint="again"):
        file.read(1 << 20, 10)


def test_with_versions_in_all_answers_nothing_is_asked_at_the_end(system, file):
    file.read(0, 10)
    system.forget_requests()
    file.check_unchanged()
    assert system.requests == []


def test_without_versions_the_size_is_compared_at_the_end():
    system = MemoryFileSystem({"host/a.bin": DATA}, has_versions=False)
    with system.path("a.bin").open_source() as file:
        assert file.read(0, 10) == DATA[:10]
        file.check_unchanged()
        system.files["host/a.bin"] = DATA[:-1]
        with refused(IntegrityError, "changed at the server"):
            file.check_unchanged()
        del system.files["host/a.bin"]
        with refused(IntegrityError, "changed at the server"):
            file.check_unchanged()


def test_with_a_version_that_answers_lack_the_server_is_asked_again(system):
    system.has_versions = False
    entry = system.entry
    system.entry = lambda url: type(found := entry(url))(found.name, found.size, str(len(system.files)))
    with system.path("a.bin").open_source() as file:
        assert file.read(0, 10) == DATA[:10]
        file.check_unchanged()
        system.files["host/b.bin"] = b""
        with refused(IntegrityError, "changed at the server"):
            file.check_unchanged()


def test_a_version_that_only_answers_have_is_compared(system):
    entry = system.entry
    system.entry = lambda url: type(found := entry(url))(found.name, found.size)
    with system.path("a.bin").open_source() as file:
        assert file.read(0, 10) == DATA[:10]
        system.files["host/a.bin"] = DATA[::-1]
        with refused(IntegrityError, "changed at the server"):
            file.read(1 << 20, 10)


def test_a_closed_file_is_not_read(file):
    file.read(0, 10)
    file.close()
    file.close()
    with refused(SystemFailure, "was closed"):
        file.read(0, 10)
    with refused(SystemFailure, "was closed"):
        file.duplicate()
    assert shared_fetcher.held == 0


def test_a_duplicate_shares_what_was_fetched_and_closes_by_itself(system, file):
    file.read(0, 10)
    with file.duplicate() as duplicate:
        assert duplicate.read(5, 10) == DATA[5:15]
        assert duplicate.identity == file.identity
    assert file.read(0, 10) == DATA[:10]
    assert system.reads == 1


def test_a_forgotten_file_frees_what_was_fetched(system):
    file = RemoteFile(system.path("a.bin"))
    file.read(0, 10)
    assert shared_fetcher.held
    del file
    gc.collect()
    with system.path("a.bin").open_source() as other:
        other.read(SIZE - 10, 10)
        assert shared_fetcher.held == HEAD


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no processes by fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:os.fork:RuntimeWarning")  # of JAX, if another test loaded it
def test_a_child_process_reads_by_itself(system, file):
    assert file.read(1 << 20, 1 << 20) == DATA[1 << 20 : 2 << 20]
    child = os.fork()
    if not child:
        os._exit(0 if file.read(1 << 20, 2 << 20) == DATA[1 << 20 : 3 << 20] else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
