"""Pages that write a plugin: only their code, in a folder outside the project, as a reader would have it."""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from pathlib import Path

import pytest

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


def run_tests_of(folder, module, monkeypatch):
    """Run the tests of a page's module in its folder; return how many they are."""
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    before, count = set(sys.modules), 0
    try:
        for name, value in vars(importlib.import_module(module)).items():
            if name.startswith("Test"):
                tests = [getattr(value(), test) for test in dir(value) if test.startswith("test_")]
            else:
                tests = [value] if name.startswith("test_") else []
            for test in tests:
                place = folder / f"of_{name}_{test.__name__}"
                place.mkdir()
                with pytest.MonkeyPatch.context() as patch:
                    fixtures = {"tmp_path": place, "monkeypatch": patch}
                    wanted = inspect.signature(test).parameters
                    test(**{key: value for key, value in fixtures.items() if key in wanted})
            count += len(tests)
    finally:
        for name in set(sys.modules) - before:
            if str(getattr(sys.modules[name], "__file__", "")).startswith(str(folder)):
                del sys.modules[name]
    return count
