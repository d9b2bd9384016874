"""README's Python runs as it stands, and its commands name what exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

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
