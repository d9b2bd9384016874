"""Rule files: read with their lines, checked whole, and the command that does so alone."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import flax.serialization
import numpy as np
import pytest
import safetensors.numpy
from click.testing import CliRunner
from hypothesis import given, strategies as st
from support.errors import refused

from bridge_core import LimitExceeded, Rule, RuleError, UsageError
from bridge_core.cli import main
from bridge_core.cli.options import rules_option
from bridge_core.errors import PermissionDenied, SourceIsFolder, SourceNotFound
from bridge_core.io import toml_text
from bridge_core.rules import load_rules, toml_file
from bridge_core.rules.rule_sets import as_rules

WHOLE = """\
source = "torch"
target = "flax"

[[rule]]
source = "h.{i:int}.attn.c_attn.weight"
target = ["blocks.attn.query.kernel", "blocks.attn.key.kernel", "blocks.attn.value.kernel"]
rearrange = "(q k v) in -> i in q, i in k, i in v"
sizes = { q = "config.n_head" }
[[rule]]
source = "transformer.**"
rename = "**"
[[rule]]
source = "lm_head"
layer = "linear"
[[rule]]
source = "h.*.attn.bias"
drop = "causal mask, made by the model"
optional = true
[[rule]]
target = "blocks.rope.scale"
fill = 1.0
reason = "constant"
[[rule]]
source = ["h.{i:int}.up", "h.{i:int}.gate"]
target = "b_{j:int}.fused"
rearrange = ["pad(o, 10, 12)", "o d, p d -> block d (o p)", "offset(1)"]
where = "i = block*6 + j"
when = { rank = 2, sizes = { o = 10 }, config.model_type = "gpt2" }
[[rule]]
source = "mask"
drop = "made by the model"
fill = -inf
"""


@pytest.fixture
def write(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def write(text):
        Path("r.toml").write_bytes(text if isinstance(text, bytes) else text.encode())
        return "r.toml"

    return write


def error_of(write, text):
    """Return the error that a file is refused with."""
    path = write(text)
    with pytest.raises(RuleError) as caught:
        load_rules(path)
    assert caught.value.path == path
    return caught.value


# -- what is read -----------------------------------------------------------------------------------


def test_a_file_says_what_python_says(write):
    def common(line):
        return {"layouts": ("torch", "flax"), "origin": f"r.toml:{line}"}

    assert load_rules(write(WHOLE)) == (
        Rule.rearrange(
            "h.{i:int}.attn.c_attn.weight",
            ["blocks.attn.query.kernel", "blocks.attn.key.kernel", "blocks.attn.value.kernel"],
            "(q k v) in -> i in q, i in k, i in v",
            sizes={"q": "config.n_head"},
            **common(4),
        ),
        Rule.rename("transformer.**", "**", **common(9)),
        Rule.layer("lm_head", "linear", **common(12)),
        Rule.drop("h.*.attn.bias", "causal mask, made by the model", optional=True, **common(15)),
        Rule.fill("blocks.rope.scale", 1.0, reason="constant", **common(19)),
        Rule.rearrange(
            ["h.{i:int}.up", "h.{i:int}.gate"],
            "b_{j:int}.fused",
            ["pad(o, 10, 12)", "o d, p d -> block d (o p)", "offset(1)"],
            where="i = block*6 + j",
            when={"rank": 2, "sizes": {"o": 10}, "config": {"model_type": "gpt2"}},
            **common(23),
        ),
        Rule.drop("mask", "made by the model", fill=float("-inf"), **common(29)),
    )


@pytest.mark.parametrize(
    ("head", "layouts"),
    [
        ("", None),
        ("source = 'torch'\n", ("torch", "neutral")),
        ("source = 'flax'\ntarget = 'torch'\n", ("flax", "torch")),
    ],
)
def test_the_top_of_a_file_says_whose_names_these_are(write, head, layouts):
    (rule,) = load_rules(write(f"{head}[[rule]]\nsource = 'a'\nrename = 'b'\n"))
    assert rule.layouts == layouts


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("target = 'b'\nops = 'x y -> y x'", "target = 'b'\nrearrange = 'x y -> y x'"),
        ("target = 'b'\nops = ['pad(0)', 'offset(1)']", "target = 'b'\nrearrange = ['pad(0)', 'offset(1)']"),
        ("kind = 'linear'\noptional = true", "layer = 'linear'\noptional = true"),
    ],
)
def test_old_keys_mean_what_their_new_names_mean(write, old, new):
    """Without a warning: files of every release load for ever, and pytest turns warnings into errors."""
    texts = (f"[[rule]]\nsource = 'a'\n{body}\n" for body in (old, new))
    first, second = (load_rules(write(text)) for text in texts)
    assert first == second


@pytest.mark.parametrize(
    ("body", "old", "new"),
    [
        ("target = 'b'\nops = 'x -> x'\nrearrange = 'x -> x'", "ops", "rearrange"),
        ("layer = 'linear'\nkind = 'linear'", "kind", "layer"),
    ],
)
def test_a_rule_with_a_key_under_both_names_is_refused(write, body, old, new):
    summary, line = error_of(write, f"\n[[rule]]\nsource = 'a'\n{body}\n").message.split("\n")
    assert summary == "1 rule is wrong:"
    assert line.startswith("  r.toml:2: ")
    assert f"{old!r}" in line
    assert line.endswith(f"Write only {new!r}.")


def test_a_file_may_have_a_byte_order_mark_and_the_line_ends_of_windows(write):
    text = "\ufeff# rules\r\n[[rule]]\r\nsource = 'a'\r\nrename = 'b'\r\n"
    assert load_rules(write(text))[0].origin == "r.toml:2"


@pytest.mark.parametrize("path_type", [str, Path])
def test_rules_are_given_as_a_path_or_as_rules(write, path_type):
    rule = Rule.rename("a", "b")
    assert len(as_rules(path_type(write(WHOLE)))) == 7
    assert as_rules(rule) == as_rules([rule]) == as_rules(r for r in [rule]) == (rule,)
    assert as_rules(()) == ()


@pytest.mark.parametrize(
    ("value", "named"),
    [
        (3, ("rules=", "got int")),
        (None, ("rules=", "got NoneType")),
        (b"r.toml", ("rules=", "got bytes")),
        ({"a": "b"}, ("rules=", "got dict")),
        ([Rule.rename("a", "b"), "r.toml"], ("rules[1]", "got str")),
        ("", ("path", "empty")),
    ],
)
def test_what_are_no_rules_is_refused(value, named):
    with refused(UsageError, *named, hint='rules="rules.toml" (--rules)'):
        as_rules(value)


# -- lines ------------------------------------------------------------------------------------------

RULE = '[[rule]]\nsource = "{}"\ndrop = "x"\n'


@pytest.mark.parametrize(
    "between",
    [
        "",
        "# [[rule]]\n",
        "# it's \"\n",
        "note = '[[rule]]'\n",
        'note = """\n[[rule]]\n"""\n',
        "note = '''\n[[rule]]\n'''\n",
        'note = """\\"""\n[[rule]]\n"""\n',
        'note = """a"""" # "[\n',
        'note = """"a"""""\n',
        "note = '''a'''' # '[\n",
        'note = "\\"[" # [[\n',
        "note = [\n[['[[rule]]']],\n]\n",
        "note = [\n[['rule']]\n]\n",
        "note = { a = [1, 2] }\n",
    ],
)
def test_headers_are_told_from_texts_arrays_and_comments(write, monkeypatch, between):
    """The unknown key is what the text between stands for; it is allowed here, to be seen past."""
    known = {**toml_file._TYPES, "note": (lambda _: True, "anything")}
    monkeypatch.setattr(toml_file, "_TYPES", known)
    monkeypatch.setattr(toml_file, "_COMMON", ("when", "optional", "note"))
    real = toml_file.Rule.drop
    monkeypatch.setattr(toml_file.Rule, "drop", lambda *a, note=None, **k: real(*a, **k))
    text = RULE.format("a") + between + "\n" + RULE.format("b")
    rules = load_rules(write(text))
    assert [rule.origin for rule in rules] == ["r.toml:1", f"r.toml:{5 + between.count(chr(10))}"]


