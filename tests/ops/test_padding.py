"""Padding, its removal, and offsets: the laws of ops, and what is refused because it could not come back."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import assume, given, settings, strategies as st
from support.arrays import assert_same_bits, every_value, random_array
from support.errors import refused
from support.examples import examples
from support.ops import SIZES, indices, specs

from bridge_core import ArrayTensor, PlanError, TensorSpec
from bridge_core.ops.chain import chain_tensors, simplify_chain
from bridge_core.ops.elementwise import Offset
from bridge_core.ops.padding import Pad, Unpad
from bridge_core.ops.shape import Permute, Reshape
from bridge_core.state import regions
from bridge_core.state.dtypes import DTYPES, is_floating
from bridge_core.state.tensors import read_index

each = settings(max_examples=examples(40), deadline=None)
seeds = st.integers(0, 2**32 - 1)
SIGNED_FLOATS = [n for n, dtype in DTYPES.items() if is_floating(dtype) and n != "float8_e8m0fnu"]
WIDE = ("bfloat16", "float16", "float32", "float64")


def value_of(draw, dtype):
    if dtype.name == "bool":
        return draw(st.sampled_from([0, 1]))
    if dtype.name == "float8_e8m0fnu":
        return draw(st.sampled_from([1, 0.5, 4]))
    if dtype.name.startswith("uint"):
        return draw(st.sampled_from([0, 1, 3]))
    if is_floating(dtype) or dtype.kind == "c":
        return draw(st.sampled_from([0, -0.0, 1, -1, 0.5, 0.3]))
    return draw(st.sampled_from([0, 1, -2]))


@st.composite
def pads(draw):
    spec = draw(specs(min_rank=1))
    axis = draw(st.integers(0, len(spec.shape) - 1))
    size = spec.shape[axis]
    return Pad(axis, size, size + draw(SIZES), value_of(draw, spec.dtype)), spec


@st.composite
def unpads(draw):
    """An op and an array whose padding holds the constant."""
    op, spec = draw(pads())
    (padded,) = op.apply((random_array(spec.shape, spec.dtype, draw(seeds)),))
    return op.inverse(), padded


@given(pads(), seeds)
@each
def test_padding_gives_the_input_back_and_the_constant_behind_it(drawn, seed):
    op, spec = drawn
    array = random_array(spec.shape, spec.dtype, seed)
    (padded,) = op.apply((array,))
    assert op.exact
    assert (TensorSpec(padded.shape, padded.dtype),) == op.spec((spec,))
    inside = (slice(None),) * op.axis
    assert_same_bits(padded[(*inside, slice(op.source))], array)
    behind = padded[(*inside, slice(op.source, None))]
    assert_same_bits(behind, np.full(behind.shape, np.array(op.value).astype(spec.dtype), spec.dtype))
    assert_same_bits(op.inverse().apply((padded,))[0], array)


@given(unpads())
@each
def test_removing_the_padding_can_be_undone_and_does_not_count_as_exact(drawn):
    op, padded = drawn
    (cut,) = op.apply((padded,))
    assert not op.exact
    assert (TensorSpec(cut.shape, cut.dtype),) == op.spec((TensorSpec(padded.shape, padded.dtype),))
    assert_same_bits(op.inverse().apply((cut,))[0], padded)
    assert simplify_chain((op.inverse(), op)) == ()
    assert len(simplify_chain((op, op.inverse()))) == 2


@given(pads(), seeds, st.data())
@each
def test_a_lazy_slice_of_the_padded_equals_the_slice_of_the_whole(drawn, seed, data):
    op, spec = drawn
    array = random_array(spec.shape, spec.dtype, seed)
    (lazy,) = chain_tensors((ArrayTensor(array),), (op,))
    (whole,) = op.apply((array,))
    index = data.draw(indices(whole.shape))
    assert_same_bits(read_index(lazy, index), whole[index])


@given(unpads(), st.data())
@each
def test_a_lazy_slice_of_the_unpadded_equals_the_slice_of_the_whole(drawn, data):
    op, padded = drawn
    (lazy,) = chain_tensors((ArrayTensor(padded),), (op,))
    (whole,) = op.apply((padded,))
    index = data.draw(indices(whole.shape))
    assert_same_bits(read_index(lazy, index), whole[index])


@given(pads(), st.data())
@each
def test_padding_pulls_what_lies_inside_and_nothing_else(drawn, data):
    op, spec = drawn
    ((made),) = op.spec((spec,))
    region, _ = regions.normalize(data.draw(indices(made.shape)), made.shape)
    inside = [i for i in range(*region[op.axis].indices(op.target)) if i < op.source]
    pulls = op.input_regions(0, region, (spec,))
    assert len(pulls) == bool(inside)
    for pull in pulls:
        assert regions.region_shape(pull.region)[op.axis] == len(inside)
        assert all(s.stop <= n for s, n in zip(pull.region, spec.shape, strict=True))


@given(unpads(), st.data())
@each
def test_no_padding_of_other_bits_gets_through_whatever_the_blocks(drawn, data):
    op, padded = drawn
    assume(op.target > 0 and padded[(slice(None),) * op.axis + (slice(op.target, None),)].size)
    place = tuple(
        data.draw(st.integers(op.target if axis == op.axis else 0, n - 1))
        for axis, n in enumerate(padded.shape)
    )
    spoilt = padded.copy()
    spoilt[(*place, None)].view(np.uint8)[..., -1] ^= np.uint8(1)
    turn = Permute(tuple(data.draw(st.permutations(range(padded.ndim)))))
    (cut,) = op.spec((TensorSpec(padded.shape, padded.dtype),))
    (turned,) = turn.spec((cut,))
    chain = (op, turn, Reshape(turned.shape, (turned.size,)))
    elements = data.draw(st.integers(1, 5))
    for array, is_refused in ((padded, False), (spoilt, True)):
        (lazy,) = chain_tensors((ArrayTensor(array),), chain)

        def read_all(lazy=lazy):
            for block in regions.blocks(lazy.spec.shape, elements):
                lazy.read(block)

        if is_refused:
            with refused(PlanError, f"axis {op.axis}", op.source, op.target, hint="unpad"):
                read_all()
        else:
            read_all()


def test_the_padding_is_checked_where_the_last_element_is_read_and_only_there():
    spoilt = np.zeros((2, 4), np.float32)
    spoilt[1, 3] = 1
    (lazy,) = chain_tensors((ArrayTensor(spoilt),), (Unpad(1, 4, 2),))
    assert lazy.read((slice(0, 2, 1), slice(0, 1, 1))).shape == (2, 1)
    assert lazy.read((slice(0, 1, 1), slice(0, 2, 1))).shape == (1, 2)
    assert lazy.read((slice(0, 2, 1), slice(0, 2, 2))).shape == (2, 1)
    with refused(PlanError, "axis 1", "size 4 to 2", "only 0", "got 1.0 at [1, 3]"):
        lazy.read((slice(1, 2, 1), slice(1, 2, 1)))


def test_an_axis_that_is_nothing_but_padding_is_checked():
    assert Unpad(0, 3, 0).apply((np.zeros((3, 2), np.float32),))[0].shape == (0, 2)
    with refused(PlanError, "got 1.0 at [0, 0]", hint=("pad", "rule")):
        Unpad(0, 3, 0).apply((np.ones((3, 2), np.float32),))


def test_a_negative_zero_is_no_zero():
    array = np.array([1, -0.0], np.float32)
    with refused(PlanError, "size 2 to 1", "only 0", "got -0.0 at [1]"):
        Unpad(0, 2, 1).apply((array,))
    assert_same_bits(Unpad(0, 2, 1, -0.0).apply((array,))[0], array[:1])


def test_arrays_of_the_other_byte_order_are_padded_cut_and_shifted():
    array = np.array([1, 2, 3], ">f4")
    assert Pad(0, 3, 4, 0.5).apply((array,))[0].tolist() == [1, 2, 3, 0.5]
    assert Unpad(0, 3, 2, 3).apply((array,))[0].tolist() == [1, 2]
    assert Offset(1).apply((array,))[0].tolist() == [2, 3, 4]


def shiftable(name, value):
    """All values, or many, of a dtype that come back bit for bit; and those that do not."""
    dtype = DTYPES[name]
    if dtype.itemsize <= 2:
        values = every_value(dtype)
    else:
        numbers = np.random.default_rng(0).integers(-(2**18), 2**18, 500) / 64
        values = np.concatenate((numbers.astype(dtype), random_array((500,), dtype)))
    with np.errstate(all="ignore"):
        constant = np.array(value).astype(dtype)
        back = (values + constant) - constant
    width = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}[dtype.itemsize]
    same = back.view(width) == values.view(width)
    return values[same], values[~same]


@pytest.mark.parametrize("name", SIGNED_FLOATS)
@pytest.mark.parametrize("value", [1, 2.0, 0.5])
def test_an_offset_gives_every_value_back_that_it_accepts(name, value):
    kept, lost = shiftable(name, value)
    assert kept.size
    op = Offset(value)
    assert op.exact
    (moved,) = op.apply((kept,))
    assert_same_bits(op.inverse().apply((moved,))[0], kept)
    for one in lost[:: max(1, lost.size // 50)]:
        with refused(PlanError, name, hint=(f"cast({name}, ", f"offset({value}, rounding)")):
            op.apply((np.array([1, one], lost.dtype),))


@pytest.mark.parametrize("name", WIDE)
@given(data=st.data())
@each
def test_a_lazy_slice_of_the_shifted_equals_the_slice_of_the_whole(name, data):
    op = Offset(data.draw(st.sampled_from([1, -0.5])), rounding=data.draw(st.booleans()))
    shape = tuple(data.draw(st.lists(SIZES, max_size=3)))
    array = (np.arange(np.prod(shape, dtype=int)).reshape(shape) % 16).astype(DTYPES[name])
    spec = TensorSpec(shape, array.dtype)
    (whole,) = op.apply((array,))
    assert op.spec((spec,)) == (spec,)
    assert TensorSpec(whole.shape, whole.dtype) == spec
    (lazy,) = chain_tensors((ArrayTensor(array),), (op,))
    index = data.draw(indices(shape))
    assert_same_bits(read_index(lazy, index), whole[index])


@pytest.mark.parametrize("name", WIDE)
def test_an_offset_is_the_sum_in_the_stored_dtype(name):
    dtype = DTYPES[name]
    array = np.array([0.25, -3, 100], dtype)
    (moved,) = Offset(0.25).apply((array,))
    assert_same_bits(moved, np.array([0.5, -2.75, 100.25], np.float64).astype(dtype))


@pytest.mark.parametrize("name", WIDE)
def test_special_values_pass_where_their_bits_survive(name):
    dtype = DTYPES[name]
    array = np.array([np.inf, -np.inf, np.nan], dtype)
    (moved,) = Offset(1).apply((array,))
    assert_same_bits(moved, array)
    with refused(PlanError, name, hint="rounding"):
        Offset(1).apply((np.array([-0.0], dtype),))


def test_a_signalling_nan_is_refused():
    array = np.array([0x7F800001], np.uint32).view(np.float32)
    with refused(PlanError, "float32", hint="rounding"):
        Offset(1).apply((array,))


def test_an_offset_with_rounding_is_not_exact_and_takes_what_the_other_refuses():
    array = np.array([1e-8], np.float32)
    with refused(PlanError, "adding 1 ", "float32", hint=("cast(float32, float64)", "offset(1, rounding)")):
        Offset(1).apply((array,))
    op = Offset(1, rounding=True)
    assert not op.exact
    assert op.apply((array,))[0].tolist() == [1]
    assert op.inverse().apply(op.apply((array,)))[0].tolist() == [0]
    assert simplify_chain((op, op.inverse())) == (op, op.inverse())
    with refused(PlanError, "adding 60000 ", "range of float16", hint="cast(float16, float32)"):
        Offset(60000, rounding=True).apply((np.array([60000], np.float16),))


VECTOR = TensorSpec((3,), np.dtype("float32"))
WHOLE = TensorSpec((3,), np.dtype("int8"))


@pytest.mark.parametrize(
    ("op", "spec", "named"),
    [
        (Pad(0, 2, 4), VECTOR, ("axis 0", "size 2", "float32[3]")),
        (Pad(1, 3, 4), VECTOR, ("axis 1", "size 3", "float32[3]")),
        (Pad(-1, 3, 4), VECTOR, ("axis -1", "float32[3]")),
        (Unpad(0, 4, 2), VECTOR, ("axis 0", "size 4", "float32[3]")),
        (Pad(0, 3, 4, 0.5), WHOLE, ("int8", "0.5:")),
        (Pad(0, 3, 4, 128), WHOLE, ("int8", "128:")),
        (Unpad(0, 3, 1, -129), WHOLE, ("int8", "-129:")),
        (Pad(0, 3, 4, 2), TensorSpec((3,), np.dtype(bool)), ("bool", "2:")),
        (Pad(0, 3, 4, 1e6), TensorSpec((3,), np.dtype("float16")), ("float16", "1000000.0:")),
        (Pad(0, 3, 4, 0), TensorSpec((3,), DTYPES["float8_e8m0fnu"]), ("float8_e8m0fnu", "0:")),
        (Pad(0, 3, 4, 7), TensorSpec((3,), DTYPES["float4_e2m1fn"]), ("float4_e2m1fn", "7:")),
        (Pad(0, 3, 4, 8), TensorSpec((3,), DTYPES["int4"]), ("int4", "8:")),
        (Pad(0, 3, 4, 1e39), TensorSpec((3,), np.dtype("complex64")), ("complex64", "1e+39:")),
        (Offset(1), WHOLE, ("offset(1, False)", "floating-point", "int8[3]")),
        (Offset(1), TensorSpec((3,), np.dtype("complex64")), ("floating-point", "complex64[3]")),
        (Offset(1), TensorSpec((3,), DTYPES["float8_e8m0fnu"]), ("float8_e8m0fnu", "-1:")),
        (Offset(1e39), VECTOR, ("float32", "1e+39:")),
    ],
    ids=str,
)
def test_an_op_refuses_tensors_that_it_does_not_take_and_says_which_it_takes(op, spec, named):
    with refused(PlanError, *named):
        op.spec((spec,))
    with refused(PlanError, *named):
        op.apply((random_array(spec.shape, spec.dtype),))
    with refused(PlanError, "1 tensor", "got 2"):
        op.spec((spec, spec))


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: Pad(0, 3, 2), ("3 before", "2 after")),
        (lambda: Pad(0, -1, 2), ("-1 before", "2 after")),
        (lambda: Pad(0, 1, 2, float("nan")), ("pad", "got nan")),
        (lambda: Unpad(0, 2, 3), ("2 before", "3 after")),
        (lambda: Unpad(0, 2, -1), ("2 before", "-1 after")),
        (lambda: Unpad(0, 2, 1, float("inf")), ("unpad", "got inf")),
        (lambda: Offset(float("nan")), ("offset", "got nan")),
        (lambda: Offset(float("inf")), ("offset", "got inf")),
    ],
)
def test_an_op_that_makes_no_sense_cannot_be_made(make, named):
    with refused(PlanError, *named):
        make()


@pytest.mark.parametrize(
    "op", [Pad(1, 2, 5, 0.5), Unpad(1, 5, 2), Offset(1), Offset(-0.5, rounding=True)], ids=str
)
def test_an_op_is_plain_data(op):
    data = op.to_json()
    assert json.loads(json.dumps(data, allow_nan=False)) == data
    assert op.inverse().inverse() == op
    assert hash(op.inverse().inverse()) == hash(op)
    assert type(op).__name__.lower() in str(op)
