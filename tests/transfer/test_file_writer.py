"""How a laid-out file is filled: one plan for each tensor, and the checksums of all that is written."""

from __future__ import annotations

import zlib
from collections import Counter

import numpy as np
import pytest

from bridge_core import FileImage, FlatState, convert, open_state, save_state
from bridge_core.formats import Extent
from bridge_core.io.source_file import SourceFile
from bridge_core.ops.chain import chain_tensors
from bridge_core.ops.shape import Permute
from bridge_core.state.tensors import ArrayTensor, FileTensor, TensorSpec
from bridge_core.transfer import block_plan, file_writer
from bridge_core.transfer.block_plan import plan_blocks
from bridge_core.transfer.budget import Budget
from bridge_core.transfer.file_writer import FileTarget

MB = 1 << 20
WIDE = np.random.default_rng(3).integers(0, 1 << 16, (1200, 900), np.uint16)


@pytest.fixture
def stored(tmp_path):
    """A tensor over a file, with the values of `WIDE`."""
    (tmp_path / "source").write_bytes(b"head" + WIDE.tobytes())
    with SourceFile(tmp_path / "source") as file:
        yield FileTensor(file, 4, TensorSpec(WIDE.shape, WIDE.dtype))


def turned(tensor):
    return chain_tensors((tensor,), (Permute((1, 0)),))[0]


def filled(path, tensors, *, seeds=(), finish=True, pack=(), gap=0, workers=2, max_ram=2 * MB, sums=True):
    """Fill a file with tensors in two extents each; return their bytes, what `finish` got, and the target."""
    pack, seeds = dict(pack), dict(seeds)
    slots, position = {}, 16
    for key, tensor in tensors.items():
        nbytes = tensor.spec.nbytes // pack.get(key, 1)
        half = nbytes // 2
        slots[key] = (Extent(0, half, position), Extent(half, nbytes - half, position + half + gap))
        position += nbytes + 2 * gap
    given = {}
    image = FileImage(
        position,
        ((0, b"begin"),),
        slots,
        seeds,
        (lambda crcs: given.update(crcs) or ()) if finish else None,
        pack,
    )
    path.write_bytes(b"")
    target = FileTarget(path, Budget(workers, max_ram), sums=sums)
    target.fill(FlatState(tensors), image)
    written = path.read_bytes()
    return (
        {k: b"".join(written[e.offset : e.offset + e.nbytes] for e in slots[k]) for k in slots},
        given,
        target,
    )


CASES = {
    "copied": lambda stored: (stored, WIDE),
    "transposed, cut both ways": lambda stored: (turned(stored), WIDE.T),
    "transposed in memory": lambda stored: (ArrayTensor(WIDE.T), WIDE.T),
    "no axes": lambda stored: (ArrayTensor(np.float64(5)), np.float64(5)),
    "no elements": lambda stored: (ArrayTensor(np.empty((0, 5), "f4")), np.empty((0, 5), "f4")),
}


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("most", [False, True], ids=["one of many", "most of the file"])
@pytest.mark.parametrize("seed", [0, 12345])
@pytest.mark.parametrize("case", CASES)
def test_bytes_and_checksums_of_a_tensor_are_right_however_it_is_cut(
    tmp_path, stored, case, seed, most, workers
):
    tensor, values = CASES[case](stored)
    tensors = {("w",): tensor}
    if not most:
        tensors["rest",] = ArrayTensor(np.zeros((1, 8 * MB), np.uint8))
    written, given, target = filled(tmp_path / "out", tensors, seeds={("w",): seed}, gap=7, workers=workers)
    data = np.ascontiguousarray(values).tobytes()
    assert written["w",] == data
    assert target.checksums["w",] == zlib.crc32(data)
    assert given["w",] == zlib.crc32(data, seed)


@pytest.mark.parametrize("per_byte", [2, 4])
def test_packed_tensors_have_the_checksum_of_their_values_and_of_what_is_written(tmp_path, per_byte):
    values = np.random.default_rng(per_byte).integers(0, 256, (3, 350_001, 4), np.uint8)
    written, given, target = filled(
        tmp_path / "out", {("w",): ArrayTensor(values)}, seeds={("w",): 99}, pack={("w",): per_byte}
    )
    bits = 8 // per_byte
    narrow = values.reshape(-1, per_byte) & ((1 << bits) - 1)
    packed = sum(narrow[:, lane].astype(np.uint16) << bits * lane for lane in range(per_byte)).astype(
        np.uint8
    )
    assert written["w",] == packed.tobytes()
    assert target.checksums["w",] == zlib.crc32(values)
    assert given["w",] == zlib.crc32(packed, 99)


