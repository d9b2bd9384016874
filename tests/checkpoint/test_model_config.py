"""The config beside the weights: read when it is asked for, and then in full."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from support.errors import refused

from bridge_core import (
    FlatState,
    KeyConflict,
    LimitExceeded,
    MalformedFile,
    Rule,
    RuleError,
    default_registry,
    open_state,
    plan_conversion,
    save_state,
)
from bridge_core.checkpoint import config_beside, read_config

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"
BARE = default_registry().with_tables(libraries={})


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "m"
    folder.mkdir()
    tensors = {"a.weight": np.ones((4, 3), "f4"), "a.bias": np.ones(4, "f4")}
    save_state(FlatState(tensors, layout="torch"), folder / "model.safetensors")
    return folder


def planned(folder, *rules, **options):
    return plan_conversion(folder, to="flax", rules=rules, registry=BARE, **options)


def when(**config):
    return Rule.rename("a.**", "b.**", when={"config": config})


DAMAGED = {
    "{": "not valid JSON",
    "[1]": "is a JSON list",
    "": "is empty",
    POINTER: "is a git-lfs pointer.*A config, a JSON object, was expected",
    "<html>": "is a web page",
    "\0" * 600: "zero bytes only",
}


@pytest.mark.parametrize("text", DAMAGED)
def test_a_damaged_config_stops_only_who_asks_for_it(folder, text):
    (folder / "config.json").write_text(text)
    assert planned(folder).ok
    assert planned(folder, Rule.rename("a.**", "b.**")).ok
    assert planned(folder / "model.safetensors", Rule.layer("a", "linear")).ok
    with pytest.raises(MalformedFile, match=rf"config\.json.*{DAMAGED[text]}"):
        planned(folder, when(model_type="x"))
    with pytest.raises(MalformedFile, match=r"config\.json"):
        planned(
            folder, Rule.rearrange("a.weight", "a.kernel", "(h d) in -> in h d", sizes={"h": "config.heads"})
        )


def test_a_name_twice_and_too_large_a_config_are_refused_when_asked_for(folder):
    (folder / "config.json").write_text('{"a": 1, "a": 2}')
    with pytest.raises(KeyConflict, match=r"config\.json"):
        planned(folder, when(a=1))
    with (folder / "config.json").open("wb") as file:
        file.truncate(17 << 20)
    assert planned(folder).ok
    with pytest.raises(LimitExceeded, match="a config has"):
        planned(folder, when(a=1))


def test_the_constants_that_python_writes_are_read(folder):
    config = {"limit": [0.0, math.inf], "low": -math.inf, "none": math.nan, "kind": "x", "heads": 2}
    (folder / "config.json").write_text(json.dumps(config))
    read = read_config(folder / "config.json")
    assert read["limit"] == [0.0, math.inf]
    assert read["low"] == -math.inf
    assert math.isnan(read["none"])
    plan = planned(folder, when(kind="x"))
    assert {step.targets[0][0] for step in plan.steps} == {"b"}
    assert {step.targets[0][0] for step in planned(folder, when(kind="y")).steps} == {"a"}
    with open_state(folder) as state:
        beside = config_beside(None, state)
        assert len(beside) == 5
        assert set(beside) == set(config)


@pytest.mark.parametrize("entry", ["low", "high", "none", "parts"])
def test_a_size_that_is_no_number_of_elements_is_named(folder, entry):
    text = '{"low": -Infinity, "high": Infinity, "none": NaN, "parts": [Infinity], "n": 2}'
    (folder / "config.json").write_text(text)
    for size in (f"config.{entry}", f"config.{entry} / config.n", f"config.n * config.{entry}"):
        rule = Rule.rearrange("a.weight", "a.kernel", "(h d) in -> in h d", sizes={"h": size})
        with refused(RuleError, "sizes.h", f"'{entry}'"):
            planned(folder, rule)


def test_an_index_with_a_constant_is_still_refused(folder):
    index = folder / "model.safetensors.index.json"
    index.write_text('{"metadata": {"x": Infinity}, "weight_map": {"a.weight": "w.safetensors"}}')
    with pytest.raises(MalformedFile, match="Infinity is not a JSON number"):
        open_state(index)


def test_a_folder_without_a_config_has_none(folder):
    with open_state(folder) as state:
        assert config_beside(state) is None
    with refused(RuleError, "no config.json", hint="config.json"):
        planned(folder, when(kind="x"))
