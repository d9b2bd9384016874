"""One entry of a state: its tensors, their names and their metadata."""

from __future__ import annotations

import numpy as np
import pytest
from support.errors import refused

from bridge_core import FlatState, StateMetadata, UsageError, as_state, plan_conversion
from bridge_core.state import LayerInfo, mapping_entry, select_entry, unknown_entry


def tree():
    return as_state(
        {
            "params": {"fc": {"kernel": np.ones((2, 3)), "bias": np.ones(3)}},
            "ema": {"fc": {"kernel": np.full((2, 3), 2.0), "bias": np.full(3, 2.0)}},
            "opt": {"0": {"mu": np.zeros(1)}, "1": {"mu": np.zeros(1)}},
            "step": np.array(3),
        },
        layout="flax",
    )


def test_the_tensors_below_a_path_lose_it():
    state = tree()
    chosen = select_entry(state, "ema")
    assert set(chosen) == {("fc", "kernel"), ("fc", "bias")}
    assert chosen["fc.kernel"].tolist() == [[2.0] * 3] * 2
    assert chosen.tensor("fc.bias") is state.tensor("ema.fc.bias")
    assert chosen.layout == "flax"
    assert chosen.metadata.provenance["entry"] == "ema"
    assert set(select_entry(state, "ema.fc")) == {("kernel",), ("bias",)}
    assert len(state) == 7


def test_a_note_counts_what_was_not_read():
    assert select_entry(tree(), "params").metadata.notes == (
        "the weights were read from the entry 'params'; not read: ema (2 tensors), opt (2 tensors), "
        "step (1 tensor)",
    )
    assert select_entry(tree(), "opt.1").metadata.notes == (
        "the weights were read from the entry 'opt.1'; not read: params (2 tensors), ema (2 tensors), "
        "opt.0 (1 tensor), step (1 tensor)",
    )
    whole = select_entry(as_state({"model": {"w": np.ones(1)}}), "model")
    assert whole.metadata.notes == ("the weights were read from the entry 'model'",)


def test_parts_that_hold_dots_are_matched_as_a_whole():
    state = FlatState({("a.b", "c", "w"): 1.0, ("a", "bc", "w"): 2.0, ("a", "b"): 3.0, ("ab", "w"): 4.0})
    assert dict(select_entry(state, "a.b").specs()) == {("c", "w"): state.spec(("a.b", "c", "w"))}
    assert list(select_entry(state, "a.b.c")) == [("w",)]
    assert list(select_entry(state, "a")) == [("bc", "w"), ("b",)]


@pytest.mark.parametrize("entry", ["emma", "", ".", "ema.", "ema.fc.kernel", "step", "em", "ema.f"])
def test_an_entry_without_tensors_is_refused_with_those_that_there_are(entry):
    with refused(UsageError, "params, ema, opt", f"entry {entry!r}"):
        select_entry(tree(), entry)


def test_the_nearest_entry_is_proposed():
    assert unknown_entry("emma", ["params", "ema"]).hint == "Did you mean 'ema'?"
    assert unknown_entry("zzz", ["params"]).hint is None
    assert "all tensors are at the top" in unknown_entry("zzz", []).message


def test_the_metadata_follows_the_tensors():
    info = LayerInfo("linear", "structure", ("kernel", "bias"))
    metadata = StateMetadata(
        layers={("student", "fc"): info, ("teacher", "fc"): info},
        ties={
            ("student", "head", "w"): ("student", "fc", "kernel"),
            ("teacher", "w"): ("student", "fc", "kernel"),
        },
        empty=(("student", "act"), ("teacher", "act")),
        notes=("read so",),
    )
    names = [
        "student.fc.kernel",
        "student.fc.bias",
        "student.head.w",
        "teacher.fc.kernel",
        "teacher.fc.bias",
        "teacher.w",
    ]
    state = FlatState({name: np.ones(1) for name in names}, layout="neutral", metadata=metadata)
    chosen = select_entry(state, "student").metadata
    assert chosen.layers == {("fc",): info}
    assert chosen.ties == {("head", "w"): ("fc", "kernel")}
    assert chosen.empty == (("act",),)
    assert chosen.notes[0] == "read so"
    assert select_entry(state, "teacher").metadata.ties == {}


def test_a_collection_of_variables_becomes_a_bare_tree():
    metadata = StateMetadata(
        layers={("fc",): LayerInfo("linear", "structure", ("kernel",))}, tree_form={"flax": "variables"}
    )
    state = FlatState(
        {("params", "fc", "kernel"): np.ones(1), ("ema", "fc", "kernel"): np.ones(1)},
        layout="flax",
        metadata=metadata,
    )
    chosen = select_entry(state, "ema")
    assert list(chosen) == [("fc", "kernel")]
    assert "flax" not in chosen.metadata.tree_form


def test_an_entry_of_nested_mappings():
    tree = {"ckpt": {"ema": {"w": 1}, "step": 3}, "a.b": {"c": {"w": 2}}, "a": {"b": 5}}
    assert mapping_entry(tree, "ckpt.ema") == {"w": 1}
    assert mapping_entry(tree, "a.b.c") == {"w": 2}
    assert mapping_entry(tree, "a.b") == {"c": {"w": 2}}
    assert mapping_entry(tree, "ckpt.step") is None
    assert mapping_entry(tree, "nothing") is None


@pytest.mark.parametrize("entry", [3, b"model", ("a", "b"), ["a"], True])
@pytest.mark.parametrize("kind", ["file", "mapping"])
def test_what_is_not_the_path_of_an_entry_is_refused_before_anything_is_read(tmp_path, kind, entry):
    source = {"a": {"fc.weight": np.ones((3, 4), "f4"), "fc.bias": np.ones(3, "f4")}}
    if kind == "file":
        np.savez(tmp_path / "a.npz", **{f"a.{name}": value for name, value in source["a"].items()})
        source = tmp_path / "a.npz"
    with refused(UsageError, "entry=", repr(entry), hint="--entry"):
        plan_conversion(source, to="flax", entry=entry)
    assert plan_conversion(source, to="flax", entry="a").evidence == {"structure": 2}


def test_a_long_path_is_cut_in_the_refusal():
    assert len(str(unknown_entry("x" * 100_000, ["model"]))) < 1000
