"""Every structural rule, both ways and along every way through the bridge, against numpy written by hand."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from support.arrays import random_array
from support.loading import load_flax, load_torch
from support.models import numpy_of
from support.rule_cases import CASES, case_named
from support.rule_files import abstract, assert_holds, plan_and_apply, saved, state_of

import bridge_flax
import bridge_torch
from bridge_core import FlatState, Rule, convert, open_state, plan_conversion, save_state, verify

BOTH = ("torch", "flax")
every_case = pytest.mark.parametrize("name", CASES)


def configured(case, folder):
    """Put the config beside the weights, where the case has one."""
    if case.config is not None:
        (folder / "config.json").write_text(json.dumps(case.config))


def forth(case):
    return {"to": "flax", "rules": case.rules, "like": abstract(case.target, "flax") if case.forth else None}


def back(case):
    return {"to": "torch", "rules": case.rules, "like": abstract(case.source, "torch") if case.back else None}


# -- from file to file ------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", pytest.param("int64", marks=pytest.mark.slow)])
@every_case
def test_there_and_back_in_one_step_each(name, dtype, tmp_path):
    case = case_named(name, dtype)
    configured(case, tmp_path)
    source = saved(case.source, "torch", tmp_path / "source.safetensors")
    there, again = tmp_path / "there.safetensors", tmp_path / "again.safetensors"
    report = convert(source, there, **forth(case))
    assert report.evidence["rule"] > 0
    assert report.exact
    assert_holds(there, case.target)
    assert verify(source, there, rules=case.rules).equal
    convert(there, again, **back(case))
    assert_holds(again, case.source)


@every_case
def test_there_from_what_others_wrote_and_back(name, tmp_path):
    """The way back rests on no metadata of the way there."""
    case = case_named(name)
    configured(case, tmp_path)
    given = saved(case.target, "flax", tmp_path / "given.msgpack")
    assert_holds(plan_and_apply(given, **back(case)), case.source)
    given = saved(case.source, "torch", tmp_path / "given.pt")
    assert_holds(plan_and_apply(given, **forth(case)), case.target)


@every_case
def test_two_steps_and_one_give_the_same_bytes(name, tmp_path):
    case = case_named(name, seed=1)
    configured(case, tmp_path)
    for tensors, layout, options in (
        (case.source, "torch", forth(case)),
        (case.target, "flax", back(case)),
    ):
        source = saved(tensors, layout, tmp_path / f"{layout}.safetensors")
        once, neutral, twice = (tmp_path / f"{layout}-{n}.safetensors" for n in ("once", "neutral", "twice"))
        convert(source, once, **options)
        convert(source, neutral, to="neutral", rules=case.rules)
        convert(neutral, twice, **options)
        assert once.read_bytes() == twice.read_bytes()


@every_case
def test_rules_that_tell_no_frameworks_are_read_as_they_stand(name, tmp_path):
    case = case_named(name)
    configured(case, tmp_path)
    plain = [dataclasses.replace(rule, layouts=None) for rule in case.rules]
    source = saved(case.source, "torch", tmp_path / "source.safetensors")
    target = saved(case.target, "flax", tmp_path / "target.safetensors")
    assert_holds(plan_and_apply(source, **forth(case) | {"rules": plain}), case.target)
    turned = [rule.reversed() for rule in plain]
    assert_holds(plan_and_apply(target, **back(case) | {"rules": turned}), case.source)


@every_case
def test_the_inverse_of_the_plan_gives_the_source_back(name, tmp_path):
    case = case_named(name)
    configured(case, tmp_path)
    path = saved(case.source, "torch", tmp_path / "source.safetensors")
    plan = plan_conversion(path, **forth(case))
    with open_state(path) as source:
        assert_holds(plan.inverse().apply(plan.apply(source)), case.source)


# -- through live objects ---------------------------------------------------------------------------


def as_torch(tensors):
    return {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in tensors.items()}


def nested(tensors):
    tree = {}
    for name, array in tensors.items():
        *path, leaf = name.split(".")
        node = tree
        for part in path:
            node = node.setdefault(part, {})
        node[leaf] = np.ascontiguousarray(array)
    return tree


def flat(tree, path=()):
    for name, child in tree.items():
        if isinstance(child, dict):
            yield from flat(child, (*path, name))
        else:
            yield ".".join((*path, name)), np.asarray(child)


LIVE = [name for name in CASES if case_named(name).config is None]


@pytest.mark.parametrize("name", LIVE)
@pytest.mark.parametrize("templates", [False, True], ids=["plain", "like"])
def test_live_objects_there_and_back(name, templates):
    case = case_named(name)
    state_dict, tree = as_torch(case.source), nested(case.target)
    there = {"like": nested({n: np.zeros_like(a) for n, a in case.target.items()})}
    again = {"like": {n: torch.zeros_like(t) for n, t in state_dict.items()}}
    neutral = bridge_torch.to_neutral(state_dict, rules=case.rules)
    made = bridge_flax.from_neutral(neutral, rules=case.rules, **there if templates or case.forth else {})
    assert_holds(dict(flat(made)), case.target)
    neutral = bridge_flax.to_neutral(tree, rules=case.rules)
    made = bridge_torch.from_neutral(neutral, rules=case.rules, **again if templates or case.back else {})
    assert_holds({n: numpy_of(t) for n, t in made.items()}, case.source)


# -- every format, and sharded sets -----------------------------------------------------------------

CHAINS = ["stacked_in_blocks_of_six", "qkv_stacked_over_layers", "tied", "untied", "gate_up"]


@pytest.mark.parametrize("name", CHAINS)
@pytest.mark.parametrize("start", [".pt", ".safetensors", ".npz"])
@pytest.mark.parametrize("middle", [".msgpack", ".safetensors", ".npz"])
def test_formats_and_on(name, start, middle, tmp_path):
    case = case_named(name)
    source = saved(case.source, "torch", tmp_path / f"source{start}")
    there, neutral = tmp_path / f"there{middle}", tmp_path / f"neutral{middle}"
    again, last = tmp_path / f"again{start}", tmp_path / f"last{start}"
    convert(source, there, **forth(case))
    convert(there, neutral, to="neutral", rules=case.rules)
    convert(neutral, again, **back(case))
    convert(there, last, **back(case))
    assert_holds(again, case.source)
    assert_holds(last, case.source)


def test_files_are_read_by_the_libraries_that_made_the_formats(tmp_path):
    case = case_named("qkv_stacked_over_layers")
    torch.save(as_torch(case.source), tmp_path / "source.pt")
    convert(tmp_path / "source.pt", tmp_path / "there.msgpack", **forth(case))
    assert_holds(dict(flat(load_flax(tmp_path / "there.msgpack"))), case.target)
    convert(tmp_path / "there.msgpack", tmp_path / "again.pt", **back(case))
    assert_holds({n: numpy_of(t) for n, t in load_torch(tmp_path / "again.pt").items()}, case.source)


@pytest.mark.parametrize("name", CHAINS)
def test_stacks_across_shards(name, tmp_path):
    case = case_named(name)
    save_state(state_of(case.source, "torch"), tmp_path / "set", max_shard_size=100)
    assert len(list((tmp_path / "set").glob("*.safetensors"))) > 2
    convert(tmp_path / "set", tmp_path / "there", max_shard_size=150, format="safetensors", **forth(case))
    assert_holds(tmp_path / "there", case.target)
    assert verify(tmp_path / "set", tmp_path / "there", rules=case.rules).equal
    convert(tmp_path / "there", tmp_path / "again", max_shard_size=100, **back(case))
    assert_holds(tmp_path / "again", case.source)


@pytest.mark.parametrize("name", CHAINS)
def test_every_thread_and_the_smallest_buffers_give_the_same_bytes(name, tmp_path):
    case = case_named(name)
    source = saved(case.source, "torch", tmp_path / "source.safetensors")
    one, other = tmp_path / "one.safetensors", tmp_path / "other.safetensors"
    convert(source, one, workers=1, **forth(case))
    convert(source, other, workers=4, max_ram="2MB", **forth(case))
    assert one.read_bytes() == other.read_bytes()


# -- conditions, which are about torch's tensors, on the way back -----------------------------------


def test_what_conditions_exclude_by_size_keeps_its_own_way():
    """The target that the rule would make of it is another tensor's."""
    tensors = {name: random_array((3, 3) if name == "a.table" else (4, 5), "float32") for name in FLAX_NAMES}
    source = state_of(tensors, "flax")
    rules = [
        Rule.rearrange("{n}.grid", "{n}.table", "o i -> o i", when={"sizes": {"i": 3}}, layouts=BOTH),
        Rule.rearrange("b.grid", "b.other", "x y -> y x", layouts=BOTH),
    ]
    wanted = {"a.grid": tensors["a.table"], "b.table": tensors["b.table"], "b.grid": tensors["b.other"].T}
    made = plan_conversion(source, to="torch", rules=rules, like=abstract(wanted, "torch")).apply(source)
    assert_holds(made, wanted)


