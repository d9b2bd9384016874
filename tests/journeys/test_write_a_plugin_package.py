"""The overview of plugins is true: its plugin is tried, packaged, installed by pip, and found."""

import os
import subprocess
import sys

import pytest
from support.guides import blocks_of, run_blocks
from support.plugin_pages import PAGES, written_files

PAGE = "index.md"


def test_the_page_is_true(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_blocks([block for block in blocks_of(PAGES / PAGE) if block[0] != "sh"], PAGE)


@pytest.mark.slow
def test_pip_installs_the_package_and_the_command_lists_it(tmp_path):
    project, site = tmp_path / "project", tmp_path / "site"
    project.mkdir()
    written_files(PAGE, project)
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(site)]
    done = subprocess.run([*command, str(project)], capture_output=True, text=True, check=False)
    if done.returncode and "hatchling" in done.stderr:
        pytest.skip("pip cannot fetch hatchling, which builds the package")
    assert done.returncode == 0, done.stderr
    path = os.pathsep.join([str(site), *filter(None, sys.path)])
    listed = subprocess.run(
        [sys.executable, "-m", "bridge_core", "plugins"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": path},
    ).stdout
    assert "turned (ckptbridge-turned 0.1.0)\n  transform: torch.turned_linear\n" in listed
