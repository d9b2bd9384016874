"""Limits of rule files: what is hostile is refused before it costs anything."""

from __future__ import annotations

import pytest
from support.errors import refused

from bridge_core import LimitExceeded, Rule, RuleError
from bridge_core.io import toml_text
from bridge_core.rules import load_rules, overlapping

RULE = '[[rule]]\nsource = "a{}"\nrename = "b{}"\n'


def load(tmp_path, text):
    path = tmp_path / "r.toml"
    path.write_text(text)
    return load_rules(path)


@pytest.mark.parametrize(
    "key",
    [
        "a." * 65 + "a = 1",
        "a . " * 65 + "a = 1",
        "'a'." * 65 + "a = 1",
        '"a.".' * 65 + "a = 1",
        "[" + "a." * 65 + "a]",
        "[[" + "a." * 65 + "a]]",
        "x = {" + "a." * 65 + "a = 1}",
        "x = [{" + "a." * 65 + "a = 1}]",
    ],
)
def test_a_key_with_too_many_dots_is_refused(tmp_path, monkeypatch, key):
    """Before tomllib reads it."""
    monkeypatch.setattr(toml_text.tomllib, "loads", None)
    with refused(LimitExceeded, "r.toml: line 2: ", "64 dots"):
        load(tmp_path, "\n" + key)


def test_all_keys_together_may_not_have_too_many_dots(tmp_path, monkeypatch):
    monkeypatch.setattr(toml_text.tomllib, "loads", None)
    text = "".join(f"k{number}.{'a.' * 59}a = 1\n" for number in range(200))
    with refused(LimitExceeded, "line 167: ", "10000 in all"):
        load(tmp_path, text)


@pytest.mark.parametrize(
    "dots",
    [
        "# " + "a." * 100,
        "note = '" + "a." * 100 + "'",
        'note = "' + "a." * 100 + '\\""',
        "note = '''\n" + "a." * 100 + "\n'''",
        'note = """\n' + "a." * 100 + '\n"""',
        "note = [" + "1.5, " * 100 + "]",
        "\n".join(f"note{number} = 1.5" for number in range(100)),
    ],
)
def test_dots_in_texts_comments_and_numbers_are_none_of_keys(tmp_path, dots):
    text = "".join(RULE.format(n, n) for n in range(2)) + "\n"
    lines = list(toml_text._rule_lines(dots + "\n" + text, "r.toml"))
    assert lines == [dots.count("\n") + 2, dots.count("\n") + 5]


@pytest.mark.parametrize(
    "text",
    [
        '\\"""\n' * 20_000,
        "a'''\n" * 20_000 + "'",
        'a"""\n' * 20_000 + "\\",
        '"' * 50_001,
        '"""' + '\\"""\n' * 20_000 + "\\",
        (" " * 50_000 + "\n") * 4 + "y = 1\n",
        ("\t" * 50_000 + "[" * 40_000 + "\n") * 4,
        "x = " + "[" * 90_000,
        "x = " + "{a=" * 30_000,
    ],
)
def test_hostile_text_is_looked_at_once(tmp_path, text):
    """Quadratic search would take minutes."""
    with pytest.raises(RuleError):
        load(tmp_path, text)


def test_too_many_rules_are_refused_before_they_are_read(tmp_path):
    with refused(LimitExceeded, "4096", "got 4097"):
        load(tmp_path, "[[rule]]\n" * 4097)


def test_equal_rules_are_paired_with_the_first_only():
    rules = [Rule.drop("a.*", f"reason {number}") for number in range(300)]
    assert [(a.reason, b.reason) for a, b in overlapping(rules)] == [
        ("reason 0", f"reason {number}") for number in range(1, 300)
    ]


def test_tables_are_multiplied_only_within_limits(tmp_path):
    rows = ", ".join(f'"r{number}"' for number in range(256))
    names = [f"t{number}" for number in range(60)]
    pattern = ".".join(f"{{{name}}}" for name in names)
    text = "[tables]\n" + "".join(f"{name} = [{rows}]\n" for name in names)
    with refused(RuleError, "r.toml:62: ", f"{256**60}", "at most 256"):
        load(tmp_path, text + f'[[rule]]\nsource = "{pattern}"\nrename = "n.{pattern}"\n')
    each = "".join(f'[[rule]]\nsource = "a{n}.{{t}}"\nrename = "b{n}.{{t}}"\n' for n in range(17))
    with refused(LimitExceeded, "4096", "got 4352"):
        load(tmp_path, f"[tables]\nt = [{rows}]\n{each}")
    assert len(load(tmp_path, f"[tables]\nt = [{rows}]\n" + each.split('[[rule]]\nsource = "a1.')[0])) == 256


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[tables]\n" + "".join(f"t{n} = ['a']\n" for n in range(257)), ("line 1: tables: ", "256", "257")),
        (
            "[tables]\nt = [" + ", ".join(f"'{n}'" for n in range(257)) + "]\n",
            ("line 2: tables.t: ", "256", "257"),
        ),
        ("[sizes]\n" + "".join(f"s{n} = 1\n" for n in range(257)), ("line 1: sizes: ", "256", "257")),
        (
            "[prefix]\nsource = [" + ", ".join(f"'{n}'" for n in range(65)) + "]\n",
            ("line 2: prefix.source: ", "64", "65"),
        ),
    ],
)
def test_sections_have_limits(tmp_path, text, named):
    with refused(RuleError, *named):
        load(tmp_path, text + RULE.format("", ""))


def test_long_texts_are_cut_in_messages(tmp_path):
    with pytest.raises(RuleError) as caught:
        load(tmp_path, f'[[rule]]\nsource = "{"{" * 90_000}"\nrename = "b"\n' * 3)
    assert len(str(caught.value)) < 10_000
    with pytest.raises(RuleError) as caught:
        load(tmp_path, f"{'k' * 90_000} = 1\n")
    assert len(str(caught.value)) < 1000
