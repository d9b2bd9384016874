"""Large files go to the disk while they are written, and are read back on the way."""

from __future__ import annotations

import errno
import gc
import os
import zlib
from pathlib import Path

import numpy as np
import pytest
from support.errors import refused

from bridge_core import (
    FlatState,
    StateMetadata,
    SystemFailure,
    VerificationError,
    convert,
    open_state,
    save_state,
)
from bridge_core.io import page_cache, syscalls
from bridge_core.io.source_file import SourceFile
from bridge_core.ops.chain import chain_tensors
from bridge_core.ops.shape import Permute
from bridge_core.ops.split_concat import Split
from bridge_core.state.tensors import ArrayTensor, FileTensor, TensorSpec
from bridge_core.transfer import file_writer, source_pages, write_behind
from bridge_core.transfer.progress import Meter
from bridge_core.transfer.write_behind import WriteBehind, is_large

KB = 1 << 10
VALUES = np.random.default_rng(5).integers(0, 1 << 16, (700, 900), np.uint16)

pytestmark = pytest.mark.skipif(
    not page_cache.can_drop_pages(), reason="the system cannot take ranges out of the page cache"
)


@pytest.fixture
def everything_is_large(monkeypatch):
    """Let small files be treated as large ones, in small ranges."""
    monkeypatch.setattr(write_behind, "memory_limit", lambda: 1)
    monkeypatch.setattr(write_behind, "RUN", 64 * KB)
    monkeypatch.setattr("bridge_core.transfer.file_writer.RUN", 64 * KB)
    monkeypatch.setattr(write_behind, "_WINDOW", 128 * KB)


@pytest.fixture
def dropped(monkeypatch):
    """Bytes that were taken out of the page cache, by file."""
    ranges = {}

    def drop(fd, offset, nbytes):
        ranges.setdefault(os.fstat(fd).st_ino, []).append((offset, nbytes))
        page_cache.drop_pages(fd, offset, nbytes)

    monkeypatch.setattr(write_behind, "drop_pages", drop)
    return ranges


def state():
    """A state whose tensors are moved in every way: from memory, transposed, and tied."""
    turned = chain_tensors((ArrayTensor(VALUES),), (Permute((1, 0)),))[0]
    tensors = {
        ("a", "kernel"): ArrayTensor(VALUES),
        ("b", "kernel"): turned,
        ("c", "bias"): ArrayTensor(np.arange(7, dtype=np.float32)),
        ("d", "bias"): ArrayTensor(np.empty(0, np.float32)),
    }
    return FlatState(tensors, layout="flax")


@pytest.mark.parametrize("options", [{}, {"max_shard_size": "1MB"}, {"workers": 1, "max_ram": "1MB"}])
@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize("format", ["safetensors", "npz", "msgpack"])
@pytest.mark.usefixtures("everything_is_large")
def test_the_same_bytes_are_written(tmp_path, monkeypatch, dropped, format, verify, options):
    if format == "npz" and "max_shard_size" in options:
        pytest.skip("npz has no shards")
    save_state(state(), tmp_path / "behind", format=format, verify=verify, **options)
    assert bool(dropped) is (format != "npz" or not verify)
    monkeypatch.setattr(write_behind, "memory_limit", lambda: 1 << 60)
    dropped.clear()
    save_state(state(), tmp_path / "usual", format=format, verify=verify, **options)
    assert not dropped
    assert contents(tmp_path / "behind") == contents(tmp_path / "usual")