@pytest.mark.parametrize("header", ["[[rule]]", "  [[ rule ]]  # c", '[["rule"]]', "\t[['rule']]"])
def test_headers_are_found_however_they_are_written(write, header):
    assert load_rules(write(f"\n{header}\nsource = 'a'\nrename = 'b'\n"))[0].origin == "r.toml:2"


@given(st.lists(st.integers(0, 4), min_size=1, max_size=6))
def test_every_rule_has_its_line(gaps):
    text, wanted = "", []
    for number, gap in enumerate(gaps):
        text += "\n" * gap
        wanted.append(text.count("\n") + 1)
        text += RULE.format(f"a{number}")
    assert list(toml_text._rule_lines(text, "r.toml")) == wanted


def test_rules_in_one_line_are_refused(write):
    assert "a line [[rule]]" in error_of(write, "rule = [{ source = 'a', rename = 'b' }]").hint


# -- what is wrong with a rule ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ("sorce = 'a'", ("'sorce'", "Did you mean 'source'?")),
        ("", ("action", "rename, layer, drop, fill, rearrange")),
        ("source = 'a'", ("action", "rename, layer, drop, fill, rearrange")),
        ("target = 'a'", ("'target'", "'source'", 'source = "')),
        ("rename = 'a'", ("'rename'", "'source'", 'source = "')),
        ("source = 'a'\nrearrange = 'x -> x'", ("'rearrange'", "'target'", 'target = "')),
        ("target = 'a'\nops = 'x -> x'", ("'ops'", "'source'", 'source = "')),
        ("target = 'a'\nfill = 1", ("'fill'", "'reason'", 'reason = "')),
        ("source = 'a'\nfill = 1", ("'fill'", "'target'", 'target = "')),
        ("source = 'a'\nrename = 'b'\ntarget = 'c'", ("'target'", "'rename'", "Remove 'target'", "[[rule]]")),
        ("source = 'a'\nrename = 'b'\nops = 'x -> x'", ("'ops'", "'rename'", "Remove 'ops'", "[[rule]]")),
        ("source = 'a'\ndrop = 'b'\nkind = 'linear'", ("'drop'", "'kind'", "Remove 'drop'", "[[rule]]")),
        ("source = 'a'\ntarget = 'b'\nreason = 'c'", ("'reason'", "'target'", "Remove 'reason'")),
        ("source = 3\nrename = 'b'", ("source: ", "pattern", "got 3.")),
        ("source = []\ntarget = 'b'", ("source: ", "pattern", "got [].")),
        ("source = ['a', 1]\ntarget = 'b'", ("source: ", "pattern", "got ['a', 1].")),
        ("source = ['a', 'c']\nrename = 'b'", ("source: ", "'rename'", "got ['a', 'c'].", "[[rule]]")),
        ("target = ['a']\nfill = 1\nreason = 'x'", ("target: ", "'fill'", "got ['a'].", "[[rule]]")),
        ("source = 'a'\ntarget = 'b'\nops = 3", ("ops: ", "equation", "got 3.")),
        ("source = 'a'\ntarget = 'b'\nrearrange = []", ("rearrange: ", "equation", "got [].")),
        ("source = 'a'\ntarget = 'b'\nsizes = 3", ("sizes: ", "{ h = 12 }", "got 3.")),
        ("source = 'a'\ntarget = 'b'\nwhere = 3", ("where: ", "'i = block*6 + j'", "got 3.")),
        ("source = 'a'\nrename = 'b'\nwhen = 'x'", ("when: ", "{ rank = 2 }", "got 'x'.")),
        ("source = 'a'\nrename = 'b'\noptional = 1", ("optional: ", "true or false", "got 1.")),
        ("source = 'a'\nkind = 3", ("kind: ", "layer kind", "got 3.")),
        ("source = 'a'\nlayer = 3", ("layer: ", "layer kind", "got 3.")),
        ("source = 'a'\ndrop = true", ("drop: ", "reason", "got true.")),
        ("source = 'a'\ndrop = ''", ("rule 'a': drop (): ", "reason", 'drop = "')),
        ("source = 'a'\ndrop = 'x'\nfill = '1'", ("fill: ", "number", "got '1'.")),
        ("source = 'a'\nrename = 2024-01-01", ("rename: ", "pattern", "got datetime.date(2024, 1, 1).")),
        ("source = 'a.{'\nrename = 'b'", ("rule 'a.{' -> 'b': ", "'{'", "{i:int}")),
        ("source = 'a*'\nrename = 'b'", ("rule 'a*' -> 'b': ", "'a*'", "layer_{i:int}")),
        ("source = 'a.{i:int}'\nrename = 'b'", ("rule 'a.{i:int}' -> 'b': ", "{i} in 'b'")),
        ("source = 'a'\ntarget = ['b', 'b']\nops = 'x -> x, x'", ("'b' and 'b'", "key")),
        ("source = 'a'\ntarget = 'b'\nops = 'padd(x)'", ("op 'padd'", "Did you mean 'pad'?")),
        ("source = 'a'\ntarget = 'b'\nops = 'x y -> x'", ("'y'", "left side", "1")),
        ("source = 'a'\ntarget = 'b.{i:int}'\nops = 'x -> x'", ("{i}", "'b.{i:int}'", "'i x -> x'")),
        ("source = 'a'\ntarget = 'b'\nops = 'x -> x'\nsizes.x = 1.5", ("sizes.x: ", "got 1.5")),
        ("source = 'a'\ntarget = 'b'\nwhere = 'i = j'", ("where = 'i = j'", "neither side")),
        ("source = 'a'\nrename = 'b'\nwhen.rnk = 1", ("when.rnk", "Did you mean 'rank'?")),
    ],
)
def test_a_rule_that_is_wrong_is_named_with_its_line(write, body, named):
    text = f"{RULE.format('first')}\n[[rule]]\n{body}\n"
    summary, line = error_of(write, text).message.split("\n")
    assert summary == "1 rule is wrong:"
    assert line.startswith("  r.toml:5: ")
    assert [thing for thing in named if thing not in line] == [], line


