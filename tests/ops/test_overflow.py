"""Casts count the values that leave the range of their dtype."""

import threading

import numpy as np
import pytest

from bridge_core.ops import Cast, OverflowCount
from bridge_core.state import dtype_named

BIG = [1.0, 7e4, -7e4, 65504.0, 65510.0, np.inf, -np.inf, np.nan, 0.0]


def counted(values, source, target):
    with OverflowCount() as overflow:
        Cast(source, target).apply([np.asarray(values).astype(dtype_named(source))])
    return overflow.values


@pytest.mark.parametrize(
    ("values", "source", "target", "expected"),
    [
        (BIG, "float32", "float16", 2),
        (BIG, "float64", "float16", 2),
        (BIG, "bfloat16", "float16", 4),
        (BIG, "float32", "bfloat16", 0),
        ([3.4e38, 1e38], "float32", "bfloat16", 1),
        ([1e300, -1e300, 1.0], "float64", "float32", 2),
        ([448.0, 460.0, 470.0, -1e4, np.nan], "float32", "float8_e4m3fn", 2),
        ([57344.0, 1e6], "float32", "float8_e5m2", 1),
        ([6.0, 7.0, -9.0], "float32", "float4_e2m1fn", 2),
        ([1e300], "float64", "float8_e4m3fn", 1),
        ([70000, 1], "int64", "float16", 1),
        ([127, 128, -129], "int64", "int8", 2),
        ([255, -1], "int64", "uint8", 1),
        ([2**63 - 1, 1], "uint64", "int64", 0),
        ([127.9, 128.0, -128.5, np.nan], "float32", "int8", 2),
        ([2.0**63, 1.0], "float64", "int64", 1),
        ([1e300 + 1j, 1.0], "complex128", "complex64", 1),
        ([1e4], "float16", "float32", 0),
        ([5.0], "float32", "bool", 0),
        ([], "float32", "float16", 0),
    ],
    ids=str,
)
def test_what_leaves_the_range_is_counted(values, source, target, expected):
    assert counted(values, source, target) == expected


def test_counts_are_of_one_thread_and_of_the_inner_counter():
    cast = Cast("float32", "float16")
    big = [np.full(3, 1e6, np.float32)]
    with OverflowCount() as outer:
        cast.apply(big)
        thread = threading.Thread(target=cast.apply, args=(big,))
        thread.start()
        thread.join()
        with OverflowCount() as inner:
            cast.apply(big)
    cast.apply(big)
    assert (outer.values, inner.values) == (3, 3)


def test_every_dtype_can_be_counted():
    values = np.asarray([1.0, 1e300])
    for dtype in map(dtype_named, ("float8_e3m4", "float8_e8m0fnu", "float6_e2m3fn", "float8_e5m2fnuz")):
        made = Cast("float64", dtype.name)
        with OverflowCount() as overflow:
            made.apply([values])
        assert overflow.values == 1
