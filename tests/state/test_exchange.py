"""`FlatState.with_tensors`: other values under known keys, and ties that do not break by accident."""

from __future__ import annotations

import numpy as np
import pytest
from support.errors import refused

import bridge_torch
from bridge_core import FlatState, StateMetadata, UnknownKey, UnsupportedFeature, UsageError
from bridge_core.state import LayerInfo

TABLE = np.arange(12, dtype="float32").reshape(4, 3)
LAYERS = {
    ("embed",): LayerInfo("embedding", "module", ("embedding",)),
    ("head",): LayerInfo("linear", "module", ("kernel",)),
}
TIE = {("head", "kernel"): ("embed", "embedding")}


def neutral(**metadata):
    tensors = {"embed.embedding": TABLE, "head.kernel": TABLE.T, "other.bias": np.zeros(3, "float32")}
    return FlatState(tensors, layout="neutral", metadata=StateMetadata(layers=LAYERS, **metadata))


def test_other_tensors_are_in_place_and_all_else_is_unchanged():
    state = neutral()
    changed = state.with_tensors({"embed.embedding": TABLE[:2], ("other", "bias"): np.ones(5, "float16")})
    assert list(changed) == list(state)
    assert changed.spec("embed.embedding").shape == (2, 3)
    assert changed["other.bias"].dtype == "float16"
    assert changed.tensor("head.kernel") is state.tensor("head.kernel")
    assert (changed.layout, changed.metadata.layers) == ("neutral", LAYERS)
    assert state.spec("embed.embedding").shape == (4, 3)


@pytest.mark.parametrize("layout", ["neutral", "torch"])
@pytest.mark.parametrize("name", ["embed.embedding", "head.kernel"])
def test_a_tie_is_not_broken_by_one_of_its_ends(name, layout):
    state = neutral(ties=TIE).replace(layout=layout)
    (other,) = {"embed.embedding", "head.kernel"} - {name}
    with refused(UsageError, name, other, hint=other):
        state.with_tensors({name: state[name] + 1})


def test_a_neutral_tie_stays_and_is_compared_when_it_is_written():
    for head, tied in ((TABLE[:2].T, True), (TABLE[2:].T, False)):
        changed = neutral(ties=TIE).with_tensors({"embed.embedding": TABLE[:2], "head.kernel": head})
        written = bridge_torch.from_neutral(changed)
        shared = written["embed.weight"].data_ptr() == written["head.weight"].data_ptr()
        assert shared == tied
        np.testing.assert_array_equal(written["head.weight"].numpy(), head.T)


@pytest.mark.parametrize("tied", [True, False])
def test_elsewhere_keys_are_tied_that_have_one_array(tied):
    metadata = StateMetadata(ties={("b",): ("a",)})
    state = FlatState({"a": TABLE, "b": TABLE}, layout="torch", metadata=metadata)
    new = TABLE + 1
    changed = state.with_tensors({"a": new, "b": new if tied else new.copy()})
    assert (changed.metadata.ties == metadata.ties) == tied
    assert (changed.tensor("a") is changed.tensor("b")) == tied


def test_a_tie_to_a_key_that_is_not_there_is_ignored():
    state = FlatState({"b": TABLE}, metadata=StateMetadata(ties={("b",): ("a",)}))
    assert (state.with_tensors({"b": TABLE + 1})["b"] == TABLE + 1).all()


def test_what_is_refused():
    with refused(UnknownKey, "embed.embeding"):
        neutral().with_tensors({"embed.embeding": TABLE})
    with refused(UnsupportedFeature, "other.bias"):
        neutral().with_tensors({"other.bias": "ones"})
