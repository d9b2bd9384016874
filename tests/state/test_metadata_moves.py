"""Metadata follows the tensors of a state that is renamed, selected from or joined."""

from __future__ import annotations

import numpy as np
import pytest
from support.errors import refused

from bridge_core import FlatState, KeyConflict, StateMetadata, UsageError
from bridge_core.state import AuxiliaryTensor, LayerInfo, ModuleInfo, as_tensor

CONV = LayerInfo("conv", "module", ("kernel", "bias"), transforms={"torch": "torch.conv"})
NORM = LayerInfo("batch_norm", "module", ("scale", "bias", "mean", "var"))
OPEN = LayerInfo(None, "undecided", ("weight",), ("torch.linear", "torch.embedding"), origin="torch")
COUNT = AuxiliaryTensor.of(np.array(7))


def state_of(layers, *, layout="neutral", extra=(), **metadata):
    keys = [(*path, *leaf.split(".")) for path, info in layers.items() for leaf in info.leaves]
    tensors = {key: as_tensor(np.zeros(2)) for key in (*keys, *extra)}
    return FlatState(tensors, layout=layout, metadata=StateMetadata(layers=layers, **metadata))


def layers_of(state):
    return dict(state.metadata.layers)


@pytest.mark.parametrize("as_function", [False, True])
@pytest.mark.parametrize(
    ("names", "layers"),
    [
        ({"old.kernel": "new.kernel", "old.bias": "new.bias"}, {("new",): CONV}),
        ({"old.kernel": "a.b.c.kernel", "old.bias": "a.b.c.bias"}, {("a", "b", "c"): CONV}),
        ({"old.kernel": "kernel", "old.bias": "bias"}, {(): CONV}),
        ({"old.kernel": "new.kernel"}, {}),
        ({"old.kernel": "old.w"}, {}),
        ({"old.kernel": "old.bias", "old.bias": "old.kernel"}, {}),
        ({"old.kernel": "x.kernel", "old.bias": "y.bias"}, {}),
        ({}, {("old",): CONV}),
    ],
)
def test_a_record_moves_where_its_leaves_go_together(names, layers, as_function):
    state = state_of({("old",): CONV})
    mapping = {tuple(old.split(".")): tuple(new.split(".")) for old, new in names.items()}
    renamed = state.rename((lambda key: mapping.get(key, key)) if as_function else names)
    assert layers_of(renamed) == layers
    assert len(renamed) == len(state)


def test_a_function_is_called_with_keys_only():
    """One that takes two parts, or looks at the leaf's name, would fail on the path of a layer."""
    state = state_of(
        {("conv",): CONV}, modules={("conv",): ModuleInfo(("torch.nn.Conv2d",)), (): ModuleInfo(("M",))}
    )
    renamed = state.rename(lambda key: f"{key[-2]}_1.{key[-1]}")
    assert layers_of(renamed) == {("conv_1",): CONV}
    assert set(renamed.metadata.modules) == {("conv_1",)}


def test_the_leaves_of_a_composite_layer_move_with_it():
    info = LayerInfo("attention", "module", ("query.kernel", "out.kernel"))
    state = state_of({("attn",): info})
    assert layers_of(state.rename(lambda key: ("layers", "0", *key))) == {("layers", "0", "attn"): info}
    assert layers_of(state.rename({"attn.out.kernel": "attn.o.kernel"})) == {}


def test_layers_that_change_places_keep_their_records():
    state = state_of({("a",): CONV, ("b",): LayerInfo("conv_transpose", "rule", ("kernel", "bias"))})
    swapped = state.rename(lambda key: ({"a": "b", "b": "a"}[key[0]], *key[1:]))
    assert {path: info.kind for path, info in layers_of(swapped).items()} == {
        ("b",): "conv",
        ("a",): "conv_transpose",
    }