def test_all_wrong_rules_are_told_at_once_one_line_each(write):
    text = "[[rule]]\nsorce = 'a'\n" + RULE.format("fine") + "[[rule]]\nsource = 'a'\nrename = '{x}'\n"
    summary, *lines = error_of(write, text).message.split("\n")
    assert summary == "2 rules are wrong:"
    assert [line.split()[0] for line in lines] == ["r.toml:1:", "r.toml:6:"]


def test_of_many_wrong_rules_the_first_are_listed_and_the_others_counted(write):
    summary, *lines = error_of(write, "[[rule]]\nsorce = 'a'\n" * 50).message.split("\n")
    assert summary == "50 rules are wrong:"
    assert [line.split()[0] for line in lines[:-1]] == [f"r.toml:{n}:" for n in range(1, 41, 2)]
    assert lines[-1] == "  and 30 more"


@pytest.mark.parametrize(
    ("first", "second", "named"),
    [
        (
            "source = 'a.{i:int}'\ndrop = 'x'",
            "source = 'a.{n:int}'\ndrop = 'y'",
            ("rule 'a.{n:int}': drop (y)", "rule 'a.{i:int}': drop (x)", "match"),
        ),
        ("source = 'a.*'\ndrop = 'x'", "source = 'a.b'\ntarget = 'c'", ("'a.*'", "'a.b' -> 'c'", "match")),
        ("source = 'a'\ntarget = 'c'", "source = 'b'\ntarget = 'c'", ("'a' -> 'c'", "'b' -> 'c'", "make")),
        (
            "source = 'a'\ntarget = 'c'",
            "target = 'c'\nfill = 1\nreason = 'x'",
            ("'a' -> 'c'", "'c': fill with 1", "make"),
        ),
        (
            "source = 'a'\nkind = 'linear'",
            "source = 'a'\nkind = 'embedding'",
            ("linear", "embedding", "match"),
        ),
    ],
)
def test_two_rules_for_one_key_are_refused(write, first, second, named):
    message = error_of(write, f"[[rule]]\n{first}\n[[rule]]\n{second}\n").message
    assert message.startswith("1 rule is wrong:\n  r.toml:4: rule '")
    assert [thing for thing in (*named, "line 1", "pattern") if thing not in message] == [], message


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("source = 'model.**'\nrename = '**'", "source = 'net.**'\nrename = '**'"),
        ("source = 'a'\ntarget = 'c'\noptional = true", "source = 'b'\ntarget = 'c'\noptional = true"),
        ("source = 'a'\ndrop = 'x'", "source = 'a'\nkind = 'linear'"),
        ("source = 'a'\ntarget = 'b'\nwhen.rank = 1", "source = 'a'\ntarget = 'c'\nwhen.rank = 2"),
    ],
)
def test_two_rules_that_may_stand_beside_each_other(write, first, second):
    assert len(load_rules(write(f"[[rule]]\n{first}\n[[rule]]\n{second}\n"))) == 2


