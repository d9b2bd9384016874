"""Scales, and cuts that discard: the laws of ops, and what is refused because it could not come back."""

from __future__ import annotations

import json
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from support.arrays import assert_same_bits, every_value, random_array
from support.errors import refused
from support.examples import examples
from support.ops import SIZES, indices, specs

from bridge_core import ArrayTensor, PlanError, TensorSpec
from bridge_core.ops.chain import chain_tensors, simplify_chain
from bridge_core.ops.elementwise import Scale
from bridge_core.ops.padding import Pad, Unpad
from bridge_core.state import regions
from bridge_core.state.dtypes import DTYPES, is_floating
from bridge_core.state.tensors import read_index

each = settings(max_examples=examples(40), deadline=None)
seeds = st.integers(0, 2**32 - 1)
FLOATS = [name for name, dtype in DTYPES.items() if is_floating(dtype)]
NARROW = [name for name in FLOATS if DTYPES[name].itemsize <= 2]
WIDE = ("bfloat16", "float16", "float32", "float64")


def numbers_of(name):
    """The finite numbers of a dtype: all of a narrow one, many of a wide one."""
    dtype = DTYPES[name]
    values = every_value(dtype) if dtype.itemsize <= 2 else random_array((2000,), dtype)
    with np.errstate(invalid="ignore"):
        return values[np.isfinite(values.astype(np.float64))]


