from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.orbax_damage import command_refuses

from bridge_core.io import SourceFolder
from ckptbridge_orbax import OrbaxFormat

_TESTS = Path(__file__).parents[3] / "tests"


@pytest.fixture(scope="session")
def stored():
    """The folder of the checkpoints that are stored with the tests."""
    return Path(__file__).parent / "data"


@pytest.fixture
def load():
    """Opens items; they are closed after the test."""
    opened = []

    def load(folder):
        opened.append(OrbaxFormat().open_folder(SourceFolder(Path(folder))))
        return opened[-1]

    yield load
    for state in opened:
        state.close()


@pytest.fixture(scope="session")
def in_orbax():
    """Runs a module of `tests/support` that uses Orbax, in a process; returns the JSON that it prints."""
    for package in ("jax", "orbax"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")

    def in_orbax(module, *arguments):
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(_TESTS), *sys.path])}
        command = [sys.executable, "-W", "ignore", "-m", f"support.{module}", *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
        assert done.returncode == 0, done.stderr[-3000:]
        return json.loads(done.stdout.splitlines()[-1])

    return in_orbax


@pytest.fixture(params=[False, pytest.param(True, marks=pytest.mark.slow)], ids=["", "command"])
def command(request, capsys):
    """Checks that the command refuses a checkpoint, too; only in the slow ring."""
    return (lambda path: command_refuses(path, capsys)) if request.param else (lambda path: None)


@pytest.fixture(scope="session")
def once(tmp_path_factory):
    """Fills a folder once for all processes of a test run: takes its name and a function of its path."""
    fcntl = pytest.importorskip("fcntl")

    def once(name, fill):
        own = tmp_path_factory.getbasetemp()
        folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / name
        folder.mkdir(exist_ok=True)
        with (folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (folder / "filled").exists():
                fill(folder)
                (folder / "filled").touch()
        return folder

    return once


@pytest.fixture(scope="session")
def matrix(once, in_orbax):
    """The folder of all of `orbax_values.cases`."""

    def fill(folder):
        for devices in (1, 4):
            failed = in_orbax("orbax_saving", folder, devices)
            assert not failed, failed

    return once("saved-by-orbax", fill)
