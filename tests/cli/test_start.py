"""Ctrl-C while the command starts: the exit code of an interruption, and no traceback."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest
from support.bare_process import HEARS_CTRL_C

WAITING = """
import sys, time

place = sys.argv.pop(1)

class Waits:
    def find_spec(self, name, *_):
        if name == place:
            print("importing", flush=True)
            time.sleep(60)

sys.meta_path.insert(0, Waits())
"""
"""A child that waits where one module is imported, until it is interrupted."""

RAISING = """
import sys

place = sys.argv.pop(1)

class Raises:
    def find_spec(self, name, *_):
        if name == place:
            raise KeyboardInterrupt

sys.meta_path.insert(0, Raises())
"""
STARTS = {
    "the script": "from bridge_core.cli import main\nsys.exit(main())",
    "python -m bridge_core": "import runpy\nrunpy.run_module('bridge_core', run_name='__main__')",
    "python -m bridge_core.cli": "import runpy\nrunpy.run_module('bridge_core.cli', run_name='__main__')",
}
MOMENTS = ["bridge_core.cli.app", "click", "bridge_core.errors", "bridge_core.cli.commands.plugins", "numpy"]


def started(prelude, moment, start):
    code = HEARS_CTRL_C + prelude + STARTS[start]
    return [sys.executable, "-c", code, moment, "plugins", "--json"]


def assert_interrupted(code, err):
    assert code == 130, err
    assert "Traceback" not in err
    assert "interrupted" in err


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("moment", ["bridge_core.cli.app", "click"])
def test_an_import_that_is_interrupted_ends_the_command(moment, start):
    done = subprocess.run(started(RAISING, moment, start), capture_output=True, text=True, timeout=60)
    assert_interrupted(done.returncode, done.stderr)
    assert not done.stdout


@pytest.mark.parametrize("moment", MOMENTS)
def test_ctrl_c_while_something_is_imported_ends_the_command(moment):
    with subprocess.Popen(
        started(WAITING, moment, "the script"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        try:
            assert child.stdout.readline() == "importing\n"
            child.send_signal(signal.SIGINT)
            _, err = child.communicate(timeout=60)
        finally:
            child.kill()
    assert_interrupted(child.returncode, err)


@pytest.mark.parametrize("start", STARTS)
def test_every_way_to_start_runs_the_command(start):
    done = subprocess.run(
        started("\nimport sys; sys.argv.pop(1)\n", "", start), capture_output=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(b"{")
