"""Checksums of bytes read in any order, in pieces, by several threads: none missed, none paid for twice."""

from __future__ import annotations

import contextlib
import random
import sys
import threading
import zipfile
import zlib

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st

from bridge_core import (
    FileTensor,
    IntegrityError,
    Rule,
    SourceFile,
    TensorSpec,
    TruncatedFile,
    as_state,
    convert,
    open_state,
    save_state,
    verify,
)
from bridge_core.io import checksummed as checked
from bridge_core.io.checksummed import ChecksummedBlocks, ChecksummedRange
from bridge_core.io.crc32 import crc32_combine
from bridge_core.transfer import load_values

DATA = random.Random(0).randbytes(5000)
BEFORE = 100


class Counted:
    """A file that lies in memory, and how many of its bytes were read."""

    name = identity = "counted"

    def __init__(self, data=DATA):
        self.data = bytes(BEFORE) + data + b"behind"
        self.size = len(self.data)
        self.read = 0

    def read_into(self, offset, buffer):
        view = memoryview(buffer)
        view[:] = self.data[offset : offset + len(view)]
        self.read += len(view)


def checked_range(data=DATA, stated=DATA):
    file = Counted(data)

    def damaged(crc):
        return IntegrityError(f"the CRC-32 is {crc:08x}")

    return file, ChecksummedRange(file, BEFORE, len(data), zlib.crc32(stated), damaged)


def flipped(data, at):
    changed = bytearray(data)
    changed[at] ^= 1 << at % 8
    return bytes(changed)


def read(source, start, stop):
    out = bytearray(stop - start)
    source.read_into(BEFORE + start, out)
    return bytes(out)


def pieces_of(generator, count):
    """Ranges that cut everything into so many pieces, shuffled."""
    cuts = sorted(generator.sample(range(1, len(DATA)), count - 1))
    pieces = list(zip([0, *cuts], [*cuts, len(DATA)], strict=True))
    generator.shuffle(pieces)
    return pieces


# ---- joining


@given(st.binary(max_size=300), st.binary(max_size=300))
def test_the_crc_of_two_pieces_follows_from_those_of_each(first, second):
    joined = crc32_combine(zlib.crc32(first), zlib.crc32(second), len(second))
    assert joined == zlib.crc32(first + second)


@pytest.mark.parametrize("length", [1, 255, 4096, 65537, (1 << 24) + 3])
def test_long_second_pieces_join_as_well(length):
    second = np.random.default_rng(length).bytes(length)
    assert crc32_combine(zlib.crc32(b"abc"), zlib.crc32(second), length) == zlib.crc32(b"abc" + second)


def test_joining_is_associative_beyond_32_bits_of_length():
    a, b, c = 0x12345678, 0x9ABCDEF0, 0x0FEDCBA9
    size = (5 << 32) + 7
    left = crc32_combine(crc32_combine(a, b, size), c, size)
    assert left == crc32_combine(a, crc32_combine(b, c, size), 2 * size)


# ---- one range


@pytest.mark.parametrize("seed", range(20))
def test_pieces_in_any_order_prove_the_range_without_a_second_read(seed):
    generator = random.Random(seed)
    file, source = checked_range()
    for start, stop in pieces_of(generator, generator.randrange(1, 200)):
        assert read(source, start, stop) == DATA[start:stop]
    assert file.read == len(DATA)
    source.verify()
    assert file.read == len(DATA)


@pytest.mark.parametrize("seed", range(20))
def test_the_last_piece_finds_a_flipped_bit_and_so_does_every_later_one(seed):
    generator = random.Random(seed)
    _, source = checked_range(flipped(DATA, generator.randrange(len(DATA))))
    *pieces, last = pieces_of(generator, generator.randrange(1, 200))
    for piece in pieces:
        read(source, *piece)
    for piece in (last, last, *pieces[:3]):
        with pytest.raises(IntegrityError):
            read(source, *piece)
    with pytest.raises(IntegrityError):
        source.verify()


