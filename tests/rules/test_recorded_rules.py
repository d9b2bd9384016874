"""What rules have still to do is recorded in a neutral state, and done or refused in the second step."""

from __future__ import annotations

import dataclasses
import itertools
import json

import numpy as np
import pytest
from click.testing import CliRunner
from support.arrays import random_array
from support.errors import refused
from support.rule_files import abstract, assert_holds, plan_and_apply, saved, state_of

import bridge_flax
import bridge_torch
from bridge_core import (
    FlatState,
    MalformedFile,
    Rule,
    RuleError,
    UnsupportedLayerError,
    convert,
    open_state,
    plan_conversion,
)
from bridge_core.cli import main
from bridge_core.rules import Pattern
from bridge_core.rules.records import identity_of_record, identity_of_rule, read_recorded, recorded
from bridge_core.state import (
    RecordedRule,
    StateMetadata,
    dump_metadata,
    load_metadata,
    unflatten_tree,
)

BOTH = ("torch", "flax")
EMBEDDING = random_array((10, 4), "float32")
PADDED = np.concatenate([EMBEDDING, np.zeros((6, 4), "float32")])
HEAD = {"fc.weight": random_array((5, 4), "float32"), "fc.bias": random_array((5,), "float32", seed=1)}
FLAX_HEAD = {"fc.kernel": HEAD["fc.weight"].T, "fc.bias": HEAD["fc.bias"]}
SOURCE = {"emb.weight": EMBEDDING, **HEAD}
TARGET = {"emb.embedding": PADDED, **FLAX_HEAD}
PAD = Rule.rearrange("emb.weight", "emb.embedding", "pad(0, 10, 16)", layouts=BOTH, origin="r.toml:4")


def neutral(rules=PAD):
    return bridge_torch.to_neutral(state_of(SOURCE, "torch"), rules=rules)


# -- rules of every kind, from file to file, wherever they are given --------------------------------

FILE = """\
source = "torch"
target = "flax"
[[rule]]
source = "net.emb.weight"
target = "{params}emb.embedding"
rearrange = "pad(0, 10, 16)"
[[rule]]
source = "net.h.{{i:int}}.up.weight"
target = "{params}h.up.kernel"
rearrange = "out in -> i in out"
[[rule]]
source = "net.qkv.weight"
target = ["{params}q.kernel", "{params}k.kernel", "{params}v.kernel"]
rearrange = "(q k v) in -> in q, in k, in v"
sizes = {{ q = 4, k = 4, v = 4 }}
[[rule]]
source = "net.mask"
drop = "made by the model"
fill = -inf
[[rule]]
source = "net.fc.*"
rename = "{params}dense.*"
[[rule]]
source = "net.bn.*"
rename = "{params}norm.*"
[[rule]]
source = "net.tok.*"
rename = "{params}tok.*"
[[rule]]
source = "{params}tok"
layer = "embedding"
"""
STATISTICS = ("weight", "bias", "running_mean", "running_var")
WHOLE = {
    "net.emb.weight": EMBEDDING,
    **{f"net.h.{i}.up.weight": random_array((4, 3), "float32", seed=i) for i in range(3)},
    "net.qkv.weight": random_array((12, 4), "float32"),
    "net.mask": np.full((2, 2), -np.inf, "float32"),
    "net.fc.weight": HEAD["fc.weight"],
    "net.fc.bias": HEAD["fc.bias"],
    **{f"net.bn.{name}": random_array((4,), "float32", seed=n) for n, name in enumerate(STATISTICS)},
    "net.tok.weight": random_array((7, 4), "float32"),
}


