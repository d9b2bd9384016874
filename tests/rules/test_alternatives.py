"""Patterns with alternatives, and patterns of tensors that may be absent."""

from __future__ import annotations

import dataclasses
import random

import numpy as np
import pytest
from support.arrays import random_array
from support.errors import refused
from support.rule_files import abstract, assert_holds, plan_and_apply, saved

from bridge_core import FlatState, PlanError, Rule, RuleError, UsageError, convert, load_rules, save_state
from bridge_core.rules import Pattern, overlapping
from bridge_core.rules.permissions import Permissions
from bridge_core.rules.records import identity_of_record, identity_of_rule, read_recorded, recorded

BOTH = ("torch", "flax")


def key(text):
    return tuple(text.split("."))


def options(text):
    return [str(Pattern(option.segments)) for option in Pattern.parse(text).options]


# -- texts ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "texts"),
    [
        ("{model|}.norm", ["model.norm", "norm"]),
        ("{model|model.text|}.norm.*", ["model.norm.*", "model.text.norm.*", "norm.*"]),
        ("{Basic|Bottleneck}_{n:int}.w", ["Basic_{n:int}.w", "Bottleneck_{n:int}.w"]),
        ("mlp.gating.{|w}", ["mlp.gating", "mlp.gating.w"]),
        ("{model.|}norm", ["model.norm", "norm"]),
        ("{a|b}.{c|}.x", ["a.c.x", "a.x", "b.c.x", "b.x"]),
        ("x{.a|}", ["x.a", "x"]),
        ("{a|a}.x", ["a.x"]),
        ("plain.{i:int}", ["plain.{i:int}"]),
    ],
)
def test_a_pattern_stands_for_one_of_several(text, texts):
    assert options(text) == texts
    assert str(Pattern.parse(text)) == text
    assert Pattern.parse(str(Pattern.parse(text))) == Pattern.parse(text)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("{a|*}.x", "{a|*}"),
        ("{a|{b}}.x", "{a|{b}}"),
        ("{a|", "{a|"),
        ("{a|}", "{a|}"),
        ("{a|}.{|b}", "{a|}.{|b}"),
        ("{i:int}{a|}{j:int}", "{i:int}{j:int}"),
        ("{a|b}" * 7, "128"),
        ("{" + "|" * 20_000 + "}.x", "20001"),
        ("{a|b}.{x}.{x}", "{x}"),
    ],
)
def test_alternatives_that_are_not_plain_are_refused(text, named):
    with refused(RuleError, named):
        Pattern.parse(text)


def test_what_is_never_closed_is_read_in_linear_time():
    with refused(RuleError, hint="alternatives"):
        Pattern.parse("{" + "|" * 90_000)


def test_a_pattern_with_alternatives_is_like_any_other():
    pattern = Pattern.parse("{enc|dec.x}.layers_{i}.*")
    assert pattern.match(key("dec.x.layers_3.w")) == {"i": "3", "*0": "w"}
    assert pattern.match(key("x.layers_3.w")) is None
    assert pattern.fill({"i": "3", "*0": "w"}) == key("enc.layers_3.w")
    assert pattern.captures == ("i", "*0")
    assert not pattern.is_literal
    assert not Pattern.parse("{a|b}.x").is_literal
    assert pattern.with_numbers(["i"]) == Pattern.parse("{enc|dec.x}.layers_{i:int}.*")
    assert pattern.shape == Pattern.parse("{enc|dec.x}.layers_{j}.*").shape
    assert pattern.shape != Pattern.parse("{enc|dec}.layers_{j}.*").shape
    assert Pattern.parse("{a|}.**").match(()) == {"**": ""}
    chosen = pattern.options[1]
    assert str(chosen) == str(pattern)
    assert chosen.as_written == pattern
    assert not chosen.is_open
    assert chosen.match(key("enc.layers_3.w")) is None
    inner = Pattern.parse("params.{a|b}.x").within("params", frozenset({key("b.x")}))
    assert str(inner) == "params.{a|b}.x"
    assert inner.match(key("a.x")) == {}
    assert inner.match(key("b.x")) is None
    assert [option.collection for option in inner.options] == ["params"] * 2


