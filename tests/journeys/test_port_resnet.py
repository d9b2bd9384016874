"""The guide "Port ResNet-50 to Flax" runs as it is: Python, rules, commands and what they print."""

from pathlib import Path

import pytest
from support.guides import blocks_of, run_blocks

GUIDE = Path(__file__).parents[2] / "docs" / "port-resnet.md"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # jax and flax, on import
def test_every_block_runs_in_order(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = blocks_of(GUIDE)
    run_blocks(blocks, str(GUIDE))
    assert {language for language, _ in blocks} == {"python", "toml", "console"}
