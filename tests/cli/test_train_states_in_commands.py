"""What the commands show of a train state."""

import json

import numpy as np
import pytest
from click.testing import CliRunner
from support.schemas import check_document

from bridge_core import FlatState, save_state
from bridge_core.cli import main

ONES = np.ones((3, 4), "f4")
TREE = {
    "state.params.fc.kernel": ONES,
    "state.params.fc.bias": np.ones(4, "f4"),
    "state.params.bn.scale": np.ones(4, "f4"),
    "state.batch_stats.bn.mean": np.ones(4, "f4"),
    "state.batch_stats.bn.var": np.ones(4, "f4"),
    "state.opt_state.0.mu.fc.kernel": ONES,
    "state.step": np.int32(3),
    "epoch": np.int32(1),
}


@pytest.fixture
def source(tmp_path):
    save_state(FlatState(TREE), tmp_path / "x.npz")
    return str(tmp_path / "x.npz")


def run(*arguments, code=0):
    result = CliRunner().invoke(main, [*arguments])
    assert result.exit_code == code, result.output
    return result.stdout


def test_inspect_lists_branches_and_the_axes_of_weights(source):
    document = json.loads(run("inspect", source, "--json"))
    check_document("inspect", document)
    assert set(document["tensors"]) == set(TREE)
    assert document["tensors"]["state.params.fc.kernel"]["axes"] == ["in", "out"]
    assert "axes" not in document["tensors"]["state.opt_state.0.mu.fc.kernel"]
    rows = {row.pop("name"): row for row in document["collections"]}
    assert rows["state.params"] == {"tensors": 3, "bytes": 80, "weights": True, "reason": ""}
    assert rows["state.opt_state"] == {
        "tensors": 1,
        "bytes": 48,
        "weights": False,
        "reason": "optimizer state",
    }
    assert {name for name, row in rows.items() if row["weights"]} == {"state.params", "state.batch_stats"}
    assert set(rows) == {"state.params", "state.batch_stats", "state.opt_state", "state.step", "epoch"}
    text = run("inspect", source)
    assert "weights: state.params (3 tensors, 80 bytes)" in text
    assert "state.opt_state: optimizer state, 1 tensor, 48 bytes" in text


def test_inspect_of_other_files_has_no_branches(tmp_path):
    save_state(FlatState({"params.fc.kernel": ONES}), tmp_path / "x.npz")
    assert "collections" not in json.loads(run("inspect", str(tmp_path / "x.npz"), "--json"))


def test_explain_takes_the_names_in_the_file(source):
    assert "fc.weight" in run("explain", source, "state.params.fc.kernel", "--to", "torch")
    assert "optimizer state" in run("explain", source, "state.opt_state.0.mu.fc.kernel", "--to", "torch")
    run("explain", source, "state.gone.kernel", "--to", "torch", code=2)


def test_rules_are_checked_against_the_weights(source, tmp_path):
    rules = tmp_path / "rules.toml"
    rules.write_text('source = "flax"\ntarget = "torch"\n[[rule]]\nsource = "fc.**"\nrename = "head.**"\n')
    assert "(source 2)" in run("rules", "check", str(rules), "--source", source)
    assert "head.weight" in run("plan", source, "--to", "torch", "--rules", str(rules))
