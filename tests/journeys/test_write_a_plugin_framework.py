"""The page on frameworks is true: dictionaries of numpy convert both ways, as a file and installed."""

import numpy as np
import pytest
from click.testing import CliRunner
from support.guides import blocks_of, run_blocks
from support.plugin_pages import PAGES, run_tests_of, source_of, written_files
from support.strange_plugins import install, installed

from bridge_core import convert, from_neutral, open_state, to_neutral
from bridge_core.cli import main

PAGE = "write-a-framework.md"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # jax and flax, on import
def test_the_page_is_true(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_blocks([block for block in blocks_of(PAGES / PAGE) if block[0] != "sh"], PAGE)
    with open_state("net.npz") as source, open_state("net.safetensors") as made:
        assert np.array_equal(made["fc0.weight"], source["fc0.W"].T)


def test_adapters_are_short():
    assert len(source_of(PAGE, "numpy_adapter").splitlines()) <= 60
    assert len(source_of(PAGE, "tree_adapter").splitlines()) <= 80


def test_installed_it_is_found_by_itself(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    site = install(tmp_path / "site", {"numpy-adapter": source_of(PAGE, "numpy_adapter")})
    weights = {"fc.W": np.arange(12, dtype="f4").reshape(3, 4), "fc.b": np.ones(4, "f4")}
    with installed(site):
        listed = CliRunner().invoke(main, ["plugins"]).stdout
        assert "numpy_adapter_plugin (numpy-adapter 2.5)\n  framework: numpy\n" in listed
        convert(weights, "a.safetensors", to="torch")  # its objects are known
        convert("a.safetensors", "b.npz", to="numpy")
        convert("b.npz", "c.msgpack", to="flax")  # and its names in files
        with open_state("a.safetensors") as torch, open_state("c.msgpack") as flax:
            assert np.array_equal(torch["fc.weight"], weights["fc.W"].T)
            assert np.array_equal(flax["fc.kernel"], weights["fc.W"])
        neutral = to_neutral(weights, framework="numpy")
        back = from_neutral(neutral, framework="numpy", like=weights)
        assert all(np.array_equal(back[name], value) for name, value in weights.items())


@pytest.mark.slow
def test_its_tests_pass(tmp_path, monkeypatch):
    written_files(PAGE, tmp_path)
    assert run_tests_of(tmp_path, "test_numpy_adapter", monkeypatch) >= 30
    assert run_tests_of(tmp_path, "test_live_tree_adapter", monkeypatch) >= 15
