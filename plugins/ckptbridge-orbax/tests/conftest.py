from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

_TESTS = Path(__file__).parents[3] / "tests"


@pytest.fixture(scope="session")
def stored():
    """The folder of the checkpoints that are stored with the tests."""
    return Path(__file__).parent / "data"


@pytest.fixture(scope="session")
def in_orbax(tmp_path_factory):
    """Runs a module of `tests/support` that uses Orbax, in a process; returns the JSON that it prints."""

    def in_orbax(module, *arguments):
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(_TESTS), *sys.path])}
        command = [sys.executable, "-W", "ignore", "-m", f"support.{module}", *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
        assert done.returncode == 0, done.stderr[-3000:]
        return json.loads(done.stdout.splitlines()[-1])

    return in_orbax


@pytest.fixture(scope="session")
def matrix(tmp_path_factory, in_orbax):
    """The folder of all of `orbax_values.cases`, saved once for all processes of a test run."""
    own = tmp_path_factory.getbasetemp()
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "saved-by-orbax"
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = folder / "done"
        if not done.exists():
            for devices in (1, 4):
                failed = in_orbax("orbax_saving", folder, devices)
                assert not failed, failed
            done.touch()
    return folder
