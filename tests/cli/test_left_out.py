"""What permissions leave out or unfilled is in the output of every command that plans a conversion."""

import json

import numpy as np
import pytest
from click.testing import CliRunner
from support.rule_files import saved

from bridge_core.cli import main

SOURCE = {"fc.weight": np.ones((5, 4), "f4"), "fc.bias": np.ones(5, "f4"), "old.table": np.ones((2, 3), "f4")}
LIKE = {
    "fc.kernel": np.zeros((4, 5), "f4"),
    "fc.bias": np.zeros(5, "f4"),
    "extra.kernel": np.zeros((5, 2), "f4"),
    "extra.bias": np.zeros(2, "f4"),
}
ALLOWED = ("--allow-missing", "extra.*", "--allow-unexpected", "old.*")


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    saved(SOURCE, "torch", tmp_path / "s.safetensors")
    saved(LIKE, "flax", tmp_path / "t.msgpack")
    assert run("convert", "s.safetensors", "r.msgpack", "--to", "flax", "--like", "t.msgpack", *ALLOWED)
    return tmp_path


def run(*arguments):
    result = CliRunner().invoke(main, [*arguments])
    assert result.exit_code == 0, result.output
    return result.stdout


COMMANDS = {
    "convert": ("convert", "s.safetensors", "o.msgpack", "--to", "flax", "--like", "t.msgpack", *ALLOWED),
    "plan": ("plan", "s.safetensors", "--to", "flax", "--like", "t.msgpack", *ALLOWED),
    "verify": ("verify", "s.safetensors", "r.msgpack", "--allow-unexpected", "old.*"),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_what_is_left_out_is_listed(files, command):
    text = run(*COMMANDS[command])
    assert "old.table (allowed as unexpected)" in text
    if command != "verify":
        assert "left unfilled" in text
        assert "extra.kernel" in text
        (files / "o.msgpack").unlink(missing_ok=True)
    found = json.loads(run(*COMMANDS[command], "--json"))
    assert [entry["name"] for entry in found["left_out"]] == ["old.table"]
    if command != "verify":
        assert [name.removeprefix("params.") for name in found["allowed_missing"]] == [
            "extra.kernel",
            "extra.bias",
        ]


def test_verify_lists_what_a_model_leaves_unfilled(files):
    pytest.importorskip("flax")
    (files / "nets_of_left_out.py").write_text(
        "from flax import nnx\n"
        "class Net(nnx.Module):\n"
        "    def __init__(self):\n"
        "        self.fc = nnx.Linear(4, 5, rngs=nnx.Rngs(0))\n"
        "        self.extra = nnx.Linear(5, 2, rngs=nnx.Rngs(0))\n"
    )
    text = run("verify", "s.safetensors", "r.msgpack", "--model", "nets_of_left_out:Net", *ALLOWED)
    assert text.startswith("equal: 2 tensors")
    assert "left unfilled:\n  extra.bias\n  extra.kernel\n" in text
