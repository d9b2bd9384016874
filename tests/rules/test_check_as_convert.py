"""``rules check`` refuses what a conversion by the same rules and files refuses, and nothing else."""

import json

import numpy as np
import pytest
from click.testing import CliRunner
from support.rule_files import saved

from bridge_core.cli import main

F = np.float32
SOURCE = {
    "enc.fc.weight": np.arange(12, dtype=F).reshape(4, 3),
    "enc.fc.bias": np.arange(4, dtype=F),
    "enc.out.weight": np.arange(8, dtype=F).reshape(2, 4),
    "enc.out.bias": np.arange(2, dtype=F),
    "h.0.w": np.ones((2, 3), F),
    "h.1.w": np.ones((2, 3), F),
    "pos": np.ones((5, 3), F),
}
TARGET = {
    "body.fc.kernel": SOURCE["enc.fc.weight"].T,
    "body.fc.bias": SOURCE["enc.fc.bias"],
    "body.out.kernel": SOURCE["enc.out.weight"].T,
    "body.out.bias": SOURCE["enc.out.bias"],
    "blocks.w": np.ones((2, 3, 2), F),
    "pos": SOURCE["pos"],
}
HEAD = 'source = "torch"\ntarget = "flax"\n'
STACK = '[[rule]]\nsource = "h.{i:int}.w"\ntarget = "blocks.w"\nrearrange = "out in -> i in out"\n'
RENAME = '[[rule]]\nsource = "enc.**"\nrename = "body.**"\n'
GOOD = HEAD + STACK + RENAME
LAYER = '[[rule]]\nsource = "enc.fc"\nlayer = "{}"\n'
WRONG = {
    "kind that does not fit": GOOD + LAYER.format("conv"),
    "kind that is not known": GOOD + LAYER.format("convolution"),
    "layer that holds nothing": GOOD + LAYER.format("linear").replace("enc.fc", "enc"),
    "rename to no place": GOOD.replace("enc.**", "enc.fc.**").replace("body.**", "body.mid.**"),
    "two renames to one name": GOOD + '[[rule]]\nsource = "pos"\nrename = "body.fc.bias"\n',
    "two rules of one tensor": GOOD + '[[rule]]\nsource = "h.0.w"\ndrop = "twice"\n',
    "axes that are not there": GOOD.replace("out in -> i in out", "a out in -> i in out a"),
    "sizes that do not divide": GOOD.replace("out in -> i in out", "(out a=5) in -> i in out a"),
    "pattern that matches nothing": GOOD.replace("h.{i:int}.w", "g.{i:int}.w"),
    "target of another shape": GOOD.replace("i in out", "i out in"),
    "target that is not there": GOOD.replace("blocks.w", "blocks.v"),
    "config that is not there": GOOD + '[[rule]]\nsource = "pos"\ndrop = "x"\nwhen.config.kind = "a"\n',
}
WITHOUT_LIKE = [name for name in WRONG if name[:6] not in ("rename", "target", "config")]


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    saved(SOURCE, "torch", tmp_path / "s.safetensors")
    saved(TARGET, "flax", tmp_path / "t.msgpack")
    return tmp_path


def run(*arguments):
    result = CliRunner().invoke(main, [*arguments])
    assert "Traceback" not in result.output
    return result


@pytest.mark.parametrize("like", [True, False])
def test_good_rules_are_accepted_by_both(files, like):
    (files / "r.toml").write_text(GOOD)
    template = ("--like", "t.msgpack") if like else ()
    converted = run("convert", "s.safetensors", "o.msgpack", "--to", "flax", "--rules", "r.toml", *template)
    assert converted.exit_code == 0, converted.output
    checked = run("rules", "check", "r.toml", "--source", "s.safetensors", *template)
    assert (checked.exit_code, checked.stdout.splitlines()[-1]) == (0, "2 rules are well formed")
    if like:
        checked = run("rules", "check", "r.toml", "--source", "t.msgpack", "--like", "s.safetensors")
        assert checked.exit_code == 0, checked.output


@pytest.mark.parametrize(
    ("name", "like"), [*((name, True) for name in WRONG), *((name, False) for name in WITHOUT_LIKE)]
)
def test_what_a_conversion_refuses_is_refused(files, name, like):
    (files / "r.toml").write_text(WRONG[name])
    template = ("--like", "t.msgpack") if like else ()
    converted = run("convert", "s.safetensors", "o.msgpack", "--to", "flax", "--rules", "r.toml", *template)
    assert converted.exit_code == 1, converted.output
    checked = run("rules", "check", "r.toml", "--source", "s.safetensors", *template)
    assert checked.exit_code == 1, checked.output
    assert checked.stderr.startswith("error: ")


def test_what_only_a_template_decides_is_left_open_without_one(files):
    fill = '[[rule]]\ntarget = "extra"\nfill = 1\nreason = "new"\n'
    condition = '[[rule]]\nsource = "pos"\ndrop = "x"\nwhen.config.kind = "a"\n'
    (files / "r.toml").write_text(GOOD + fill + condition)
    assert run("rules", "check", "r.toml", "--source", "s.safetensors").exit_code == 0


def test_what_the_rules_are_not_about_is_counted(files):
    (files / "r.toml").write_text(GOOD)
    (files / "t.msgpack").unlink()
    saved({**TARGET, "head.kernel": np.ones((2, 2), F)}, "flax", files / "t.msgpack")
    arguments = ("rules", "check", "r.toml", "--source", "s.safetensors", "--like", "t.msgpack")
    checked = run(*arguments)
    assert checked.exit_code == 0
    assert checked.stdout.endswith(": 1 missing\n")
    assert "ckptbridge plan" in checked.stdout
    assert json.loads(run(*arguments, "--json").stdout)["rest"] == "1 missing"


def test_the_layout_can_be_given(files):
    np.savez(files / "s.npz", **{"fc.bias": np.ones(3, F)})
    (files / "r.toml").write_text(HEAD + '[[rule]]\nsource = "fc"\nlayer = "embedding"\n')
    arguments = ("rules", "check", "r.toml", "--source", "s.npz", "--layout", "torch")
    checked = run(*arguments)
    assert checked.exit_code == 1
    assert "got bias [3]" in checked.stderr


def test_a_kind_that_the_source_framework_does_not_have_needs_no_file(files):
    (files / "r.toml").write_text(
        'source = "flax"\ntarget = "torch"\n[[rule]]\nsource = "fc"\nlayer = "weight_norm_transpose_in"\n'
    )
    checked = run("rules", "check", "r.toml")
    assert checked.exit_code == 1
    assert "unknown kind 'weight_norm_transpose_in'" in checked.stderr
