"""npz: against numpy both ways, and against every kind of bad archive."""

from __future__ import annotations

import io
import json
import struct
import warnings
import zipfile
import zlib

import ml_dtypes
import numpy as np
import pytest
from support.errors import refused

from bridge_core import FlatState, SourceFile, StateMetadata
from bridge_core.errors import (
    BadInputError,
    BridgeError,
    IntegrityError,
    KeyConflict,
    LimitExceeded,
    MalformedFile,
    TruncatedFile,
    UnsafeFile,
    UnsupportedFeature,
)
from bridge_core.formats import npz_archive as npz_module
from bridge_core.formats.npz import NpzFormat
from bridge_core.formats.zip_archive import read_members
from bridge_core.formats.zip_layout import NewMember, zip_image
from bridge_core.state.dtypes import DTYPES
from bridge_core.state.tensors import as_tensor
from bridge_core.testing import bit_patterns, read_state, same_bits, write_state

FORMAT = NpzFormat()
NUMPY = [name for name, dtype in DTYPES.items() if dtype.isbuiltin == 1]


def npy(array, **header):
    out = io.BytesIO()
    if header:
        fields = {"descr": "<f4", "fortran_order": False, "shape": (2,), **header}
        text = repr(fields).encode() + b"\n"
        return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + array
    np.lib.format.write_array(out, array, allow_pickle=True)
    return out.getvalue()


def npy_of(header):
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header


def archive(members, compression=zipfile.ZIP_STORED, **info):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as file:
        for name, data in members:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                file.writestr(name, data)
    return out.getvalue()


def read_all(path, content):
    path.write_bytes(content)
    with read_state(FORMAT, path) as state:
        return {key: state[key] for key in state}


ARRAY = np.arange(2, dtype="<f4")
GOOD = archive([("a.npy", npy(ARRAY))])
RAW = ARRAY.tobytes()


def patched(content, offset, data, *, at=b"PK\1\2"):
    where = content.index(at) + offset
    return content[:where] + data + content[where + len(data) :]


def both(content, local, central, data):
    return patched(patched(content, local, data, at=b"PK\3\4"), central, data)


def sidecar(document):
    text = json.dumps(document).encode() if not isinstance(document, bytes) else document
    return ("__ckptbridge__.npy", npy(np.frombuffer(text, np.uint8)))


DEFLATED = archive([("a.npy", npy(np.zeros(100_000, np.float32)))], zipfile.ZIP_DEFLATED)
EMPTY = json.dumps({"version": 1})

