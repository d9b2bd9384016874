"""Conversions in parts whose source, list and destination are at URLs."""

import pytest
from support.errors import refused
from support.memory_filesystem import MemoryFileSystem
from support.work_parts import SHARD, in_one_process, write_source

from bridge_core import (
    BridgeError,
    DestinationExists,
    IntegrityError,
    ShardError,
    SourceNotFound,
    convert,
    default_registry,
    finish_work,
    make_work,
    open_state,
    run_part,
    verify,
    verify_manifest,
    work_status,
)
from bridge_core.errors import RemoteFailure

OUT = "mem://bucket/out"


@pytest.fixture
def store(tmp_path):
    write_source(tmp_path / "source.safetensors", layers=3)
    write_source(tmp_path / "shards", layers=3, max_shard_size=SHARD)
    return MemoryFileSystem(folder=tmp_path)


@pytest.fixture
def registry(store):
    return default_registry().with_tables(filesystems={"memory": store})


def made(store, registry, source="source.safetensors", **options):
    options = {"to": "flax", "max_shard_size": SHARD, "parts": 2, **options}
    return make_work(store.url(source), f"{OUT}/", registry=registry, **options)


def written(store):
    start = "bucket/out/"
    return {name.removeprefix(start): data for name, data in store.files.items() if name.startswith(start)}


def test_opening_what_is_not_finished_says_how_to_finish(store, registry):
    run_part(made(store, registry), 1, registry=registry)
    with refused(ShardError, OUT, "not finished", hint="ckptbridge work finish FILE"):
        open_state(OUT, registry=registry)


@pytest.mark.parametrize("source", ["source.safetensors", "shards"])
def test_parts_give_the_bytes_that_one_process_writes(store, registry, tmp_path, source):
    work = made(store, registry, source)
    store.files["bucket/work.json"] = work.to_text().encode()
    for part in (2, 1):
        run_part("mem://bucket/work.json", part, registry=registry)
    assert not work_status(work, registry=registry).missing
    report = finish_work("mem://bucket/work.json", registry=registry)
    assert str(report.files[0]).startswith(OUT)
    files = written(store)
    files.pop("ckptbridge-manifest.json")
    assert files == in_one_process(tmp_path, source)
    assert verify(store.url(source), OUT, registry=registry).equal
    assert verify_manifest(OUT, registry=registry).intact
    assert work_status(work, registry=registry).finished


def test_receipts_follow_their_files_and_the_index_all_of_them(store, registry):
    work = made(store, registry)
    for part in (1, 2):
        run_part(work, part, registry=registry)
    finish_work(work, registry=registry)
    uploads = [one.url.removeprefix(f"{OUT}/") for one in store.made("upload")]
    assert uploads[0] == ".ckptbridge-work/list.json"
    assert uploads[1:-2] == [
        name for file in work.files for name in (file.name, f".ckptbridge-work/{file.name}.receipt.json")
    ]
    assert uploads[-2:] == ["flax_model.msgpack.index.json", "ckptbridge-manifest.json"]
    assert store.made("remove")[-1].url.endswith("list.json")


@pytest.mark.parametrize("failing", range(9))
def test_an_upload_that_fails_leaves_what_the_next_run_completes(store, registry, tmp_path, failing):
    error = RemoteFailure("the server answered 500.")
    uploads = 0
    upload = store.upload

    def failing_upload(url, path):
        nonlocal uploads
        uploads += 1
        if uploads == failing + 1:
            raise error
        upload(url, path)

    store.upload = failing_upload
    options = {"to": "flax", "max_shard_size": SHARD, "resume": True, "registry": registry}
    with pytest.raises(RemoteFailure):
        convert(store.url("source.safetensors"), OUT, **options)
    before = {name: id(data) for name, data in written(store).items()}
    complete = {name: at for name, at in before.items() if f".ckptbridge-work/{name}.receipt.json" in before}
    if failing < 9 - 2:
        with pytest.raises(BridgeError):  # there is no checkpoint yet
            open_state(OUT, registry=registry)
    convert(store.url("source.safetensors"), OUT, **options)
    after = written(store)
    assert {name: id(after[name]) for name in complete} == complete
    after.pop("ckptbridge-manifest.json")
    assert after == in_one_process(tmp_path)


