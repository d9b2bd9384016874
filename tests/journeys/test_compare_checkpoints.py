"""The guide "Two files that should be equal and are not" runs as it is."""

from pathlib import Path

from support.guides import blocks_of, run_blocks

GUIDE = Path(__file__).parents[2] / "docs" / "compare-checkpoints.md"


def test_every_block_runs_in_order(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = blocks_of(GUIDE)
    run_blocks(blocks, str(GUIDE))
    assert {language for language, _ in blocks} == {"python", "console"}
