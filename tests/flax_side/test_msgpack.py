"""Flax msgpack files: the same bytes as Flax writes, the same trees, and no raw error on any bytes."""

from __future__ import annotations

import random
import struct
from collections import namedtuple
from pathlib import Path

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from support.errors import refused

from bridge_core import (
    BridgeError,
    FlatState,
    KeyConflict,
    LimitExceeded,
    MalformedFile,
    SourceFile,
    StateMetadata,
    TruncatedFile,
    UnsupportedFeature,
    convert,
    open_state,
    plan_conversion,
)
from bridge_core.state.dtypes import DTYPES
from bridge_core.state.keys import unflatten_tree
from bridge_core.state.metadata import LayerInfo
from bridge_core.transfer.budget import Budget
from bridge_core.transfer.file_writer import FileTarget
from bridge_flax.msgpack import wire as msgpack_wire, writer as msgpack_writer
from bridge_flax.msgpack.format import MsgpackFormat
from bridge_flax.msgpack.reader import ChunkSource

serialization = pytest.importorskip("flax.serialization")

FORMAT = MsgpackFormat()
LAYERS = StateMetadata(layers={("a",): LayerInfo("linear", "module", ("kernel", "bias"))})


def write(path: Path, state) -> bytes:
    path.touch()
    FORMAT.write(state, FileTarget(path, Budget(workers=2)))
    return path.read_bytes()


def read(path: Path) -> FlatState:
    file = SourceFile(path)
    try:
        return FORMAT.open(file)
    except BaseException:
        file.close()
        raise


def read_bytes(path: Path, data: bytes) -> FlatState:
    path.write_bytes(data)
    return read(path)


