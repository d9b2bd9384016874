"""Metadata that a caller puts together is refused by name where it is not what is documented."""

from __future__ import annotations

import numpy as np
import pytest
from support.errors import refused

import bridge_torch
from bridge_core import FlatState, UsageError, convert, plan_conversion, save_state
from bridge_core.state import AuxiliaryTensor, LayerInfo, RecordedRule, StateMetadata, check_given

LINEAR = LayerInfo("linear", "module", ("kernel",))
BAD = {
    "a key of ties, got ()": StateMetadata(ties={(): ("a", "kernel")}),
    "a key of ties, got 'a.kernel'": StateMetadata(ties={("a", "kernel"): "a.kernel"}),
    "a key of auxiliary_tensors, got ()": StateMetadata(
        auxiliary_tensors={(): AuxiliaryTensor.of(np.zeros(1))}
    ),
    "auxiliary_tensors, got 1": StateMetadata(
        auxiliary_tensors={("a", "n"): AuxiliaryTensor("int64", (), b"1")}
    ),
    "auxiliary_tensors[0], got 'int65'": StateMetadata(
        auxiliary_tensors={("a", "n"): AuxiliaryTensor("int65", (), b"1")}
    ),
    "a value in auxiliary_tensors, got 3": StateMetadata(auxiliary_tensors={("a", "n"): 3}),
    "a value in layers, got 'linear'": StateMetadata(layers={("a",): "linear"}),
    "a key of layers, got 'a'": StateMetadata(layers={"a": LINEAR}),
    "a layer's leaves, got 'kernel'": StateMetadata(layers={("a",): LayerInfo("linear", "module", "kernel")}),
    ".kind, got 3": StateMetadata(layers={("a",): LayerInfo(3, "module", ("kernel",))}),
    ".factors['in'][0], got 'x'": StateMetadata(
        layers={("a",): LayerInfo("linear", "module", ("kernel",), axis_splits={"in": ("x",)})}
    ),
    "NoneType": StateMetadata(layers=None),
    "a key of rules, got ()": StateMetadata(rules=(RecordedRule("{}", ("torch", ""), "", ((),)),)),
    "a value in tree_form, got 1": StateMetadata(tree_form={"flax": 1}),
    "a value in modules, got 3": StateMetadata(modules={("a",): 3}),
    "a value in extra, got 3": StateMetadata(extra={"a": 3}),
    "a value in provenance, got 3": StateMetadata(provenance={"a": 3}),
    "notes, got 'abc'": StateMetadata(notes="abc"),
    "a value in collections, got 1": StateMetadata(collections={("a", "kernel"): 1}),
    "a value in boxes, got 1": StateMetadata(boxes={("a", "kernel"): 1}),
    "a value in boxes, got ''": StateMetadata(boxes={("a", "kernel"): ""}),
    "separators, got '|'": StateMetadata(separators={"flax": "|"}),
}


def state_of(metadata):
    return FlatState({("a", "kernel"): np.ones((2, 2), np.float32)}, layout="neutral", metadata=metadata)


@pytest.mark.parametrize("place", BAD)
def test_it_is_refused_wherever_it_is_used(tmp_path, place):
    state = state_of(BAD[place])
    for use in (
        lambda: plan_conversion(state, to="torch"),
        lambda: convert(state, tmp_path / "out.safetensors", to="neutral"),
        lambda: bridge_torch.from_neutral(state),
    ):
        with refused(UsageError, "metadata", place, hint="StateMetadata"):
            use()
    assert not list(tmp_path.iterdir())


def test_a_state_whose_records_are_no_records_is_not_saved(tmp_path):
    for place in (
        "a value in layers, got 'linear'",
        "a value in auxiliary_tensors, got 3",
        "a value in extra, got 3",
    ):
        with refused(UsageError, "metadata", place, hint="StateMetadata"):
            save_state(state_of(BAD[place]), tmp_path / "a.safetensors")
    assert not list(tmp_path.iterdir())


def test_what_is_documented_is_not_refused():
    check_given(
        StateMetadata(
            layers={(): LINEAR, ("a",): LayerInfo(None, "", (), axis_splits={"k": ()})},
            ties={("a",): ("b",)},
            collections={("a",): "params"},
            boxes={("a",): "value"},
            separators={"flax": "/", "": "."},
            auxiliary_tensors={("n",): AuxiliaryTensor.of(np.zeros((2, 0)))},
            empty=((), ("e",)),
            rules=(RecordedRule('{"source": "a"}', ("torch", "flax"), "x", (("a",),)),),
        )
    )
    check_given(StateMetadata(rules=None))
