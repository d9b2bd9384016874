"""The guide "Tiny models and single layers" runs unchanged: Python, commands and what they print."""

from pathlib import Path

import pytest
from support.guides import blocks_of, run_blocks

GUIDE = Path(__file__).parents[3] / "docs" / "tiny-models.md"


@pytest.mark.slow
def test_every_block_runs_in_order(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = blocks_of(GUIDE)
    run_blocks(blocks, str(GUIDE))
    assert {language for language, _ in blocks} == {"python", "console"}