def test_packed_tensors_are_not_copied_by_the_system(tmp_path, stored):
    values = FileTensor(stored.file, 4, TensorSpec((WIDE.nbytes,), np.dtype("u1")))
    written, _, _ = filled(tmp_path / "out", {("w",): values}, pack={("w",): 2}, finish=False)
    low = WIDE.view(np.uint8).reshape(-1, 2) & 15
    assert written["w",] == (low[:, 0] | low[:, 1] << 4).tobytes()


def test_checksums_are_taken_only_if_somebody_wants_them(tmp_path, stored, monkeypatch):
    monkeypatch.setattr(SourceFile, "copy_to", lambda *args: False)
    tensors = {("w",): turned(stored), ("v",): stored}
    assert not plan_blocks(("w",), tensors["w",], Budget(2, 2 * MB).block).contiguous
    assert filled(tmp_path / "a", tensors, finish=False, sums=False)[2].checksums == {}
    assert filled(tmp_path / "b", tensors, finish=False)[2].checksums.keys() == tensors.keys()
    assert filled(tmp_path / "c", tensors, sums=False)[1].keys() == tensors.keys()


@pytest.mark.parametrize("can", [True, False])
def test_what_the_system_copies_is_not_read(tmp_path, stored, monkeypatch, can):
    """And where it cannot, the bytes are read and written as others are."""
    reads = []
    read_into = SourceFile.read_into
    monkeypatch.setattr(SourceFile, "read_into", lambda s, at, b: (reads.append(at), read_into(s, at, b)))
    if not can:
        monkeypatch.setattr(SourceFile, "copy_to", lambda *args: False)
    elif not copies(tmp_path, stored):
        pytest.skip("this file system does not copy")
    written, _, target = filled(tmp_path / "out", {("w",): stored}, finish=False)
    assert written["w",] == WIDE.tobytes()
    assert bool(reads) is not can
    assert target.checksums == ({} if can else {("w",): zlib.crc32(WIDE)})


def copies(tmp_path, stored):
    with (tmp_path / "try").open("wb") as out:
        return stored.file.copy_to(out.fileno(), 0, 10, 0)


def test_each_tensor_is_planned_once_and_read_in_the_order_of_the_source(tmp_path, monkeypatch):
    rng = np.random.default_rng(1)
    shapes = {"z.weight": (700, 1900), "a.weight": (30, 40), "m.weight": (2000, 900)}
    shapes |= {name.replace("weight", "bias"): shape[:1] for name, shape in shapes.items()}
    tensors = {name: rng.random(shape, np.float32) for name, shape in shapes.items()}
    save_state(FlatState(tensors, layout="torch"), tmp_path / "in.safetensors")
    planned, orders, begun = Counter(), Counter(), []
    memory_order_of, read_blocks = block_plan.memory_order_of, file_writer.read_blocks

    def counted_plan(key, *args, **kwargs):
        planned[key] += 1
        return plan_blocks(key, *args, **kwargs)

    def counted_order(tensor):
        orders[id(tensor)] += 1
        return memory_order_of(tensor)

    def noted(plan, *args, **kwargs):
        begun.append((plan.source.offset, plan.key))
        return read_blocks(plan, *args, **kwargs)

    monkeypatch.setattr(file_writer, "plan_blocks", counted_plan)
    monkeypatch.setattr(block_plan, "memory_order_of", counted_order)
    monkeypatch.setattr(file_writer, "read_blocks", noted)
    options = {"to": "flax", "layout": "torch", "max_ram": "1MB", "workers": 1}
    convert(tmp_path / "in.safetensors", tmp_path / "out.safetensors", **options)
    with open_state(tmp_path / "out.safetensors") as state:
        assert planned == dict.fromkeys(state, 1)
        np.testing.assert_array_equal(state.read(("z", "kernel")), tensors["z.weight"].T)
    assert len(orders) == 2
    assert set(orders.values()) == {1}
    assert begun == sorted(begun)
    assert {key for _, key in begun} >= {("z", "kernel"), ("a", "kernel"), ("m", "kernel")}
