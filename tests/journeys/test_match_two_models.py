"""The guide "Match two models" runs as it stands."""

from pathlib import Path

from support.guides import blocks_of, run_blocks

GUIDE = Path(__file__).parents[2] / "docs" / "match-two-models.md"


def test_every_block_runs_in_order(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_blocks(blocks_of(GUIDE), str(GUIDE))