def test_alternatives_and_slashes():
    split = Pattern.parse("{enc/a|dec}/x").slashed
    assert split is not None
    assert split.match(key("enc.a.x")) == {}
    assert split.match(key("dec.x")) == {}
    assert str(split) == "{enc/a|dec}/x"
    assert Pattern.parse("{a.b|c}.x").slashed is None


@pytest.mark.parametrize("seed", range(40))
def test_any_key_comes_back_from_what_it_was_matched_by(seed):
    draw = random.Random(seed)
    parts = ["a", "b_{i:int}", "{x}", "*", "**", "{c|d.e|}", "{f|}g", "{h.|k}_{n:int}", "l{m|n}"]
    text = ".".join(draw.sample(parts, draw.randint(1, 5)))
    try:
        pattern = Pattern.parse(text)
    except RuleError:
        assert text == "{c|d.e|}"
        return
    assert Pattern.parse(str(pattern)) == pattern
    values = {"i": "3", "n": "07", "x": "any", "*0": "p", "**": draw.choice(["", "q", "q\0r"])}
    for option in pattern.options:
        made = option.fill(values)
        assert pattern.match(made) is not None
        for one in pattern.options:
            found = one.match(made)
            assert found is None or one.fill(found) == made
        captured = option.match(made)
        assert captured == {name: values[name] for name in pattern.captures}


def test_overlaps_are_seen_in_alternatives():
    def rename(source):
        return Rule.rename(source, source.replace("x", "y"))

    assert overlapping([rename("{m|}.x.*"), rename("{m|}.x.*")])
    assert overlapping([rename("{m|}.x.w"), rename("{m|}.x.*")])
    assert not overlapping([rename("{m|}.x.w"), rename("{m|}.z.*")])
    assert not overlapping([rename("m.x.*"), dataclasses.replace(rename("m.x.*"), stage=1)])
    with refused(RuleError, "{a|b}.x", "b.x"):
        Rule.rearrange(["{a|b}.x", "b.x"], "y", "i, i -> i")


# -- a prefix that is there or not ------------------------------------------------------------------

PLAIN = {
    "layers.0.fc.weight": random_array((5, 4), "float32"),
    "layers.1.fc.weight": random_array((5, 4), "float32", seed=1),
    "norm.weight": random_array((4,), "float32", seed=2),
    "norm.bias": random_array((4,), "float32", seed=3),
}
FLAX = {
    "blocks.fc.kernel": np.stack([PLAIN[f"layers.{i}.fc.weight"].T for i in range(2)]),
    "ln.scale": PLAIN["norm.weight"],
    "ln.bias": PLAIN["norm.bias"],
}
PREFIX = """\
source = "torch"
target = "flax"
[[rule]]
source = "{model|model.text|}.layers.{i:int}.fc.weight"
target = "blocks.fc.kernel"
rearrange = "out in -> i in out"
[[rule]]
source = "{model|model.text|}.norm.*"
rename = "ln.*"
[[rule]]
source = "{model|model.text|}.norm"
layer = "norm"
"""


@pytest.fixture
def prefix_rules(tmp_path):
    path = tmp_path / "rules.toml"
    path.write_text(PREFIX)
    return path


@pytest.mark.parametrize("prefix", ["model.", "model.text.", ""])
@pytest.mark.parametrize("through", ["one step", "neutral"])
def test_names_with_any_prefix_go_both_ways(prefix, through, prefix_rules, tmp_path):
    torch = {f"{prefix}{name}": array for name, array in PLAIN.items()}
    source = saved(torch, "torch", tmp_path / "t.safetensors")
    flax, back = tmp_path / "f.safetensors", tmp_path / "b.safetensors"
    options = {"rules": prefix_rules}
    if through == "neutral":
        neutral = tmp_path / "n.safetensors"
        convert(source, neutral, to="neutral", rules=prefix_rules)
        source, options = neutral, {}
    convert(source, flax, to="flax", like=abstract(FLAX, "flax"), **options)
    assert_holds(flax, FLAX)
    convert(flax, back, to="torch", like=abstract(torch, "torch"), rules=prefix_rules)
    assert_holds(back, torch)


