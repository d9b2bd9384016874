"""Pages that write a plugin: their code alone, in a folder outside the project, as a reader would have it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from support.guides import blocks_of

__all__ = ["PAGES", "run_tests_of", "source_of", "written_files"]

ROOT = Path(__file__).parents[2]
PAGES = ROOT / "docs" / "plugins"


def source_of(page, module):
    """Return the text of a module that a page writes."""
    (text,) = (text for language, text in blocks_of(PAGES / page) if text.startswith(f"# {module}.py\n"))
    return text


def written_files(page, folder):
    """Write the files of a page, and nothing else, to a folder."""
    for _, text in blocks_of(PAGES / page):
        name = re.match(r"# (\S+\.(?:py|toml))\n", text)
        if name:
            (folder / name[1]).write_text(text)


def run_tests_of(folder):
    """Run pytest in a folder, by a process of its own; return how many tests passed."""
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", str(folder)],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(folder), *sys.path]))},
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return int(re.search(r"(\d+) passed", ran.stdout)[1])
