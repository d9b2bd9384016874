"""What tensors may rely on, whatever their bytes are read from."""

from __future__ import annotations

import random
import re
import zlib

import numpy as np
import pytest

from bridge_core import FileTensor, IntegrityError, SourceFile, TensorSpec, TruncatedFile
from bridge_core.io import ByteSource, ChecksummedBlocks, ChecksummedRange, syscalls
from bridge_flax.msgpack.reader import ChunkSource

DATA = random.Random(1).randbytes(6000)
BEFORE = 100
BYTE = np.dtype("u1")


class Memory(ByteSource):
    """The least that a source has to define."""

    name = identity = "memory"

    def __init__(self, data):
        self.data = data
        self.size = len(data)
        self.asked = []

    def read_into(self, offset, buffer):
        view = memoryview(buffer).cast("B")
        self.asked.append((offset, len(view)))
        view[:] = self.data[offset : offset + len(view)]


def source_file(file):
    return file


def checksummed_range(file):
    return ChecksummedRange(file, BEFORE, len(DATA), zlib.crc32(DATA), lambda crc: IntegrityError(f"{crc}"))


def checksummed_blocks(file):
    def check(number, block):
        assert block == DATA[512 * number : 512 * (number + 1)]

    return ChecksummedBlocks(file, BEFORE, len(DATA), 512, check)


def chunks(file):
    """The same bytes from chunks that do not follow each other in the file."""
    ranges = [(0, 1000), (1000, 1000), (1000, 1007), (1007, 4500), (4500, len(DATA))]
    places, position = [BEFORE], 2 * BEFORE + len(DATA)
    for start, stop in ranges[1:]:
        places.append(position)
        position += stop - start + 10
    with file.path.open("r+b") as out:
        for (start, stop), place in zip(ranges, places, strict=True):
            out.seek(place)
            out.write(DATA[start:stop])
    specs = [TensorSpec((stop - start,), BYTE) for start, stop in ranges]
    return ChunkSource(file, [FileTensor(file, at, spec) for at, spec in zip(places, specs, strict=True)])


def memory(file):
    return Memory(bytes(BEFORE) + DATA)


MAKERS = (source_file, checksummed_range, checksummed_blocks, chunks, memory)


@pytest.fixture(params=MAKERS, ids=[maker.__name__ for maker in MAKERS])
def source(request, tmp_path):
    (tmp_path / "x").write_bytes(bytes(BEFORE) + DATA + bytes(10_000))
    with SourceFile(tmp_path / "x") as file:
        yield request.param(file)


def test_its_name_size_and_identity_are_known(source):
    assert isinstance(source.name, str)
    assert source.size >= BEFORE + len(DATA)
    assert {source.identity: source.name}[source.identity] == source.name
    assert source.can_copy is (isinstance(source, SourceFile) and syscalls.CAN_COPY_RANGES)


