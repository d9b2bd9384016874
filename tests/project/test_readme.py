"""README's Python runs as it stands, and its commands name what exists."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from support.guides import run_commands

from bridge_core import save_state

README = Path(__file__).parents[2] / "README.md"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # jax and flax, on import
def test_python_blocks_run_in_order(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert blocks
    exec(compile("\n".join(blocks), str(README), "exec"), {"__name__": "readme"})


def test_the_first_two_commands_set_everything_up():
    first, second = re.findall(r"```sh\n(.*?)\n```", README.read_text(), re.DOTALL)
    assert "ckptbridge convert" in first
    assert "pytest" in second


def test_the_report_of_the_example_is_what_is_printed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shapes = {"stem.weight": (8, 3, 4, 4), "stem.bias": 8, "cls_token": (1, 1, 8)}
    shapes |= {"head.weight": (5, 8), "head.bias": 5}
    save_state({name: np.zeros(shape, np.float32) for name, shape in shapes.items()}, "vit.safetensors")
    blocks = re.findall(r"```console\n(.*?)```", README.read_text(), re.DOTALL)
    (block,) = (block for block in blocks if "evidence:" in block)
    run_commands(re.sub(r"in [\d.]+ s", "in ... s", block))
