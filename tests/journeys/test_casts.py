"""Casts: exact ones lose nothing, the others do not claim to be, and none fails."""

from __future__ import annotations

import pytest
from support.arrays import assert_same_values, every_value, random_array, same_bits
from support.errors import refused

from bridge_core import PlanError
from bridge_core.ops.elementwise import Cast
from bridge_core.state.dtypes import DTYPES, cast_is_exact


@pytest.mark.parametrize("source", [name for name, dtype in DTYPES.items() if dtype.itemsize <= 2])
def test_a_cast_that_claims_to_be_exact_keeps_every_value(source):
    values = every_value(source)
    targets = [t for t in DTYPES if Cast(source, t).exact]
    assert source in targets
    for target in targets:
        (there,) = Cast(source, target).apply((values,))
        assert there.dtype == DTYPES[target]
        (back,) = Cast(source, target).inverse().apply((there,))
        assert_same_values(back, values)


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("int32", "float64"),
        ("uint32", "int64"),
        ("float32", "float64"),
        ("complex64", "complex128"),
        ("int32", "int64"),
    ],
)
def test_a_wide_cast_that_claims_to_be_exact_keeps_random_values(source, target):
    values = random_array((4096,), source)
    assert Cast(source, target).exact
    (back,) = Cast(source, target).inverse().apply(Cast(source, target).apply((values,)))
    assert_same_values(back, values)


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("float32", "bfloat16"),
        ("float32", "float16"),
        ("float64", "float32"),
        ("float16", "bfloat16"),
        ("bfloat16", "float16"),
        ("float8_e5m2", "float8_e4m3fn"),
        ("int64", "float64"),
        ("int64", "int32"),
        ("int32", "float32"),
        ("float32", "int32"),
        ("complex128", "complex64"),
        ("int16", "float16"),
    ],
)
def test_a_cast_that_loses_values_does_not_claim_to_be_exact(source, target):
    assert not Cast(source, target).exact
    values = random_array((65536,), source, seed=1)
    (back,) = Cast(source, target).inverse().apply(Cast(source, target).apply((values,)))
    assert not same_bits(back, values)


@pytest.mark.parametrize(
    ("source", "target"), [("int8", "uint8"), ("uint64", "int64"), ("float32", "complex64")]
)
def test_a_cast_that_changes_values_does_not_claim_to_be_exact(source, target):
    assert not Cast(source, target).exact


@pytest.mark.parametrize("source", DTYPES)
def test_no_cast_warns_or_fails(source):
    for target in DTYPES:
        if DTYPES[source].kind == "c" and DTYPES[target].kind != "c":
            with refused(PlanError, source, target):
                Cast(source, target)
        else:
            (made,) = Cast(source, target).apply((random_array((64,), source),))
            assert made.dtype == DTYPES[target]


@pytest.mark.parametrize("source", DTYPES)
def test_every_exact_cast_has_an_inverse(source):
    for target in DTYPES:
        if cast_is_exact(DTYPES[source], DTYPES[target]):
            assert Cast(source, target).inverse().inverse() == Cast(source, target)
