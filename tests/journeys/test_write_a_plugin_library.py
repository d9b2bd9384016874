"""The page on libraries is true: folders are converted there and back without an option."""

import pytest
from support.guides import blocks_of, run_blocks
from support.plugin_pages import PAGES, run_tests_of, written_files

PAGE = "write-a-library.md"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # jax and flax, on import
def test_the_page_is_true(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_blocks([block for block in blocks_of(PAGES / PAGE) if block[0] != "sh"], PAGE)
    assert (tmp_path / "back" / "our_model.json").read_text() == (
        tmp_path / "classifier" / "our_model.json"
    ).read_text()


@pytest.mark.slow
def test_its_tests_pass(tmp_path, monkeypatch):
    written_files(PAGE, tmp_path)
    assert run_tests_of(tmp_path, "test_our_library", monkeypatch) >= 11
