"""Damaged, hostile and foreign torch files: each gets its own error, and nothing else happens."""

from __future__ import annotations

import io
import itertools
import os
import pickle
import random
import struct
import tarfile
import zipfile
import zlib

import numpy as np
import pytest
import torch
from support import errors
from support.torch_files import (
    Storage,
    View,
    assert_same,
    bits,
    change_zip,
    dumps,
    make_zip,
    open_torch,
    random_tensor,
)

from bridge_core import (
    BridgeError,
    IntegrityError,
    KeyConflict,
    LimitExceeded,
    MalformedFile,
    SourceFile,
    TruncatedFile,
    UnsafeFile,
    UnsupportedFeature,
)
from bridge_torch.file_format import archive as archive_module
from bridge_torch.file_format.format import TorchFormat

SAVE = 'torch.save(model.state_dict(), "weights.pt")'
FOUR = np.arange(4, dtype="f4").tobytes()
GOOD = {"w": View(Storage("0", 4))}


def read_all(path, **options):
    with open_torch(path, **options) as state:
        for key in state:
            state[key]


def refused(path, kind, *named, hint=(), key=None):
    """Opening the file (or reading all of it) raises exactly this class, and names the file."""
    with errors.refused(kind, path, *named, hint=hint, key=key) as caught:
        read_all(path)
    return caught.value


def sniffs(path):
    with SourceFile(path) as file:
        return TorchFormat().sniff(file)


# ---- other things under a torch name


@pytest.mark.parametrize(
    ("content", "kind", "text", "sniffed"),
    [
        (b"", TruncatedFile, "empty", False),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n",
            MalformedFile,
            "git-lfs",
            False,
        ),
        (b"\n <!DOCTYPE html><html></html>", MalformedFile, "HTML", False),
        (b"<html>", MalformedFile, "HTML", False),
        (b"\x89HDF\r\n\x1a\n", MalformedFile, "HDF5", False),
        (b"P", MalformedFile, "'P'", False),
        (b"PK\x03\x04", TruncatedFile, "", False),
        (pickle.dumps({"w": [1.0]}, 2), MalformedFile, "pickle", True),
        (pickle.dumps({"w": [1.0]}, 4), MalformedFile, "pickle", True),
        (b"\x80", TruncatedFile, "1 byte", False),
        (b"\x80\x02", TruncatedFile, "2 bytes", False),
        (b"\x80\x02\x8a", TruncatedFile, "the first pickle, at byte 2", True),
        (b"PK", MalformedFile, "'PK'", False),
        (b"hello world, not weights\n" * 9, MalformedFile, "'hello world, not weights'", False),
        (" ключ".encode() * 9, MalformedFile, "'ключ ключ", False),
        (b"\n \n", MalformedFile, "text", False),
        (b"\x01\xff\x00" * 9, MalformedFile, "01 ff 00", False),
        (b"caf\xe9", MalformedFile, "63 61 66 e9", False),
        (b"tjgg\x03\0\0\0", MalformedFile, "GGML", False),
        (b"3000000 300\n</s> \x01", MalformedFile, "word2vec", False),
        (b"\xba\x16\x4f\x2f\x0c\0\0\0", MalformedFile, "fastText", False),
    ],
    ids=[
        *("empty", "lfs", "html", "html2", "hdf5", "byte", "zip", "pickle", "pickle4"),
        *("first byte", "two bytes", "three bytes", "two of a zip"),
        *("text", "long text", "blank", "bytes", "latin 1", "ggml", "word2vec", "fasttext"),
    ],
)
def test_what_is_no_checkpoint_is_named(tmp_path, content, kind, text, sniffed):
    path = tmp_path / "a.pt"
    path.write_bytes(content)
    refused(path, kind, text)
    assert sniffs(path) == sniffed


def test_the_tar_format_of_old_torch_is_unsafe(tmp_path):
    path = tmp_path / "a.pt"
    with tarfile.open(path, "w") as tar:
        tar.addfile(tarfile.TarInfo("storages"), io.BytesIO())
    assert sniffs(path)
    refused(path, UnsafeFile, "tar", "torch 0.1", hint=SAVE)


