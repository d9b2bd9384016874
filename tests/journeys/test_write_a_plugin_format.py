"""The page about formats is true: its plugins work unchanged, outside of this repository."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from support.guides import blocks_of, run_blocks

PAGE = Path(__file__).parents[2] / "docs" / "plugins" / "write-a-format.md"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_blocks(blocks_of(PAGE), "write-a-format.md")
    return tmp_path


def test_the_page_is_true(folder):
    assert {path.name for path in folder.glob("*.py")} == {
        "footer_plugin.py",
        "hex_plugin.py",
        "test_toy.py",
        "toy_plugin.py",
    }
    assert len((folder / "toy_plugin.py").read_text().splitlines()) <= 45


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("toy", marks=pytest.mark.slow),
        pytest.param("hex", marks=pytest.mark.zoo),
        pytest.param("footer", marks=pytest.mark.zoo),
    ],
)
def test_the_formats_of_the_page_keep_their_contract(name, folder):
    own = (folder / "test_toy.py").read_text()
    (folder / f"test_{name}.py").write_text(own.replace("toy", name).replace("Toy", name.capitalize()))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"test_{name}.py"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
