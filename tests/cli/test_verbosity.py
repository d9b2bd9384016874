"""What the library logs, who sees it, and that it prints nothing by itself."""

import logging
import subprocess
import sys

import numpy as np
import pytest
from click.testing import CliRunner
from safetensors.numpy import save_file

import bridge_core
from bridge_core.cli import main


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "model.safetensors"
    save_file({"fc.weight": np.ones((3, 4), "f4"), "fc.bias": np.ones(3, "f4")}, path)
    return path


def test_a_program_that_listens_hears_each_stage(source, tmp_path, caplog, capsys):
    with caplog.at_level(logging.INFO, logger="ckptbridge"):
        bridge_core.convert(source, tmp_path / "model.msgpack", to="flax")
    assert {record.name for record in caplog.records} == {"ckptbridge.checkpoint", "ckptbridge.conversion"}
    assert str(source) in caplog.text
    assert "'structure': 2" in caplog.text
    assert capsys.readouterr() == ("", "")


def test_the_command_shows_it_when_asked_and_only_then(source, tmp_path):
    shown = []
    for words in (["-v"], ["-vv"], []):
        target = tmp_path / f"{len(shown)}.msgpack"
        result = CliRunner().invoke(main, ["convert", str(source), str(target), "--to", "flax", *words])
        assert result.exit_code == 0
        shown.append(result.stderr.splitlines())
    assert {line.split(":")[0] for line in shown[0]} == {"ckptbridge.checkpoint", "ckptbridge.conversion"}
    assert len(shown[1]) >= len(shown[0])
    assert shown[2] == []
    before = CliRunner().invoke(main, ["-v", "inspect", str(source)])
    assert before.stderr.startswith("ckptbridge.checkpoint: ")
    assert logging.getLogger("ckptbridge").handlers == []


def test_nothing_is_printed_and_logging_is_not_imported_for_it(source, tmp_path):
    code = f"""
import sys, bridge_core
bridge_core.convert({str(source)!r}, {str(tmp_path / "out.msgpack")!r}, to="flax")
assert "logging" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
