"""The guide "From pi0 in JAX to PyTorch" runs unchanged."""

from importlib.metadata import entry_points
from pathlib import Path

import pytest
from click.testing import CliRunner
from support import guides

GUIDE = Path(__file__).parents[2] / "docs" / "pi0.md"
PLUGIN = "ckptbridge_recipes"


class Runner(CliRunner):
    """Loads the recipes where they are not installed."""

    def invoke(self, cli, args=None, **options):
        installed = any(point.value == PLUGIN for point in entry_points(group="ckptbridge"))
        return super().invoke(cli, [*([] if installed else ["--plugin", PLUGIN]), *(args or [])], **options)


@pytest.mark.slow  # imports orbax
@pytest.mark.filterwarnings("ignore")  # of jax and orbax, on import and while saving
def test_every_block_runs_in_order(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(guides, "CliRunner", Runner)
    blocks = [block for block in guides.blocks_of(GUIDE) if block[0] != "sh"]
    guides.run_blocks(blocks, str(GUIDE))
    assert {language for language, _ in blocks} == {"python", "console"}
