"""Records of layers are refused where they contradict the tensors beside them, and not for what is absent."""

from __future__ import annotations

import numpy as np
import pytest
from support.errors import refused

from bridge_core import FlatState, MalformedFile
from bridge_core.plugins import check_recorded_layers, default_registry, held_layers
from bridge_core.state import LayerInfo, StateMetadata

REGISTRY = default_registry()


def state_of(shapes, layout="neutral", form=None, **layers):
    tensors = {tuple(name.split(".")): np.zeros(shape, np.float32) for name, shape in shapes.items()}
    records = {tuple(path.split(".")) if path else (): info for path, info in layers.items()}
    metadata = StateMetadata(layers=records, tree_form={layout: form} if form else {})
    return FlatState(tensors, layout=layout, metadata=metadata)


def info(kind, *leaves, **more):
    return LayerInfo(kind, "module", leaves, **more)


ATTENTION = {f"a.{part}.kernel": (4, 4) for part in ("query", "key", "value", "out")}
PARTS = [name[2:] for name in ATTENTION]
LIES = {
    "a leaf of another kind": (
        state_of({"a.weight": (2, 2)}, a=info("conv", "weight")),
        ("'a' as conv", "no leaf 'weight'", "kernel, bias"),
    ),
    "another rank": (
        state_of({"a.kernel": (2,)}, a=info("linear", "kernel")),
        ("'kernel' with the axes 'in out', got float32[2]",),
    ),
    "a leaf that no candidate has": (
        state_of(
            {"a.kernel": (2, 2)}, a=LayerInfo(None, "undecided", ("kernel",), ("torch.linear", "parameter"))
        ),
        ("'a' as undecided", "'kernel'", "weight, bias"),
    ),
    "no layer among the candidates": (
        state_of({"a.kernel": (2, 2)}, a=LayerInfo(None, "undecided", ("kernel",), ("parameter",))),
        ("'a' as undecided", "names no layer"),
    ),
    "too few axes": (
        state_of({"a.kernel": (2, 2)}, a=info("conv", "kernel")),
        ("'kernel' with the axes '+k in out', got float32[2, 2]",),
    ),
    "another rank in torch": (
        state_of({"a.weight": (2, 2, 2)}, "torch", a=info("linear", "weight")),
        ("got float32[2, 2, 2]",),
    ),
    "a leaf that torch does not have": (
        state_of({"a.kernel": (2, 2)}, "torch", a=info("linear", "kernel")),
        ("no leaf 'kernel'",),
    ),
    "below a collection": (
        state_of({"params.a.kernel": (2,)}, "flax", "variables", a=info("linear", "kernel")),
        ("got float32[2]",),
    ),
    "an axis that the kind does not have": (
        state_of({"a.kernel": (2, 2)}, a=info("linear", "kernel", axis_splits={"heads": (2, 1)})),
        ("no axis 'heads'", "in, out"),
    ),
    "a split of another size": (
        state_of({"a.kernel": (2, 6)}, a=info("linear", "kernel", axis_splits={"out": (2, 2)})),
        ("the axis 'out' of size 6, got [2, 2]", "4"),
    ),
    "a split into nothing": (
        state_of({"a.kernel": (2, 6)}, a=info("linear", "kernel", axis_splits={"out": (0,)})),
        ("the axis 'out' of size 6, got [0]",),
    ),
    "heads of an attention": (
        state_of(ATTENTION, a=info("attention", *PARTS, axis_splits={"heads": (3, 2)})),
        ("the axis 'heads' of size 4, got [3, 2]", "6"),
    ),
    "a part that the record does not name": (
        state_of(ATTENTION | {"a.value.bias": (4,)}, a=info("attention", *PARTS)),
        ("value.bias",),
    ),
    "a path that is a tensor": (
        state_of({"a.bias": (2,)}, **{"a.bias": info("embedding", "embedding")}),
        ("'a.bias' as embedding", "float32[2]"),
    ),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_record_that_contradicts_the_tensors_is_refused_and_not_kept(lie):
    state, named = LIES[lie]
    with refused(MalformedFile, "some.file:", "metadata", "'layers' records ", *named, hint="ckptbridge"):
        check_recorded_layers(state, REGISTRY, "some.file")
    assert held_layers(state, REGISTRY) == {}


TRUE = {
    "all of it": state_of({"a.kernel": (2, 6)}, a=info("linear", "kernel", axis_splits={"out": (2, 3)})),
    "leaves that are elsewhere": state_of({"a.bias": (2,)}, a=info("conv", "kernel", "bias")),
    "a layer that is elsewhere": state_of({"a.bias": (2,)}, b=info("conv", "kernel", "bias")),
    "sizes of none": state_of({"a.kernel": (2, 0)}, a=info("linear", "kernel", axis_splits={"out": (0, 3)})),
    "an unknown kind": state_of({"a.x": (2,)}, a=info("zzz", "y", axis_splits={"q": (9,)})),
    "an unknown transform": state_of(
        {"a.x": (2,)}, "torch", a=info("linear", "x", transforms={"torch": "acme.linear"})
    ),
    "the root": state_of({"kernel": (2, 2)}, **{"": info("linear", "kernel")}),
    "a fused attention": state_of(
        {"a.in_proj_weight": (12, 4)},
        "torch",
        a=info("attention", "in_proj_weight", axis_splits={"heads": (2, 2)}),
    ),
    "candidates of a plugin": state_of(
        {"a.kernel": (2, 2)}, a=LayerInfo(None, "undecided", ("kernel",), ("zzz.linear", "parameter"))
    ),
    "nothing decided": state_of({"a.x": (2,)}, a=LayerInfo(None, "undecided", ("x",))),
    "plain parameters": state_of({"a.x": (2,)}, a=info("parameter", "x", "y")),
    "an unknown layout": state_of({"a.x": (2,)}, "zzz", a=info("linear", "x")),
    "parts of two sizes": state_of(
        ATTENTION | {"a.key.kernel": (4, 2)}, a=info("attention", *PARTS, axis_splits={"heads": (2, 2)})
    ),
}


@pytest.mark.parametrize("truth", TRUE)
def test_a_record_that_may_be_true_is_kept(truth):
    state = TRUE[truth]
    check_recorded_layers(state, REGISTRY, "some.file")
    assert held_layers(state, REGISTRY) is state.metadata.layers