# -- what is wrong with a file ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "named", "hint"),
    [
        ("[[rule]]\nsource = \n", ("TOML", "line 2, column 10"), "in quotes"),
        ("[[rule]]\nsource = 'a'\nsource = 'b'\n", ("TOML", "overwrite", "line 3"), ""),
        ("x = " + "[" * 5000, ("TOML",), ""),
        ("x = " + "1" * 5000, ("TOML",), ""),
        (b"# \n\xff", ("UTF-8", "0xff at byte 3", "line 2"), "UTF-8"),
        ("", ("no rules",), "[[rule]]"),
        ("[rule]\nsource = 'a'\n", ("line 1: ", "[[rule]]", "'rule'"), "two brackets"),
        ("rule = ['a']\n", ("line 1: ", "[[rule]]", "'rule'"), "two brackets"),
        ("sorce = 'torch'\n", ("line 1: ", "'sorce'"), "Did you mean 'source'?"),
        ("\nrename = 'b'\n", ("line 2: ", "'rename'"), "below a line [[rule]]"),
        ("source = 3\n", ("line 1: source: ", "framework", "got 3"), ""),
        ("source = ''\n", ("line 1: source: ", "framework", "got ''"), ""),
        ("target = 'flax'\n", ("line 1: ", "target", "source"), 'source = "torch"'),
        ("target = 'torch'\n", ("line 1: ", "target", "source"), 'source = "flax"'),
        ("source = 'flax'\ntarget = 'flax'\n", ("'flax' for both",), ("source", "target")),
        ("source = 'neutral'\n", ("'neutral' for both",), "source"),
    ],
)
def test_a_file_that_holds_no_rules_is_refused(write, text, named, hint):
    path = write(text)
    with refused(RuleError, "r.toml: ", *named, hint=hint):
        load_rules(path)


