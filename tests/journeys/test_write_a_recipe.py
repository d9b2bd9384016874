"""The guide to recipes is true: its recipe, its commands and its proof are run."""

import inspect
from pathlib import Path

from support.guides import blocks_of, run_blocks

GUIDE = Path(__file__).parents[2] / "docs" / "write-a-recipe.md"


def test_the_guide_is_true(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    contract = run_blocks(blocks_of(GUIDE), str(GUIDE))["TestTagger"]()
    tests = [name for name in dir(contract) if name.startswith("test_")]
    assert len(tests) > 5
    for name in tests:
        test = getattr(contract, name)
        place = tmp_path / name
        place.mkdir()
        test(**({"tmp_path": place} if "tmp_path" in inspect.signature(test).parameters else {}))