def written(names):
    q, k, v = np.split(WHOLE["net.qkv.weight"], 3)
    return {
        "params.emb.embedding": PADDED,
        "params.h.up.kernel": np.stack([WHOLE[f"net.h.{i}.up.weight"].T for i in range(3)]),
        "params.q.kernel": q.T,
        "params.k.kernel": k.T,
        "params.v.kernel": v.T,
        "params.dense.kernel": HEAD["fc.weight"].T,
        "params.dense.bias": HEAD["fc.bias"],
        "params.norm.scale": WHOLE["net.bn.weight"],
        "params.norm.bias": WHOLE["net.bn.bias"],
        "batch_stats.norm.mean": WHOLE["net.bn.running_mean"],
        "batch_stats.norm.var": WHOLE["net.bn.running_var"],
        "params.tok.embedding": WHOLE["net.tok.weight"],
    }


@pytest.mark.parametrize("params", ["", "params."])
def test_one_rules_file_serves_both_steps_or_either(tmp_path, params):
    rules = tmp_path / "r.toml"
    rules.write_text(FILE.format(params=params))
    source, middle = saved(WHOLE, "torch", tmp_path / "source.safetensors"), tmp_path / "neutral.safetensors"
    there, again, back = (tmp_path / name for name in ("there.msgpack", "again.msgpack", "back.safetensors"))
    convert(source, there, to="flax", rules=rules)
    assert_holds(there, written(params))
    like = abstract(WHOLE, "torch")
    convert(there, back, to="torch", rules=rules, like=like)
    assert_holds(back, WHOLE)
    for first, second in ((rules, rules), (rules, ()), ((), rules)):
        convert(source, middle, to="neutral", rules=first, overwrite=True)
        convert(middle, again, to="flax", rules=second, overwrite=True)
        assert again.read_bytes() == there.read_bytes()
        convert(there, middle, to="neutral", rules=first, overwrite=True)
        assert_holds(plan_and_apply(middle, to="torch", rules=second, like=like), WHOLE)


@pytest.mark.parametrize("again", [True, False])
def test_rules_without_layouts_serve_both_steps(tmp_path, again):
    rules = [
        Rule.rename("net.fc.*", "fc.*"),
        Rule.rearrange("emb.weight", "emb.embedding", "pad(0, 10, 16)"),
        Rule.drop("mask", "unused"),
    ]
    tensors = {"emb.weight": EMBEDDING, "mask": EMBEDDING, **{f"net.{k}": v for k, v in HEAD.items()}}
    source = saved(tensors, "torch", tmp_path / "source.safetensors")
    convert(source, tmp_path / "neutral.npz", to="neutral", rules=rules)
    assert_holds(plan_and_apply(tmp_path / "neutral.npz", to="flax", rules=rules if again else ()), TARGET)


def test_a_rule_within_one_layout_is_done_in_one_step_and_in_two(tmp_path):
    rule = Rule.rearrange("emb.weight", "tok.weight", "pad(0, 10, 16)")
    source = saved(SOURCE, "torch", tmp_path / "source.safetensors")
    made = {"tok.weight": PADDED, **HEAD}
    assert_holds(plan_and_apply(source, to="torch", rules=rule), made)
    convert(source, tmp_path / "neutral.safetensors", to="neutral", rules=rule)
    assert_holds(plan_and_apply(tmp_path / "neutral.safetensors", to="torch", rules=rule), made)
    assert_holds(plan_and_apply(tmp_path / "neutral.safetensors", to="torch"), SOURCE)


# -- in memory --------------------------------------------------------------------------------------


@pytest.mark.parametrize("rules", [PAD, ()], ids=["given again", "not given again"])
@pytest.mark.parametrize("like", [None, TARGET], ids=["no template", "template"])
def test_what_is_recorded_is_done(rules, like):
    made = bridge_flax.from_neutral(neutral(), rules=rules, like=like and nested(like))
    assert_holds(state_of(flat(made), "flax"), TARGET)


def nested(tensors):
    return unflatten_tree({tuple(name.split(".")): np.zeros_like(array) for name, array in tensors.items()})