def test_a_file_that_is_too_large_is_refused_before_it_is_read(write, tmp_path):
    path = write("")
    os.truncate(path, 1_000_001)
    with refused(LimitExceeded, "1000000 bytes", "got 1000001"):
        load_rules(path)


def test_a_line_that_is_too_long_is_refused(write):
    with refused(LimitExceeded, "line 2", "100000", "got 100001"):
        load_rules(write("\n" + "a" * 100_001))


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with refused(SourceNotFound, "none.toml: ", "rule file"):
        load_rules(tmp_path / "none.toml")
    with refused(SourceIsFolder, tmp_path):
        load_rules(tmp_path)


def test_a_file_that_may_not_be_read_is_refused(write, monkeypatch):
    path = write(WHOLE)

    def refuse(*_args, **_more):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    with refused(PermissionDenied, "r.toml", "Permission denied"):
        load_rules(path)


# -- the command ------------------------------------------------------------------------------------

STACKED = """\
source = "torch"
target = "flax"
[[rule]]
source = "model.h.{i:int}.w"
target = "blocks.w"
rearrange = "out in -> i in out"
[[rule]]
source = "model.head.**"
rename = "head.**"
[[rule]]
source = "head"
layer = "linear"
[[rule]]
source = "model.h.{i:int}.mask"
drop = "made by the model"
[[rule]]
target = "rope.scale"
fill = 1
reason = "no source has it"
"""


@pytest.fixture
def weights(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    zero = np.zeros((2, 3), "f4")
    names = ["h.0.w", "h.1.w", "head.weight", "h.0.mask", "h.1.mask", "h.1.extra"]
    torch = {f"model.{name}": zero for name in names}
    safetensors.numpy.save_file(torch, "torch.safetensors", metadata={"format": "pt"})
    stacked = np.zeros((2, 3, 2), "f4")
    tree = {"params": {"blocks": {"w": stacked}, "rope": {"scale": zero}, "head": {"kernel": zero}}}
    Path("flax.msgpack").write_bytes(flax.serialization.to_bytes(tree))


def check(*arguments):
    return CliRunner().invoke(main, ["rules", "check", *arguments])


def test_the_command_tells_what_every_rule_does(write):
    result = check(write(STACKED))
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        "r.toml:3: rule 'model.h.{i:int}.w' -> 'blocks.w'; out in -> i in out",
        "r.toml:7: rule 'model.head.**' -> 'head.**'",
        "r.toml:10: rule 'head': layer linear",
        "r.toml:13: rule 'model.h.{i:int}.mask': drop (made by the model)",
        "r.toml:16: rule 'rope.scale': fill with 1 (no source has it)",
        "5 rules are well formed",
    ]