def test_a_tensor_that_comes_to_a_layer_opens_it():
    state = state_of(
        {("bn",): LayerInfo("norm", "module", ("scale", "bias"))}, extra=[("x", "mean"), ("bn", "own")]
    )
    assert layers_of(state.rename({"x.mean": "bn.mean"})) == {}
    assert set(layers_of(state.rename(lambda key: ("net", *key)))) == {("net", "bn")}


def test_undecided_leaves_stay_known_as_those_of_their_framework():
    """They have the axes of torch; under a neutral name they must not pass for neutral ones."""
    state = state_of({("fc",): OPEN})
    for new, path, leaf in (("fc.kernel", ("fc",), "kernel"), ("a.b.kernel", ("a", "b"), "kernel")):
        ((found, info),) = layers_of(state.rename({"fc.weight": new})).items()
        assert (found, info.kind, info.evidence, info.unclaimed, info.origin) == (
            path,
            None,
            "unclaimed",
            (leaf,),
            "torch",
        )
    ((_, info),) = layers_of(state.union({("fc", "bias"): np.zeros(2)})).items()
    assert (info.evidence, info.unclaimed, info.origin) == ("unclaimed", ("weight", "bias"), "torch")


def test_everything_follows_a_renamed_prefix():
    state = state_of(
        {("net", "bn"): LayerInfo("batch_norm", "module", ("scale",))},
        layout="torch",
        extra=[("net", "other")],
        modules={
            (): ModuleInfo(("Net",)),
            ("net", "bn"): ModuleInfo(("BatchNorm",)),
            ("net", "act"): ModuleInfo(("ReLU",)),
        },
        ties={("net", "other"): ("net", "bn", "scale")},
        collections={("net", "other"): "cache"},
        auxiliary_tensors={("net", "bn", "num_batches_tracked"): COUNT},
        empty=(("net", "drop"),),
    )
    found = state.rename(lambda key: ("model", *key[1:])).metadata
    assert set(found.modules) == {("model", "bn"), ("model", "act")}
    assert found.ties == {("model", "other"): ("model", "bn", "scale")}
    assert found.collections == {("model", "other"): "cache"}
    assert set(found.auxiliary_tensors) == {("model", "bn", "num_batches_tracked")}
    assert found.empty == (("model", "drop"),)


def variables(**metadata):
    tensors = {("params", "bn", "scale"): 0, ("params", "fc", "kernel"): 0, ("batch_stats", "bn", "mean"): 0}
    layers = {("bn",): LayerInfo("batch_norm", "metadata", ("scale", "mean"))}
    known = StateMetadata(
        layers=layers,
        auxiliary_tensors={("bn", "num_batches_tracked"): COUNT},
        tree_form={"flax": "variables"},
        **metadata,
    )
    return FlatState({key: np.zeros(2) for key in tensors}, layout="flax", metadata=known)


def test_collections_are_no_part_of_a_layers_path():
    state = variables()
    moved = state.rename(lambda key: (key[0], "net", *key[1:])).metadata
    assert set(moved.layers) == {("net", "bn")}
    assert set(moved.auxiliary_tensors) == {("net", "bn", "num_batches_tracked")}
    bare = state.rename(lambda key: key[1:]).metadata
    assert set(bare.layers) == {("bn",)}
    assert bare.tree_form == {}
    assert state.select(lambda key: key[1] != "bn").metadata == StateMetadata(tree_form={"flax": "variables"})
    assert state.select(lambda key: key[0] == "params").metadata.layers["bn",].leaves == ("scale",)


def test_what_is_known_of_tensors_that_go_goes_too():
    state = state_of(
        {("a", "bn"): NORM, ("b",): CONV, ("open",): OPEN},
        modules={
            (): ModuleInfo(("Net",)),
            ("a",): ModuleInfo(("Block",)),
            ("a", "act"): ModuleInfo(("ReLU",)),
        },
        auxiliary_tensors={("a", "bn", "num_batches_tracked"): COUNT, ("b", "x"): COUNT},
        collections={("a", "bn", "mean"): "batch_stats", ("b", "bias"): "params"},
        ties={("a", "bn", "var"): ("a", "bn", "mean")},
        empty=(("a", "drop"), ("c",)),
    )
    found = state.select(lambda key: key[0] != "a").metadata
    assert found.layers == {("b",): CONV, ("open",): OPEN}
    assert set(found.modules) == {()}
    assert set(found.auxiliary_tensors) == {("b", "x")}
    assert found.collections == {("b", "bias"): "params"}
    assert (found.ties, found.empty) == ({}, (("c",),))
    assert state.select([]).metadata == StateMetadata()
    assert state.select(list(state)).metadata == state.metadata