def flat(tree, path=()):
    if isinstance(tree, FlatState):
        return {".".join(key): tree[key] for key in tree}
    found = {}
    for name, child in tree.items():
        found.update(
            flat(child, (*path, name)) if hasattr(child, "items") else {".".join((*path, name)): child}
        )
    return {name: np.asarray(array) for name, array in found.items()}


def test_nothing_is_left_to_do_in_the_layout_that_the_tensors_came_from():
    made = bridge_torch.from_neutral(neutral())
    assert_holds(state_of({name: tensor.numpy() for name, tensor in made.items()}, "torch"), SOURCE)
    made = bridge_torch.from_neutral(neutral(), rules=PAD)
    assert_holds(state_of({name: tensor.numpy() for name, tensor in made.items()}, "torch"), SOURCE)


def test_what_went_back_unchanged_is_not_known_to_be_a_parameter():
    """The next conversion is to look at the tensor as it would have without the stop."""
    back = plan_conversion(neutral(), to="torch")
    assert not back.metadata.layers
    rules = Rule.layer("emb", "embedding")
    made = back.apply(neutral())
    assert ("emb", "embedding") in plan_conversion(made, to="flax", rules=rules).target_specs()


def test_the_record_follows_select_and_union():
    state = neutral()
    head, rest = state.select(lambda key: key[0] == "fc"), state.select([("emb", "weight")])
    assert_holds(state_of(flat(bridge_flax.from_neutral(head)), "flax"), FLAX_HEAD)
    assert_holds(state_of(flat(bridge_flax.from_neutral(head, rules=PAD)), "flax"), FLAX_HEAD)
    for joined in (head.union(rest), rest.union(head)):
        assert_holds(state_of(flat(bridge_flax.from_neutral(joined)), "flax"), TARGET)


@pytest.mark.parametrize("callable_names", [True, False])
@pytest.mark.parametrize("rules", [PAD, ()], ids=["given again", "not given again"])
def test_a_tensor_under_a_name_that_the_rule_does_not_match_is_refused(callable_names, rules):
    names = {("emb", "weight"): ("tok", "weight")}
    renamed = neutral().rename((lambda key: names.get(key, key)) if callable_names else names)
    for like in (None, nested({"tok.weight": EMBEDDING, **FLAX_HEAD})):
        with refused(UnsupportedLayerError, "(neutral tok.weight): rule r.toml:4"):
            bridge_flax.from_neutral(renamed, rules=rules, like=like)


def test_what_is_still_to_do_may_be_dropped():
    drop = Rule.drop("emb.weight", "not needed")
    assert_holds(state_of(flat(bridge_flax.from_neutral(neutral(), rules=drop)), "flax"), FLAX_HEAD)
    renamed = neutral().rename({("emb", "weight"): ("tok", "weight")})
    like = nested(FLAX_HEAD)
    made = bridge_flax.from_neutral(renamed, like=like, allow_unexpected="tok.*")
    assert_holds(state_of(flat(made), "flax"), FLAX_HEAD)


def test_a_rule_that_is_given_later_takes_the_place_of_the_recorded_one():
    rule = Rule.rearrange("emb.weight", "emb.embedding", "pad(0, 10, 12)", layouts=BOTH)
    made = flat(bridge_flax.from_neutral(neutral(), rules=rule))
    assert made["emb.embedding"].shape == (12, 4)


def test_a_rule_towards_another_framework_is_not_done():
    state = neutral()
    (record,) = state.metadata.rules
    record = dataclasses.replace(record, layouts=("torch", "keras"), label="k.toml:3")
    state = state.replace(metadata=state.metadata.with_(rules=(record,)))
    with refused(UnsupportedLayerError, "emb.weight: rule k.toml:3", "torch to keras", hint="rules="):
        bridge_flax.from_neutral(state)


