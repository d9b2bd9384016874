"""What shells complete, asked as click asks it; and the scripts and answers of the command itself."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest
from click.shell_completion import ShellComplete

from bridge_core import default_registry
from bridge_core.cli import main
from bridge_core.cli.completion import VARIABLE

COMMANDS = ("inspect", "plan", "convert", "verify", "match", "diff", "prove", "explain", "rules", "recipes")


def completed(*words: str) -> dict[str, str | None]:
    """Return what may be in place of the last word -> the line of help; a path has the value ``"file"``."""
    *before, incomplete = words
    items = ShellComplete(main, {}, "ckptbridge", VARIABLE).get_completions(before, incomplete)
    return {item.value: "file" if item.type == "file" else item.help for item in items}


def test_commands_are_completed_with_their_lines():
    assert set(COMMANDS) < completed("").keys()
    assert completed("conv") == {"convert": "Convert, and verify what was written."}


@pytest.mark.parametrize(
    "words",
    [
        *(
            (command, "mod")
            for command in ("inspect", "plan", "convert", "verify", "match", "diff", "explain")
        ),
        *((command, "a", "mod") for command in ("convert", "verify", "diff")),
        ("rules", "check", "mod"),
        ("rules", "explain", "mod"),
        ("rules", "explain", "a.toml", "mod"),
        *((command, "--like", "mod") for command in ("plan", "convert", "match")),
        *(("rules", command, "--like", "mod") for command in ("check", "explain")),
        ("rules", "check", "--source", "mod"),
        ("convert", "--rules", "mod"),
        ("match", "-o", "mod"),
        ("prove", "--checkpoint", "mod"),
        ("prove", "--html", "mod"),
    ],
    ids=" ".join,
)
def test_paths_are_left_to_the_shell(words):
    assert completed(*words) == {"mod": "file"}


@pytest.mark.parametrize(
    "words",
    [
        *((command, "--to") for command in ("plan", "convert", "explain")),
        ("rules", "explain", "--to"),
        *((command, "--layout") for command in ("inspect", "convert", "match")),
        ("rules", "check", "--layout"),
        ("match", "--like-layout"),
    ],
    ids=" ".join,
)
def test_layouts_are_completed(words):
    assert completed(*words, "").keys() == {*default_registry().frameworks, "neutral"}
    assert completed(*words, "f").keys() == {"flax"}


def test_an_option_and_its_value_may_be_one_word():
    assert completed("convert", "a", "b", "--to=fl").keys() == {"flax"}


def test_recipes_are_completed_with_their_titles():
    pytest.importorskip("ckptbridge_recipes")
    expected = {name: value.title for name, value in default_registry().recipes.items()}
    assert completed("recipes", "") == completed("convert", "--recipe", "") == expected
    assert completed("plan", "--recipe", "gemma3-").keys() == {n for n in expected if n.startswith("gemma3-")}


def test_formats_of_files_and_of_folders_are_completed():
    registry = default_registry()
    expected = {*registry.formats, *registry.folder_formats}
    assert (
        completed("convert", "--format", "").keys() == completed("inspect", "--format", "").keys() == expected
    )


def test_a_dtype_is_completed_with_and_without_a_pattern():
    assert completed("convert", "--dtype", "bf").keys() == {"bfloat16"}
    assert completed("verify", "--dtype", "img.**=float3").keys() == {"img.**=float32"}
    assert not completed("convert", "--dtype", "int")


def test_plugins_are_completed_and_disabled_ones_complete_nothing():
    pytest.importorskip("ckptbridge_hdf5")
    plugins = default_registry().plugins
    assert completed("convert", "--disable-plugin", "").keys() == {
        plugin.name for plugin in plugins if plugin.distribution != "ckptbridge"
    }
    assert "hdf5" in completed("convert", "--format", "")
    assert "hdf5" not in completed("--disable-plugin", "hdf5", "convert", "--format", "")
    assert "hdf5" not in completed("convert", "--disable-plugin", "hdf5", "--format", "")


def test_a_module_of_the_line_is_not_run(tmp_path, monkeypatch):
    (tmp_path / "runs.py").write_text("raise SystemExit('it ran')")
    monkeypatch.syspath_prepend(tmp_path)
    assert "flax" in completed("--plugin", "runs", "convert", "--to", "")


def test_what_fails_completes_nothing(monkeypatch):
    def fail() -> None:
        print("a plugin's text")
        raise RuntimeError

    monkeypatch.setattr("bridge_core.plugins.default_registry", fail)
    assert completed("convert", "--to", "") == {}


def answer(words: str, instruction: str = "bash_complete") -> subprocess.CompletedProcess[str]:
    """Run the command as a shell does for the last word."""
    code = "import sys; from bridge_core.cli import main; sys.argv[0] = 'ckptbridge'; main()"
    known = {VARIABLE: instruction, "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
    return subprocess.run(
        [sys.executable, "-X", "importtime", "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, **known},
        timeout=120,
    )


def modules(done: subprocess.CompletedProcess[str]) -> set[str]:
    """Return the packages that were imported; the rest of stderr must be empty."""
    lines = done.stderr.splitlines()
    assert [line for line in lines if not line.startswith("import time:")] == []
    return {line.rpartition("|")[2].strip().partition(".")[0] for line in lines}


HEAVY = {"torch", "jax", "flax", "transformers", "h5py", "tensorstore", "rich"}


@pytest.mark.parametrize(
    "line", ["ckptbridge conv", "ckptbridge convert --allow-i", "ckptbridge diff model."]
)
def test_words_and_paths_need_no_plugin_and_no_numpy(line):
    done = answer(line)
    assert done.returncode == 0
    assert len(done.stdout.splitlines()) == 1
    assert not modules(done) & {*HEAVY, "numpy", "ml_dtypes", "pluggy"}


def test_names_from_plugins_need_no_framework():
    done = answer("ckptbridge convert --to f")
    assert (done.returncode, done.stdout) == (0, "plain,flax\n")
    assert not modules(done) & HEAVY


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_of_a_shell_is_printed(shell):
    done = answer("ckptbridge", f"{shell}_source")
    assert done.returncode == 0
    assert "_CKPTBRIDGE_COMPLETE" in done.stdout
    modules(done)
    if shell != "bash" and shutil.which(shell):
        subprocess.run([shell, "-n", "-c", done.stdout], check=True, timeout=60)


def test_a_caller_in_python_runs_commands_whatever_the_variable_is(monkeypatch, capsys):
    monkeypatch.setenv(VARIABLE, "bash_complete")
    assert main(["--version"], standalone_mode=False) == 0
    assert capsys.readouterr().out.startswith("ckptbridge ")
