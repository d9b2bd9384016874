"""README's first two commands, which people and `.ci/run` copy; `test_doc_blocks` runs the rest."""

from __future__ import annotations

import re
from pathlib import Path

README = Path(__file__).parents[2] / "README.md"


def test_the_first_two_commands_set_everything_up():
    first, second, *_ = re.findall(r"```sh\n(.*?)\n```", README.read_text(), re.DOTALL)
    assert "ckptbridge convert" in first
    assert "pytest" in second