@given(st.lists(st.tuples(st.integers(0, 400), st.integers(1, 120)), max_size=60), st.integers(0, 399))
def test_pieces_that_overlap_prove_what_they_cover_together(pieces, at):
    data = DATA[:400]
    ranges = [(start, min(start + length, 400)) for start, length in pieces if start < 400]
    seen = set()
    for stated, damaged in ((data, False), (flipped(data, at), True)):
        seen.clear()
        file, source = checked_range(data, stated)
        for start, stop in ranges:
            seen |= {*range(start, stop)}
            with pytest.raises(IntegrityError) if damaged and len(seen) == 400 else contextlib.nullcontext():
                assert read(source, start, stop) == data[start:stop]
        assert file.read == sum(stop - start for start, stop in ranges)


def test_what_nobody_has_read_is_all_that_verifying_reads():
    file, source = checked_range()
    for start in range(0, 4000, 100):
        read(source, start, start + 60)
    asked = file.read
    source.verify()
    assert file.read == asked + len(DATA) - 40 * 60
    source.verify()
    assert file.read == asked + len(DATA) - 40 * 60


def test_a_part_proves_nothing():
    _, source = checked_range(flipped(DATA, 10))
    for _ in range(5):
        read(source, 0, len(DATA) - 1)


@pytest.mark.parametrize("damaged", [False, True])
def test_pieces_beyond_count_are_checked_by_one_read(monkeypatch, damaged):
    monkeypatch.setattr(checked, "_MOST_RUNS", 50)
    data = flipped(DATA, 4990) if damaged else DATA
    file, source = checked_range(data)
    for at in range(50):
        read(source, 2 * at, 2 * at + 1)
    assert file.read == 50
    with pytest.raises(IntegrityError) if damaged else contextlib.nullcontext():
        read(source, 200, 201)
    assert file.read == 51 + len(DATA)
    with pytest.raises(IntegrityError) if damaged else contextlib.nullcontext():
        read(source, 0, len(DATA))
    assert file.read == 51 + 2 * len(DATA)


def test_ranges_longer_than_what_is_summed_at_once(monkeypatch):
    monkeypatch.setattr(checked, "_CHUNK", 64)
    file, source = checked_range()
    assert read(source, 1000, 5000) == DATA[1000:]
    assert read(source, 0, 3000) == DATA[:3000]
    assert file.read == 7000
    _, source = checked_range(flipped(DATA, 4999))
    with pytest.raises(IntegrityError):
        read(source, 0, 5000)


def test_bytes_that_were_read_elsewhere_count():
    file, source = checked_range()
    source.update(BEFORE, DATA[:128])
    read(source, 128, len(DATA))
    source.verify()
    assert file.read == len(DATA) - 128