def test_torchscript_is_not_supported(tmp_path):
    path = tmp_path / "a.pt"
    make_zip(path, {"w": View(Storage("0", 4))}, {"0": FOUR}, more=[("constants.pkl", dumps(()))])
    assert sniffs(path)
    refused(path, UnsupportedFeature, "TorchScript", hint=('torch.jit.load("a.pt")', SAVE))


def test_npz_is_not_taken_for_a_checkpoint(tmp_path):
    np.savez(tmp_path / "a.npz", w=np.ones(3))
    assert not sniffs(tmp_path / "a.npz")
    refused(tmp_path / "a.npz", MalformedFile, "a.npz", "data.pkl")


def test_a_bare_pickle_with_code_is_unsafe(tmp_path):
    path = tmp_path / "a.pt"
    path.write_bytes(pickle.dumps({"w": os.system}, 2))
    refused(path, UnsafeFile, "posix.system", hint="Do not load")


def test_dicts_that_repeat_each_other_beyond_measure_are_refused(tmp_path):
    root = {"w": View(Storage("0", 4))}
    for _ in range(30):
        root = {f"k{i}": root for i in range(10)}
    make_zip(tmp_path / "a.pt", root, {"0": FOUR})
    refused(tmp_path / "a.pt", LimitExceeded, "301 entries")


# ---- the zip container


def test_an_archive_with_code_is_unsafe_and_runs_nothing(tmp_path):
    path = tmp_path / "a.pt"
    command = f"touch {tmp_path}/ran".encode()
    data = (
        b"\x80\x02cos\nsystem\n(X" + struct.pack("<L", len(command)) + command + b"tRctorch.jit\nload\n\x86."
    )
    make_zip(path, data)
    refused(path, UnsafeFile, "os.system, torch.jit.load", hint=("Do not load", "os.system", SAVE))
    assert not (tmp_path / "ran").exists()


def test_a_whole_module_is_unsafe(tmp_path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "a.pt")
    hint = ("pickled module", "weights_only=False", SAVE)
    refused(tmp_path / "a.pt", UnsafeFile, "torch.nn.modules.linear.Linear", hint=hint)
    torch.save(torch.nn.Linear(2, 2), tmp_path / "b.pt", _use_new_zipfile_serialization=False)
    refused(tmp_path / "b.pt", UnsafeFile, "torch.nn.modules.linear.Linear", hint=hint)