FLAX_NAMES = ("a.table", "b.table", "b.other")


def test_what_conditions_exclude_by_rank_keeps_its_own_way():
    """The rank is known before the sizes are, which the template tells of the tensors alone that it has."""
    tensors = {"a.table": random_array((6, 4), "float32"), "b.table": random_array((6, 4, 5), "float32")}
    source = state_of(tensors, "flax")
    rule = Rule.rearrange("{n}.grid", "{n}.table", "h d ... -> (h d) ...", when={"rank": 3}, layouts=BOTH)
    wanted = {"a.grid": tensors["a.table"].reshape(2, 3, 4), "b.table": tensors["b.table"]}
    made = plan_conversion(source, to="torch", rules=rule, like=abstract(wanted, "torch")).apply(source)
    assert_holds(made, wanted)


def test_stacked_statistics_go_to_their_collection_without_a_template():
    """Their name tells: a rule makes a tensor, and no layer that would know."""
    roles = {"weight": "scale", "bias": "bias", "running_mean": "mean", "running_var": "var"}
    weights = {("h", str(i), "bn", name): np.full(4, i, "f4") for i in range(2) for name in roles}
    rules = [Rule.rearrange(f"h.{{i:int}}.bn.{old}", f"h.bn.{new}", "c -> i c") for old, new in roles.items()]
    plan = plan_conversion(FlatState(weights, layout="torch"), to="flax", rules=rules)
    paths = {step.targets[0][:-1] for step in plan.steps}
    assert paths == {("params", "h", "bn"), ("batch_stats", "h", "bn")}
    made = plan.apply(FlatState(weights, layout="torch"))
    assert made["batch_stats", "h", "bn", "mean"].tolist() == [[0] * 4, [1] * 4]
