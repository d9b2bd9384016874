import json
import os
import threading

import numpy as np
import pytest
from support.errors import refused
from support.toy_library import CONFIG, Zoo, make_folder, zoo_registry
from support.work_parts import contents, in_one_process, list_of, without_manifest, write_source

from bridge_core import (
    BridgeError,
    ConversionError,
    DestinationExists,
    FlatState,
    IntegrityError,
    LayerKind,
    MalformedFile,
    Rule,
    ShardError,
    SourceNotFound,
    UsageError,
    convert,
    default_registry,
    finish_work,
    make_work,
    open_state,
    run_part,
    save_state,
    verify,
    verify_manifest,
    work_status,
)
from bridge_core.work import WorkFolder, read_work_list

RECEIPTS = ".ckptbridge-work"


def run_all(work, **options):
    return [run_part(work, part, **options) for part in range(1, len(work.parts) + 1)]


@pytest.mark.parametrize("parts", [1, 2, 3, 6, 9])
def test_parts_give_the_bytes_that_one_process_writes(tmp_path, parts):
    work = list_of(tmp_path, parts)
    assert len(work.parts) == min(parts, 6)
    for part in reversed(range(1, len(work.parts) + 1)):
        run_part(work.to_text(), part)
    report = finish_work(work)
    assert without_manifest(tmp_path / "out") == in_one_process(tmp_path)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(
        [*contents(tmp_path / "one"), "ckptbridge-manifest.json"]
    )
    assert report.verified
    assert report.exact
    assert report.files[-1] == tmp_path / "out" / "flax_model.msgpack.index.json"
    assert verify(tmp_path / "source.safetensors", tmp_path / "out").equal
    assert verify_manifest(tmp_path / "out").intact


def test_a_cast_rules_and_a_part_of_the_source_travel_with_the_list(tmp_path):
    write_source(tmp_path / "source.safetensors")
    options = {
        "rules": [Rule.rename("layers.{i:int}.*", "blocks.{i:int}.*")],
        "dtype": {"**": "bfloat16", "**.bias": "float32"},
        "only": "layers=4",
    }
    work = list_of(tmp_path, **options)
    run_all(read_work_list(work.to_text()))
    finish_work(work)
    assert without_manifest(tmp_path / "out") == in_one_process(tmp_path, **options)


def test_a_rule_file_is_in_the_list_and_need_not_be_there_when_parts_run(tmp_path):
    rules = tmp_path / "rules.toml"
    rules.write_text('[[rule]]\nsource = "layers.{i:int}.{x}"\nrename = "blocks.{i:int}.{x}"\n')
    work = list_of(tmp_path, rules=rules)
    expected = in_one_process(tmp_path, rules=rules)
    rules.unlink()
    run_all(work)
    finish_work(work)
    assert without_manifest(tmp_path / "out") == expected


def test_a_sharded_source_and_a_template_are_found_again(tmp_path):
    write_source(tmp_path / "source.safetensors")
    write_source(tmp_path / "shards", max_shard_size=3000)
    convert(tmp_path / "source.safetensors", tmp_path / "like.msgpack", to="flax")
    work = make_work(
        tmp_path / "shards", tmp_path / "out", to="flax", parts=2, max_shard_size=3000,
        like=tmp_path / "like.msgpack",
    )  # fmt: skip
    assert len(work.identity.files) == 7
    run_all(work)
    finish_work(work)
    assert without_manifest(tmp_path / "out") == in_one_process(tmp_path)


def test_one_file_needs_no_index(tmp_path):
    write_source(tmp_path / "source.safetensors")
    work = make_work(tmp_path / "source.safetensors", tmp_path / "out", to="torch", parts=4)
    assert [file.name for file in work.files] == ["model.safetensors"]
    run_all(work)
    report = finish_work(work)
    assert [path.name for path in report.files] == ["model.safetensors"]
    with open_state(tmp_path / "out") as state:
        assert len(state) == 12


def test_sidecar_files_of_a_model_library_are_copied_and_belong_to_the_source(tmp_path):
    source, registry = make_folder(tmp_path / "zoo"), zoo_registry(Zoo(base_name="net"))
    options = {"to": "flax", "max_shard_size": 100, "registry": registry}
    work = make_work(source, tmp_path / "out", parts=2, **options)
    assert CONFIG in {file.name for file in work.identity.files}
    assert work.versions["tests"] == ""
    run_all(work, registry=registry)
    report = finish_work(work, registry=registry)
    assert report.sidecar_files == (tmp_path / "out" / CONFIG,)
    convert(source, tmp_path / "one/", **options)
    assert without_manifest(tmp_path / "out") == contents(tmp_path / "one")
    assert verify_manifest(tmp_path / "out").files == len(report.files) + 1
    (source / CONFIG).write_text((source / CONFIG).read_text() + " ")
    with refused(IntegrityError, CONFIG):
        finish_work(work, registry=registry)


