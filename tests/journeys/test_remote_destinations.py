"""Writing to URLs: what is there at every step, and after every failure."""

import errno
import json
import tempfile

import numpy as np
import pytest
from support.errors import refused
from support.folder_format import StepFolders
from support.memory_filesystem import MemoryFileSystem
from support.remote_systems import Ran

from bridge_core import (
    DestinationExists,
    FlatState,
    IntegrityError,
    SourceNotFound,
    SystemFailure,
    UsageError,
    VerificationError,
    convert,
    open_state,
    save_state,
)
from bridge_core.checkpoint import remote_writing
from bridge_core.errors import AccessDenied, NeedsLocalPath, RemoteFailure
from bridge_core.io import syscalls
from bridge_core.plugins import given_registry

FOLDER = "mem://host/run/"
INDEX = "model.safetensors.index.json"
SHARDS = [f"model-0000{number}-of-00003.safetensors" for number in (1, 2, 3)]
MORE_DIGITS = [f"model-00000{number}-of-000003.safetensors" for number in (1, 2, 3)]


class Store(MemoryFileSystem):
    """A store that fails at one step, before or after the file arrived, and can be looked at after each."""

    def __init__(self, files=None):
        super().__init__(files)
        self.steps = []
        self.failing_step = None
        self.error = RemoteFailure("the server answered 400.")
        self.arrives = False
        self.look = lambda: None

    def upload(self, url, path):
        self._step("upload", url, lambda: super(Store, self).upload(url, path))

    def remove(self, url):
        self._step("remove", url, lambda: super(Store, self).remove(url))

    def _step(self, method, url, change):
        self.steps.append((method, url.rpartition("/")[2]))
        is_failing = len(self.steps) - 1 == self.failing_step
        if not is_failing or self.arrives:
            change()
        if is_failing:
            raise self.error
        self.look()

    def content(self):
        return {name: bytes(data) for name, data in self.files.items()}


class Hub(MemoryFileSystem):
    """A file system whose folders are written in one step."""

    upload = remove = None  # not for single files

    def __init__(self, files=None):
        super().__init__(files)
        self.commits = []
        self.error = None

    def pinned(self, url):
        if "absent" in url:
            raise SourceNotFound("the repository does not exist.", path=url)
        return url

    def upload_folder(self, url, folder, names, removed=()):
        self.commits.append((url, tuple(names), tuple(removed)))
        if self.error is not None:
            raise self.error
        place = url.partition("://")[2].rstrip("/")
        for name in names:
            self.files[f"{place}/{name}"] = (folder / name).read_bytes()
        for name in removed:
            del self.files[f"{place}/{name}"]
        return url


del Hub.upload, Hub.remove


@pytest.fixture(autouse=True)
def own_temporaries(tmp_path, monkeypatch):
    """A folder for temporary files, in which nothing may be left."""
    folder = tmp_path / "temporaries"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    assert list(folder.iterdir()) == []


@pytest.fixture
def store():
    return Store()


@pytest.fixture
def registry(store):
    return given_registry(None).extend(store)


def state(value=0.0, count=6):
    return FlatState(
        {f"layers.{i}.weight": np.full((2, 2), value + i, "float32") for i in range(count)}, layout="torch"
    )


def save(weights, url, registry, **options):
    options = {"verify": True, "max_shard_size": 32, "format": "safetensors", "registry": registry, **options}
    return save_state(weights, url, **options)


def value_at(url, registry):
    with open_state(url, registry=registry) as there:
        first = float(there["layers.0.weight"][0, 0])
        for number in range(len(there)):
            assert np.all(there[f"layers.{number}.weight"] == first + number), "a mixture"
    return first


# A folder.


def test_a_folder_is_written_shard_by_shard_and_the_index_last(store, registry, tmp_path):
    saved = save(state(), FOLDER, registry, sidecar_files={"config.json": b"{}"})
    assert store.steps == [("upload", name) for name in ("config.json", *SHARDS, INDEX)]
    assert [str(path) for path in saved.files] == [f"{FOLDER}{name}" for name in (*SHARDS, INDEX)]
    local = tmp_path / "local"
    save(state(), local, None, sidecar_files={"config.json": b"{}"})
    assert store.content() == {f"host/run/{path.name}": path.read_bytes() for path in local.iterdir()}
    weights = [path for path in local.iterdir() if path.name != "config.json"]
    assert saved.total_bytes == sum(path.stat().st_size for path in weights)
    assert {*saved.checksums} == {*state()}
    assert value_at(FOLDER, registry) == 0


