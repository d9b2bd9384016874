import json
import sys

import pytest
from support.errors import refused
from support.work_parts import list_of, run_all_parts, without_manifest

from bridge_core import MalformedFile, Rule, RuleError, UsageError, default_registry, load_rules
from bridge_core.conversion.given_options import options_as_data, options_of_data, path_as_data
from bridge_core.plugins import loaded_registry
from bridge_core.work import read_work_list

REGISTRY = default_registry()


def there_and_back(**options):
    data = json.loads(json.dumps(options_as_data({"to": "flax", **options}, REGISTRY)))
    return options_of_data(data, path="x")


def test_options_with_their_default_are_left_out():
    given = {
        "like": None,
        "rules": (),
        "accept_guesses": False,
        "allow_missing": (),
        "only": (),
        "step": None,
    }
    assert options_as_data({"to": "flax", **given}, REGISTRY) == {"to": "flax"}


def test_options_come_back_as_they_were_given():
    options = there_and_back(
        only=["a", "b=2"],
        allow_missing=True,
        allow_unexpected="x.*",
        dtype={"**": "bfloat16", "a.*": "float32"},
        max_shard_size="5GB",
        recipe=("name", {"heads": 8, "depths": "3,4"}),
        step=3,
    )
    assert options == {
        "to": "flax",
        "only": ["a", "b=2"],
        "allow_missing": ["**"],
        "allow_unexpected": ["x.*"],
        "dtype": {"**": "bfloat16", "a.*": "float32"},
        "max_shard_size": 5 * 10**9,
        "recipe": ("name", {"heads": 8, "depths": "3,4"}),
        "step": 3,
    }
    assert list(options["dtype"]) == ["**", "a.*"]  # of two patterns the last decides


RULES = """
source = "torch"
target = "flax"

[[rule]]
source = "layers.{i:int}.w"
target = "blocks.{i:int}.w"
rearrange = "out in -> in out"

[[rule]]
source = "old.{x}"
rename = "new.{x}"

[[rule]]
source = "extra.**"
drop = "not needed"
optional = true

[[rule]]
target = "scale"
fill = 1.5
reason = "always one and a half"
"""


def test_rules_come_back_as_they_were_read(tmp_path):
    path = tmp_path / "rules.toml"
    path.write_text(RULES)
    rules = load_rules(path)
    assert there_and_back(rules=path)["rules"] == rules
    assert [rule.label for rule in there_and_back(rules=rules)["rules"]] == [rule.label for rule in rules]


@pytest.mark.parametrize(
    "rule",
    [
        Rule.rename("a.*", "b.*"),
        Rule.layer("x", "linear"),
        Rule.drop("x.**", "why"),
        Rule.rearrange("a", "b", "out in -> in out"),
    ],
)
def test_rules_made_in_python_come_back(rule):
    assert there_and_back(rules=[rule])["rules"] == (rule,)


def test_a_rule_that_no_document_can_hold_is_refused():
    rule = Rule.rename(("a.b",), ("c",))
    with refused(RuleError, "work list", hint="rule file"):
        there_and_back(rules=[rule])


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"to": 3}, "to="),
        ({"step": True}, "step="),
        ({"format": 1}, "format="),
        ({"recipe": 7}, "recipe="),
        ({"workers": 2}, "workers"),
    ],
)
def test_a_value_of_another_type_is_refused(options, named):
    with refused(UsageError, named):
        there_and_back(**options)


@pytest.mark.parametrize(
    ("data", "named"),
    [
        ({"to": "flax", "other": 1}, "other"),
        ({}, "'to'"),
        ({"to": "flax", "rules": [{"rule": {"nothing": 1}, "layouts": [], "label": "here:1"}]}, "here:1"),
        ({"to": "flax", "rules": [3]}, "not valid"),
        ({"to": "flax", "dtype": [1]}, "not valid"),
        ({"to": "flax", "recipe": [1]}, "not valid"),
    ],
)
def test_options_that_cannot_be_read_are_refused(data, named):
    with refused(MalformedFile, "work list", named):
        options_of_data(data, path="x")


def test_paths_become_absolute_and_urls_stay(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert path_as_data("a/b", "src") == str(tmp_path / "a" / "b")
    assert path_as_data("s3://bucket/a", "src") == "s3://bucket/a"
    assert path_as_data("hf://org/name@main/w.npz", "src") == "hf://org/name@main/w.npz"


def test_plugins_that_were_added_and_disabled_travel_with_a_list(tmp_path, monkeypatch):
    (tmp_path / "scaled_layers.py").write_text(
        "from bridge_core import LayerKind, hookimpl\n\n\n"
        "@hookimpl\ndef bridge_layer_kinds():\n"
        '    return [LayerKind("scaled", {"kernel": "in out"})]\n'
    )
    monkeypatch.syspath_prepend(tmp_path)
    registry = loaded_registry(added=["scaled_layers"])
    work = list_of(tmp_path, registry=registry)
    assert work.added_plugins == ("scaled_layers",)
    again = read_work_list(work.to_text())
    run_all_parts(again)
    assert without_manifest(tmp_path / "out")
    monkeypatch.undo()
    sys.modules.pop("scaled_layers")
    with pytest.raises(UsageError, match="scaled_layers"):
        run_all_parts(again)
