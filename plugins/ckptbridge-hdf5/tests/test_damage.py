from __future__ import annotations

import os
import random

import ml_dtypes
import numpy as np
import pytest
from support.errors import refused

from bridge_core import (
    BadInputError,
    BridgeError,
    IntegrityError,
    KeyConflict,
    LimitExceeded,
    MalformedFile,
    SourceFile,
    TruncatedFile,
    UnsupportedFeature,
    as_state,
    convert,
    save_state,
)
from ckptbridge_hdf5 import Hdf5Format
from ckptbridge_hdf5.layout import BLOCK, Entry, Guard, Index

TENSORS = {
    ("a", "kernel"): np.arange(60, dtype="f4").reshape(3, 20),
    ("a", "bias"): np.arange(5).astype(ml_dtypes.bfloat16),
    ("mask",): np.array([True, False, True]),
    ("empty",): np.zeros((0, 4)),
}


@pytest.fixture
def quick(monkeypatch):
    """Skip the child process; what is tested is that the file is refused at all."""
    monkeypatch.setattr("ckptbridge_hdf5.examine._scan", lambda file: ("foreign", ""))


def read_all(path):
    with SourceFile(path) as file:
        state = Hdf5Format().open(file)
        return {key: state[key] for key in state}


def test_every_flipped_bit_of_a_file_is_found(save, quick):
    path = save(TENSORS)
    data = bytearray(path.read_bytes())
    chooser = random.Random(0)
    for position in [*range(600), *sorted(chooser.sample(range(600, len(data)), 1500))]:
        bit = 1 << chooser.randrange(8)
        data[position] ^= bit
        path.write_bytes(data)
        with pytest.raises(BadInputError):
            read_all(path)
        data[position] ^= bit
    path.write_bytes(data)
    assert len(read_all(path)) == len(TENSORS)


@pytest.mark.parametrize("key", [("a", "kernel"), ("mask",)])
def test_a_flipped_byte_of_a_tensor_names_it_and_spares_the_others(save, load, key):
    path = save(TENSORS)
    with SourceFile(path) as file:
        index = Index.decode(Guard.read(file).read_index(file), file)
    data = bytearray(path.read_bytes())
    data[index.entries[index.keys[key]].offset + 2] ^= 1
    path.write_bytes(data)
    state = load(path)
    for other in TENSORS:
        if other != key:
            np.testing.assert_array_equal(state[other], TENSORS[other])
    number, entry = index.keys[key], index.entries[index.keys[key]]
    place = f"bytes {entry.offset} to {entry.offset + entry.spec.nbytes - 1}"
    with refused(IntegrityError, str(path), f"/t/{number:06d}", place, hint="again", key=key):
        state[key]


def test_only_the_damaged_block_is_refused(save, load):
    array = np.arange(1 << 20, dtype="f4")
    path = save({("a",): array})
    with path.open("r+b") as file:
        file.seek(-(1 << 20) - 4096, os.SEEK_END)
        file.write(b"\xff")
    state = load(path)
    np.testing.assert_array_equal(state.read(("a",), slice(0, 700_000)), array[:700_000])
    with pytest.raises(IntegrityError):
        state.read(("a",), slice(0, 800_000))


@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("target", ["out.msgpack", "out.h5", "out.pt"])
def test_no_flipped_bit_comes_through_a_conversion(tmp_path, target, workers, verify):
    chooser = random.Random(f"{target}{workers}{verify}")
    weight = np.random.default_rng(1).random((900, 1100), "f4")
    arrays = {("l", "weight"): weight, ("l", "bias"): weight[:, 0].copy()}
    path = tmp_path / "in.h5"
    save_state(as_state(arrays, layout="torch"), path)
    with SourceFile(path) as file:
        index = Index.decode(Guard.read(file).read_index(file), file)
    entry = chooser.choice(index.entries)
    data = bytearray(path.read_bytes())
    data[entry.offset + chooser.randrange(entry.spec.nbytes)] ^= 1 << chooser.randrange(8)
    path.write_bytes(data)
    to = "torch" if target == "out.pt" else "flax"
    with refused(IntegrityError, "SHA-256", "/t/00000"):
        convert(path, tmp_path / target, to=to, workers=workers, max_ram=1 << 20, verify=verify)
    assert {*tmp_path.iterdir()} == {path}


