"""Checkpoints that are written to stores and to the hub, and read back from there."""

from __future__ import annotations

import tempfile
from urllib.parse import unquote

import numpy as np
import pytest
from support.hub_server import HubServer
from support.s3_server import BUCKET, emptied

from bridge_core import FlatState, convert, open_state
from bridge_core.errors import AccessDenied, DestinationExists, SourceNotFound
from bridge_core.plugins import given_registry
from ckptbridge_remote import AmazonS3, GoogleStorage, Hub

TOKEN = "hf_ThisTokenIsASecret"
NAMES = ["flax_model-00001-of-00002.msgpack", "flax_model-00002-of-00002.msgpack"]
INDEX = "flax_model.msgpack.index.json"


@pytest.fixture(autouse=True)
def temporaries(tmp_path, monkeypatch):
    folder = tmp_path / "temporaries"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield
    assert list(folder.iterdir()) == []


def weights(value):
    kernel = np.full((4, 4), value, np.float32)
    return FlatState({f"{name}.weight": kernel for name in ("down", "up")}, layout="torch")


def write(value, url, registry, **options):
    return convert(
        weights(value),
        url,
        to="flax",
        accept_guesses=True,
        max_shard_size=64,
        registry=registry,
        **options,
    )


def value_at(url, registry):
    with open_state(url, registry=registry) as state:
        return {float(state[key][0, 0]) for key in state}


@pytest.fixture(params=[("s3", AmazonS3), ("gs", GoogleStorage)], ids=["s3", "gs"])
def store(request, monkeypatch):
    scheme, system = request.param
    server = emptied(monkeypatch)
    others = given_registry(None).with_tables(filesystems={})
    return server, f"{scheme}://{BUCKET}/my run/", others.extend(system())


def test_a_folder_at_a_store_is_written_replaced_and_read(store):
    server, url, registry = store
    report = write(1, url, registry)
    assert [path.name for path in report.files] == [*NAMES, INDEX]
    assert sorted(server.keys()) == [f"my run/{name}" for name in (*NAMES, INDEX)]
    assert value_at(url, registry) == {1.0}
    with pytest.raises(DestinationExists):
        write(2, url, registry)
    write(2, url, registry, overwrite=True)
    assert len(server.keys()) == 3
    assert value_at(url, registry) == {2.0}
    assert server.uploads() == []


@pytest.mark.parametrize("failing", ["00002-of", "index.json"])
def test_a_store_that_refuses_a_file_is_left_as_it_was(store, failing):
    server, url, registry = store
    server.fail(
        403, when=lambda request: request.method in ("PUT", "POST") and failing in unquote(request.path)
    )
    with pytest.raises(AccessDenied):
        write(1, url, registry)
    assert server.keys() == server.uploads() == []


@pytest.fixture
def hub(monkeypatch):
    pytest.importorskip("huggingface_hub")
    with HubServer() as server:
        server.used_by(monkeypatch)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_PROGRESS_BARS", True)
        server.add("org/mine", {"README.md": b"read me"}, writers=[TOKEN])
        yield server.repos["org/mine"], given_registry(None).with_tables(filesystems={}).extend(Hub())


def test_a_folder_on_the_hub_is_one_commit(hub):
    repo, registry = hub
    report = write(1, "hf://org/mine/flax/", registry)
    assert len(repo.commits) == 2
    assert {*repo.files} == {"README.md", *(f"flax/{name}" for name in (*NAMES, INDEX))}
    assert str(report.files[0]) == f"hf://org/mine@{repo.branches['main']}/flax/{NAMES[0]}"
    assert value_at("hf://org/mine/flax", registry) == {1.0}
    with pytest.raises(DestinationExists):
        write(2, "hf://org/mine/flax/", registry)
    write(2, "hf://org/mine/flax/", registry, overwrite=True)
    assert len(repo.commits) == 3
    assert value_at("hf://org/mine/flax", registry) == {2.0}


def test_the_root_of_a_repository_and_one_that_does_not_exist(hub):
    repo, registry = hub
    write(1, "hf://org/mine", registry)
    assert {*repo.files} == {"README.md", *NAMES, INDEX}
    with pytest.raises(SourceNotFound):
        write(1, "hf://org/absent", registry, progress=lambda _: pytest.fail("it writes"))
