"""The JSON Schema of rule files, for editors: it has the reader's keys, and every rule file fits it."""

from __future__ import annotations

import ast
import functools
import json
import tomllib
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator, ValidationError
from support.guides import blocks_of
from support.schemas import SCHEMAS

from bridge_core import BridgeError, load_rules
from bridge_core.rules import toml_file
from bridge_core.rules.file_head import HEAD_KEYS

ROOT = Path(__file__).parents[2]
FILES = [*ROOT.glob("plugins/*/*/*.toml")]
PAGES = [ROOT / "README.md", *ROOT.glob("docs/*.md")]
TESTS = [*ROOT.glob("tests/*/test_*.py"), *ROOT.glob("plugins/*/tests/test_*.py")]


@functools.cache
def schema():
    return json.loads((SCHEMAS / "rules.json").read_text())


@functools.cache
def validator():
    Draft202012Validator.check_schema(schema())
    return Draft202012Validator(schema())


def strings_of(path):
    """Return the texts in a test that may be rule files."""
    text = path.read_text()
    if "[[rule]]" not in text:
        return []
    nodes = ast.walk(ast.parse(text))
    values = (node.value for node in nodes if isinstance(node, ast.Constant))
    return [value for value in values if isinstance(value, str) and "[[rule]]" in value]


def test_the_schema_has_the_keys_that_are_read():
    assert schema()["properties"].keys() == set(HEAD_KEYS)
    known = {*toml_file._TYPES, *toml_file._OLD_KEYS, "tables"}
    assert schema()["$defs"]["rule"]["properties"].keys() == known
    wanted = {"rename", "layer", "kind", "drop", "fill", "target"}
    assert {keys["required"][1] for keys in schema()["$defs"]["rule"]["anyOf"]} == wanted


def test_every_key_is_described():
    for properties in (schema()["properties"], schema()["$defs"]["rule"]["properties"]):
        for name, value in properties.items():
            described = value if "description" in value else schema()["$defs"][value["$ref"].split("/")[-1]]
            assert described["description"].endswith((".", ";")), name


def test_rule_files_of_the_project_fit(tmp_path):
    texts = [path.read_text() for path in FILES]
    texts += [text for page in PAGES for language, text in blocks_of(page) if language == "toml"]
    texts += [text for path in TESTS for text in strings_of(path)]
    fitting = 0
    for text in texts:
        path = tmp_path / "r.toml"
        path.write_text(text)
        try:
            load_rules(path)
        except BridgeError:
            continue
        validator().validate(tomllib.loads(text.removeprefix("\ufeff")))
        fitting += 1
    assert fitting >= 40


@pytest.mark.parametrize(
    "text",
    [
        "",
        "rules = []",
        "[[rule]]\nsource = 'a'",
        "[[rule]]\nsource = 'a'\nrename = 'b'\nstage = 'c'",
        "[[rule]]\nsource = 'a'\nrename = 'b'\nwhen = { rnak = 2 }",
        "[[rule]]\nsource = 3\nrename = 'b'",
        "[[rule]]\nsorce = 'a'\nrename = 'b'",
        "[tables]\nx = 3\n[[rule]]\nsource = '{x}'\nrename = 'n.{x}'",
        "[tables]\nx = { a = '{b}' }\n[[rule]]\nsource = '{x}'\nrename = 'n.{x}'",
        "[sizes]\nx = 1.5\n[[rule]]\nsource = 'a'\nrename = 'b'",
        "[prefix]\nsorce = 'x'\n[[rule]]\nsource = 'a'\nrename = 'b'",
    ],
)
def test_what_is_refused_does_not_fit(tmp_path, text):
    with pytest.raises(ValidationError):
        validator().validate(tomllib.loads(text.removeprefix("\ufeff")))
    path = tmp_path / "r.toml"
    path.write_text(text)
    with pytest.raises(BridgeError):
        load_rules(path)
