"""Variable collections: found once for a state, then taken off keys and put back."""

from __future__ import annotations

import numpy as np
import pytest

from bridge_core import FlatState, StateMetadata, as_key
from bridge_core.state import VariableCollections

LEAVES = {"params": (), "batch_stats": ("mean", "var")}


def collections_of(*names, form=None, leaves=LEAVES):
    metadata = StateMetadata(tree_form={} if form is None else {"flax": form})
    state = FlatState({as_key(name): np.zeros(1) for name in names}, metadata=metadata)
    return VariableCollections.of_state(state, "flax", leaves)


@pytest.mark.parametrize(
    ("names", "form", "present"),
    [
        (["params.fc.kernel"], None, True),
        (["params.fc.kernel", "cache.fc.index"], None, True),
        (["batch_stats.bn.mean"], None, True),
        (["fc.kernel", "bn.mean"], None, False),
        (["batch_stats.bn.mean", "fc.kernel"], None, False),
        (["params"], None, False),
        ([], None, False),
        (["params.fc.kernel"], "params", False),
        (["params.fc.kernel"], "nnx", False),
        (["cache.fc.index"], "variables", True),
    ],
)
def test_keys_and_metadata_show_whether_keys_begin_with_collections(names, form, present):
    assert collections_of(*names, form=form).present is present


def test_a_framework_without_collections_has_none():
    collections = collections_of("params.fc.weight", form="variables", leaves={})
    assert (collections.present, collections.default, collections.of("norm", "mean")) == (False, "", "")
    assert collections.strip(("params", "fc")) == ("params", "fc")


def test_a_key_is_split_and_joined_again():
    key = ("batch_stats", "bn", "mean")
    present, bare = VariableCollections(LEAVES, True), VariableCollections(LEAVES)
    assert present.split(key) == ("batch_stats", ("bn", "mean"))
    assert present.join(*present.split(key)) == key
    assert present.strip(key) == ("bn", "mean")
    assert bare.split(key) == ("", key)
    assert bare.join("params", key) == bare.strip(key) == key


@pytest.mark.parametrize(
    ("kind", "leaf", "collection"),
    [("batch_norm", "mean", "batch_stats"), ("batch_norm", "scale", "params"), (None, "mean", "params")],
)
def test_a_leaf_of_a_layer_is_in_the_collection_that_names_it(kind, leaf, collection):
    assert VariableCollections(LEAVES).of(kind, leaf) == collection