def test_a_source_that_changed_at_its_server_is_refused(store, registry, tmp_path):
    work = made(store, registry)
    run_part(work, 1, registry=registry)
    (tmp_path / "source.safetensors").unlink()
    write_source(tmp_path / "source.safetensors", layers=3)
    with refused(IntegrityError, "source.safetensors was written again"):
        run_part(work, 2, registry=registry)


def test_weights_at_the_destination_are_never_replaced(store, registry):
    store.files["bucket/out/model.safetensors"] = b"x"
    with refused(DestinationExists, OUT, "model.safetensors"):
        made(store, registry)


def test_a_flipped_bit_at_a_server_is_named(store, registry):
    convert(store.url("source.safetensors"), OUT, to="flax", resume=True, registry=registry)
    name = "bucket/out/flax_model.msgpack"
    data = store.files[name]
    store.files[name] = data[:2000] + bytes([data[2000] ^ 1]) + data[2001:]
    (damage,) = verify_manifest(OUT, registry=registry).damage
    assert damage.problem == "tensors"
    del store.files[name]
    (damage,) = verify_manifest(OUT, registry=registry).damage
    assert damage.problem == "missing"
    with pytest.raises(SourceNotFound):
        verify_manifest("mem://bucket/other", registry=registry)


def test_a_manifest_is_written_at_a_url_without_parts(store, registry):
    convert(
        store.url("source.safetensors"),
        f"{OUT}/",
        to="flax",
        max_shard_size=SHARD,
        manifest=True,
        registry=registry,
    )
    assert verify_manifest(OUT, registry=registry).intact
    convert(
        store.url("source.safetensors"), "mem://bucket/a.npz", to="flax", manifest=True, registry=registry
    )
    assert verify_manifest("mem://bucket/a.npz", registry=registry).intact


def test_overwriting_at_a_url_ends_the_work_and_the_manifest_of_before(store, registry):
    work = made(store, registry)
    run_part(work, 1, registry=registry)
    options = {"to": "flax", "max_shard_size": SHARD, "overwrite": True, "registry": registry}
    convert(store.url("source.safetensors"), f"{OUT}/", **options)
    assert not [name for name in written(store) if "ckptbridge" in name]
    convert(store.url("source.safetensors"), f"{OUT}/", manifest=True, **options)
    convert(store.url("source.safetensors"), f"{OUT}/", **options)
    assert not [name for name in written(store) if "ckptbridge" in name]
    convert(
        store.url("source.safetensors"), "mem://bucket/a.npz", to="flax", manifest=True, registry=registry
    )
    options.pop("max_shard_size")
    convert(store.url("source.safetensors"), "mem://bucket/a.npz", **options)
    assert "bucket/a.npz.manifest.json" not in store.files


@pytest.mark.slow
def test_parts_are_written_to_a_store_that_speaks_s3(tmp_path, monkeypatch):
    from support.s3_server import BUCKET, emptied

    write_source(tmp_path / "source.safetensors", layers=3)
    server, registry = emptied(monkeypatch), default_registry()
    if registry.filesystem_of("s3") is None:
        pytest.skip("not installed here: remote")
    server.put("in/source.safetensors", (tmp_path / "source.safetensors").read_bytes())
    source, target = f"s3://{BUCKET}/in/source.safetensors", f"s3://{BUCKET}/out"
    work = make_work(source, target, to="flax", parts=2, max_shard_size=SHARD, registry=registry)
    for part in (1, 2):
        run_part(work, part, registry=registry)
    finish_work(work, registry=registry)
    expected = in_one_process(tmp_path)
    assert {name: server.get(f"out/{name}") for name in expected} == expected
    assert sorted(server.keys()) == sorted(
        ["in/source.safetensors", "out/ckptbridge-manifest.json", *(f"out/{name}" for name in expected)]
    )
    assert verify_manifest(target, registry=registry).intact
