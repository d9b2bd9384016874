"""How large tensors are cut, and how the parts of a file that a block needs are read."""

from __future__ import annotations

import itertools
import os
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from support.errors import refused
from support.examples import examples

from bridge_core import (
    FlatState,
    OutOfMemory,
    SystemFailure,
    TruncatedFile,
    convert,
    open_state,
    save_state,
)
from bridge_core.io import syscalls
from bridge_core.io.source_file import SourceFile
from bridge_core.ops.chain import Parallel, chain_tensors
from bridge_core.ops.shape import Permute, Reshape
from bridge_core.ops.split_concat import Unstack
from bridge_core.state.regions import region_shape
from bridge_core.state.tensors import ArrayTensor, FileTensor, TensorSpec
from bridge_core.transfer.block_plan import COPY_BLOCK, plan_blocks
from bridge_core.transfer.block_reader import read_blocks
from bridge_core.transfer.memory_order import MemoryOrder, memory_order_of
from bridge_core.transfer.scratch import Scratch

SHAPE = (40, 3, 25_000)
VALUES = np.arange(np.prod(SHAPE), dtype=np.uint32).reshape(SHAPE)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    place = tmp_path_factory.mktemp("blocks") / "values"
    place.write_bytes(b"before!!" + VALUES.tobytes())
    return place


@pytest.fixture
def tensor(path):
    with SourceFile(path) as file:
        yield FileTensor(file, 8, TensorSpec(SHAPE, VALUES.dtype))


def parts(n):
    """Any slice of an axis, short ones among them."""
    length = st.one_of(st.integers(1, 3), st.integers(1, n))
    return st.builds(
        lambda start, length, step: slice(start, min(n, start + length), step),
        st.integers(0, n - 1),
        length,
        st.integers(1, 4),
    )


@given(region=st.tuples(*map(parts, SHAPE)))
@settings(deadline=None, max_examples=examples(150))
def test_a_part_has_the_values_that_indexing_gives(path, region):
    with SourceFile(path) as file:
        found = FileTensor(file, 8, TensorSpec(SHAPE, VALUES.dtype)).read(region)
    np.testing.assert_array_equal(found, VALUES[region])


def test_runs_far_apart_are_read_and_nothing_between_them(tensor, monkeypatch):
    got, preadv = [], syscalls.preadv

    def counting(fd, buffers, offset):
        got.append(preadv(fd, buffers, offset))
        return got[-1]

    monkeypatch.setattr(syscalls, "preadv", counting)
    region = (slice(0, 40, 1), slice(1, 2, 1), slice(100, 350, 1))
    np.testing.assert_array_equal(tensor.read(region), VALUES[region])
    assert got == [1000] * 40


def test_short_reads_of_runs_are_completed(tensor, monkeypatch):
    preadv = syscalls.preadv
    monkeypatch.setattr(
        syscalls, "preadv", lambda fd, buffers, offset: preadv(fd, [buffers[0][:777]], offset)
    )
    region = (slice(0, 40, 2), slice(2, 3, 1), slice(5, 1005, 1))
    np.testing.assert_array_equal(tensor.read(region), VALUES[region])


