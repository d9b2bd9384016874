from __future__ import annotations

import errno
import json
import subprocess
import sys
import time
import tracemalloc

import h5py
import ml_dtypes
import numpy as np
import pytest
from support.errors import refused

from bridge_core import (
    FlatState,
    LimitExceeded,
    Registry,
    SourceFile,
    StateMetadata,
    SystemFailure,
    TensorSpec,
    UnsupportedFeature,
    as_state,
)
from bridge_core.state.dtypes import DTYPES
from bridge_core.state.metadata import AuxiliaryTensor, LayerInfo
from bridge_core.state.tensors import LazyTensor
from ckptbridge_hdf5 import Hdf5Format
from ckptbridge_hdf5.layout import BLOCK

RNG = np.random.default_rng(0)
START = RNG.bit_generator.state


@pytest.fixture(autouse=True)
def the_same_numbers():
    """A test's numbers do not depend on the tests before it."""
    RNG.bit_generator.state = START


def random(dtype, shape):
    if dtype.name == "bool":
        return RNG.integers(0, 2, shape).astype(bool)
    raw = RNG.bytes(int(np.prod(shape)) * dtype.itemsize)
    return np.frombuffer(raw, dtype).reshape(shape)


def same(left, right):
    return left.dtype == right.dtype and left.shape == right.shape and left.tobytes() == right.tobytes()


@pytest.mark.parametrize("name", DTYPES)
@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (1,), (5, 7, 3)])
def test_every_dtype_and_shape_returns_bit_for_bit(save, load, name, shape):
    array = random(DTYPES[name], shape)
    assert same(load(save({("a",): array}))[("a",)], array)


def test_arrays_of_any_strides_and_byte_order_are_exact(save, load):
    base = RNG.standard_normal((6, 8)).astype("float32")
    tensors = {
        ("transposed",): base.T,
        ("reversed",): base[::-1, ::-2],
        ("broadcast",): np.broadcast_to(base[0], (4, 8)),
        ("big",): base.astype(">f4"),
    }
    state = load(save({k: np.asarray(v, v.dtype.newbyteorder("=")) for k, v in tensors.items()}))
    for key, array in tensors.items():
        np.testing.assert_array_equal(state[key], array)


def test_keys_with_any_characters_keep_their_parts_and_order(save, load):
    keys = [("b", "a"), ("b.a",), ("a/b", "..", ""), ("ü", "\0", "\n"), (), ("0", "\U0001f600")]
    state = load(save({key: np.float32(i) for i, key in enumerate(keys)}))
    assert list(state) == keys
    assert [float(v) for v in state.values()] == list(range(len(keys)))


def test_a_state_without_tensors(save, load):
    assert len(load(save({}))) == 0


def test_metadata_layout_and_extra_return(save, load):
    metadata = StateMetadata(
        layers={("a", "b.c"): LayerInfo("linear", "module", ("kernel",), transforms={"torch": "x"})},
        auxiliary_tensors={("n",): AuxiliaryTensor.of(np.array(7))},
        empty=(("e",),),
        tree_form={"flax": "variables"},
        extra={"format": "pt", "ü": "\0"},
    )
    state = load(save({("a",): np.zeros(2)}, layout="neutral", metadata=metadata))
    assert state.layout == "neutral"
    assert state.metadata == metadata


def test_tied_keys_share_one_dataset_and_one_tensor(save, load):
    tensor = LazyTensor(TensorSpec((3,), np.dtype("f4")), lambda region: np.arange(3, dtype="f4")[region])
    metadata = StateMetadata(ties={("c",): ("b",), ("b",): ("a",)})
    tensors = {("c",): tensor, ("x",): np.ones(2), ("a",): tensor, ("b",): tensor}
    path = save(FlatState(tensors, metadata=metadata))
    state = load(path)
    assert list(state) == list(tensors)
    assert state.tensor(("a",)) is state.tensor(("b",)) is state.tensor(("c",))
    assert state.metadata.ties == metadata.ties
    with h5py.File(path) as file:
        assert len(file["t"]) == 2


def test_equal_tensors_that_are_not_tied_are_stored_apart(save):
    array = LazyTensor(TensorSpec((3,), np.dtype("f4")), lambda region: np.arange(3, dtype="f4")[region])
    with h5py.File(save({("a",): array, ("b",): array})) as file:
        assert len(file["t"]) == 2


def test_tied_names_with_other_values_keep_them(save, load):
    metadata = StateMetadata(ties={("b",): ("a",)})
    state = load(save({("a",): np.zeros(2), ("b",): np.ones(2)}, metadata=metadata))
    assert state[("b",)].tolist() == [1, 1]


def test_all_bfloat16_patterns_are_exact_and_are_numbers_for_h5py(save, load):
    array = np.arange(1 << 16, dtype="uint16").view(ml_dtypes.bfloat16)
    path = save({("a",): array})
    assert same(load(path)[("a",)], array)
    with h5py.File(path) as file:
        dataset = file["t/000000"]
        assert dataset.id.get_type().get_size() == 2
        np.testing.assert_array_equal(dataset[:].astype("f4"), array.astype("f4"))


@pytest.mark.parametrize("name", [n for n, d in DTYPES.items() if d.isbuiltin == 1])
def test_plain_h5py_reads_the_same_values(save, name):
    array = random(DTYPES[name], (4, 5))
    with h5py.File(save({("a",): array})) as file:
        assert same(file["t/000000"][:], array)


