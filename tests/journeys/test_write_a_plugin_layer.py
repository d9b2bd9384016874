"""The page on layers is true: its layer converts both ways, in a notebook, as a file, and installed."""

import numpy as np
import pytest
from click.testing import CliRunner
from support.guides import blocks_of, run_blocks
from support.plugin_pages import PAGES, run_tests_of, source_of, written_files
from support.strange_plugins import install, installed

from bridge_core import convert, default_registry, open_state, save_state
from bridge_core.cli import main

PAGE = "write-a-layer.md"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # jax and flax, on import
def test_the_page_is_true(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_blocks([block for block in blocks_of(PAGES / PAGE) if block[0] != "sh"], PAGE)
    with open_state("net.safetensors") as source, open_state("torch.safetensors") as back:
        for name in source:
            assert np.array_equal(source[name], back[name])


def test_a_layer_takes_ten_lines():
    cell = next(
        text for _, text in blocks_of(PAGES / PAGE) if text.startswith("from bridge_core import custom")
    )
    lines = [line for line in cell.splitlines() if line.strip() and not line.startswith(("from", "import"))]
    assert lines[0].startswith("gated = custom_layer(")
    assert len(lines) <= 10


def test_installed_it_is_found_by_itself(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    site = install(tmp_path / "site", {"gated-layers": source_of(PAGE, "gated_layers")})
    weights = {"mix.weight": np.arange(48, dtype="f4").reshape(8, 6), "mix.bias": np.arange(8, dtype="f4")}
    save_state(weights, "a.safetensors")
    (tmp_path / "rules.toml").write_text('[[rule]]\nsource = "mix"\nlayer = "gated_linear"\n')
    with installed(site):
        listed = CliRunner().invoke(main, ["plugins"]).stdout
        assert "gated_layers_plugin (gated-layers 2.5)\n  kind: gated_linear\n" in listed
        convert("a.safetensors", "b.msgpack", to="flax", rules="rules.toml")
        convert("b.msgpack", "c.safetensors", to="torch")
        with open_state("b.msgpack") as state:
            assert np.array_equal(state["mix.gate_kernel"], weights["mix.weight"][:4].T)
        with open_state("c.safetensors") as state:
            assert all(np.array_equal(state[name], value) for name, value in weights.items())
    assert "gated_linear" not in default_registry().kinds


@pytest.mark.slow
def test_its_tests_pass(tmp_path, monkeypatch):
    written_files(PAGE, tmp_path)
    assert run_tests_of(tmp_path, "test_gated", monkeypatch) >= 7