@pytest.mark.usefixtures("everything_is_large")
def test_each_byte_is_read_back_once_and_dropped(tmp_path, monkeypatch, dropped):
    read = []
    whole = write_behind.read_all
    monkeypatch.setattr(
        write_behind, "read_all", lambda fd, buffer, at: (read.append(len(buffer)), whole(fd, buffer, at))
    )
    again = []
    monkeypatch.setattr(
        "bridge_core.checkpoint.verification.checksum",
        lambda tensor, *_: again.append(tensor.spec.nbytes) or 0,
    )
    save_state(state(), tmp_path / "a.safetensors", verify=True)
    nbytes = state().nbytes
    assert sum(read) == nbytes
    assert again == []  # also not the empty tensor, which is no range at all
    (ranges,) = dropped.values()
    assert sum(length for _, length in ranges) == nbytes
    assert len({offset for offset, _ in ranges}) == len(ranges) > 10
    assert all(length <= 64 * KB for _, length in ranges)


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.usefixtures("everything_is_large")
def test_a_tensor_that_is_written_out_of_order_follows_when_it_is_complete(
    tmp_path, monkeypatch, dropped, workers, verify
):
    monkeypatch.setattr("bridge_core.checkpoint.verification.checksum", None)  # not called
    path = tmp_path / "a.safetensors"
    wide = np.random.default_rng(3).integers(0, 1 << 16, (1200, 900), np.uint16)
    save_state(FlatState({"w": wide}, layout="torch"), path)
    boxes = []
    scatter_box = file_writer.scatter_box
    monkeypatch.setattr(
        file_writer,
        "scatter_box",
        lambda fd, block, *rest: (boxes.append(block), scatter_box(fd, block, *rest)),
    )
    dropped.clear()
    with open_state(path) as source:
        turned = chain_tensors((source.tensor(("w",)),), (Permute((1, 0)),))[0]
        out = tmp_path / "b.safetensors"
        save_state(FlatState({"w": turned}), out, verify=verify, workers=workers, max_ram="1MB")
    assert len(boxes) > 1
    (ranges,) = dropped.values()
    assert sum(nbytes for _, nbytes in ranges) == wide.nbytes
    with open_state(out) as written:
        np.testing.assert_array_equal(written["w"], wide.T)


@pytest.mark.usefixtures("everything_is_large", "dropped")
def test_no_more_than_a_window_is_on_its_way(tmp_path, monkeypatch):
    ahead = []
    on_the_way = 0

    def start(_fd, _offset, nbytes):
        nonlocal on_the_way
        on_the_way += nbytes
        ahead.append(on_the_way)

    def finish(_fd, _offset, nbytes):
        nonlocal on_the_way
        on_the_way -= nbytes

    monkeypatch.setattr(write_behind, "start_writeback", start)
    monkeypatch.setattr(write_behind, "finish_writeback", finish)
    save_state(state(), f"{tmp_path}/a/", format="safetensors", max_shard_size="1MB", workers=1)
    assert 128 * KB < max(ahead) <= 128 * KB + 64 * KB
    assert on_the_way == 0


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.usefixtures("everything_is_large")
def test_tensors_that_the_system_copies_are_compared_too(tmp_path, monkeypatch, dropped, workers):
    save_state(state(), tmp_path / "a.safetensors")
    dropped.clear()
    monkeypatch.setattr("bridge_core.checkpoint.verification.checksum", None)  # not called
    options = {"to": "flax", "workers": workers, "allow_unclaimed": True, "accept_guesses": True}
    report = convert(tmp_path / "a.safetensors", tmp_path / "b.safetensors", **options)
    assert report.verified
    assert sum(nbytes for ranges in dropped.values() for _, nbytes in ranges) == state().nbytes
    with open_state(tmp_path / "b.safetensors") as written:
        for key, tensor in state().items():
            np.testing.assert_array_equal(written[key], np.asarray(tensor))


@pytest.mark.parametrize("which", ["first", "others"])
@pytest.mark.usefixtures("everything_is_large", "dropped")
def test_a_byte_that_is_not_what_was_written_is_found(tmp_path, monkeypatch, which):
    waited = page_cache.finish_writeback
    calls = []

    def spoil(fd, offset, nbytes):
        waited(fd, offset, nbytes)
        if nbytes < 100:
            return
        calls.append(offset)
        if (which == "first") is (len(calls) == 1):
            os.pwrite(fd, bytes([os.pread(fd, 1, offset + 99)[0] ^ 1]), offset + 99)

    monkeypatch.setattr(write_behind, "finish_writeback", spoil)
    with refused(VerificationError, "the values read back differ in"):
        save_state(state(), tmp_path / "a.safetensors", verify=True, workers=1)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("when", [1, 15])
