"""Shares: boxes of several devices are read once, and what reading costs is what is read."""

import itertools

import numpy as np
import pytest
from hypothesis import given, strategies as st

from bridge_core.formats import SafetensorsFormat
from bridge_core.ops import Concat, Permute, Reshape, Split, Stack, Sum, chain_tensors
from bridge_core.state import ArrayTensor, LazyTensor, TensorSpec, regions
from bridge_core.testing.harness import counted_reads, read_state, write_state
from bridge_core.transfer import Cut, best_cut, boxed, grouped_by_chunks, joined_boxes, read_cost


def places(region):
    return set(itertools.product(*(range(part.start, part.stop, part.step) for part in region)))


@st.composite
def grids(draw):
    """The boxes of some cells of a grid, some of them several times."""
    cuts = [
        sorted(draw(st.sets(st.integers(0, 7), min_size=2, max_size=4)))
        for _ in range(draw(st.integers(1, 3)))
    ]
    axes = [[slice(a, b, 1) for a, b in itertools.pairwise(edges)] for edges in cuts]
    return draw(st.lists(st.sampled_from(list(itertools.product(*axes))), max_size=12))


@given(grids())
def test_joined_boxes_have_the_same_elements_each_of_them_once(boxes):
    joined = joined_boxes(boxes)
    together = [place for box in joined for place in places(box)]
    assert len(together) == len(set(together))
    assert set(together) == set().union(*map(places, boxes))
    assert len(joined) <= len(boxes)


def test_all_cells_of_a_grid_become_one_box():
    cells = list(regions.boxes((6, 4, 5), (2, 2, 5)))
    assert joined_boxes(reversed(cells)) == [regions.full((6, 4, 5))]


def test_boxes_without_elements_are_left_out():
    assert joined_boxes([(slice(0, 0, 1), slice(0, 4, 1))]) == []
    assert joined_boxes([(), ()]) == [()]


@given(st.data(), st.lists(st.integers(1, 6), max_size=3))
def test_a_boxed_tensor_holds_the_values_of_its_region(data, shape):
    array = np.arange(regions.size(tuple(shape))).reshape(shape)
    region = tuple(
        slice(start, data.draw(st.integers(start + 1, n)), 1)
        for n in shape
        for start in [data.draw(st.integers(0, n - 1))]
    )
    tensor = boxed(ArrayTensor(array), region)
    assert tensor.spec.shape == regions.region_shape(region)
    assert np.array_equal(tensor.read(regions.full(tensor.spec.shape)), array[(*region, ...)])


@given(
    st.lists(st.integers(0, 9), min_size=1, max_size=3).flatmap(
        lambda shape: st.tuples(st.just(tuple(shape)), st.tuples(*(st.integers(1, 4) for _ in shape)))
    )
)
def test_the_parts_of_a_cut_hold_every_element_once(shape_and_parts):
    cut = Cut(*shape_and_parts)
    parts = [cut.region(number) for number in range(regions.size(cut.parts))]
    together = [place for part in parts for place in places(part)]
    assert sorted(together) == sorted(places(regions.full(cut.shape)))
    for part, box in zip(parts, regions.boxes(cut.padded_shape, cut.part_shape), strict=False):
        assert all(a.start == b.start or a.start == a.stop for a, b in zip(part, box, strict=True))
        assert all(n <= most for n, most in zip(regions.region_shape(part), cut.part_shape, strict=True))


@pytest.fixture(scope="module")
def tensors(tmp_path_factory):
    """The tensors of a file: a matrix with rows of 8 KiB, one with rows of 1 KiB, and bools."""
    random = np.random.default_rng(0)
    arrays = {
        ("wide",): random.standard_normal((96, 2048), dtype="float32"),
        ("narrow",): random.standard_normal((768, 256), dtype="float32"),
        ("bools",): random.standard_normal((768, 256)) > 0,
    }
    path = tmp_path_factory.mktemp("shares") / "a.safetensors"
    write_state(SafetensorsFormat(), arrays, path)
    with read_state(SafetensorsFormat(), path) as state:
        yield {key[0]: state.tensor(key) for key in arrays}