def test_a_truncated_archive_is_truncated_wherever_it_was_cut(tmp_path):
    torch.save({"w": torch.arange(500.0)}, tmp_path / "a.pt")
    data = (tmp_path / "a.pt").read_bytes()
    cut = tmp_path / "b.pt"
    for length in (30, 200, len(data) // 2, len(data) - 500, len(data) - 23, len(data) - 1):
        cut.write_bytes(data[:length])
        refused(cut, TruncatedFile)
        assert sniffs(cut) or length == 30


def test_bytes_in_front_or_behind_are_refused(tmp_path):
    torch.save({"w": torch.ones(3)}, tmp_path / "a.pt")
    data = (tmp_path / "a.pt").read_bytes()
    (tmp_path / "b.pt").write_bytes(data + b"x")
    refused(tmp_path / "b.pt", TruncatedFile)
    (tmp_path / "b.pt").write_bytes(data[:30] + b"x" + data[30:])
    refused(tmp_path / "b.pt", MalformedFile)


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("name", ["data.pkl", "data/0"])
def test_a_record_that_stands_twice_is_a_conflict(tmp_path, name):
    make_zip(tmp_path / "a.pt", GOOD, {"0": FOUR}, more=[(name, b"other")])
    refused(tmp_path / "a.pt", KeyConflict, f"archive/{name}")


def test_two_roots_or_none_are_malformed(tmp_path):
    make_zip(tmp_path / "a.pt", GOOD, {"0": FOUR}, more=[("../other/x", b"")], name="r")
    refused(tmp_path / "a.pt", UnsafeFile)
    with zipfile.ZipFile(tmp_path / "b.pt", "w") as archive:
        archive.writestr("one/data.pkl", dumps(GOOD))
        archive.writestr("two/data.pkl", dumps(GOOD))
    refused(tmp_path / "b.pt", MalformedFile, "'one'", "'two'")
    make_zip(tmp_path / "c.pt", GOOD, {"0": FOUR}, name="")
    refused(tmp_path / "c.pt", MalformedFile)
    with zipfile.ZipFile(tmp_path / "d.pt", "w"):
        pass
    refused(tmp_path / "d.pt", MalformedFile, "0")


@pytest.mark.parametrize("name", ["../../x", "a/../../x", "/x", "a//b", "a\\b", "..\\x"])
def test_records_and_storages_that_lead_elsewhere_are_unsafe(tmp_path, name):
    make_zip(tmp_path / "a.pt", GOOD, {"0": FOUR, name: FOUR})
    refused(tmp_path / "a.pt", UnsafeFile, repr(f"archive/data/{name}"), hint="torch.save")
    make_zip(tmp_path / "b.pt", {"w": View(Storage(name, 4))}, {"0": FOUR})
    refused(tmp_path / "b.pt", UnsafeFile, repr(name), hint="torch.save")


def test_a_missing_record_is_malformed(tmp_path):
    make_zip(tmp_path / "a.pt", GOOD, {"1": FOUR})
    refused(tmp_path / "a.pt", MalformedFile, "'data/0'")


@pytest.mark.parametrize("byteorder", [b"little", b"big"])
@pytest.mark.parametrize("strides", [(1,), (0,), (2,)], ids=["whole", "repeated", "strided"])
def test_a_boolean_other_than_0_and_1_is_malformed(tmp_path, strides, byteorder):
    storage = Storage("0", 4, torch.BoolStorage)
    root = {"w": View(storage, shape=(2,), strides=strides)}
    make_zip(tmp_path / "a.pt", root, {"0": b"\1\1\0\0"}, more=[("byteorder", byteorder)])
    with open_torch(tmp_path / "a.pt") as state:
        assert state["w",].tolist() == [True, {0: True, 1: True, 2: False}[strides[0]]]
    make_zip(tmp_path / "b.pt", root, {"0": b"\2\2\2\2"}, more=[("byteorder", byteorder)])
    refused(tmp_path / "b.pt", MalformedFile, "byte 2", key=("w",))


@pytest.mark.parametrize("content", [FOUR[:-1], FOUR + b"x", FOUR[:-4], b"", FOUR * 2])
def test_a_record_of_another_length_is_malformed(tmp_path, content):
    make_zip(tmp_path / "a.pt", GOOD, {"0": content})
    refused(tmp_path / "a.pt", MalformedFile, "data/0", "16 bytes", f"{len(content)} bytes")


def test_an_unknown_byte_order_is_malformed(tmp_path):
    make_zip(tmp_path / "a.pt", GOOD, {"0": FOUR}, more=[("byteorder", b"middle")])
    refused(tmp_path / "a.pt", MalformedFile, "byteorder", "middle")


def test_bytes_behind_the_pickle_are_malformed(tmp_path):
    make_zip(tmp_path / "a.pt", dumps(GOOD) + b"N.", {"0": FOUR})
    refused(tmp_path / "a.pt", MalformedFile, "data.pkl", len(dumps(GOOD)), len(dumps(GOOD)) + 2)


def test_a_damaged_crc_of_the_pickle_is_found_on_opening(tmp_path):
    make_zip(tmp_path / "a.pt", {**GOOD, "note": "aaaa"}, {"0": FOUR})
    data = (tmp_path / "a.pt").read_bytes()
    (tmp_path / "a.pt").write_bytes(data.replace(b"aaaa", b"aaab"))
    refused(tmp_path / "a.pt", IntegrityError, "data.pkl")


def test_an_encrypted_or_otherwise_compressed_record_is_not_supported(tmp_path):
    make_zip(tmp_path / "a.pt", GOOD, {"0": FOUR}, method=zipfile.ZIP_LZMA)
    refused(tmp_path / "a.pt", UnsupportedFeature, "14")
    make_zip(tmp_path / "a.pt", GOOD, {"0": FOUR})
    data = bytearray((tmp_path / "a.pt").read_bytes())
    data[data.find(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "a.pt").write_bytes(data)
    refused(tmp_path / "a.pt", UnsupportedFeature, "encrypted")


def test_compressed_records_beyond_the_limit_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(archive_module, "_MAX_UNPACKED", 1000)
    root = {"a": View(Storage("0", 200), shape=(200,)), "b": View(Storage("1", 200), shape=(200,))}
    make_zip(tmp_path / "a.pt", root, {"0": bytes(800), "1": bytes(800)}, method=zipfile.ZIP_DEFLATED)
    refused(tmp_path / "a.pt", LimitExceeded, "compressed", hint="torch.save")


def test_a_compressed_record_that_is_longer_than_it_says_is_malformed(tmp_path):
    make_zip(tmp_path / "a.pt", GOOD, {"0": FOUR}, method=zipfile.ZIP_DEFLATED)
    bomb = bytearray((tmp_path / "a.pt").read_bytes())
    size = len(dumps(GOOD))
    for at in (22, bomb.find(b"PK\x01\x02") + 24):
        assert struct.unpack_from("<L", bomb, at)[0] == size
        struct.pack_into("<L", bomb, at, size - 1)
    (tmp_path / "a.pt").write_bytes(bomb)
    refused(tmp_path / "a.pt", MalformedFile, "data.pkl")


def test_headers_that_disagree_are_malformed(tmp_path):
    make_zip(tmp_path / "a.pt", GOOD, {"0": FOUR})
    data = (tmp_path / "a.pt").read_bytes()
    local = data.find(b"PK\x03\x04", 10)
    for at, text in (
        (local, "signature"),
        (local + 30, "name"),
        (local + 6, "flags"),
        (local + 8, "method"),
        (local + 14, "CRC-32"),
        (local + 22, "size"),
    ):
        damaged = bytearray(data)
        damaged[at] ^= 1
        (tmp_path / "a.pt").write_bytes(damaged)
        refused(tmp_path / "a.pt", MalformedFile, "data/0", text)


def test_records_on_the_same_bytes_are_malformed(tmp_path):
    make_zip(tmp_path / "a.pt", GOOD, {"0": FOUR, "1": FOUR})
    data = bytearray((tmp_path / "a.pt").read_bytes())
    entries = [i for i in range(len(data)) if data[i : i + 4] == b"PK\x01\x02"]
    data[entries[2] + 42 : entries[2] + 46] = data[entries[1] + 42 : entries[1] + 46]
    (tmp_path / "a.pt").write_bytes(data)
    refused(tmp_path / "a.pt", MalformedFile, "data/1", "name")


# ---- checksums of what is read in pieces

BASE = torch.arange(600.0).reshape(20, 30)
VIEWS = {
    "whole": BASE,
    "turned": BASE.t(),
    "a slice": BASE[4:9],
    "a turned slice": BASE[:, 3:7].t(),
    "every second": BASE[::2, ::3],
    "first and last row": BASE[::19],
    "repeated": BASE.unsqueeze(0).expand(3, 20, 30),
    "one row, repeated": BASE[3].expand(5, 30),
    "overlapping": BASE.as_strided((10, 5), (2, 2), 7),
}


@pytest.mark.parametrize("byteorder", ["little", "big"])
@pytest.mark.parametrize("view", VIEWS)
def test_a_view_read_in_any_order_proves_its_record(tmp_path, view, byteorder):
    generator = random.Random(view)
    torch.save({"w": VIEWS[view]}, tmp_path / "a.pt")

    def change(name, content):
        return byteorder.encode() if name.endswith("byteorder") else content

    change_zip(tmp_path / "a.pt", tmp_path / "b.pt", change)
    data = (tmp_path / "b.pt").read_bytes()
    start = data.index(bits(BASE))
    shape = VIEWS[view].shape
    rows, columns = [*np.ndindex(*shape[:-1])], [(..., i) for i in range(shape[-1])]
    for damaged, indices in itertools.product((False, True), (rows, columns)):
        content = bytearray(data)
        content[start + generator.randrange(2400)] ^= damaged << generator.randrange(8)
        (tmp_path / "b.pt").write_bytes(content)
        generator.shuffle(indices)
        with open_torch(tmp_path / "b.pt") as state:
            is_refused = False
            for index in indices:
                try:
                    state.read(("w",), index)
                except IntegrityError:
                    is_refused = True
            assert is_refused == damaged


@pytest.mark.parametrize("view", ["whole", "turned", "a slice", "every second"])
def test_a_part_of_a_view_proves_nothing(tmp_path, view):
    torch.save({"w": VIEWS[view]}, tmp_path / "a.pt")
    data = bytearray((tmp_path / "a.pt").read_bytes())
    data[data.index(bits(BASE)) + 2399] ^= 1
    (tmp_path / "a.pt").write_bytes(data)
    with open_torch(tmp_path / "a.pt") as state:
        for row in range(2):
            state.read(("w",), row)


# ---- views


@pytest.mark.parametrize(
    ("view", "kind", "text"),
    [
        (View(Storage("0", 4), 1, (4,), (1,)), MalformedFile, "element 4"),
        (View(Storage("0", 4), 0, (2, 2), (3, 1)), MalformedFile, "element 4"),
        (View(Storage("0", 4), 0, (2**40,), (2**40,)), MalformedFile, f"element {(2**40 - 1) * 2**40}"),
        (View(Storage("0", 4), 3, (4,), (-1,)), MalformedFile, "strides [-1]"),
        (View(Storage("0", 4), 0, (-1,), (1,)), MalformedFile, "shape [-1]"),
        (View(Storage("0", 4), -1, (1,), (1,)), MalformedFile, "offset -1"),
        (View(Storage("0", 4), 0, (4,), ()), MalformedFile, "0 strides for 1 axes"),
        (View(Storage("0", 4), 0, (1,) * 70, (1,) * 70), UnsupportedFeature, "70 axes"),
        (View(Storage("0", 4), 0, (2**40, 4), (0, 1)), LimitExceeded, f"16 bytes into {2**44} bytes"),
        (View(Storage("0", 4), 0, (2**62, 2**62), (0, 0)), LimitExceeded, f"[{2**62}, {2**62}]"),
        (View(Storage("0", 4), 0, (0, 2**62, 2**62), (0, 0, 0)), LimitExceeded, f"[0, {2**62}, {2**62}]"),
    ],
)
def test_a_view_that_its_storage_cannot_fill_is_refused(tmp_path, view, kind, text):
    make_zip(tmp_path / "a.pt", {"layer.w": view}, {"0": FOUR})
    refused(tmp_path / "a.pt", kind, text, key="layer.w")


def test_many_small_expansions_together_are_refused(tmp_path):
    distinct = {f"w{n}": View(Storage("0", 4), 0, ((1 << 24) - n,), (0,)) for n in range(40)}
    make_zip(tmp_path / "a.pt", distinct, {"0": FOUR})
    refused(tmp_path / "a.pt", LimitExceeded, "2684351440 bytes", hint="tensor.contiguous()")


def test_dicts_that_repeat_each_other_are_bounded(tmp_path, monkeypatch):
    from bridge_torch.file_format import state_dict_entry as wrappers

    monkeypatch.setattr(wrappers, "_MAX_ENTRIES", 10_000)
    node = {"w": View(Storage("0", 4))}
    for _ in range(60):
        node = {"a": node, "b": node}
    make_zip(tmp_path / "a.pt", node, {"0": FOUR})
    refused(tmp_path / "a.pt", LimitExceeded, "10000 entries")


# ---- legacy files


def legacy(path, root=None, **changes):
    """A legacy file whose parts can be replaced."""
    root = GOOD if root is None else root
    parts = {
        "magic": pickle.dumps(0x1950A86A20F9469CFC6C, 2),
        "version": pickle.dumps(1001, 2),
        "system": pickle.dumps({"little_endian": True}, 2),
        "object": root if isinstance(root, bytes) else legacy_dumps(root),
        "keys": pickle.dumps(["0"], 2),
        "data": struct.pack("<q", 4) + FOUR,
    }
    path.write_bytes(b"".join({**parts, **changes}.values()))
    return path


def legacy_dumps(root):
    buffer = io.BytesIO()

    class Pickler(pickle.Pickler):
        def persistent_id(self, value):
            if isinstance(value, Storage):
                return ("storage", value.kind, value.key, value.location, value.numel, None)
            return None

    Pickler(buffer, 2).dump(root)
    return buffer.getvalue()


def test_the_hand_made_legacy_file_is_good(tmp_path):
    path = legacy(tmp_path / "a.pt")
    assert open_torch(path)[("w",)].tolist() == torch.load(path)["w"].tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("changes", "kind", "text"),
    [
        ({"version": pickle.dumps(1002, 2)}, UnsupportedFeature, "expected 1001, got 1002"),
        ({"magic": pickle.dumps(5, 2)}, MalformedFile, "pickle"),
        ({"keys": pickle.dumps("0", 2)}, MalformedFile, "list of storages"),
        ({"keys": pickle.dumps([0], 2)}, MalformedFile, "list of storages"),
        ({"keys": pickle.dumps([], 2)}, MalformedFile, "storage '0'"),
        ({"keys": pickle.dumps(["0", "1"], 2)}, MalformedFile, "storage '1'"),
        ({"keys": pickle.dumps(["0", "0"], 2)}, KeyConflict, "storage '0'"),
        ({"data": struct.pack("<q", 5) + FOUR}, MalformedFile, "expected 4 elements, got 5"),
        ({"data": struct.pack("<q", -1) + FOUR}, MalformedFile, f"got {2**64 - 1}"),
        ({"data": struct.pack("<q", 4) + FOUR[:-1]}, TruncatedFile, "storage '0'"),
        ({"data": b"\0\0"}, TruncatedFile, ""),
        ({"data": struct.pack("<q", 4) + FOUR + b"x"}, MalformedFile, "expected 251 bytes, got 252 bytes"),
        ({"object": b"\x80\x02cos\nsystem\n."}, UnsafeFile, "os.system"),
        ({"system": b"\x80\x02cos\nsystem\n."}, UnsafeFile, "os.system"),
        ({"object": pickle.dumps({}, 4)}, MalformedFile, "storage '0'"),
        ({"object": dumps({"w": View(Storage("0", 4))}, 0)}, UnsupportedFeature, "protocol 0"),
    ],
)
def test_a_damaged_legacy_file_is_refused(tmp_path, changes, kind, text):
    path = legacy(tmp_path / "a.pt", **changes)
    refused(path, kind, text)


def test_every_cut_of_a_legacy_file_is_truncated(tmp_path):
    data = legacy(tmp_path / "a.pt").read_bytes()
    for length in range(20, len(data)):
        (tmp_path / "b.pt").write_bytes(data[:length])
        refused(tmp_path / "b.pt", TruncatedFile)


def test_fp8_in_a_legacy_file_is_not_supported(tmp_path):
    torch.save(
        {"w": torch.ones(2).to(torch.float8_e5m2)}, tmp_path / "a.pt", _use_new_zipfile_serialization=False
    )
    refused(tmp_path / "a.pt", UnsupportedFeature, "untyped", hint="_use_new_zipfile_serialization=False")


def test_a_pickle_longer_than_one_window_is_read(tmp_path):
    root = {f"layer.{i}.{'x' * 50}": View(Storage("0", 4), i % 2, (2, 1), (1, 1)) for i in range(5000)}
    path = legacy(tmp_path / "a.pt", root)
    assert path.stat().st_size > 8 * 65536
    assert len(open_torch(path)) == 5000


# ---- fuzzing


def check_fuzzed(path):
    """The file opens and reads, or is refused with an error of the bridge; nothing else."""
    sniffs(path)
    try:
        read_all(path)
    except BridgeError as error:
        str(error)
        return False
    return True


def mutated(data, generator):
    changed = bytearray(data)
    for _ in range(generator.randrange(1, 4)):
        action = generator.randrange(8)
        at = generator.randrange(len(changed))
        if action == 0:
            del changed[at:]
        elif action == 1:
            del changed[at : at + generator.randrange(9)]
        elif action == 2:
            changed[at:at] = generator.randbytes(generator.randrange(9))
        elif action == 3:
            changed[at : at + 4] = generator.choice([b"\xff" * 4, b"\0" * 4, b"\x7f\xff\xff\xff"])
        else:
            changed[at] ^= 1 << generator.randrange(8)
        if len(changed) < 4:
            return bytes(data[:4])
    return bytes(changed)


SMALL = {
    "a": random_tensor(torch.float32, (3, 2)),
    "b": random_tensor(torch.bfloat16, (4,)),
    "t": random_tensor(torch.int64, (2, 3)).t(),
    "f": random_tensor(torch.float8_e4m3fn, (5,)),
    "s": torch.tensor(3.0),
}


@pytest.mark.parametrize("seed", range(3))
def test_mutated_zip_files_are_read_or_refused(tmp_path, seed):
    torch.save(SMALL, tmp_path / "a.pt")
    data = (tmp_path / "a.pt").read_bytes()
    generator = random.Random(seed)
    for _ in range(300):
        (tmp_path / "b.pt").write_bytes(mutated(data, generator))
        if check_fuzzed(tmp_path / "b.pt"):
            assert_same(open_torch(tmp_path / "b.pt"), SMALL)


@pytest.mark.parametrize("seed", range(3))
def test_mutated_pickles_in_sound_archives_are_read_or_refused(tmp_path, seed):
    torch.save({"state_dict": SMALL, "epoch": 3, "opt": [{"lr": 0.5}]}, tmp_path / "a.pt")
    generator = random.Random(seed)

    def change(name, content):
        return mutated(content, generator) if name.endswith("data.pkl") else content

    for _ in range(150):
        change_zip(tmp_path / "a.pt", tmp_path / "b.pt", change)
        check_fuzzed(tmp_path / "b.pt")


@pytest.mark.parametrize("seed", range(3))
def test_mutated_legacy_files_are_read_or_refused(tmp_path, seed):
    tensors = {name: tensor for name, tensor in SMALL.items() if name != "f"}
    torch.save(tensors, tmp_path / "a.pt", _use_new_zipfile_serialization=False)
    data = (tmp_path / "a.pt").read_bytes()
    generator = random.Random(seed)
    for _ in range(300):
        (tmp_path / "b.pt").write_bytes(mutated(data, generator))
        check_fuzzed(tmp_path / "b.pt")


def test_no_single_bit_of_a_record_or_pickle_can_change_unnoticed(tmp_path):
    torch.save(SMALL, tmp_path / "a.pt")
    data = (tmp_path / "a.pt").read_bytes()
    with zipfile.ZipFile(tmp_path / "a.pt") as archive:
        records = [i for i in archive.infolist() if "/data/" in i.filename or i.filename.endswith("data.pkl")]
    for info in records:
        names, extra = struct.unpack_from("<2H", data, info.header_offset + 26)
        start = info.header_offset + 30 + names + extra
        assert zlib.crc32(data[start : start + info.file_size]) == info.CRC
        for at in range(start, start + info.file_size, 7):
            changed = bytearray(data)
            changed[at] ^= 1 << at % 8
            (tmp_path / "b.pt").write_bytes(changed)
            assert not check_fuzzed(tmp_path / "b.pt"), info.filename
