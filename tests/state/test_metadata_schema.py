"""What the text of a file's metadata may hold: each misfit is named with its place."""

from __future__ import annotations

import json

import pytest
from support.errors import refused

from bridge_core import MalformedFile
from bridge_core.state import load_metadata

LAYER = {"kind": "linear", "evidence": "module", "leaves": ["kernel"], "paths": ["a"]}
RULE = {"rule": {"source": "a"}, "layouts": ["torch", "flax"], "pending": ["a"]}


def text(**fields) -> str:
    return json.dumps({"version": 1, "layout": "neutral", **fields})


def layer(**fields) -> str:
    return text(layers=[{**LAYER, **fields}])


MISFITS = {
    "escaped_names, got 1": text(escaped_names=1),
    "layers, got {}": text(layers={}),
    "layers[0], got 3": text(layers=[3]),
    "layers[0].kind, got 3": layer(kind=3),
    "layers[0].leaves, got 'kernel'": layer(leaves="kernel"),
    "layers[0].leaves[1], got None": layer(leaves=["kernel", None]),
    "layers[0].factors['k'][0], got -1": layer(factors={"k": [-1]}),
    "layers[0].factors['k'][0], got True": layer(factors={"k": [True]}),
    "layers[0].factors['k'][1], got 9223372036854775808": layer(factors={"k": [2, 1 << 63]}),
    "layers[0].factors['k'], got [9223372036854775807": layer(factors={"k": [(1 << 63) - 1] * 500}),
    "layers[0].factors['k'], got 4": layer(factors={"k": 4}),
    "layers[0].forms['torch'], got 1": layer(forms={"torch": 1}),
    "layers[0].doubted, got 'yes'": layer(doubted="yes"),
    "layers[0].origin, got None": layer(origin=None),
    "layers[1].paths, got 'a'": text(layers=[LAYER, LAYER]),
    "layers[0].paths, got 'b'": layer(paths=["a", "b", "b"]),
    "ties, got []": text(ties=[]),
    "ties['a'], got 1": text(ties={"a": 1}),
    "ties['a'], got ''": text(ties={"a": ""}),
    "a name in ties, got ''": text(ties={"": "a"}),
    "collections['a'], got None": text(collections={"a": None}),
    "a name in residuals, got ''": text(residuals={"": ["int64", [], "00" * 8]}),
    "residuals['a'], got ['int64', []]": text(residuals={"a": ["int64", []]}),
    "residuals['a'][0], got 'int65'": text(residuals={"a": ["int65", [], "00" * 8]}),
    "residuals['a'][1][0], got -1": text(residuals={"a": ["int64", [-1], ""]}),
    "residuals['a'][2], got 'xy'": text(residuals={"a": ["int64", [], "xy"]}),
    "residuals['a'], got 3": text(residuals={"a": ["int64", [2], "000000"]}),
    "residuals['a'][1], got [1, 1": text(residuals={"a": ["bool", [1] * 65, "00"]}),
    "empty[0], got 1": text(empty=[1]),
    "forms['flax'], got []": text(forms={"flax": []}),
    "providers['x'], got 3": text(providers={"x": 3}),
    "providers, got 'x'": text(providers="x"),
    "separators['flax'], got '|'": text(separators={"flax": "|"}),
    "separators, got 'x'": text(separators="x"),
    "a name in boxes, got ''": text(boxes={"": ["a"]}),
    "boxes['value'], got 'a'": text(boxes={"value": "a"}),
    "boxes['value'][0], got ''": text(boxes={"value": [""]}),
    "rules[0], got 'a'": text(rules=["a"]),
    "rules[0].rule, got 'a'": text(rules=[{**RULE, "rule": "a"}]),
    "rules[0].layouts, got ['torch']": text(rules=[{**RULE, "layouts": ["torch"]}]),
    "rules[0].pending[0], got 1": text(rules=[{**RULE, "pending": [1]}]),
    "expected an object with 'paths'": text(layers=[{"kind": None}]),
    "layout, got 3": text(layout=3),
}


@pytest.mark.parametrize("place", MISFITS)
def test_a_misfit_is_named_with_its_place_and_a_way_on(place):
    with refused(MalformedFile, "some.file", place, hint=("'ckptbridge'", "--layout")):
        load_metadata(MISFITS[place], path="some.file")


def test_long_values_are_cut_in_messages():
    with refused(MalformedFile, "ties") as caught:
        load_metadata(text(ties="x" * 10_000), path="some.file")
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("version", [True, 1.0, "1", None, 10**30])
def test_another_version_is_refused(version):
    with refused(MalformedFile, "version 1", repr(version), hint="pip install"):
        load_metadata(json.dumps({"version": version}))


def test_what_the_schema_does_not_name_is_ignored():
    plain = load_metadata(text(layers=[LAYER], rules=[RULE]))
    assert plain == load_metadata(
        text(layers=[{**LAYER, "later": {"x": [1]}}], rules=[{**RULE, "later": 1}], later=[None])
    )


def test_names_may_be_anything_that_tensors_are_called():
    _, metadata, _ = load_metadata(text(collections={"": "x"}, ties={"a\\.b": "c"}))
    assert dict(metadata.collections) == {("",): "x"}
    assert dict(metadata.ties) == {("a.b",): ("c",)}
