"""Tables, sizes and affixes at the top of a rule file: what they load as, and what they convert."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from click.testing import CliRunner
from hypothesis import given, settings, strategies as st
from support.arrays import random_array
from support.errors import refused
from support.examples import examples
from support.rule_files import abstract, assert_holds, saved, state_of
from support.schemas import check_document

from bridge_core import Rule, RuleError, UsageError, convert, plan_conversion
from bridge_core.cli import main
from bridge_core.resolve.rule_names import unmatched_labels
from bridge_core.rules import load_rules
from bridge_core.rules.file_head import size_names

BOTH = 'source = "torch"\ntarget = "flax"\n'
NAMES = '[tables]\nx = { q_proj = "query", k_proj = "key" }\n'


@pytest.fixture
def write(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def write(text):
        Path("r.toml").write_text(text)
        return "r.toml"

    return write


def loaded(write, text, **sizes):
    """What a file loads as, without the places in the file."""
    return [said(rule) for rule in load_rules(write(text), sizes=sizes)]


def said(rule):
    sizes = {name: str(size) for name, size in sorted(rule.sizes.items())}
    more = (rule.ops, sizes, rule.when, rule.optional, rule.fallback, rule.layouts, rule.kind, rule.reason)
    return (str(rule), *more)


def problem(write, text):
    """The line of the one rule that is wrong."""
    with pytest.raises(RuleError) as caught:
        load_rules(write(text))
    summary, *lines = caught.value.message.split("\n  ")
    assert summary == "1 rule is wrong:"
    assert len(lines) == 1
    return lines[0]


def run(*args, code=0):
    result = CliRunner().invoke(main, [str(arg) for arg in args])
    assert "Traceback" not in result.output
    assert result.exit_code == code, result.output
    return result


# -- tables -----------------------------------------------------------------------------------------


def test_a_rule_is_loaded_for_each_row(write):
    text = NAMES + '[[rule]]\nsource = "h.{i:int}.{x}.*"\nrename = "b.{i:int}.{x}.*"\n'
    rules = load_rules(write(text))
    pairs = [("h.{i:int}.q_proj.*", "b.{i:int}.query.*"), ("h.{i:int}.k_proj.*", "b.{i:int}.key.*")]
    assert rules == tuple(Rule.rename(*pair, origin="r.toml:3") for pair in pairs)


def test_rows_of_several_tables_are_combined(write):
    text = NAMES + 'leaf = ["weight", "bias"]\n[[rule]]\nsource = "{x}.{leaf}"\ntarget = "{x}_{leaf}"\n'
    assert [str(rule) for rule in load_rules(write(text))] == [
        f"rule '{old}.{leaf}' -> '{new}_{leaf}'"
        for old, new in (("q_proj", "query"), ("k_proj", "key"))
        for leaf in ("weight", "bias")
    ]


def test_a_rule_may_have_tables_of_its_own(write):
    text = NAMES + '[[rule]]\ntables = { x = { a = "b" } }\nsource = "{x}"\nrename = "n.{x}"\n'
    text += '[[rule]]\nsource = "{x}"\nrename = "m.{x}"\n'
    assert [str(rule) for rule in load_rules(write(text))] == [
        "rule 'a' -> 'n.b'",
        "rule 'q_proj' -> 'm.query'",
        "rule 'k_proj' -> 'm.key'",
    ]


@pytest.mark.parametrize(
    ("pattern", "text", "made"),
    [
        ("{x}.norm", "", "norm"),
        ("a.{x}.norm", "", "a.norm"),
        ("a.{x}", "", "a"),
        ("a.{x}?", "", "a?"),
        ("a.{x}?", "b.c", "a.b.c?"),
        ("a{x}.norm", "", "a.norm"),
        ("a{x}b.norm", ".", None),
        ("a.{x}.norm", "b.c", "a.b.c.norm"),
        ("a/{x}/norm", "", "a/norm"),
        ("{x}/norm", "b", "b/norm"),
        ("{x}", "", None),
        ("{x}.{i:int}.{a|b}", "h", "h.{i:int}.{a|b}"),
    ],
)
def test_a_part_that_becomes_empty_is_left_out(write, pattern, text, made):
    sources = json.dumps([pattern, "z.{x}z"])
    targets = json.dumps([pattern.replace("a", "t") + "t" * (pattern == "{x}"), "y.{x}y"])
    file = f"[tables]\nx = [{json.dumps(text)}]\n[[rule]]\nsource = {sources}\ntarget = {targets}\n"
    if "?" in pattern:
        file += 'rearrange = "a, a -> a, a"\n'
    if made is None:
        with refused(RuleError, "r.toml"):
            load_rules(write(file))
    else:
        assert str(load_rules(write(file))[0].sources[0]) == made


def test_an_empty_text_is_named_in_errors(write):
    text = '[tables]\nx = { "" = "b" }\n[[rule]]\nsource = "{x}"\nrename = "{x}"\n'
    assert problem(write, text).startswith("r.toml:3: x = '': the pattern '{x}' is empty")


def test_a_list_that_one_side_uses_gives_alternatives(write):
    text = '[tables]\nM = ["model", "model.language_model", ""]\n'
    text += '[[rule]]\nsource = "{M}.norm"\ntarget = "norm"\n'
    (rule,) = load_rules(write(text))
    assert str(rule.sources[0]) == "{model|model.language_model|}.norm"
    one = text.replace('["model", "model.language_model", ""]', '["model"]')
    assert str(load_rules(write(one))[0].sources[0]) == "model.norm"


def test_rules_of_one_side_take_its_texts(write):
    text = NAMES + '[[rule]]\nsource = "{x}.mask"\ndrop = "r"\n[[rule]]\ntarget = "{x}.one"\nfill = 1\n'
    text += 'reason = "r"\n[[rule]]\nsource = "m.{x}"\nlayer = "linear"\n'
    patterns = [str((rule.sources or rule.targets)[0]) for rule in load_rules(write(text))]
    assert patterns == ["q_proj.mask", "k_proj.mask", "query.one", "key.one", "m.q_proj", "m.k_proj"]


def test_conditions_on_names_are_of_the_row(write):
    text = (
        NAMES
        + '[[rule]]\nsource = "{x}.a"\ntarget = "{x}.b"\nwhen = { exists = "{x}.c", missing = ["{x}.d"] }\n'
    )
    for rule, name in zip(load_rules(write(text)), ("q_proj", "k_proj"), strict=True):
        assert [str(p) for p in (*rule.when.exists, *rule.when.missing)] == [f"{name}.c", f"{name}.d"]


@pytest.mark.parametrize(
    ("table", "rule", "named"),
    [
        ('{ a = "b", c = "b" }', "", ("r.toml: line 2: tables.x", "'a' = 'b' (row 1)", "'c' = 'b' (row 2)")),
        ('["a", "b", "a"]', "", ("r.toml: line 2: tables.x", "(row 1)", "(row 3)")),
        ("3", "", ("r.toml: line 2: tables.x", "got 3")),
        ("{}", "", ("r.toml: line 2: tables.x", "got {}")),
        ("{ a = 3 }", "", ("r.toml: line 2: tables.x", "row 'a'", "got 3")),
        ('{ a = { name = "b", heads = 1.5 } }', "", ("r.toml: line 2: tables.x", "row 'a'", "heads", "1.5")),
        ('{ a = { name = "b", heads = 8 } }', "", ("r.toml: line 2: tables.x", "'heads'", "no rule uses")),
        ('{ "a{i}" = "b" }', "", ("r.toml: line 2: tables.x", "'a{i}'")),
        ('{ "a." = "b" }', "", ("r.toml: line 2: tables.x", "'a.'")),
        ('{ "a" = "b*" }', "", ("r.toml: line 2: tables.x", "'b*'")),
        ('{ a = "b" }', 'source = "{y}"\nrename = "{y}.c"', ("r.toml: line 2: tables.x", "no rule uses")),
        ('{ a = "b" }', 'source = "{x:int}"\nrename = "{x}"', ("r.toml:3:", "{x:int}", "table")),
        ('{ a = "b" }', 'source = "{x}"\nrename = "c"', ("r.toml:3:", "sources use", "'x'", "both sides")),
        ('{ a = "b" }', 'source = "c"\nrename = "{x}"', ("r.toml:3:", "targets use", "'x'", "both sides")),
        (
            '{ a = "b" }',
            'source = "{x}"\nrename = "{x}.c"\ntables = { y = ["b"] }',
            ("r.toml:3:", "tables.y", "does not use"),
        ),
    ],
)
def test_what_is_wrong_with_a_table(write, table, rule, named):
    rule = rule or 'source = "{x}"\nrename = "{x}.new"'
    with refused(RuleError, *named):
        load_rules(write(f"[tables]\nx = {table}\n[[rule]]\n{rule}\n"))


def test_an_unused_table_has_a_hint_to_the_nearest_field(write):
    text = '[tables]\nproj = { a = "b" }\n[[rule]]\nsource = "{porj}.c"\nrename = "{porj}.d"\n'
    with refused(RuleError, "line 2", "tables.proj", hint="'porj'"):
        load_rules(write(text))


def test_a_wrong_row_is_named_and_a_rule_is_one_line(write):
    text = NAMES + 'y = { a = "q_proj" }\n[[rule]]\nsource = "{x}.a"\nrename = "{x}.*"\n'
    text += '[[rule]]\nsource = "{y}.b"\nrename = "{y}.c"\n[[rule]]\nsorce = "x"\n'
    with pytest.raises(RuleError) as caught:
        load_rules(write(text))
    summary, *lines = caught.value.message.split("\n  ")
    assert summary == "2 rules are wrong:"
    assert lines[0].startswith("r.toml:4: x = q_proj: rule 'q_proj.a' -> 'query.*'")
    assert lines[1].startswith("r.toml:10: ")


def test_rows_that_meet_are_refused(write):
    text = '[tables]\nx = ["a", "ab"]\ny = ["bc", "c"]\n[[rule]]\nsource = "{x}{y}"\ntarget = "{x}_{y}"\n'
    assert "'abc'" in problem(write, text)


# -- sizes ------------------------------------------------------------------------------------------

HEADS = '[[rule]]\nsource = "q"\ntarget = "k"\nrearrange = "(heads d) in -> in heads d"\n'


@pytest.mark.parametrize(
    ("sizes", "rule", "wanted"),
    [
        ("heads = 8", "", {"heads": "8"}),
        ("heads = 8", "sizes = { heads = 4 }", {"heads": "4"}),
        ("heads = 'config.n'", "sizes = { d = 4 }", {"heads": "config.n", "d": "4"}),
        ("heads = 'in_ // d'\nd = 4\nin_ = 32", "", {"heads": "in_ // d", "d": "4", "in_": "32"}),
        ("heads = '?'", "", {}),
        ("heads = '?'\nd = '32 // heads'", "", {"heads": "?", "d": "32 // heads"}),
        ("heads = '?'", "sizes = { d = '32 // heads' }", {"heads": "?", "d": "32 // heads"}),
    ],
)
def test_sizes_of_the_file_are_those_of_rules_that_use_them(write, sizes, rule, wanted):
    rules = load_rules(write(f"[sizes]\n{sizes}\n{HEADS}{rule}\n[[rule]]\nsource = 'a'\nrename = 'b'\n"))
    assert [{name: str(size) for name, size in rule.sizes.items()} for rule in rules] == [wanted, {}]


def test_a_size_of_the_rule_comes_before_that_of_the_row_and_that_before_the_file(write):
    text = "[tables.x]\na = { name = 'b', heads = 2, d = 2 }\n[sizes]\nheads = 3\nd = 3\nin = 3\n"
    text += HEADS.replace('"q"', '"{x}.q"').replace('"k"', '"{x}.k"') + "sizes = { heads = 1 }\n"
    (rule,) = load_rules(write(text))
    assert {name: str(size) for name, size in rule.sizes.items()} == {"heads": "1", "d": "2", "in": "3"}


@pytest.mark.parametrize(
    ("table", "axes", "needed"),
    [
        ({"rearrange": "(a b) c -> c (a b)"}, "abc", ""),
        ({"rearrange": ["pad(v, n, m)", "a b -> b a", "cast(float32, int8)"]}, "ab", "nm"),
        ({"rearrange": "scale(sqrt(h) * 2 / k, rounding)"}, "", "hk"),
        ({"rearrange": "kv d -> (kv r) d"}, ["kv", "r", "d"], "r"),
        ({"source": "{i:int}", "rearrange": "o -> i o"}, "io", ""),
        ({"where": ["i < N", "n = starts[s] + b"]}, "", ["i", "N", "n", "starts", "s", "b"]),
        ({"when": {"sizes": "f > config.d"}}, "", ["f", "config.d"]),
        ({"where": "config.types[i] == 'full_attention'"}, "", ["config.types", "i"]),
        ({"sizes": {"h": "a + 1", "k": 3}}, "", "a"),
        ({"rearrange": 3, "where": {}, "when": [], "sizes": "x"}, "", ""),
    ],
)
def test_the_names_that_a_rule_uses(table, axes, needed):
    found = size_names(table)
    assert found[0] == set(axes)
    assert set(needed) <= found[1] <= {*needed, "v", "sqrt"}


def test_a_size_is_set_from_outside(write):
    path = write(f"[sizes]\nheads = '?'\nd = 4\n{HEADS}")
    for value, wanted in ((8, "8"), ("8", "8"), ("config.n", "config.n")):
        (rule,) = load_rules(path, sizes={"heads": value})
        assert {name: str(size) for name, size in rule.sizes.items()} == {"heads": wanted, "d": "4"}
    depths = write("[sizes]\ndepths = '?'\nheads = 'depths[1]'\n" + HEADS)
    for value in ([3, 4, 6, 3], "3,4,6,3"):
        (rule,) = load_rules(depths, sizes={"depths": value})
        assert str(rule.sizes["depths"]) == "[3, 4, 6, 3]"


@pytest.mark.parametrize(
    ("head", "sizes", "named", "hint"),
    [
        ("[sizes]\nheads = 8\n", {"haeds": 8}, ("'haeds'", "[sizes]"), "'heads'"),
        ("", {"heads": 8}, ("'heads'", "[sizes]"), "heads = '?'"),
        ("[sizes]\nheads = 8\n", {"heads": "]"}, ("sizes.heads", "']'"), "--set heads=8"),
        ("[sizes]\nheads = 8\n", {"heads": 1.5}, ("sizes.heads", "1.5"), "--set"),
        ("[sizes]\nheads = 8\n", {"heads": -1}, ("sizes.heads", "-1"), "--set"),
        ("[sizes]\nheads = 8\n", ["heads"], ("sizes=", "heads"), "--set"),
    ],
)
def test_what_cannot_be_set(write, head, sizes, named, hint):
    with refused(UsageError, *named, hint=hint):
        load_rules(write(head + HEADS), sizes=sizes)


@pytest.mark.parametrize(
    ("head", "named"),
    [
        ("sizes = 3", ("line 1: sizes: ", "got 3")),
        ("[sizes]\nheads = []", ("line 2: sizes.heads: ", "[]")),
        ("[sizes]\nd = 1\nhaeds = 8", ("line 3: sizes.haeds: ", "no rule uses")),
        ("[sizes]\nheads = '8 +'", ("line 2: sizes.heads: ", "8 +")),
        ("[tables.x]\na = 'b'\n[sizse]", ("line 3: unknown key 'sizse'",)),
        ("tables = []", ("line 1: tables: ", "got []")),
        ("[prefix]\nsource = 3", ("line 2: prefix.source: ", "got 3")),
        ("[prefix]\nsource = []", ("line 2: prefix.source: ", "got []")),
        ("[prefix]\nsource = ['a', 'a']", ("line 2: prefix.source: ", "'a'")),
        ("[prefix]\nsource = '{i}'", ("line 2: prefix.source: ", "'{i}'")),
        ("[suffix]\nsorce = 'a'", ("line 2: suffix: ", "'sorce'")),
        ("suffix = 'a'", ("line 1: suffix: ", "'a'")),
        ("source = ['a', 'b']", ("line 1: source: ", "['a', 'b']")),
    ],
)
def test_what_is_wrong_at_the_top(write, head, named):
    with refused(RuleError, "r.toml: ", *named):
        load_rules(write(f"{head}\n{HEADS}"))


def test_a_size_without_a_value_is_asked_for_where_an_expression_needs_it(tmp_path, write):
    path = write(BOTH + "[sizes]\nheads = '?'\nd = '8 // heads'\n" + HEADS)
    array = random_array((8, 5), "float32")
    source = saved({"q": array}, "torch", tmp_path / "s.safetensors")
    with refused(RuleError, "r.toml", "heads", hint="--set"):
        convert(source, tmp_path / "t.safetensors", to="flax", rules=path)
    convert(source, tmp_path / "t.safetensors", to="flax", rules=load_rules(path, sizes={"heads": 2}))
    assert_holds(tmp_path / "t.safetensors", {"k": array.reshape(2, 4, 5).transpose(2, 0, 1)})


# -- affixes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("head", "body", "rule", "last"),
    [
        ("[prefix]\nsource = 'm'", "rename = 'b.*'", "'m.a.*' -> 'b.*'", "'m.**' -> '**'"),
        ("[prefix]\nsource = ['m', '']", "rename = 'b.*'", "'{m|}.a.*' -> 'b.*'", "'{m|}.**' -> '**'"),
        ("[suffix]\ntarget = 'v.w'", "rename = 'b.*'", "'a.*' -> 'b.*.v.w'", "'**' -> '**.v.w'"),
        (
            "prefix = { source = 'm', target = 'p' }\n[suffix]\nsource = 's'",
            "rename = 'b.*'",
            "'m.a.*.s' -> 'p.b.*'",
            "'m.**.s' -> 'p.**'",
        ),
        (
            "[prefix]\nsource = 'm'\n[suffix]\nsource = 'v'",
            "layer = 'linear'",
            "'m.a.*': layer linear",
            "'m.**.v' -> '**'",
        ),
        ("[prefix]\nsource = 'm'", "drop = 'r'", "'m.a.*': drop (r)", "'m.**' -> '**'"),
    ],
)
def test_affixes_are_put_around_every_pattern(write, head, body, rule, last):
    rules = load_rules(write(f"{head}\n[[rule]]\nsource = 'a.*'\n{body}\n"))
    assert [str(r) for r in rules] == [f"rule {rule}", f"rule {last}"]
    assert (rules[1].fallback, rules[1].optional, rules[1].origin) == (True, True, "r.toml:1")
    assert not rules[0].fallback


def test_a_suffix_stands_before_the_mark_of_what_may_be_absent(write):
    text = "[suffix]\nsource = 'v'\n[[rule]]\nsource = ['a', 'b?']\ntarget = 'c'\nrearrange = 'x, x -> x'\n"
    assert [str(p) for p in load_rules(write(text))[0].sources] == ["a.v", "b.v?"]


def test_prefixed_names_that_no_rule_matches_lose_their_prefix_too(tmp_path, write):
    path = write(BOTH + "[prefix]\nsource = ['model', '']\n[[rule]]\nsource = 'fc.*'\nrename = 'dense.*'\n")
    arrays = {
        n: random_array(s, "float32")
        for n, s in (
            ("fc.weight", (4, 6)),
            ("fc.bias", (4,)),
            ("norm.weight", (4,)),
            ("norm.bias", (4,)),
        )
    }
    wanted = {
        "dense.kernel": arrays["fc.weight"].T,
        "dense.bias": arrays["fc.bias"],
        "norm.scale": arrays["norm.weight"],
        "norm.bias": arrays["norm.bias"],
    }
    for prefix in ("model.", ""):
        named = {prefix + name: array for name, array in arrays.items()}
        source = saved(named, "torch", tmp_path / f"s{prefix}safetensors")
        convert(source, tmp_path / f"t{prefix}safetensors", to="flax", rules=path, layout="torch")
        assert_holds(tmp_path / f"t{prefix}safetensors", wanted)
        state = state_of(wanted, "flax")
        plan = plan_conversion(state, to="torch", rules=path, like=abstract(named, "torch"))
        assert_holds(plan.apply(state), named)


# -- what real models need ---------------------------------------------------------------------------


def there_and_back(tmp_path, path, source, target, **options):
    """Convert torch's tensors and compare them with Flax's; convert these and compare them with torch's."""
    first = saved(source, "torch", tmp_path / "first.safetensors")
    convert(first, tmp_path / "there.safetensors", to="flax", rules=path, layout="torch", **options)
    assert_holds(tmp_path / "there.safetensors", target)
    convert(
        tmp_path / "there.safetensors", tmp_path / "back.safetensors", to="torch", rules=path, layout="flax"
    )
    assert_holds(tmp_path / "back.safetensors", source)


