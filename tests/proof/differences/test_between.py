"""What turned one array into another: every known mistake is named, and nothing else is."""

import re

import ml_dtypes
import numpy as np
import pytest
from hypothesis import assume, given, settings, strategies as st
from support.errors import refused
from support.examples import examples
from support.mistakes import MISTAKES

from bridge_core.errors import UnsupportedFeature, UsageError
from bridge_core.proof.differences import blocks, relation_between
from bridge_core.state import DTYPES

GENERATOR = np.random.default_rng(0)
WEIGHTS = {
    "a square": GENERATOR.standard_normal((32, 32), np.float32),
    "a matrix": GENERATOR.standard_normal((24, 40), np.float32),
    "a kernel": GENERATOR.standard_normal((16, 8, 3, 3), np.float32),
    "experts": GENERATOR.standard_normal((8, 16, 24), np.float32),
    "half": GENERATOR.standard_normal((48, 40)).astype(ml_dtypes.bfloat16),
}


@pytest.fixture(params=["held", "by blocks"])
def memory(request, monkeypatch):
    """Hold tensors in memory, or read them by small blocks."""
    if request.param == "by blocks":
        monkeypatch.setattr(blocks, "_BLOCK", 100)


def computed(relation, left, right):
    """Return what the code of a relation gives."""
    names = {"np": np, "left": left.copy(), "right": right.copy()}
    exec(relation.code, names)
    return names["right"]


@pytest.mark.parametrize("weight", ["a square", "a matrix", "a kernel", "experts"])
@pytest.mark.parametrize("mistake", MISTAKES)
def test_each_mistake_has_its_name(mistake, weight, memory):
    left = WEIGHTS[weight]
    change, kinds = MISTAKES[mistake]
    right = np.ascontiguousarray(change(left))
    relation = relation_between(left, right)
    assert relation is not None
    assert relation.kind in kinds
    assert (relation.error < 1e-6) or not relation.exact
    if "order]" not in relation.code:
        np.testing.assert_allclose(computed(relation, left, right), right, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    "mistake", ["transposed square", "swapped gates", "flipped", "padded", "interleaved heads"]
)
def test_narrow_dtypes_whose_values_repeat(mistake):
    change, kinds = MISTAKES[mistake]
    relation = relation_between(WEIGHTS["half"], np.ascontiguousarray(change(WEIGHTS["half"])))
    assert relation.kind in kinds


def partly_interleaved(array, start, stop):
    middle = array[:, start:stop].reshape(len(array), 2, -1).swapaxes(1, 2).reshape(len(array), -1)
    return np.concatenate([array[:, :start], middle, array[:, stop:]], 1)


@pytest.mark.parametrize(
    ("change", "kinds"),
    [
        (lambda a: a.T.astype(ml_dtypes.bfloat16).astype("f4"), ("rounded", "transposed")),
        (lambda a: a.T * np.float32(0.3), ("scaled", "transposed")),
        (lambda a: -a[::-1], ("negated", "flipped")),
        (lambda a: a.T[::-1], ("transposed", "flipped")),
        (lambda a: a.T.astype(np.float16), ("rounded", "transposed")),
        (lambda a: a.byteswap().T, ("byte order", "transposed")),
        (lambda a: np.pad(a.astype("f2"), ((0, 2), (0, 3))), ("rounded", "padded", "padded")),
        (lambda a: a * np.float32(2) + np.float32(1), ("scaled", "shifted")),
        (lambda a: (a.view("u4") & 0xFFFF0000).view("f4"), ("truncated",)),
        (lambda a: a.astype("f8"), ("cast",)),
        (lambda a: a.reshape(-1), ("reshaped",)),
        (lambda a: a.T.reshape(-1), ("Fortran order",)),
        (lambda a: np.full_like(a, 0.5), ("constant",)),
        (lambda a: np.random.default_rng(1).permutation(a.reshape(-1)).reshape(a.shape), ("reordered",)),
        (lambda a: np.insert(a, 5, 7, axis=0), ("moved rows",)),
        (lambda a: np.pad(a.T, ((0, 5), (0, 0))), ("transposed", "padded")),
        (lambda a: a.T[:, 1:], ("transposed", "cut")),
        (lambda a: np.concatenate([a[:3] * 0, a[:-3]]), ("shifted rows",)),
        (lambda a: np.repeat(a.reshape(4, 6, 40), 3, axis=0).reshape(72, 40), ("repeated",)),
        (lambda a: np.tile(a, (1, 2)), ("repeated",)),
        (lambda a: np.roll(a.reshape(4, 6, 40), 3, axis=1).reshape(24, 40), ("swapped parts",)),
        (lambda a: partly_interleaved(a, 2, 38), ("interleaved",)),
        (lambda a: partly_interleaved(a, 0, 20), ("interleaved",)),
        (lambda a: np.concatenate([a, a[-1:], a[-1:]]), ("padded",)),
        (lambda a: 1 / a, ("reciprocal",)),
        (lambda a: -np.exp(a), ("exponential",)),
    ],
)
def test_several_steps_and_others(change, kinds, memory):
    left = WEIGHTS["a matrix"]
    relation = relation_between(left, np.ascontiguousarray(change(left)))
    assert relation.kinds == kinds