def test_a_turned_tensor_has_every_block_checked_once(tmp_path, monkeypatch):
    weight = np.random.default_rng(1).random((900, 1100), "f4")
    save_state(
        as_state({("l", "weight"): weight, ("l", "bias"): weight[:, 0]}, layout="torch"), tmp_path / "a.h5"
    )
    digest, checked = Entry.digest, []
    monkeypatch.setattr(Entry, "digest", lambda self, block: (checked.append(block), digest(self, block))[1])
    convert(tmp_path / "a.h5", tmp_path / "b.msgpack", to="flax", max_ram=1 << 20, workers=1)
    assert sorted(checked) == sorted([0, *range(-(-weight.nbytes // BLOCK))])


def test_every_truncation_is_found(save, quick):
    path = save(TENSORS)
    data = path.read_bytes()
    for length in [*range(0, 600, 7), *range(600, len(data), 53), len(data) - 1]:
        path.write_bytes(data[:length])
        with pytest.raises(TruncatedFile, match=rf"\b({length} bytes|byte {length})\b"):
            read_all(path)


def test_bytes_appended_are_found(save, load):
    path = save(TENSORS)
    size = path.stat().st_size
    path.write_bytes(path.read_bytes() + b"\0")
    with refused(IntegrityError, f"expected {size} bytes", f"got {size + 1} bytes"):
        load(path)


def test_a_file_truncated_after_it_was_opened_is_an_error_not_zeros(save, load):
    path = save({("a",): np.ones(1 << 20, "f4")})
    state = load(path)
    os.truncate(path, 1 << 20)
    with pytest.raises(TruncatedFile):
        state[("a",)]


def test_a_hole_where_values_stood_is_an_error_not_zeros(save, load):
    path = save({("a",): np.ones(1 << 20, "f4")})
    with path.open("r+b") as file:
        file.seek(2 << 20)
        file.write(bytes(1 << 20))
    with pytest.raises(IntegrityError):
        load(path)[("a",)]


@pytest.mark.parametrize(
    ("content", "size"),
    [
        (b"", "0 bytes"),
        (b"\x89HDF", "4 bytes"),
        (b"ckptbridge-hdf5\n", "byte 16"),
        (b"ckptbridge-hdf5\n" + bytes(400), "byte 416"),
    ],
)
def test_too_short_for_anything(tmp_path, load, content, size):
    path = tmp_path / "model.h5"
    path.write_bytes(content)
    with refused(TruncatedFile, path, size):
        load(path)


def test_no_hdf5_file_at_all(tmp_path, load):
    path = tmp_path / "model.h5"
    path.write_bytes(b"<html>" * 500)
    with refused(MalformedFile, "HDF5 signature", "<html>"):
        load(path)


def edited(path, value):
    """Return an edit that sets one field of the index, given by a path of names and numbers."""

    def edit(document):
        node = document
        for name in path[:-1]:
            node = node[name]
        node[path[-1]] = value

    return edit


def second_key(document):
    document["keys"].append([["a", "kernel"], 1])


def overlap(document):
    document["tensors"][1]["offset"] = document["tensors"][0]["offset"] + 4


def missing(document):
    del document["tensors"][0]["offset"]


def duplicate_name(document):
    return b'{"version":1,"version":1}'


def nan(document):
    return b'{"version":1,"block":262144,"x":NaN}'


def no_object(document):
    return b"[]"


def no_text(document):
    return b"\xff\xfe"


def deep(document):
    return b'{"version":1,"block":262144,"tensors":' + b"[" * 100_000 + b"}"


HOSTILE = [
    (edited(["version"], 2), UnsupportedFeature),
    (edited(["block"], 0), UnsupportedFeature),
    (edited(["tensors", 0, "dtype"], "float7"), UnsupportedFeature),
    (edited(["tensors", 0, "dtype"], ["float32"]), MalformedFile),
    (edited(["tensors", 0, "shape"], [3, -20]), MalformedFile),
    (edited(["tensors", 0, "shape"], [3.0, 20]), MalformedFile),
    (edited(["tensors", 0, "shape"], [True, 60]), MalformedFile),
    (edited(["tensors", 0, "shape"], [1] * 33), MalformedFile),
    (edited(["tensors", 0, "shape"], [1 << 40]), MalformedFile),
    (edited(["tensors", 3, "shape"], [0, 1 << 62]), MalformedFile),
    (edited(["tensors", 0, "shape"], 60), MalformedFile),
    (edited(["tensors", 0, "offset"], -4), MalformedFile),
    (edited(["tensors", 0, "offset"], 0), MalformedFile),
    (edited(["tensors", 0, "offset"], 1 << 70), MalformedFile),
    (edited(["tensors", 0, "offset"], 1e3), MalformedFile),
    (edited(["tensors", 0, "sha256"], ""), MalformedFile),
    (edited(["tensors", 0, "sha256"], "zz"), MalformedFile),
    (edited(["tensors", 0], []), MalformedFile),
    (edited(["tensors"], {}), MalformedFile),
    (edited(["keys", 0, 1], 4), MalformedFile),
    (edited(["keys", 0, 1], -1), MalformedFile),
    (edited(["keys", 0, 1], 1), MalformedFile),
    (edited(["keys", 0, 0], ["\ud800"]), MalformedFile),
    (edited(["keys", 0, 0], [1]), MalformedFile),
    (edited(["keys", 0], None), MalformedFile),
    (edited(["structure"], 5), MalformedFile),
    (edited(["structure"], ""), IntegrityError),
    (edited(["metadata"], "{"), MalformedFile),
    (edited(["metadata"], {}), MalformedFile),
    (edited(["extra"], {"a": 1}), MalformedFile),
    (second_key, KeyConflict),
    (overlap, MalformedFile),
    (missing, MalformedFile),
    (duplicate_name, KeyConflict),
    (nan, MalformedFile),
    (no_object, MalformedFile),
    (no_text, MalformedFile),
    (deep, MalformedFile),
]


@pytest.mark.parametrize("case", range(len(HOSTILE)))
def test_an_index_that_is_signed_and_wrong_is_refused(save, load, forge, quick, case):
    edit, error = HOSTILE[case]
    path = forge(save(TENSORS), edit)
    with refused(error, str(path)):
        load(path)


@pytest.mark.parametrize(
    ("edit", "named"),
    [
        (missing, ["/ckptbridge", "'offset'"]),
        (overlap, ["/t/000001"]),
        (edited(["version"], 2), ["version 2", "version 1"]),
        (edited(["tensors", 0, "shape"], [3, -20]), ["/t/000000", "[3, -20]"]),
        (edited(["tensors", 0, "sha256"], ""), ["/t/000000", "expected 32 bytes", "got 0 bytes"]),
        (edited(["keys", 0, 1], 1), ["/t/000000"]),
    ],
)
def test_an_error_about_the_index_names_the_field_or_the_dataset(save, load, forge, quick, edit, named):
    path = forge(save(TENSORS), edit)
    with pytest.raises(BadInputError) as caught:
        load(path)
    assert not [name for name in named if name not in str(caught.value)], str(caught.value)


def test_an_index_that_is_signed_and_right_is_read(save, load, forge):
    path = forge(save(TENSORS), edited(["keys", 0, 0], ["renamed"]))
    np.testing.assert_array_equal(load(path)[("renamed",)], TENSORS["a", "kernel"])


@pytest.mark.parametrize(
    ("field", "value", "error"),
    [
        ("index_size", 1 << 40, LimitExceeded),
        ("index_offset", 1 << 40, MalformedFile),
        ("index_offset", 0, MalformedFile),
        ("index_offset", (1 << 64) - 1, MalformedFile),
        ("file_size", (1 << 64) - 1, TruncatedFile),
        ("file_size", 0, MalformedFile),
        ("index_digest", bytes(32), IntegrityError),
    ],
)
def test_a_guard_that_is_signed_and_wrong_is_refused(save, load, forge, quick, field, value, error):
    path = forge(save(TENSORS), **{field: value})
    with refused(error, str(path)):
        load(path)


def test_a_huge_sparse_file_is_not_read_to_its_end(save, load, forge):
    path = save(TENSORS)
    size = 1 << 32
    os.truncate(path, size)
    with SourceFile(path) as file:
        guard = Guard.read(file)
    with path.open("r+b") as file:
        file.write(Guard(guard.index_offset, guard.index_size, size, guard.index_digest).pack())
    with refused(LimitExceeded, "HDF5 structure", f"{len(TENSORS)} tensors"):
        load(path)


def test_a_bool_that_is_no_bool_is_refused(save, load):
    path = save({("mask",): np.array([1, 2], "u1").view(bool)})
    with refused(MalformedFile, "/t/000000", "got 2", key=("mask",)):
        load(path)[("mask",)]


@pytest.mark.parametrize(
    "seed",
    [
        *range(8),
        *(pytest.param(n, marks=pytest.mark.slow) for n in range(8, 40)),
        *(pytest.param(n, marks=pytest.mark.zoo) for n in range(40, 100)),
    ],
)
def test_mutated_structure_never_escapes_the_error_tree(save, seed):
    """With the real child process: libhdf5 parses damaged structure there, and may crash or hang."""
    path = save(TENSORS)
    data = bytearray(path.read_bytes())
    chooser = random.Random(seed)
    if seed % 2:
        data[:16] = bytes(16)
    for _ in range(chooser.choice([1, 4, 32])):
        position = chooser.randrange(512, 3000)
        data[position] = chooser.choice([v for v in (0, 1, 127, 255) if v != data[position]])
    path.write_bytes(data)
    with pytest.raises(BridgeError):
        read_all(path)
