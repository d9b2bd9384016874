"""Plans as data: checked before anything moves, applied lazily, undone, joined, cast and printed."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from support.arrays import assert_same_bits
from support.errors import refused
from torch import nn

from bridge_core import (
    FlatState,
    MismatchError,
    Plan,
    PlanError,
    StateMetadata,
    Step,
    TensorSpec,
    default_registry,
    plan_conversion,
)
from bridge_core.ops.elementwise import Cast
from bridge_core.ops.select import Drop
from bridge_core.ops.shape import Flip, Permute
from bridge_core.ops.split_concat import Concat, Split
from bridge_core.plan.compose import join_steps
from bridge_core.plan.problems import PlanProblems
from bridge_core.plan.step import Dropped, Mismatch, quick_step
from bridge_core.state.dtypes import dtype_named
from bridge_core.state.tensors import LazyTensor

F32 = np.dtype("float32")
A, B, C, D = (("a",), ("b",), ("c",), ("d",))


def spec(*shape, dtype="float32"):
    return TensorSpec(shape, dtype_named(dtype))


def ramp(*shape, dtype="float32"):
    return np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(dtype)


def state(layout="x", **arrays):
    return FlatState({(name,): array for name, array in arrays.items()}, layout=layout)


def plan(specs, *steps, source="x", target="y", **fields):
    return Plan(source, target, specs, steps, **fields)


def torch_model():
    model = nn.ModuleDict({"fc": nn.Linear(3, 4), "conv": nn.Conv2d(3, 4, 2), "bn": nn.BatchNorm2d(4)})
    with torch.no_grad():
        for i, tensor in enumerate(model.state_dict().values()):
            tensor.copy_(torch.arange(tensor.numel()).reshape(tensor.shape) + i)
    return default_registry().framework("torch").state(model)


# -- applying ---------------------------------------------------------------------------------------


def test_applying_reads_nothing_until_the_result_is_read():
    read = []

    def reader(region):
        read.append(region)
        return ramp(3, 4)[region]

    source = FlatState({A: LazyTensor(spec(3, 4), reader)}, layout="x")
    made = plan({A: spec(3, 4)}, Step((A,), (B,), (Permute((1, 0)),))).apply(source)
    assert made.spec(B) == spec(4, 3)
    assert read == []
    assert_same_bits(made.read(B, (slice(1, 2), slice(0, 2))), ramp(3, 4).T[1:2, 0:2].copy())
    assert read == [(slice(0, 2, 1), slice(1, 2, 1))]


def test_one_source_may_become_several_targets_and_several_one():
    cut = plan({A: spec(6, 2)}, Step((A,), (B, C), (Split(0, (2, 4)),)))
    made = cut.apply(state(a=ramp(6, 2)))
    assert_same_bits(made[C], ramp(6, 2)[2:])
    joined = plan(
        {B: spec(2, 2), C: spec(4, 2)}, Step((B, C), (D,), (Concat(0, (2, 4)),)), source="y", target="z"
    )
    assert_same_bits(joined.apply(made)[D], ramp(6, 2))


def test_a_plan_refuses_another_state():
    made = plan({A: spec(2), B: spec(2)}, Step((A,), (A,)), Step((B,), (B,)))
    for other in (
        state(a=ramp(2)),
        state(a=ramp(2), b=ramp(3)),
        state(a=ramp(2), b=ramp(2, dtype="float64")),
    ):
        with refused(PlanError, "1 tensor, b."):
            made.apply(other)
    with refused(PlanError, "1 tensor, c."):
        made.apply(state(a=ramp(2), b=ramp(2), c=ramp(2)))


def test_ties_of_the_targets_are_one_tensor():
    made = plan({A: spec(2)}, Step((A,), (B,)), ties={C: B}).apply(state(a=ramp(2)))
    assert made.tensor(C) is made.tensor(B)


def test_what_comes_from_one_tensor_in_one_way_is_one_tensor():
    shared = FlatState({A: ramp(2, 3)}, layout="x").tensor(A)
    source = FlatState({A: shared, B: shared}, layout="x")
    ops = (Permute((1, 0)),)
    made = plan({A: spec(2, 3), B: spec(2, 3)}, Step((A,), (C,), ops), Step((B,), (D,), ops)).apply(source)
    assert made.tensor(C) is made.tensor(D)


def test_applying_changes_nothing_of_the_source():
    source = torch_model()
    before = {key: source[key].copy() for key in source}
    metadata = source.metadata
    made = plan_conversion(source, to="flax").apply(source)
    for key in made:
        assert made[key] is not None
    assert source.metadata is metadata
    for key, value in before.items():
        assert_same_bits(source[key], value)


# -- refusing ---------------------------------------------------------------------------------------


def test_every_problem_stands_in_one_error():
    found = plan(
        {A: spec(2)},
        problems=PlanProblems(
            missing=(B,),
            unexpected=(A,),
            mismatched=(Mismatch(C, D, spec(2), spec(3)),),
            ambiguous={("e",): ("linear", "embedding")},
        ),
    )
    assert not found.ok
    with refused(
        MismatchError,
        "1 target tensor has no source: b.",
        "1 source tensor has no target: a.",
        "c as d (expected float32[3], got float32[2])",
        "e (linear or embedding)",
        hint=("--rules", "--allow-unexpected a", "--allow-missing b", "--allow-mismatched PATTERN"),
    ):
        found.check()
    with pytest.raises(MismatchError):
        found.apply(state(a=ramp(2)))
    with pytest.raises(MismatchError):
        found.inverse()


def test_many_names_are_folded_in_errors():
    names = tuple(("layers", str(i), "w") for i in range(200))
    with refused(MismatchError, "200 target tensors", "layers.{0..199}.w (x200)") as caught:
        plan({}, problems=PlanProblems(missing=names)).check()
    assert len(str(caught.value)) < 300
    assert len(caught.value.missing) == 200


# -- undoing ----------------------------------------------------------------------------------------


def test_the_inverse_restores_everything_bit_for_bit():
    source = torch_model()
    there = plan_conversion(source, to="flax")
    assert there.exact
    back = there.inverse()
    assert (back.source_layout, back.target_layout) == ("flax", "torch")
    restored = back.apply(there.apply(source))
    assert set(restored) == set(source)
    for key in source:
        assert_same_bits(restored[key], source[key], key)
    again = back.inverse()
    assert {(s.sources, s.targets, s.ops) for s in again.steps} == {
        (s.sources, s.targets, s.ops) for s in there.steps
    }


def test_a_plan_that_loses_something_cannot_be_undone_and_says_what():
    lossy = plan({A: spec(2)}, Step((A,), (B,), (Cast("float32", "float16"),)))
    assert not lossy.exact
    with refused(PlanError, "1 source tensor, a."):
        lossy.inverse()
    dropping = plan({A: spec(2), B: spec(2)}, Step((A,), (A,)), dropped=(Dropped(B, "not wanted"),))
    assert not dropping.exact
    with refused(PlanError, "1 source tensor, b."):
        dropping.inverse()
    tied = plan({A: spec(2), B: spec(2)}, Step((A,), (A,)), dropped=(Dropped(B, "tied to a", A),))
    assert tied.exact
    assert tied.inverse().ties == {B: A}


def test_a_dropped_tie_of_other_axes_cannot_be_undone():
    tied = plan({A: spec(2, 3), B: spec(3, 2)}, Step((A,), (A,)), dropped=(Dropped(B, "tied to a", A),))
    with refused(PlanError, "axes", "b"):
        tied.inverse()


# -- joining ----------------------------------------------------------------------------------------


def test_joined_plans_do_what_both_did_in_fewer_ops():
    source = torch_model()
    first = plan_conversion(source, to="neutral")
    second = plan_conversion(first.apply(source), to="flax")
    joined = first.then(second)
    assert (joined.source_layout, joined.target_layout) == ("torch", "flax")
    wanted = second.apply(first.apply(source))
    found = joined.apply(source)
    assert list(found) == list(wanted)
    for key in wanted:
        assert_same_bits(found[key], wanted[key], key)
    there = plan_conversion(source, to="flax")
    round_trip = there.then(there.inverse())
    assert all(step.ops == () for step in round_trip.steps if step.sources and step.targets)


def test_a_step_that_changes_nothing_leaves_the_other_one():
    move = Step((A,), (B,), (Permute((1, 0)),), "linear", "structure", None, "a.toml:1")
    stay = Step((B,), (B,), (), "linear", "structure", None, "a.toml:1")
    (joined,) = join_steps([move], [stay])
    assert joined is move
    start = Step((A,), (A,), (), "linear", "structure")
    after = Step((A,), (B,), (Permute((1, 0)),), "linear", "template")
    (joined,) = join_steps([start], [after])
    assert joined is after


@pytest.mark.parametrize(
    "change",
    [
        {"targets": (C,)},
        {"ops": (Flip((0,)),)},
        {"kind": "embedding"},
        {"evidence": "guess"},
        {"auxiliary": D},
        {"rule": "a.toml:2"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_joined_step_has_what_either_changes(change):
    move = Step((A,), (B,), (Permute((1, 0)),), "linear", "structure", None, "a.toml:1")
    stay = Step((B,), (B,), (), "linear", "structure")
    (joined,) = join_steps([move], [replace(stay, **change)])
    added = {"ops": (Flip((1,)), Permute((1, 0))), "rule": "a.toml:1, a.toml:2"}
    assert joined == replace(move, **{name: added.get(name, value) for name, value in change.items()})


def test_a_step_made_quickly_is_as_from_its_constructor():
    values = ((A,), (B,), (Flip((0,)),), "linear", "structure", C, "a.toml:1")
    step = quick_step(*values)
    assert step == Step(*values)
    assert hash(step) == hash(Step(*values))
    assert quick_step(*values[:5]) == Step(*values[:5])
    assert replace(step, rule="") == Step(*values[:6])


def test_a_cut_and_what_follows_its_parts_are_joined():
    first = plan({A: spec(4, 3)}, Step((A,), (B, C), (Split(0, (1, 3)),)))
    second = plan(
        {B: spec(1, 3), C: spec(3, 3)},
        Step((C,), (D,), (Permute((1, 0)),)),
        Step((B,), (B,), (Flip((1,)),)),
        source="y",
        target="z",
    )
    made = first.then(second).apply(state(a=ramp(4, 3)))
    assert_same_bits(made[D], ramp(4, 3)[1:].T.copy())
    assert_same_bits(made[B], ramp(4, 3)[:1, ::-1].copy())


def test_a_cut_and_its_undoing_leave_nothing():
    cut = plan({A: spec(4, 3)}, Step((A,), (B, C), (Split(0, (1, 3)),)))
    (step,) = cut.then(cut.inverse()).steps
    assert step.ops == ()


def test_parts_are_joined_with_parts_of_another():
    first = plan(
        {A: spec(4), D: spec(4)},
        Step((A,), (B, C), (Split(0, (1, 3)),)),
        Step((D,), (("e",), ("f",)), (Split(0, (1, 3)),)),
    )
    second = plan(
        {B: spec(1), C: spec(3), ("e",): spec(1), ("f",): spec(3)},
        Step((B, ("e",)), (A,), (Concat(0, (1, 1)),)),
        Step((C, ("f",)), (D,), (Concat(0, (3, 3)),)),
    )
    joined = first.then(second)
    (step,) = joined.steps
    assert step.sources == (A, D)
    made = joined.apply(state(a=ramp(4), d=ramp(4) + 10))
    assert_same_bits(made[A], np.array([0, 10], made[A].dtype))
    assert_same_bits(made[D], np.array([1, 2, 3, 11, 12, 13], made[D].dtype))


def test_a_joined_step_names_the_rules_of_all_its_parts():
    first = [
        Step((A,), (C, D), (Split(0, (2, 2)),), rule="r.toml:1"),
        Step((B,), (("e",),), rule="r.toml:2"),
    ]
    second = [
        Step((C, ("e",)), (("f",),), (Concat(0, (2, 2)),), rule="r.toml:3"),
        Step((D,), (D,), rule="r.toml:1"),
    ]
    (joined,) = join_steps(first, second)
    assert joined.rule == "r.toml:1, r.toml:2, r.toml:3"


def test_problems_of_the_second_plan_are_told_in_names_of_the_source():
    source = {"fc.weight": torch.zeros(3, 4)}
    found = plan_conversion(
        source, to="flax", like={"params": {"fc": {"kernel": np.zeros((5, 3), "f4")}}}, check=False
    )
    (mismatch,) = found.mismatched
    assert mismatch.source == ("fc", "weight")
    found = plan_conversion(source, to="flax", check=False)
    assert set(found.ambiguous) == {("fc", "weight")}


# -- casting ----------------------------------------------------------------------------------------


def test_casting_touches_floats_alone():
    source = FlatState(
        {("w",): ramp(2, 2), ("n",): ramp(2, dtype="int64"), ("h",): ramp(2, dtype="float16")}, layout="torch"
    )
    found = plan_conversion(source, to="neutral").cast(dtype_named("bfloat16"))
    made = found.apply(source)
    assert {key: s.dtype.name for key, s in made.specs().items()} == {
        ("w",): "bfloat16",
        ("n",): "int64",
        ("h",): "bfloat16",
    }
    assert not found.exact
    widened = plan_conversion(source, to="neutral").cast(dtype_named("float64"))
    assert widened.exact
    assert_same_bits(widened.inverse().apply(widened.apply(source))["w",], ramp(2, 2))


def test_casting_reaches_every_part_of_a_cut():
    cut = plan({A: spec(4)}, Step((A,), (B, C), (Split(0, (1, 3)),))).cast(dtype_named("float16"))
    made = cut.apply(state(a=ramp(4)))
    assert_same_bits(made[C], ramp(4)[1:].astype("float16"))


# -- as data ----------------------------------------------------------------------------------------


def test_a_plan_is_plain_data():
    found = plan_conversion(torch_model(), to="flax")
    document = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert document == found.to_json()
    assert set(document) >= {"steps", "dropped", "missing", "unexpected", "ambiguous", "exact"}
    assert all(
        set(step) == {"sources", "targets", "ops", "kind", "evidence", "exact"} for step in document["steps"]
    )
    kernel = next(step for step in document["steps"] if step["sources"] == ["conv.weight"])
    assert kernel["ops"] == [{"op": "permute", "axes": [2, 3, 1, 0]}]
    assert kernel["targets"] == ["params.conv.kernel"]


def test_a_plan_reads_as_text_with_names_folded():
    source = {
        f"h.{i}.{leaf}": torch.zeros(shape)
        for i in range(12)
        for leaf, shape in (("weight", (2, 3)), ("bias", (2,)))
    }
    text = plan_conversion(source, to="flax").describe()
    assert "h.{0..11}.weight -> h.{0..11}.kernel" in text
    assert "x12" in text
    assert text.count("\n") == 2


def test_a_step_without_target_needs_the_metadata_to_keep_it():
    dropping = Step((A,), (), (Drop(0, spec()),))
    assert not dropping.exact
    kept = Step((A,), (), (Drop(0, spec()),), auxiliary=A)
    assert kept.exact
    made = plan({A: spec()}, kept).apply(state(a=np.float32(3)))
    assert not made
    assert made.metadata.auxiliary_tensors[A].array() == 3


def test_metadata_of_the_source_that_is_for_memory_alone_is_not_invented():
    made = plan({A: spec(2)}, Step((A,), (A,)), metadata=StateMetadata(tree_form={"y": "params"})).apply(
        state(a=ramp(2))
    )
    assert made.layout == "y"
    assert made.metadata.tree_form == {"y": "params"}
    assert dict(made.metadata.modules) == {}