@pytest.mark.parametrize("name", FLOATS)
@pytest.mark.parametrize("power", [2, 0.5, 0.125, -4])
def test_a_power_of_two_passes_exactly_where_the_dtype_holds_the_product(name, power):
    numbers, dtype = numbers_of(name), DTYPES[name]
    computed = np.float32 if name in NARROW else dtype
    if name == "float8_e8m0fnu" and power < 0:
        return  # it has no negative numbers
    with np.errstate(all="ignore"):
        products = numbers.astype(np.float64) * power
        held = products.astype(computed).astype(dtype).astype(np.float64) == products
    if name == "float64":  # which no wider dtype checks
        held = np.isfinite(products)
        exact = [Fraction(float(n)) * Fraction(power) for n in numbers[held]]
        held[held] = [Fraction(float(p)) == e for p, e in zip(products[held], exact, strict=True)]
    kept, lost = numbers[held], numbers[~held]
    op = Scale(power)
    assert op.exact
    assert op.loss == ""
    (scaled,) = op.apply((kept,))
    assert_same_bits(scaled, products[held].astype(computed).astype(dtype))
    assert_same_bits(op.inverse().apply((scaled,))[0], kept)
    assert simplify_chain((op, op.inverse())) == ()
    for one in lost[:: max(1, lost.size // 20)]:
        with refused(PlanError, name, power, hint=("rounding", "--allow-inexact")):
            op.apply((np.array([1, one], dtype),))


@pytest.mark.parametrize("name", FLOATS)
def test_any_other_factor_gives_every_value_back_that_it_accepts(name):
    numbers = numbers_of(name)
    for op in (Scale(3), Scale(0.3), Scale(3, divides=True)):
        accepted = 0
        for number in numbers[:: max(1, numbers.size // 200)]:
            array = np.array([number], DTYPES[name])
            try:
                (scaled,) = op.apply((array,))
            except PlanError:
                continue
            accepted += 1
            assert_same_bits(op.inverse().apply((scaled,))[0], array)
        assert accepted or name == "float8_e8m0fnu"
    with refused(PlanError, "by 0.3 ", "float32", hint=("scale(0.3, rounding)", "allow_inexact=True")):
        Scale(0.3).apply((random_array((1000,), "float32"),))


@pytest.mark.parametrize("name", WIDE)
@given(data=st.data())
@each
def test_a_lazy_slice_of_the_scaled_equals_the_slice_of_the_whole(name, data):
    op = Scale(data.draw(st.sampled_from([2, -0.5])), data.draw(st.booleans()), data.draw(st.booleans()))
    shape = tuple(data.draw(st.lists(SIZES, max_size=3)))
    array = (np.arange(np.prod(shape, dtype=int)).reshape(shape) % 16).astype(DTYPES[name])
    spec = TensorSpec(shape, array.dtype)
    (whole,) = op.apply((array,))
    assert op.spec((spec,)) == (spec,)
    assert TensorSpec(whole.shape, whole.dtype) == spec
    (lazy,) = chain_tensors((ArrayTensor(array),), (op,))
    index = data.draw(indices(shape))
    assert_same_bits(read_index(lazy, index), whole[index])


@pytest.mark.parametrize("name", NARROW)
def test_narrow_values_are_computed_in_float32_and_rounded_once(name):
    """The constant is not rounded to the narrow dtype first: bfloat16(1.003) is 1."""
    numbers = numbers_of(name)
    products = numbers.astype(np.float32) * np.float32(1.003)
    with np.errstate(all="ignore"):
        wanted = products.astype(DTYPES[name])
    fits = np.isfinite(wanted.astype(np.float32)) & (abs(products) <= abs(numbers.astype("f4")).max())
    op = Scale(1.003, rounding=True)
    assert not op.exact
    assert_same_bits(op.apply((numbers[fits],))[0], wanted[fits])
    back = wanted[fits].astype(np.float32) / np.float32(1.003)
    assert_same_bits(op.inverse().apply((wanted[fits],))[0], back.astype(DTYPES[name]))
    assert simplify_chain((op, op.inverse())) == (op, op.inverse())
    largest = np.array([numbers.astype(np.float32).max()], DTYPES[name])
    with refused(PlanError, "by 4", f"range of {name}", hint=f"cast({name}, float32)"):
        Scale(4, rounding=True).apply((largest,))


def test_values_that_become_infinite_in_a_wide_dtype_are_refused_and_infinite_ones_are_not():
    for dtype in (np.float32, np.float64):
        array = np.array([np.finfo(dtype).max], dtype)
        for op in (Scale(2, rounding=True), Scale(0.5, rounding=True, divides=True)):
            with refused(PlanError, f"range of {np.dtype(dtype).name}"):
                op.apply((array,))
    special = np.array([np.inf, -np.inf, np.nan, -0.0], np.float32)
    for rounding in (False, True):
        assert_same_bits(Scale(2, rounding).apply((special,))[0], special)


def test_a_signalling_nan_is_refused():
    array = np.array([0x7F800001], np.uint32).view(np.float32)
    with refused(PlanError, "float32", hint="rounding"):
        Scale(2).apply((array,))


def test_arrays_of_the_other_byte_order_are_scaled():
    assert Scale(2).apply((np.array([1, 2], ">f4"),))[0].tolist() == [2, 4]


VECTOR = TensorSpec((3,), np.dtype("float32"))


@pytest.mark.parametrize(
    ("op", "spec", "named"),
    [
        (Scale(2), TensorSpec((3,), np.dtype("int8")), ("scale(2)", "floating-point", "int8[3]")),
        (Scale(2), TensorSpec((3,), np.dtype("complex64")), ("floating-point", "complex64[3]")),
        (Scale(1e39), VECTOR, ("float32", "1e+39:")),
        (Scale(1e-60), VECTOR, ("float32", "1e-60:", "0")),
        (Scale(1e-60), TensorSpec((3,), DTYPES["bfloat16"]), ("float32", "1e-60:", "0")),
    ],
    ids=str,
)
def test_a_scale_refuses_tensors_that_it_does_not_take(op, spec, named):
    with refused(PlanError, *named):
        op.spec((spec,))
    with refused(PlanError, "1 tensor", "got 2"):
        op.spec((spec, spec))


@pytest.mark.parametrize("value", [0, -0.0, float("nan"), float("inf")])
def test_a_scale_that_makes_no_sense_cannot_be_made(value):
    with refused(PlanError, "scale", value):
        Scale(value)


@pytest.mark.parametrize(
    ("op", "text"),
    [
        (Scale(0.5), "scale(0.5)"),
        (Scale(3.0, rounding=True), "scale(3.0, rounding)"),
        (Scale(3.0, rounding=True, divides=True), "scale(1 / 3.0, rounding)"),
        (Unpad(0, 10, 7, discard=True), "cut(0, 10, 7)"),
        (Unpad(0, 10, 7), "unpad(0, 10, 7, 0)"),
        (Pad(0, 7, 10, discard=True), "pad(0, 7, 10, 0, discard)"),
    ],
)
def test_an_op_is_plain_data_with_a_text(op, text):
    data = op.to_json()
    assert json.loads(json.dumps(data, allow_nan=False)) == data
    assert type(op)(**{name: value for name, value in data.items() if name != "op"}) == op
    assert op.inverse() != op
    assert op.inverse().inverse() == op
    assert str(op) == text


# -- cuts -------------------------------------------------------------------------------------------


@st.composite
def cuts(draw):
    spec = draw(specs(min_rank=1))
    axis = draw(st.integers(0, len(spec.shape) - 1))
    constant = 1 if spec.dtype.name == "float8_e8m0fnu" else 0
    return Unpad(axis, spec.shape[axis], draw(st.integers(0, spec.shape[axis])), constant, True), spec


@given(cuts(), seeds, st.data())
@each
def test_a_cut_takes_whatever_it_discards_and_reads_nothing_of_it(drawn, seed, data):
    op, spec = drawn
    array = random_array(spec.shape, spec.dtype, seed)
    kept = array[(slice(None),) * op.axis + (slice(op.target),)]
    (made,) = op.apply((array,))
    assert_same_bits(made, kept)
    assert not op.exact
    region, _ = regions.normalize(data.draw(indices(made.shape)), made.shape)
    ((number, read),) = op.input_regions(0, region, (spec,))
    assert (number, read) == (0, region)
    back = op.inverse()
    (filled,) = back.apply((made,))
    assert filled.shape == spec.shape
    assert_same_bits(back.inverse().apply((filled,))[0], kept)
    rest = filled[(slice(None),) * op.axis + (slice(op.target, None),)]
    assert_same_bits(rest, np.full(rest.shape, op.value, spec.dtype))
    lost = op.source - op.target
    assert op.loss == "" if not lost else str(lost) in op.loss


def test_a_refused_padding_names_the_ways_to_discard_it():
    with refused(PlanError, "got 1.0 at [7]", hint=("cut(0, 10, 7)", "discard", "--allow-inexact")):
        Unpad(0, 10, 7).apply((np.ones(10, np.float32),))
