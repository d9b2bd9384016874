"""``--rules FILE`` from end to end: plan, convert, verify and explain, what they print and how they end."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner
from support.arrays import random_array
from support.rule_files import assert_holds, nothing_written, saved

from bridge_core.cli import main

RULES = """# rules of a small model
source = "torch"
target = "flax"

[[rule]]
source = "h.{i:int}.qkv.weight"
target = ["h.q.kernel", "h.k.kernel", "h.v.kernel"]
rearrange = "(q k v) in -> i in q, i in k, i in v"

[[rule]]
source = "h.*.mask"
drop = "made by the model"

[[rule]]
source = "net.{layer}.*"
rename = "{layer}.*"

[[rule]]
source = "net.tok"
layer = "embedding"
"""
LINES = {"rearrange": 5, "drop": 10, "rename": 14, "layer": 18}
LAYERS = 3


def run(*args):
    result = CliRunner().invoke(main, [str(arg) for arg in args])
    assert "Traceback" not in result.output
    return SimpleNamespace(code=result.exit_code, out=result.stdout, err=result.stderr)


def weights(*shape, seed=0):
    return random_array(shape, "float32", seed)


SOURCE = {f"h.{i}.qkv.weight": weights(6, 4, seed=i) for i in range(LAYERS)}
SOURCE |= {f"h.{i}.mask": weights(2, 2) for i in range(LAYERS)}
SOURCE |= {"net.head.weight": weights(5, 4), "net.head.bias": weights(5), "net.tok.weight": weights(7, 4)}
TARGET = {
    f"h.{n}.kernel": np.stack([np.split(SOURCE[f"h.{i}.qkv.weight"], 3)[p].T for i in range(LAYERS)])
    for p, n in enumerate("qkv")
}
TARGET |= {"head.kernel": SOURCE["net.head.weight"].T, "head.bias": SOURCE["net.head.bias"]}
TARGET |= {"tok.embedding": SOURCE["net.tok.weight"]}


@pytest.fixture
def files(tmp_path):
    (tmp_path / "rules.toml").write_text(RULES)
    saved(SOURCE, "torch", tmp_path / "model.safetensors")
    return SimpleNamespace(
        folder=tmp_path,
        rules=tmp_path / "rules.toml",
        source=tmp_path / "model.safetensors",
        there=tmp_path / "there.msgpack",
        again=tmp_path / "again.safetensors",
    )


def test_convert_verify_and_back(files):
    result = run("convert", files.source, files.there, "--to", "flax", "--rules", files.rules)
    assert result.code == 0, result.err
    assert "exact: no" in result.out  # the masks are gone
    assert f"rule {files.rules}:{LINES['drop']}: made by the model" in result.out
    assert_holds(files.there, TARGET)

    result = run("verify", files.source, files.there, "--rules", files.rules)
    assert (result.code, result.out.startswith("equal: ")) == (0, True), result.err
    result = run("convert", files.there, files.again, "--to", "torch", "--rules", files.rules)
    assert result.code == 0, result.err
    assert_holds(files.again, {name: array for name, array in SOURCE.items() if "mask" not in name})


def test_verify_finds_what_differs(files):
    changed = {**TARGET, "h.k.kernel": TARGET["h.k.kernel"].copy()}
    changed["h.k.kernel"][1, 2, 0] = 7
    saved(changed, "flax", files.there)
    result = run("verify", files.source, files.there, "--rules", files.rules)
    assert result.code == 1
    assert "h.k.kernel: 1 element of float32[3, 4, 2]" in result.out


def test_the_report_as_json_tells_what_rules_did(files):
    asked = ("convert", files.source, files.there, "--to", "flax", "--rules", files.rules, "--json")
    found = json.loads(run(*asked).out)
    assert found["evidence"] == {"structure": 2, "rule": 4}
    assert {row["reason"] for row in found["dropped"]} == {
        f"rule {files.rules}:{LINES['drop']}: made by the model"
    }


def test_plan_shows_for_each_step_which_rule_fired(files):
    result = run("plan", files.source, "--to", "flax", "--rules", files.rules)
    assert result.code == 0, result.err
    lines = {line.strip().partition("  [")[0]: line for line in result.out.splitlines()}
    moved = lines["h.{0..2}.qkv.weight -> h.q.kernel, h.k.kernel, h.v.kernel"]
    assert f"[parameter, rule {files.rules}:{LINES['rearrange']}]" in moved
    assert f"[linear, structure {files.rules}:{LINES['rename']}]" in lines["net.head.weight -> head.kernel"]
    both = f"[embedding, rule {files.rules}:{LINES['layer']}, {files.rules}:{LINES['rename']}]"
    assert both in lines["net.tok.weight -> tok.embedding"]
    assert "dropped: h.{0..2}.mask (rule " in result.out
    assert "unmatched rule" not in result.out


def test_plan_as_json_has_the_rules_too(files):
    found = json.loads(run("plan", files.source, "--to", "flax", "--rules", files.rules, "--json").out)
    rules = {step["sources"][0]: step.get("rule", "") for step in found["steps"]}
    name = str(files.rules)
    assert rules == {
        "h.0.qkv.weight": f"{name}:{LINES['rearrange']}",
        "net.head.weight": f"{name}:{LINES['rename']}",
        "net.head.bias": f"{name}:{LINES['rename']}",
        "net.tok.weight": f"{name}:{LINES['layer']}, {name}:{LINES['rename']}",
    }
    assert found["idle_rules"] == []


IDLE = """
[[rule]]
source = "gone.{i:int}.w"
target = "stack.w"
rearrange = "a b -> i a b"