def test_parts_that_are_each_transposed(memory):
    left = GENERATOR.standard_normal((3 * 16, 16), np.float32)
    right = left.reshape(3, 16, 16).transpose(0, 2, 1).reshape(48, 16)
    relation = relation_between(left, right)
    assert relation.kinds == ("interleaved",)
    np.testing.assert_array_equal(computed(relation, left, right), right)


def test_the_way_back_of_a_rounding():
    left = WEIGHTS["a matrix"].astype(ml_dtypes.bfloat16)
    for rounded in (left, left.astype("f4")):
        relation = relation_between(rounded, WEIGHTS["a matrix"])
        assert (relation.kind, relation.reverse) == ("rounded", True)
        assert relation.told("A", "B").startswith("as if A were B rounded ")


def test_equal_arrays():
    assert relation_between(WEIGHTS["half"], WEIGHTS["half"].copy()).kind == "equal"


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (np.zeros(64, "f4"), np.ones(64, "f4")),
        (np.float32([1, 1, 1, 2]), np.float32([2, 1, 1, 1])),
        (np.float32([1.5]), np.float32([3.0])),
        (np.eye(64, dtype="f4"), 1 - np.eye(64, dtype="f4")),
        (np.arange(8), np.arange(8) * 2),
        (np.zeros((0, 4), "f4"), np.zeros((4, 0), "f4")),
        (np.float32(1.25), np.float32(2.5)),
        (np.full((8, 8), np.nan, "f4"), np.zeros((8, 8), "f4")),
    ],
)
def test_few_or_equal_values_prove_nothing(left, right):
    relation = relation_between(left, right)
    assert relation is None


def one_outlier(place):
    array = np.ones((64, 64), "f4")
    array[place] = 1.2345
    return array


def test_nearly_constant_tensors_are_not_called_moved():
    assert relation_between(one_outlier((3, 5)), one_outlier((5, 3))) is None
    assert relation_between(one_outlier((3, 5)), one_outlier((4, 5))) is None


@pytest.mark.parametrize("dtype", ["f4", "f2", ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, "c8", "f8"])
@pytest.mark.parametrize("shape", [(32, 32), (6, 4, 3, 3), (200,), (12, 20)])
def test_unrelated_random_tensors_have_no_relation(dtype, shape):
    left, right = (np.random.default_rng(n).standard_normal(shape).astype(dtype) for n in (1, 2))
    assert relation_between(left, right) is None
    assert relation_between(left, right.T.copy()) is None


@settings(max_examples=examples(20))
@given(st.integers(0, 2**32), st.sampled_from(["i8", "i4", "u1", "?", "f4"]), st.integers(1, 4))
def test_unrelated_small_numbers_have_no_relation(seed, dtype, most):
    generator = np.random.default_rng(seed)
    shape = tuple(generator.integers(1, 12, generator.integers(1, 4)))
    left, right = (generator.integers(0, most + 1, shape).astype(dtype) for _ in range(2))
    relation = relation_between(left, right)
    assert relation is None or relation.kind in ("equal", "constant")


@settings(max_examples=examples(20))
@given(st.data())
def test_any_order_along_any_axes_is_found(data):
    generator = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    shape = tuple(data.draw(st.lists(st.integers(5, 8), min_size=2, max_size=4)))
    left = generator.standard_normal(shape, np.float32)
    axes = data.draw(st.permutations(range(len(shape))))
    right = left.transpose(axes)
    for axis in data.draw(st.sets(st.sampled_from(range(len(shape))), max_size=2)):
        right = np.take(right, generator.permutation(right.shape[axis]), axis)
    relation = relation_between(left, np.ascontiguousarray(right))
    assert relation is not None
    assert relation.exact
    assert relation.kind != "reordered"
    if "order]" not in relation.code:
        np.testing.assert_array_equal(computed(relation, left, right), right)