def test_a_layer_that_loses_leaves_keeps_its_record_for_the_others():
    state = state_of(
        {("bn",): NORM, ("x",): LayerInfo(None, "unclaimed", (), unclaimed=("w", "v"), origin="torch")}
    )
    assert state.select(lambda key: key[-1] != "bias").metadata.layers["bn",].leaves == (
        "scale",
        "mean",
        "var",
    )
    kept = FlatState({("x", "w"): 0.0, ("x", "v"): 0.0}, layout="neutral", metadata=state.metadata)
    assert kept.select(["x.v"]).metadata.layers["x",].unclaimed == ("v",)


def test_keys_that_were_tied_to_one_that_goes_are_tied_to_each_other():
    tensors = {(name,): np.zeros(2) for name in "abcd"}
    ties = {("b",): ("a",), ("c",): ("b",), ("d",): ("a",)}
    state = FlatState(tensors, metadata=StateMetadata(ties=ties))
    assert state.select(["b", "c", "d"]).metadata.ties == {("c",): ("b",), ("d",): ("b",)}
    assert state.select(["a", "c"]).metadata.ties == {("c",): ("a",)}


def test_a_joined_state_knows_what_both_know():
    one = state_of({("a",): CONV}, tree_form={"flax": "params"}, provenance={"path": "x"})
    two = state_of(
        {("b",): NORM},
        auxiliary_tensors={("b", "n"): COUNT},
        modules={("b",): ModuleInfo(("B",))},
        empty=(("e",),),
    )
    found = one.union(two)
    assert layers_of(found) == {("a",): CONV, ("b",): NORM}
    metadata = found.metadata
    assert (metadata.tree_form, metadata.empty) == ({"flax": "params"}, (("e",),))
    assert set(metadata.auxiliary_tensors) == {("b", "n")}
    assert set(metadata.modules) == {("b",)}


def halves(one, two):
    """Return two states that hold a leaf each of one layer."""
    return state_of({("l",): one}), state_of({("l",): two})


def test_records_of_one_layer_are_joined_if_they_agree_and_forgotten_if_not():
    kernel, bias = (
        LayerInfo("conv", evidence, (leaf,)) for evidence, leaf in (("module", "kernel"), ("guess", "bias"))
    )
    one, two = halves(kernel, bias)
    assert layers_of(one.union(two)) == {("l",): LayerInfo("conv", "guess", ("kernel", "bias"))}
    one, two = halves(kernel, LayerInfo("linear", "module", ("bias",)))
    assert layers_of(one.union(two)) == {}
    assert layers_of(one.union({("l", "bias"): np.zeros(2)})) == {}
    assert layers_of(FlatState({"l.bias": np.zeros(2)}).union(one)) == {}
    assert layers_of(one.union({("l", "more", "bias"): np.zeros(2)})) == {("l",): kernel}


def test_states_of_two_layouts_are_not_joined():
    torch, flax = (FlatState({name: np.zeros(2)}, layout=name) for name in ("torch", "flax"))
    with refused(UsageError, "'torch'", "'flax'", hint="to_neutral"):
        torch.union(flax)
    assert torch.union({"x": np.zeros(2)}).layout == "torch"
    assert FlatState({"x": np.zeros(2)}).union(torch).layout == "torch"
    with refused(KeyConflict, hint=("state.rename", "state.select"), key=("torch",)):
        torch.union({"torch": np.zeros(2)})
