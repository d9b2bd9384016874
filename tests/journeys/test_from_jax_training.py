"""The guide "From a JAX training run to a PyTorch model" runs as it stands."""

from pathlib import Path

import pytest
from support.guides import blocks_of, run_blocks

GUIDE = Path(__file__).parents[2] / "docs" / "from-jax-training.md"


@pytest.mark.slow  # imports orbax and trains
@pytest.mark.filterwarnings("ignore")  # of jax, flax and orbax, on import and while saving
def test_every_block_runs_in_order(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = [block for block in blocks_of(GUIDE) if block[0] != "sh"]
    run_blocks(blocks, str(GUIDE))
    assert {language for language, _ in blocks} == {"python", "console"}
