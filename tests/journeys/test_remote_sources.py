"""Sources at URLs: the same results as from a local path, few requests, nothing left on disk, no secret."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import tempfile
import threading
from pathlib import Path

import numpy as np
import pytest
from support.commands import assert_refused
from support.errors import refused
from support.folder_format import StepFolders
from support.memory_filesystem import MemoryFileSystem, temporary
from support.remote_systems import SYSTEMS, WEIGHTS, Ran, write_sources

import bridge_core
from bridge_core import convert, default_registry, open_state, plan_conversion, save_state, verify
from bridge_core.checkpoint.local_copies import download_command
from bridge_core.errors import (
    AccessDenied,
    MalformedFile,
    MissingDependency,
    NeedsLocalPath,
    RemoteFailure,
    ShardError,
    SourceNotFound,
    UsageError,
)
from bridge_core.io import RemotePath
from bridge_core.plugins import Guidance

SOURCES = {
    "a.safetensors": "flax",
    "a.pt": "flax",
    "a.npz": "flax",
    "a.msgpack": "torch",
    "sharded": "flax",
    "folder": "flax",
    "torch-shards": "flax",
}
"""Name of a source -> the layout that the tests convert it to."""


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """Return a folder with one model in every form."""
    return write_sources(tmp_path_factory.mktemp("sources"))


@pytest.fixture(scope="module")
def serving(sources):
    """Return a function that serves the sources by a system, which is started once."""
    with contextlib.ExitStack() as stack:
        yield functools.cache(lambda system: stack.enter_context(SYSTEMS[system](sources)))


@pytest.fixture(params=list(SYSTEMS))
def served(request, serving):
    """Serve the sources by each system."""
    return serving(request.param)


_SERVERS, _FEW = ("hub", "web", "s3"), ("a.pt", "sharded", "folder")


@pytest.fixture(
    params=[
        pytest.param(
            (system, name),
            marks=pytest.mark.slow if system in _SERVERS and name not in _FEW else (),
            id=f"{system}-{name}",
        )
        for system in SYSTEMS
        for name in SOURCES
    ]
)
def case(request, serving):
    """Give each source by each system, and its name: of a folder that is not listed, its file or index."""
    system, name = request.param
    served = serving(system)
    if served.lists or "." in name:
        return served, name
    weights = {"folder": "model.safetensors", "sharded": "model.safetensors.index.json"}
    return served, f"{name}/{weights.get(name, 'pytorch_model.bin.index.json')}"


@pytest.fixture
def watched(tmp_path, monkeypatch):
    """Watch the folders that a copy of a source could be left in; return the working folder."""
    homes = {name: tmp_path / name for name in ("temporary", "home", "working")}
    for home in homes.values():
        home.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(homes["temporary"]))
    for variable in ("HOME", "XDG_CACHE_HOME", "HF_HOME", "USERPROFILE"):
        monkeypatch.setenv(variable, str(homes["home"]))
    monkeypatch.chdir(homes["working"])
    yield homes["working"]
    assert not [*homes["temporary"].iterdir(), *homes["home"].iterdir()]


def values(path, registry=None):
    """Return all values of a file, each with its bytes."""
    with open_state(path, registry=registry) as state:
        return {key: (value.dtype, value.shape, value.tobytes()) for key, value in state.items()}


# The same as from a path


def test_a_source_at_a_url_becomes_what_one_at_a_path_becomes(sources, case, watched):
    served, name = case
    to = SOURCES[name.partition("/")[0]]
    local, remote = Path("local.npz"), Path("remote.npz")
    expected = convert(sources / name, local, to=to)
    report = convert(served.url(name), remote, to=to, registry=served.registry)
    assert values(remote) == values(local)
    assert (report.exact, report.verified, report.tensors) == (True, True, expected.tensors)
    assert sorted(path.name for path in watched.iterdir()) == ["local.npz", "remote.npz"]
    assert verify(served.url(name), remote, registry=served.registry).equal


def test_a_plan_of_a_url_is_that_of_a_path(sources, case, watched):
    served, name = case
    to = SOURCES[name.partition("/")[0]]
    ours = plan_conversion(served.url(name), to=to, registry=served.registry)
    theirs = plan_conversion(sources / name, to=to)
    ignored = {"metadata", "source"}
    assert {k: v for k, v in ours.to_json().items() if k not in ignored} == {
        k: v for k, v in theirs.to_json().items() if k not in ignored
    }
    assert not list(watched.iterdir())


def test_what_inspect_shows_of_a_url_is_that_of_a_path(sources, case, watched, monkeypatch):
    served, name = case
    ran = Ran(served.registry, monkeypatch, "inspect", served.url(name), "--json")
    local = Ran(default_registry(), monkeypatch, "inspect", sources / name, "--json")
    assert (ran.code, local.code) == (0, 0)
    ours, theirs = json.loads(ran.out), json.loads(local.out)
    where = ours["metadata"]["provenance"].pop("path")
    theirs["metadata"]["provenance"].pop("path")
    assert ours == theirs
    if served.system is not None:
        assert where.startswith(served.base)
    plain = Ran(served.registry, monkeypatch, "inspect", served.url(name))
    assert where in plain.out


@pytest.mark.parametrize("other", ["a.pt", "a.npz", "sharded/model.safetensors.index.json"])
def test_diff_compares_urls_with_each_other_and_with_paths(sources, served, other, monkeypatch):
    for left, right in (
        (served.url("a.safetensors"), served.url(other)),
        (sources / other, served.url(other)),
    ):
        ran = Ran(served.registry, monkeypatch, "diff", left, right)
        assert ran.code == 0, ran.err
    changed = Ran(served.registry, monkeypatch, "diff", served.url("a.msgpack"), served.url("a.pt"))
    assert changed.code == 1


def test_a_template_may_be_at_a_url(sources, served, watched):
    plan = plan_conversion(
        WEIGHTS, to="flax", layout="torch", like=served.url("a.msgpack"), registry=served.registry
    )
    assert plan.ok
    convert(
        served.url("a.pt"), "out.msgpack", to="flax", like=served.url("a.msgpack"), registry=served.registry
    )
    assert values("out.msgpack") == values(sources / "a.msgpack")


@pytest.mark.parametrize("command", ["explain", "match", "plan", "rules"])
def test_other_commands_take_urls(served, command, tmp_path, monkeypatch):
    source, target = served.url("a.safetensors"), served.url("a.msgpack")
    rules = tmp_path / "rules.toml"
    rules.write_text('[[rule]]\nsource = "layers.{i}.fc.bias"\ntarget = "layers.{i}.fc.bias"\n')
    words = {
        "explain": ("explain", source, "layers.1.fc.weight", "--to", "flax"),
        "match": ("match", source, "--like", target, "--json"),
        "plan": ("plan", source, "--to", "flax", "--like", target, "--json"),
        "rules": ("rules", "check", rules, "--source", source, "--like", target),
    }[command]
    ran = Ran(served.registry, monkeypatch, *words)
    assert ran.code == 0, ran.err
    assert "layers.1.fc" in ran.out or command == "rules"


def test_an_entry_of_a_file_at_a_url_is_read(tmp_path):
    tree = {
        "params": {"fc": {"kernel": np.ones((2, 3), "f4")}},
        "ema": {"fc": {"kernel": np.zeros((2, 3), "f4")}},
    }
    save_state(tree, tmp_path / "run.msgpack", layout="flax")
    with SYSTEMS["memory"](tmp_path) as served:
        with open_state(served.url("run.msgpack"), entry="ema", registry=served.registry) as state:
            assert not state["fc.kernel"].any()
        convert(
            served.url("run.msgpack"), tmp_path / "o.npz", to="torch", entry="ema", registry=served.registry
        )
        assert [request.method for request in served.system.requests].count("pinned") == 2
        with refused(UsageError, "no steps", "3"):
            open_state(served.url("run.msgpack"), step=3, registry=served.registry)


# Few requests


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """Return a folder with eight shards of 4 MB, two layers in each."""
    folder = tmp_path_factory.mktemp("large")
    layer = np.arange(512 * 1024, dtype="f4").reshape(512, 1024)
    state = {f"layers.{number}.fc.weight": layer + number for number in range(16)}
    state |= {f"layers.{number}.fc.bias": layer[:, 0] for number in range(16)}
    ordered = {name: state[name] for name in sorted(state, key=lambda n: int(n.split(".")[1]))}
    save_state(ordered, folder / "m/", layout="torch", format="safetensors", max_shard_size="4.3MB")
    (folder / "m/config.json").write_text("{}")
    assert len(list(folder.glob("m/*.safetensors"))) == 8
    return folder / "m"


@pytest.mark.parametrize("system", ["memory", "unlisted"])
def test_inspect_reads_headers_only(large, system, monkeypatch):
    with SYSTEMS[system](large) as served:
        source = served.url() if served.lists else served.url("model.safetensors.index.json")
        assert Ran(served.registry, monkeypatch, "inspect", source).code == 0
    requests = served.system.requests
    for shard in large.glob("*.safetensors"):
        own = [request for request in requests if request.url.endswith(shard.name)]
        assert len(own) <= (1 if served.lists else 2)
        assert sum(request.nbytes for request in own) <= shard.stat().st_size / 100
    index = [request for request in requests if request.url.endswith("index.json")]
    assert [request.method for request in index].count("read") == 1
    assert len(served.system.made("pinned")) == 1
    assert len(served.system.made("entries")) <= 1
    assert len(requests) <= 8 * (1 if served.lists else 2) + 6


@pytest.mark.parametrize("system", ["memory", "unlisted"])
def test_headers_of_shards_are_read_at_the_same_time(large, system):
    with SYSTEMS[system](large) as served:
        together = threading.Barrier(4)
        is_shard = re.compile(r"model-\d+-of").search
        served.system.on_read = lambda request: is_shard(request.url) and together.wait(timeout=30)
        with open_state(served.url("model.safetensors.index.json"), registry=served.registry) as state:
            assert len(state) == 32
        assert served.system.reads <= 10


@pytest.mark.parametrize("system", ["memory", "unlisted"])
def test_converting_one_layer_reads_that_layer(large, system, tmp_path):
    with SYSTEMS[system](large) as served:
        source = served.url() if served.lists else served.url("model.safetensors.index.json")
        convert(source, tmp_path / "o.msgpack", to="flax", only="layers.5", registry=served.registry)
    nbytes = 512 * 1024 * 4 + 512 * 4
    assert served.system.bytes_read <= 1.05 * nbytes
    with open_state(tmp_path / "o.msgpack") as state:
        assert state["layers.5.fc.kernel"][3, 2] == 2 * 1024 + 3 + 5


def test_a_conversion_reads_every_byte_once(large, tmp_path):
    with SYSTEMS["memory"](large) as served:
        convert(served.url(), tmp_path / "o.msgpack", to="flax", registry=served.registry)
    stored = sum(path.stat().st_size for path in large.glob("*.safetensors"))
    assert served.system.bytes_read <= 1.02 * stored


def test_a_config_next_to_a_file_is_asked_for_once(sources, tmp_path):
    with SYSTEMS["unlisted"](sources) as served:
        for rules in ((), [bridge_core.Rule.rename("layers.**", "blocks.**")]):
            served.system.forget_requests()
            convert(
                served.url("folder/model.safetensors"),
                tmp_path / "o.msgpack",
                to="flax",
                rules=rules,
                overwrite=True,
                registry=served.registry,
            )
            asked = [request for request in served.system.requests if "config.json" in request.url]
            assert len([request for request in asked if request.method == "entry"]) <= 1
            assert len(asked) <= 2


def test_a_folder_with_other_folders_is_not_searched(sources, tmp_path):
    with SYSTEMS["memory"](sources) as served:
        for number in range(30):
            served.system.files[f"host/folder/inner-{number}/data.txt"] = b"x"
        with open_state(served.url("folder"), registry=served.registry):
            pass
        assert len(served.system.made("entries")) == 1
        served.system.forget_requests()
        for number in range(30):
            served.system.files[f"host/empty/inner-{number}/model.safetensors"] = b"x"
        with refused(MalformedFile, "does not hold weights", "inner-0"):
            open_state(served.url("empty"), registry=served.registry)
        assert len(served.system.made("entries")) <= 10
        assert not served.system.reads


def test_no_file_of_a_folder_is_opened_to_look_at_it_but_weights(sources):
    with SYSTEMS["memory"](sources) as served:
        served.system.files["host/odd/weights.safetensors"] = (sources / "a.safetensors").read_bytes()
        served.system.files |= {f"host/odd/notes-{number}.txt": b"text" * 99 for number in range(9)}
        with open_state(served.url("odd"), registry=served.registry) as state:
            assert len(state) == len(WEIGHTS)
        assert {request.url for request in served.system.made("read")} == {
            served.url("odd/weights.safetensors")
        }


# What a state carries


def test_a_state_carries_where_it_was_opened_from(sources):
    with (
        SYSTEMS["memory"](sources) as served,
        open_state(served.url("folder"), registry=served.registry) as state,
    ):
        where = served.url("folder/model.safetensors")
        assert str(state.location) == where == state.metadata.provenance["path"]
        renamed = state.select(["layers.0.fc.bias"]).rename({"layers.0.fc.bias": "b"})
        for derived in (renamed, state.replace(layout="flax"), renamed.union({"c": np.ones(1)})):
            assert derived.location == state.location
    with open_state(sources / "folder") as state:
        assert state.location == sources / "folder/model.safetensors"
    assert bridge_core.as_state(WEIGHTS).location is None


class Sidecars:
    """A model library whose checkpoints have a config with a vocabulary."""

    name = "sidecars"

    def guide(self, checkpoint):
        path = checkpoint.folder / "config.json"
        if not path.is_file() or "vocab" not in path.read_text():
            return None
        assert json.loads(path.read_bytes()) == {"vocab": 1}
        return Guidance(sidecar_files=("config.json",))


@pytest.mark.parametrize("system", list(SYSTEMS))
def test_sidecar_files_of_a_url_are_copied(sources, system, watched):
    with SYSTEMS[system](sources) as served:
        registry = served.registry.extend(Sidecars())
        source = served.url("folder" if served.lists else "folder/model.safetensors")
        model = None if served.lists else "auto"
        report = convert(source, "out/", to="flax", model=model, registry=registry)
    assert [path.name for path in report.sidecar_files] == ["config.json"]
    assert json.loads(Path("out/config.json").read_text()) == {"vocab": 1}
    assert sorted(path.name for path in Path("out").iterdir()) == ["config.json", "flax_model.msgpack"]


def test_a_config_that_the_server_refuses_stops_no_conversion(sources, tmp_path, monkeypatch):
    with SYSTEMS["unlisted"](sources) as served:
        entry = served.system.entry

        def refuse(url):
            if "config.json" in url:
                raise AccessDenied("the server answered 403.", path=url)
            return entry(url)

        monkeypatch.setattr(served.system, "entry", refuse)
        source = served.url("folder/model.safetensors")
        rules = [bridge_core.Rule.rename("layers.**", "blocks.**")]
        report = convert(source, tmp_path / "o.msgpack", to="flax", rules=rules, registry=served.registry)
    assert report.exact


# Refusals


@pytest.mark.parametrize("system", ["memory", "unlisted"])
def test_what_does_not_exist_is_refused_with_the_nearest_name(sources, system):
    with SYSTEMS[system](sources) as served:
        hint = "'a.safetensors'" if served.lists else "does not list folders"
        with refused(SourceNotFound, "mem://host/a.safetensor", "does not exist", hint=hint):
            open_state(served.url("a.safetensor"), registry=served.registry)


def test_a_folder_on_a_server_without_lists_is_refused_with_the_way_out(sources):
    with SYSTEMS["unlisted"](sources) as served:
        served.system.files["host/page"] = b"<html>a page about the folder</html>"
        for url in (served.url("sharded"), served.url("sharded/"), served.url("page/")):
            with refused(SourceNotFound, hint=("index", "*.index.json")):
                open_state(url, registry=served.registry)


@pytest.mark.parametrize("system", ["memory", "unlisted"])
def test_shards_that_are_missing_are_named(sources, system):
    with SYSTEMS[system](sources) as served:
        gone = next(key for key in served.system.files if "sharded/model-00002" in key)
        del served.system.files[gone]
        with refused(ShardError, "missing", gone.rpartition("/")[2]):
            open_state(served.url("sharded/model.safetensors.index.json"), registry=served.registry)


def test_a_shard_alone_is_refused_as_a_part(sources, tmp_path):
    with SYSTEMS["memory"](sources) as served:
        shard = next(key for key in served.system.files if "sharded/model-00002" in key).removeprefix("host/")
        with refused(ShardError, "shard 2 of", hint="model.safetensors.index.json"):
            convert(served.url(shard), tmp_path / "o.npz", to="flax", registry=served.registry)
    assert not list(tmp_path.iterdir())


def test_failures_of_a_server_are_named(sources, monkeypatch):
    monkeypatch.setattr("bridge_core.io.retries.sleep", lambda *_: None)
    with SYSTEMS["memory"](sources) as served:
        for method in ("pinned", "entry", "entries"):
            served.system.fail(temporary(), temporary(), methods=[method])
            with open_state(served.url("folder"), registry=served.registry):
                pass
            served.system.fail(RemoteFailure("the server answered 500."), methods=[method])
            with refused(RemoteFailure, "mem://host", "500"):
                open_state(served.url("folder"), registry=served.registry)
            served.system.fail(AccessDenied("the server answered 401."), methods=[method])
            with refused(AccessDenied, "401"):
                open_state(served.url("folder"), registry=served.registry)


class Store(MemoryFileSystem):
    """A file system under the scheme of a real one."""

    schemes = ("s3", "gs", "hf", "https")


@pytest.mark.parametrize(
    ("url", "command"),
    [
        ("s3://bucket/a b/w.h5", "aws s3 cp 's3://bucket/a b/w.h5' ."),
        ("gs://bucket/w.h5", "gcloud storage cp gs://bucket/w.h5 ."),
        ("https://user:secret@host/w.h5?key=secret", "curl -L -O https://host/w.h5"),
        ("hf://org/repo@abc/w.h5", "hf download org/repo w.h5 --revision abc --local-dir DIR"),
        (
            "hf://datasets/org/repo/a/w.h5",
            "hf download org/repo a/w.h5 --repo-type dataset --local-dir DIR",
        ),
        ("hf://org/repo@refs/pr/1/w.h5", "hf download org/repo w.h5 --revision refs/pr/1 --local-dir DIR"),
    ],
)
def test_the_command_that_downloads_a_file(url, command):
    assert download_command(RemotePath(Store(), url), is_folder=False) == command


def test_the_command_that_downloads_a_folder_and_one_of_a_file_systems_own():
    path = RemotePath(Store(), "s3://bucket/run/")
    assert download_command(path, is_folder=True) == "aws s3 cp --recursive s3://bucket/run DIR"
    path = RemotePath(Store(), "hf://org/repo@abc/run")
    assert "--include 'run/**'" in download_command(path, is_folder=True)
    assert not download_command(RemotePath(MemoryFileSystem(), "mem://host/a"), is_folder=False)
    path.system.download_command = lambda url, is_folder: f"fetch {url} {is_folder}"
    assert download_command(path, is_folder=True) == "fetch hf://org/repo@abc/run True"


def with_store(system):
    """Return a registry with a file system for the schemes of the real ones."""
    return default_registry().with_tables(filesystems={}).extend(system)


def test_formats_that_need_a_path_name_the_command(tmp_path):
    pytest.importorskip("ckptbridge_hdf5")
    save_state(WEIGHTS, tmp_path / "w.h5", layout="torch")
    system = Store(
        {"bucket/w.h5": (tmp_path / "w.h5").read_bytes(), "bucket/m/model.h5": b"\x89HDF\r\n\x1a\n"}
    )
    registry = with_store(system)
    for url, where in (("s3://bucket/w.h5", "s3://bucket/w.h5"), ("s3://bucket/m", "s3://bucket/m/model.h5")):
        with refused(NeedsLocalPath, where, "hdf5", hint=f"aws s3 cp {where} ."):
            open_state(url, registry=registry)
    assert system.bytes_read <= 10_000


def test_orbax_checkpoints_are_recognised_by_their_names(tmp_path, monkeypatch):
    pytest.importorskip("ckptbridge_orbax")
    system = Store({"bucket/run/3/default/_METADATA": b"{}", "bucket/run/3/default/manifest.ocdbt": b"x"})
    registry = with_store(system)
    for url in ("s3://bucket/run", "s3://bucket/run/3"):
        for use in (
            lambda url: open_state(url, registry=registry),
            lambda url: convert(url, tmp_path / "o.npz", to="torch", step=3, registry=registry),
        ):
            with refused(NeedsLocalPath, url, "orbax", hint=f"aws s3 cp --recursive {url} DIR"):
                use(url)
    ran = Ran(registry, monkeypatch, "inspect", "s3://bucket/run", "--json")
    assert ran.code == 2
    assert json.loads(ran.out)["code"] == "CKB-204"
    assert not system.reads


def test_a_scheme_without_its_plugin_names_what_to_install():
    bare = with_store(MemoryFileSystem())
    for scheme, extra in (("s3", "remote"), ("gs", "remote"), ("https", "remote"), ("hf", "hf")):
        with refused(MissingDependency, f"{scheme}://a/b", hint=f"pip install 'ckptbridge[{extra}]'"):
            open_state(f"{scheme}://user:secret@a/b?secret", registry=bare)
    with refused(UsageError, "ftp://host/a.npz", hint="file"):
        open_state("ftp://user:secret@host/a.npz", registry=bare)


def test_files_that_are_not_weights_are_local(sources, tmp_path, monkeypatch):
    with SYSTEMS["memory"](sources) as served:
        with refused(UsageError, "rule file", "mem://host/r.toml", hint="Download"):
            plan_conversion(
                served.url("a.pt"), to="flax", rules="mem://u:p@host/r.toml", registry=served.registry
            )
        for words in (
            ("plan", served.url("a.pt"), "--to", "flax", "--html", "s3://bucket/plan.html"),
            ("match", served.url("a.pt"), "--like", served.url("a.msgpack"), "-o", "s3://bucket/r.toml"),
        ):
            ran = Ran(served.registry, monkeypatch, *words)
            assert_refused(ran, UsageError, "this machine")


def test_the_working_folder_may_hold_a_name_that_looks_like_a_url(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mem:").mkdir()
    save_state(WEIGHTS, "mem:/a.npz", layout="torch")
    if os.path.lexists("mem://a.npz"):
        with open_state("mem://a.npz") as state:
            assert len(state) == len(WEIGHTS)


@pytest.mark.parametrize("system", ["memory", "hub", "s3"])
def test_steps_and_items_of_a_folder_checkpoint_at_a_url_are_read(system, tmp_path, monkeypatch):
    local = default_registry().extend(StepFolders())
    for step, item in ((1, "params"), (2, "params"), (2, "ema")):
        values = {"fc.weight": np.full((2, 3), step, "f4"), "fc.bias": np.full(2, len(item), "f4")}
        place = tmp_path / "run" / str(step)
        place.mkdir(parents=True, exist_ok=True)
        save_state(values, place / item, layout="neutral", format="stepfolder", registry=local)
    with SYSTEMS[system](tmp_path) as served:
        registry = served.registry.extend(StepFolders())
        for options, value in (({}, 2), ({"step": 1}, 1)):
            with open_state(served.url("run"), registry=registry, **options) as state:
                assert (state["fc.weight"] == value).all()
        with open_state(served.url("run"), entry="ema", registry=registry) as state:
            assert state["fc.bias"][0] == len("ema")
        convert(
            served.url("run"),
            tmp_path / "o.npz",
            to="flax",
            only="fc",
            step=1,
            layout="torch",
            registry=registry,
        )
        with refused(UsageError, "unknown step 3"):
            open_state(served.url("run"), step=3, registry=registry)
        ran = Ran(registry, monkeypatch, "inspect", served.url("run"))
        assert ran.code == 0, ran.err
        assert "ema" in ran.out