def values(name: str, shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Random bits of a dtype, NaNs included."""
    dtype = DTYPES[name]
    count = int(np.prod(shape)) * dtype.itemsize
    raw = np.random.default_rng(seed).integers(0, 256, count, dtype=np.uint8)
    if name == "bool":
        raw &= 1
    if name in ("int2", "uint2", "int4", "uint4", "float4_e2m1fn", "float6_e2m3fn", "float6_e3m2fn"):
        raw = raw.astype(np.int8).astype(dtype).view(np.uint8)
    return raw.view(dtype).reshape(shape)


def assert_same(found, expected) -> None:
    found, expected = np.asarray(found), np.asarray(expected)
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    assert found.tobytes() == expected.tobytes()


def assert_same_trees(found, expected) -> None:
    assert isinstance(found, dict) == isinstance(expected, dict)
    if not isinstance(expected, dict):
        return assert_same(found, expected)
    assert list(found) == list(expected)
    for name in expected:
        assert_same_trees(found[name], expected[name])
    return None


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setattr(serialization, "MAX_CHUNK_SIZE", 40)
    monkeypatch.setattr(msgpack_writer, "MAX_CHUNK_SIZE", 40)


STATE = {
    ("params", "b", "kernel"): values("float32", (3, 5)),
    ("params", "b", "bias"): values("bfloat16", (5,)),
    ("params", "a/ü.\n", "scale"): values("float64", (2, 0, 3)),
    ("step",): np.array(7, np.int64),
    ("params", "b", "mask"): values("bool", (70000,)),
    ("long" * 20, "x"): values("float32", ()),
    **{("many", f"layers_{i}"): values("int8", (i,), i) for i in range(20)},
    ("", ""): values("uint8", (300,)),
}


# --- the same bytes as Flax


def flax_bytes(state, empty=()) -> bytes:
    return serialization.msgpack_serialize(unflatten_tree(state, empty), in_place=True)


def test_a_plain_state_is_written_byte_for_byte_as_flax_does(tmp_path):
    assert write(tmp_path / "x", FlatState(STATE, layout="flax")) == flax_bytes(STATE)


def test_sorted_keys_give_the_bytes_of_flax_when_it_sorts(tmp_path):
    ordered = {key: STATE[key] for key in sorted(STATE)}
    expected = serialization.msgpack_serialize(unflatten_tree(STATE))
    assert write(tmp_path / "x", FlatState(ordered, layout="flax")) == expected


@pytest.mark.parametrize("count", [1, 15, 16, 17, 70000])
def test_maps_of_every_size_are_written_as_flax_does(tmp_path, count):
    empty = tuple(("a", f"{'n' * (i % 40)}{i}") for i in range(count))
    state = FlatState({}, metadata=StateMetadata(empty=empty))
    assert write(tmp_path / "x", state) == flax_bytes({}, empty)
    assert read(tmp_path / "x").metadata.empty == empty


@pytest.mark.parametrize("count", [0, 1, 2, 3, 200, 255, 256, 65535, 65536, 1 << 20])
def test_leaves_of_every_size_are_written_as_flax_does(tmp_path, count):
    state = {("a",): values("uint8", (count,)), ("b" * min(count, 65536),): values("int16", (count, 1))}
    assert write(tmp_path / "x", FlatState(state)) == flax_bytes(state)


@pytest.mark.parametrize("count", [(1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 32, 1 << 40])
def test_axes_of_every_length_are_written_as_flax_does(tmp_path, count):
    state = {("a",): np.zeros((0, count), np.int8)}
    assert write(tmp_path / "x", FlatState(state)) == flax_bytes(state)
    assert read(tmp_path / "x").spec(("a",)).shape == (0, count)


def test_chunked_leaves_are_written_byte_for_byte_as_flax_does(tmp_path, small_chunks):
    assert write(tmp_path / "x", FlatState(STATE)) == flax_bytes(STATE)
    assert b"__msgpack_chunked_array__" in (tmp_path / "x").read_bytes()


def test_a_leaf_of_exactly_the_chunk_size_stays_whole(tmp_path, small_chunks):
    state = {("at",): values("float64", (5,)), ("over",): values("uint8", (41,))}
    data = write(tmp_path / "x", FlatState(state))
    assert data == flax_bytes(state)
    assert data.count(b"__msgpack_chunked_array__") == 1


def test_a_chunk_holds_one_element_where_no_element_fits(tmp_path, monkeypatch):
    for module in (serialization, msgpack_writer):
        monkeypatch.setattr(module, "MAX_CHUNK_SIZE", 3)
    state = {("a",): values("complex128", (2, 2))}
    assert write(tmp_path / "x", FlatState(state)) == flax_bytes(state)


def test_empty_states_and_nodes_are_written_as_flax_does(tmp_path):
    empty = (("a", "e"), ("z",))
    state = FlatState({("a", "x"): values("int8", (3,))}, metadata=StateMetadata(empty=empty))
    assert write(tmp_path / "x", state) == flax_bytes(dict(state), empty)
    assert write(tmp_path / "y", FlatState({})) == flax_bytes({})


@settings(max_examples=60, deadline=None)
@given(
    data=st.data(),
    keys=st.lists(
        st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=4), min_size=1, max_size=4).map(
            tuple
        ),
        max_size=8,
        unique=True,
    ),
)
def test_any_tree_is_written_as_flax_does_and_read_back(tmp_path_factory, data, keys):
    folder = tmp_path_factory.mktemp("any")
    keys = [key for key in keys if not any(other != key and other == key[: len(other)] for other in keys)]
    shapes = st.lists(st.integers(0, 4), max_size=4).map(tuple)
    state = {
        key: values(data.draw(st.sampled_from(sorted(DTYPES))), data.draw(shapes), index)
        for index, key in enumerate(keys)
    }
    assert write(folder / "x", FlatState(state, layout="flax")) == flax_bytes(state)
    back = read(folder / "x")
    assert set(back) == set(state)
    for key, array in state.items():
        assert_same(back[key], array)
    assert write(folder / "y", back) == flax_bytes(state)


# --- Flax reads ours


@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (1,), (4, 3), (40, 30)], ids=str)
@pytest.mark.parametrize("name", sorted(DTYPES))
@pytest.mark.parametrize("metadata", [StateMetadata(), LAYERS], ids=["plain", "carrying"])
def test_flax_restores_every_dtype_bit_for_bit(tmp_path, name, shape, metadata):
    array = values(name, shape)
    data = write(tmp_path / "x", FlatState({("a", "w"): array}, layout="flax", metadata=metadata))
    assert_same_trees(serialization.msgpack_restore(data), {"a": {"w": array}})
    back = read(tmp_path / "x")
    assert_same(back[("a", "w")], array)
    assert back.metadata.layers == metadata.layers


@pytest.mark.parametrize(
    "make",
    [
        lambda x: x.T,
        lambda x: x[::-1, ::-2],
        lambda x: np.broadcast_to(x[:1], (6, x.shape[1])),
        lambda x: x.astype(x.dtype.newbyteorder(">")),
        lambda x: x.T.astype(x.dtype.newbyteorder(">"))[::2],
    ],
    ids=["transposed", "negative strides", "broadcast", "big-endian", "big-endian strided"],
)
@pytest.mark.parametrize("name", ["int16", "float32", "complex64", "bool"])
def test_arrays_of_any_memory_layout_are_written_exactly(tmp_path, name, make):
    array = make(values(name, (4, 6)))
    data = write(tmp_path / "x", FlatState({("w",): array}))
    plain = np.ascontiguousarray(array).astype(DTYPES[name])
    assert_same(serialization.msgpack_restore(data)["w"], plain)


# --- ours reads Flax's


def test_a_linen_model_of_flax_is_read_exactly(tmp_path):
    linen = pytest.importorskip("flax.linen")
    jax = pytest.importorskip("jax")
    core = pytest.importorskip("flax.core")

    class Model(linen.Module):
        @linen.compact
        def __call__(self, x):
            x = linen.BatchNorm(use_running_average=True)(linen.Conv(4, (3, 3))(x))
            return linen.Dense(5, param_dtype=jax.numpy.bfloat16)(x)

    variables = Model().init(jax.random.key(0), np.zeros((1, 8, 8, 3), np.float32))
    for tree in (variables, core.freeze(variables)):
        back = read_bytes(tmp_path / "x", serialization.to_bytes(tree))
        expected = serialization.to_state_dict(variables)
        assert_same_trees(unflatten_tree(dict(back)), expected)
        assert back.layout == "flax"
        assert write(tmp_path / "y", back) == serialization.to_bytes(tree)


def test_sequences_scalars_and_nothing_are_read_as_flax_spells_them(tmp_path):
    pair = namedtuple("pair", ["mu", "nu"])
    tree = {
        "list": [np.arange(3.0), {"x": np.int32(4)}],
        "tuple": (np.float16(1.5), 2 + 3j),
        "named": pair(np.zeros(2), None),
        "step": 12,
        "big": (1 << 63) + 5,
        "negative": -70000,
        "rate": 0.125,
        "flag": True,
        "note": "text",
        "raw": b"bytes",
        "nothing": None,
        "void": {},
    }
    back = read_bytes(tmp_path / "x", serialization.to_bytes(tree))
    expected = {
        ("list", "0"): np.arange(3.0),
        ("list", "1", "x"): np.array(4, np.int32),
        ("tuple", "0"): np.array(1.5, np.float16),
        ("tuple", "1"): np.array(2 + 3j),
        ("named", "mu"): np.zeros(2),
        ("step",): np.array(12, np.int64),
        ("big",): np.array((1 << 63) + 5, np.uint64),
        ("negative",): np.array(-70000, np.int64),
        ("rate",): np.array(0.125),
        ("flag",): np.array(True),
    }
    assert list(back) == list(expected)
    for key, array in expected.items():
        assert_same(back[key], array)
    assert back.metadata.empty == (("void",),)
    assert "step (int)" in back.metadata.provenance["python numbers"]
    for left_out in ("named/nu (None)", "note (string)", "raw (bytes)", "nothing (None)"):
        assert left_out in back.metadata.provenance["left out"]
    restored = serialization.msgpack_restore(write(tmp_path / "y", back))
    assert restored["step"] == 12
    assert restored["tuple"]["1"] == 2 + 3j
    assert restored["void"] == {}


def test_lists_in_a_raw_tree_become_numbered_names(tmp_path):
    data = serialization.msgpack_serialize({"a": [np.arange(2), [np.arange(3)]]})
    assert set(read_bytes(tmp_path / "x", data)) == {("a", "0"), ("a", "1", "0")}


def test_chunked_leaves_of_flax_are_read_as_one_tensor(tmp_path, small_chunks):
    back = read_bytes(tmp_path / "x", flax_bytes(STATE))
    assert isinstance(back.tensor(("params", "b", "kernel")).file, ChunkSource)
    for key, array in STATE.items():
        assert_same(back[key], array)


@pytest.fixture(scope="module", params=["uint8", "uint16", "complex64"])
def chunked(request, tmp_path_factory):
    """An array of 1,001 elements over many chunks, and the state that reads it."""
    array = values(request.param, (7, 11, 13))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(msgpack_writer, "MAX_CHUNK_SIZE", 90)
        path = tmp_path_factory.mktemp("chunked") / "x"
        write(path, FlatState({("w",): array}))
    return array, read(path)


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_any_region_across_chunk_borders_is_read_exactly(chunked, data):
    array, state = chunked
    index = tuple(data.draw(st.one_of(st.slices(n), st.integers(-n, n - 1))) for n in array.shape)
    assert_same(state.read(("w",), index), array[index])


def test_a_region_reads_only_the_chunks_that_it_touches(chunked, monkeypatch):
    array, state = chunked
    reads = count_reads(monkeypatch)
    assert_same(state.read(("w",), np.s_[3, 2, :5]), array[3, 2, :5])
    assert sum(reads) == 5 * array.itemsize


def test_a_large_leaf_in_chunks_is_transposed_within_a_small_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(msgpack_writer, "MAX_CHUNK_SIZE", 300_001)
    kernel = values("float32", (1300, 900))
    state = FlatState({("params", "l", "kernel"): kernel, ("params", "l", "bias"): kernel[0]}, layout="flax")
    write(tmp_path / "x.msgpack", state)
    assert isinstance(read(tmp_path / "x.msgpack").tensor(("params", "l", "kernel")).file, ChunkSource)
    for max_ram in (1_000_000, None):
        out = tmp_path / f"{max_ram}.safetensors"
        convert(tmp_path / "x.msgpack", out, to="torch", max_ram=max_ram)
        with open_state(out) as back:
            assert_same(back[("l", "weight")], np.ascontiguousarray(kernel.T))


def count_reads(monkeypatch) -> list[int]:
    reads: list[int] = []
    original = SourceFile.read_into

    def counted(self, offset, buffer):
        reads.append(memoryview(buffer).nbytes)
        return original(self, offset, buffer)

    monkeypatch.setattr(SourceFile, "read_into", counted)
    return reads


def test_indexing_a_large_file_reads_its_names_alone(tmp_path, monkeypatch):
    path = tmp_path / "large"
    array = np.broadcast_to(np.float32(0), (1 << 20,))
    state = FlatState({("params", f"layers_{i}", "kernel"): array for i in range(75)})
    image = msgpack_writer.lay_out(state, frozenset(DTYPES))
    with path.open("wb") as out:
        out.truncate(image.size)  # sparse: the values are never written
        for offset, data in image.segments:
            out.seek(offset)
            out.write(data)
    assert image.size > 300 << 20
    reads = count_reads(monkeypatch)
    assert len(read(path)) == 75
    assert sum(reads) < 1 << 20


def test_many_small_leaves_are_read_in_few_reads(tmp_path, monkeypatch):
    state = {("p", f"l{i}", "b"): np.full((2,), i, np.int32) for i in range(5_000)}
    data = write(tmp_path / "x", FlatState(state))
    reads = count_reads(monkeypatch)
    assert list(read(tmp_path / "x")) == list(state)
    assert len(reads) < 10
    assert sum(reads) < 2 * len(data)


# --- the metadata's carrier


def test_metadata_comes_back_and_flax_does_not_see_it(tmp_path):
    metadata = StateMetadata(
        layers={("params", "b"): LayerInfo("linear", "module", ("kernel", "bias"))},
        ties={("params", "b", "bias"): ("params", "b", "kernel")},
        empty=(("batch_stats",),),
        tree_form={"flax": "variables"},
    )
    data = write(tmp_path / "x", FlatState(STATE, layout="neutral", metadata=metadata))
    assert_same_trees(serialization.msgpack_restore(data), unflatten_tree(STATE, metadata.empty))
    back = read(tmp_path / "x")
    assert back.layout == "neutral"
    assert back.metadata.with_(provenance={}) == metadata
    assert write(tmp_path / "y", back) == data


@pytest.mark.parametrize("layout", ["torch", "neutral"])
def test_another_layout_than_flax_is_kept(tmp_path, layout):
    write(tmp_path / "x", FlatState(STATE, layout=layout))
    assert read(tmp_path / "x").layout == layout


@pytest.mark.parametrize("layout", [None, "flax"])
def test_nothing_is_carried_where_there_is_nothing_to_say(tmp_path, layout):
    metadata = StateMetadata(empty=(("e",),), provenance={"a": "b"}, extra={"format": "pt"})
    data = write(tmp_path / "x", FlatState({("a",): np.zeros(1)}, layout=layout, metadata=metadata))
    assert b"ckptbridge" not in data
    assert read(tmp_path / "x").layout == "flax"


def test_the_smallest_tensor_with_values_carries(tmp_path):
    state = {("big",): np.zeros(9), ("d",): np.zeros(1), ("c",): np.zeros(1), ("none",): np.zeros(0)}
    data = write(tmp_path / "x", FlatState(state, layout="neutral"))
    assert isinstance(msgpack.unpackb(data, ext_hook=lambda *_: 0)["c"], dict)
    reordered = FlatState({key: state[key] for key in reversed(state)}, layout="neutral")
    assert isinstance(msgpack.unpackb(write(tmp_path / "y", reordered), ext_hook=lambda *_: 0)["c"], dict)


def test_a_chunked_tensor_carries_where_all_are_chunked(tmp_path, small_chunks):
    state = {("a",): np.arange(30.0), ("b",): np.arange(40.0)}
    data = write(tmp_path / "x", FlatState(state, layout="neutral"))
    assert_same_trees(serialization.msgpack_restore(data), unflatten_tree(state))
    assert read(tmp_path / "x").layout == "neutral"


def test_without_any_tensor_the_root_carries(tmp_path):
    state = FlatState(
        {}, layout="neutral", metadata=StateMetadata(empty=(("a",),), tree_form={"flax": "params"})
    )
    data = write(tmp_path / "x", state)
    assert list(serialization.msgpack_restore(data)) == ["a", "__ckptbridge__"]
    back = read(tmp_path / "x")
    assert (back.layout, dict(back.metadata.tree_form), back.metadata.empty) == (
        "neutral",
        {"flax": "params"},
        (("a",),),
    )
    assert not back.metadata.provenance


# --- bad input


def ext(code: int, payload: bytes) -> bytes:
    return msgpack.packb(msgpack.ExtType(code, payload))


def array(shape=(2,), dtype="float32", data=b"\0" * 8) -> bytes:
    return ext(1, msgpack.packb((shape, dtype, data)))


def root(*entries: bytes) -> bytes:
    return msgpack_wire.map_head(len(entries)) + b"".join(
        msgpack.packb(f"n{i}") + e for i, e in enumerate(entries)
    )


def chunks(**changes: object) -> bytes:
    """A chunked leaf with some entries changed, or left out where the change is None."""
    pack = msgpack.packb
    entries = {
        "__msgpack_chunked_array__": pack(True),
        "shape": pack({"0": 2, "1": 2}),
        "chunks": b"\x82" + pack("0") + array() + pack("1") + array(),
        **changes,
    }
    kept = {name: value for name, value in entries.items() if value is not None}
    return msgpack_wire.map_head(len(kept)) + b"".join(pack(n) + v for n, v in kept.items())


def marked(**changes: object) -> bytes:
    return root(chunks(**changes))


@pytest.mark.parametrize("in_chunks", [False, True])
def test_a_boolean_other_than_0_and_1_is_malformed(tmp_path, in_chunks):
    def data(last: int) -> bytes:
        def leaf(values: bytes) -> bytes:
            return array((len(values),), "bool", values)

        if not in_chunks:
            return root(leaf(bytes([1, 0, last])))
        pack = msgpack.packb
        both = b"\x82" + pack("0") + leaf(b"\1\0") + pack("1") + leaf(bytes([last]))
        return marked(shape=pack({"0": 3}), chunks=both)

    with read_bytes(tmp_path / "a.msgpack", data(1)) as state:
        assert state["n0",].tolist() == [True, False, True]
    with (
        read_bytes(tmp_path / "b.msgpack", data(2)) as state,
        refused(MalformedFile, "b.msgpack", "'n0'", "byte 2"),
    ):
        state["n0",]


DEEP = b"\x81\xa1a" * 1100 + b"\x80"
TEXT = msgpack.packb('{"version":1,"layout":"neutral"}')
BAD = {
    "empty file": (b"", TruncatedFile),
    "only a map head": (b"\x81", TruncatedFile),
    "half a map head": (b"\xdf\0\0", TruncatedFile),
    "half a name": (b"\x81\xa5ab", TruncatedFile),
    "a name and nothing": (b"\x81\xa1a", TruncatedFile),
    "values cut off": (root(array())[:-1], TruncatedFile),
    "an extension cut off": (root(array(data=b"\0" * 8))[:20], TruncatedFile),
    "a string cut off": (b"\x81\xa1a\xdb\xff\xff\xff\xff", TruncatedFile),
    "root array": (b"\x90", MalformedFile),
    "root number": (b"\x07", MalformedFile),
    "root text": (b"\xa1a", MalformedFile),
    "root nothing": (b"\xc0", MalformedFile),
    "root tensor": (array(), MalformedFile),
    "root chunked tensor": (chunks(), MalformedFile),
    "trailing bytes": (root(array()) + b"\0", MalformedFile),
    "map of 4 G entries": (b"\xdf\xff\xff\xff\xff", LimitExceeded),
    "nested map of 4 G entries": (root(b"\xdf\xff\xff\xff\xff"), LimitExceeded),
    "array of 4 G entries": (root(b"\xdd\xff\xff\xff\xff"), LimitExceeded),
    "map of more entries than bytes": (root(b"\xde\xff\xff"), TruncatedFile),
    "1,100 levels": (DEEP, LimitExceeded),
    "1,100 arrays": (b"\x81\xa1a" + b"\x91" * 1100 + b"\xc0", LimitExceeded),
    "duplicate name": (b"\x82" + (b"\xa1a" + array()) * 2, KeyConflict),
    "duplicate name of folders": (b"\x82" + b"\xa1a\x80" * 2, KeyConflict),
    "duplicate name of nothing": (b"\x82" + b"\xa1a\xc0" * 2, KeyConflict),
    "bytes name": (b"\x81\xc4\x01a\xc0", MalformedFile),
    "fraction as name": (b"\x81" + msgpack.packb(1.5) + b"\xc0", MalformedFile),
    "bool as name": (b"\x81\xc3\xc0", MalformedFile),
    "array as name": (b"\x81" + array() + b"\xc0", MalformedFile),
    "scalar fraction as name": (b"\x81" + array((), data=b"\0" * 4) + b"\xc0", MalformedFile),
    "number and text of one name": (b"\x82\x01\xc0\xa11\xc0", KeyConflict),
    "nothing as name": (b"\x81\xc0\xc0", MalformedFile),
    "map as name": (b"\x81\x80\xc0", MalformedFile),
    "name that is no UTF-8": (b"\x81\xa2\xff\xff\xc0", MalformedFile),
    "name with a surrogate": (b"\x81\xa3\xed\xa0\x80\xc0", MalformedFile),
    "name of 70,000 bytes": (b"\x81" + msgpack.packb("a" * 70000) + b"\xc0", MalformedFile),
    "reserved byte": (root(b"\xc1"), MalformedFile),
    "unknown extension": (root(ext(4, b"abc")), MalformedFile),
    "timestamp": (root(b"\xd6\xff" + b"\0" * 4), MalformedFile),
    "empty extension": (root(ext(1, b"")), MalformedFile),
    "payload no triple": (root(ext(1, msgpack.packb([[2], "float32"]))), MalformedFile),
    "payload a map": (root(ext(1, msgpack.packb({}))), MalformedFile),
    "payload with bytes after it": (
        root(ext(1, msgpack.packb(((2,), "float32", b"\0" * 8)) + b"\0")),
        MalformedFile,
    ),
    "values past the payload": (
        root(ext(1, b"\x93\x91\x02\xa7float32\xc4\x08\0\0\0\0")) + b"\0" * 4,
        MalformedFile,
    ),
    "fewer values than the shape": (root(array((3,))), MalformedFile),
    "more values than the shape": (root(array((1,))), MalformedFile),
    "shape -1": (root(array((-1,))), MalformedFile),
    "float shape": (root(array((2.0,))), MalformedFile),
    "bool shape": (root(array((True,), "float64")), MalformedFile),
    "no shape": (root(array(2)), MalformedFile),
    "shape that overflows": (root(array((1 << 63, 1 << 63, 4), data=b"")), MalformedFile),
    "empty shape that overflows": (root(array((0, 1 << 62, 1 << 62), data=b"")), MalformedFile),
    "40 axes": (root(array((1,) * 40, data=b"\0" * 4)), UnsupportedFeature),
    "40 chunked axes": (
        marked(shape=msgpack.packb({str(i): 1 for i in range(40)})),
        UnsupportedFeature,
    ),
    "big-endian dtype": (root(array(dtype=">f4")), UnsupportedFeature),
    "record dtype": (root(array(dtype="void64")), UnsupportedFeature),
    "raw dtype": (root(array(dtype="V8")), UnsupportedFeature),
    "object dtype": (root(array(dtype="object")), UnsupportedFeature),
    "long dtype": (root(array(dtype="float32" * 20)), UnsupportedFeature),
    "dtype no UTF-8": (root(array(dtype=b"\xff\xfe")), UnsupportedFeature),
    "dtype a number": (root(array(dtype=4)), MalformedFile),
    "dtype past the payload": (root(ext(1, b"\x93\x91\x02\xbffloat")) + b"\0" * 99, MalformedFile),
    "values a list": (root(array(data=[0, 0])), MalformedFile),
    "complex of one part": (root(ext(2, msgpack.packb((1.0,)))), MalformedFile),
    "complex of text": (root(ext(2, msgpack.packb((1.0, "a")))), MalformedFile),
    "complex with more after it": (root(ext(2, msgpack.packb((1.0, 2.0)) + b"\0")), MalformedFile),
    "chunked, not true": (marked(__msgpack_chunked_array__=b"\xc2"), MalformedFile),
    "chunked without a shape": (marked(shape=None), MalformedFile),
    "chunked without chunks": (marked(chunks=None), MalformedFile),
    "chunked with more": (marked(more=b"\xc0"), MalformedFile),
    "chunked, no chunk": (marked(shape=msgpack.packb({"0": 0}), chunks=b"\x80"), MalformedFile),
    "chunked shape a number": (marked(shape=b"\x04"), MalformedFile),
    "chunked shape misnumbered": (marked(shape=msgpack.packb({"0": 2, "2": 2})), MalformedFile),
    "chunked shape of text": (marked(shape=msgpack.packb({"0": "a"})), MalformedFile),
    "chunked shape of maps": (marked(shape=msgpack.packb({"0": {}})), MalformedFile),
    "chunked shape of bools": (marked(shape=msgpack.packb({"0": True})), MalformedFile),
    "chunked shape negative": (marked(shape=msgpack.packb({"0": -2, "1": -2})), MalformedFile),
    "chunked shape of another size": (marked(shape=msgpack.packb({"0": 3})), MalformedFile),
    "chunked shape a list": (marked(shape=msgpack.packb([2, 2])), MalformedFile),
    "chunked shape an array": (marked(shape=array(dtype="int32")), MalformedFile),
    "chunked shape nothing": (marked(shape=b"\xc0"), MalformedFile),
    "chunked shape of floats": (marked(shape=msgpack.packb({"0": 4.0})), MalformedFile),
    "chunked shape of scalars": (
        marked(shape=serialization.msgpack_serialize({"0": np.int64(4)})),
        MalformedFile,
    ),
    "chunked shape of arrays": (marked(shape=b"\x81\xa10" + array(dtype="int32")), MalformedFile),
    "chunked shape with more": (marked(shape=msgpack.packb({"0": 4, "a": 1})), MalformedFile),
    "chunks a list": (marked(chunks=b"\x91" + array()), MalformedFile),
    "chunks an array": (marked(chunks=array()), MalformedFile),
    "chunks with more": (
        marked(shape=msgpack.packb({"0": 2}), chunks=b"\x82\xa10" + array() + b"\xa1a" + array()),
        MalformedFile,
    ),
    "chunks of scalars": (
        marked(shape=msgpack.packb({"0": 1}), chunks=serialization.msgpack_serialize({"0": np.float32(1)})),
        MalformedFile,
    ),
    "chunks of numbers": (marked(chunks=msgpack.packb({"0": 1})), MalformedFile),
    "chunks with axes": (
        marked(chunks=b"\x81\xa10" + array((2, 2), data=b"\0" * 16)),
        MalformedFile,
    ),
    "chunks of two dtypes": (
        marked(chunks=b"\x82\xa10" + array() + b"\xa11" + array(dtype="int32")),
        MalformedFile,
    ),
    "metadata no string": (marked(ckptbridge=b"\xc3"), MalformedFile),
    "metadata no JSON": (marked(ckptbridge=b"\xa1{"), MalformedFile),
    "metadata of the future": (marked(ckptbridge=msgpack.packb('{"version":9}')), MalformedFile),
    "metadata twice": (root(chunks(ckptbridge=TEXT), chunks(ckptbridge=TEXT)), MalformedFile),
    "metadata at the root and in a leaf": (
        b"\x82" + msgpack.packb("__ckptbridge__") + TEXT + b"\xa1a" + chunks(ckptbridge=TEXT),
        MalformedFile,
    ),
}


@pytest.mark.parametrize("case", BAD, ids=str)
def test_bad_input_gets_its_own_error_class(tmp_path, case):
    data, expected = BAD[case]
    with refused(expected, str(tmp_path / "bad")):
        read_bytes(tmp_path / "bad", data)


@pytest.mark.parametrize("number", [0, 200, -3, 1 << 40, np.int64(7), np.int32(-2), np.uint8(255)], ids=repr)
def test_integers_name_entries_in_decimal(tmp_path, number):
    tree = {"layers": {number: {"kernel": np.ones((2, 3), np.float32)}}}
    state = read_bytes(tmp_path / "x", serialization.msgpack_serialize(tree))
    assert list(state) == [("layers", str(int(number)), "kernel")]


def test_lists_named_by_integers_are_found_and_written_with_texts_that_flax_reads(tmp_path):
    tree = {i: {"kernel": np.full((2, 2), i, np.float32)} for i in range(12)}
    (tmp_path / "x").write_bytes(serialization.msgpack_serialize(tree))
    with open_state(tmp_path / "x") as state:
        back = serialization.msgpack_restore(write(tmp_path / "y", state))
    assert {name: leaf["kernel"].tolist() for name, leaf in back.items()} == {
        str(i): layer["kernel"].tolist() for i, layer in tree.items()
    }


def test_an_error_about_a_name_names_the_map_that_holds_it(tmp_path):
    with refused(MalformedFile, "'a'", "bool", hint="Rename", key=("a",)):
        read_bytes(tmp_path / "x", b"\x81\xa1a\x81\xc3\xc0")


def test_the_builders_of_bad_input_make_good_files_when_nothing_is_changed(tmp_path):
    state = read_bytes(tmp_path / "x", root(array(), chunks(ckptbridge=TEXT)))
    assert {key: state.spec(key).shape for key in state} == {("n0",): (2,), ("n1",): (2, 2)}
    assert state.layout == "neutral"


def test_an_error_names_the_tensor(tmp_path):
    with refused(MalformedFile, "-1", key=("a", "n1")):
        read_bytes(tmp_path / "x", b"\x81\xa1a" + root(array(), array((-1,))))


def test_metadata_above_the_limit_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr("bridge_flax.msgpack.state.MAX_METADATA", 10)
    with refused(LimitExceeded, "10 bytes"):
        read_bytes(tmp_path / "x", marked(ckptbridge=TEXT))


def test_too_many_entries_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(msgpack_wire, "_MAX_ENTRIES", 100)
    with refused(LimitExceeded, "100 entries"):
        read_bytes(tmp_path / "x", root(*[root(*[b"\xc0"] * 20)] * 20))
    with refused(LimitExceeded, "100 entries"):
        write(tmp_path / "y", FlatState({(str(i),): np.zeros(1) for i in range(101)}))


def test_the_deepest_tree_that_is_written_is_read_back(tmp_path):
    state = FlatState({("d",) * msgpack_wire.MAX_DEPTH: np.arange(3)}, layout="neutral")
    write(tmp_path / "x", state)
    assert list(read(tmp_path / "x")) == list(state)


def mutants(data: bytes, count: int):
    """Damaged copies: bytes changed, cut out, doubled, swapped for another head, and cut ends."""
    rng = random.Random(5)
    for _ in range(count):
        mutant = bytearray(data)
        for _ in range(rng.randint(1, 3)):
            at = rng.randrange(len(mutant))
            how = rng.randrange(5)
            if how == 0:
                mutant[at] = rng.randrange(256)
            elif how == 1:
                mutant[at] ^= 1 << rng.randrange(8)
            elif how == 2:
                del mutant[at : at + rng.randint(1, 9)]
            elif how == 3:
                mutant[at:at] = mutant[at : at + rng.randint(1, 40)]
            else:
                mutant[at : at + 5] = struct.pack(
                    ">BI", rng.choice(b"\xdf\xdd\xdb\xc6\xc9"), rng.getrandbits(32)
                )
        yield bytes(mutant or b"\0")


def test_damaged_files_give_tensors_or_an_error_of_ours(tmp_path, monkeypatch):
    monkeypatch.setattr(msgpack_writer, "MAX_CHUNK_SIZE", 24)
    small = {("p", "w"): values("float32", (3, 4)), ("p", "b"): values("int8", (2,)), ("s",): np.array(1.0)}
    good = write(tmp_path / "x", FlatState(small, layout="neutral", metadata=LAYERS))
    extra = msgpack.packb({"a": 1, "b": None, "c": "text", "d": [1.5]})[1:]
    good = bytes([good[0] + 4]) + good[1:] + extra
    read_bytes(tmp_path / "good", good)
    outcomes = set()
    for mutant in (*mutants(good, 1500), *(good[:n] for n in range(len(good)))):
        try:
            with read_bytes(tmp_path / "y", mutant) as state:
                for key in state:
                    assert state[key].shape == state.spec(key).shape
            outcomes.add("read")
        except BridgeError as err:
            str(err)
            outcomes.add(type(err).__name__)
        with SourceFile(tmp_path / "y") as file:
            FORMAT.sniff(file)
    assert {"read", "MalformedFile", "TruncatedFile", "LimitExceeded", "UnsupportedFeature"} <= outcomes


def test_a_map_that_cannot_fit_is_refused_before_its_entries_are_read(tmp_path, monkeypatch):
    names = b"".join(msgpack.packb(str(i)) + b"\xc0" for i in range(50_000))
    reads = count_reads(monkeypatch)
    with refused(TruncatedFile, f"{2 << 20} bytes", f"{len(names)} bytes"):
        read_bytes(tmp_path / "x", b"\xdf" + (1 << 20).to_bytes(4, "big") + names)
    assert sum(reads) < 64 << 10


def test_every_truncation_is_called_one(tmp_path):
    good = write(tmp_path / "x", FlatState({("a", "b"): np.arange(3), ("c",): np.array(1.0)}))
    for length in range(len(good)):
        with refused(TruncatedFile):
            read_bytes(tmp_path / "y", good[:length])


# --- what a writer must refuse before it writes


@pytest.mark.parametrize(
    ("state", "error"),
    [
        ({("a",): np.zeros(1), ("a", "b"): np.zeros(1)}, KeyConflict),
        ({("a", "b"): np.zeros(1), ("a",): np.zeros(1)}, KeyConflict),
        ({(): np.zeros(1)}, KeyConflict),
        ({("a", "__msgpack_chunked_array__"): np.zeros(1)}, KeyConflict),
        ({("__ckptbridge__",): np.zeros(1)}, KeyConflict),
        ({("a", "x\ud800"): np.zeros(1)}, UnsupportedFeature),
        ({("a" * 70000,): np.zeros(1)}, UnsupportedFeature),
        ({("a",): np.zeros((1,) * 33)}, UnsupportedFeature),
        ({("a",) * 501: np.zeros(1)}, LimitExceeded),
        ({("a",) * 5000: np.zeros(1)}, LimitExceeded),
    ],
    ids=[
        "prefix",
        "prefix later",
        "no name",
        "chunk mark",
        "root entry",
        "surrogate",
        "long",
        "axes",
        "deep",
        "deeper",
    ],
)
def test_what_cannot_be_stored_is_refused_before_a_byte_is_written(tmp_path, state, error):
    with refused(error):
        write(tmp_path / "x", FlatState(state))
    assert (tmp_path / "x").read_bytes() == b""


def test_reserved_names_are_refused_for_empty_nodes_too(tmp_path):
    state = FlatState({}, metadata=StateMetadata(empty=(("a", "__msgpack_chunked_array__"),)))
    with refused(
        KeyConflict, "__msgpack_chunked_array__", hint="Rename", key=("a", "__msgpack_chunked_array__")
    ):
        write(tmp_path / "x", state)


def test_metadata_above_the_limit_is_not_written(tmp_path, monkeypatch):
    monkeypatch.setattr(msgpack_writer, "MAX_METADATA", 10)
    with refused(LimitExceeded, "10 bytes"):
        write(tmp_path / "x", FlatState(STATE, layout="neutral"))


# --- sniffing


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", False),
        (b"\x80", True),
        (b"\x81", True),
        (b"\x80\x02}q\0.", False),
        (b"\x80\x04\x95", False),
        (b"\x89HDF\r\n\x1a\n", False),
        (b"\x89PNG\r\n\x1a\n", False),
        (b"PK\x03\x04", False),
        (b"\x82\xa5\0\0\0\0\0\0{", False),
        (b"\x88\x01\0\0\0\0\0\0{", False),
        (b"{}", False),
        (b"GGUF\x03\0\0\0", False),
        (root(b"\xc0"), True),
        (root(*[b"\xc0"] * 16), True),
        (b"\xdf\0\0\0\x01\xda\0\x01a\xc0", True),
        (b"\x81\xd9\x20" + b"a" * 32 + b"\xc0", True),
        (b"\x81\xa0\xc0", True),
    ],
    ids=repr,
)
def test_files_are_known_by_their_content(tmp_path, data, expected):
    (tmp_path / "x").write_bytes(data)
    with SourceFile(tmp_path / "x") as file:
        assert FORMAT.sniff(file) is expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [("x", True), ("checkpoint", True), ("x.msgpack", True), ("x.MSGPACK", True)]
    + [(f"x{suffix}", False) for suffix in (".bin", ".pt", ".safetensors", ".npz", ".h5", ".json", ".x")],
)
def test_an_empty_map_is_one_only_under_a_name_of_its_own(tmp_path, name, expected):
    (tmp_path / name).write_bytes(b"\x80")
    with SourceFile(tmp_path / name) as file:
        assert FORMAT.sniff(file) is expected


def test_a_shape_of_another_type_is_named(tmp_path):
    for shape, kind in ((array(dtype="int32"), "array"), (msgpack.packb([2, 2]), "array"), (b"\xc0", "nil")):
        with refused(MalformedFile, "'shape'", f"got a value of type {kind}"):
            read_bytes(tmp_path / "x", marked(shape=shape))
    with refused(MalformedFile, "'shape'", "'0', '2'"):
        read_bytes(tmp_path / "x", marked(shape=msgpack.packb({"0": 2, "2": 2})))


@pytest.mark.parametrize("more", [{}, {"bias": np.ones(2)}, {"bias": None}])
def test_values_that_orbax_keeps_elsewhere_are_refused(tmp_path, more):
    tree = {"params": {"fc": {"kernel": "PLACEHOLDER://params.fc.kernel", **more}}}
    with refused(
        UnsupportedFeature, "Orbax", hint=("folder", "ckptbridge-orbax"), key=("params", "fc", "kernel")
    ):
        read_bytes(tmp_path / "checkpoint", serialization.msgpack_serialize(tree))


def test_texts_are_read_where_they_are_asked_for(tmp_path):
    tree = {
        "a": {"w": "PLACEHOLDER://a.w", "t": "é", "b": b"x", "n": None},
        "v": np.ones(2),
        "z": "z" * (1 << 17),
    }
    (tmp_path / "checkpoint").write_bytes(serialization.msgpack_serialize(tree))
    state, texts = MsgpackFormat().open_with_texts(SourceFile(tmp_path / "checkpoint"))
    assert texts == {("a", "w"): "PLACEHOLDER://a.w", ("a", "t"): "é"}
    assert list(state) == [("v",)]
    np.testing.assert_array_equal(state["v"], np.ones(2))
    (note,) = state.metadata.notes
    assert all(text in note for text in ("a/b (bytes)", "a/n (None)", "z (string)"))
    state.close()


def test_a_text_that_is_not_unicode(tmp_path):
    (tmp_path / "checkpoint").write_bytes(b"\x82\xa1a\xa2\xff\xfe\xa1b\x01")
    with SourceFile(tmp_path / "checkpoint") as file, refused(MalformedFile, "UTF-8", key=("a",)):
        MsgpackFormat().open_with_texts(file)


def test_other_texts_and_nothing_are_left_out_and_noted(tmp_path):
    tree = {"a": {"kernel": np.ones(2), "name": "PLACEHOLDER:/x", "none": None, "b": b"PLACEHOLDER://x"}}
    state = read_bytes(tmp_path / "x.msgpack", serialization.msgpack_serialize(tree))
    assert list(state) == [("a", "kernel")]
    (note,) = state.metadata.notes
    assert note.startswith("left out, since these leaves hold no numbers: ")
    assert all(text in note for text in ("a/name (string)", "a/none (None)", "a/b (bytes)"))
    plan = plan_conversion(tmp_path / "x.msgpack", to="flax")
    assert note in plan.notes


def test_closing_the_state_closes_the_file(tmp_path):
    write(tmp_path / "x", FlatState(STATE))
    state = read(tmp_path / "x")
    state.close()
    with pytest.raises(BridgeError):
        state[("step",)]
