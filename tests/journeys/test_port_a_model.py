"""The guide "Port a model" runs as it stands: its Python, its rules, its commands and what they print."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from support.errors import refused
from support.guides import blocks_of, mismatch, run_blocks, write_file

from bridge_core import (
    FlatState,
    RuleError,
    convert,
    join_key,
    load_rules,
    open_state,
    plan_conversion,
    save_state,
)

GUIDE = Path(__file__).parents[2] / "docs" / "port-a-model.md"
BLOCKS = blocks_of(GUIDE)
CONFIG = {"num_attention_heads": 4, "num_key_value_heads": 2}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # jax and flax, on import
def test_every_block_runs_in_order(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_blocks(BLOCKS, str(GUIDE))
    assert {language for language, _ in BLOCKS} == {"python", "toml", "console"}


@pytest.mark.parametrize(
    ("shown", "agrees"),
    [
        ("a 1\nb 2\nc 3\n", True),
        ("a 1\n...\nc 3\n", True),
        ("a ...\nb 2\n...\n", True),
        ("...\nc 3\n", True),
        ("a 1\nc 3\n", False),
        ("a 2\n...\n", False),
        ("a 1\nb 2\n", False),
        ("b 2\na 1\n...\n", False),
    ],
)
def test_what_is_shown_is_compared_line_by_line(shown, agrees):
    assert (mismatch(shown, "a 1\nb 2\nc 3\n") is None) == agrees


# -- the rules of "Other structures" ----------------------------------------------------------------


def numbers(*shape, first=1):
    return (np.arange(np.prod(shape), dtype=np.float32) + first).reshape(shape) / 8


def cases():
    """Return, by the comment of each rule, its sources and the targets that it must make."""
    mixed = numbers(24, 5)  # 4 heads of q, k and v, two rows each
    grouped = numbers(16, 5)  # 4 heads of q, 2 of k, 2 of v, two rows each
    keys = numbers(6, 5)  # 2 heads, three rows each
    gates, rope, table, tied, shared = (
        numbers(6, 3),
        numbers(16, 3),
        numbers(10, 3),
        numbers(7, 3),
        numbers(4, 3),
    )
    experts = {(i, e): numbers(2, 3, first=10 * i + e) for i in range(2) for e in range(3)}
    decoder = [numbers(2, 3, first=i) for i in range(12)]
    by_head = mixed.reshape(4, 3, 2, 5)
    return {
        "q, k and v fused head by head": (
            {"a.query_key_value.weight": mixed},
            {
                f"a.{name}.kernel": by_head[:, n].transpose(2, 0, 1)
                for n, name in enumerate(("query", "key", "value"))
            },
        ),
        "grouped queries: fewer heads of keys and values": (
            {"b.qkv.weight": grouped},
            {
                "b.query.kernel": grouped[:8].T.reshape(5, 4, 2),
                "b.key.kernel": grouped[8:12].T.reshape(5, 2, 2),
                "b.value.kernel": grouped[12:].T.reshape(5, 2, 2),
            },
        ),
        "gate and up fused": (
            {"mlp.gate_up.weight": gates},
            {"mlp.gate.kernel": gates[:3].T, "mlp.up.kernel": gates[3:].T},
        ),
        "k and v stacked on an axis of 2": (
            {"c.key.weight": keys, "c.value.weight": keys + 100},
            {"c.kv.kernel": np.stack([w.T.reshape(5, 2, 3) for w in (keys, keys + 100)])},
        ),
        "two parts that change places": (
            {"modulation.weight": gates},
            {"modulation.kernel": np.concatenate([gates[2:], gates[:2]]).T},
        ),
        "heads of keys repeated for the queries that share them; on the way back the copies must be equal": (
            {"d.key.weight": keys},
            {"d.key.kernel": np.repeat(keys.T.reshape(5, 2, 3), 2, axis=1)},
        ),
        "experts, stacked layer by layer": (
            {f"layers.{i}.experts.{e}.w1.weight": w for (i, e), w in experts.items()},
            {f"layers.{i}.experts.w1": np.stack([experts[i, e].T for e in range(3)]) for i in range(2)},
        ),
        "layers in blocks of six, each place in the block a stack of its own": (
            {f"decoder.{i}.w.weight": w for i, w in enumerate(decoder)},
            {f"decoder.layer_{j}.w.kernel": np.stack([decoder[j].T, decoder[6 + j].T]) for j in range(6)},
        ),
        "rotary positions: half-split rows to interleaved ones": (
            {"rope.q.weight": rope},
            {"rope.q.kernel": rope[[h * 4 + n for h in range(4) for n in (0, 2, 1, 3)]].T},
        ),
        "a vocabulary padded with zeros; on the way back they are checked and cut off": (
            {"vocabulary.weight": table},
            {"vocabulary.embedding": np.concatenate([table, np.zeros((6, 3), np.float32)])},
        ),
        "a norm that multiplies by 1 + weight; refused where the sum would be rounded": (
            {"norm.weight": numbers(4)},
            {"norm.scale": numbers(4) + 1},
        ),
        "tied: two names for one tensor, which must be equal": (
            {"tied.wte.weight": tied, "tied.head.weight": tied},
            {"tied.embedding": tied},
        ),
        "untied: a tensor of its own for each use": (
            {"shared.weight": shared},
            {"encoder.embedding": shared, "decoder.head.kernel": shared.T},
        ),
        "a tensor that the source does not have; its shape comes from --like": (
            {},
            {"logit_scale": np.ones(2, np.float32)},
        ),
        "a tensor that the target does not have; fill = 0.0 would create it again on the way back": (
            {"mask": numbers(2, 2)},
            {},
        ),
    }


@pytest.fixture
def rules(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("config.json").write_text(json.dumps(CONFIG))
    write_file(next(text for _, text in BLOCKS if text.startswith("# cases.toml")))
    return "cases.toml"


def values(path):
    with open_state(path) as state:
        return {join_key(key): np.asarray(state[key]) for key in state}


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name, strict=True)


def test_each_rule_has_a_case_and_is_about_it(rules):
    comments = re.findall(r"^\[\[rule\]\] # (.*)$", Path(rules).read_text(), re.MULTILINE)
    assert comments == list(cases())
    for rule, (sources, targets) in zip(load_rules(rules), cases().values(), strict=True):
        for patterns, names in ((rule.sources, sources), (rule.targets, targets)):
            fitting = [n for n in names if any(p.match(tuple(n.split("."))) is not None for p in patterns)]
            assert fitting == list(names)


def store_cases():
    """Write a source and its target, and return both."""
    sources = {name: value for case, _ in cases().values() for name, value in case.items()}
    targets = {name: value for _, case in cases().values() for name, value in case.items()}
    save_state(FlatState(sources, layout="torch"), "model.safetensors")
    save_state(FlatState(targets, layout="flax"), "like.safetensors")
    return sources, targets


def test_the_rules_of_the_guide_lead_there_and_back(rules):
    sources, expected = store_cases()
    report = convert("model.safetensors", "flax.safetensors", to="flax", rules=rules, like="like.safetensors")
    (dropped,) = report.dropped
    assert (join_key(dropped.key), dropped.reason.rpartition(": ")[2]) == ("mask", "the model makes it")
    assert_same(values("flax.safetensors"), expected)

    del sources["mask"]
    convert("flax.safetensors", "back.safetensors", to="torch", rules=rules)
    assert_same(values("back.safetensors"), sources)


def test_the_rules_of_the_guide_need_a_template_for_the_constant_alone(rules):
    _, expected = store_cases()
    with refused(RuleError, "cases.toml", "'logit_scale'", "--like"):
        convert("model.safetensors", "flax.safetensors", to="flax", rules=rules)

    others = [rule for rule in load_rules(rules) if rule.action != "fill"]
    convert("model.safetensors", "flax.safetensors", to="flax", rules=others)
    del expected["logit_scale"]
    assert_same(values("flax.safetensors"), expected)


def test_the_plan_says_which_rule_made_each_step(rules):
    store_cases()
    plan = plan_conversion("model.safetensors", to="flax", rules=rules, like="like.safetensors")
    made = {r.origin for r in load_rules(rules) if r.action in ("rearrange", "fill")}
    assert {step.rule for step in plan.steps} == made
