"""``rules explain``: each tensor is under the rule that takes it, or in the rest, and each is there once."""

from __future__ import annotations

import json

import numpy as np
import pytest
from click.testing import CliRunner
from support.rule_files import saved
from support.schemas import check_document

from bridge_core.cli import main

RULES = """source = "torch"
target = "flax"

[[rule]]
source = "h.{i:int}.mlp.**"
rename = "blocks_{i:int}.mlp.**"

[[rule]]
source = "h.{i:int}.attn.qkv.weight"
target = ["blocks_{i:int}.attn.q.kernel", "blocks_{i:int}.attn.kv.kernel"]
rearrange = "(q kv) in -> in q, in kv"
sizes = { q = 2 }

[[rule]]
source = "h.{i:int}.gate"
target = "gates"
rearrange = "d -> i d"

[[rule]]
source = "h.{i:int}.mask"
drop = "a buffer"

[[rule]]
source = "tok"
layer = "embedding"
"""
MORE = """
[[rule]]
source = "gone"
drop = "not needed"
optional = true

[[rule]]
source = "head.bias"
drop = "not needed"
when = { config = { tied = true } }

[[rule]]
source = "h.{i:int}.gate"
target = "gates"
rearrange = "d n -> i d n"
when = { rank = 2 }
"""


def layer(i):
    shapes = {
        "attn.qkv.weight": (6, 4),
        "mlp.fc.weight": (8, 4),
        "mlp.fc.bias": (8,),
        "gate": (4,),
        "mask": (2,),
    }
    return {f"h.{i}.{name}": np.ones(shape, "f4") for name, shape in shapes.items()}


SOURCE = layer(0) | layer(1) | layer(2)
SOURCE |= {"tok.weight": np.ones((7, 4), "f4"), "head.weight": np.ones((5, 4), "f4")}
SOURCE |= {"head.bias": np.ones(5, "f4")}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text('{"tied": false}')
    saved(SOURCE, "torch", tmp_path / "model" / "model.safetensors")
    (tmp_path / "rules.toml").write_text(RULES)
    return tmp_path


def run(folder, *options, code=0, source="model"):
    words = ["rules", "explain", folder / "rules.toml", folder / source, *options]
    result = CliRunner().invoke(main, list(map(str, words)))
    assert result.exit_code == code, result.output
    return result.stdout


def document(folder, *options, code=0, source="model"):
    found = json.loads(run(folder, *options, "--json", code=code, source=source))
    check_document("rules-explain", found)
    return found


def block(text, line):
    """The lines of the rule that begins at a line of the file, without the head."""
    (found,) = [part for part in text.split("\n\n") if part.split(": ")[0].endswith(f".toml:{line}")]
    return found.split("\n")[1:]


def test_each_rule_shows_what_it_takes_and_makes(folder):
    text = run(folder)
    assert block(text, 4) == [
        "  takes   h.{0..2}.mlp.fc.bias  float32[8]  x3",
        "  makes   blocks_{0..2}.mlp.fc.bias  float32[8]  x3",
        "  takes   h.{0..2}.mlp.fc.weight  float32[8, 4]  x3",
        "  makes   blocks_{0..2}.mlp.fc.kernel  float32[4, 8]  x3",
        "  by      permute([1, 0])",
    ]
    assert block(text, 8)[:3] == [
        "  takes   h.{0..2}.attn.qkv.weight  float32[6, 4]  x3",
        "  makes   blocks_{0..2}.attn.q.kernel  float32[4, 2]  x3",
        "  makes   blocks_{0..2}.attn.kv.kernel  float32[4, 4]  x3",
    ]
    assert block(text, 14)[:2] == [
        "  takes   h.{0..2}.gate  float32[4]  x3",
        "  makes   gates  float32[3, 4]",
    ]
    assert block(text, 19) == ["  drops   h.{0..2}.mask  float32[2]  x3"]
    assert block(text, 23)[0] == "  takes   tok.weight  float32[7, 4]"
    rest = text.split("no rule takes:\n")[1].splitlines()
    assert [row.split()[0] for row in rest[:2]] == ["head.bias", "head.weight"]
    assert all("[linear, " in row for row in rest[:2])