def test_a_rule_that_is_to_rearrange_for_the_neutral_form_is_refused(tmp_path):
    rule = Rule.rearrange("emb.weight", "emb.embedding", "pad(0, 10, 16)", layouts=("torch", "neutral"))
    with refused(RuleError, "'emb.weight' -> 'emb.embedding'", "neutral"):
        neutral(rule)


# -- misspelt rules ---------------------------------------------------------------------------------

MISSPELT = [
    Rule.rename("fd.*", "gd.*", layouts=BOTH),
    Rule.rearrange("emd.weight", "emb.embedding", layouts=BOTH),
    Rule.drop("mesk", "unused", layouts=BOTH),
    Rule.rename("fd.*", "gd.*"),
]


@pytest.mark.parametrize("rule", MISSPELT, ids=str)
def test_a_rule_that_matches_nothing_is_refused_in_every_step(rule, tmp_path):
    source = saved(SOURCE, "torch", tmp_path / "source.safetensors")
    for to in ("flax", "neutral"):
        with refused(RuleError, "1 rule", str(rule).removeprefix("rule ")):
            plan_conversion(source, to=to, rules=[rule, PAD])
    for first in (PAD, ()):
        convert(source, tmp_path / "neutral.safetensors", to="neutral", rules=first, overwrite=True)
        with refused(RuleError, "1 rule", str(rule).removeprefix("rule ")):
            plan_conversion(tmp_path / "neutral.safetensors", to="flax", rules=[rule, PAD])


def test_a_neutral_file_without_a_record_has_been_through_its_rules(tmp_path):
    """As files of before: a rename is not done twice, and a rule that rearranges is given again."""
    rules = [Rule.rename("fc.*", "net.fc.*", layouts=BOTH), PAD]
    source = saved({**SOURCE, "net.x": EMBEDDING}, "torch", tmp_path / "source.safetensors")
    convert(source, tmp_path / "n.safetensors", to="neutral", rules=rules)
    with open_state(tmp_path / "n.safetensors") as state:
        text = dump_metadata("neutral", state.metadata)
        document = {name: value for name, value in json.loads(text).items() if name != "rules"}
        _, metadata, _ = load_metadata(json.dumps(document))
        assert metadata.rules is None
        old = state.replace(metadata=metadata)
        made = flat(bridge_flax.from_neutral(old, rules=rules))
    target = {f"net.{name}": tensor for name, tensor in FLAX_HEAD.items()}
    assert_holds(state_of(made, "flax"), {"net.x": EMBEDDING, "emb.embedding": PADDED, **target})


# -- neutral to neutral, and what is shown ----------------------------------------------------------


@pytest.mark.parametrize("given_in", [0, 1, 2])
def test_the_record_goes_through_neutral_files(tmp_path, given_in):
    files = [
        saved(SOURCE, "torch", tmp_path / "a.safetensors"),
        tmp_path / "b.npz",
        tmp_path / "c.safetensors",
    ]
    for number, (one, other) in enumerate(itertools.pairwise(files)):
        convert(one, other, to="neutral", rules=PAD if number == given_in else ())
    assert_holds(plan_and_apply(files[-1], to="flax", rules=PAD if given_in == 2 else ()), TARGET)


def test_inspect_shows_what_is_still_to_do(tmp_path):
    source, path = saved(SOURCE, "torch", tmp_path / "a.safetensors"), tmp_path / "n.safetensors"
    convert(source, path, to="neutral", rules=PAD)
    text = CliRunner().invoke(main, ["inspect", str(path)]).output
    assert "to be rearranged by a rule:\n  emb.weight (r.toml:4)" in text
    document = json.loads(CliRunner().invoke(main, ["inspect", str(path), "--json"]).output)
    assert document["metadata"]["pending"] == {
        "emb.weight": {"rule": "r.toml:4", "layouts": ["torch", "flax"]}
    }
    convert(path, tmp_path / "f.safetensors", to="flax")
    with open_state(tmp_path / "f.safetensors") as state:
        assert not state.metadata.rules


