"""Paths at URLs: what they share with paths of this machine, and how seldom the server is asked."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from support.errors import refused
from support.memory_filesystem import MemoryFileSystem, temporary

from bridge_core.errors import (
    AccessDenied,
    BridgeError,
    LimitExceeded,
    MalformedFile,
    NeedsLocalPath,
    RemoteFailure,
    SourceIsFolder,
    SourceNotFound,
    SystemFailure,
    UnsafeFile,
)
from bridge_core.io import (
    RemotePath,
    SourceFolder,
    control_file,
    exists_beside,
    files_in,
    folder_at,
    is_location,
    names_beside,
    names_in,
    open_listed,
    open_location,
    shown_path,
    size_of,
    unfinished_downloads,
)

FILES = {
    "host/a.npz": b"12345",
    "host/m/config.json": b"{}",
    "host/m/model.bin": b"abc",
    "host/m/model.bin.aria2": b"",
    "host/m/inner/x y.txt": b"x",
    "host/m/other.bin.part": b"",
}


@pytest.fixture(autouse=True)
def pauses(monkeypatch):
    """Let no pause take time."""
    monkeypatch.setattr("bridge_core.io.retries.sleep", lambda *_: None)


@pytest.fixture
def system():
    return MemoryFileSystem(FILES)


def test_what_a_path_and_a_remote_path_answer_is_the_same(system, tmp_path):
    for name, content in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    for local, remote in ((tmp_path / "host/m", system.path("m")), (tmp_path / "host/no", system.path("no"))):
        for name in ("", "config.json", "inner", "inner/x y.txt", "none", "model.bin.aria2"):
            one, other = (place.joinpath(*name.split("/")) if name else place for place in (local, remote))
            for ask in ("exists", "is_file", "is_dir", "is_symlink"):
                assert getattr(one, ask)() == getattr(other, ask)()
            assert (one.name, one.suffix, one.stem) == (other.name, other.suffix, other.stem)
            assert not name or one.parent.name == other.parent.name
            if one.is_file():
                assert one.read_bytes() == other.read_bytes()
                assert one.read_text() == other.read_text()
                assert size_of(one) == size_of(other)
    names = ["config.json", "inner", "model.bin", "model.bin.aria2", "other.bin.part"]
    for folder in (tmp_path / "host/m", system.path("m")):
        assert names_in(folder) == names
        assert files_in(folder) == [name for name in names if name != "inner"]


def test_a_folder_that_cannot_be_listed_is_named(system, tmp_path):
    with refused(SystemFailure, str(tmp_path / "none"), "listing the folder failed"):
        files_in(tmp_path / "none")
    system.fail(AccessDenied("the server answered 403."), methods=["entries"])
    with refused(AccessDenied, "403"):
        files_in(system.path("m"))


def test_parents_end_at_the_root(system):
    path = system.path("m/inner/x")
    assert [str(parent) for parent in path.parents] == ["mem://host/m/inner", "mem://host/m", "mem://host"]
    assert path.parents[-1].parent == path.parents[-1]


def test_each_question_is_asked_once_and_a_listing_answers_for_its_entries(system):
    folder = system.path("m")
    for _ in range(3):
        assert folder.is_dir()
        assert (folder / "model.bin").is_file()
        assert not (folder / "none").exists()
    assert [request.method for request in system.requests] == ["entry"] * 3
    system.forget_requests()
    folder = system.path("m")
    assert folder.names() == ("config.json", "inner", "model.bin", "model.bin.aria2", "other.bin.part")
    assert (folder / "inner").is_dir()
    assert not (folder / "none").exists()
    assert size_of(folder / "model.bin") == 3
    with (folder / "model.bin").open_source() as file:
        assert file.size == 3
    assert [request.method for request in system.requests] == ["entries"]


def test_several_entries_are_asked_for_at_the_same_time(system, monkeypatch):
    together, entry = threading.Barrier(3), system.entry
    monkeypatch.setattr(system, "entry", lambda url: together.wait(30) >= 0 and entry(url))
    folder = system.path("m")
    folder.ask_for(["config.json", "model.bin", "none"])
    monkeypatch.undo()
    asked = len(system.requests)
    assert (folder / "model.bin").is_file()
    assert not (folder / "none").exists()
    assert len(system.requests) == asked == 3


def test_a_refusal_is_remembered_and_a_failure_is_not(system):
    folder = system.path("m")
    system.fail(AccessDenied("the server answered 403.", hint="Log in."), methods=["entries"])
    for _ in range(2):
        with refused(AccessDenied, "403", hint="Log in"):
            folder.names()
    assert folder.listed_names() == ()
    assert len(system.made("entries")) == 1
    system.fail(RemoteFailure("the server answered 500."), methods=["entry"])
    with refused(RemoteFailure, "mem://host/m/model.bin", "500"):
        (folder / "model.bin").is_file()
    assert (folder / "model.bin").is_file()


def test_a_failure_that_passes_is_asked_again(system):
    system.fail(temporary(), temporary(), methods=["entry", "entries", "pinned"])
    assert RemotePath.pinned(system, "mem://host/m").is_dir()
    system.fail(*(temporary() for _ in range(20)), methods=["entries"])
    with refused(RemoteFailure, "mem://host/m", "tried 6 times"):
        system.path("m").names()


def test_names_that_were_not_listed_are_not_asked_for(system):
    file = system.path("m/model.bin")
    assert control_file(file) is None
    assert unfinished_downloads(file.parent) == []
    assert not system.requests
    assert names_beside(file)[-1] == "other.bin.part"
    assert control_file(file) == file.with_name("model.bin.aria2")
    assert unfinished_downloads(file.parent) == ["model.bin.aria2", "other.bin.part"]


def test_a_server_that_lists_nothing(system):
    system.lists = False
    folder = system.path("m")
    assert folder.names() is None
    assert folder.listed_names() == ()
    assert names_beside(folder / "model.bin") == []
    with refused(NeedsLocalPath, "mem://host/m", hint="index"):
        files_in(folder)
    with refused(NeedsLocalPath, "mem://host/m"):
        _ = folder_at(folder).files


def test_files_are_opened_where_they_are(system, tmp_path):
    (tmp_path / "w").write_bytes(b"local")
    for place, content in ((tmp_path / "w", b"local"), (system.path("a.npz"), b"12345")):
        for opening in (open_location, open_listed):
            with opening(place) as file:
                assert file.read(0, file.size) == content
    for opening, kind in ((open_location, SourceNotFound), (open_listed, MalformedFile)):
        with refused(kind, "mem://host/none"):
            opening(system.path("none"))
        with pytest.raises(kind):
            opening(tmp_path / "none")
    with refused(SourceIsFolder, "mem://host/m"):
        open_location(system.path("m"))


def test_a_file_next_to_another_may_be_refused(system):
    assert exists_beside(system.path("m/config.json"))
    assert not exists_beside(system.path("m/none.json"))
    system.fail(AccessDenied("403."), methods=["entry"])
    assert not exists_beside(system.path("m/config.json"))
    system.fail(RemoteFailure("500."), methods=["entry"])
    with pytest.raises(RemoteFailure):
        exists_beside(system.path("m/config.json"))


def test_a_folder_at_a_url_is_read_by_names(system):
    folder = folder_at(system.path("m"))
    assert folder.files == {"config.json", "model.bin", "model.bin.aria2", "other.bin.part"}
    assert folder.folders == {"inner"}
    assert folder.read("config.json", 10) == b"{}"
    assert folder.folder("inner").read("x y.txt", 10) == b"x"
    assert folder.name == "mem://host/m"
    with refused(LimitExceeded, "mem://host/m/config.json"):
        folder.read("config.json", 1)
    for name in ("../a.npz", "", "inner//x", "."):
        with refused(UnsafeFile, "mem://host/m"):
            folder.place(name)
    assert type(folder_at(Path())) is SourceFolder


def test_only_some_folders_in_a_folder_are_listed(system):
    folder = folder_at(system.path("m"), most_inner=2)
    for _ in range(2):
        assert folder.folder("inner").folders == set()
    with refused(LimitExceeded, "mem://host/m"):
        folder.folder("inner")


def test_large_files_are_not_read_as_texts(system, monkeypatch):
    monkeypatch.setattr("bridge_core.io.remote_path._LARGEST_TEXT", 4)
    with refused(LimitExceeded, "mem://host/a.npz"):
        system.path("a.npz").read_bytes()


def test_what_is_made_of_a_file_is_made_once(system):
    made = []

    def make(place):
        made.append(place)
        return len(made)

    assert [system.path("m").once(make), system.path("m").once(make)] == [1, 2]
    folder = system.path("m")
    assert [(folder / "x").once(make), (folder / "x").once(make), (folder / "y").once(make)] == [3, 3, 4]


def test_errors_and_texts_show_a_url_without_credentials(system):
    path = RemotePath(system, "mem://user:secret@host/m?signature=secret")
    for text in (str(path), repr(path), path.as_posix(), shown_path(path), shown_path(path.url)):
        assert "secret" not in text
        assert "mem://host/m" in text
    err = BridgeError("it failed.", path=path)
    assert err.to_json()["path"] == "mem://host/m" == err.path
    assert is_location(path)
    assert not is_location({})


def test_an_interrupt_does_not_wait_for_the_repetitions_of_other_requests(system, monkeypatch):
    begun, asked = threading.Event(), []

    def entry(url):
        if url.endswith("/one"):
            begun.wait(30)
            raise KeyboardInterrupt
        asked.append(url)
        begun.set()
        raise temporary()

    paused = []

    def sleep(seconds, ended):
        paused.append(ended.wait(5))

    monkeypatch.setattr(system, "entry", entry)
    monkeypatch.setattr("bridge_core.io.retries.sleep", sleep)
    with pytest.raises(KeyboardInterrupt):
        system.path("m").ask_for(["one", "two"])
    assert len(asked) == 1
    assert paused == [True]