def test_files_that_are_complete_are_not_written_again(tmp_path):
    work = list_of(tmp_path, 2)
    first = run_part(work, 1)
    assert (len(first.written), first.finished_before) == (3, ())
    stamps = {path.name: path.stat() for path in (tmp_path / "out").glob("*.msgpack")}
    again = run_part(work, 1)
    assert (again.written, again.finished_before) == ((), first.written)
    assert again.total_bytes == first.total_bytes
    for name, stamp in stamps.items():
        now = (tmp_path / "out" / name).stat()
        assert (now.st_ino, now.st_mtime_ns) == (stamp.st_ino, stamp.st_mtime_ns)


def test_the_status_names_what_is_missing(tmp_path):
    work = list_of(tmp_path, 2)
    assert work_status(work).to_json() == {
        "finished": False,
        "parts": 2,
        "files": 6,
        "missing": {
            "1": [f"flax_model-0000{n}-of-00006.msgpack" for n in (1, 2, 3)],
            "2": [f"flax_model-0000{n}-of-00006.msgpack" for n in (4, 5, 6)],
        },
    }
    run_part(work, 2)
    assert list(work_status(work).missing) == [1]
    run_part(work, 1)
    assert not work_status(work).missing
    finish_work(work)
    assert work_status(work).finished


def test_finishing_before_all_parts_ran_names_the_parts(tmp_path):
    work = list_of(tmp_path, 3)
    with refused(ConversionError, "no part", hint="work run"):
        finish_work(work)
    run_part(work, 2)
    with refused(ConversionError, "4 of 6 files", hint="--part 1"):
        finish_work(work)
    assert not (tmp_path / "out" / "flax_model.msgpack.index.json").exists()


def test_opening_what_is_not_finished_says_how_to_finish(tmp_path):
    work = list_of(tmp_path, 3)
    folder = tmp_path / "out"
    run_part(work, 2)
    names = sorted(contents(folder))
    finish = ("resume=True (--resume)", "ckptbridge work finish FILE")
    with refused(ShardError, folder, "2 shards without an index", "not finished", hint=finish):
        open_state(folder)
    with refused(ShardError, folder / names[0], hint=finish):
        convert(folder / names[0], tmp_path / "none", to="torch")
    for name in names:
        (folder / name).unlink()
    with refused(MalformedFile, folder, "not finished", hint=finish):
        open_state(folder)
    run_all(work)
    finish_work(work)
    open_state(folder).close()


def test_finishing_and_running_again_change_nothing(tmp_path):
    work = list_of(tmp_path)
    run_all(work)
    first = finish_work(work)
    before = contents(tmp_path / "out")
    assert finish_work(work).files == first.files
    assert [report.written for report in run_all(work)] == [(), (), ()]
    assert contents(tmp_path / "out") == before
    assert not (tmp_path / "out" / RECEIPTS).exists()


def test_finishing_that_was_killed_after_the_manifest_is_completed(tmp_path):
    work = list_of(tmp_path)
    run_all(work)
    kept = contents(tmp_path / "out" / RECEIPTS)
    finish_work(work)
    (tmp_path / "out" / RECEIPTS).mkdir()
    (tmp_path / "out" / RECEIPTS / "list.json").write_bytes(kept["list.json"])
    assert finish_work(work).verified
    assert not (tmp_path / "out" / RECEIPTS).exists()


def test_a_file_of_another_size_than_its_receipt_is_written_again(tmp_path):
    work = list_of(tmp_path, 1)
    run_all(work)
    broken = tmp_path / "out" / "flax_model-00002-of-00006.msgpack"
    broken.write_bytes(broken.read_bytes()[:-1])
    with refused(ConversionError, "1 of 6 files", "flax_model-00002-of-00006.msgpack"):
        finish_work(work)
    assert run_part(work, 1).written == (broken.name,)
    finish_work(work)
    assert verify(tmp_path / "source.safetensors", tmp_path / "out").equal


@pytest.mark.parametrize("damage", [b"", b"{", b"[1]", b'{"version": 1}', "another"])
def test_a_receipt_that_is_damaged_or_of_another_list_counts_for_nothing(tmp_path, damage):
    work = list_of(tmp_path, 1)
    run_all(work)
    name = work.files[2].name
    receipt = tmp_path / "out" / RECEIPTS / f"{name}.receipt.json"
    if damage == "another":
        document = json.loads(receipt.read_text())
        receipt.write_text(json.dumps({**document, "list": "0" * 64}))
    else:
        receipt.write_bytes(damage)
    assert run_part(work, 1).written == (name,)
    finish_work(work)
    assert without_manifest(tmp_path / "out") == in_one_process(tmp_path)


