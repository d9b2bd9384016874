"""``ckptbridge prove``: what it prints, writes and returns; two torch models, of which one has a mistake."""

import json
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
from click.testing import CliRunner
from safetensors.numpy import save_file
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
class Odd(Net):
    def __init__(self, do):
        super().__init__("ln")
        self.do = do

    def forward(self, x):
        return self.do(super().forward(x))

def fails(x): raise KeyError("gone")
def ends(x): raise SystemExit(0)
def model_fails(): return Odd(fails)
def model_ends(): return Odd(ends)
def model_of_text(): return Odd(str)
def empty(): return nn.ReLU()
def ended(): raise SystemExit(0)
def half(): return {"source": inputs()}
def wrong_shape(): return np.zeros((4, 7), "f4")
def word(): return "hello"
def nothing(): return None
def text(): return "<b>a model</b>"
"""
RULES = '[[rule]]\nsource = "norm.**"\nrename = "ln.**"\n'


@pytest.fixture
def prove(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "proved.py").write_text(MODELS)
    (tmp_path / "rules.toml").write_text(RULES)

    def run(model, *more, inputs="inputs"):
        words = ["prove", "--source-model", "proved:source", "--model", f"proved:{model}"]
        words += [] if inputs is None else ["--inputs", f"proved:{inputs}"]
        return CliRunner().invoke(main, [*words, "--rules", "rules.toml", *more])

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


@pytest.mark.parametrize(
    ("model", "inputs", "more", "named"),
    [
        ("model_fails", "inputs", (), ("the target", "KeyError", "Correct")),
        ("model_ends", "inputs", (), ("the target", "SystemExit", "Correct")),
        ("model_of_text", "inputs", (), ("the target", "no arrays", "return a tensor")),
        ("empty", "inputs", (), ("the target model", "ReLU", "no weights")),
        ("ended", "inputs", (), ("--model", "SystemExit")),
        ("same", "half", (), ("source only", '"target"')),
        ("same", "wrong_shape", (), ("the source", "--inputs")),
        ("same", "word", (), ("a str", "--inputs")),
        ("same", None, (), ("--inputs", "def inputs")),
        ("same", "inputs", ("--html", "no/such/page.html"), ("page.html", "Create the folder")),
        ("same", "inputs", ("--html", "."), ("--html", "file name")),
        ("same", "inputs", ("--rules", "none.toml"), ("none.toml", "does not exist")),
    ],
)
def test_bad_input_is_refused_with_a_way_out(prove, model, inputs, more, named):
    done = prove(model, *more, inputs=inputs)
    assert done.exit_code == 2, done.output
    assert done.stdout == ""
    for text in named:
        assert text in " ".join(done.stderr.split())


def test_a_checkpoint_that_does_not_fit_is_refused(prove, tmp_path):
    save_file({"up.weight": np.zeros((8, 6), "f4")}, tmp_path / "part.safetensors")
    done = prove("same", "--checkpoint", "part.safetensors")
    assert done.exit_code == 1
    assert "norm.weight" in done.stderr


def test_a_page_replaces_no_checkpoint(prove, tmp_path):
    weights = tmp_path / "part.safetensors"
    save_file({"up.weight": np.zeros((8, 6), "f4")}, weights)
    before = weights.read_bytes()
    done = prove("same", "--html", "part.safetensors")
    assert done.exit_code == 1
    assert "not a page" in done.stderr
    assert weights.read_bytes() == before


def test_settings_of_models_that_need_no_inputs(prove):
    assert prove("eps", "--no-run", inputs=None).exit_code == 1


def test_what_to_do_next_is_the_second_line(prove):
    assert prove("same").stdout.splitlines()[1].startswith("next: Nothing to mend")
    assert "ln" in prove("eps").stdout.splitlines()[1]
