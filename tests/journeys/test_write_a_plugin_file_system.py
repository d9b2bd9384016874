"""The page on file systems is true: a checkpoint in an archive is read by its URL."""

import importlib
import sys

import pytest
from support.broken_plugins import run_contract
from support.guides import blocks_of, run_blocks
from support.plugin_pages import PAGES, written_files

PAGE = "write-a-file-system.md"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # jax and flax, on import
def test_the_page_is_true(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_blocks([block for block in blocks_of(PAGES / PAGE) if block[0] != "sh"], PAGE)
    assert not list(tmp_path.glob("run 7*")), "the archive was unpacked"


@pytest.mark.slow
def test_its_tests_pass(tmp_path, monkeypatch):
    written_files(PAGE, tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "contract").mkdir()
    try:
        module = importlib.import_module("test_our_archives")
        outcomes = run_contract(module.TestZipArchives, tmp_path / "contract")
    finally:
        for name in ("test_our_archives", "our_archives"):
            sys.modules.pop(name, None)
    assert outcomes.failed == {}
    assert len(outcomes.passed) > 18