def test_without_a_template_the_first_prefix_is_written(prefix_rules, tmp_path):
    flax = saved(FLAX, "flax", tmp_path / "f.safetensors")
    made = plan_and_apply(flax, to="torch", rules=prefix_rules)
    assert_holds(made, {f"model.{name}": array for name, array in PLAIN.items()})


def test_a_suffix_that_is_there_or_not(tmp_path):
    rule = Rule.rearrange("q.kernel{.value|}", "q.weight", "in out -> out in", layouts=("flax", "torch"))
    torch = {"q.weight": random_array((3, 4), "float32")}
    for suffix in ("", ".value"):
        flax = {f"q.kernel{suffix}": torch["q.weight"].T}
        source = saved(flax, "flax", tmp_path / f"f{suffix}.safetensors")
        assert_holds(plan_and_apply(source, to="torch", rules=[rule]), torch)
        target = saved(torch, "torch", tmp_path / f"t{suffix}.safetensors")
        assert_holds(plan_and_apply(target, to="flax", rules=[rule], like=abstract(flax, "flax")), flax)


def test_a_pattern_begins_with_one_of_several_collections_or_none(tmp_path):
    flax = {"params.fc.kernel": random_array((4, 5), "float32"), "params.fc.bias": np.zeros(5, "float32")}
    torch = {"head.weight": flax["params.fc.kernel"].T, "head.bias": flax["params.fc.bias"]}
    rule = Rule.rename("{params|}.fc.*", "head.*", layouts=("flax", "torch"))
    source = saved(flax, "flax", tmp_path / "f.safetensors")
    assert_holds(plan_and_apply(source, to="torch", rules=[rule]), torch)
    back = saved(torch, "torch", tmp_path / "t.safetensors")
    assert_holds(plan_and_apply(back, to="flax", rules=[rule], like=abstract(flax, "flax")), flax)


def test_records_keep_the_alternatives(prefix_rules):
    for rule in load_rules(prefix_rules):
        record = recorded(rule, "torch")
        assert identity_of_record(record) == identity_of_rule(rule)
        assert read_recorded(record) == rule
        assert read_recorded(recorded(rule.reversed(), "flax")) == rule.reversed()


# -- tensors that may be absent ---------------------------------------------------------------------

EMBEDDING = random_array((6, 4), "float32", seed=5)
TIED = Rule.rearrange(
    ["model.embed.weight", "lm_head.weight?"], "embedder.table", "v d, v d -> v d", layouts=BOTH
)
EITHER = Rule.rearrange(
    ["model.embed.weight?", "lm_head.weight?"], "embedder.table", "v d, v d -> v d", layouts=BOTH
)
TABLE = {"embedder.table": EMBEDDING}


@pytest.mark.parametrize(
    ("rule", "names"),
    [
        (TIED, ["model.embed.weight"]),
        (TIED, ["model.embed.weight", "lm_head.weight"]),
        (EITHER, ["model.embed.weight"]),
        (EITHER, ["lm_head.weight"]),
        (EITHER, ["model.embed.weight", "lm_head.weight"]),
    ],
)
@pytest.mark.parametrize("through", ["one step", "neutral"])
def test_a_tied_head_is_stored_or_not(rule, names, through, tmp_path):
    torch = dict.fromkeys(names, EMBEDDING)
    source, flax = saved(torch, "torch", tmp_path / "t.safetensors"), tmp_path / "f.safetensors"
    options = {"rules": [rule]}
    if through == "neutral":
        neutral = tmp_path / "n.safetensors"
        convert(source, neutral, to="neutral", rules=[rule])
        source, options = neutral, {}
    convert(source, flax, to="flax", **options)
    assert_holds(flax, TABLE)
    convert(flax, tmp_path / "b.safetensors", to="torch", rules=[rule], like=abstract(torch, "torch"))
    assert_holds(tmp_path / "b.safetensors", torch)
    made = plan_and_apply(flax, to="torch", rules=[rule])
    assert_holds(made, {"model.embed.weight": EMBEDDING})


