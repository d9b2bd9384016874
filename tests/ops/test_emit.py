"""Ops on live arrays: the bits that numpy gives, in JAX (eager and jitted) and in torch, or a refusal."""

from __future__ import annotations

import itertools

import jax
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from support.arrays import assert_same_bits, every_value, random_array
from support.errors import refused
from support.examples import examples
from support.live import JAX, TORCH, live_results, numpy_results
from support.ops import KINDS, chains, ops, tensors_for

from bridge_core import PlanError, TensorSpec, UnsupportedFeature
from bridge_core.ops import (
    Cast,
    Concat,
    Duplicate,
    Fill,
    Flip,
    InsertZeros,
    Offset,
    Pad,
    Permute,
    Reorder,
    Scale,
    Split,
    SplitSum,
    Stack,
    Sum,
    Unpad,
    emit_chain,
    nan_rule,
)
from bridge_core.state import AuxiliaryTensor
from bridge_core.state.dtypes import DTYPES, is_floating

SEEDS = st.integers(0, 2**32 - 1)
COMPUTED = ("float16", "bfloat16", "float32", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2")
"""Dtypes that both frameworks cast into each other, and add."""

WIDE = ("bool", "int8", "uint8", "int16", "int32", "uint32", "float16", "bfloat16", "float32")


def values_of(name):
    """Every value of a narrow dtype; of a wide one random ones, and those near the values of narrow ones."""
    dtype = DTYPES[name]
    if dtype.itemsize <= 2:
        return every_value(name)
    if dtype.kind in "iu":
        return np.concatenate([random_array((4000,), name), np.arange(-300, 300).astype(dtype)])
    narrow = [every_value(n).astype(np.float32) for n in ("float16", "bfloat16", "float8_e4m3fn")]
    exact = np.concatenate(narrow)[::7]
    with np.errstate(all="ignore"):
        middle = (exact[1:] + exact[:-1]) / 2
        near = [np.nextafter(middle, np.float32(end)) for end in (np.inf, -np.inf)]
    return np.concatenate([exact, middle, *near, random_array((4000,), name)]).astype(dtype)


def assert_same_everywhere(chain, arrays, *, frameworks=(), eager=True):
    results = live_results(chain, arrays, eager=eager)
    assert {how.partition(",")[0] for how in results} >= set(frameworks), chain
    for how, found in results.items():
        expected = numpy_results(chain, arrays)
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_same_bits(one, other, f"{how}: {' '.join(map(str, chain))}")


@pytest.mark.parametrize("kind", KINDS)
@given(seed=SEEDS, data=st.data())
@settings(max_examples=examples(3), deadline=None)
def test_every_op_gives_the_bits_of_numpy(kind, seed, data):
    op, specs = data.draw(ops(kind))
    assert_same_everywhere((op,), tensors_for(op, specs, seed), eager=False)


@given(seed=SEEDS, drawn=chains())
@settings(max_examples=examples(8), deadline=None)
def test_chains_give_the_bits_of_numpy(seed, drawn):
    chain, specs = drawn
    assert_same_everywhere(chain, tensors_for(specs, seed=seed))


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(
            name, marks=() if name in ("bfloat16", "float32", "float8_e8m0fnu") else pytest.mark.slow
        )
        for name in DTYPES
        if name not in ("bool", "complex128")
    ],
)
def test_moves_change_no_bit(name):
    values = every_value(name) if DTYPES[name].itemsize <= 2 else random_array((4096,), name)
    (size,) = values.shape
    square = values[: size // 4 * 4].reshape(4, -1)
    chain = (
        Split(0, (1, 3)),
        Reorder((1, 0)),
        Concat(0, (3, 1)),
        Pad(0, 4, 5, 1),
        Flip((0, 1)),
        Duplicate(2),
        Stack(1, 2),
        Permute((1, 2, 0)),
    )
    assert_same_everywhere(chain, (square,), eager=False)


@pytest.mark.parametrize(
    ("source", "target"),
    [
        *itertools.permutations(COMPUTED[:3], 2),
        ("float32", "float8_e4m3fn"),
        ("int32", "float8_e4m3fn"),
        ("int32", "int8"),
    ],
)
def test_casts_round_as_numpy_with_its_nans(source, target):
    assert_same_everywhere((Cast(source, target),), (values_of(source),), frameworks=("jax", "torch"))


@pytest.mark.slow
@pytest.mark.parametrize(("source", "target"), [*itertools.permutations([*COMPUTED, *WIDE[:6]], 2)])
def test_all_casts_round_as_numpy(source, target):
    frameworks = () if is_floating(DTYPES[source]) and not is_floating(DTYPES[target]) else ("jax", "torch")
    assert_same_everywhere((Cast(source, target),), (values_of(source),), frameworks=frameworks)


@pytest.mark.parametrize("name", COMPUTED)
def test_sums_round_as_numpy_near_zero_and_with_nans(name):
    values = values_of(name)
    shuffled = np.random.default_rng(1).permutation(values)
    if name == "float32":
        tiny = random_array((30_000,), "uint32") & np.uint32(0x83FFFFFF)
        values = np.concatenate([values, tiny.view(np.float32)])
        shuffled = np.concatenate([shuffled, tiny[::-1].view(np.float32)])
    third = values[::-1].copy()
    assert_same_everywhere((Sum(3),), (values, shuffled, third), frameworks=("jax", "torch"))


def test_sum_of_denormal_numbers_is_not_zero_in_jax():
    tiny = np.full((3,), 1e-40, np.float32)
    (found,) = live_results((Sum(2),), (tiny, tiny))["jax, jitted"]
    assert (found == tiny + tiny).all()
    assert (found > 0).all()


@pytest.mark.parametrize("name", ["float32", "bfloat16", "float16"])
def test_offset_rounds_as_numpy(name):
    finite = values_of(name)
    finite = finite[np.abs(finite.astype(np.float32)) < 1000]
    assert_same_everywhere((Offset(1.0, rounding=True),), (finite,), frameworks=("jax", "torch"))


@pytest.mark.parametrize("divides", [False, True])
@pytest.mark.parametrize("name", ["float32", "bfloat16", "float16", "float64"])
def test_torch_scales_as_numpy(name, divides):
    values = values_of(name) if name != "float64" else random_array((3000,), name)
    with np.errstate(all="ignore"):
        near = np.abs(values.astype(np.float32))
        values = values[(near < 1000) | np.isnan(near)]
    op = Scale(0.3, rounding=True, divides=divides)
    assert_same_everywhere((op,), (values,), frameworks=("torch",))


@pytest.mark.parametrize("value", [0, 7, -1.5])
def test_padding_has_the_constant(value):
    array = random_array((3, 5), "bfloat16")
    assert_same_everywhere((Pad(1, 5, 8, value),), (array,), frameworks=("jax", "torch"))
    padded = Pad(1, 5, 8, value).apply((array,))
    assert_same_everywhere((Unpad(1, 8, 5, value),), padded, frameworks=("jax", "torch"))


@pytest.mark.parametrize("name", ["complex64", "bfloat16", "bool", "uint32", "float8_e4m3fn"])
def test_constants_have_the_bits_of_numpy(name):
    fill = Fill(1, TensorSpec((2, 3), DTYPES[name]))
    zeros = InsertZeros((True, False))
    assert_same_everywhere((fill, zeros, Stack(0, 2)), (), frameworks=("jax", "torch"))


def test_stored_parts_come_back_where_they_add_up():
    parts = tuple(random_array((40,), "float32", seed) for seed in range(2))
    (total,) = numpy_results((Sum(2),), parts)
    total[::2] = 1
    op = SplitSum(2, tuple(map(AuxiliaryTensor.of, parts)))
    assert_same_everywhere((op,), (total,), frameworks=("jax", "torch"))


@pytest.mark.parametrize(
    "op",
    [Cast("int64", "bfloat16"), Cast("int64", "int32"), Cast("uint8", "int64"), Cast("int64", "float64")],
)
def test_64_bits_where_jax_has_them(op):
    with jax.enable_x64(True):
        values = values_of(op.source) if op.source != "int64" else random_array((5000,), "int64")
        assert_same_everywhere((op,), (values,), frameworks=("jax", "torch"))


def test_float64_is_moved_and_not_added_in_jax():
    array = random_array((6, 4), "float64")
    with jax.enable_x64(True):
        assert_same_everywhere((Permute((1, 0)), Pad(0, 4, 5, -0.5)), (array,), frameworks=("jax", "torch"))
        assert set(live_results((Sum(2),), (array, array))) == {"torch"}
    assert_same_everywhere((Sum(2),), (array, array[::-1].copy()), frameworks=("torch",))


@pytest.mark.parametrize(
    ("array_ops", "op"),
    [
        (JAX, Cast("float32", "int8")),
        (TORCH, Cast("float32", "int8")),
        (JAX, Cast("float32", "float64")),
        (TORCH, Cast("float64", "float16")),
        (JAX, Scale(0.5, rounding=True)),
        (JAX, Cast("int8", "int4")),
        (TORCH, Cast("int8", "int4")),
        (TORCH, Cast("float32", "float8_e3m4")),
    ],
)
def test_what_has_other_bits_is_refused_by_name(array_ops, op):
    spec = TensorSpec((2,), DTYPES[getattr(op, "source", "float32")])
    with refused(UnsupportedFeature, op, array_ops.framework):
        array_ops.traced(lambda near, given: emit_chain(near, (op,), given, (spec,)), (spec,))


class Foreign(Permute):
    """An op of a third party that has not heard of live arrays."""

    emit = Permute.__mro__[1].emit


def test_op_without_emit_is_refused_by_name():
    with refused(UnsupportedFeature, "foreign([1, 0])", "Foreign", "emit", "flax"):
        emit_chain(JAX, (Foreign((1, 0)),), (np.zeros((2, 3)),), (TensorSpec((2, 3), np.dtype("f8")),))


def test_op_refuses_arrays_of_another_rank():
    with refused(PlanError, "rank 2"):
        emit_chain(JAX, (Permute((1, 0)),), (np.zeros(3),), (TensorSpec((3,), np.dtype("f8")),))


@pytest.mark.parametrize(("source", "target"), [*itertools.permutations(COMPUTED[:3], 2)])
def test_numpy_has_a_rule_for_nans(source, target):
    assert nan_rule(source, target) is not None


def test_only_some_ops_check_values():
    assert Offset(1.0).checks_values
    assert Unpad(0, 4, 2).checks_values
    assert not Unpad(0, 4, 2, discard=True).checks_values
    assert not Cast("float32", "bfloat16").checks_values