@pytest.mark.parametrize("path", ["a.safetensors", "a/"])
@pytest.mark.usefixtures("everything_is_large", "dropped")
def test_a_write_that_fails_late_is_reported_and_leaves_nothing(tmp_path, monkeypatch, when, path):
    calls = []

    def fail(*_arguments):
        calls.append(1)
        if len(calls) == when:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(write_behind, "finish_writeback", fail)
    before = open_files()
    with refused(SystemFailure, "writing"):
        save_state(state(), f"{tmp_path}/{path}", verify=True)
    assert list(tmp_path.iterdir()) == []
    assert open_files() == before


@pytest.mark.usefixtures("everything_is_large", "dropped")
def test_no_file_stays_open_after_a_failed_sync(tmp_path, monkeypatch):
    def fail(_path):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr("bridge_core.io.atomic_write.sync_file", fail)
    before = open_files()
    with refused(SystemFailure, "writing"):
        save_state(state(), tmp_path / "a.safetensors", verify=True)
    gc.collect()
    assert open_files() == before
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("everything_is_large", "dropped")
def test_no_file_stays_open(tmp_path):
    before = open_files()
    for path in ("a.safetensors", "a/"):
        save_state(state(), f"{tmp_path}/{path}", format="safetensors", max_shard_size=None, verify=True)
        assert open_files() == before


@pytest.mark.usefixtures("everything_is_large", "dropped")
def test_progress_counts_each_byte_twice_and_ends_at_the_total(tmp_path, monkeypatch):
    at_the_end = []
    verified = Meter.verified
    monkeypatch.setattr(
        Meter, "verified", lambda self, *report: (at_the_end.append(report), verified(self, *report))
    )
    reports = []
    metadata = StateMetadata(ties={("tied",): ("a", "kernel")})
    tensors = {key: state().tensor(key) for key in state()}
    tied = FlatState({**tensors, ("tied",): tensors["a", "kernel"]}, metadata=metadata)
    save_state(tied, tmp_path / "a.safetensors", verify=True, progress=reports.append)
    assert [report for report in at_the_end if report[0]] == [(VALUES.nbytes, ("tied",))]
    assert [report.done for report in reports] == sorted(report.done for report in reports)
    assert reports[-1].done == reports[-1].total == 2 * state().nbytes + VALUES.nbytes
    phases = [report.phase for report in reports]
    assert phases == sorted(phases, reverse=True)  # "writing" first, then "verifying"


class Cache:
    """A page cache that holds nothing of some files, and what was dropped from it."""

    def __init__(self, *cold):
        self._cold = {path.stat().st_ino for path in cold}
        self.dropped = []

    def cached_nbytes(self, fd, _offset, nbytes):
        return 0 if os.fstat(fd).st_ino in self._cold else nbytes

    def drop_pages(self, fd, offset, nbytes):
        self.dropped.append((os.fstat(fd).st_ino, offset, nbytes))


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("is_cold", [True, False])
@pytest.mark.usefixtures("everything_is_large", "dropped")
def test_a_source_that_was_not_cached_leaves_the_cache_after_its_last_use(
    tmp_path, monkeypatch, is_cold, workers
):
    path = tmp_path / "a.safetensors"
    save_state(FlatState({"fused": VALUES, "b": VALUES[:1]}, layout="torch"), path)
    cache = Cache(*[path] * is_cold)
    monkeypatch.setattr(source_pages, "cached_nbytes", cache.cached_nbytes)
    monkeypatch.setattr(source_pages, "drop_pages", cache.drop_pages)
    with open_state(path) as source:
        fused = source.tensor(("fused",))
        parts = {(f"p{i}",): chain_tensors((fused,), (Split(0, (200, 500)),))[i] for i in range(2)}
        whole = {("whole",): fused, ("b",): source.tensor(("b",)), ("memory",): ArrayTensor(VALUES)}
        save_state(FlatState({**parts, **whole}), tmp_path / "b.safetensors", verify=True, workers=workers)
        inode = path.stat().st_ino
        ranges = {(inode, t.offset, t.spec.nbytes) for t in (fused, source.tensor(("b",)))}
    assert len(cache.dropped) == (2 if is_cold else 0)
    assert set(cache.dropped) == (ranges if is_cold else set())
    with open_state(tmp_path / "b.safetensors") as written:
        np.testing.assert_array_equal(written["p1"], VALUES[200:])