def test_sizes_that_only_an_absent_tensor_needs_are_left_out(tmp_path):
    rule = Rule.rearrange(
        ["a.weight", "b.weight?"],
        ["a.kernel", "b.kernel?"],
        "(h d) i, (g e) i -> i h d, i g e",
        sizes={"h": "two * 1", "g": "two * 1", "two": 2},
        layouts=BOTH,
    )
    both = {"a.weight": EMBEDDING, "b.weight": EMBEDDING + 1}
    flax = {"a.kernel": EMBEDDING.T.reshape(4, 2, 3), "b.kernel": (EMBEDDING + 1).T.reshape(4, 2, 3)}
    for names in ("a", "ab"):
        torch = {f"{name}.weight": both[f"{name}.weight"] for name in names}
        made = {f"{name}.kernel": flax[f"{name}.kernel"] for name in names}
        source = saved(torch, "torch", tmp_path / f"{names}.safetensors")
        assert_holds(plan_and_apply(source, to="flax", rules=[rule], like=abstract(made, "flax")), made)
        back = saved(made, "flax", tmp_path / f"{names}f.safetensors")
        assert_holds(plan_and_apply(back, to="torch", rules=[rule], like=abstract(torch, "torch")), torch)


def test_two_heads_with_other_values_are_refused(tmp_path):
    torch = {"model.embed.weight": EMBEDDING, "lm_head.weight": EMBEDDING + 1}
    source = saved(torch, "torch", tmp_path / "t.safetensors")
    with refused(PlanError, "embedder.table"):
        convert(source, tmp_path / "f.safetensors", to="flax", rules=[TIED])


def test_a_rule_must_be_complete_without_what_is_absent(tmp_path):
    rule = Rule.rearrange(["q.weight", "k.weight?"], "qk.kernel", "q i, k i -> i (q k)", layouts=BOTH)
    source = saved({"q.weight": EMBEDDING}, "torch", tmp_path / "t.safetensors")
    with refused(RuleError, "k.weight?", "q i -> i (q k)", hint="?"):
        convert(source, tmp_path / "f.safetensors", to="flax", rules=[rule])
    stated = dataclasses.replace(
        rule, sizes=Rule.rearrange("a", "b", "q k -> k q", sizes={"q": 6, "k": 2}).sizes
    )
    with refused(RuleError, "k.weight?", "q i -> i (q k)"):
        convert(source, tmp_path / "f.safetensors", to="flax", rules=[stated])
    alone = Rule.rearrange(["q.weight", "k.weight?"], "q.kernel", "o i, o i -> i o", layouts=BOTH)
    source = saved({"k.weight": EMBEDDING}, "torch", tmp_path / "k.safetensors")
    with refused(RuleError, "q.weight"):
        convert(source, tmp_path / "f.safetensors", to="flax", rules=[alone])


@pytest.mark.parametrize(
    "make",
    [
        lambda: Rule.rename("a.*?", "b.*"),
        lambda: Rule.rename("a.*", "b.*?"),
        lambda: Rule.drop("a?", "no"),
        lambda: Rule.layer("a?", "linear"),
        lambda: Rule.fill("a?", 0, reason="no"),
        lambda: Rule.rearrange("a?", "b", "i j -> j i"),
        lambda: Rule.rearrange(["a?", "b"], ["c", "d"]),
    ],
)
def test_only_one_of_several_may_be_absent(make):
    with refused(RuleError, "'?'", hint="optional = true"):
        make()


def test_patterns_of_permissions_have_no_mark():
    with refused(UsageError, "a?", "allow_missing"):
        Permissions.of(False, allow_missing="a?")


def test_what_may_be_absent_is_recorded():
    for rule in (TIED, EITHER.reversed()):
        assert read_recorded(recorded(rule, "torch")) == rule
    assert dataclasses.replace(TIED, sources=EITHER.sources) != TIED


# -- alternatives with slashes ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", [("embed", "table"), ("net", "embed", "table"), ("net/embed", "table")], ids=".".join
)
def test_an_alternative_that_holds_a_slash_is_read_as_the_names_are(tmp_path, name):
    table = random_array((4, 3), "float32")
    save_state(FlatState({name: table}, layout="flax"), tmp_path / "f.safetensors")
    rule = Rule.rearrange("{|net/}embed.table", "embed.weight", "v d -> v d", layouts=("flax", "torch"))
    convert(tmp_path / "f.safetensors", tmp_path / "t.safetensors", to="torch", rules=[rule])
    assert_holds(tmp_path / "t.safetensors", {"embed.weight": table})
