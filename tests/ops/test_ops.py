"""The op algebra: inverses, specs, slices, bounded reading, shorter chains, plain data."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from support.arrays import assert_same_bits, assert_same_values, random_array
from support.errors import refused
from support.examples import examples
from support.ops import (
    FLOATS,
    KINDS,
    ONE_WAY,
    chains,
    indices,
    move_chains,
    ops,
    specs,
    tensors_for,
)

from bridge_core import ArrayTensor, PlanError, TensorSpec
from bridge_core.ops.base import InputRegion, Op
from bridge_core.ops.chain import (
    OpTensor,
    Parallel,
    chain_specs,
    chain_tensors,
    inverse_chain,
    simplify_chain,
)
from bridge_core.ops.elementwise import Cast
from bridge_core.ops.select import Drop, Duplicate, Fill, InsertZeros, Reorder, RequireEqual, Select
from bridge_core.ops.shape import Flip, Permute, Reshape
from bridge_core.ops.split_concat import Concat, Split, Stack, Unstack
from bridge_core.ops.summing import SplitSum, Sum
from bridge_core.state import regions
from bridge_core.state.dtypes import DTYPES
from bridge_core.state.metadata import AuxiliaryTensor
from bridge_core.state.tensors import read_index

quick = settings(max_examples=examples(75), deadline=None)
each = settings(max_examples=examples(30), deadline=None)
of_each_kind = pytest.mark.parametrize("kind", KINDS)
seeds = st.integers(0, 2**32 - 1)


def run(chain, arrays):
    for op in chain:
        arrays = op.apply(arrays)
    return arrays


def casts(op):
    return isinstance(op, Cast) or (isinstance(op, Parallel) and any(casts(o) for c in op.chains for o in c))


def assert_equal_for(op, found, wanted):
    for a, b in zip(found, wanted, strict=True):
        (assert_same_values if casts(op) else assert_same_bits)(a, b)


def moves_in(chain):
    """Count ops, those in lanes for themselves."""
    return sum(sum(map(moves_in, op.chains)) if isinstance(op, Parallel) else 1 for op in chain)


@of_each_kind
@given(seed=seeds, data=st.data())
@each
def test_inverse_gives_every_input_back(kind, seed, data):
    op, wanted = data.draw(ops(kind))
    if kind in ONE_WAY or not op.exact:
        return
    arrays = tensors_for(op, wanted, seed)
    if kind != "splitsum":
        assert_equal_for(op, op.inverse().apply(op.apply(arrays)), arrays)


@of_each_kind
@given(data=st.data())
@each
def test_inverse_of_the_inverse_is_the_op(kind, data):
    op, _ = data.draw(ops(kind))
    if kind == "select":
        with refused(PlanError, "select", "inverse"):
            op.inverse()
    elif kind not in ("splitsum", "insertzeros"):
        assert op.inverse().inverse() == op


@of_each_kind
@given(seed=seeds, data=st.data())
@each
def test_spec_tells_the_real_shape_and_dtype(kind, seed, data):
    op, wanted = data.draw(ops(kind))
    results = op.apply(tensors_for(op, wanted, seed))
    assert tuple(TensorSpec(r.shape, r.dtype) for r in results) == op.spec(wanted)


@of_each_kind
@given(seed=seeds, data=st.data())
@each
def test_a_lazy_slice_equals_the_slice_of_the_whole(kind, seed, data):
    op, wanted = data.draw(ops(kind))
    arrays = tensors_for(op, wanted, seed)
    lazy = chain_tensors([ArrayTensor(array) for array in arrays], (op,))
    for whole, tensor in zip(op.apply(arrays), lazy, strict=True):
        index = data.draw(indices(whole.shape))
        assert_same_bits(read_index(tensor, index), whole[index], index)


@given(seed=seeds, data=st.data())
@each
def test_lanes_read_a_slice_by_themselves(seed, data):
    """Lazily they are taken apart into their chains; by themselves they say the same."""
    op, wanted = data.draw(ops("parallel"))
    arrays = tensors_for(op, wanted, seed)
    tensors = tuple(ArrayTensor(array) for array in arrays)
    for output, (whole, spec) in enumerate(zip(op.apply(arrays), op.spec(wanted), strict=True)):
        index = data.draw(indices(whole.shape))
        assert_same_bits(read_index(OpTensor(op, tensors, output, spec), index), whole[index], index)


@pytest.mark.parametrize("dtype", FLOATS)
def test_a_sum_comes_apart_into_what_was_kept_where_it_still_adds_up(dtype):
    parts = [random_array((64,), DTYPES[dtype], seed) for seed in (1, 2)]
    kept = tuple(map(AuxiliaryTensor.of, parts))
    (total,) = Sum(2).apply(parts)
    for found, part in zip(SplitSum(2, kept).apply((total,)), parts, strict=True):
        assert_same_bits(found, part)
    changed = total.copy()
    changed[3] = DTYPES[dtype].type(1.5) if changed[3] != DTYPES[dtype].type(1.5) else DTYPES[dtype].type(2)
    first, second = SplitSum(2, kept).apply((changed,))
    assert_same_bits(first[3], changed[3])
    assert_same_bits(second[3], np.full((), -0.0, DTYPES[dtype]))  # which changes no sum
    rest = np.arange(64) != 3
    assert_same_bits(first[rest], parts[0][rest])
    assert_same_bits(second[rest], parts[1][rest])


@given(chains(), seeds, st.data())
@quick
def test_a_lazy_slice_through_a_chain_equals_the_slice_of_the_whole(drawn, seed, data):
    chain, wanted = drawn
    arrays = tensors_for(wanted, seed=seed)
    lazy = chain_tensors([ArrayTensor(array) for array in arrays], chain)
    for whole, tensor in zip(run(chain, arrays), lazy, strict=True):
        assert tensor.spec == TensorSpec(whole.shape, whole.dtype)
        index = data.draw(indices(whole.shape))
        assert_same_bits(read_index(tensor, index), whole[index], index)


@of_each_kind
@given(data=st.data())
@each
def test_pull_names_valid_regions_and_no_more_than_is_needed(kind, data):
    op, wanted = data.draw(ops(kind))
    for output, spec in enumerate(op.spec(wanted)):
        region, _ = regions.normalize(data.draw(indices(spec.shape)), spec.shape)
        pulls = op.input_regions(output, region, wanted)
        for pull in pulls:
            shape = wanted[pull.input].shape
            assert len(pull.region) == len(shape)
            assert all(
                0 <= s.start <= s.stop <= n and s.step >= 1 for s, n in zip(pull.region, shape, strict=True)
            )
        asked = regions.size(regions.region_shape(region))
        pulled = sum(regions.size(regions.region_shape(p.region)) for p in pulls)
        if isinstance(op, RequireEqual | Sum):
            assert pulled == asked * op.count
        elif isinstance(op, InsertZeros):
            assert pulled == asked * op.present[output]
        elif isinstance(op, Fill):
            assert pulled == 0
        elif not isinstance(op, Reshape | Parallel):
            assert pulled == asked


@given(specs(min_rank=1), st.data())
@quick
def test_reshape_pulls_a_run_of_rows_no_longer_than_two_rows_around_the_region(spec, data):
    """Where the leading axis of either shape is cut, only the rows that hold wanted elements are read."""
    target = data.draw(st.sampled_from([(spec.size,), (spec.size, 1), (1, spec.size)]))
    if not spec.size:
        return
    op = Reshape(spec.shape, target)
    axis = target.index(spec.size)
    start = data.draw(st.integers(0, spec.size - 1))
    stop = data.draw(st.integers(start + 1, spec.size))
    region = tuple(slice(start, stop, 1) if a == axis else slice(0, 1, 1) for a in range(len(target)))
    (pull,) = op.input_regions(0, region, (spec,))
    lead = next((n for n in spec.shape if n > 1), 1)
    row = spec.size // lead
    assert regions.size(regions.region_shape(pull.region)) <= (stop - start) + 2 * (row - 1)


@given(chains(), seeds)
@quick
def test_simplifying_a_chain_keeps_its_result(drawn, seed):
    chain, wanted = drawn
    shorter = simplify_chain(chain)
    assert moves_in(shorter) <= moves_in(chain)
    assert chain_specs(wanted, shorter) == chain_specs(wanted, chain)
    arrays = tensors_for(wanted, seed=seed)
    drops_casts = any(casts(op) for op in chain)
    for found, expected in zip(run(shorter, arrays), run(chain, arrays), strict=True):
        (assert_same_values if drops_casts else assert_same_bits)(found, expected)


PLAIN = TensorSpec((2, 3, 4), np.dtype("int32"))


@given(st.data())
@quick
def test_permutes_and_flips_in_any_order_simplify_to_one_of_each_at_most(data):
    turn = st.permutations(range(3)).map(lambda axes: Permute(tuple(axes)))
    flip = st.sets(st.integers(0, 2)).map(lambda axes: Flip(tuple(sorted(axes))))
    chain = tuple(data.draw(st.lists(turn | flip, max_size=6)))
    shorter = simplify_chain(chain)
    assert [type(op) for op in shorter] in ([], [Flip], [Permute], [Flip, Permute])
    (array,) = tensors_for((PLAIN,))
    assert_same_bits(run(shorter, (array,))[0], run(chain, (array,))[0])


@given(specs().flatmap(lambda spec: st.tuples(st.just(spec), move_chains(spec))))
@quick
def test_a_chain_of_moves_and_its_inverse_simplify_to_nothing(drawn):
    _, chain = drawn
    assert simplify_chain((*chain, *inverse_chain(chain))) == ()


@given(chains(), seeds)
@quick
def test_the_inverse_chain_gives_every_input_back(drawn, seed):
    chain, wanted = drawn
    arrays = tensors_for(wanted, seed=seed)
    back = run(inverse_chain(chain), run(chain, arrays))
    for found, expected in zip(back, arrays, strict=True):
        (assert_same_values if any(map(casts, chain)) else assert_same_bits)(found, expected)


@of_each_kind
@given(data=st.data())
@each
def test_an_op_is_plain_data(kind, data):
    op, _ = data.draw(ops(kind))
    data = op.to_json()
    assert json.loads(json.dumps(data, allow_nan=False)) == data
    assert data["op"] == type(op).__name__.lower()
    assert hash(op) == hash(replace(op))
    assert type(op).__name__.lower() in str(op)


def test_the_text_of_an_op_is_short_whatever_it_holds():
    assert str(Permute((1, 0))) == "permute([1, 0])"
    assert str(Drop(0, SQUARE)) == "drop(0, float32[2, 3])"
    assert str(Concat(0, (2,) * 8)) == "concat(0, [2, 2, 2, 2, 2, 2, 2, 2])"
    assert str(Concat(0, (2,) * 300)) == "concat(0, [2, 2, 2, 2, 2, 2, 2, 2, ... (300 in all)])"
    assert str(Parallel(((), (Flip((0,)),), (Flip((0,)),)))) == "parallel([unchanged], 2 x [flip([0])])"
    many = str(Parallel(tuple((Reshape((n,), (1, n)),) for n in range(2, 102))))
    assert many.endswith("and 92 more)")
    assert len(many) < 250
    with refused(PlanError, "300 tensors", "got 299") as caught:
        Concat(0, (2,) * 300).spec((SQUARE,) * 299)
    assert len(str(caught.value)) < 120


def test_same_refuses_tensors_that_differ_in_one_bit():
    a = np.array([0.0, 1.0], np.float32)
    b = np.array([-0.0, 1.0], np.float32)
    assert RequireEqual(2).apply((a, a.copy()))[0] is not None
    with refused(PlanError, "tensor 1 of 2", "tensor 2 of 2", "[0]", "0.0 and -0.0", hint="source"):
        RequireEqual(2).apply((a, b))


def test_same_names_what_differs_and_is_the_same_op_without_the_names():
    named = RequireEqual(2, ("emb.weight", "head.weight"), "emb.embedding")
    with refused(PlanError, "emb.weight", "head.weight", "0.0 and 1.0", hint="--like", key="emb.embedding"):
        named.apply((np.zeros(1), np.ones(1)))
    assert (named, str(named), named.to_json()) == (
        RequireEqual(2),
        str(RequireEqual(2)),
        RequireEqual(2).to_json(),
    )


def test_same_names_the_element_that_differs_in_a_region():
    first = np.zeros((4, 6), np.float32)
    third = first.copy()
    third[2, 5] = np.nan
    tensors = [ArrayTensor(a) for a in (first, first, third)]
    (lazy,) = chain_tensors(tensors, (RequireEqual(3, ("a", "b", "c")),))
    assert lazy.read((slice(0, 4, 1), slice(0, 5, 1))).shape == (4, 5)
    with refused(PlanError, "a and c", "[2, 5]", "0.0 and nan"):
        lazy.read((slice(0, 4, 2), slice(1, 6, 2)))


def test_same_shows_the_bytes_of_values_that_look_alike():
    nans = np.array([0x7FC00000, 0x7FC00001], np.uint32).view(np.float32)
    with refused(PlanError, "[]", "0x0000c07f and 0x0100c07f"):
        RequireEqual(2).apply((nans[0].reshape(()), nans[1].reshape(())))


def test_drop_is_not_exact_and_its_inverse_fills():
    spec = TensorSpec((2,), np.dtype("int64"))
    assert not Drop(3, spec).exact
    assert Drop(3, spec).apply((np.zeros(2, np.int64),)) == ()
    assert_same_bits(Drop(3, spec).inverse().apply(())[0], np.full(2, 3, np.int64))


SQUARE = TensorSpec((2, 3), np.dtype("float32"))
OTHER = TensorSpec((3, 2), np.dtype("float32"))
DOUBLE = TensorSpec((2, 3), np.dtype("float64"))
WHOLE = TensorSpec((2, 3), np.dtype("int64"))
PART = AuxiliaryTensor.of(np.zeros((2, 3), np.float32))


@pytest.mark.parametrize(
    ("op", "given_specs", "named"),
    [
        (Permute((0, 1, 2)), (SQUARE,), ("permute([0, 1, 2])", "rank 3", "float32[2, 3]")),
        (Permute((1, 0)), (SQUARE, SQUARE), ("1 tensor", "got 2")),
        (Flip((2,)), (SQUARE,), ("axis 2", "float32[2, 3]")),
        (Flip((-1,)), (SQUARE,), ("axis -1", "float32[2, 3]")),
        (Reshape((3, 2), (6,)), (SQUARE,), ("shape [3, 2]", "float32[2, 3]")),
        (Split(0, (1, 2)), (SQUARE,), ("axis 0", "size 3", "float32[2, 3]")),
        (Split(2, (2,)), (SQUARE,), ("axis 2", "size 2", "float32[2, 3]")),
        (Concat(0, (2, 2)), (SQUARE,), ("2 tensors", "got 1")),
        (Concat(0, (2, 3)), (SQUARE, OTHER), ("float32[3, 3]", "tensor 2 of 2", "got float32[3, 2]")),
        (Concat(0, (2, 2)), (SQUARE, DOUBLE), ("float32[2, 3]", "tensor 2 of 2", "got float64[2, 3]")),
        (Concat(5, (2, 2)), (SQUARE, SQUARE), ("axis 5", "float32[2, 3]")),
        (Stack(0, 2), (SQUARE, OTHER), ("expected float32[2, 3]", "float32[3, 2]", "tensor 2 of 2")),
        (Stack(4, 2), (SQUARE, SQUARE), ("rank 4", "float32[2, 3]")),
        (Stack(0, 3), (SQUARE, SQUARE), ("3 tensors", "got 2")),
        (Unstack(0, 3), (SQUARE,), ("axis 0", "size 3", "float32[2, 3]")),
        (Unstack(2, 3), (SQUARE,), ("axis 2", "size 3", "float32[2, 3]")),
        (Reorder((1, 0)), (SQUARE,), ("reorder", "2 tensors", "got 1")),
        (Cast("float64", "float32"), (SQUARE,), ("float64", "got float32[2, 3]")),
        (Fill(0, SQUARE), (SQUARE,), ("fill", "0 tensors", "got 1")),
        (Drop(0, OTHER), (SQUARE,), ("drop", "float32[3, 2]", "got float32[2, 3]")),
        (Duplicate(2), (SQUARE, SQUARE), ("duplicate", "1 tensor", "got 2")),
        (RequireEqual(2), (SQUARE, OTHER), ("expected float32[2, 3]", "float32[3, 2]", "tensor 2 of 2")),
        (RequireEqual(2), (SQUARE,), ("requireequal", "2 tensors", "got 1")),
        (Sum(2), (SQUARE, DOUBLE), ("expected float32[2, 3]", "float64[2, 3]", "tensor 2 of 2")),
        (Sum(2), (WHOLE, WHOLE), ("sum", "floating-point", "int64[2, 3]")),
        (SplitSum(2, (PART, PART)), (OTHER,), ("expected float32[3, 2]", "got float32[2, 3]")),
        (Select((0,), 2), (SQUARE,), ("select", "2 tensors", "got 1")),
        (InsertZeros((True, False)), (SQUARE, SQUARE), ("insertzeros", "1 tensor", "got 2")),
        (Parallel(((), ())), (SQUARE,), ("parallel", "2 tensors", "got 1")),
        (Parallel(((Flip((5,)),),)), (SQUARE,), ("flip([5])", "axis 5", "float32[2, 3]")),
    ],
    ids=str,
)
def test_an_op_refuses_tensors_that_it_does_not_take_and_says_which_it_takes(op, given_specs, named):
    with refused(PlanError, *named):
        op.spec(given_specs)
    with refused(PlanError, *named):
        op.apply([random_array(spec.shape, spec.dtype) for spec in given_specs])


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: Permute((0, 0)), ("permute", "0 to 1", "[0, 0]")),
        (lambda: Permute((1, 2)), ("permute", "0 to 1", "[1, 2]")),
        (lambda: Reorder((0, 2)), ("reorder", "0 to 1", "[0, 2]")),
        (lambda: Reshape((2, 3), (5,)), ("reshape([2, 3], [5])", "6 and 5")),
        (lambda: Split(0, ()), ("split", "[]")),
        (lambda: Split(0, (5, -2)), ("split", "[5, -2]")),
        (lambda: Concat(0, ()), ("concat", "[]")),
        (lambda: Stack(0, 0), ("stack", "got 0")),
        (lambda: Unstack(0, 0), ("unstack", "got 0")),
        (lambda: Duplicate(0), ("duplicate", "got 0")),
        (lambda: RequireEqual(0), ("requireequal", "got 0")),
        (lambda: Sum(1), ("sum", "2 or more", "got 1")),
        (lambda: InsertZeros((False,)), ("insertzeros", "got none")),
        (lambda: Parallel(((), ()), (1, 2, 3)), ("parallel", "2 counts", "got 3")),
        (lambda: Cast("complex64", "float32"), ("cast(complex64, float32)", "imaginary")),
    ],
)
def test_an_op_that_makes_no_sense_cannot_be_made(make, named):
    with refused(PlanError, *named):
        make()


class Wrong(Op):
    """Claims to undo itself and does not: what the tests of this file must notice."""

    def spec(self, specs):
        return specs

    def inverse(self):
        return self

    def input_regions(self, output, region, specs):
        return Permute((1, 0)).input_regions(output, region, specs)

    def compute(self, output, region, pieces, specs):
        return np.roll(pieces[0].T.T, 1)


def test_the_checks_notice_a_wrong_op():
    x = np.arange(4.0).reshape(2, 2)
    with pytest.raises(AssertionError):
        assert_same_bits(Wrong().inverse().apply(Wrong().apply((x,)))[0], x)


def test_an_op_with_the_old_names_of_the_methods_works_and_warns():
    with pytest.warns(DeprecationWarning, match=r"\bOld\.(pull|assemble)\b.*\b(input_regions|compute)\b"):

        @dataclasses.dataclass(frozen=True)
        class Old(Op):
            def spec(self, specs):
                return specs

            def inverse(self):
                return self

            def pull(self, output, region, specs):
                return (InputRegion(output, region),)

            def assemble(self, output, region, pieces, specs):
                return pieces[0]

    array = np.arange(4)
    assert Old().apply((array,))[0].tolist() == [0, 1, 2, 3]
    region = (slice(0, 2, 1),)
    with pytest.warns(DeprecationWarning, match=r"\bOp\.pull\b.*\binput_regions\b"):
        assert Permute((0,)).pull(0, region, (TensorSpec((4,), array.dtype),)) == (InputRegion(0, region),)
    with pytest.warns(DeprecationWarning, match=r"\bOp\.assemble\b.*\bcompute\b"):
        assert Permute((0,)).assemble(0, region, (array[:2],), ()).tolist() == [0, 1]
