"""A state finds its tensors by every name that means one key, and refuses the others by one error."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
from support.errors import refused

from bridge_core import (
    FlatState,
    KeyConflict,
    StateMetadata,
    UnsupportedFeature,
    UsageError,
    as_key,
    as_state,
)
from bridge_core.errors import UnknownKey
from bridge_core.state import as_tensor

A, B = np.arange(6, dtype=np.float32).reshape(2, 3), np.ones(3, np.float32)


@pytest.mark.parametrize(
    ("tensors", "keys"),
    [
        ({"conv.kernel": A}, [("conv", "kernel")]),
        ({"conv": {"kernel": A, "bias": B}}, [("conv", "kernel"), ("conv", "bias")]),
        ({("layers", 0, "kernel"): A}, [("layers", "0", "kernel")]),
        ({("layers", np.int64(3)): A}, [("layers", "3")]),
        ({"layers": {0: {"w": A}, 1: {"w": A}}}, [("layers", "0", "w"), ("layers", "1", "w")]),
        ({"layers": [{"w": A}, {"w": A}]}, [("layers", "0", "w"), ("layers", "1", "w")]),
        ({"mlp": [(A, B), (A, B)]}, [("mlp", i, j) for i in "01" for j in "01"]),
        ({"encoder.layer": {"0.w": A}}, [("encoder", "layer", "0", "w")]),
        ({("a", "b.c"): A, "a.d": B}, [("a", "b.c"), ("a", "d")]),
        ({("a",): {("b", "c.d"): A}}, [("a", "b", "c.d")]),
        ({0: A}, [("0",)]),
        ({"part": FlatState({"w": A})}, [("part", "w")]),
        ({"a": [1.0, 2.0], "b": [[1], [2]]}, [("a",), ("b",)]),
    ],
)
def test_a_mapping_may_name_its_tensors_in_every_usual_way(tensors, keys):
    assert list(FlatState(tensors)) == keys
    assert list(as_state(tensors)) == keys


@pytest.mark.parametrize("keys", [["a", "b.c"], [("a",), ("b", "c")]])
def test_a_mapping_that_reads_what_it_gives_is_read_once(keys):
    reads = []

    class Reading(Mapping):
        def __getitem__(self, key):
            reads.append(key)
            return A

        def __iter__(self):
            return iter(keys)

        def __len__(self):
            return len(keys)

    assert len(FlatState(Reading())) == 2
    assert sorted(reads) == sorted(keys)


def test_empty_nodes_are_known():
    assert FlatState({"a": {"b": {}}, "c": {"w": A}}).metadata.empty == (("a", "b"),)


@pytest.mark.parametrize(
    ("tensors", "error", "named"),
    [
        ({None: A}, UsageError, ["got None"]),
        ({True: A}, UsageError, ["got True"]),
        ({b"a": A}, UsageError, ["got b'a'"]),
        ({("a", 0.5): A}, UsageError, ["got ('a', 0.5)", "float"]),
        ({"a": {None: A}}, UsageError, ["got None"]),
        ({"a.b": A, ("a", "b"): A}, KeyConflict, ["tensor 'a.b'", "'a.b'", "('a', 'b')"]),
        ({("a", 0): A, ("a", "0"): A}, KeyConflict, ["tensor 'a.0'", "('a', 0)", "('a', '0')"]),
        ({"a": {"b": A}, "a.b": B}, KeyConflict, ["tensor 'a.b'", "'b' in 'a'"]),
        ({"x": {"y": None}}, UnsupportedFeature, ["tensor 'x.y'", "object"]),
        ({("x", "y"): np.array(["text"])}, UnsupportedFeature, ["tensor 'x.y'", "U4"]),
    ],
)
def test_what_names_no_tensor_or_two_is_refused(tensors, error, named):
    with refused(error, *named):
        FlatState(tensors)


def test_names_that_slashes_join_are_split_there_in_a_flat_mapping_only():
    assert list(FlatState({"params/Dense_0/kernel": A, "step": B})) == [
        ("params", "Dense_0", "kernel"),
        ("step",),
    ]
    assert list(FlatState({"a.Dense_0/kernel": A, "b/c": B})) == [("a", "Dense_0/kernel"), ("b/c",)]
    assert list(FlatState({"norm": {"Dense_0/kernel/scale": A}})) == [("norm", "Dense_0/kernel/scale")]
    assert list(FlatState({("Dense_0/kernel",): A, "b/c": B})) == [("Dense_0/kernel",), ("b/c",)]


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("layers.0.w", ("layers", "0", "w")),
        (("layers", 0, "w"), ("layers", "0", "w")),
        (["layers", "0", "w"], ("layers", "0", "w")),
        ("a.b.c", ("a", "b.c")),
        (("a", "b.c"), ("a", "b.c")),
    ],
)
def test_every_look_up_takes_every_name(name, key):
    state = FlatState({("layers", "0", "w"): A, ("a", "b.c"): B})
    assert name in state
    assert state.tensor(name) is state.tensor(key)
    assert state.spec(name) == state.spec(key)
    np.testing.assert_array_equal(state[name], state[key])
    np.testing.assert_array_equal(state.read(name, (0,)), state[key][0])
    assert list(state.select([name])) == [key]


def test_a_key_that_is_there_comes_before_one_whose_parts_hold_dots():
    state = FlatState({("a", "b.c"): A, ("a", "b", "c"): B})
    assert state["a.b.c"].shape == (3,)
    assert state["a", "b.c"].shape == (2, 3)
    ambiguous = FlatState({("a", "b.c"): A, ("a.b", "c"): B})
    with refused(KeyConflict, "'a.b.c'", "('a', 'b.c')", "('a.b', 'c')", hint="('a', 'b.c')"):
        ambiguous["a.b.c"]


@pytest.mark.parametrize("name", [None, 1.5, b"a", {"a": 1}, ("a", None), ("a", ["b"])])
def test_what_is_not_a_name_finds_nothing(name):
    state = FlatState({"a": A})
    for look in (state.__getitem__, state.tensor, state.spec, state.read, lambda n: state.select([n])):
        with refused(UsageError, repr(name)):
            look(name)


def test_a_name_that_is_not_there_is_a_key_error():
    state = FlatState({"a.b": A})
    assert "a" not in state
    assert None not in state
    for name in ("a", ("a",), "a.b.c"):
        for look in (state.__getitem__, state.tensor, state.spec, lambda n: state.select([n])):
            with pytest.raises(KeyError):
                look(name)
            with refused(UnknownKey, "1 tensor", hint="a.b", key=as_key(name)):
                look(name)
    assert state.get("x.y") is None
    assert state.get("x.y", 3) == 3
    np.testing.assert_array_equal(state.get("a.b"), A)


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("layers.7.mlp.wieght", "layers.7.mlp.weight"),
        ("layers.99999.mpl.weight", "layers.99999.mlp.weight"),
        ("model.layers.3.mlp.weight", "layers.3.mlp.weight"),
    ],
)
def test_an_unknown_key_of_very_many_names_the_nearest(many, name, nearest):
    with refused(UnknownKey, "100000 tensors", hint=repr(nearest)):
        many[name]


def test_nothing_is_compared_for_get_and_in(many, monkeypatch):
    def compared(*_):
        raise AssertionError

    monkeypatch.setattr("difflib.get_close_matches", compared)
    assert many.get(("layers", "7", "mlp", "wieght")) is None
    assert "layers.7.mlp.wieght" not in many


@pytest.fixture(scope="module")
def many():
    tensor = as_tensor(B)
    return FlatState({("layers", str(i), "mlp", "weight"): tensor for i in range(100_000)})


@pytest.mark.parametrize("parts", [b"ab", {"a": 1}, 1.5, [object()]])
def test_a_key_is_made_of_strings_and_integers(parts):
    with refused(UsageError, repr(parts)):
        as_key(parts)


def test_a_state_made_of_a_state_reads_nothing():
    tensor = as_tensor(A)
    assert FlatState(FlatState({"a": tensor})).tensor("a") is tensor


def tied(**changes):
    tensors = {("a",): as_tensor(A), ("b",): as_tensor(A.copy()), ("c",): as_tensor(B)}
    tensors[("d",)] = tensors[("c",)]
    return FlatState(tensors, metadata=StateMetadata(ties={("b",): ("a",), ("d",): ("c",)}))


@pytest.mark.parametrize(
    ("edit", "ties"),
    [
        (lambda t: t, {("b",): ("a",), ("d",): ("c",)}),
        (lambda t: {**t, ("b",): A + 1}, {("d",): ("c",)}),
        (lambda t: {**t, ("a",): A + 1}, {("d",): ("c",)}),
        (lambda t: {**t, ("d",): B}, {("b",): ("a",)}),
        (lambda t: {("c",): t["a",], ("d",): t["a",]}, {("d",): ("c",)}),
        (lambda t: {("a",): t["a",], ("c",): t["c",]}, {}),
    ],
)
def test_replaced_tensors_are_tied_only_where_nothing_was_edited(edit, ties):
    state = tied()
    assert dict(state.replace(tensors=edit(dict(state.tensors()))).metadata.ties) == ties


def test_metadata_that_is_given_is_taken():
    state = tied()
    metadata = StateMetadata(ties={("b",): ("a",)})
    assert state.replace(tensors={("a",): A, ("b",): B}, metadata=metadata).metadata is metadata