def test_a_receipt_of_another_file_counts_for_nothing(tmp_path):
    work = list_of(tmp_path, 1)
    run_all(work)
    receipts = tmp_path / "out" / RECEIPTS
    first, second = (file.name for file in work.files[2:4])
    assert (tmp_path / "out" / first).stat().st_size == (tmp_path / "out" / second).stat().st_size
    (receipts / f"{second}.receipt.json").write_bytes((receipts / f"{first}.receipt.json").read_bytes())
    assert run_part(work, 1).written == (second,)


def test_a_source_that_changed_is_refused_and_the_change_is_named(tmp_path):
    work = list_of(tmp_path)
    run_part(work, 1)
    source = tmp_path / "source.safetensors"
    stamp = source.stat()
    data = source.read_bytes()
    source.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    os.utime(source, ns=(stamp.st_atime_ns, stamp.st_mtime_ns + 1))
    with refused(IntegrityError, "source.safetensors was written again", hint="new work list"):
        run_part(work, 2)
    source.unlink()
    write_source(source, layers=7)
    with refused(IntegrityError, "source.safetensors has", "bytes instead of"):
        run_part(work, 2)
    with refused(IntegrityError, "source.safetensors has"):
        finish_work(work)
    source.unlink()
    with pytest.raises(SourceNotFound):
        run_part(work, 2)


def test_another_version_is_refused_and_named(tmp_path, monkeypatch):
    work = list_of(tmp_path)
    import importlib.metadata as metadata

    monkeypatch.setattr(metadata, "version", lambda name: "99.0")
    with refused(UsageError, "ckptbridge 99.0 instead of", hint="Install"):
        run_part(work, 1)
    assert not (tmp_path / "out").exists()


def test_another_plan_is_refused(tmp_path):
    write_source(tmp_path / "source.safetensors")
    like = tmp_path / "like.msgpack"
    convert(tmp_path / "source.safetensors", like, to="flax")
    work = list_of(tmp_path, like=like)
    with open_state(like) as state:
        arrays = {key: np.array(state[key]) for key in state}
    named = {(("blocks", *key[1:]) if key[0] == "layers" else key): value for key, value in arrays.items()}
    save_state(FlatState(named, layout="flax"), like, overwrite=True)
    with pytest.raises(ConversionError):
        run_part(work, 1)
    assert not (tmp_path / "out").exists()


def test_weights_that_are_there_are_never_replaced(tmp_path):
    write_source(tmp_path / "source.safetensors")
    (tmp_path / "out").mkdir()
    write_source(tmp_path / "out" / "model.safetensors", layers=1)
    before = contents(tmp_path / "out")
    with refused(DestinationExists, "model.safetensors", hint="another folder"):
        list_of(tmp_path)
    with refused(DestinationExists, "model.safetensors", hint="another folder"):
        convert(tmp_path / "source.safetensors", tmp_path / "out", to="flax", resume=True)
    assert contents(tmp_path / "out") == before


def test_two_lists_do_not_share_a_destination(tmp_path):
    work, other = list_of(tmp_path), list_of(tmp_path, dtype="bfloat16")
    run_part(work, 1)
    with refused(DestinationExists, "another conversion", hint=RECEIPTS):
        list_of(tmp_path, dtype="bfloat16")
    with refused(DestinationExists, "another conversion", hint=RECEIPTS):
        run_part(other, 1)


def test_two_processes_may_run_one_part_at_the_same_time(tmp_path):
    work = list_of(tmp_path, 1)
    barrier, errors = threading.Barrier(3), []

    def run():
        barrier.wait()
        try:
            run_part(work, 1)
        except BridgeError as err:
            errors.append(err)

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    finish_work(work)
    assert without_manifest(tmp_path / "out") == in_one_process(tmp_path)


def test_a_part_that_others_finish_in_the_meantime_leaves_no_receipts(tmp_path, monkeypatch):
    work = list_of(tmp_path, 1)
    put = WorkFolder.put

    def slow_put(self, file, fill):
        def slow_fill(path):
            filled = fill(path)
            monkeypatch.undo()
            run_all(work)
            finish_work(work)
            return filled

        return put(self, file, slow_fill)

    monkeypatch.setattr(WorkFolder, "put", slow_put)
    run_part(work, 1)
    assert without_manifest(tmp_path / "out") == in_one_process(tmp_path)
    assert not (tmp_path / "out" / RECEIPTS).exists()


def test_leftovers_of_killed_runs_are_removed_at_the_end(tmp_path):
    work = list_of(tmp_path)
    run_all(work)
    leftover = tmp_path / "out" / f".{work.files[0].name}.ckptbridge-0123456789abcdef"
    leftover.write_bytes(b"half")
    finish_work(work)
    assert not leftover.exists()