@pytest.mark.parametrize(
    "kind", [bytearray, lambda n: np.empty(n, np.uint8), lambda n: np.empty(n // 4, "f4")]
)
@pytest.mark.parametrize(
    ("start", "length"), [(0, 6000), (0, 4), (996, 12), (1000, 8), (4000, 2000), (5996, 4)]
)
def test_a_range_is_read_into_any_contiguous_buffer(source, kind, start, length):
    buffer = kind(length)
    source.read_into(BEFORE + start, buffer)
    assert bytes(buffer) == DATA[start : start + length]


def test_nothing_is_read_into_an_empty_buffer(source):
    source.read_into(BEFORE, bytearray())


def test_several_ranges_are_read_at_once(source):
    starts = [4000, 0, 998, 999, 5999]
    buffers = [bytearray(n) for n in (2000, 1, 0, 500, 1)]
    source.read_ranges((BEFORE + start, buffer) for start, buffer in zip(starts, buffers, strict=True))
    for start, buffer in zip(starts, buffers, strict=True):
        assert buffer == DATA[start : start + len(buffer)]


@pytest.mark.parametrize(
    ("start", "stride", "nbytes", "count"), [(0, 600, 100, 10), (3, 7, 7, 800), (990, 20, 1, 9)]
)
def test_runs_at_a_stride_are_read_one_after_the_other(source, start, stride, nbytes, count):
    buffer = bytearray(nbytes * count)
    source.read_runs(BEFORE + start, stride, nbytes, buffer)
    runs = [DATA[at : at + nbytes] for at in range(start, start + stride * count, stride)]
    assert bytes(buffer) == b"".join(runs)


def test_a_prefetch_changes_nothing(source):
    source.prefetch(BEFORE, len(DATA))
    buffer = bytearray(2000)
    source.read_into(BEFORE + 100, buffer)
    assert buffer == DATA[100:2100]


def test_only_a_source_that_can_copies(source, tmp_path):
    with (tmp_path / "copy").open("wb") as out:
        copied = source.copy_to(out.fileno(), BEFORE + 10, 50, 3)
    assert source.can_copy or not copied
    assert (tmp_path / "copy").read_bytes() == (bytes(3) + DATA[10:60] if copied else b"")


@pytest.mark.parametrize("shape", [(6000,), (60, 100), (6, 10, 100), (2, 3000)])
def test_a_tensor_reads_its_regions_through_it(source, shape):
    values = np.frombuffer(DATA, BYTE).reshape(shape)
    tensor = FileTensor(source, BEFORE, TensorSpec(shape, BYTE))
    for step in (1, 3):
        region = tuple(slice(n // 4, n, step) for n in shape)
        np.testing.assert_array_equal(tensor.read(region), values[region])


def test_the_end_of_the_file_is_found_under_every_source(tmp_path):
    for maker in (source_file, checksummed_range, checksummed_blocks):
        (tmp_path / "x").write_bytes(bytes(BEFORE) + DATA[:700])
        with SourceFile(tmp_path / "x") as file, pytest.raises(TruncatedFile):
            maker(file).read_into(BEFORE + 512, bytearray(512))


def test_the_prefetch_of_chunks_names_their_places_in_the_file(tmp_path, monkeypatch):
    (tmp_path / "x").write_bytes(bytes(20_000))
    asked = []
    monkeypatch.setattr(SourceFile, "prefetch", lambda self, offset, nbytes: asked.append((offset, nbytes)))
    with SourceFile(tmp_path / "x") as file:
        chunks(file).prefetch(BEFORE + 990, 27)
    assert asked == [(BEFORE + 990, 10), (2 * BEFORE + 6000 + 10, 7), (2 * BEFORE + 6000 + 27, 10)]


def test_a_source_defines_no_more_than_how_a_range_is_read():
    source = Memory(DATA)
    source.read_runs(10, 100, 5, bytearray(15))
    assert source.asked == [(10, 5), (110, 5), (210, 5)]


OLD = {
    "SourceFile.expect": lambda file: file.expect(0, 10),
    "SourceFile.read_runs(pitch=)": lambda file: file.read_runs(0, nbytes=1, buffer=bytearray(2), pitch=3),
    "ChecksummedRange.saw": lambda file: checksummed_range(file).saw(BEFORE, DATA[:9]),
    "ChecksummedRange.expect": lambda file: checksummed_range(file).expect(BEFORE, 9),
}


@pytest.mark.parametrize("name", OLD)
def test_old_names_still_work_and_warn(tmp_path, name):
    (tmp_path / "x").write_bytes(bytes(BEFORE) + DATA)
    with SourceFile(tmp_path / "x") as file, pytest.warns(DeprecationWarning, match=re.escape(name)):
        OLD[name](file)


@pytest.mark.parametrize("package", ["bridge_core", "bridge_core.io"])
def test_the_old_names_of_the_classes_still_work_and_warn(package):
    module = pytest.importorskip(package)
    with pytest.warns(DeprecationWarning, match=r"bridge_core\.io\.ChecksummedRange"):
        assert module.CheckedRange is ChecksummedRange
    with pytest.warns(DeprecationWarning, match=r"bridge_core\.io\.ChecksummedBlocks"):
        assert module.CheckedBlocks is ChecksummedBlocks
