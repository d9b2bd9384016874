"""``--only`` on the command line: convert, plan, explain and verify take it, and say what was left out."""

import json

import numpy as np
import pytest
from click.testing import CliRunner
from safetensors.numpy import load_file, save_file
from support.schemas import check_document

from bridge_core.cli import main

SOURCE = {f"layers.{i}.fc.weight": np.full((3, 4), i, "f4") for i in range(4)}
SOURCE |= {f"layers.{i}.fc.bias": np.full(3, i, "f4") for i in range(4)}
SOURCE |= {"table": np.ones((9, 2), "f4")}
TWO = ("--only", "layers=2", "--only", "table=5")


@pytest.fixture
def source(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_file(SOURCE, "s.safetensors")


def run(*arguments, code=0):
    result = CliRunner().invoke(main, [*arguments])
    assert result.exit_code == code, result.output
    return result.stdout if code == 0 else result.stderr


def test_convert_and_verify(source):
    text = run("convert", "s.safetensors", "o.safetensors", "--to", "flax", *TWO)
    assert "only layers=2, table=5: 5 of 9 tensors" in text
    assert "table float32[5, 2] of float32[9, 2]" in text
    assert set(load_file("o.safetensors")) == {
        *(f"layers.{i}.fc.{leaf}" for i in range(2) for leaf in ("kernel", "bias")),
        "table",
    }
    run("verify", "s.safetensors", "o.safetensors", *TWO)
    run("verify", "s.safetensors", "o.safetensors", "--only", "layers=3", code=1)


def test_documents(source):
    plan = json.loads(run("plan", "s.safetensors", "--to", "flax", *TWO, "--json"))
    check_document("plan", plan)
    report = json.loads(run("convert", "s.safetensors", "o.msgpack", "--to", "flax", *TWO, "--json"))
    check_document("convert", report)
    assert plan["only"] == report["only"]
    assert report["only"]["taken"]["tensors"] == report["tensors"] == 5
    check_document("verify", json.loads(run("verify", "s.safetensors", "o.msgpack", *TWO, "--json")))


def test_explain_shows_both(source):
    asked = ("--to", "flax", "--only", "layers.1")
    assert "layers.1.fc.kernel" in run("explain", "s.safetensors", "layers.1.fc.weight", *asked)
    assert "left out by choice" in run("explain", "s.safetensors", "layers.2.fc.weight", *asked)
    assert "left out by choice" in run("explain", "s.safetensors", "table", *asked)


@pytest.mark.parametrize("only", ["layers=0", "layers=x", "layers=9", "laiers", "**.**", "table[2]=1"])
def test_wrong_ones_are_errors_of_usage(source, only):
    said = run("plan", "s.safetensors", "--to", "flax", "--only", only, code=2)
    assert "--only" in said
    assert "only=" not in said


def test_help_has_an_example():
    assert "--only model.layers=2" in run("convert", "--help")