def test_names_of_attention_differ_on_both_sides(tmp_path, write):
    text = """
[tables]
x = { q_proj = "query", k_proj = "key", v_proj = "value" }
[[rule]]
source = "layers.{i:int}.{x}.weight"
target = "layers.{x}.kernel"
rearrange = "(h d) in -> i in h d"
sizes = { h = 2 }
"""
    arrays = {(i, x): random_array((6, 4), "float32", i) for i in range(3) for x in "qkv"}
    source = {f"layers.{i}.{x}_proj.weight": array for (i, x), array in arrays.items()}
    target = {
        f"layers.{new}.kernel": np.stack(
            [arrays[i, new[0]].reshape(2, 3, 4).transpose(2, 0, 1) for i in range(3)]
        )
        for new in ("query", "key", "value")
    }
    there_and_back(tmp_path, write(BOTH + text), source, target)


def test_one_block_of_rules_serves_two_experts_of_other_names_and_sizes(tmp_path, write):
    text = """
[tables.expert]
"paligemma.model.language_model" = { name = "", heads = 4 }
"gemma_expert.model" = { name = "_1", heads = 2 }
[[rule]]
source = "{expert}.layers.{i:int}.q_proj.weight"
target = "llm.layers.attn.q_einsum{expert}.w"
rearrange = "(heads d) in -> i heads in d"
[[rule]]
source = "{expert}.norm.weight"
target = "llm.final_norm{expert}.scale"
"""
    source, target = {}, {}
    for prefix, end, heads, width in (
        ("paligemma.model.language_model", "", 4, 6),
        ("gemma_expert.model", "_1", 2, 3),
    ):
        layers = [random_array((8, width), "float32", i) for i in range(2)]
        source |= {f"{prefix}.layers.{i}.q_proj.weight": array for i, array in enumerate(layers)}
        stacked = [array.reshape(heads, 8 // heads, width).transpose(0, 2, 1) for array in layers]
        target[f"llm.layers.attn.q_einsum{end}.w"] = np.stack(stacked)
        source[f"{prefix}.norm.weight"] = random_array((width,), "float32")
        target[f"llm.final_norm{end}.scale"] = source[f"{prefix}.norm.weight"]
    there_and_back(tmp_path, write(BOTH + text), source, target)


def test_two_towers_have_sizes_of_their_own_from_the_config(tmp_path, write):
    text = """
[tables.tower]
"vision_model.encoder" = { name = "img.Transformer", heads = "config.vision_config.num_attention_heads" }
"text_model.encoder" = { name = "txt.Encoder_0", heads = 1 }
[[rule]]
source = "{tower}.layers.{i:int}.q.weight"
target = "{tower}.q_{i:int}.kernel"
rearrange = "(heads d) in -> in heads d"
"""
    array = random_array((8, 5), "float32")
    source = {"vision_model.encoder.layers.0.q.weight": array, "text_model.encoder.layers.0.q.weight": array}
    target = {"img.Transformer.q_0.kernel": array.reshape(2, 4, 5).transpose(2, 0, 1)}
    target |= {"txt.Encoder_0.q_0.kernel": array.reshape(1, 8, 5).transpose(2, 0, 1)}
    (tmp_path / "config.json").write_text(json.dumps({"vision_config": {"num_attention_heads": 2}}))
    there_and_back(tmp_path, write(BOTH + text), source, target)


def test_sizes_are_stated_where_there_is_no_config(tmp_path, write):
    path = write(
        BOTH + "[sizes]\nheads = '?'\n" + HEADS.replace('"q"', '"q.{i:int}"').replace("-> in", "-> i in")
    )
    array = random_array((8, 5), "float32")
    source = saved({"q.0": array}, "torch", tmp_path / "s.safetensors")
    command = (
        "convert",
        source,
        tmp_path / "t.safetensors",
        "--to",
        "flax",
        "--layout",
        "torch",
        "--rules",
        path,
    )
    run(*command, code=1)
    run(*command, "--set", "heads=2")
    assert_holds(tmp_path / "t.safetensors", {"k": array.reshape(2, 4, 5).transpose(2, 0, 1)[None]})


# -- groups -----------------------------------------------------------------------------------------

OPEN = BOTH + NAMES + '[[rule]]\nsource = "{x}.{leaf}"\ntarget = "{x}.{leaf}.w"\n'


def test_a_rule_is_unmatched_only_if_no_row_matches():
    rules = [Rule.rename("a", "b", origin=origin) for origin in ("r:1", "r:1", "r:2", "r:2", "", "")]
    matched = [False, True, False, False, True, False]
    assert unmatched_labels(zip(rules, matched, strict=True)) == ("r:2: 'a' -> 'b'", "'a' -> 'b'")


@pytest.mark.parametrize("body", ['target = "{x}.w"', 'rename = "{x}.w.*"', 'drop = "r"', 'layer = "linear"'])
def test_rows_of_a_rule_may_match_nothing(tmp_path, write, body):
    ending = {"target": ".a", "rename": ".*", "drop": ".*", "layer": ""}[body.split()[0]]
    text = f'{BOTH}{NAMES}[[rule]]\nsource = "{{x}}{ending}"\n{body}\n'
    found = {"k_proj.weight": np.zeros((2, 3), "f4"), "k_proj.bias": np.zeros(2, "f4")}
    found = state_of({"k_proj.a": np.zeros(2, "f4")} if "target" in body else found, "torch")
    plan_conversion(found, to="flax", rules=write(text))
    none = state_of({"v_proj.weight": np.zeros((2, 3), "f4")}, "torch")
    with refused(RuleError, "1 rule matched no key", "r.toml:5: 'q_proj") as caught:
        plan_conversion(none, to="flax", rules=write(text))
    assert "'k_proj" not in str(caught.value)


def test_rows_of_a_filled_target_may_match_nothing(write):
    path = write(f'{BOTH}{NAMES}[[rule]]\ntarget = "{{x}}.s"\nfill = 1\nreason = "r"\n')
    source = state_of({"fc.weight": np.zeros((2, 3), "f4")}, "torch")
    like = {"fc.kernel": np.zeros((3, 2), "f4")}
    plan_conversion(
        source, to="flax", rules=path, like=abstract({**like, "key.s": np.zeros(2, "f4")}, "flax")
    )
    with refused(RuleError, "1 rule", "r.toml:5"):
        plan_conversion(source, to="flax", rules=path, like=abstract(like, "flax"))


# -- the command ------------------------------------------------------------------------------------

TWO = """\
source = "torch"
target = "flax"
[tables.x]
q_proj = { name = "query", h = 2 }
k_proj = { name = "key", h = "config.h" }
v_proj = { name = "value", h = 2 }
[sizes]
d = "?"
[[rule]]
source = "l.{i:int}.{x}.weight"
target = "l.{x}.kernel"
rearrange = "(h d) in -> i in h d"
[[rule]]
source = "**.mask"
drop = "made by the model"
fallback = true
optional = true
"""


@pytest.fixture
def weights(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arrays = {f"l.{i}.{x}_proj.weight": np.zeros((4, 3), "f4") for i in range(2) for x in "qk"}
    safetensors.numpy.save_file(arrays, "torch.safetensors", metadata={"format": "pt"})
    made = {f"l.{x}.kernel": np.zeros((2, 3, 2, 2), "f4") for x in ("query", "key")}
    saved(made, "flax", tmp_path / "flax.safetensors")
    Path("config.json").write_text('{"h": 2}')


def test_check_shows_one_line_for_each_rule_of_the_file(write, weights):
    lines = run("rules", "check", write(TWO)).stdout.splitlines()
    assert lines == [
        "r.toml:9: rule 'l.{i:int}.{x}.weight' -> 'l.{x}.kernel'; (h d) in -> i in h d; "
        "sizes h = 2 | config.h  (x = 3 rows)",
        "r.toml:13: rule '**.mask': drop (made by the model)  (fallback, optional)",
        "2 rules are well formed",
    ]


def test_check_sums_what_the_rows_match(write, weights):
    files = ("--source", "torch.safetensors", "--like", "flax.safetensors")
    lines = run("rules", "check", write(TWO), *files).stdout.splitlines()
    assert lines[0].endswith("  (x = 3 rows; source 4, target 2)")
    document = json.loads(run("rules", "check", write(TWO), *files, "--json").stdout)
    check_document("rules-check", document)
    first, second = document["rules"]
    assert first["sources"] == ["l.{i:int}.{x}.weight"]
    assert first["source_matches"] == {"l.{i:int}.{x}.weight": 4}
    assert first["target_matches"] == {"l.{x}.kernel": 2}
    assert first["tables"] == {"x": 3}
    assert second["fallback"] is True
    assert "tables" not in second
    turned = run("rules", "check", write(TWO), "--source", files[3], "--like", files[1]).stdout.splitlines()
    assert turned[0].startswith(
        "r.toml:9: rule 'l.{x}.kernel' -> 'l.{i:int}.{x}.weight'; i in h d -> (h d) in"
    )
    assert turned[0].endswith("  (x = 3 rows; source 2, target 4)")


def test_check_refuses_a_rule_of_which_no_row_matches(write, weights):
    result = run(
        "rules", "check", write(TWO.replace("_proj", "_porj")), "--source", "torch.safetensors", code=1
    )
    assert result.stdout.count("matches no name") == 1
    assert "'l.{i:int}.{x}.weight' matches no name in torch.safetensors" in result.stdout


def test_a_size_is_set_in_every_command_that_reads_rules(write, weights):
    path = write(BOTH + "[sizes]\nh = '?'\nd = '4 // h'\n[[rule]]\nsource = 'l.{i:int}.{x}_proj.weight'\n"
                 "target = 'l.{x}.kernel'\nrearrange = '(h d) in -> i in h d'\n")  # fmt: skip
    given = ("--rules", path, "--set", "h=2")
    to_flax = ("--to", "flax", *given)
    run("plan", "torch.safetensors", *to_flax)
    run("plan", "torch.safetensors", "--to", "flax", "--rules", path, code=1)
    run("convert", "torch.safetensors", "made.safetensors", *to_flax)
    run("verify", "torch.safetensors", "made.safetensors", *given)
    run("explain", "torch.safetensors", "l.0.q_proj.weight", *to_flax)
    lines = run("rules", "check", path, "--set", "h=2", "--source", "torch.safetensors").stdout
    assert "sizes d = 4 // h, h = 2" in lines


@pytest.mark.parametrize(
    ("given", "named"),
    [
        (("--set", "h=2"), ("--set", "Pass --rules FILE")),
        (("--rules", "r.toml", "--set", "hh=2"), ("'hh'", "Did you mean 'h'?")),
        (("--rules", "r.toml", "--set", "h"), ("NAME=VALUE", "'h'")),
        (("--rules", "r.toml", "--set", "=2"), ("NAME=VALUE", "'=2'")),
    ],
)
def test_what_the_option_refuses(write, weights, given, named):
    write(BOTH + "[sizes]\nh = '?'\n" + HEADS.replace("heads", "h"))
    result = run("plan", "torch.safetensors", "--to", "flax", *given, code=2)
    assert [thing for thing in named if thing not in result.stderr] == [], result.stderr


# -- random files -----------------------------------------------------------------------------------

TEXTS = st.sampled_from(["a", "b.c", "d_e", "query", "x0", "long.name.of.parts", "0", ""])


@st.composite
def written_twice(draw):
    """A file with tables, and the file with the rows written by hand."""
    tables, columns = {}, {}
    for name in ("x", "y")[: draw(st.integers(1, 2))]:
        texts = st.lists(TEXTS, min_size=1, max_size=4, unique=True)
        old = draw(texts)
        new = draw(st.one_of(st.just(old), st.permutations(old)))
        tables[name] = list(zip(old, new, strict=True))
        columns[name] = draw(st.lists(st.integers(1, 9), min_size=len(old), max_size=len(old)))
    rows = [[]]
    for name in tables:
        rows = [[*row, (name, n)] for row in rows for n in range(len(tables[name]))]
    sized = draw(st.booleans())
    head, body, by_hand = "[tables]\n", "", ""
    for name, pairs in tables.items():
        entries = (
            f"{json.dumps(old)} = {{ name = {json.dumps(new)}, s{name} = {size} }}"
            if sized
            else f"{json.dumps(old)} = {json.dumps(new)}"
            for (old, new), size in zip(pairs, columns[name], strict=True)
        )
        head += f"{name} = {{ {', '.join(entries)} }}\n"
    for number in range(draw(st.integers(1, 3))):
        order = draw(st.permutations(sorted(tables)))
        kind = draw(st.sampled_from(["rename", "target"])) if number else "target"
        parts = [f"r{number}", *(f"{{{name}}}" for name in order), "{i:int}.w"]
        glued = draw(st.booleans())
        pattern = ".".join(parts) if glued else ".".join([f"r{number}", f"k{{{order[0]}}}", *parts[2:]])

        def filled(side, row, pattern=pattern):
            made = []
            for part in pattern.split("."):
                text = part
                for name, n in row:
                    text = text.replace(f"{{{name}}}", tables[name][n][side])
                made += [text] if text or not part else []
            return ".".join(made)

        more = ""
        if kind == "target" and sized:
            axes = " ".join(f"s{name}" for name in sorted(tables))
            more = f'rearrange = "({axes}) -> {axes}"\n'
        body += f'[[rule]]\nsource = "{pattern}"\n{kind} = "n.{pattern}"\n{more}'
        for row in rows:
            sizes = ", ".join(f"s{name} = {columns[name][n]}" for name, n in row)
            by_hand += f'[[rule]]\nsource = "{filled(0, row)}"\n{kind} = "n.{filled(1, row)}"\n{more}'
            by_hand += f"sizes = {{ {sizes} }}\n" if more else ""
    return head + body, by_hand


@settings(max_examples=examples(20), deadline=None)
@given(written_twice())
def test_a_file_with_tables_is_the_file_with_rows_written_by_hand(tmp_path_factory, texts):
    path = tmp_path_factory.mktemp("rules") / "r.toml"
    found = []
    for text in texts:
        path.write_text(text)
        try:
            found.append([said(rule) for rule in load_rules(path)])
        except RuleError as err:  # rows may meet: 'b' + 'c' and 'b.c'
            found.append("the same key" in err.message or str(err))
    assert found[0] == found[1]
