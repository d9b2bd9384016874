from __future__ import annotations

import itertools
from math import prod

import pytest
from hypothesis import given, strategies as st

from ckptbridge_orbax.chunking import LARGEST_BOX, SMALLEST_CHUNK, cut

SIZES = st.one_of(st.integers(1, 40), st.sampled_from([64, 100, 768, 4096, 50257, 128256, 30522, 2 * 10007]))
SHAPES = st.lists(SIZES, max_size=4).map(tuple)
EVEN = st.sampled_from([8, 24, 40, 56, 64, 320, 1024, 1536, 4096])


def read_chunks(shape, chunk, axis, start, stop):
    """Return the elements in all chunks that a slice along one axis touches."""
    touched = min(shape[axis], -(-stop // chunk[axis]) * chunk[axis]) - start // chunk[axis] * chunk[axis]
    return prod(shape) // shape[axis] * touched


@given(SHAPES, st.sampled_from([1, 2, 4, 16]), st.integers(1, 1 << 26))
def test_a_box_is_a_run_of_entire_chunks_that_fits(shape, itemsize, most):
    chunk, box = cut(shape, itemsize, most)
    assert len(chunk) == len(box) == len(shape)
    assert all(1 <= c <= b <= n for c, b, n in zip(chunk, box, shape, strict=True))
    assert all(b % c == 0 or b == n for c, b, n in zip(chunk, box, shape, strict=True))
    cut_at = next((axis for axis, n in enumerate(box) if n != 1), len(box))
    assert box[cut_at + 1 :] == shape[cut_at + 1 :]
    assert prod(box) == 1 or prod(box) * itemsize <= min(most, LARGEST_BOX)


@given(SHAPES, st.sampled_from([1, 2, 4, 16]))
def test_small_arrays_are_one_chunk_and_no_chunk_is_small(shape, itemsize):
    chunk, _ = cut(shape, itemsize, 1 << 23)
    if prod(shape) * itemsize < 2 * SMALLEST_CHUNK:
        assert chunk == shape
    else:
        assert prod(chunk) * itemsize >= SMALLEST_CHUNK / 2


@given(st.lists(EVEN, min_size=1, max_size=4).map(tuple), st.sampled_from([1, 2, 4]), st.integers(20, 26))
def test_chunks_end_where_halves_quarters_and_eighths_end(shape, itemsize, power):
    chunk, _ = cut(shape, itemsize, 1 << power)
    for n, size, parts in itertools.product(shape, chunk, (2, 4, 8)):
        if n == shape[chunk.index(size)]:
            assert (n // parts) % size == 0 or size % (n // parts) == 0


@pytest.mark.parametrize(
    ("shape", "itemsize"),
    [
        ((4096, 4096), 2),
        ((4096, 14336), 2),
        ((128256, 4096), 2),
        ((32, 4096, 14336), 2),
        ((4096, 32, 128), 4),
        ((2304, 9216), 4),
        ((64, 1 << 24), 4),
        ((1 << 24,), 1),
        ((8, 4096, 1024), 4),
        ((8, 2048, 1024), 4),
        ((2048, 2048), 2),
        ((768, 3072), 4),
        ((1, 1, 8192, 2048), 2),
    ],
)
@pytest.mark.parametrize("most", [1 << 23, 1 << 24, 1 << 26])
def test_an_eighth_of_a_large_array_reads_little_more_than_its_bytes(shape, itemsize, most):
    chunk, _ = cut(shape, itemsize, most)
    for axis in sorted(range(len(shape)), key=lambda axis: -shape[axis])[:2]:
        part = shape[axis] // 8
        for start in range(0, part and shape[axis], part or 1):
            read = read_chunks(shape, chunk, axis, start, start + part)
            assert read <= 1.2 * prod(shape) / 8, (axis, start, chunk)


def test_an_axis_that_halves_do_not_divide_is_cut_into_chunks_too():
    chunk, _ = cut((50257, 768), 4, 1 << 25)
    assert chunk == (6283, 96)
    assert cut((30522, 768), 4, 1 << 25)[0] == (5087, 96)


def test_an_array_without_elements_has_chunks_of_one():
    assert cut((0, 3), 4, 1 << 20) == ((1, 1), (1, 1))
    assert cut((), 4, 1 << 20) == ((), ())