@settings(max_examples=examples(20))
@given(st.data())
def test_any_reshape_and_permutation_is_found(data):
    sizes = data.draw(st.lists(st.integers(2, 5), min_size=2, max_size=5))
    assume(np.prod(sizes) >= 24)
    generator = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    flat = generator.standard_normal(int(np.prod(sizes)), np.float32)
    cut = data.draw(st.integers(0, len(sizes)))
    left = flat.reshape(int(np.prod(sizes[:cut])), -1)
    moved = flat.reshape(sizes).transpose(data.draw(st.permutations(range(len(sizes)))))
    end = data.draw(st.integers(0, len(sizes)))
    right = np.ascontiguousarray(moved).reshape(int(np.prod(moved.shape[:end])), -1)
    relation = relation_between(left, right)
    assert relation is not None
    assert relation.kind != "reordered"
    if "order]" not in relation.code:
        np.testing.assert_array_equal(computed(relation, left, right), right)


@settings(max_examples=examples(20))
@given(st.floats(-50, 50), st.floats(-20, 20), st.integers(0, 2**32))
def test_lines_are_found_or_not_resolved(factor, shift, seed):
    left = np.random.default_rng(seed).standard_normal((9, 11))
    right = left * factor + shift
    relation = relation_between(left, right)
    if abs(factor) > 1e-3 and abs(abs(factor) - 1) > 1e-3 and abs(shift) > 1e-3:
        assert relation.kinds == ("scaled", "shifted")
    if relation is not None and relation.kinds not in (("constant",), ("equal",)):
        np.testing.assert_allclose(computed(relation, left, right), right, rtol=1e-9, atol=1e-9)


class TestTolerance:
    LEFT = GENERATOR.standard_normal((4, 12, 32), np.float32)

    def noisy(self, array, size=1e-6):
        return array + np.float32(size) * GENERATOR.standard_normal(array.shape).astype("f4")

    @pytest.mark.parametrize(
        ("change", "kinds"),
        [
            (lambda a: a, ("equal",)),
            (lambda a: a.transpose(0, 2, 1), ("transposed",)),
            (lambda a: a[..., ::-1], ("flipped",)),
            (lambda a: np.concatenate([a[..., 16:], a[..., :16]], -1), ("swapped parts",)),
            (lambda a: a.reshape(4, 12, 2, 16).swapaxes(2, 3).reshape(a.shape), ("interleaved",)),
            (lambda a: a.reshape(4, -1), ("reshaped",)),
            (lambda a: -a, ("negated",)),
            (lambda a: a * 8, ("scaled",)),
            (lambda a: a + 3, ("shifted",)),
        ],
    )
    def test_relations_of_activations(self, change, kinds):
        relation = relation_between(self.LEFT, self.noisy(change(self.LEFT)), tolerance=1e-4)
        assert relation.kinds == kinds
        assert relation.error < 1e-4

    def test_nothing_is_named_that_is_further_away(self):
        assert relation_between(self.LEFT, self.noisy(self.LEFT, 0.1), tolerance=1e-4) is None


def test_what_is_not_numbers_is_refused():
    with refused(UnsupportedFeature, "object"):
        relation_between(np.array([None, "a"], object), np.zeros(2))
    with refused(UsageError, "tolerance="):
        relation_between(np.zeros(2), np.zeros(2), tolerance=-1.0)


@pytest.mark.parametrize("dtype", ["?", "c8", "c16", "u1", "i8", ml_dtypes.int4, ml_dtypes.float8_e8m0fnu])
def test_every_dtype_is_compared(dtype):
    numbers = np.random.default_rng(5).integers(0, 2 if dtype == "?" else 7, (40, 50))
    left = (
        (numbers + 1j * numbers.T.reshape(40, 50)).astype(dtype)
        if dtype in ("c8", "c16")
        else numbers.astype(dtype)
    )
    assert relation_between(left, np.ascontiguousarray(left.T)).kind == "transposed"