def test_the_local_disk_holds_one_file_at_a_time(store, registry, own_temporaries):
    sizes = []

    def look():
        files = [path for path in own_temporaries.rglob("*") if path.is_file()]
        sizes.append(len(files))

    store.look = look
    save(state(), FOLDER, registry)
    assert sizes == [1, 1, 1, 1]


def test_convert_reports_urls_and_copies_what_is_next_to_the_weights(store, registry, tmp_path):
    save(state(), tmp_path / "model.safetensors", None, max_shard_size=None)
    report = convert(
        tmp_path / "model.safetensors",
        "mem://user:secret@host/run/",
        to="flax",
        accept_guesses=True,
        allow_unclaimed=True,
        registry=registry,
    )
    assert [str(path) for path in report.files] == ["mem://host/run/flax_model.msgpack"]
    assert report.verified
    assert json.loads(json.dumps(report.to_json()))["files"] == ["mem://host/run/flax_model.msgpack"]
    assert "secret" not in repr(report) + repr(report.to_json()) + report._repr_html_()


def test_a_folder_has_shards_of_5_gb_unless_another_size_is_given(store, registry, monkeypatch):
    assert remote_writing.USUAL_SHARD_SIZE == "5GB"
    monkeypatch.setattr(remote_writing, "USUAL_SHARD_SIZE", 32)
    save(state(), FOLDER, registry, max_shard_size=None)
    assert len(store.files) == 4
    save(state(), "mem://host/one/", registry, max_shard_size=1000)
    assert "host/one/model.safetensors" in store.files


def test_a_folder_that_exists_needs_no_slash(store, registry):
    store.files["host/run/notes.txt"] = b""
    with refused(DestinationExists, "mem://host/run"):
        save(state(), "mem://host/run", registry, max_shard_size=None)
    save(state(), "mem://host/run", registry, max_shard_size=None, overwrite=True)
    assert {*store.files} == {"host/run/notes.txt", "host/run/model.safetensors"}


def test_progress_counts_uploads_and_only_rises(store, registry):
    reports = []
    save(state(), FOLDER, registry, progress=reports.append)
    phases = [report.phase for report in reports]
    assert {*phases} == {"writing", "verifying", "uploading"}
    assert phases.count("uploading") >= 3, "one for each file"
    done = [report.done for report in reports]
    assert done == sorted(done)
    assert {report.total for report in reports} == {3 * 6 * 16} == {done[-1]}


# Failures.

ERRORS = [RemoteFailure("the server answered 400."), KeyboardInterrupt()]


@pytest.mark.parametrize("step", range(5))
@pytest.mark.parametrize("arrives", [False, True])
@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_a_failure_at_any_upload_leaves_nothing(store, registry, step, arrives, error):
    store.files["host/other/model.safetensors"] = b"of somebody else"
    before = store.content()
    store.failing_step, store.arrives, store.error = step, arrives, error
    with pytest.raises(type(error)):
        save(state(), FOLDER, registry, sidecar_files={"config.json": b"{}"})
    assert store.content() == before


@pytest.mark.parametrize("number", [0, 2])
def test_a_shard_that_differs_is_not_uploaded_and_nothing_is_left(store, registry, number, monkeypatch):
    used = type(registry.format("safetensors"))
    written, write = [], used.write

    def damaging(self, weights, target):
        write(self, weights, target)
        if len(written) == number:
            content = target.path.read_bytes()
            target.path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        written.append(target.path)

    monkeypatch.setattr(used, "write", damaging)
    with refused(VerificationError, f"{FOLDER}{SHARDS[number]}"):
        save(state(), FOLDER, registry)
    assert store.files == {}
    assert [step for step in store.steps if step[0] == "upload"] == [
        ("upload", name) for name in SHARDS[:number]
    ]


