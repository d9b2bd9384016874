"""Rules that could be meant in a way that is not how they are read: refused with the place, or noted."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from support.arrays import random_array
from support.errors import refused
from support.rule_files import abstract, nothing_written, saved

from bridge_core import Rule, RuleError, convert, plan_conversion
from bridge_core.cli import main

WEIGHTS = {
    "emb.weight": random_array((10, 4), "float32"),
    "fc.weight": random_array((5, 4), "float32"),
    "fc.bias": random_array((5,), "float32"),
}
LAYER = '[[rule]]\nsource = "emb"\nlayer = "embedding"\n'


@pytest.fixture
def source(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return saved(WEIGHTS, "torch", tmp_path / "m.safetensors")


def written(text):
    Path("r.toml").write_text(text)
    return "r.toml"


REFUSED = {
    "a condition on a rank that the equation denies": (
        '[[rule]]\nsource = "emb.weight"\ntarget = "e.e"\nrearrange = "a b -> b a"\nwhen.rank = 3\n',
        ("r.toml:1: rule 'emb.weight' -> 'e.e': ", "when.rank is 3", "'a b'", "rank 2"),
    ),
    "a condition on a size that the sizes deny": (
        '[[rule]]\nsource = "emb.weight"\ntarget = "e.e"\nrearrange = "a b -> b a"\nsizes.a = 10\n'
        "when.sizes.a = 11\n",
        ("r.toml:1: ", "when.sizes.a is 11", "sizes.a is 10"),
    ),
    "a blank reason": (
        '[[rule]]\nsource = "fc.bias"\ndrop = "  "\n',
        ("r.toml:1: rule 'fc.bias': drop ( ): ", "reason", 'drop = "'),
    ),
    "a misspelt kind that matches nothing": (
        f'{LAYER}[[rule]]\nsource = "x"\nlayer = "embeding"\noptional = true\n',
        ("r.toml:4: rule 'x': layer embeding: ", "'embeding'", "torch", "Did you mean 'embed"),
    ),
    "a layer under a condition that cannot be checked": (
        f"{LAYER}when.config.model_type = 'x'\n",
        ("r.toml:1: rule 'emb': layer embedding: ", "when.config.model_type = 'x'", "no config.json"),
    ),
    "more bytes than a file has": (
        '[[rule]]\nsource = "emb.weight"\ntarget = "e.e"\nrearrange = "pad(0, 10, 999999999999999999)"\n',
        ("r.toml:1: tensor 'emb.weight': rule 'emb.weight' -> 'e.e': ", "15999999999999999984"),
    ),
    "an unknown key at the top": (
        f"# a\nnote = 'x'\n{LAYER}",
        ("r.toml: line 2: ", "'note' at the top"),
    ),
    "an unknown table": (
        f"{LAYER}[meta]\na = 1\n",
        ("r.toml: line 4: ", "'meta' at the top"),
    ),
    "a layout that is no text": (
        f"source = 3\n{LAYER}",
        ("r.toml: line 1: source: ", "framework", "got 3"),
    ),
    "a misspelt layout": (
        f"source = 'torhc'\ntarget = 'flax'\n{LAYER}",
        ("torhc and flax", "torch to flax", "source layout 'torhc'", "Did you mean 'torch'?"),
    ),
    "rules to the neutral form": (
        f"source = 'torch'\n{LAYER}",
        ("torch and neutral", "torch to flax", "target = 'flax' at the top"),
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_rule_that_is_half_understood_is_refused_with_its_place(source, tmp_path, name):
    text, named = REFUSED[name]
    with refused(RuleError, *named):
        convert(source, "out.safetensors", to="flax", rules=written(text))
    assert nothing_written(tmp_path, source, tmp_path / "r.toml")


@pytest.mark.parametrize(
    ("head", "layout", "nearest"),
    [
        ("source = 'torch'\ntarget = 'flx'\n", "target layout 'flx'", "Did you mean 'flax'?"),
        ("source = 'torhc'\ntarget = 'torch'\n", "source layout 'torhc'", "Did you mean 'torch'?"),
    ],
)
def test_a_misspelt_layout_is_refused_on_the_way_to_neutral_too(source, head, layout, nearest):
    with refused(RuleError, layout, hint=nearest):
        convert(source, "n.safetensors", to="neutral", rules=written(head + LAYER))
    ran = CliRunner().invoke(main, ["rules", "check", "r.toml"])
    assert layout in ran.output
    assert nearest in ran.output
    assert ran.exit_code == 1


def test_the_command_alone_knows_the_kinds(source):
    ran = CliRunner().invoke(
        main, ["rules", "check", written('[[rule]]\nsource = "emb"\nlayer = "embeding"\n')]
    )
    assert "kind 'embeding'" in ran.output
    assert "Did you mean 'embedding'?" in ran.output
    assert ran.exit_code == 1


def test_a_layer_rule_holds_under_its_condition_only(source):
    text = f"{LAYER}when.config.model_type = 'x'\n"
    for model, kinds in (("x", {"embedding"}), ("y", {"undecided"})):
        Path("config.json").write_text(json.dumps({"model_type": model}))
        plan = plan_conversion(source, to="neutral", rules=written(text))
        assert {step.kind for step in plan.steps if step.sources == (("emb", "weight"),)} == kinds
        assert not plan.notes


@pytest.mark.parametrize(
    ("rule", "note"),
    [
        (
            Rule.rearrange("emb.weight", "emb.weight", when={"rank": 3}, origin="r.toml:1"),
            "rule r.toml:1: 'emb.weight' -> 'emb.weight' is not used: its conditions hold for none of the "
            "tensors that it matches",
        ),
        (
            Rule.drop("fc.bias", "x", when={"config": {"a": {"typo": 1}}}, origin="r.toml:1"),
            "rule r.toml:1: 'fc.bias': drop (x) is not used: the config has no entry 'a.typo'",
        ),
    ],
)
def test_a_rule_that_its_conditions_keep_from_doing_anything_is_noted(source, rule, note):
    Path("config.json").write_text('{"a": {"type": 1}}')
    plan = plan_conversion(source, to="flax", rules=[rule, Rule.layer("emb", "embedding")])
    assert plan.notes == (note,)


@pytest.mark.parametrize(
    ("call", "noted"), [("pad(0, 10)", True), ("pad(0, 10, 10)", True), ("pad(0, 16)", False)]
)
def test_a_pad_that_lengthens_nothing_is_noted(source, call, noted):
    rule = Rule.rearrange("emb.weight", "emb.embedding", call, origin="r.toml:1")
    notes = plan_conversion(source, to="flax", rules=rule).notes
    text = str(rule.before[0])
    assert notes == ((f"rule r.toml:1: '{text}' leaves emb.weight as long as it is",) if noted else ())


def test_two_rules_that_give_a_layer_two_kinds_are_a_conflict(source):
    rules = [Rule.layer("e{rest}", "embedding"), Rule.layer("{rest}b", "linear")]
    with refused(RuleError, "'emb'", "'e{rest}'", "'{rest}b'"):
        plan_conversion(source, to="flax", rules=rules)
    rules[1] = Rule.layer("{rest}b", "embedding")
    assert plan_conversion(source, to="flax", rules=rules).ok


def test_true_fills_truth_values_only(source):
    rule = Rule.fill("mask", True, reason="made by the model")
    rules = [rule, Rule.layer("emb", "embedding")]
    target = {
        "emb.embedding": WEIGHTS["emb.weight"],
        "fc.kernel": WEIGHTS["fc.weight"].T,
        "fc.bias": WEIGHTS["fc.bias"],
    }
    like = abstract({**target, "mask": np.ones(3, bool)}, "flax")
    assert plan_conversion(source, to="flax", rules=rules, like=like).ok
    like = abstract({**target, "mask": np.ones(3, "f4")}, "flax")
    with refused(RuleError, "mask", "float32", "True"):
        plan_conversion(source, to="flax", rules=rules, like=like)