def test_not_a_number_stays_where_it_is():
    left = WEIGHTS["a matrix"].copy()
    left[3, 4], left[5, 6] = np.nan, np.inf
    assert relation_between(left, np.ascontiguousarray(left.T)).kind == "transposed"
    assert relation_between(left, left * np.float32(0.5)).kind == "scaled"
    assert relation_between(left, left.astype("f2").astype("f4")).kind == "rounded"


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_relation_with_one_exception_is_not_named(mistake):
    left = WEIGHTS["a matrix"]
    change, kinds = MISTAKES[mistake]
    right = np.array(change(left), order="C")
    right[5, 7] = -1.23456
    relation = relation_between(left, right)
    assert relation is None or relation.kind not in kinds
    assert relation is None or relation.kind == "moved rows"


def any_values(generator, dtype, shape):
    """Return any bits; of dtypes that do not use all bits of a byte, zeros and ones."""
    if dtype.name == "bool" or re.search("(int|float)[246]($|_)", dtype.name):
        return generator.integers(0, 2, shape).astype(dtype)
    return np.frombuffer(generator.bytes(int(np.prod(shape)) * dtype.itemsize), dtype).reshape(shape)


@settings(max_examples=examples(40))
@given(st.data())
def test_any_two_dtypes_and_shapes_are_compared_without_a_warning(data):
    dtypes = [data.draw(st.sampled_from(sorted(DTYPES))) for _ in range(2)]
    shapes = [data.draw(st.lists(st.sampled_from([0, 1, 1, 2, 3, 8]), max_size=4)) for _ in range(2)]
    generator = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    left, right = (
        any_values(generator, DTYPES[name], shape) for name, shape in zip(dtypes, shapes, strict=True)
    )
    relation_between(left, right)
    relation_between(left, right, tolerance=1e-3)


def test_many_axes():
    left = np.random.default_rng(0).standard_normal((2, 1) * 10, np.float32)
    assert relation_between(left, np.ascontiguousarray(left.T)).kind == "permuted axes"
    assert relation_between(left, left[::-1].copy()).kind == "flipped"
    other = np.random.default_rng(1).standard_normal((2, 1) * 10, np.float32)
    assert relation_between(left, other) is None


def test_rows_that_are_equal_do_not_hide_an_order():
    left = WEIGHTS["a matrix"].copy()
    left[[3, 9, 10]] = 0
    assert relation_between(left, np.roll(left, 5, 0)).kind == "rolled"
    assert relation_between(left, left[::-1].copy()).kind == "flipped"


def test_a_few_shared_rows_are_not_a_relation():
    right = GENERATOR.standard_normal((24, 40), np.float32)
    right[:6] = WEIGHTS["a matrix"][10:16]
    assert relation_between(WEIGHTS["a matrix"], right) is None


def test_float64_that_went_through_float32():
    left = GENERATOR.standard_normal((9, 9))
    relation = relation_between(left, left.astype("f4").astype("f8"))
    assert relation.text == "rounded through float32"


@pytest.mark.parametrize("dtype", ["f4", ml_dtypes.bfloat16])
def test_values_that_are_nearly_one_number_are_not_scaled_or_shifted(dtype):
    noise = GENERATOR.standard_normal((2, 512)) * float(ml_dtypes.finfo(dtype).eps) * 2
    left, right = (1 + noise[0]).astype(dtype), (2 + noise[1]).astype(dtype)
    assert relation_between(left, right) is None


def test_narrow_dtypes_are_scaled_and_shifted():
    left = WEIGHTS["half"].astype("f4")
    for change, text in ((lambda a: a * 0.125, "scaled by 0.125"), (lambda a: a + 1, "shifted by 1")):
        relation = relation_between(WEIGHTS["half"], change(left).astype(ml_dtypes.bfloat16))
        assert relation.text.startswith(text)


def test_a_small_part_that_is_moved_is_not_a_relation_where_the_rest_differs():
    left = GENERATOR.standard_normal((48, 16), np.float32)
    right = np.concatenate([left[:32], left[32:].T])
    assert relation_between(left, right).kinds == ("in part", "transposed")
    right[:32] += GENERATOR.standard_normal((32, 16), np.float32)
    assert relation_between(left, right) is None


def test_what_the_rest_holds_is_told_of_all_of_it():
    left = WEIGHTS["a matrix"]
    right = np.pad(left, ((0, 4), (0, 4)))
    assert relation_between(left, right).text.endswith("the rest is zeros")
    right[2, -1] = 1
    assert relation_between(left, right).text.endswith("the rest is other values")
