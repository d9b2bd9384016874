import os
import tempfile
from pathlib import Path

import pytest
from support.errors import refused
from support.memory_filesystem import MemoryFileSystem, temporary

from bridge_core import LimitExceeded, SourceNotFound, SystemFailure, UsageError
from bridge_core.checkpoint import destination_at
from bridge_core.checkpoint.destinations import LocalFolder
from bridge_core.checkpoint.locations import as_destined
from bridge_core.errors import AccessDenied, RemoteFailure
from bridge_core.io import RemotePath, retries
from bridge_core.plugins import given_registry


@pytest.fixture(autouse=True)
def own_temporaries(tmp_path, monkeypatch):
    """A folder for temporary files, in which nothing may be left."""
    folder = tmp_path / "temporaries"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    assert list(folder.iterdir()) == []


@pytest.fixture
def system():
    return MemoryFileSystem({"host/other/a.bin": b"not in the folder"})


@pytest.fixture
def registry(system):
    return given_registry(None).extend(system)


@pytest.fixture(params=["local", "store"])
def destination(request, tmp_path, registry):
    return destination_at(tmp_path / "out" if request.param == "local" else "mem://host/out", registry)


def text(content):
    return lambda path: path.write_bytes(content)


def test_files_appear_complete_and_are_replaced_and_removed(destination):
    assert (destination.names(), dict(destination.sizes()), destination.size("a.bin")) == ((), {}, None)
    assert destination.put("b.bin", text(b"12")) == 2
    assert destination.put("a.bin", text(b"123")) == 3
    assert destination.put("b.bin", text(b"1234")) == 4
    assert destination.names() == ("a.bin", "b.bin")
    assert dict(destination.sizes()) == {"a.bin": 3, "b.bin": 4}
    assert (destination.size("b.bin"), destination.read("b.bin", 4)) == (4, b"1234")
    destination.remove("b.bin")
    destination.remove("b.bin")
    assert destination.names() == ("a.bin",)


def test_a_file_is_given_empty_and_to_be_opened_by_name(destination):
    def fill(path):
        assert path.stat().st_size == 0
        path.write_bytes(b"1")

    assert destination.put("a.bin", fill) == 1


def test_a_large_file_is_not_read_and_a_missing_one_is_an_error(destination):
    destination.put("a.bin", text(b"12345"))
    with refused(LimitExceeded, "a.bin", 4, 5):
        destination.read("a.bin", 4)
    with refused(SourceNotFound, "b.bin"):
        destination.read("b.bin", 4)


@pytest.mark.parametrize("interrupt", [ValueError, KeyboardInterrupt])
def test_nothing_changes_if_filling_fails(destination, interrupt):
    destination.put("a.bin", text(b"old"))

    def fill(path):
        path.write_bytes(b"half")
        raise interrupt

    for name in ("a.bin", "b.bin"):
        with pytest.raises(interrupt):
            destination.put(name, fill)
    assert destination.names() == ("a.bin",)
    assert destination.read("a.bin", 3) == b"old"


def test_a_folder_in_it_is_made_with_its_first_file_and_removed_when_it_is_empty(destination):
    inner = destination.folder(".work")
    assert inner.names() == ()
    inner.put("a.json", text(b"{}"))
    assert (inner.names(), destination.names()) == (("a.json",), ())
    assert inner.name == f"{destination.name}/.work"
    inner.remove_if_empty()
    assert inner.names() == ("a.json",)
    inner.remove("a.json")
    inner.remove_if_empty()
    if isinstance(destination, LocalFolder):
        assert list(destination.path.iterdir()) == []


@pytest.mark.parametrize("name", ["a/b", "..", "", "a\\b"])
def test_a_name_that_leads_elsewhere_is_refused(destination, name):
    with refused(UsageError, repr(name)):
        destination.put(name, text(b""))
    with refused(UsageError, repr(name)):
        destination.folder(name)


def test_a_local_folder_needs_its_parent(tmp_path, registry):
    with refused(SystemFailure, "absent"):
        destination_at(tmp_path / "absent" / "out", registry).put("a.bin", text(b""))


def test_temporaries_of_killed_uploads_are_removed(own_temporaries, registry):
    left = own_temporaries / ".upload.ckptbridge-0123456789abcdef"
    left.mkdir()
    (left / "shard").write_bytes(b"half")
    for path in (left / "shard", left):
        os.utime(path, (0, 0))  # without locks, the age shows that its process is gone
    destination_at("mem://host/out", registry).put("a.bin", text(b"1"))


def test_an_upload_and_a_removal_that_fail_for_a_time_are_repeated(system, registry, monkeypatch):
    monkeypatch.setattr(retries, "sleep", lambda *_: None)
    folder = destination_at("mem://host/out", registry)
    system.fail(temporary(), temporary(), methods=("upload", "remove"))
    folder.put("a.bin", text(b"1"))
    system.fail(temporary(), methods=("upload", "remove"))
    folder.remove("a.bin")
    assert folder.names() == ()
    system.fail(*[temporary() for _ in range(6)], methods=("upload",))
    with refused(RemoteFailure, "mem://host/out/a.bin", "6 times"):
        folder.put("a.bin", text(b"1"))
    system.failures.clear()
    system.fail(AccessDenied("no permission."), methods=("upload",))
    with refused(AccessDenied, "no permission"):
        folder.put("a.bin", text(b"1"))


def test_a_url_of_this_machine_is_a_path(tmp_path, registry):
    assert as_destined((tmp_path / "a b").as_uri(), registry) == tmp_path / "a b"
    assert as_destined(tmp_path.as_uri() + "/", registry) == f"{tmp_path}{os.sep}"
    assert isinstance(destination_at(tmp_path.as_uri(), registry), LocalFolder)
    with refused(UsageError, "machine", hint="file:///"):
        as_destined("file://machine/a", registry)


def test_a_url_that_can_only_be_read_is_refused(registry):
    class Reading:
        name, schemes = "reading", ("read",)
        pinned = entry = entries = read = staticmethod(lambda *_: None)

    registry = registry.extend(Reading())
    for destined in ("read://host/a", RemotePath(registry.filesystem_of("read"), "read://host/a")):
        with refused(UsageError, "read://", "only be read", hint="upload"):
            as_destined(destined, registry)


def test_a_destination_is_not_asked_for_its_version(system, registry):
    as_destined("mem://user:secret@host/out", registry)
    assert system.requests == []
    assert "secret" not in destination_at("mem://user:secret@host/out", registry).name


def test_a_path_that_has_the_form_of_a_url_stays_a_path(tmp_path, registry, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mem:").mkdir()
    Path("mem:/host").mkdir()
    assert as_destined("mem://host", registry) == "mem://host"
