"""``ckptbridge plan --html``: the page is written whole, and nothing is replaced unasked."""

import json

import numpy as np
import pytest
from click.testing import CliRunner
from safetensors.numpy import save_file
from support.pages import Page

from bridge_core.cli import main


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_file(
        {"fc.weight": np.zeros((3, 4), np.float32), "fc.bias": np.zeros(3, np.float32)}, "fc.safetensors"
    )
    save_file({"table.weight": np.zeros((3, 4), np.float32)}, "table.safetensors")

    def call(name, *options):
        return CliRunner().invoke(main, ["plan", name, "--to", "flax", "--layout", "torch", *options])

    return call


def test_the_page_next_to_the_text(run, tmp_path):
    plain = run("fc.safetensors")
    done = run("fc.safetensors", "--html", "plan.html")
    assert done.exit_code == 0
    assert done.stdout == plain.stdout
    page = Page((tmp_path / "plan.html").read_text())
    assert "fc.safetensors, torch to flax" in page.text
    assert page.data["sides"][1]["full"]
    document = run("fc.safetensors", "--html", "other.html", "--json")
    assert json.loads(document.stdout)["exact"]
    assert (tmp_path / "other.html").exists()


def test_a_refused_plan_has_a_page_and_its_exit_code(run, tmp_path):
    done = run("table.safetensors", "--html", "plan.html")
    assert done.exit_code == run("table.safetensors").exit_code == 1
    assert "Why it is refused" in (tmp_path / "plan.html").read_text()


def test_the_commands_to_go_on_with_replace_the_page(run):
    document = json.loads(run("table.safetensors", "--html", "plan.html", "--json").stdout)
    assert document["steps"] == []
    done = run("table.safetensors", "--html", "plan.html", "--overwrite")
    commands = [line.split() for line in done.stderr.splitlines() if line.startswith("  ckptbridge plan")]
    assert commands
    assert all(command.count("--overwrite") == 1 for command in commands)
    first = run("table.safetensors", "--html", "other.html")
    commands = [line.split() for line in first.stderr.splitlines() if line.startswith("  ckptbridge plan")]
    (guess,) = [command[2:] for command in commands if "--accept-guesses" in command]
    assert CliRunner().invoke(main, ["plan", *guess]).exit_code == 0


def test_nothing_is_replaced_unasked(run, tmp_path):
    (tmp_path / "plan.html").write_text("<!DOCTYPE html>mine")
    done = run("fc.safetensors", "--html", "plan.html")
    assert done.exit_code != 0
    assert done.stdout == ""
    assert "--overwrite" in done.stderr
    assert (tmp_path / "plan.html").read_text() == "<!DOCTYPE html>mine"
    assert "missing" not in run("missing.safetensors", "--html", "plan.html").stderr
    (tmp_path / "empty.html").touch()
    for name in ("plan.html", "plan.html", "empty.html"):
        assert run("fc.safetensors", "--html", name, "--overwrite").exit_code == 0
        assert Page((tmp_path / name).read_text()).data


def test_only_a_page_is_replaced(run, tmp_path):
    weights = (tmp_path / "fc.safetensors").read_bytes()
    done = run("fc.safetensors", "--html", "fc.safetensors", "--overwrite")
    assert done.exit_code != 0
    assert "not a page" in done.stderr
    assert (tmp_path / "fc.safetensors").read_bytes() == weights


@pytest.mark.parametrize(("name", "hint"), [(".", "file name"), ("no/such/plan.html", "Create the folder")])
def test_a_page_that_cannot_be_written_is_refused_at_once(run, name, hint):
    done = run("missing.safetensors", "--html", name)
    assert done.exit_code == 2
    assert "missing.safetensors" not in done.stderr
    assert hint in " ".join(done.stderr.split())
