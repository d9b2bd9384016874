"""The public interface: every name is there, documented and typed."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import subprocess
import sys
import typing
from pathlib import Path

import pytest

import bridge_core
import bridge_core.testing
import bridge_flax
import bridge_torch

ROOT = Path(__file__).parents[2]
PACKAGES = [bridge_core, bridge_torch, bridge_flax, bridge_core.testing]
NAMES = [(package, name) for package in PACKAGES for name in package.__all__]
OWN = {"bridge_core", "bridge_torch", "bridge_flax"}
IDS = [f"{package.__name__}.{name}" for package, name in NAMES]

INTERFACE = {
    "bridge_core": [
        "open_state",
        "save_state",
        "plan_conversion",
        "convert",
        "verify",
        "FlatState",
        "Plan",
        "Rule",
        "hookimpl",
    ],
    "bridge_torch": ["to_neutral", "from_neutral"],
    "bridge_flax": ["to_neutral", "from_neutral", "template"],
}


@pytest.mark.parametrize(("package", "name"), NAMES, ids=IDS)
def test_every_public_name_exists_and_is_documented(package, name):
    value = getattr(package, name)
    if inspect.isclass(value) or inspect.isfunction(value):
        text = inspect.getdoc(value) or ""
        assert text, f"{name} has no docstring"
        assert not text.startswith(f"{name}("), f"the docstring of {name} is made by dataclasses"
        assert text.split("\n\n")[0].endswith((".", ":")), f"{name}: the first paragraph is no sentence"


@pytest.mark.parametrize(("package", "name"), NAMES, ids=IDS)
def test_every_public_method_is_documented(package, name):
    value = getattr(package, name)
    if not inspect.isclass(value) or value.__module__.partition(".")[0] not in OWN:
        return
    for attribute, member in vars(value).items():
        function = member.fget if isinstance(member, property) else getattr(member, "__func__", member)
        if inspect.isfunction(function) and not attribute.startswith("_"):
            assert inspect.getdoc(getattr(value, attribute)), f"{name}.{attribute} has no docstring"


@pytest.mark.parametrize(("package", "name"), NAMES, ids=IDS)
def test_annotations_of_public_functions_can_be_read(package, name):
    value = getattr(package, name)
    if inspect.isfunction(value) and package is not bridge_core.testing:  # strategies are hypothesis's own
        hints = typing.get_type_hints(value)
        assert "return" in hints
        assert set(inspect.signature(value).parameters) <= set(hints)


@pytest.mark.parametrize("package", PACKAGES, ids=lambda p: p.__name__)
def test_names_are_listed_once_and_sorted(package):
    names = package.__all__
    assert len(set(names)) == len(names)
    assert names in (sorted(names), sorted(names, key=str.lower))


@pytest.mark.parametrize("package", INTERFACE)
def test_the_stable_interface_is_there(package):
    assert set(INTERFACE[package]) <= set(importlib.import_module(package).__all__)
    assert Path(importlib.import_module(package).__file__).with_name("py.typed").exists()


def run_mypy(*arguments):
    if importlib.util.find_spec("mypy") is None:
        pytest.skip("mypy is not installed")
    return subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
    )


@pytest.mark.slow
def test_a_strictly_typed_program_passes():
    done = run_mypy(Path(__file__).with_name("typed_use.py"))
    assert done.returncode == 0, done.stdout


@pytest.mark.slow
def test_a_wrongly_typed_program_does_not(tmp_path):
    wrong = tmp_path / "wrong.py"
    wrong.write_text("import bridge_core\nstate: int = bridge_core.open_state(3)\n")
    done = run_mypy(wrong)
    assert "arg-type" in done.stdout
    assert "assignment" in done.stdout