@pytest.fixture
def hurried():
    """Let threads take turns as often as they can."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(usual)


@pytest.mark.parametrize("damaged", [False, True])
def test_threads_that_share_a_range_prove_it_together(damaged, hurried):
    for seed in range(20):
        generator = random.Random(seed)
        _, source = checked_range(flipped(DATA, generator.randrange(len(DATA))) if damaged else DATA)
        caught, barrier = [], threading.Barrier(4)

        def work(pieces, source=source, caught=caught, barrier=barrier):
            barrier.wait()
            for piece in pieces:
                try:
                    read(source, *piece)
                except IntegrityError as error:
                    caught.append(error)

        shares = [pieces_of(generator, 40)[:30] for _ in range(2)]
        pieces = pieces_of(generator, 40)
        threads = [threading.Thread(target=work, args=(p,)) for p in (*shares, pieces[:20], pieces[20:])]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert bool(caught) == damaged


# ---- blocks with digests of their own


def checked_blocks(data=DATA, stated=DATA, block=512):
    file, checks = Counted(data), []

    def check(number, found):
        checks.append(number)
        if found != stated[number * block : (number + 1) * block]:
            raise IntegrityError(f"block {number}")

    return file, ChecksummedBlocks(file, BEFORE, len(data), block, check), checks


@pytest.mark.parametrize("seed", range(10))
def test_a_block_is_checked_once_and_before_anything_of_it_is_handed_out(seed):
    generator = random.Random(seed)
    bad = generator.randrange(len(DATA))
    for data in (DATA, flipped(DATA, bad)):
        _, source, checks = checked_blocks(data)
        for start, stop in pieces_of(generator, 60):
            hit = data is not DATA and start // 512 <= bad // 512 <= (stop - 1) // 512
            with pytest.raises(IntegrityError) if hit else contextlib.nullcontext():
                assert read(source, start, stop) == DATA[start:stop]
        good = [number for number in checks if data is DATA or number != bad // 512]
        assert sorted(good) == sorted({*good})
        assert {*checks} == {*range(10)}


def test_reading_whole_blocks_reads_them_once():
    file, source, _ = checked_blocks()
    assert read(source, 512, 2048) == DATA[512:2048]
    assert read(source, 4608, 5000) == DATA[4608:]
    assert file.read == 1536 + 392
    assert read(source, 600, 700) == DATA[600:700]
    assert file.read == 1536 + 392 + 100


def test_a_file_that_ends_early_is_truncated(tmp_path):
    (tmp_path / "x").write_bytes(bytes(BEFORE) + DATA[:100])
    with SourceFile(tmp_path / "x") as file:
        source = ChecksummedRange(file, BEFORE, 5000, 0, IntegrityError)
        spec = TensorSpec((5000,), np.dtype("u1"))
        with pytest.raises(TruncatedFile):
            FileTensor(source, BEFORE, spec).read((slice(0, 5000, 1),))
        with pytest.raises(TruncatedFile):
            source.verify()


# ---- conversions

LAYOUTS = ("torch", "flax")
SPLIT = Rule.rearrange(
    "qkv.weight", ["q.kernel", "k.kernel", "v.kernel"], "(q k v) in -> in q, in k, in v", layouts=LAYOUTS
)
STACK = Rule.rearrange("h.{i:int}.weight", "h.kernel", "out in -> i in out", layouts=LAYOUTS)


def random_array(*shape):
    return np.random.default_rng(sum(shape)).random(shape, "f4")


MODELS = {
    "transposed": ({"l.weight": random_array(900, 1100), "l.bias": random_array(900)}, ()),
    "convolution": ({"c.weight": random_array(130, 120, 5, 5), "c.bias": random_array(130)}, ()),
    "split": ({"qkv.weight": random_array(900, 700)}, (SPLIT,)),
    "stacked": ({f"h.{i}.weight": random_array(500, 700) for i in range(3)}, (STACK,)),
}


def save_torch(tensors, path):
    torch.save({name: torch.from_numpy(array) for name, array in tensors.items()}, path)


def save_strided(tensors, path):
    """Turned, every second row of a larger storage, and next to each other in one."""
    saved = {}
    for number, (name, array) in enumerate(tensors.items()):
        tensor = torch.from_numpy(array)
        if array.ndim > 1 and number % 2 == 0:
            tensor = tensor.transpose(0, 1).contiguous().transpose(0, 1)
        else:
            spread = torch.zeros(2 * len(array), *array.shape[1:])
            spread[1::2] = tensor
            tensor = spread[1::2]
        saved[name] = tensor
    torch.save(saved, path)


WRITERS = {
    "torch.pt": save_torch,
    "strided.pt": save_strided,
    "ours.pt": lambda tensors, path: save_state(torch_state(tensors), path),
    "plain.npz": lambda tensors, path: np.savez(path, **tensors),
    "fortran.npz": lambda tensors, path: np.savez(
        path, **{k: np.asfortranarray(v) for k, v in tensors.items()}
    ),
    "ours.npz": lambda tensors, path: save_state(torch_state(tensors), path),
}
every_writer = pytest.mark.parametrize("writer", WRITERS)
every_model = pytest.mark.parametrize("model", MODELS)


def torch_state(tensors):
    return as_state({tuple(name.split(".")): array for name, array in tensors.items()}, layout="torch")


def flip_a_value(path, generator):
    """Flip a bit of a value in one of the tensors."""
    with zipfile.ZipFile(path) as archive:
        members = [i for i in archive.infolist() if "/data/" in i.filename or i.filename.endswith(".npy")]
    members = [info for info in members if "__ckptbridge__" not in info.filename]
    info = generator.choice(members)
    data = bytearray(path.read_bytes())
    start = data.index(info.filename.encode(), info.header_offset) - 4
    lengths = int.from_bytes(data[start : start + 2], "little") + int.from_bytes(
        data[start + 2 : start + 4], "little"
    )
    skipped = 128 if path.suffix == ".npz" else 0
    at = start + 4 + lengths + generator.randrange(skipped, info.file_size)
    data[at] ^= 1 << generator.randrange(8)
    path.write_bytes(data)


@pytest.mark.parametrize("checking", [True, False], ids=["verified", "unverified"])
@pytest.mark.parametrize("workers", [1, 3])
@every_model
@every_writer
def test_no_flipped_bit_comes_through_a_conversion(tmp_path, writer, model, workers, checking):
    tensors, rules = MODELS[model]
    source, target = tmp_path / writer, tmp_path / "out.msgpack"
    options = {"rules": rules, "layout": "torch", "workers": workers, "max_ram": 1 << 20, "verify": checking}
    WRITERS[writer](tensors, source)
    flip_a_value(source, random.Random(f"{writer}{model}{workers}{checking}"))
    with pytest.raises(IntegrityError) as caught:
        convert(source, target, to="flax", **options)
    assert caught.value.path == str(source)
    assert {*tmp_path.iterdir()} == {source}


@every_model
@every_writer
def test_nothing_is_read_for_the_checksums_alone(tmp_path, monkeypatch, writer, model):
    tensors, rules = MODELS[model]
    source, target = tmp_path / writer, tmp_path / "out.msgpack"
    WRITERS[writer](tensors, source)
    reads, amounts = [], []
    read_into = SourceFile.read_into

    def counting(self, offset, buffer):
        if self.name == str(source):
            reads.append(memoryview(buffer).nbytes)  # one step, since several threads read
        read_into(self, offset, buffer)

    monkeypatch.setattr(SourceFile, "read_into", counting)
    options = {"rules": rules, "layout": "torch", "max_ram": 1 << 20, "verify": False, "overwrite": True}
    for skipped in (False, True):
        reads.clear()
        with monkeypatch.context() as patch:
            if skipped:
                patch.setattr(ChecksummedRange, "update", lambda *args: None)
                patch.setattr(ChecksummedRange, "verify", lambda self: None)
            convert(source, target, to="flax", **options)
        amounts.append(sum(reads))
    rest = source.stat().st_size if writer == "strided.pt" else 0
    assert amounts[0] <= amounts[1] + rest
    if writer != "strided.pt":
        assert amounts[0] == amounts[1]
    assert verify(source, target, rules=rules, layout="torch").equal


@pytest.mark.parametrize("target", ["out.safetensors", "out.pt", "out.npz"])
@every_writer
def test_no_flipped_bit_comes_through_a_copy(tmp_path, writer, target):
    source = tmp_path / writer
    WRITERS[writer](MODELS["transposed"][0], source)
    flip_a_value(source, random.Random(writer + target))
    with pytest.raises(IntegrityError):
        convert(source, tmp_path / target, to="torch", layout="torch", max_ram=1 << 20)
    assert {*tmp_path.iterdir()} == {source}


@every_model
@every_writer
def test_no_flipped_bit_is_loaded(tmp_path, writer, model):
    source = tmp_path / writer
    WRITERS[writer](MODELS[model][0], source)
    flip_a_value(source, random.Random(writer + model))
    with open_state(source) as state, pytest.raises(IntegrityError):
        load_values(state)
