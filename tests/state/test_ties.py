"""Ties: every key leads to one canonical key, whatever chains and circles a file holds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, strategies as st

from bridge_core import FlatState, StateMetadata
from bridge_core.formats.base import ShardNames
from bridge_core.formats.sharded import partition
from bridge_core.state import Ties, as_tensor, held_ties

A, B, C, D = ("a",), ("b",), ("c",), ("d",)


@pytest.mark.parametrize("ties", [{C: B, B: A}, {B: A, C: B}])
def test_a_chain_ends_at_the_canonical_key_in_any_order(ties):
    tied = Ties(ties)
    assert [tied.root(key) for key in (A, B, C, D)] == [A, A, A, D]
    assert {root: set(keys) for root, keys in tied.groups().items()} == {A: {B, C}}
    assert dict(tied) == {B: A, C: A}


@pytest.mark.parametrize(
    ("ties", "groups"),
    [
        ({A: B, B: A}, {A: {B}}),
        ({B: C, C: A, A: B}, {B: {A, C}}),
        ({A: A}, {}),
        ({D: A, A: B, B: A}, {A: {B, D}}),
    ],
)
def test_a_circle_has_one_canonical_key(ties, groups):
    tied = Ties(ties)
    assert {root: set(keys) for root, keys in tied.groups().items()} == groups


@given(st.dictionaries(st.integers(0, 7), st.integers(0, 7)))
def test_tied_keys_share_a_root_that_is_its_own(numbers):
    ties = {(str(k),): (str(v),) for k, v in numbers.items()}
    tied = Ties(ties)
    for key, other in ties.items():
        assert tied.root(key) == tied.root(other) == tied.root(tied.root(key))
    assert sorted(key for keys in tied.groups().values() for key in keys) == sorted(key for key, _ in tied)


def test_a_chain_ends_where_it_would_leave_the_keys():
    tied = Ties.within({D: C, C: B, B: A}, {B, C, D})
    assert [tied.root(key) for key in (A, B, C, D)] == [A, B, B, B]


def test_aliases_are_ties_of_one_tensor():
    one, equal = as_tensor(np.ones(2)), as_tensor(np.ones(2))
    tensors = {A: one, B: one, C: equal, D: one}
    state = FlatState(tensors, metadata=StateMetadata(ties={B: A, C: A, D: C, ("gone",): A}))
    assert dict(Ties.aliases(state)) == {B: A}


def test_shards_of_a_state_whose_ties_form_a_circle():
    one = as_tensor(np.ones(2))
    state = FlatState({A: one, B: one, C: np.ones(3)}, metadata=StateMetadata(ties={A: B, B: A}))
    names = ShardNames("m.npz", "m-{index:05d}-of-{count:05d}.npz", "m.index.json")
    assert partition(state, 32, names) == [[A, B], [C]]


@pytest.mark.parametrize(
    ("ties", "held"),
    [
        ({B: A, C: B}, {B: A, C: B}),
        ({A: B, B: A}, {B: A}),
        ({B: C, C: A, A: B}, {C: A, A: B}),
        ({A: A}, {}),
        ({B: D, D: A}, {}),
        ({B: ("gone",), ("gone",): A, C: B}, {C: B}),
        ({("",): A}, {}),
    ],
)
def test_held_ties_are_those_that_a_file_may_record(ties, held):
    tensors = {A: np.ones((2, 3)), B: np.ones((3, 2)), C: np.ones(6), D: np.ones(5), ("",): np.ones(6)}
    assert held_ties(FlatState(tensors, metadata=StateMetadata(ties=ties))) == held


def test_tensors_of_two_dtypes_are_not_tied():
    state = FlatState({A: np.ones(2, np.float32), B: np.ones(2)}, metadata=StateMetadata(ties={B: A}))
    assert held_ties(state) == {}
