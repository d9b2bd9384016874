"""Renames that see the names of other renames, and rules for what no other rule matches."""

from __future__ import annotations

import numpy as np
import pytest
from support.arrays import random_array
from support.errors import refused
from support.rule_files import abstract, assert_holds, plan_and_apply, saved, state_of

import bridge_torch
from bridge_core import Rule, RuleError, convert, load_rules, plan_conversion
from bridge_core.resolve import applied_renames
from bridge_core.rules.records import read_recorded, recorded

BOTH = ("torch", "flax")
TORCH = {
    "model.ln.weight": random_array((4,), "float32"),
    "model.ln.bias": random_array((4,), "float32", seed=1),
    "model.fc.weight": random_array((3, 4), "float32", seed=2),
    "model.fc.bias": random_array((3,), "float32", seed=3),
}
FLAX = {
    "norm.scale": TORCH["model.ln.weight"],
    "norm.bias": TORCH["model.ln.bias"],
    "fc.kernel": TORCH["model.fc.weight"].T,
    "fc.bias": TORCH["model.fc.bias"],
}
FILE = """\
source = "torch"
target = "flax"
[[rule]]
source = "model.**"
rename = "**"
[[rule]]
source = "ln.*"
rename = "norm.*"
stage = 1
"""


def rename(source, target, **options):
    return Rule.rename(source, target, layouts=BOTH, **options)


def key(text):
    return tuple(text.split("."))


@pytest.fixture
def staged(tmp_path):
    path = tmp_path / "rules.toml"
    path.write_text(FILE)
    return path


@pytest.mark.parametrize("through", ["one step", "neutral"])
@pytest.mark.parametrize("like", [True, False])
def test_two_renames_of_one_tensor_go_both_ways(through, like, staged, tmp_path):
    source, flax = saved(TORCH, "torch", tmp_path / "t.safetensors"), tmp_path / "f.safetensors"
    options = {"rules": staged}
    if through == "neutral":
        convert(source, tmp_path / "n.safetensors", to="neutral", rules=staged)
        source, options = tmp_path / "n.safetensors", {}
    convert(source, flax, to="flax", **options)
    assert_holds(flax, FLAX)
    more = {"like": abstract(TORCH, "torch")} if like else {}
    assert_holds(plan_and_apply(flax, to="torch", rules=staged, **more), TORCH)


def test_a_plan_names_every_rename(staged, tmp_path):
    source = saved(TORCH, "torch", tmp_path / "t.safetensors")
    plan = plan_conversion(source, to="flax", rules=staged)
    (step,) = (step for step in plan.steps if step.sources == (key("model.ln.weight"),))
    assert step.rule == f"{staged}:3, {staged}:6"
    (step,) = (step for step in plan.steps if step.sources == (key("model.fc.weight"),))
    assert step.rule == f"{staged}:3"


def test_two_renames_of_one_stage_are_refused():
    rules = [rename("model.**", "**"), rename("{a}.ln.*", "{a}.norm.*")]
    with refused(RuleError, "model.ln.weight", "model.**", "{a}.ln.*", hint="stage = 1"):
        bridge_torch.to_neutral(state_of(TORCH, "torch"), rules=rules)
    with refused(RuleError, "model.ln.weight", hint="stage = 1"):
        later = [rename("model.**", "**", stage=2), rename("{a}.ln.*", "{a}.norm.*", stage=2)]
        bridge_torch.to_neutral(state_of(TORCH, "torch"), rules=later)


def test_the_rule_that_sees_the_names_of_the_other_is_either_of_them(tmp_path):
    rules = [rename("model.**", "**", stage=1), rename("{a}.ln.*", "{a}.norm.*")]
    source = saved(TORCH, "torch", tmp_path / "t.safetensors")
    assert_holds(plan_and_apply(source, to="flax", rules=rules), FLAX)
    back = saved(FLAX, "flax", tmp_path / "f.safetensors")
    assert_holds(plan_and_apply(back, to="torch", rules=rules), TORCH)


def test_a_later_rename_reads_its_alternatives_with_the_names_that_it_sees(tmp_path):
    rules = [
        rename("{model|}.ln.*", "{x|y}.ln.*", when={"missing": "x.**"}),
        rename("{y|x|model}.ln.*", "norm.*", stage=1),
    ]
    torch = {f"model.{name}": TORCH[f"model.{name}"] for name in ("ln.weight", "ln.bias")}
    flax = {"norm.scale": TORCH["model.ln.weight"], "norm.bias": TORCH["model.ln.bias"]}
    source = saved(torch, "torch", tmp_path / "t.safetensors")
    assert_holds(plan_and_apply(source, to="flax", rules=rules), flax)
    back = saved(flax, "flax", tmp_path / "f.safetensors")
    plain = {name.removeprefix("model."): array for name, array in torch.items()}
    for wanted in (torch, plain):
        made = plan_and_apply(back, to="torch", rules=rules, like=abstract(wanted, "torch"))
        assert_holds(made, wanted)


def test_a_later_rename_that_sees_no_name_is_unmatched(tmp_path):
    source = saved(TORCH, "torch", tmp_path / "t.safetensors")
    rules = [rename("model.**", "**"), rename("model.ln.*", "norm.*", stage=1)]
    plan = plan_conversion(source, to="flax", rules=rules, check=False)
    assert plan.unmatched_rules == ("'model.ln.*' -> 'norm.*'",)


