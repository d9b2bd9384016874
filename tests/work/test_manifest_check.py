import json

import numpy as np
import pytest
from support.errors import refused
from support.work_parts import write_source

from bridge_core import (
    FlatState,
    MalformedFile,
    SourceNotFound,
    UsageError,
    VerificationError,
    checkpoint,
    convert,
    open_state,
    verify_manifest,
)
from bridge_core.work import read_manifest

FORMATS = {"safetensors": "a.safetensors", "npz": "a.npz", "msgpack": "a.msgpack", "torch": "a.pt"}


@pytest.fixture
def source(tmp_path):
    return write_source(tmp_path / "source.safetensors", layers=2)


def converted(source, name, **options):
    to = "torch" if name.endswith(".pt") else "flax"
    target = source.with_name(name)
    convert(source, target, to=to, manifest=True, **options)
    return target


@pytest.mark.parametrize("name", FORMATS.values())
def test_what_was_written_is_intact_and_every_byte_of_a_tensor_is_watched(source, name):
    target = converted(source, name)
    check = verify_manifest(target)
    assert check.intact
    assert (check.files, check.tensors, check.total_bytes) == (1, 4, target.stat().st_size)
    with open_state(target) as state:
        values = {".".join(key): np.array(state[key]).tobytes() for key in state}
    data = target.read_bytes()
    for tensor, array in values.items():
        start = data.index(array)
        for at in (start, start + len(array) // 2, start + len(array) - 1):
            target.write_bytes(data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :])
            (damage,) = verify_manifest(target).damage
            assert (damage.problem, damage.tensors) == ("tensors", (tensor,)), damage
            assert tensor in damage.text


@pytest.mark.parametrize("name", FORMATS.values())
def test_every_flipped_bit_is_named(source, name):
    target = converted(source, name)
    data = target.read_bytes()
    random = np.random.default_rng(1)
    # The first bytes and the last are headers, directories and padding.
    places = {*range(0, 40), *range(len(data) - 30, len(data)), *random.integers(0, len(data), 40).tolist()}
    for at in sorted(places):
        bit = 1 << int(random.integers(8))
        target.write_bytes(data[:at] + bytes([data[at] ^ bit]) + data[at + 1 :])
        (damage,) = verify_manifest(target, registry=None).damage
        assert damage.file == name
        assert damage.tensors if damage.problem == "tensors" else damage.problem == "header", damage
        assert name in damage.text
    target.write_bytes(data)
    assert verify_manifest(target).intact


def folder_of(source, **options):
    convert(source, source.with_name("out"), to="flax", max_shard_size=3000, manifest=True, **options)
    return source.with_name("out")


def test_a_folder_with_missing_extra_and_shortened_files(source):
    folder = folder_of(source)
    assert verify_manifest(folder).intact
    assert verify_manifest(folder / "flax_model.msgpack.index.json").intact
    assert verify_manifest(folder / "ckptbridge-manifest.json").intact
    names = sorted(path.name for path in folder.glob("*.msgpack"))
    (folder / names[0]).unlink()
    shortened = folder / names[1]
    shortened.write_bytes(shortened.read_bytes()[:-1])
    (folder / "model.safetensors").write_bytes(source.read_bytes())
    (folder / "notes.txt").write_text("a user's own")
    index = folder / "flax_model.msgpack.index.json"
    index.write_text(index.read_text().replace("00001", "00002", 1))
    check = verify_manifest(folder)
    assert [(one.file, one.problem) for one in check.damage] == [
        (names[0], "missing"),
        (names[1], "size"),
        (index.name, "content"),
        ("model.safetensors", "extra"),
    ]
    assert all(one.file in one.text for one in check.damage)


def test_a_tensor_whose_name_changed_is_a_damaged_header(source):
    target = converted(source, "a.safetensors")
    data = target.read_bytes()
    target.write_bytes(data.replace(b"layers.1.kernel", b"layers.1.kernal"))
    (damage,) = verify_manifest(target).damage
    assert damage.problem == "header"
    assert "layers.1.kernel" in damage.text


def test_names_with_dots_and_odd_letters_are_found_again(tmp_path):
    state = FlatState(
        {
            ("a.b", "c"): np.ones(3, "float32"),
            ("a", "b\\x"): np.zeros(2, "float32"),
            ("ü",): np.ones(1, "int8"),
        },
        layout="neutral",
    )
    target = tmp_path / "a.safetensors"
    convert(state, target, to="neutral", manifest=True)
    assert verify_manifest(target).intact
    data = target.read_bytes()
    at = data.index(np.ones(3, "float32").tobytes())
    target.write_bytes(data[:at] + b"\1" + data[at + 1 :])
    (damage,) = verify_manifest(target).damage
    assert damage.tensors == ("a\\.b.c",)


