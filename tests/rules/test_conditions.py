"""Rules that are used by sizes and by the names that a side has."""

from __future__ import annotations

import numpy as np
import pytest
from click.testing import CliRunner
from support.arrays import random_array
from support.errors import refused
from support.rule_files import abstract, assert_holds, plan_and_apply, saved

from bridge_core import Rule, RuleError, convert, load_rules
from bridge_core.cli import main
from bridge_core.rules.records import read_recorded, recorded

BOTH = ("torch", "flax")
BACK = ("flax", "torch")

# -- comparisons of sizes ---------------------------------------------------------------------------

GATES = """\
source = "flax"
target = "torch"
[[rule]]
source = "mlp.gate"
target = ["gate.weight", "up.weight"]
rearrange = "(g u) d f -> (g f) d, (u f) d"
sizes = { g = 1, u = 1 }
when = { sizes = "f > d" }
[[rule]]
source = "mlp.gate"
target = ["gate.weight", "up.weight"]
rearrange = "(g u) f d -> (g f) d, (u f) d"
sizes = { g = 1, u = 1 }
when = { sizes = "f > d" }
"""


@pytest.mark.parametrize("order", ["d f", "f d"])
@pytest.mark.parametrize("through", ["one step", "neutral"])
def test_the_order_of_gates_by_size(order, through, tmp_path):
    path = tmp_path / "rules.toml"
    path.write_text(GATES)
    rows = [random_array((8, 4), "float32"), random_array((8, 4), "float32", seed=1)]
    torch = {"gate.weight": rows[0], "up.weight": rows[1]}
    flax = {"mlp.gate": np.stack([row.T for row in rows] if order == "d f" else rows)}
    source = saved(flax, "flax", tmp_path / "f.safetensors")
    options = {"rules": path}
    if through == "neutral":
        convert(source, tmp_path / "n.safetensors", to="neutral", rules=path)
        source, options = tmp_path / "n.safetensors", {}
    assert_holds(plan_and_apply(source, to="torch", **options), torch)
    assert_holds(plan_and_apply(source, to="torch", like=abstract(torch, "torch"), **options), torch)
    back = saved(torch, "torch", tmp_path / "t.safetensors")
    assert_holds(plan_and_apply(back, to="flax", rules=path, like=abstract(flax, "flax")), flax)
    with refused(RuleError, "gate.weight", hint="--like"):
        plan_and_apply(back, to="flax", rules=path)
    files = [
        str(path),
        "--source",
        str(tmp_path / "t.safetensors"),
        "--like",
        str(tmp_path / "f.safetensors"),
    ]
    result = CliRunner().invoke(main, ["rules", "check", *files])
    assert result.exit_code == 0, result.output


def test_comparisons_use_sizes_and_the_config(tmp_path):
    def rule(**options):
        return Rule.rearrange("w", "v", "f d -> d f", layouts=BOTH, **options)

    rules = [
        rule(sizes={"n": 3}, when={"sizes": "f > n"}),
        rule(sizes={"n": 3}, when={"sizes": ["f <= n", "d > config.small"]}),
    ]
    source = saved({"w": random_array((2, 5), "float32")}, "torch", tmp_path / "t.safetensors")
    (tmp_path / "config.json").write_text('{"small": 4}')
    assert_holds(plan_and_apply(source, to="flax", rules=rules), {"v": random_array((2, 5), "float32").T})
    (tmp_path / "config.json").write_text('{"small": 6}')
    with pytest.raises(Exception, match="w"):
        convert(source, tmp_path / "f.safetensors", to="flax", rules=rules)


@pytest.mark.parametrize(
    ("when", "named"),
    [
        ({"sizes": "f > x"}, "x"),
        ({"sizes": "f"}, "f"),
        ({"sizes": []}, "when.sizes"),
        ({"sizes": 3}, "when.sizes"),
        ({"exists": 3}, "when.exists"),
        ({"missing": []}, "when.missing"),
        ({"exists": "a.{i"}, "{i"),
        ({"exists": "a?"}, "a?"),
        ({"exist": "a"}, "when.exist"),
    ],
)
def test_conditions_that_are_none_are_refused(when, named):
    with refused(RuleError, named):
        Rule.rearrange("w", "v", "f d -> d f", when=when)