def test_a_file_that_ends_between_runs_is_truncated(tmp_path):
    short = tmp_path / "short"
    short.write_bytes(VALUES.tobytes())
    with SourceFile(short) as file:
        os.truncate(short, VALUES.nbytes // 2)
        with refused(TruncatedFile, VALUES.nbytes // 2):
            FileTensor(file, 0, TensorSpec(SHAPE, VALUES.dtype)).read(
                (slice(0, 40, 1), slice(0, 1, 1), slice(0, 2000, 1))
            )


def test_an_error_between_runs_says_where(tensor, monkeypatch):
    def failing(fd, buffers, offset):
        if offset > 10_000_000:
            raise OSError(5, "Input/output error")
        return len(buffers[0])

    monkeypatch.setattr(syscalls, "preadv", failing)
    with refused(SystemFailure, "byte 1020", "Input/output error"):
        tensor.read((slice(0, 40, 1), slice(0, 1, 1), slice(0, 2000, 1)))


shapes = st.lists(st.integers(1, 3000), min_size=2, max_size=3).filter(lambda s: np.prod(s) < 1 << 26)


@given(shape=shapes, data=st.data(), block=st.integers(1 << 10, 1 << 24))
@settings(deadline=None, max_examples=examples(100))
def test_blocks_cover_a_tensor_once_within_its_memory(path, shape, data, block):
    in_order = data.draw(st.booleans())
    order = tuple(data.draw(st.permutations(range(len(shape)))))
    with SourceFile(path) as file:
        source = FileTensor(file, 0, TensorSpec(tuple(shape), np.dtype(np.float16)))
        turned = chain_tensors((source,), (Permute(order),))[0]
        plan = plan_blocks(("w",), turned, block, in_order=in_order)
        assert plan.contiguous >= in_order
        seen = np.zeros(turned.spec.shape, np.uint8)
        position = 0
        for number, region in enumerate(plan.blocks):
            size = int(np.prod(region_shape(region)))
            assert 2 * size <= max(block, min(block * 3 // 2, 2 * block - (4 << 20)), 2)
            assert 2 * size <= plan.scratch_nbytes
            seen[region] += 1
            if plan.contiguous:
                first = np.ravel_multi_index([part.start for part in region], seen.shape)
                assert first == position
                position += size
            if number > 300:
                return
        assert seen.all()
        assert seen.max() == 1


def test_a_block_beside_strips_alone_may_be_larger_for_longer_reads(path):
    block = 32 << 20
    with SourceFile(path) as file:
        source = FileTensor(file, 0, TensorSpec((16_000, 30_000), np.dtype(np.float16)))
        turned = chain_tensors((source,), (Permute((1, 0)),))[0]
        plan = plan_blocks(("w",), turned, block)
        assert plan.contiguous
        sizes = {2 * int(np.prod(region_shape(region))) for region in plan.blocks}
    assert block < max(sizes) <= block * 3 // 2


@pytest.mark.parametrize("rows", [700, 9000], ids=["few rows", "many rows"])
@pytest.mark.parametrize("max_ram", ["1MB", "9MB", "64MB"])
def test_a_tensor_larger_than_the_memory_is_turned(tmp_path, rows, max_ram):
    weight = np.random.default_rng(rows).integers(0, 1 << 16, (rows, 6_000_000 // rows), np.uint16)
    tensors = {"a.weight": weight.view(np.float16), "a.bias": np.zeros(rows, np.float16)}
    save_state(FlatState(tensors, layout="torch"), tmp_path / "in.safetensors")
    report = convert(
        tmp_path / "in.safetensors", tmp_path / "out.safetensors", to="flax", max_ram=max_ram, workers=2
    )
    assert report.verified
    with open_state(tmp_path / "out.safetensors") as state:
        np.testing.assert_array_equal(state.read(("a", "kernel")).view(np.uint16), weight.T)


def test_a_block_of_a_turned_tensor_has_the_values_that_indexing_gives(tensor):
    turned = chain_tensors((tensor,), (Permute((2, 0, 1)),))[0]
    plan = plan_blocks(("w",), turned, 1 << 20)
    some = itertools.islice(plan.blocks, 7)
    for region, block in read_blocks(plan, Scratch(plan.scratch_nbytes), some):
        np.testing.assert_array_equal(block, VALUES.transpose(2, 0, 1)[region])


def test_the_plan_of_a_permuted_tensor_names_the_axis_that_is_contiguous_in_its_file(tensor):
    turned = chain_tensors((tensor,), (Permute((2, 0, 1)),))[0]
    plan = plan_blocks(("w",), turned, 1 << 20)
    assert plan.memory_order == MemoryOrder(inner=0, outer=1)
    assert plan.source is tensor
    assert not plan.contiguous
    assert plan_blocks(("w",), tensor, 1 << 20).memory_order is None


@pytest.mark.parametrize("big_endian", [False, True])
def test_bytes_that_are_stored_as_they_are_written_move_in_small_blocks(tensor, big_endian):
    stored = replace(tensor, big_endian=big_endian)
    plan = plan_blocks(("w",), stored, 8 << 20, may_copy=True)
    assert plan.can_copy is (SourceFile.can_copy and not big_endian)
    sizes = {4 * int(np.prod(region_shape(region))) for region in plan.blocks}
    assert max(sizes) <= (8 << 20 if big_endian else COPY_BLOCK)
    assert not plan_blocks(("w",), stored, 8 << 20).can_copy


def test_tensors_without_axes_or_elements():
    plan = plan_blocks(("w",), ArrayTensor(np.float32(3)), 1 << 20)
    assert (list(plan.blocks), plan.contiguous, plan.source) == ([()], True, None)
    assert list(plan_blocks(("w",), ArrayTensor(np.empty((3, 0), "f4")), 1 << 20).blocks) == []
    assert list(plan_blocks(("w",), ArrayTensor(np.empty((0, 1 << 30), "f4")), 1 << 20).blocks) == []


def test_a_block_without_memory_is_a_limit(tensor, monkeypatch):
    def no_memory(*args):
        raise MemoryError

    plan = plan_blocks(("w",), tensor, 1 << 20)
    monkeypatch.setattr(FileTensor, "read_into", no_memory)
    with refused(OutOfMemory, "900000 bytes", hint="--max-ram"):
        list(read_blocks(plan, Scratch()))


def test_the_outer_axis_is_known_after_the_parts_of_a_fused_tensor_are_unstacked():
    fused = ArrayTensor(np.empty((3 * 4 * 5, 7), "float32"))
    chain = (Reshape((60, 7), (3, 4, 5, 7)), Unstack(0, 3), Parallel(((Permute((2, 0, 1)),),) * 3))
    for part in chain_tensors((fused,), chain):
        order = memory_order_of(part)
        assert (order.inner, order.outer) == (0, 1)