def test_the_manifest_names_the_source_the_plan_and_the_versions(source):
    folder = folder_of(source)
    text = (folder / "ckptbridge-manifest.json").read_text()
    manifest = read_manifest(text, path="x")
    assert manifest.source == str(source)
    assert [file.name for file in manifest.identity.files] == [source.name]
    assert "ckptbridge" in manifest.versions
    assert manifest.list_id is None
    assert json.loads(manifest.to_text()) == json.loads(text)


def test_a_source_in_memory_has_no_files(tmp_path):
    convert({"a.b": np.ones(3, "float32")}, tmp_path / "a.npz", to="neutral", layout="neutral", manifest=True)
    manifest = read_manifest((tmp_path / "a.npz.manifest.json").read_text(), path="x")
    assert (manifest.source, manifest.identity.files) == ("", ())


@pytest.mark.parametrize("manifest", [True, False])
def test_overwriting_leaves_no_old_manifest(source, manifest):
    folder = folder_of(source)
    convert(source, folder, to="torch", overwrite=True, manifest=manifest)
    assert (folder / "ckptbridge-manifest.json").exists() == manifest
    target = converted(source, "a.npz")
    convert(source, target, to="flax", dtype="bfloat16", overwrite=True, manifest=manifest)
    assert target.with_name("a.npz.manifest.json").exists() == manifest
    if manifest:
        assert verify_manifest(folder).intact
        assert verify_manifest(target).intact


def test_a_file_of_a_user_that_has_the_name_of_a_manifest_stays(source):
    target = converted(source, "a.npz")
    target.with_name("a.npz.manifest.json").write_text('{"mine": 1}')
    convert(source, target, to="flax", overwrite=True)
    assert target.with_name("a.npz.manifest.json").exists()


def test_a_manifest_is_not_taken_for_weights(source, tmp_path):
    folder = tmp_path / "only"
    folder.mkdir()
    convert(source, folder / "mine.npz", to="flax", manifest=True)
    with open_state(folder) as state:
        assert len(state) == 4
    folder = folder_of(source)
    with open_state(folder) as state:
        assert len(state) == 4
        assert not state.metadata.notes


def test_a_checkpoint_without_a_manifest_is_refused_with_the_way_out(source, tmp_path):
    for path in (source, tmp_path):
        with refused(SourceNotFound, "no manifest", "ckptbridge-manifest.json", hint="--manifest"):
            verify_manifest(path)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"version": 7}, "version"),
        ({"kind": "x"}, "kind"),
        ({"files": [{"name": "../a", "size": 1, "sha256": "0" * 64}]}, "../a"),
        ({"files": [{"name": "a", "size": -1, "sha256": "0" * 64}]}, "size"),
        ({"files": [{"name": "a", "size": 1, "sha256": "0"}]}, "sha256"),
        (
            {"files": [{"name": "a", "size": 1, "sha256": "0" * 64, "tensors": {"t": {"crc32": "x"}}}]},
            "crc32",
        ),
    ],
)
def test_a_manifest_that_is_not_valid_is_refused(source, change, named):
    path = folder_of(source) / "ckptbridge-manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with refused(MalformedFile, "manifest", named):
        verify_manifest(path)


def test_a_manifest_records_files_and_no_checkpoint_that_is_one(source, tmp_path):
    pytest.importorskip("ckptbridge_orbax")
    with refused(UsageError, "manifest=True (--manifest)", "orbax", hint="verify"):
        convert(source, tmp_path / "out", to="flax", format="orbax", manifest=True)
    assert not (tmp_path / "out").exists()


def test_progress_counts_all_files(source):
    folder, reports = folder_of(source), []
    check = verify_manifest(folder, progress=reports.append)
    assert reports[-1].done == reports[-1].total == check.total_bytes


def test_an_interrupt_ends_the_comparison_within_a_file(source, monkeypatch):
    from bridge_core.work import digests

    monkeypatch.setattr(digests, "_BLOCK", 1000)
    folder, reports = folder_of(source), []

    def interrupted(report):
        reports.append(report)
        if len(reports) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        verify_manifest(folder, progress=interrupted, workers=1)
    assert reports[-1].done == 2000


def test_a_file_that_changes_before_its_manifest_is_written_is_noticed(source, monkeypatch):
    write = checkpoint.write_checkpoint

    def written_and_changed(*arguments):
        saved = write(*arguments)
        data = saved.files[0].read_bytes()
        saved.files[0].write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        return saved

    monkeypatch.setattr(checkpoint, "write_checkpoint", written_and_changed)
    with refused(VerificationError, "changed after it was written", hint="again"):
        converted(source, "a.safetensors")