def test_the_command_tells_of_all_that_is_wrong(write):
    result = check(write("[[rule]]\nsorce = 'a'\n[[rule]]\nsource = 'a.*'\nrename = 'b'\n"))
    assert result.exit_code == 1
    lines = result.stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["r.toml:1:", "r.toml:3:"]
    assert result.stderr == "error: r.toml: 2 rules are wrong. [CKB-102]\n"


def test_a_file_that_is_not_there_is_a_mistake_in_the_call(tmp_path):
    assert check(str(tmp_path / "none.toml")).exit_code == 2
    assert check().exit_code == 2


def test_the_command_counts_the_names_on_both_sides(write, weights):
    result = check(write(STACKED), "--source", "torch.safetensors", "--like", "flax.msgpack")
    assert (result.exit_code, result.stderr) == (0, "")
    notes = [line.rpartition("  (")[2] for line in result.stdout.splitlines()[:-1]]
    assert notes == ["source 2, target 1)", "source 1)", "source 1)", "source 2)", "target 1)"]


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("out in -> i in out", "out in -> i out in", r"r.toml:3: tensor 'model.h.0.w'.*\[2, 3, 2\], got"),
        ("out in -> i in out", "(h out) in -> i in h out", "r.toml:3: .*got 4"),
        ("model.h.{i:int}.mask", "model.*.{j:int}.w", "r.toml:13: .*match"),
    ],
)
def test_the_command_refuses_rules_that_the_shapes_or_each_other_rule_out(write, weights, old, new, problem):
    result = check(
        write(STACKED.replace(old, new)), "--source", "torch.safetensors", "--like", "flax.msgpack"
    )
    assert result.exit_code == 1
    assert re.search(problem, result.stdout), result.stdout
    assert "error: r.toml: 1 rule" in result.stderr


def test_the_command_refuses_rules_that_meet_on_the_way_back(write, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    zero = np.zeros(3, "f4")
    safetensors.numpy.save_file(
        {"a.x.weight": zero, "b.1.weight": zero}, "torch.safetensors", metadata={"format": "pt"}
    )
    tree = {"params": {"x": {"bias": zero}, "n_1": {"bias": zero}}}
    Path("flax.msgpack").write_bytes(flax.serialization.to_bytes(tree))
    text = """\
source = "torch"
target = "flax"
[[rule]]
source = "a.{name}.weight"
target = "{name}.bias"
[[rule]]
source = "b.{i:int}.weight"
target = "n_{i:int}.bias"
"""
    result = check(write(text), "--source", "torch.safetensors", "--like", "flax.msgpack")
    assert result.exit_code == 1
    assert "'a.{name}.weight'" in result.stdout
    assert "'b.{i:int}.weight'" in result.stdout
    assert "n_1.bias" in result.stdout


def test_the_command_reads_the_rules_the_way_that_the_files_lead(write, weights):
    result = check(write(STACKED), "--source", "flax.msgpack", "--like", "torch.safetensors")
    assert (result.exit_code, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    assert lines[0].endswith("'blocks.w' -> 'model.h.{i:int}.w'; i in out -> out in  (source 1, target 2)")
    assert lines[1].endswith("'head.**' -> 'model.head.**'  (source 1)")
    assert lines[2].endswith("'head': layer linear  (source 1)")
    assert lines[3].endswith("'model.h.{i:int}.mask': may stay missing (made by the model)")
    assert lines[4].endswith("'rope.scale': drop (no source has it)  (source 1)")


@pytest.mark.parametrize("path", ["model.head", "head", "rope", "model.h.1"])
def test_a_layer_is_found_by_its_path_on_either_side_of_a_rename(write, weights, path):
    text = STACKED.replace('"head"', f'"{path}"')
    assert check(write(text), "--source", "flax.msgpack", "--like", "torch.safetensors").exit_code == 0
    forward = check(write(text), "--source", "torch.safetensors", "--like", "flax.msgpack")
    # One path is that of the target alone; at the other is no linear layer.
    assert forward.exit_code == (path in ("rope", "model.h.1"))


def test_a_layer_is_found_by_the_name_that_a_rename_gives_it_in_the_target(write, weights):
    renamed = "[[rule]]\nsource = 'model.h.*.extra'\nrename = 'layers.*.extra'\noptional = true\n"
    path = write(STACKED.replace('"head"', '"layers.1"') + renamed)
    assert check(path, "--source", "flax.msgpack", "--like", "torch.safetensors").exit_code == 0


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        (
            "h.{i:int}.w",
            "g.{i:int}.w",
            "r.toml:3: rule 'model.g.{i:int}.w' -> 'blocks.w': 'model.g.{i:int}.w'",
        ),
        ("blocks.w", "blocks.x", "'blocks.x' matches no name in flax.msgpack"),
        ("model.head.**", "net.**", "'net.**' matches no name in torch.safetensors"),
        (
            '"head"',
            '"tail"',
            "r.toml:10: rule 'tail': layer linear: 'tail' matches no name in torch.safetensors",
        ),
        ("mask", "bias", "'model.h.{i:int}.bias' matches no name in torch.safetensors"),
        ("rope.scale", "rope.shift", "'rope.shift' matches no name in flax.msgpack"),
    ],
)
def test_a_rule_that_matches_nothing_is_refused(write, weights, old, new, problem):
    files = ("--source", "torch.safetensors", "--like", "flax.msgpack")
    assert STACKED.count(old) == 1
    result = check(write(STACKED.replace(old, new)), *files)
    assert result.exit_code == 1
    assert problem in result.stdout
    assert "matches no name" in result.stderr or "match no name" in result.stderr
    optional = STACKED.replace(old, new).replace("[[rule]]", "[[rule]]\noptional = true")
    assert check(write(optional), *files).exit_code == 0


