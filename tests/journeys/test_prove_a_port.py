"""The guide "The weights are right and the outputs are not" runs as it stands."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from support.guides import blocks_of, run_blocks

GUIDE = Path(__file__).parents[2] / "docs" / "prove-a-port.md"
BLOCKS = blocks_of(GUIDE)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # jax and flax, on import
def test_every_block_runs_in_order(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    try:
        run_blocks(BLOCKS, str(GUIDE))
    finally:
        sys.modules.pop("mynet", None)
    page = (tmp_path / "proof.html").read_text()
    assert "blocks_0.norm" in page
    assert "<svg" in page
    assert "http" not in page.replace("http-equiv", "")
