"""The guide "Coming from transformers' Flax" runs as it stands, and names what there is."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest
from support.guides import blocks_of, run_blocks

import ckptbridge_transformers
from ckptbridge_transformers import compat

GUIDE = Path(__file__).parents[3] / "docs" / "coming-from-transformers.md"
OLD = (
    "convert_pytorch_sharded_state_dict_to_flax",
    "convert_pytorch_state_dict_to_flax",
    "load_flax_checkpoint_in_pytorch_model",
    "load_flax_weights_in_pytorch_model",
    "load_pytorch_checkpoint_in_flax_state_dict",
    "rename_key_and_reshape_tensor",
)


@pytest.mark.slow
def test_every_block_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = [block for block in blocks_of(GUIDE) if block[0] != "sh"]
    # The commands convert the folder that the program makes.
    blocks.sort(key=lambda block: block[0] == "console")
    assert [language for language, _ in blocks].count("console") == 1
    run_blocks(blocks, str(GUIDE))


def test_every_old_function_has_a_row_and_its_old_arguments():
    from transformers import modeling_flax_pytorch_utils as originals

    rows = re.findall(r"^\| `(\w+)\(", GUIDE.read_text(), re.MULTILINE)
    for name in OLD:
        assert name in rows
        ours = inspect.signature(getattr(compat, name)).parameters
        assert list(ours) == list(inspect.signature(getattr(originals, name)).parameters)


def test_every_public_name_is_there():
    for name in ckptbridge_transformers.__all__:
        assert getattr(ckptbridge_transformers, name).__doc__
    with pytest.raises(AttributeError, match="'nothing'"):
        ckptbridge_transformers.nothing  # noqa: B018 - the access is the test