def test_a_rename_has_no_conditions_on_shapes():
    with refused(RuleError, "when.sizes"):
        Rule.rename("a", "b", when={"sizes": "f > d"})


# -- names that exist -------------------------------------------------------------------------------

W = random_array((4, 3), "float32")
HEADS = """\
source = "torch"
target = "flax"
[[rule]]
source = "embed.weight"
target = "table.embedding"
rearrange = "v d -> v d"
[[rule]]
source = "head.weight"
target = "logits.kernel"
rearrange = "v d -> d v"
when = { exists = "head.*" }
[[rule]]
source = "bias"
rename = "{kind}_bias"
when = { missing = ["head.weight"] }
"""
HEADS = HEADS.replace("{kind}", "tied")


@pytest.fixture
def heads(tmp_path):
    path = tmp_path / "rules.toml"
    path.write_text(HEADS)
    return path


FORMS = {
    "tied": (
        {"embed.weight": W, "bias": np.ones(4, "float32")},
        {"table.embedding": W, "tied_bias": np.ones(4, "float32")},
    ),
    "own": (
        {"embed.weight": W, "head.weight": W + 1, "bias": np.ones(4, "float32")},
        {"table.embedding": W, "logits.kernel": (W + 1).T, "bias": np.ones(4, "float32")},
    ),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("through", ["one step", "neutral", "neutral, rules again"])
def test_a_rule_is_used_by_the_names_that_exist(form, through, heads, tmp_path):
    torch, flax = FORMS[form]
    source = saved(torch, "torch", tmp_path / "t.safetensors")
    options = {"rules": heads}
    if through != "one step":
        convert(source, tmp_path / "n.safetensors", to="neutral", rules=heads)
        source, options = tmp_path / "n.safetensors", {"rules": heads} if "again" in through else {}
    made = plan_and_apply(source, to="flax", like=abstract(flax, "flax"), **options)
    assert_holds(made, flax)
    back = saved(flax, "flax", tmp_path / "f.safetensors")
    assert_holds(plan_and_apply(back, to="torch", rules=heads, like=abstract(torch, "torch")), torch)


def test_conditions_on_the_source_are_not_asked_of_the_neutral_form(tmp_path):
    rules = [
        Rule.rename("a.*", "b.*", layouts=BOTH),
        Rule.rename("c.*", "d.*", layouts=BOTH, when={"missing": "a.weight"}),
        Rule.rearrange("e", "f", "i j -> j i", layouts=BOTH, when={"missing": "a.weight"}),
    ]
    torch = {f"{n}.{leaf}": W if leaf == "weight" else W[:, 0] for n in "ac" for leaf in ("weight", "bias")}
    source = saved(torch, "torch", tmp_path / "t.safetensors")
    convert(source, tmp_path / "n.safetensors", to="neutral", rules=rules)
    flax = {f"{n}.{leaf}": W.T if leaf == "kernel" else W[:, 0] for n in "bc" for leaf in ("kernel", "bias")}
    for more in ({"rules": rules}, {}):
        assert_holds(plan_and_apply(tmp_path / "n.safetensors", to="flax", **more), flax)
    assert_holds(plan_and_apply(source, to="flax", rules=rules), flax)


def test_without_a_template_conditions_on_it_are_taken_to_hold(heads, tmp_path):
    torch, flax = FORMS["own"]
    back = saved(flax, "flax", tmp_path / "f.safetensors")
    assert_holds(plan_and_apply(back, to="torch", rules=heads), torch)


def test_one_of_two_shapes_of_a_layer_by_what_exists(tmp_path):
    rules = [
        Rule.rename("wi_0.*", "gate.*", layouts=BACK, when={"exists": "wi_0.kernel"}),
        Rule.rename("wi.*", "up.*", layouts=BACK, when={"missing": "wi_{i:int}.*"}),
    ]
    for name, new in (("wi_0", "gate"), ("wi", "up")):
        source = saved({f"{name}.kernel": W}, "flax", tmp_path / f"{name}.safetensors")
        made = {f"{new}.weight": W.T}
        assert_holds(plan_and_apply(source, to="torch", rules=rules), made)
        back = saved(made, "torch", tmp_path / f"{new}.safetensors")
        like = abstract({f"{name}.kernel": W}, "flax")
        assert_holds(plan_and_apply(back, to="flax", rules=rules, like=like), {f"{name}.kernel": W})


def test_conditions_are_recorded_and_shown(heads, tmp_path):
    rules = (
        *load_rules(heads),
        Rule.rearrange("w", "v", "f d -> d f", when={"sizes": ["f > d", "d != 2"], "missing": "x.**"}),
    )
    for rule in rules:
        for one in (rule, rule.reversed()):
            assert read_recorded(recorded(one, "torch")) == one
    assert str(rules[-1].when) == "f > d and d != 2 and 'x.**' is missing"
    torch = saved(FORMS["tied"][0], "torch", tmp_path / "t.safetensors")
    result = CliRunner().invoke(main, ["rules", "check", str(heads), "--source", str(torch)])
    assert result.exit_code == 0, result.output
    assert "when 'head.*' exists" in result.output
    assert "3 rules are well formed" in result.output


def test_a_check_counts_what_a_stage_and_a_mark_mean(tmp_path):
    path = tmp_path / "rules.toml"
    path.write_text(
        'source = "torch"\ntarget = "flax"\n'
        '[[rule]]\nsource = "m.**"\nrename = "**"\n'
        '[[rule]]\nsource = "ln.*"\nrename = "norm.*"\nstage = 1\n'
        '[[rule]]\nsource = ["{e|embed}.weight", "head.weight?"]\ntarget = "t.embedding"\n'
        'rearrange = "v d, v d -> v d"\n'
    )
    torch = {"m.ln.weight": W[0], "m.ln.bias": W[0], "embed.weight": W}
    source = saved(torch, "torch", tmp_path / "t.safetensors")
    flax = {"norm.scale": W[0], "norm.bias": W[0], "t.embedding": W}
    like = saved(flax, "flax", tmp_path / "f.safetensors")
    for more in ([], ["--like", str(like)]):
        result = CliRunner().invoke(main, ["rules", "check", str(path), "--source", str(source), *more])
        assert result.exit_code == 0, result.output
        assert "stage 1, source 2" in result.output
        assert "source 1 + 0" in result.output
    back = CliRunner().invoke(
        main, ["rules", "check", str(path), "--source", str(like), "--like", str(source)]
    )
    assert back.exit_code == 0, back.output


ROWS = """
source = "torch"
target = "flax"

[tables.last]
1 = { when = { missing = "b.1.*", target.missing = "B_2.*" } }
2 = { when.exists = "b.1.*" }

[[rule]]
source = "b.{i:int}.weight"
target = "B_{n:int}.kernel"
rearrange = "o i -> i o"
where = "n = i + 1"
when = { target = { exists = "B_{last}.*" } }
"""


def test_conditions_of_a_row_are_joined_to_those_of_the_rule(tmp_path):
    path = tmp_path / "r.toml"
    path.write_text(ROWS)
    first, second = load_rules(path)
    assert list(map(str, first.when.others_exist)) == ["B_1.*"]
    assert list(map(str, first.when.others_missing)) == ["B_2.*"]
    assert list(map(str, second.when.exists)) == ["b.1.*"]
    assert not second.when.missing


def test_a_condition_in_the_rule_and_in_a_row_is_refused(tmp_path):
    path = tmp_path / "r.toml"
    row = '{ when = { rank = 2, missing = "b.1.*", target.missing = "B_2.*" } }'
    text = ROWS.replace('{ when = { missing = "b.1.*", target.missing = "B_2.*" } }', row)
    path.write_text(text.replace("when = { target =", "when = { rank = 2, target ="))
    with refused(RuleError, "when.rank"):
        load_rules(path)


@pytest.mark.parametrize("wrong", [1, "B_1.*", {"rank": 2}])
def test_what_is_no_condition_on_the_target_is_refused(wrong):
    with refused(RuleError, "when.target"):
        Rule.rename("a", "b", when={"target": wrong})