def test_what_is_dropped_or_rearranged_is_not_renamed_later(tmp_path):
    rules = [
        Rule.rearrange("model.fc.weight", "head.kernel", "o i -> i o", layouts=BOTH),
        Rule.drop("model.fc.bias", "not used", layouts=BOTH, optional=True),
        rename("model.ln.*", "model.norm.*"),
        rename("model.**", "**", stage=1),
    ]
    made = {**FLAX, "head.kernel": FLAX["fc.kernel"]}
    del made["fc.kernel"], made["fc.bias"]
    torch = {name: array for name, array in TORCH.items() if name != "model.fc.bias"}
    source = saved(TORCH, "torch", tmp_path / "t.safetensors")
    assert_holds(plan_and_apply(source, to="flax", rules=rules), made)
    back = saved(made, "flax", tmp_path / "f.safetensors")
    assert_holds(plan_and_apply(back, to="torch", rules=rules, like=abstract(torch, "torch")), torch)
    assert_holds(plan_and_apply(back, to="torch", rules=rules), torch)
    with refused(RuleError, "model.fc.weight"):
        plan_and_apply(source, to="flax", rules=[rules[0], rename("model.**", "**")])


def test_all_renames_go_through_one_function():
    rules = [
        rename("{a}.ln.*", "{a}.n.*", stage=1),
        rename("m.**", "e.**"),
        rename("**", "x.**", fallback=True),
    ]
    made = [new for _, new in applied_renames(rules, key("m.ln.w"))]
    assert made == [key("e.ln.w"), key("e.n.w")]
    assert [new for _, new in applied_renames(rules, key("z.w"))] == [key("x.z.w")]
    back = [rule.reversed() for rule in rules]
    assert [new for _, new in applied_renames(back, made[-1])] == [key("e.ln.w"), key("m.ln.w")]


@pytest.mark.parametrize("stage", [1, -2])
def test_a_stage_is_recorded(stage):
    rule = rename("a.*", "b.*", stage=stage, fallback=True)
    for one in (rule, rule.reversed()):
        assert read_recorded(recorded(one, "torch")) == one


@pytest.mark.parametrize("line", ["stage = true", 'stage = "1"', "stage = 1.5", "fallback = 1"])
def test_a_stage_is_a_number(line, tmp_path):
    path = tmp_path / "rules.toml"
    path.write_text(f'[[rule]]\nsource = "a"\nrename = "b"\n{line}\n')
    with refused(RuleError, line.partition(" ")[0]):
        load_rules(path)
    path.write_text('[[rule]]\nsource = "a"\ntarget = "b"\nstage = 1\n')
    with refused(RuleError, "stage"):
        load_rules(path)


# -- what no other rule matches ---------------------------------------------------------------------

FALLBACK = """\
source = "torch"
target = "flax"
[[rule]]
source = "old.ln.*"
rename = "norm.*"
[[rule]]
source = "model.**"
rename = "**"
fallback = true
[[rule]]
source = "old.**"
drop = "not used"
fallback = true
"""


def test_a_fallback_is_for_what_no_other_rule_matches(tmp_path):
    path = tmp_path / "rules.toml"
    path.write_text(FALLBACK)
    torch = {
        "old.ln.weight": TORCH["model.ln.weight"],
        "old.ln.bias": TORCH["model.ln.bias"],
        "old.buffer": random_array((2,), "float32"),
        "model.fc.weight": TORCH["model.fc.weight"],
        "model.fc.bias": TORCH["model.fc.bias"],
    }
    source, flax = saved(torch, "torch", tmp_path / "t.safetensors"), tmp_path / "f.safetensors"
    convert(source, flax, to="flax", rules=path)
    assert_holds(flax, FLAX)
    del torch["old.buffer"]
    assert_holds(plan_and_apply(flax, to="torch", rules=path), torch)
    assert_holds(plan_and_apply(flax, to="torch", rules=path, like=abstract(torch, "torch")), torch)
    neutral = tmp_path / "n.safetensors"
    convert(flax, neutral, to="neutral", rules=path)
    assert_holds(plan_and_apply(neutral, to="torch", like=abstract(torch, "torch")), torch)


def test_a_fallback_fills_what_no_other_rule_makes(tmp_path):
    rules = [
        Rule.rearrange("w", "old.w", "o i -> i o", layouts=BOTH),
        Rule.fill("old.*", 0, reason="new", layouts=BOTH, fallback=True),
    ]
    torch = {"w": TORCH["model.fc.weight"]}
    flax = {"old.w": torch["w"].T, "old.z": np.zeros(2, "float32")}
    source = saved(torch, "torch", tmp_path / "t.safetensors")
    assert_holds(plan_and_apply(source, to="flax", rules=rules, like=abstract(flax, "flax")), flax)
    twice = [rules[1], Rule.fill("old.z", 1, reason="new", layouts=BOTH, fallback=True)]
    with refused(RuleError, "old.z"):
        plan_and_apply(source, to="flax", rules=[rules[0], *twice], like=abstract(flax, "flax"))
