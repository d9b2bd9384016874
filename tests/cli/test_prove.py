"""``ckptbridge prove``: what it prints, writes and returns; two torch models, of which one has a mistake."""

import json
import sys
from html.parser import HTMLParser

import pytest
from click.testing import CliRunner
from support.schemas import check_document

from bridge_core.cli import main

MODELS = """
import numpy as np
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, name="norm", eps=1e-5, slope=0.0):
        super().__init__()
        self.name, self.slope = name, slope
        self.up = nn.Linear(6, 8)
        self.add_module(name, nn.LayerNorm(8, eps))
        self.down = nn.Linear(8, 3)

    def forward(self, x):
        return self.down(nn.functional.leaky_relu(getattr(self, self.name)(self.up(x)), self.slope))

def source(): return Net().eval()
def same(): return Net("ln").eval()
def eps(): return Net("ln", 1e-2).eval()
def slope(): return Net("ln", slope=0.5).eval()
def inputs(): return np.random.default_rng(0).standard_normal((4, 6)).astype("f4")
def nothing(): return None
def text(): return "<b>a model</b>"
"""
RULES = '[[rule]]\nsource = "norm.**"\nrename = "ln.**"\n'


@pytest.fixture
def prove(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "proved.py").write_text(MODELS)
    (tmp_path / "rules.toml").write_text(RULES)

    def run(model, *more):
        words = ["prove", "--source-model", "proved:source", "--model", f"proved:{model}"]
        return CliRunner().invoke(main, [*words, "--inputs", "proved:inputs", "--rules", "rules.toml", *more])

    yield run
    sys.modules.pop("proved", None)


class Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.open, self.links, self.seen = [], [], set()

    def handle_starttag(self, tag, attrs):
        self.seen.add(tag)
        self.links += [value for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "br", "line", "circle", "polyline"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag in self.open:
            assert self.open.pop() == tag


def test_equal(prove):
    done = prove("same")
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("equal: ")


def test_different(prove, tmp_path):
    done = prove("eps", "--html", "proof.html", "--json")
    assert done.exit_code == 1, done.output
    document = json.loads(done.stdout)
    check_document("prove", document)
    assert document["first_difference"]["target"] == "ln"
    assert [one["name"] for one in document["settings"]] == ["eps"]
    page = Tags()
    page.feed((tmp_path / "proof.html").read_text())
    assert not page.open
    assert not page.links
    assert {"svg", "table", "style"} <= page.seen
    assert "script" not in page.seen
    text = prove("eps").stdout
    assert text.startswith("different: ")
    assert "target: ln" in text
    assert "rounding explains" in text


def test_between_modules(prove):
    document = json.loads(prove("slope", "--json").stdout)
    assert document["first_difference"]["before"] == ["down", "down"]


def test_without_a_run(prove):
    document = json.loads(prove("eps", "--no-run", "--json").stdout)
    check_document("prove", document)
    assert document["settings"][0]["source_value"] == "1e-05"
    assert prove("slope", "--no-run").exit_code == 0  # it is in the code, and in no setting


@pytest.mark.parametrize(("model", "named"), [("nothing", "None"), ("text", "a str"), ("gone", "'gone'")])
def test_usage(prove, model, named):
    done = prove(model)
    assert done.exit_code == 2
    assert named in done.stderr
    assert "--model" in done.stderr