[[rule]]
source = "also.gone"
drop = "unused"

[[rule]]
source = "maybe.gone"
drop = "unused"
optional = true
"""


def test_plan_lists_rules_that_never_fired_and_is_refused(files):
    files.rules.write_text(RULES + IDLE)
    result = run("plan", files.source, "--to", "flax", "--rules", files.rules)
    assert result.code == 1
    assert f"unmatched rule: {files.rules}:22: 'gone.{{i:int}}.w' -> 'stack.w'" in result.out
    assert f"unmatched rule: {files.rules}:27: 'also.gone': drop (unused)" in result.out
    assert "maybe.gone" not in result.out
    assert "error: 2 rules matched nothing" in result.err
    assert "optional" in result.err
    found = run("plan", files.source, "--to", "flax", "--rules", files.rules, "--json")
    assert found.code == 1
    assert json.loads(found.out)["idle_rules"] == [
        f"{files.rules}:22: 'gone.{{i:int}}.w' -> 'stack.w'",
        f"{files.rules}:27: 'also.gone': drop (unused)",
    ]
    result = run("convert", files.source, files.there, "--to", "flax", "--rules", files.rules)
    assert result.code == 1
    assert not files.there.exists()


@pytest.mark.parametrize(
    ("key", "texts"),
    [
        (
            "h.1.qkv.weight",
            ["why      rule: a rule says so (evidence 1 of 6", "rule     {rules}:{rearrange}"],
        ),
        ("h.k.kernel", ["target   h.k.kernel  float32[3, 4, 2]", "rule     {rules}:{rearrange}"]),
        ("net.head.weight", ["why      structure: ", "rule     {rules}:{rename}"]),
        ("tok.embedding", ["why      rule: ", "rule     {rules}:{layer}, {rules}:{rename}"]),
        ("h.*.mask", ["dropped  rule {rules}:{drop}: made by the model", "count    3"]),
    ],
)
def test_explain_names_the_rule(files, key, texts):
    result = run("explain", files.source, key, "--to", "flax", "--rules", files.rules)
    assert result.code == 0, result.err
    for text in texts:
        assert text.format(rules=files.rules, **LINES) in result.out


def test_explain_names_rules_as_a_way_out(tmp_path):
    source = saved({"tok.weight": weights(5, 4), **SOURCE}, "torch", tmp_path / "a.safetensors")
    result = run("explain", source, "tok.weight", "--to", "flax")
    assert result.code == 0
    assert "--rules FILE" in result.out
    assert "--rules FILE" in run("plan", source, "--to", "flax").err


def test_a_mismatch_names_rules_as_a_way_out(files):
    like = saved(TARGET, "flax", files.folder / "like.msgpack")
    result = run("plan", files.source, "--to", "flax", "--like", like)
    assert result.code == 1
    assert "a rule (--rules FILE) says" in result.err


@pytest.mark.parametrize("command", ["plan", "convert", "verify", "explain"])
def test_help_names_the_option(command):
    assert "--rules FILE" in run(command, "--help").out


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (b"[[rule]]\nsource = 'a'\n", (":1: ", "action")),
        (b"[[rule]]\nsource = 'a'\ntarget = 'b'\nrearrange = 'x y -> y z'\n", (":1: rule 'a' -> 'b': ",)),
        (b"[[rule]\n", ("TOML",)),
        (b"", ("no rules",)),
        (b"\xff\xfe", ("UTF-8",)),
        (
            b"source = 'torch'\ntarget = 'keras'\n[[rule]]\nsource = 'a.**'\nrename = '**'\n",
            ("torch and keras", "torch to flax"),
        ),
    ],
)
def test_a_rule_file_that_is_wrong_is_refused_by_every_command(files, text, named):
    files.rules.write_bytes(text)
    for asked in (
        ("plan", files.source, "--to", "flax"),
        ("explain", files.source, "net.head.weight", "--to", "flax"),
        ("convert", files.source, files.there, "--to", "flax"),
    ):
        result = run(*asked, "--rules", files.rules)
        assert (result.code, result.out) == (1, "")
        assert result.err.startswith("error: ")
        assert [thing for thing in (str(files.rules), *named) if thing not in result.err] == [], result.err
        assert "[CKB-102]" in result.err
    assert nothing_written(files.folder, files.rules, files.source)


def test_a_rule_file_that_is_not_there(files):
    result = run("plan", files.source, "--to", "flax", "--rules", files.folder / "none.toml")
    assert result.code == 2
    assert "none.toml" in result.err


def test_an_empty_path_is_a_mistake_in_the_call(files):
    assert run("plan", files.source, "--to", "flax", "--rules", "").code == 2


def test_a_problem_of_a_rule_names_file_and_line(files):
    broken = {**SOURCE, "h.1.qkv.weight": weights(7, 4)}
    saved(broken, "torch", files.folder / "broken.safetensors")
    asked = ("convert", files.folder / "broken.safetensors", files.there, "--to", "flax")
    result = run(*asked, "--rules", files.rules)
    assert result.code == 1
    assert result.err.startswith(f"error: {files.rules}:{LINES['rearrange']}: tensor 'h.0.qkv.weight': rule ")
    assert not files.there.exists()
    del broken["h.1.qkv.weight"]
    saved(broken, "torch", files.folder / "holed.safetensors")
    result = run("plan", files.folder / "holed.safetensors", "--to", "flax", "--rules", files.rules)
    assert result.code == 1
    assert "h.1.qkv.weight" in result.err