def test_every_tensor_is_shown_once(folder):
    found = document(folder)
    taken = [
        tensor["name"] for rule in found["rules"] for step in rule["steps"] for tensor in step["sources"]
    ]
    taken += [tensor["name"] for rule in found["rules"] for tensor in rule["dropped"]]
    assert sorted([*taken, *(tensor["name"] for tensor in found["rest"])]) == sorted(SOURCE)
    assert [rule["action"] for rule in found["rules"]] == [
        "rename",
        "rearrange",
        "rearrange",
        "drop",
        "layer",
    ]
    assert found["ok"]
    assert not any(rule["unused"] for rule in found["rules"])


def test_a_rule_that_takes_nothing_says_why(folder):
    (folder / "rules.toml").write_text(RULES + MORE)
    unused = [rule["unused"] for rule in document(folder)["rules"][5:]]
    assert "optional" in unused[0]
    assert "when config.tied" in unused[1]
    assert "conditions" in unused[2]
    assert unused[0] in run(folder)


def test_a_refused_plan_is_shown_and_exits_as_plan_does(folder):
    wrong = RULES.replace("h.{i:int}.gate", "h.{i:int}.gates")
    (folder / "rules.toml").write_text(wrong)
    found = document(folder, code=1)
    assert [bool(rule["unused"]) for rule in found["rules"]] == [False, False, True, False, False]
    assert not found["ok"]
    assert [t["name"] for t in found["rest"]][:3] == ["h.0.gate", "h.1.gate", "h.2.gate"]
    assert "matches no tensor" in block(run(folder, code=1), 14)[0]
    template = folder / "like.safetensors"
    saved({"head.kernel": np.ones((4, 5), "f4"), "head.bias": np.ones(5, "f4")}, "flax", template)
    (folder / "rules.toml").write_text(RULES.partition('[[rule]]\nsource = "h.{i:int}.attn')[0])
    what = {t["name"]: t["what"] for t in document(folder, "--like", template, code=1)["rest"]}
    assert what["h.0.gate"].startswith("unexpected")
    assert what["head.weight"].startswith("linear")


def test_the_way_back_takes_what_the_way_there_makes(folder):
    (folder / "rules.toml").write_text(RULES)
    there = document(folder)
    flax, source = folder / "flax.safetensors", folder / "model"
    words = ["convert", source, flax, "--to", "flax", "--rules", folder / "rules.toml"]
    assert CliRunner().invoke(main, list(map(str, words))).exit_code == 0
    back = document(folder, "--layout", "flax", "--like", source, source="flax.safetensors")
    for number, (old, new) in enumerate(zip(there["rules"], back["rules"], strict=True)):
        made = [t for step in old["steps"] for t in step["targets"]]
        assert sorted(map(str, made)) == sorted(str(t) for step in new["steps"] for t in step["sources"]), (
            number
        )
    assert (back["source_layout"], back["target_layout"]) == ("flax", "torch")


def test_a_rule_whose_tensors_may_stay_missing_shows_them(folder):
    rules = 'source = "flax"\ntarget = "torch"\n[[rule]]\nsource = "h.{i:int}.mask"\ndrop = "made again"\n'
    (folder / "rules.toml").write_text(rules)
    saved({"head.bias": SOURCE["head.bias"]}, "torch", folder / "one.safetensors")
    template = {"head.bias": SOURCE["head.bias"], "h.0.mask": np.ones(2, "f4"), "h.1.mask": np.ones(2, "f4")}
    saved(template, "flax", folder / "like.safetensors")
    (rule,) = document(folder, "--like", folder / "like.safetensors", source="one.safetensors")["rules"]
    assert (rule["allowed_missing"], rule["unused"]) == (["h.0.mask", "h.1.mask"], "")


def test_an_unknown_direction_is_asked_for(folder):
    (folder / "rules.toml").write_text('[[rule]]\nsource = "mask"\ndrop = "no use"\noptional = true\n')
    saved({"fc.weight": SOURCE["head.weight"]}, "neutral", folder / "n.safetensors")
    result = CliRunner().invoke(
        main, ["rules", "explain", str(folder / "rules.toml"), str(folder / "n.safetensors")]
    )
    assert result.exit_code == 2
    assert "(--to)" in result.stderr or "--to" in result.stderr