BAD = {
    "empty file": (b"", TruncatedFile),
    "cut off in a member": (GOOD[:100], TruncatedFile),
    "cut off in the directory": (GOOD[:-30], TruncatedFile),
    "bytes behind the end": (GOOD + b"x", MalformedFile),
    "bytes before the start": (b"x" + GOOD, MalformedFile),
    "no zip": (b"x" * 1000, MalformedFile),
    "a name twice": (archive([("a.npy", npy(ARRAY)), ("a.npy", npy(ARRAY))]), KeyConflict),
    "encrypted": (both(GOOD, 6, 8, b"\1\0"), UnsupportedFeature),
    "several disks": (patched(GOOD, 4, b"\1\0\1\0", at=b"PK\5\6"), UnsupportedFeature),
    "an entry on another disk": (patched(GOOD, 34, b"\1\0"), UnsupportedFeature),
    "more entries than there are": (patched(GOOD, 8, b"\2\0\2\0", at=b"PK\5\6"), MalformedFile),
    "fewer entries than there are": (patched(GOOD, 8, b"\0\0\0\0", at=b"PK\5\6"), MalformedFile),
    "member behind the end of the file": (patched(GOOD, 42, b"\xf0\xff\xff\x0f"), MalformedFile),
    "data behind the end of the file": (
        both(both(GOOD, 18, 20, b"\0\0\0\1"), 22, 24, b"\0\0\0\1"), TruncatedFile
    ),
    "stored with two sizes": (both(GOOD, 18, 20, b"\1\0\0\0"), MalformedFile),
    "directory and member differ in name": (patched(GOOD, 46, b"b"), MalformedFile),
    "directory and member differ in size": (patched(GOOD, 22, b"\1\0\0\0", at=b"PK\3\4"), MalformedFile),
    "directory and member differ in checksum": (patched(GOOD, 14, b"\1", at=b"PK\3\4"), MalformedFile),
    "a name with a NUL": (both(GOOD, 30, 46, b"\0"), MalformedFile),
    "a name that is not UTF-8": (both(both(GOOD, 6, 8, b"\0\x08"), 30, 46, b"\xff"), MalformedFile),
    "sizes that lack their zip64 field": (patched(GOOD, 20, b"\xff" * 8), MalformedFile),
    "not a .npy name": (archive([("a.txt", b"hello")]), UnsupportedFeature),
    "not a .npy file": (archive([("a.npy", b"hello, world")]), MalformedFile),
    "bzip2": (archive([("a.npy", npy(ARRAY))], zipfile.ZIP_BZIP2), UnsupportedFeature),
    "lzma": (archive([("a.npy", npy(ARRAY))], zipfile.ZIP_LZMA), UnsupportedFeature),
    "checksum": (GOOD.replace(RAW, RAW[:-1] + b"\x40"), IntegrityError),
    "objects": (archive([("a.npy", npy(np.array([None, {}], object)))]), UnsafeFile),
    "records with objects": (archive([("a.npy", npy(np.zeros(1, [("x", "O")])))]), UnsafeFile),
    "records": (archive([("a.npy", npy(np.zeros(1, [("x", "f4")])))]), UnsupportedFeature),
    "strings": (archive([("a.npy", npy(np.array(["x"])))]), UnsupportedFeature),
    "dates": (archive([("a.npy", npy(np.zeros(1, "M8[s]")))]), UnsupportedFeature),
    "long doubles": (archive([("a.npy", npy(np.zeros(1, np.longdouble)))]), UnsupportedFeature),
    "two fields of two bytes": (archive([("a.npy", npy(np.zeros(1, "V2,V2")))]), UnsupportedFeature),
    "void of four bytes": (archive([("a.npy", npy(np.zeros(1, "V4")))]), UnsupportedFeature),
    "int4 as numpy saves it": (archive([("a.npy", npy(np.zeros(1, ml_dtypes.int4)))]), UnsupportedFeature),
    "two signs before the type": (archive([("a.npy", npy(RAW, descr="<<V2"))]), UnsupportedFeature),
    "bfloat16 with too few bytes": (
        archive([("a.npy", npy(RAW, descr="<V2", shape=(9,)))]), MalformedFile
    ),
    "float8 as numpy saves it": (
        archive([("a.npy", npy(np.zeros(1, ml_dtypes.float8_e5m2)))]), UnsupportedFeature
    ),
    "version 9": (archive([("a.npy", npy(ARRAY).replace(b"NUMPY\1", b"NUMPY\x09"))]), UnsupportedFeature),
    "a header beyond the limit": (
        archive([("a.npy", b"\x93NUMPY\2\0" + struct.pack("<I", 1 << 31) + bytes(20))]), LimitExceeded
    ),
    "a header beyond the member": (archive([("a.npy", npy(ARRAY)[:60])]), MalformedFile),
    "a header that is no literal": (
        archive([("a.npy", npy(ARRAY).replace(b"False", b"exit("))]), MalformedFile
    ),
    "a deep header": (
        archive([("a.npy", b"\x93NUMPY\1\0" + struct.pack("<H", 9000) + b"(" * 9000)]), MalformedFile
    ),
    "a header of signs": (
        archive([("a.npy", b"\x93NUMPY\1\0" + struct.pack("<H", 9000) + b"-" * 8999 + b"1")]), MalformedFile
    ),
    "a header that lacks a field": (
        archive([("a.npy", npy(ARRAY).replace(b"'shape'", b"'shale'"))]), MalformedFile
    ),
    "a header with huge numbers for names": (
        archive([("a.npy", npy(ARRAY).replace(b"'shape'", b"0x" + b"F" * 5))]), MalformedFile
    ),
    "a number that Python does not print for a name": (
        archive([("a.npy", npy_of(b"{0x" + b"F" * 8000 + b": 1}"))]), MalformedFile
    ),
    "a number that Python does not print in a shape": (
        archive([("a.npy", npy_of(
            b"{'descr': '<f4', 'fortran_order': False, 'shape': (0x" + b"F" * 8000 + b",)}"
        ))]), MalformedFile
    ),
    "a list for a shape": (archive([("a.npy", npy(RAW, shape=[2]))]), MalformedFile),
    "a boolean in a shape": (archive([("a.npy", npy(RAW, shape=(True, 2)))]), MalformedFile),
    "a negative shape": (archive([("a.npy", npy(RAW, shape=(-2,)))]), MalformedFile),
    "a shape that overflows": (archive([("a.npy", npy(RAW, shape=(2**62, 2**62)))]), MalformedFile),
    "a shape of 2^40": (archive([("a.npy", npy(RAW, shape=(2**40,)))]), MalformedFile),
    "a huge axis beside an empty one": (
        archive([("a.npy", npy(b"", shape=(2**63, 0)))]), MalformedFile
    ),
    "70 axes": (archive([("a.npy", npy(RAW, shape=(1,) * 69 + (2,)))]), UnsupportedFeature),
    "an odd order": (archive([("a.npy", npy(RAW, fortran_order=1))]), MalformedFile),
    "a number for a dtype": (archive([("a.npy", npy(RAW, descr=4))]), UnsupportedFeature),
    "more data than the shape": (archive([("a.npy", npy(RAW + b"x", shape=(2,)))]), MalformedFile),
    "less data than the shape": (archive([("a.npy", npy(RAW, shape=(3,)))]), MalformedFile),
    "bool byte 2": (archive([("a.npy", npy(b"\1\2", descr="|b1"))]), MalformedFile),
    "deflated, damaged": (
        (at := DEFLATED.index(b"PK\1\2")) and DEFLATED[: at - 20] + bytes(20) + DEFLATED[at:], MalformedFile
    ),
    "deflated, claims too much": (
        both(DEFLATED, 22, 24, struct.pack("<I", 1 << 31)), LimitExceeded
    ),
    "deflated, claims more than deflate can hold": (
        both(DEFLATED, 22, 24, struct.pack("<I", 100 << 20)), LimitExceeded
    ),
    "deflated, claims too little": (
        both(DEFLATED, 22, 24, struct.pack("<I", 399_999)), MalformedFile
    ),
    "deflated, other checksum": (both(DEFLATED, 14, 16, b"\1\2\3\4"), IntegrityError),
    "metadata is no JSON": (archive([sidecar(b"{")]), MalformedFile),
    "metadata lacks a part": (archive([sidecar({})]), MalformedFile),
    "metadata names a dtype for nothing": (
        archive([sidecar({"metadata": EMPTY, "dtypes": {"z": "bfloat16"}})]), MalformedFile
    ),
    "metadata names a wrong dtype": (
        archive([("a.npy", npy(ARRAY)), sidecar({"metadata": EMPTY, "dtypes": {"a": "bfloat16"}})]),
        MalformedFile,
    ),
    "metadata names an unknown dtype": (
        archive([("a.npy", npy(ARRAY)), sidecar({"metadata": EMPTY, "dtypes": {"a": "float1"}})]),
        UnsupportedFeature,
    ),
    "metadata is floats": (archive([("__ckptbridge__.npy", npy(ARRAY))]), MalformedFile),
    "escaped names that meet": (
        archive([
            ("ab.npy", npy(ARRAY)), ("a\\b.npy", npy(ARRAY)),
            sidecar({"metadata": json.dumps({"version": 1, "escaped_names": True})}),
        ]),
        KeyConflict,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_gives_its_error(tmp_path, name):
    content, wanted = BAD[name]
    path = tmp_path / "bad.npz"
    with pytest.raises(BadInputError) as caught:
        read_all(path, content)
    assert type(caught.value) is wanted
    assert str(path) in str(caught.value)


def test_what_is_not_an_archive_is_described(tmp_path):
    with refused(MalformedFile, "text", "'Entry not found'"):
        read_all(tmp_path / "x", b"Entry not found\n")
    with refused(MalformedFile, "HTML"):
        read_all(tmp_path / "x", b"<html><body>Log in</body></html>")
    with refused(MalformedFile, b"\1\2\3\4"):
        read_all(tmp_path / "x", bytes(range(1, 100)))


def test_an_archive_of_other_files_is_named_by_one_of_them(tmp_path):
    with refused(UnsupportedFeature, ".npz", "'archive/data.pkl'", hint="Unpack"):
        read_all(tmp_path / "x", archive([("archive/data.pkl", b"")]))


def test_an_unknown_dtype_gets_the_nearest(tmp_path):
    members = [("a.npy", npy(ARRAY)), sidecar({"metadata": EMPTY, "dtypes": {"a": "bfloat61"}})]
    with refused(UnsupportedFeature, "'bfloat61'", hint="'bfloat16'", key="a"):
        read_all(tmp_path / "x", archive(members))


def test_the_good_file_that_the_bad_ones_start_from_is_good(tmp_path):
    assert read_all(tmp_path / "x", GOOD)["a",].tolist() == [0, 1]
    assert read_all(tmp_path / "x", DEFLATED)["a",].shape == (100_000,)
    assert read_all(tmp_path / "x", archive([("a.npy", npy(RAW, shape=(2,)))]))["a",].tolist() == [0, 1]
    assert read_all(tmp_path / "x", archive([])) == {}


def test_a_member_inside_another_is_refused(tmp_path):
    inner = GOOD[: GOOD.index(b"PK\1\2")]
    outer = archive([("b.npy", npy(np.frombuffer(inner, np.uint8)))])
    start, end = outer.index(b"PK\1\2"), outer.index(b"PK\5\6")
    second = GOOD[GOOD.index(b"PK\1\2") : GOOD.index(b"PK\5\6")]
    second = second[:42] + struct.pack("<I", outer.index(inner)) + second[46:]
    directory = outer[start:end] + second
    closing = struct.pack("<4s4HIIH", b"PK\5\6", 0, 0, 2, 2, len(directory), start, 0)
    with refused(MalformedFile, f"byte {outer.index(inner)}"):
        read_all(tmp_path / "x", outer[:start] + directory + closing)


def test_data_that_reaches_into_the_directory_is_refused(tmp_path):
    size = struct.pack("<I", len(npy(ARRAY)) + 8)
    with refused(MalformedFile, f"byte {GOOD.index(b'PK' + bytes([1, 2]))}"):
        read_all(tmp_path / "x", both(both(GOOD, 18, 20, size), 22, 24, size))


def test_pickled_objects_are_not_executed(tmp_path):
    class Payload:
        def __reduce__(self):
            return (open, (str(tmp_path / "owned"), "w"))

    with pytest.raises(UnsafeFile):
        read_all(tmp_path / "x", archive([("a.npy", npy(np.array([Payload()], object)))]))
    assert not (tmp_path / "owned").exists()


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(npz_module, "_SMALL", 1 << 20)
    bomb = archive([("a.npy", npy(np.zeros(4 << 20, np.uint8)))], zipfile.ZIP_DEFLATED)
    (tmp_path / "x").write_bytes(bomb)
    with refused(LimitExceeded, len(npy(np.zeros(4 << 20, np.uint8))), hint="numpy.savez"):
        read_state(FORMAT, tmp_path / "x")
    monkeypatch.setattr(npz_module, "_MAX_RATIO", 2000)
    monkeypatch.setattr(npz_module, "_MAX_INFLATED", 3 << 20)
    with pytest.raises(LimitExceeded):
        read_state(FORMAT, tmp_path / "x")


def test_huge_metadata_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(npz_module, "_LARGEST_METADATA", 100)
    with refused(LimitExceeded, "metadata", "100 bytes"):
        read_all(tmp_path / "x", archive([sidecar({"metadata": EMPTY, "extra": {"x": "y" * 200}})]))
    state = FlatState({("a",): ARRAY}, metadata=StateMetadata(extra={"x": "y" * 200}))
    with refused(LimitExceeded, "metadata", "100 bytes", hint="state.select"):
        write_state(FORMAT, state, tmp_path / "y")
    assert not (tmp_path / "y").exists()


# Checksums


def damaged_file(tmp_path, array):
    path = write_state(FORMAT, {("w",): array}, tmp_path / "x")
    content = bytearray(path.read_bytes())
    at = content.index(array.tobytes()[:64]) + array.nbytes // 2
    content[at] ^= 1
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("order", ["whole", "rows", "columns", "backwards"])
def test_a_flipped_bit_is_found_once_all_was_read_in_any_order(tmp_path, order):
    array = np.random.default_rng(1).random((64, 64))
    path = damaged_file(tmp_path, array)
    indices = {
        "whole": [...],
        "rows": [slice(i, i + 16) for i in range(0, 64, 16)],
        "columns": [(..., slice(i, i + 16)) for i in range(0, 64, 16)],
        "backwards": [slice(i, i + 1) for i in reversed(range(64))],
    }[order]
    with read_state(FORMAT, path) as state:
        for index in indices[:-1]:
            state.read(("w",), index)
        for _ in range(2):
            with refused(IntegrityError, "CRC-32", key="w"):
                state.read(("w",), indices[-1])


@pytest.mark.parametrize("dtype", ["f4", ">f8", "?", ">c16"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_a_flipped_bit_is_found_in_every_layout(tmp_path, dtype, order):
    array = np.asarray(np.random.default_rng(1).integers(0, 2, (30, 40)).astype(dtype), order=order)
    np.savez(tmp_path / "x.npz", w=array)
    content = bytearray((tmp_path / "x.npz").read_bytes())
    at = content.index(array.tobytes("A")) + array.itemsize * 700 + array.itemsize // 2
    content[at] ^= 1
    (tmp_path / "x.npz").write_bytes(content)
    with read_state(FORMAT, tmp_path / "x.npz") as state:
        for column in range(39):
            state.read(("w",), (..., column))
        for row in range(0, 29, 2):
            state.read(("w",), slice(row, 29))
        with refused(IntegrityError, "CRC-32"):
            state.read(("w",), 29)


def test_a_flipped_bit_in_the_header_is_found(tmp_path):
    np.savez(tmp_path / "x.npz", w=np.ones((6, 8)))
    content = (tmp_path / "x.npz").read_bytes()
    (tmp_path / "x.npz").write_bytes(content.replace(b"(6, 8)", b"(8, 6)"))
    with read_state(FORMAT, tmp_path / "x.npz") as state:
        state.read(("w",), slice(0, 7))
        with refused(IntegrityError, "CRC-32"):
            state.read(("w",), slice(7, 8))


def test_a_flipped_bit_stops_a_copy(tmp_path):
    path = damaged_file(tmp_path, np.random.default_rng(1).random((700, 700)))
    with read_state(FORMAT, path) as state, pytest.raises(IntegrityError):
        write_state(FORMAT, state, tmp_path / "copy", max_ram=1 << 20)
    assert not (tmp_path / "copy").exists()


def test_a_checksum_needs_no_second_read(tmp_path, monkeypatch):
    array = np.random.default_rng(1).random((64, 64))
    path = write_state(FORMAT, {("w",): array}, tmp_path / "x")
    read = []
    original = SourceFile.read_into
    with read_state(FORMAT, path) as state:
        monkeypatch.setattr(
            SourceFile,
            "read_into",
            lambda self, at, into: (read.append(memoryview(into).nbytes), original(self, at, into))[1],
        )
        for _ in range(3):
            for row in range(64):
                state.read(("w",), row)
    assert sum(read) == array.nbytes * 3


# Against numpy


def test_numpy_loads_every_dtype_it_has(tmp_path):
    wanted = {("t", name): bit_patterns(name) for name in NUMPY}
    wanted |= {("zero",): np.zeros((3, 0, 2)), ("scalar",): np.array(2.5), ("é", "中"): np.arange(3)}
    path = write_state(FORMAT, wanted, tmp_path / "x.npz")
    with np.load(path, allow_pickle=False) as found:
        assert set(found.files) == {".".join(key) for key in wanted}
        for key, array in wanted.items():
            assert same_bits(found[".".join(key)], array)
    with zipfile.ZipFile(path) as file:
        assert file.testzip() is None


def test_other_dtypes_stand_as_integers_and_come_back(tmp_path):
    others = sorted(set(DTYPES) - set(NUMPY))
    wanted = {("t", name): bit_patterns(name) for name in others}
    path = write_state(FORMAT, FlatState(wanted, layout="torch"), tmp_path / "x.npz")
    with np.load(path, allow_pickle=False) as found:
        for name in others:
            array = found[f"t.{name}"]
            assert array.dtype.kind == "u"
            assert array.tobytes() == bit_patterns(name).tobytes()
    with zipfile.ZipFile(path) as file:
        assert file.testzip() is None


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_files_of_numpy_are_read_exactly(tmp_path, save):
    arrays = {name: bit_patterns(name) for name in NUMPY}
    grid = np.arange(60, dtype=np.float32).reshape(3, 4, 5)
    arrays |= {
        "fortran": np.asfortranarray(grid),
        "transposed": grid.T,
        "big": grid.astype(">f4"),
        "big_fortran": np.asfortranarray(grid.astype(">f8")),
        "big_complex": (grid + 1j).astype(">c16"),
        "scalar": np.array(3, np.int16),
        "zero": np.zeros((0, 3)),
        "bools": np.asfortranarray(grid > 7),
        "a.b/c": np.arange(3),
    }
    save(tmp_path / "x.npz", grid, **arrays)
    rng = np.random.default_rng(2)
    with read_state(FORMAT, tmp_path / "x.npz") as state:
        assert state.layout is None
        assert set(state) == {tuple(name.split(".")) for name in [*arrays, "arr_0"]}
        for name, array in arrays.items():
            key = tuple(name.split("."))
            plain = array.astype(array.dtype.newbyteorder("="))
            assert same_bits(state[key], plain)
            for _ in range(10):
                index = tuple(
                    slice(int(rng.integers(0, n + 1)), None, int(rng.integers(1, 4))) for n in array.shape
                )
                assert same_bits(state.read(key, index), plain[index])


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_bfloat16_that_numpy_stores_as_void_is_read_bit_for_bit_and_told(tmp_path, save):
    bfloat16 = np.dtype(ml_dtypes.bfloat16)
    grid = bit_patterns("bfloat16")
    grid = grid[: grid.size // 6 * 6].reshape(2, 3, -1)
    arrays = {
        "plain": grid,
        "fortran": np.asfortranarray(grid),
        "big": grid.astype(bfloat16.newbyteorder(">")),
        "big_fortran": np.asfortranarray(grid.astype(bfloat16.newbyteorder(">"))),
        "scalar": np.array(grid[0, 0, 1]),
        "empty": np.zeros((0, 3), bfloat16),
        "void": np.frombuffer(grid.tobytes(), "V2").reshape(grid.shape),
    }
    save(tmp_path / "x.npz", number=np.ones(2, "f4"), **arrays)
    with read_state(FORMAT, tmp_path / "x.npz") as state:
        assert state.spec("number").dtype == np.float32
        for name, array in arrays.items():
            plain = grid if array.shape == grid.shape else array
            assert state.spec(name).dtype == bfloat16
            assert same_bits(state[name,], plain)
        told = " ".join(state.metadata.notes)
    assert "stored as <V2, as numpy writes bfloat16, and read as bfloat16: plain, fortran, scalar, e" in told
    assert "stored as >V2" in told
    assert "stored as |V2" in told
    assert "number" not in told


def test_a_type_that_numpy_loses_is_named_with_the_way_on(tmp_path):
    np.savez(tmp_path / "x.npz", w=np.zeros(3, ml_dtypes.float8_e4m3fn))
    with refused(UnsupportedFeature, "V1", hint=("V1", "safetensors"), key="w"):
        read_state(FORMAT, tmp_path / "x.npz")


def test_our_own_archives_say_nothing_of_types(tmp_path):
    path = write_state(FORMAT, FlatState({("w",): bit_patterns("bfloat16")}), tmp_path / "x.npz")
    with read_state(FORMAT, path) as state:
        assert state.metadata.notes == ()
        assert same_bits(state["w",], bit_patterns("bfloat16"))


@pytest.mark.parametrize("beyond", [*range(-2, 3), 100, 200, 257, 300, 1000])
def test_compressed_arrays_around_the_size_of_a_chunk_are_read_whole(tmp_path, beyond):
    array = np.zeros((1 << 20) - 128 + beyond, np.uint8)
    np.savez_compressed(tmp_path / "x.npz", w=array)
    with read_state(FORMAT, tmp_path / "x.npz") as state:
        assert same_bits(state["w",], array)


def test_a_fortran_array_is_copied_in_bounded_blocks(tmp_path):
    array = np.asfortranarray(np.random.default_rng(1).random((600, 700)))
    np.savez(tmp_path / "x.npz", w=array)
    with read_state(FORMAT, tmp_path / "x.npz") as state:
        copy = write_state(FORMAT, state, tmp_path / "copy.npz", max_ram=1 << 20)
    with np.load(copy) as found:
        np.testing.assert_array_equal(found["w"], array)


def test_an_archive_written_to_a_pipe_is_read(tmp_path):
    class Pipe(io.RawIOBase):
        def __init__(self):
            self.data = bytearray()

        def writable(self):
            return True

        def write(self, data):
            self.data += data
            return len(data)

    pipe = Pipe()
    with zipfile.ZipFile(pipe, "w") as file:
        file.writestr("a.npy", npy(ARRAY))
    assert read_all(tmp_path / "x", bytes(pipe.data))["a",].tolist() == [0, 1]


def test_every_array_is_aligned_for_mapping(tmp_path):
    path = write_state(FORMAT, {("a" * i,): np.full(i, i, np.uint8) for i in range(1, 70)}, tmp_path / "x")
    with SourceFile(path) as file:
        assert all(member.offset % 64 == 0 for member in read_members(file))


# zip64


def sparse(path, image, checksums):
    with path.open("wb") as out:
        out.truncate(image.size)
        for offset, data in (*image.segments, *image.finish(checksums)):
            out.seek(offset)
            out.write(data)


def test_members_above_four_gigabytes_are_read_here_and_by_zipfile(tmp_path):
    size = (4 << 30) + 4096
    head = npz_module._npy_header(np.dtype("u1"), (size,))
    small = npz_module._npy_header(np.dtype("u1"), (3,))
    image = zip_image(
        [
            NewMember("big.npy", head, size, ("big",)),
            NewMember("small.npy", small, 3, ("small",)),
        ]
    )
    path = tmp_path / "x.npz"
    checksums = {("big",): 1, ("small",): zlib.crc32(small + b"\1\2\3")}
    sparse(path, image, checksums)
    with path.open("r+b") as out:
        out.seek(image.slots["small",][0].offset)
        out.write(b"\1\2\3")
        out.seek(image.slots["big",][0].offset + size - 1)
        out.write(b"\7")
    with read_state(FORMAT, path) as state:
        assert state.spec(("big",)).shape == (size,)
        assert state.read(("big",), slice(-2, None)).tolist() == [0, 7]
        assert state["small",].tolist() == [1, 2, 3]
    with zipfile.ZipFile(path) as file:
        assert [info.file_size for info in file.infolist()] == [size + len(head), 3 + len(small)]
        assert file.read("small.npy")[-3:] == b"\1\2\3"


def test_more_members_than_a_plain_zip_counts(tmp_path):
    data = npy(ARRAY)
    image = zip_image([NewMember(f"{i}.npy", data) for i in range(70_000)])
    sparse(tmp_path / "x", image, {})
    with SourceFile(tmp_path / "x") as file:
        assert len(read_members(file)) == 70_000
    with zipfile.ZipFile(tmp_path / "x") as file:
        assert len(file.infolist()) == 70_000
        assert file.read("69999.npy") == data


def test_a_damaged_zip64_record_is_refused(tmp_path):
    data = npy(ARRAY)
    image = zip_image([NewMember(f"{i}.npy", data) for i in range(70_000)])
    sparse(tmp_path / "x", image, {})
    content = (tmp_path / "x").read_bytes()
    for offset, patch, wanted in [
        (8, b"\xff" * 8, MalformedFile),
        (8, bytes(8), MalformedFile),
        (4, b"\1", UnsupportedFeature),
    ]:
        (tmp_path / "y").write_bytes(patched(content, offset, patch, at=b"PK\6\7"))
        with SourceFile(tmp_path / "y") as file, pytest.raises(wanted):
            read_members(file)


# Names, ties, metadata


@pytest.mark.parametrize(
    ("keys", "wanted"),
    [
        ([("__ckptbridge__",)], KeyConflict),
        ([("a.b",), ("a", "b")], KeyConflict),
        ([()], KeyConflict),
        ([("a", "\ud800")], UnsupportedFeature),
        ([("a\0b",)], UnsupportedFeature),
        ([("a" * 70_000,)], UnsupportedFeature),
    ],
)
def test_names_it_cannot_hold_are_refused(tmp_path, keys, wanted):
    with pytest.raises(wanted):
        write_state(FORMAT, FlatState(dict.fromkeys(keys, np.zeros(2))), tmp_path / "x")
    assert not any(tmp_path.iterdir())


def test_names_that_look_like_paths_stay_names(tmp_path):
    wanted = {("../x",): ARRAY, ("/etc/y",): ARRAY, ("C:\\z",): ARRAY, ("a.npy", "npy"): ARRAY}
    with read_state(FORMAT, write_state(FORMAT, wanted, tmp_path / "x")) as state:
        assert set(state) == set(wanted)
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_tied_keys_share_one_tensor_again_and_both_stand_in_the_file(tmp_path):
    shared = as_tensor(np.arange(3.0))
    metadata = StateMetadata(ties={("b",): ("a",), ("c",): ("a",)}, extra={"note": "x", "é": "\ud800"})
    tensors = {("a",): shared, ("b",): shared, ("c",): np.ones(3)}
    path = write_state(FORMAT, FlatState(tensors, metadata=metadata), tmp_path / "x.npz")
    with np.load(path) as found:
        assert found["a"].tolist() == found["b"].tolist() == [0, 1, 2]
    with read_state(FORMAT, path) as state:
        assert state.tensor(("a",)) is state.tensor(("b",))
        assert state["c",].tolist() == [1, 1, 1]
        assert state.metadata == metadata


def test_a_plain_state_leaves_no_sidecar(tmp_path):
    path = write_state(FORMAT, {("a",): ARRAY}, tmp_path / "x")
    with zipfile.ZipFile(path) as file:
        assert file.namelist() == ["a.npy"]


def test_random_mutations_raise_nothing_else_and_values_never_change_unseen(tmp_path):
    state = {
        ("a", "w"): np.arange(6.0).reshape(2, 3),
        ("b",): bit_patterns("bfloat16")[:8],
        ("f",): np.array([True]),
    }
    contents = [write_state(FORMAT, FlatState(state, layout="torch"), tmp_path / "good").read_bytes()]
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "good.npz", a=np.asfortranarray(np.arange(6.0).reshape(2, 3)), b=np.zeros(500))
        contents.append((tmp_path / "good.npz").read_bytes())
    rng = np.random.default_rng(11)
    for content in contents:
        good = {key: array.tobytes() for key, array in read_all(tmp_path / "x", content).items()}
        for _ in range(250):
            damaged = bytearray(content)
            for at in rng.integers(0, len(content), rng.integers(1, 4)):
                damaged[at] = rng.integers(256)
            try:
                found = read_all(tmp_path / "x", bytes(damaged))
            except BridgeError:
                continue
            assert {key: array.tobytes() for key, array in found.items()} == good