@pytest.mark.usefixtures("dropped")
def test_the_source_of_a_small_file_is_left_alone(tmp_path, monkeypatch):
    path = tmp_path / "a.safetensors"
    save_state(state(), path)
    cache = Cache(path)
    monkeypatch.setattr(source_pages, "cached_nbytes", cache.cached_nbytes)
    monkeypatch.setattr(source_pages, "drop_pages", cache.drop_pages)
    convert(path, tmp_path / "b.safetensors", to="flax", allow_unclaimed=True, accept_guesses=True)
    assert cache.dropped == []


@pytest.mark.parametrize("verify", [True, False])
def test_a_smaller_file_is_read_back_while_others_are_written_and_stays_cached(
    tmp_path, monkeypatch, dropped, verify
):
    path = tmp_path / "a.safetensors"
    save_state(state(), path)
    cache = Cache(path)
    monkeypatch.setattr(source_pages, "drop_pages", cache.drop_pages)
    monkeypatch.setattr(write_behind, "_LEAST", state().nbytes)
    waited = []
    monkeypatch.setattr(write_behind, "finish_writeback", lambda *run: waited.append(run[2]))
    if verify:
        monkeypatch.setattr("bridge_core.checkpoint.verification.checksum", None)  # not called
    with open_state(path) as source:
        save_state(source, tmp_path / "b.safetensors", verify=verify)
    assert sum(waited) == (state().nbytes if verify else 0)
    assert not dropped
    assert not cache.dropped
    monkeypatch.undo()
    with open_state(tmp_path / "b.safetensors") as written:
        np.testing.assert_array_equal(written["b.kernel"], VALUES.T)


def test_only_a_good_part_of_the_memory_is_large(monkeypatch):
    monkeypatch.setattr(write_behind, "memory_limit", lambda: 8000)
    assert (is_large(999), is_large(1000)) == (False, True)
    monkeypatch.setattr(write_behind, "can_drop_pages", lambda: False)
    assert not is_large(1000)


def test_a_sum_is_of_exactly_the_bytes_of_a_tensor(tmp_path):
    path = tmp_path / "a"
    data = bytes(range(256)) * 8
    path.write_bytes(data)
    behind = WriteBehind(reads_back=True, drops=True)
    fd = syscalls.open_to_write(path)
    for offset, nbytes in ((0, 100), (100, 300), (400, 50), (600, 20)):
        behind.add(path, fd, ("w",), offset, nbytes)
    os.close(fd)
    behind.finish()
    with SourceFile(path) as file:

        def sum_of(offset, nbytes, **options):
            spec = TensorSpec((nbytes,), np.dtype("u1"))
            return behind.sum_of(FileTensor(file, offset, spec, **options))

        assert sum_of(0, 450) == zlib.crc32(data[:450])
        assert sum_of(100, 300) == zlib.crc32(data[100:400])
        assert sum_of(600, 20) == zlib.crc32(data[600:620])
        assert sum_of(0, 0) == 0
        for offset, nbytes in ((0, 99), (0, 460), (50, 50), (599, 20), (600, 21), (2000, 4)):
            assert sum_of(offset, nbytes) is None, (offset, nbytes)
        assert sum_of(0, 100, big_endian=True) is None
        assert behind.sum_of(ArrayTensor(np.zeros(100, "u1"))) is None
        behind.forget()
        assert sum_of(0, 100) is None
    other = tmp_path / "b"
    other.write_bytes(data)
    with SourceFile(other) as file:
        assert behind.sum_of(FileTensor(file, 0, TensorSpec((100,), np.dtype("u1")))) is None


def contents(path):
    """Return the bytes of a file or of the files of a folder."""
    return {p.name: p.read_bytes() for p in path.iterdir()} if path.is_dir() else path.read_bytes()


def open_files():
    """Return how many files this process has open."""
    return len(list(Path("/proc/self/fd").iterdir()))
