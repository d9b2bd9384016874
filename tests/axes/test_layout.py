"""From one layout of a tensor to another: the chain does what numpy does, and is as short as it can be."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, strategies as st

from bridge_core.axes import layout_ops

SIZES = {"a": 2, "b": 3, "c": 1, "d": 4}


@st.composite
def layouts(draw):
    """Names in any order, cut into runs that are one axis each, axes of size one anywhere."""
    names = draw(st.permutations(list(SIZES)))
    cuts = sorted(draw(st.lists(st.integers(0, len(names)), max_size=5)))
    return tuple(tuple(names[i:j]) for i, j in itertools.pairwise((0, *cuts, len(names))))


def arranged(layout):
    """Return the array of a layout whose elements are numbered in the order of the names."""
    names = [name for run in layout for name in run]
    array = np.arange(math.prod(SIZES.values())).reshape(tuple(SIZES.values()))
    order = [list(SIZES).index(name) for name in names]
    return array.transpose(order).reshape([math.prod(SIZES[n] for n in run) for run in layout])


@given(layouts(), layouts())
def test_a_chain_leads_from_one_layout_to_the_other(source, target):
    ops = layout_ops(source, target, SIZES)
    made = arranged(source)
    for op in ops:
        (made,) = op.apply((made,))
    np.testing.assert_array_equal(made, arranged(target))
    assert len(ops) <= 3


@pytest.mark.parametrize(
    ("source", "target", "texts"),
    [
        ("a b", "a b", []),
        ("a b d", "d a b", ["permute([2, 0, 1])"]),
        ("(a b) d", "d (a b)", ["permute([1, 0])"]),
        ("(a b) d", "a b d", ["reshape([6, 4], [2, 3, 4])"]),
        ("1 a b", "b a 1", ["permute([2, 1, 0])"]),
        ("1 a b", "a b", ["reshape([1, 2, 3], [2, 3])"]),
    ],
)
def test_a_chain_is_short(source, target, texts):
    def layout(text):
        runs = text.replace("(a b)", "ab").split()
        return tuple(() if run == "1" else tuple(run) for run in runs)

    assert [str(op) for op in layout_ops(layout(source), layout(target), SIZES)] == texts