# -- rules as text ----------------------------------------------------------------------------------

RULES = [
    PAD,
    Rule.rearrange(
        ["h.{i:int}.up", "h.{i:int}.gate"],
        "b_{j:int}.fused",
        ["pad(o, 10, 12)", "o d, p d -> block d (o p)", "offset(1)"],
        where="i = block*6 + j",
        when={"rank": 2, "sizes": {"o": 10}, "config": {"model_type": "gpt2", "a": {"b": 1}}},
    ),
    Rule.rearrange("q", "q", "(h d) -> h d", sizes={"h": "config.n / config.m", "d": 3}, optional=True),
    Rule.rearrange(
        "q",
        "q",
        [
            "cast(float32)",
            "scale(d**-0.5)",
            "offset(-n)",
            "(h d) -> h d",
            "cut(d, n + 1, [2, config.a.b][n])",
        ],
        sizes={"h": 4, "n": "config.n % 2", "d": "?"},
    ),
    Rule.rearrange("q", "q", ["scale(1 / config.n, rounding)", "pad(0, 3, 4, discard)", "offset(1)"]),
    Rule.rename("model.**", "**"),
    Rule.layer("a.{b}", "linear"),
    Rule.drop("mask", "unused", fill=float("-inf")),
    Rule.drop("mask", "unused", fill=10**400),
    Rule.drop("mask", "unused"),
    Rule.fill("rope", float("nan"), reason="none"),
    Rule.fill("rope", 2, reason="none"),
]


@pytest.mark.parametrize("rule", [r for rule in RULES for r in (rule, rule.reversed())], ids=repr)
def test_a_recorded_rule_is_read_as_it_was(rule):
    kept = recorded(rule, "torch", (("a", "b.c"),))
    layout, metadata, _ = load_metadata(dump_metadata("neutral", StateMetadata(rules=(kept,))))
    (loaded,) = metadata.rules
    assert (layout, loaded) == ("neutral", kept)
    assert identity_of_record(loaded) == identity_of_rule(rule)
    assert identity_of_rule(read_recorded(loaded)) == identity_of_rule(rule)


def test_a_rule_that_no_file_can_say_is_recorded_by_its_label(tmp_path):
    rule = Rule.rearrange(Pattern(("a.b", "w")), "c.w", "x y -> y x", origin="r.py:1")
    state = FlatState({("a.b", "w"): EMBEDDING}, layout="torch")
    made = bridge_torch.to_neutral(state, rules=rule)
    with refused(UnsupportedLayerError, "r.py:1"):
        bridge_flax.from_neutral(made)
    assert_holds(state_of(flat(bridge_flax.from_neutral(made, rules=rule)), "flax"), {"c.w": EMBEDDING.T})


@pytest.mark.parametrize(
    "rows",
    [
        3,
        [3],
        [{}],
        [{"rule": 3, "layouts": ["a", "b"]}],
        [{"rule": {}, "layouts": ["a"]}],
        [{"rule": {}, "layouts": ["a", 1]}],
        [{"rule": {}, "layouts": ["a", "b"], "label": 1}],
        [{"rule": {}, "layouts": ["a", "b"], "pending": [1]}],
        [{"rule": {}, "layouts": ["a", "b"], "pending": 1}],
        None,
    ],
)
def test_damaged_records_are_refused(rows):
    with pytest.raises(MalformedFile):
        load_metadata(json.dumps({"version": 1, "layout": "neutral", "rules": rows}))


def test_a_record_of_the_future_is_refused_where_it_has_something_to_do():
    record = RecordedRule('{"source": "emb.weight", "twist": 3}', BOTH, "r.toml:4", (("emb", "weight"),))
    state = neutral(())
    state = state.replace(metadata=state.metadata.with_(rules=(record,)))
    with refused(UnsupportedLayerError, "emb.weight: rule r.toml:4"):
        bridge_flax.from_neutral(state)
