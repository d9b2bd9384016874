"""Random ops on live arrays have numpy's bits in JAX and torch, as those of `ArrayOpsContract`; refusals."""

from __future__ import annotations

import itertools

import jax
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from support.arrays import assert_same_bits
from support.errors import refused
from support.examples import examples
from support.live import JAX, TORCH, compiles, live_results, numpy_results
from support.ops import KINDS, chains, ops, tensors_for

from bridge_core import PlanError, TensorSpec, UnsupportedFeature
from bridge_core.ops import (
    Cast,
    Offset,
    Permute,
    Scale,
    Sum,
    Unpad,
    emit_chain,
    nan_rule,
)
from bridge_core.state.dtypes import DTYPES

SEEDS = st.integers(0, 2**32 - 1)
COMPUTED = ("float16", "bfloat16", "float32", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2")
"""Dtypes that both frameworks cast into each other, and add."""

WHOLE = ("bool", "int8", "uint8", "int16", "int32", "uint32")


def assert_same_everywhere(chain, arrays, *, eager=True):
    for how, found in live_results(chain, arrays, eager=eager).items():
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


@pytest.mark.parametrize("array_ops", [JAX, TORCH], ids=["jax", "torch"])
def test_what_is_computed_and_not_refused(array_ops):
    casts = [
        Cast(source, target)
        for source, target in itertools.permutations(COMPUTED + WHOLE, 2)
        if source in WHOLE or target in COMPUTED
    ]
    sums = [(op, name) for op in (Sum(2), Offset(1.0)) for name in COMPUTED]
    for op, name in [*((cast, cast.source) for cast in casts), *sums]:
        assert compiles(array_ops, (op,), (TensorSpec((2,), DTYPES[name]),) * getattr(op, "count", 1)), op


@pytest.mark.parametrize("name", ["float16", "bfloat16", "float32", "float64"])
def test_torch_scales_and_adds_wide_numbers(name):
    spec = TensorSpec((2,), DTYPES[name])
    assert compiles(TORCH, (Scale(0.3), Scale(0.3, divides=True)), (spec,))
    assert compiles(TORCH, (Sum(2),), (spec, spec))


@pytest.mark.parametrize(
    "op",
    [Cast("int64", "bfloat16"), Cast("int64", "int32"), Cast("uint8", "int64"), Cast("int64", "float64")],
)
def test_64_bits_are_cast_where_jax_has_them(op):
    spec = TensorSpec((2,), DTYPES[op.source])
    assert compiles(TORCH, (op,), (spec,))
    with jax.enable_x64(True):
        assert compiles(JAX, (op,), (spec,))


def test_float64_is_not_added_in_jax():
    spec = TensorSpec((2,), DTYPES["float64"])
    with jax.enable_x64(True):
        assert not compiles(JAX, (Sum(2),), (spec, spec))


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
