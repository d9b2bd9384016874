"""The guide "MaxText to Hugging Face and back" runs as it is: Python, commands and what they print."""

from pathlib import Path

import pytest
from support.guides import blocks_of, run_blocks

GUIDE = Path(__file__).parents[2] / "docs" / "maxtext.md"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # jax and flax, on import
def test_every_block_runs_in_order(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = [block for block in blocks_of(GUIDE) if block[0] != "sh"]
    run_blocks(blocks, str(GUIDE))
    assert {language for language, _ in blocks} == {"python", "console"}