@pytest.mark.parametrize("value", [0, -1, 1.5, True, "2"])
def test_the_number_of_parts_is_checked(tmp_path, value):
    with refused(UsageError, "parts="):
        list_of(tmp_path, value)


def test_what_only_this_process_has_cannot_be_written_to_a_list(tmp_path):
    source = write_source(tmp_path / "source.safetensors")
    with open_state(source) as state, refused(UsageError, "src=", hint="save_state"):
        make_work(state, tmp_path / "out", to="flax", parts=1)
    with open_state(source) as state, refused(UsageError, "like=", hint="save_state"):
        list_of(tmp_path, like=state)
    with refused(UsageError, "model=", hint="package.module:function"):
        list_of(tmp_path, model=object())
    registry = default_registry().extend(LayerKind("scaled", {"kernel": "in out"}))
    with refused(UsageError, "only in this process", hint="--plugin"):
        list_of(tmp_path, registry=registry)
    with refused(UsageError, "no option 'formats'", hint="format"):
        list_of(tmp_path, formats="npz")


@pytest.mark.parametrize("url", ["https://me:secret@host/w.npz", "s3://b/w.npz?X-Amz-Signature=secret"])
def test_a_list_holds_no_secret(tmp_path, url):
    with refused(UsageError, "credentials", hint="environment") as caught:
        make_work(url, tmp_path / "out", to="flax", parts=1)
    assert "secret" not in str(caught.value)


def test_the_destination_must_be_a_folder_of_files(tmp_path):
    source = write_source(tmp_path / "source.safetensors")
    with refused(UsageError, "one file", hint="folder"):
        make_work(source, tmp_path / "a.safetensors", to="torch", parts=1)
    with refused(UsageError, "one file", hint="folder"):
        convert(source, tmp_path / "a.msgpack", to="flax", resume=True)
    with refused(UsageError, "one file", hint="folder"):
        make_work(source, source, to="torch", parts=1)


def test_a_list_is_read_from_a_path_and_must_be_one(tmp_path):
    work = list_of(tmp_path)
    path = tmp_path / "work.json"
    path.write_text(work.to_text())
    run_part(path, 1)
    run_part(str(path), 2)
    path.write_text("{}")
    with refused(MalformedFile, "version"):
        run_part(path, 3)
    with pytest.raises(SourceNotFound):
        run_part(tmp_path / "absent.json", 1)


def test_resuming_goes_on_and_ends_as_one_process_does(tmp_path, monkeypatch):
    source = write_source(tmp_path / "source.safetensors")
    options = {"to": "flax", "max_shard_size": 3000, "resume": True}
    put, puts = WorkFolder.put, []

    def interrupted(self, file, fill):
        if len(puts) == 3:
            raise KeyboardInterrupt
        puts.append(file.name)
        return put(self, file, fill)

    monkeypatch.setattr(WorkFolder, "put", interrupted)
    with pytest.raises(KeyboardInterrupt):
        convert(source, tmp_path / "out", **options)
    monkeypatch.undo()
    stamps = {name: (tmp_path / "out" / name).stat().st_ino for name in puts}
    with refused(DestinationExists, "another conversion", hint=RECEIPTS):
        convert(source, tmp_path / "out", **options, dtype="bfloat16")
    report = convert(source, tmp_path / "out", **options)
    assert {name: (tmp_path / "out" / name).stat().st_ino for name in puts} == stamps
    assert without_manifest(tmp_path / "out") == in_one_process(tmp_path)
    assert convert(source, tmp_path / "out", **options).files == report.files


@pytest.mark.parametrize("option", [{"overwrite": True}, {"verify": False}, {"to_step": 1}, {"to_item": "a"}])
def test_options_that_resuming_cannot_have_are_refused(tmp_path, option):
    source = write_source(tmp_path / "source.safetensors")
    with refused(UsageError, "resume=True (--resume)", hint="Remove"):
        convert(source, tmp_path / "out", to="flax", resume=True, **option)
    assert not (tmp_path / "out").exists()


def test_overwriting_ends_the_work_that_was_begun(tmp_path):
    source = write_source(tmp_path / "source.safetensors")
    run_part(list_of(tmp_path), 1)
    convert(source, tmp_path / "out", to="flax", max_shard_size=3000, overwrite=True)
    assert not (tmp_path / "out" / RECEIPTS).exists()
    assert verify(source, tmp_path / "out").equal


def test_progress_is_that_of_the_part(tmp_path):
    work = list_of(tmp_path, 3)
    reports = []
    run_part(work, 1, progress=reports.append, workers=1)
    assert reports[-1].done == reports[-1].total == 2 * sum(file.nbytes for file in work.part(1))