def column(tensor, first, last):
    return (slice(0, tensor.spec.shape[0], 1), slice(first, last, 1))


@pytest.mark.parametrize("name", ["wide", "narrow", "bools"])
@pytest.mark.parametrize("columns", [(0, 1.0), (0, 0.5), (0.5, 1.0), (0.25, 0.5)])
def test_the_cost_is_what_is_read(tensors, name, columns):
    tensor = tensors[name]
    region = column(tensor, *(int(place * tensor.spec.shape[1]) for place in columns))
    cost = read_cost(tensor, region)
    with counted_reads() as counted:
        values = tensor.read(region)
    assert cost.needed == values.nbytes
    assert cost.nbytes == counted.nbytes


def test_the_cost_follows_ops_to_their_sources(tensors):
    narrow = tensors["narrow"]
    split = chain_tensors((narrow,), (Split(0, (256, 256, 256)),))
    (stacked,) = chain_tensors(split, (Stack(0, 3),))
    (moved,) = chain_tensors((stacked,), (Permute((2, 0, 1)), Reshape((256, 3, 256), (16, 16, 3, 256))))
    everything = regions.full(moved.spec.shape)
    assert read_cost(moved, everything).needed == narrow.spec.nbytes
    of_rows = (*everything[:3], slice(0, 64, 1))
    with counted_reads() as counted:
        moved.read(of_rows)
    assert read_cost(moved, of_rows).nbytes == counted.nbytes == narrow.spec.nbytes // 4
    (total,) = chain_tensors(split[:2], (Sum(2),))
    assert read_cost(total, regions.full(total.spec.shape)).needed == 2 * total.spec.nbytes
    (joined,) = chain_tensors(split[:2], (Concat(1, (256, 256)),))
    half = column(joined, 256, 512)
    assert read_cost(joined, half).nbytes == joined.spec.nbytes // 2


def test_the_cost_of_chunks_is_that_of_complete_ones():
    spec = TensorSpec((100, 100), np.dtype("float32"))
    tensor = LazyTensor(spec, lambda region: np.zeros(regions.region_shape(region), "float32"), (50, 10))
    cost = read_cost(tensor, (slice(0, 60, 1), slice(5, 15, 1)))
    assert (cost.needed, cost.calls, cost.nbytes) == (60 * 10 * 4, 4, 4 * 50 * 10 * 4)
    assert read_cost(ArrayTensor(np.zeros(3)), (slice(0, 0, 1),)).total == 0


def test_the_best_cut_is_along_the_rows_of_the_source(tensors):
    (moved,) = chain_tensors((tensors["narrow"],), (Permute((1, 0)), Reshape((256, 768), (256, 8, 96))))
    cut, cost = best_cut(moved, 4)
    assert cut.parts == (1, 4, 1)
    assert cost.nbytes == moved.spec.nbytes // 4


def test_a_cut_may_need_two_axes_and_may_be_impossible():
    tensor = ArrayTensor(np.zeros((2, 3, 5)))
    cut, _ = best_cut(tensor, 6)
    assert cut.parts == (2, 3, 1)
    assert best_cut(tensor, 7) is None
    assert best_cut(ArrayTensor(np.zeros(())), 2) is None


def test_tensors_that_share_chunks_are_loaded_together():
    spec = TensorSpec((4, 4), np.dtype("float32"))

    def chunked():
        return LazyTensor(spec, lambda region: np.zeros(regions.region_shape(region), "float32"), (2, 2))

    one, two = chunked(), chunked()
    plain = [ArrayTensor(np.zeros((4, 4), "float32")) for _ in range(3)]
    (both,) = chain_tensors((one, two), (Stack(0, 2),))
    tensors = [one, plain[0], two, plain[1], both, plain[2]]
    groups = list(grouped_by_chunks(tensors, 1))
    assert sorted(map(sorted, groups)) == [[0, 2, 4], [1], [3], [5]]
    assert list(map(sorted, grouped_by_chunks(tensors, 1 << 20))) == [[0, 1, 2, 3, 4, 5]]