def test_the_file_is_plain_contiguous_hdf5_with_its_index(save):
    path = save({("a", "b"): np.zeros((2, 3), "f4"), ("c",): np.float64(1)})
    with h5py.File(path) as file:
        assert file.userblock_size == 512
        assert file["ckptbridge"].dtype == np.uint8
        index = json.loads(file["ckptbridge"][:].tobytes())
        assert index["keys"] == [[["a", "b"], 0], [["c"], 1]]
        for entry in index["tensors"]:
            dataset = file[entry["path"]]
            assert dataset.chunks is None
            assert not dataset.attrs
            assert dataset.id.get_offset() == entry["offset"]
            assert list(dataset.shape) == entry["shape"]


def test_equal_states_give_equal_bytes_whatever_the_blocks(save):
    tensors = {("a",): random(DTYPES["float32"], (700, 999)), ("b",): random(DTYPES["bfloat16"], (3,))}
    first = save(tensors, "1.h5", elements=1 << 30).read_bytes()
    time.sleep(1.1)  # the clock in HDF5 headers counts seconds
    assert save(tensors, "2.h5", elements=777).read_bytes() == first
    assert save(tensors, "3.h5", elements=BLOCK // 4).read_bytes() == first


@pytest.fixture
def counted(monkeypatch):
    total = [0]
    read = SourceFile.read_into

    def counting(self, offset, buffer):
        total[0] += memoryview(buffer).nbytes
        read(self, offset, buffer)

    monkeypatch.setattr(SourceFile, "read_into", counting)
    return total


def test_opening_and_partial_reads_touch_little(save, load, counted):
    array = random(DTYPES["float32"], (2048, 2048))
    path = save({("a",): array})
    state = load(path)
    assert 0 < counted[0] < 20_000
    counted[0] = 0
    assert same(state.read(("a",), 100), array[100])
    assert counted[0] == BLOCK
    counted[0] = 0
    assert same(state.read(("a",), (slice(127, 129), slice(None))), array[127:129])
    assert counted[0] == array[127].nbytes + BLOCK  # the block of row 127 is proven


@pytest.mark.parametrize(
    "index",
    [
        (...,),
        (slice(None), 5),
        (slice(None, None, 200), slice(3, None, 7)),
        (slice(1, 3), slice(None), slice(9, 10)),
        (slice(None, None, -1), slice(10, 5, -2)),
        (2, slice(0, 0)),
        (-1, -1, -1),
    ],
)
def test_regions_across_blocks_equal_slices_of_the_whole(save, load, index):
    array = random(DTYPES["float32"], (3, 500, 601))
    state = load(save({("pad",): np.zeros(3, "i1"), ("a",): array}))
    np.testing.assert_array_equal(state.read(("a",), index).view("u4"), array[index].view("u4"))


def test_writing_takes_memory_for_blocks_not_for_tensors(tmp_path):
    class Blocks:
        path = tmp_path / "model.h5"

        def blocks(self, state, key):
            block = np.ones(1 << 16, "f4")
            yield from (block for _ in range(256))

    Blocks.path.touch()
    spec = TensorSpec((256, 1 << 16), np.dtype("f4"))
    state = as_state({("a",): LazyTensor(spec, lambda region: np.ones(1))})
    h5py.version  # noqa: B018 - the import itself is not what is measured
    tracemalloc.start()
    Hdf5Format().write(state, Blocks())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert Blocks.path.stat().st_size > spec.nbytes
    assert peak < spec.nbytes / 16


@pytest.mark.parametrize(
    ("tensors", "named", "key"),
    [
        ({("ok",): np.zeros(2), ("\ud800",): np.zeros(2)}, "surrogate", ("\ud800",)),
        ({("a",): np.zeros((1,) * 33)}, "33 axes", ("a",)),
    ],
    ids=["lone surrogate", "33 axes"],
)
def test_what_cannot_be_stored_is_refused_before_any_byte(save, tmp_path, tensors, named, key):
    with refused(UnsupportedFeature, named, key=key):
        save(tensors)
    assert (tmp_path / "model.h5").read_bytes() == b""


@pytest.mark.parametrize("call", ["os.open", "os.ftruncate", "bridge_core.io.syscalls.pwrite"])
def test_a_full_disk_is_a_failure_of_the_system(save, monkeypatch, call):
    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(call, full)
    with refused(SystemFailure, "No space left", "model.h5") as caught:
        save({("a",): np.zeros(3)})
    assert caught.value.errno == errno.ENOSPC


def test_a_tensor_with_too_many_blocks_is_refused_before_any_byte(save, tmp_path):
    huge = LazyTensor(TensorSpec((1 << 60,), np.dtype("u1")), lambda region: np.zeros(1, "u1"))
    with refused(LimitExceeded, hint="--max-shard-size"):
        save({("a",): huge})
    assert (tmp_path / "model.h5").read_bytes() == b""


@pytest.mark.parametrize("offset", [0, 512, 1024, 2048, 1 << 20])
def test_sniff_finds_the_signature_where_hdf5_allows_it(tmp_path, offset):
    path = tmp_path / "any.name"
    path.write_bytes(b"\0" * offset + b"\x89HDF\r\n\x1a\n")
    with SourceFile(path) as file:
        assert Hdf5Format().sniff(file)


@pytest.mark.parametrize("content", [b"", b"\x89HDF", b"\0" * 5000, b"\0" * 256 + b"\x89HDF\r\n\x1a\n" * 9])
def test_sniff_refuses_other_files(tmp_path, content):
    path = tmp_path / "model.h5"
    path.write_bytes(content)
    with SourceFile(path) as file:
        assert not Hdf5Format().sniff(file)


def test_the_plugin_registers_and_loads_h5py_only_to_write():
    import ckptbridge_hdf5

    assert list(Registry().extend(ckptbridge_hdf5).formats) == ["hdf5"]
    code = "import ckptbridge_hdf5, sys; assert 'h5py' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