def test_a_full_disk_is_named_with_the_folder_and_the_way_out(store, registry, own_temporaries, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(syscalls, "pwrite", full)
    with refused(
        SystemFailure, f"{FOLDER}{SHARDS[0]}", hint=(str(own_temporaries), "TMPDIR", "--max-shard-size")
    ):
        save(state(), FOLDER, registry)
    assert store.files == {}


def test_a_store_that_lists_another_size_is_not_given_an_index(store, registry):
    def look():
        name = f"host/run/{SHARDS[1]}"
        if name in store.files:
            store.files[name] = store.files[name][:-1]

    store.look = look
    with refused(VerificationError, FOLDER.rstrip("/"), SHARDS[1]):
        save(state(), FOLDER, registry)
    assert store.files == {}


def test_what_cannot_be_taken_back_is_named(store, registry):
    store.failing_step = 2

    def remove(url):
        raise AccessDenied("no permission.")

    store.remove = remove
    with refused(RemoteFailure, "answered 400", hint="model-{00001..00003}-of-00003.safetensors"):
        save(state(), FOLDER, registry)


def test_a_source_that_changes_is_noticed_and_nothing_is_left(store, registry, tmp_path):
    path = tmp_path / "model.safetensors"
    save(state(), path, None, max_shard_size=None)

    def look():
        path.write_bytes(path.read_bytes())

    store.look = look
    with open_state(path) as source, pytest.raises(IntegrityError):
        save(source, FOLDER, registry)
    assert store.files == {}


# What is there already.


def test_nothing_is_replaced_unless_it_is_asked_for(store, registry):
    save(state(), FOLDER, registry)
    before, steps = store.content(), len(store.steps)
    with refused(DestinationExists, FOLDER, hint="overwrite=True (--overwrite)"):
        save(state(1.0), FOLDER, registry)
    assert (store.content(), len(store.steps)) == (before, steps)


def test_while_a_set_is_replaced_a_reader_sees_the_old_or_the_new_one(store, registry):
    save(state(), FOLDER, registry, sidecar_files={"config.json": b"old"})
    store.files["host/run/notes.txt"] = b"stays"
    seen = []
    store.look = lambda: seen.append(value_at(FOLDER, registry))
    saved = save(state(50.0), FOLDER, registry, overwrite=True, sidecar_files={"config.json": b"new"})
    assert seen == [0.0] * 4 + [50.0] * 4
    assert [path.name for path in saved.files] == [*MORE_DIGITS, INDEX]
    names = {*MORE_DIGITS, INDEX, "config.json", "notes.txt"}
    assert {*store.files} == {f"host/run/{name}" for name in names}
    assert store.files["host/run/config.json"] == b"new"
    store.look = lambda: None
    save(state(70.0), FOLDER, registry, overwrite=True)
    assert {*store.files} == {f"host/run/{name}" for name in (*SHARDS, INDEX, "config.json", "notes.txt")}
    assert value_at(FOLDER, registry) == 70


@pytest.mark.parametrize("step", range(6))
@pytest.mark.parametrize("arrives", [False, True])
@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_a_failure_while_a_set_is_replaced_loses_nothing(store, registry, step, arrives, error):
    sidecar_files = {"config.json": b"old", "tokenizer.json": b"old"}
    save(state(), FOLDER, registry, sidecar_files=sidecar_files)
    before = store.content()
    store.steps.clear()
    store.failing_step, store.arrives, store.error = step, arrives, error
    with pytest.raises(type(error)):
        save(
            state(50.0),
            FOLDER,
            registry,
            overwrite=True,
            sidecar_files=dict.fromkeys(sidecar_files, b"new"),
        )
    assert store.content() == before


@pytest.mark.parametrize("arrives", [False, True])
@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_weights_that_are_replaced_stay_with_their_own_config(store, registry, arrives, error):
    options = {"max_shard_size": 1000, "overwrite": True}
    save(state(), FOLDER, registry, sidecar_files={"config.json": b"old"}, **options)
    before = store.content()
    store.failing_step, store.arrives, store.error = len(store.steps) + 1, arrives, error
    with pytest.raises(type(error)) as caught:
        save(state(50.0), FOLDER, registry, sidecar_files={"config.json": b"new"}, **options)
    if arrives:
        assert (value_at(FOLDER, registry), store.files["host/run/config.json"]) == (50, b"new")
        assert "arrived" in (getattr(caught.value, "hint", "") or "arrived")
    else:
        assert store.content() == before


def test_an_index_that_cannot_be_restored_keeps_its_shards(store, registry):
    save(state(), FOLDER, registry)
    store.steps.clear()
    store.failing_step, store.arrives = 3, True

    def look():
        if len(store.steps) > 3:
            raise AssertionError("nothing more is changed")

    store.look = look
    upload = store.upload

    def once(url, path):
        if len(store.steps) > 3:
            raise AccessDenied("no permission.")
        upload(url, path)

    store.upload = once
    with refused(RemoteFailure, hint=(INDEX, "model-{000001..000003}-of-000003.safetensors")):
        save(state(50.0), FOLDER, registry, overwrite=True)
    store.look = lambda: None
    assert value_at(FOLDER, registry) == 50


@pytest.mark.parametrize(
    ("first", "second"), [(32, 1000), (1000, 32)], ids=["shards_to_one", "one_to_shards"]
)
def test_the_old_weights_are_gone_when_the_new_ones_have_other_names(store, registry, first, second):
    save(state(), FOLDER, registry, max_shard_size=first)
    save(state(50.0), FOLDER, registry, max_shard_size=second, overwrite=True)
    assert value_at(FOLDER, registry) == 50
    assert len(store.files) == (1 if second == 1000 else 4)
    removed = [name for method, name in store.steps if method == "remove"]
    assert not any(name.endswith(".json") for name in removed[1:]), "an index goes first"


def test_old_files_that_cannot_be_removed_are_named(store, registry):
    save(state(), FOLDER, registry)
    store.failing_step = len(store.steps) + 4
    with refused(RemoteFailure, "complete", SHARDS[0], hint="Remove"):
        save(state(50.0), FOLDER, registry, overwrite=True)
    assert value_at(FOLDER, registry) == 50


# A single file.


def test_a_single_file_is_one_upload(store, registry):
    saved = save(state(), "mem://host/a.safetensors", registry, max_shard_size=None)
    assert store.steps == [("upload", "a.safetensors")]
    assert [str(path) for path in saved.files] == ["mem://host/a.safetensors"]
    with refused(DestinationExists, "mem://host/a.safetensors", hint="overwrite"):
        save(state(1.0), "mem://host/a.safetensors", registry, max_shard_size=None)
    save(state(1.0), "mem://host/a.safetensors", registry, max_shard_size=None, overwrite=True)
    assert value_at("mem://host/a.safetensors", registry) == 1


@pytest.mark.parametrize("arrives", [False, True])
@pytest.mark.parametrize("exists", [False, True])
def test_a_single_file_that_fails_leaves_what_was_there(store, registry, arrives, exists):
    if exists:
        save(state(), "mem://host/a.safetensors", registry, max_shard_size=None)
    before = store.content()
    store.failing_step, store.arrives = len(store.steps), arrives
    with pytest.raises(RemoteFailure):
        save(state(1.0), "mem://host/a.safetensors", registry, max_shard_size=None, overwrite=True)
    if exists and arrives:
        assert value_at("mem://host/a.safetensors", registry) == 1, "it is complete"
    else:
        assert store.content() == before


# The source is the destination.


@pytest.mark.parametrize(
    ("source", "destination"),
    [
        ("mem://host/run", "mem://host/run/"),
        (f"mem://host/run/{INDEX}", "mem://user:other@host/run/"),
        ("mem://host/run/", f"mem://host/run/{SHARDS[0]}"),
        ("mem://host/a.safetensors", "mem://host/a.safetensors"),
    ],
)
@pytest.mark.parametrize("to", ["torch", "neutral"])
def test_a_source_is_not_written_over(store, registry, source, destination, to):
    allowed = {"accept_guesses": True, "allow_unclaimed": True}
    save(state(), FOLDER, registry)
    save(state(), "mem://host/a.safetensors", registry, max_shard_size=None)
    before = store.content()
    options = {"max_shard_size": None, "overwrite": True}
    with refused(DestinationExists, "source", hint="another"), open_state(source, registry=registry) as read:
        save(read, destination, registry, **options)
    with refused(DestinationExists, "source", hint="another"):
        convert(
            source, destination, to=to, format="safetensors", registry=registry, overwrite=True, **allowed
        )
    assert store.content() == before


# What cannot be written.


def test_a_checkpoint_that_is_a_folder_is_refused_with_the_command(store, registry):
    with refused(NeedsLocalPath, "orbax", "mem://host/run.orbax", hint="upload"):
        save(state(), "mem://host/run.orbax", registry, max_shard_size=None, format="orbax")
    with refused(NeedsLocalPath, "orbax", hint="upload"):
        save(state(), "mem://host/run", registry, max_shard_size=None, format="orbax", step=3)
    assert store.files == {}


def test_a_folder_checkpoint_of_another_format_gets_no_weights(store, registry, tmp_path):
    steps = StepFolders()
    registry = registry.extend(steps)
    save_state(dict(state()), tmp_path / "run", format=steps.name, step=3, registry=registry)
    store.add_folder(tmp_path / "run", "host/run")
    before = {*store.files}
    for overwrite in (False, True):
        with refused(DestinationExists, steps.name, hint="new folder"):
            save(state(), FOLDER, registry, overwrite=overwrite)
    assert {*store.files} == before
    assert store.steps == []


def test_the_command_takes_a_url_and_shows_no_credentials(store, registry, monkeypatch):
    save(state(), "mem://host/source.safetensors", registry, max_shard_size=None)
    ran = Ran(
        registry,
        monkeypatch,
        *("convert", "mem://host/source.safetensors", "mem://user:secret@host/run/"),
        *("--to", "torch", "--max-shard-size", "32"),
    )
    assert (ran.code or 0) == 0
    assert value_at("mem://user:secret@host/run/", registry) == 0
    assert "mem://host/run/" in ran.out + ran.err
    assert "secret" not in ran.out + ran.err
    again = ("convert", "mem://host/source.safetensors", "mem://user:secret@host/run/", "--to", "torch")
    ran = Ran(registry, monkeypatch, *again)
    assert ran.code == 1
    assert "--overwrite" in ran.err
    assert "secret" not in ran.out + ran.err


def test_a_format_without_usual_names_needs_a_file_name(store, registry):
    with refused(UsageError, "npz"):
        save(state(), FOLDER, registry, format="npz", max_shard_size=None)
    save(state(), "mem://host/a.npz", registry, format=None, max_shard_size=None)
    assert value_at("mem://host/a.npz", registry) == 0
    assert store.steps == [("upload", "a.npz")]


# In one step.


@pytest.fixture
def hub():
    return Hub({"host/run/README.md": b"of the repository"})


@pytest.fixture
def with_hub(hub):
    return given_registry(None).extend(hub)


def test_a_folder_is_one_commit_with_all_files(hub, with_hub):
    saved = save(state(), FOLDER, with_hub, sidecar_files={"config.json": b"{}"})
    assert hub.commits == [(FOLDER, (*SHARDS, INDEX, "config.json"), ())]
    assert [path.name for path in saved.files] == [*SHARDS, INDEX]
    assert value_at(FOLDER, with_hub) == 0


def test_weights_in_a_repository_are_replaced_and_removed_by_one_commit(hub, with_hub):
    save(state(), FOLDER, with_hub)
    with refused(DestinationExists, FOLDER, hint="overwrite"):
        save(state(50.0), FOLDER, with_hub)
    assert len(hub.commits) == 1
    save(state(50.0), FOLDER, with_hub, overwrite=True)
    assert hub.commits[1:] == [(FOLDER, (*SHARDS, INDEX), ())]
    save(state(70.0), FOLDER, with_hub, overwrite=True, max_shard_size=1000)
    assert hub.commits[2] == (FOLDER, ("model.safetensors",), tuple(sorted([*SHARDS, INDEX])))
    assert {*hub.files} == {"host/run/README.md", "host/run/model.safetensors"}


def test_a_single_file_is_one_commit_and_leaves_the_others(hub, with_hub):
    save(state(), FOLDER, with_hub)
    save(state(1.0), "mem://host/run/a.safetensors", with_hub, max_shard_size=None)
    assert hub.commits[1] == ("mem://host/run", ("a.safetensors",), ())
    with refused(DestinationExists, "a.safetensors"):
        save(state(1.0), "mem://host/run/a.safetensors", with_hub, max_shard_size=None)


def test_a_commit_that_fails_leaves_no_local_file(hub, with_hub):
    hub.error = AccessDenied("no permission.")
    before = dict(hub.files)
    with refused(AccessDenied, "no permission"):
        save(state(), FOLDER, with_hub)
    assert hub.files == before


def test_a_repository_that_does_not_exist_is_refused_before_anything_is_read(hub, with_hub):
    with refused(SourceNotFound, "repository"):
        save(state(), "mem://host/absent/", with_hub, progress=lambda _: pytest.fail("it writes"))
    assert hub.commits == []
