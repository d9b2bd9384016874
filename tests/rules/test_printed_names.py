"""Rules take the names that ``inspect`` prints: with the collection, or without it."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from click.testing import CliRunner
from support.arrays import random_array
from support.errors import refused
from support.rule_files import abstract, assert_holds, plan_and_apply, saved

from bridge_core import RuleError, as_state, convert, plan_conversion
from bridge_core.cli import main
from bridge_core.rules import Pattern, Rule

THERE, BACK = ("flax", "torch"), ("torch", "flax")


def array(*shape, seed=0):
    return random_array(shape, "float32", seed=seed)


FLAX = {
    "params.blocks_0.fc.kernel": array(4, 5),
    "params.blocks_0.fc.bias": array(5),
    "params.blocks_0.bn.scale": array(5, seed=1),
    "params.blocks_0.bn.bias": array(5, seed=2),
    "params.pos": array(3, 2),
    "batch_stats.blocks_0.bn.mean": array(5, seed=3),
    "batch_stats.blocks_0.bn.var": array(5, seed=4),
}
REST = {
    "blocks_0.bn.weight": FLAX["params.blocks_0.bn.scale"],
    "blocks_0.bn.bias": FLAX["params.blocks_0.bn.bias"],
    "blocks_0.bn.running_mean": FLAX["batch_stats.blocks_0.bn.mean"],
    "blocks_0.bn.running_var": FLAX["batch_stats.blocks_0.bn.var"],
}
TORCH = {
    "blocks_0.fc.weight": FLAX["params.blocks_0.fc.kernel"].T,
    "blocks_0.fc.bias": FLAX["params.blocks_0.fc.bias"],
    "pos": FLAX["params.pos"],
    **REST,
}


def renamed(tensors, old, new):
    return {name.replace(old, new, 1) if name.startswith(old) else name: t for name, t in tensors.items()}


def converted(path, **options):
    """What a conversion makes, but the counter of batches, which torch alone has."""
    made = plan_and_apply(path, **options)
    return {key: made[key] for key in made if key[-1] != "num_batches_tracked"}


ACTIONS = {
    "rename": (
        lambda head: Rule.rename(f"{head}blocks_0.**", "h.0.**", layouts=THERE),
        renamed(TORCH, "blocks_0.", "h.0."),
    ),
    "rename of one layer": (
        lambda head: Rule.rename(f"{head}blocks_0.fc.*", "out.*", layouts=THERE),
        renamed(TORCH, "blocks_0.fc.", "out."),
    ),
    "rename in Flax's names": (
        lambda head: Rule.rename(f"{head}blocks_0.**", f"{head}h.**", layouts=THERE),
        renamed(TORCH, "blocks_0.", "h."),
    ),
    "rearrange": (
        lambda head: Rule.rearrange(f"{head}pos", "position", "a b -> b a", layouts=THERE),
        {**{n: t for n, t in TORCH.items() if n != "pos"}, "position": TORCH["pos"].T},
    ),
    "drop": (
        lambda head: Rule.drop(f"{head}pos", "unused", layouts=THERE),
        {n: t for n, t in TORCH.items() if n != "pos"},
    ),
    "layer": (lambda head: Rule.layer(f"{head}blocks_0.fc", "linear", layouts=THERE), TORCH),
}


@pytest.mark.parametrize("bare", [False, True], ids=["collections", "bare tree"])
@pytest.mark.parametrize("head", ["", "params."])
@pytest.mark.parametrize("template", [False, True], ids=["no template", "template"])
@pytest.mark.parametrize("action", ACTIONS)
def test_sources_with_a_collection_and_without_are_the_same(tmp_path, action, template, head, bare):
    make, target = ACTIONS[action]
    source = FLAX
    if bare:
        source = {n.removeprefix("params."): t for n, t in FLAX.items() if n.startswith("params.")}
        gone = {n for n in target if n.endswith(("running_mean", "running_var"))}
        target = {name: tensor for name, tensor in target.items() if name not in gone}
    path = saved(source, "flax", tmp_path / "f.msgpack")
    like = abstract(target, "torch") if template else None
    assert_holds(converted(path, to="torch", rules=make(head), like=like), target)
    convert(path, tmp_path / "n.safetensors", to="neutral", rules=make(head))
    for rules in (make(head), ()):
        assert_holds(converted(tmp_path / "n.safetensors", to="torch", rules=rules, like=like), target)


def test_a_collection_of_a_pattern_says_where_its_tensors_are(tmp_path):
    path = saved(FLAX, "flax", tmp_path / "f.msgpack")
    rule = Rule.drop("batch_stats.**", "made again", layouts=THERE)
    plan = plan_conversion(path, to="torch", rules=rule, check=False)
    assert {d.key for d in plan.dropped} == {tuple(n.split(".")) for n in FLAX if n.startswith("batch_stats")}
    rules = [
        Rule.rename("params.blocks_0.**", "h.**", layouts=THERE),
        Rule.rename("batch_stats.blocks_0.**", "h.**", layouts=THERE),
    ]
    assert_holds(converted(path, to="torch", rules=rules), renamed(TORCH, "blocks_0.", "h."))
    with refused(RuleError, "1 rule", "'batch_stats.pos'"):
        plan_conversion(path, to="torch", rules=Rule.drop("batch_stats.pos", "unused", layouts=THERE))


@pytest.mark.parametrize("like", ["collections", "bare tree", "none"])
@pytest.mark.parametrize("head", ["", "params."])
def test_targets_with_a_collection_and_without_are_the_same(tmp_path, head, like):
    source = {"net.fc.weight": array(5, 4), "net.fc.bias": array(5), "pos": array(3, 2), "mask": array(2)}
    target = {
        "out.kernel": source["net.fc.weight"].T,
        "out.bias": source["net.fc.bias"],
        "position": source["pos"].T,
    }
    rules = [
        Rule.rename("net.fc.*", f"{head}out.*", layouts=BACK),
        Rule.rearrange("pos", f"{head}position", "a b -> b a", layouts=BACK),
        Rule.drop("mask", "unused", layouts=BACK),
        Rule.layer(f"{head}out", "linear", layouts=BACK),
    ]
    if like != "none":
        rules.append(Rule.fill(f"{head}gate", 1, reason="torch has none", layouts=BACK))
        target["gate"] = np.ones(3, "f4")
    if like == "collections":
        target = {f"params.{name}": tensor for name, tensor in target.items()}
    template = None if like == "none" else abstract(target, "flax")
    path = saved(source, "torch", tmp_path / "t.safetensors")
    assert_holds(plan_and_apply(path, to="flax", rules=rules, like=template), target)
    convert(path, tmp_path / "n.safetensors", to="neutral", rules=rules)
    for again in (rules, ()):
        made = plan_and_apply(tmp_path / "n.safetensors", to="flax", rules=again, like=template)
        assert_holds(made, target)


@pytest.mark.parametrize("template", [False, True])
def test_the_collection_of_a_target_is_where_the_tensor_goes(tmp_path, template):
    source = {"fc.weight": array(5, 4), "fc.bias": array(5), "norm.average": array(5)}
    rule = Rule.rearrange("norm.average", "batch_stats.norm.ema", layouts=BACK)
    target = {
        "params.fc.kernel": source["fc.weight"].T,
        "params.fc.bias": source["fc.bias"],
        "batch_stats.norm.ema": source["norm.average"],
    }
    like = abstract(target, "flax") if template else None
    path = saved(source, "torch", tmp_path / "t.safetensors")
    assert_holds(plan_and_apply(path, to="flax", rules=rule, like=like), target)
    rename = Rule.rename("norm.average", "batch_stats.norm.ema", layouts=BACK)
    assert_holds(plan_and_apply(path, to="flax", rules=rename, like=like), target)


# -- modules that have the name of a collection -----------------------------------------------------

NESTED = {
    "params.params.fc.kernel": array(4, 5),
    "params.params.fc.bias": array(5),
    "params.fc.kernel": array(4, 5, seed=1),
    "params.fc.bias": array(5, seed=1),
}


@pytest.mark.parametrize(
    ("pattern", "inner"),
    [("params.fc.*", True), ("params.params.fc.*", True), ("fc.*", False), ("params.**", True)],
)
def test_a_module_called_params_is_addressed(tmp_path, pattern, inner):
    path = saved(NESTED, "flax", tmp_path / "f.msgpack")
    new = "x.**" if "**" in pattern else "x.fc.*"
    made = plan_and_apply(path, to="torch", rules=Rule.rename(pattern, new, layouts=THERE))
    moved, other = ("params.params.fc", "params.fc") if inner else ("params.fc", "params.params.fc")
    stays = "fc" if inner else "params.fc"
    target = {
        "x.fc.weight": NESTED[f"{moved}.kernel"].T,
        "x.fc.bias": NESTED[f"{moved}.bias"],
        f"{stays}.weight": NESTED[f"{other}.kernel"].T,
        f"{stays}.bias": NESTED[f"{other}.bias"],
    }
    assert_holds(made, target)


@pytest.mark.parametrize(("new", "path"), [("params.out.*", "out"), ("params.params.out.*", "params.out")])
def test_a_rename_makes_a_module_called_params_only_where_it_is_named_whole(tmp_path, new, path):
    source = {"fc.weight": array(5, 4), "fc.bias": array(5), "bn.weight": array(5), "bn.bias": array(5)}
    source |= {"bn.running_mean": array(5), "bn.running_var": array(5)}
    file = saved(source, "torch", tmp_path / "t.safetensors")
    made = plan_and_apply(file, to="flax", rules=Rule.rename("fc.*", new))
    assert {".".join(key) for key in made if key[-1] == "kernel"} == {f"params.{path}.kernel"}


def test_a_torch_model_may_have_a_module_called_params(tmp_path):
    source = {
        "params.weight": array(5, 4),
        "params.bias": array(5),
        "x.weight": array(5, 4),
        "x.bias": array(5),
    }
    file = saved(source, "torch", tmp_path / "t.safetensors")
    made = plan_and_apply(file, to="torch", rules=Rule.rename("params.*", "y.*"))
    assert_holds(made, renamed(source, "params.", "y."))
    made = plan_and_apply(file, to="torch", rules=[Rule.rename("x.*", "params.0.*")])
    assert_holds(made, renamed(source, "x.", "params.0."))
    made = plan_and_apply(file, to="flax", rules=Rule.rename("params.*", "y.*", layouts=BACK))
    assert {".".join(key[:-1]) for key in made} == {"x", "y"}


def test_a_target_that_may_be_a_collection_or_a_module_is_refused(tmp_path):
    file = saved({"fc.weight": array(5, 4), "fc.bias": array(5)}, "torch", tmp_path / "t.safetensors")
    rule = Rule.rename("fc.*", "params.out.*")
    with refused(RuleError, "'params'", "collection", "flax", "module"):
        plan_conversion(file, to="neutral", rules=rule)
    plan = plan_conversion(file, to="neutral", rules=dataclasses.replace(rule, layouts=BACK))
    assert {step.targets[0][0] for step in plan.steps} == {"out"}


# -- two spellings of one tensor --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (Rule.drop("params.pos", "a"), Rule.drop("pos", "b")),
        (Rule.rename("params.blocks_0.**", "h.**"), Rule.rename("blocks_0.**", "g.**")),
        (Rule.rename("blocks_0.fc.*", "h.*"), Rule.rename("params.blocks_0.fc.*", "g.*")),
        (Rule.rearrange("params.pos", "q"), Rule.rearrange("pos", "r")),
        (Rule.layer("params.blocks_0.fc", "linear"), Rule.layer("blocks_0.fc", "parameter")),
    ],
    ids=str,
)
def test_two_spellings_of_one_tensor_are_a_conflict(tmp_path, first, second):
    path = saved(FLAX, "flax", tmp_path / "f.msgpack")
    with refused(RuleError, str(first).removeprefix("rule "), str(second).removeprefix("rule ")):
        plan_conversion(path, to="torch", rules=[first, second])


def test_two_spellings_of_one_target_are_a_conflict(tmp_path):
    path = saved({"a": array(3), "b": array(3)}, "torch", tmp_path / "t.safetensors")
    rules = [Rule.rearrange("a", "params.c"), Rule.rearrange("b", "c")]
    with refused(RuleError, "'a' -> 'params.c'", "'b' -> 'c'", key=("c",)):
        plan_conversion(path, to="flax", rules=rules)


# -- the commands, and what a caller allows ---------------------------------------------------------

FILE = """\
source = "flax"
target = "torch"
[[rule]]
source = "{head}blocks_0.**"
rename = "h.0.**"
[[rule]]
source = "{head}pos"
target = "position"
rearrange = "a b -> b a"
"""


@pytest.mark.parametrize("head", ["", "params."])
def test_the_commands_agree(tmp_path, head):
    path = saved(FLAX, "flax", tmp_path / "f.msgpack")
    like = saved({**renamed(TORCH, "blocks_0.", "h.0."), "position": array(2, 3)}, "torch", tmp_path / "t.pt")
    rules = tmp_path / "r.toml"
    rules.write_text(FILE.format(head=head))
    ran = CliRunner().invoke(main, ["rules", "check", str(rules), "--source", str(path), "--like", str(like)])
    assert ran.exit_code == 0, ran.output
    assert "source 6" in ran.output
    name = "params.blocks_0.fc.kernel"
    ran = CliRunner().invoke(main, ["explain", str(path), name, "--to", "torch", "--rules", str(rules)])
    assert "h.0.fc.weight" in ran.output
    assert f"{rules}:3" in ran.output
    rules.write_text(FILE.format(head="parms."))
    ran = CliRunner().invoke(main, ["rules", "check", str(rules), "--source", str(path)])
    assert ran.exit_code == 1
    assert "'parms.pos' matches no name" in ran.output


@pytest.mark.parametrize("head", ["", "params."])
def test_what_a_caller_allows_takes_both_names(tmp_path, head):
    path = saved(FLAX, "flax", tmp_path / "f.msgpack")
    like = abstract({n: t for n, t in TORCH.items() if n != "pos"}, "torch")
    assert plan_conversion(path, to="torch", like=like, allow_unexpected=f"{head}pos").ok
    back = saved({n: t for n, t in TORCH.items() if n != "pos"}, "torch", tmp_path / "t.pt")
    assert plan_conversion(back, to="flax", like=abstract(FLAX, "flax"), allow_missing=f"{head}pos").ok
    odd = saved({**TORCH, "pos": array(7)}, "torch", tmp_path / "u.pt")
    assert plan_conversion(odd, to="flax", like=abstract(FLAX, "flax"), allow_mismatched=f"{head}pos").ok


def test_a_pattern_within_a_collection_is_printed_as_it_was_written():
    pattern = Pattern.parse("params.h.{i}.*").within("params", frozenset())
    assert str(pattern) == "params.h.{i}.*"
    assert pattern.as_written == Pattern.parse("params.h.{i}.*")
    assert pattern.with_numbers(["i"]).match(("h", "3", "bias")) == {"i": "3", "*0": "bias"}


LAYERS = {"fc": {"kernel": np.ones((3, 4), "f4")}, "a.b": {"table": np.ones((5, 3), "f4")}}


@pytest.mark.parametrize(
    ("tree", "name"),
    [
        ({"params": LAYERS}, "params.a.b.table"),
        ({"params": LAYERS}, "a.b.table"),
        ({"state": {"params": LAYERS, "step": np.int32(7)}}, "state.params.a.b.table"),
        ({"model": LAYERS, "step": np.int32(7)}, "model.*.table"),
        ({"model": LAYERS, "step": np.int32(7)}, "model/*/table"),
    ],
)
def test_a_name_below_a_wrapper_and_a_part_with_dots_are_read_as_printed(tree, name):
    plan = plan_conversion(tree, to="torch", rules=[Rule.drop(name, "reason")])
    assert {step.targets for step in plan.steps} == {(("fc", "weight"),)}
    like = as_state({"fc.weight": np.ones((4, 3), "f4")}, layout="torch")
    plan = plan_conversion(tree, to="torch", like=like, allow_unexpected=name)
    assert {step.targets for step in plan.steps} == {(("fc", "weight"),)}


def test_both_sides_of_a_rename_may_begin_with_the_wrapper():
    tree = {"state": {"params": LAYERS, "step": np.int32(7)}}
    source = "state.params.a.b.table"
    for target in ("state.params.new.table", "params.new.table", "new.table"):
        plan = plan_conversion(tree, to="torch", rules=[Rule.rename(source, target)])
        assert (("new", "table"),) in {step.targets for step in plan.steps}