def test_a_rule_under_conditions_may_match_nothing(write, weights):
    text = STACKED + RULE.format("none") + "when.config.model_type = 'gpt2'\n"
    assert check(write(text), "--source", "torch.safetensors").exit_code == 0


def test_weights_of_other_frameworks_are_refused(write, weights):
    result = check(write(STACKED), "--source", "torch.safetensors", "--like", "torch.safetensors")
    assert result.exit_code == 1
    assert "torch and flax" in result.stderr
    assert "torch to torch" in result.stderr


def test_the_command_prints_one_document(write, weights):
    result = check(write(STACKED), "--source", "torch.safetensors", "--like", "flax.msgpack", "--json")
    document = json.loads(result.stdout)
    assert (document["file"], document["layouts"]) == ("r.toml", ["torch", "flax"])
    assert document["rules"][0] == {
        "origin": "r.toml:3",
        "action": "rearrange",
        "sources": ["model.h.{i:int}.w"],
        "targets": ["blocks.w"],
        "kind": None,
        "reason": "",
        "value": None,
        "ops": ["out in -> i in out"],
        "sizes": {},
        "where": None,
        "when": "",
        "optional": False,
        "source_matches": {"model.h.{i:int}.w": 2},
        "target_matches": {"blocks.w": 1},
    }
    assert [rule["action"] for rule in document["rules"]] == ["rearrange", "rename", "layer", "drop", "fill"]


def test_a_document_is_printed_for_rules_that_match_nothing_too(write, weights):
    result = check(write(STACKED.replace("h.{", "g.{")), "--source", "torch.safetensors", "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["rules"][0]["source_matches"] == {"model.g.{i:int}.w": 0}
    assert "r.toml:3: rule 'model.g.{i:int}.w'" in result.stderr


def test_the_option_takes_a_path_and_gives_no_rules_without_one():
    import click

    @click.command()
    @rules_option
    def command(rules, recipe):
        click.echo(repr(rules))

    assert CliRunner().invoke(command, ["--rules", "r.toml"]).stdout == "'r.toml'\n"
    assert CliRunner().invoke(command, []).stdout == "()\n"


@pytest.mark.parametrize("arguments", [("rules",), ("rules", "check")])
def test_each_help_has_examples(arguments):
    result = CliRunner().invoke(main, [*arguments, "--help"])
    assert result.exit_code == 0
    assert "  ckptbridge rules check rules.toml\n" in result.stdout.split("Examples:")[1]
    assert "\n  rules " in CliRunner().invoke(main, ["--help"]).stdout
