"""The command as a process: what it imports, terminals, pipes and signals."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from support.bare_process import HEARS_CTRL_C

FRAMEWORKS = ("torch", "jax", "flax", "tensorflow")

SLOWED = """
import importlib, pathlib, sys, time

from bridge_core.cli import main

module, name = sys.argv.pop(1).rsplit(".", 1)
mark = pathlib.Path(sys.argv.pop(1))
place = importlib.import_module(module)
whole = getattr(place, name)

def slow(*args, **kwargs):
    mark.touch()
    time.sleep(0.05)
    return whole(*args, **kwargs)

setattr(place, name, slow)
main(prog_name="ckptbridge")
"""
WRITING = "bridge_core.transfer.file_writer.scatter"
VERIFYING = "bridge_core.checkpoint.verification.checksum"


def environment(**changes):
    ours = ("NO_COLOR", "FORCE_COLOR", "TERM", "COLUMNS", "PYTHONUNBUFFERED", "PYTHONIOENCODING")
    return {**{k: v for k, v in os.environ.items() if k not in ours}, "TERM": "xterm", **changes}


def slowed(phase, mark, *args):
    """Run the command with one function slowed down, which makes the file ``mark`` when it is called."""
    return [sys.executable, "-c", HEARS_CTRL_C + SLOWED, phase, str(mark), *map(str, args)]


def command(*args):
    return [sys.executable, "-m", "bridge_core.cli", *map(str, args)]


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "model.safetensors"
    layers = {f"layers.{i}.fc.weight": np.full((8, 8), i, "f4") for i in range(200)}
    layers |= {f"layers.{i}.fc.bias": np.full(8, i, "f4") for i in range(200)}
    save_file(layers, path)
    return path


def modules_after(*args):
    script = (
        "import json, sys\n"
        "from bridge_core.cli import main\n"
        "try:\n"
        "    main(sys.argv[1:])\n"
        "finally:\n"
        "    print(json.dumps(sorted(sys.modules)), file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, args)], capture_output=True, text=True, check=True
    )
    return set(json.loads(done.stderr.splitlines()[-1]))


def test_help_imports_nothing_that_it_does_not_need():
    loaded = {name.partition(".")[0] for name in modules_after("--help")}
    assert not loaded & {*FRAMEWORKS, "rich", "msgpack", "safetensors", "h5py", "bridge_torch", "bridge_flax"}


@pytest.mark.parametrize("name", ["out.msgpack", "out.pt"])
def test_files_are_converted_without_any_framework(source, tmp_path, name):
    target = "torch" if name.endswith(".pt") else "flax"
    loaded = {n.partition(".")[0] for n in modules_after("convert", source, tmp_path / name, "--to", target)}
    assert not loaded & {*FRAMEWORKS, "rich"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "phase", "old"),
    [
        (signal.SIGINT, WRITING, None),
        (signal.SIGINT, WRITING, b"old"),
        (signal.SIGINT, VERIFYING, None),
        (signal.SIGTERM, VERIFYING, b"old"),
    ],
)
def test_an_interrupted_conversion_leaves_everything_as_it_was(source, tmp_path, number, phase, old):
    folder = tmp_path / "out"
    folder.mkdir()
    target = folder / "out.msgpack"
    if old is not None:
        target.write_bytes(old)
    mark = tmp_path / "mark"
    overwrite = ["--overwrite"] if old is not None else []
    with subprocess.Popen(
        slowed(phase, mark, "convert", source, target, "--to", "flax", "--workers", "1", *overwrite),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
    ) as process:
        try:
            while not mark.exists() and process.poll() is None:
                time.sleep(0.01)
            assert any(".ckptbridge-" in entry.name for entry in folder.iterdir())
            process.send_signal(number)
            out, err = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 130
    assert out == b""
    assert err.decode().splitlines()[-1] == "interrupted; nothing is left half written"
    assert b"Traceback" not in err
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == ({} if old is None else {target.name: old})


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_leaves_early_is_no_error(source, unbuffered):
    with subprocess.Popen(
        command("inspect", source),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(PYTHONUNBUFFERED=unbuffered),
    ) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_full_disk_under_stdout_is_4(source, unbuffered):
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            command("inspect", source),
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            env=environment(PYTHONUNBUFFERED=unbuffered),
        )
    assert done.returncode == 4
    assert done.stderr.splitlines() == ["error: No space left on device. [CKB-400]"]


def test_output_that_the_encoding_lacks_is_escaped(tmp_path):
    save_file({"größe": np.ones(2, "f4")}, tmp_path / "m.safetensors")
    done = subprocess.run(
        command("inspect", tmp_path / "m.safetensors"),
        capture_output=True,
        env=environment(PYTHONIOENCODING="ascii"),
        check=True,
    )
    assert b"gr\\xf6\\xdfe" in done.stdout


def on_terminal(args, **changes):
    """Run with stderr on a terminal of 80 columns; return the exit code, stdout and the screen's bytes."""
    import pty  # Windows has none

    main_end, other_end = pty.openpty()
    with subprocess.Popen(
        args, stdout=subprocess.PIPE, stderr=other_end, env=environment(COLUMNS="80", **changes)
    ) as process:
        os.close(other_end)
        screen = b""
        while True:
            try:
                part = os.read(main_end, 65536)
            except OSError:  # Linux says so when the other end is closed
                break
            if not part:
                break
            screen += part
        out = process.stdout.read().decode()
    os.close(main_end)
    return process.returncode, out, screen.decode()


class TestProgress:
    @pytest.fixture
    def small(self, tmp_path):
        path = tmp_path / "small.safetensors"
        save_file({"fc.weight": np.ones((100, 90), "f4"), "fc.bias": np.ones(100, "f4")}, path)
        return path

    def test_a_terminal_gets_a_bar_for_writing_and_for_verifying(self, small, tmp_path):
        args = ("convert", small, tmp_path / "out.msgpack", "--to", "flax", "--workers", "1")
        code, out, screen = on_terminal(slowed(VERIFYING, tmp_path / "mark", *args))
        assert code == 0
        assert "converting" in screen
        assert "72.8 kB of 72.8 kB" in screen
        assert "verifying" in screen
        assert "\x1b" not in out
        assert out.startswith("torch -> flax: 2 tensors")

    def test_verify_and_diff_get_one_too(self, small):
        for args in (("verify", small, small), ("diff", small, small)):
            code, _, screen = on_terminal(command(*args))
            assert code == 0
            assert "comparing" in screen

    @pytest.mark.parametrize("option", ["--quiet", "--json"])
    def test_none_where_none_is_wanted(self, small, tmp_path, option):
        code, _, screen = on_terminal(
            command("convert", small, tmp_path / "out.msgpack", "--to", "flax", option)
        )
        assert (code, screen) == (0, "")

    def test_none_without_a_terminal(self, small, tmp_path):
        done = subprocess.run(
            command("convert", small, tmp_path / "out.msgpack", "--to", "flax"),
            capture_output=True,
            env=environment(FORCE_COLOR="1"),
            check=True,
        )
        assert done.stderr == b""
        assert b"\x1b" not in done.stdout


class TestErrorsOnATerminal:
    def test_are_coloured_and_wrapped_without_breaking_names(self, tmp_path):
        name = tmp_path / ("a-" * 60)
        code, out, screen = on_terminal(command("inspect", name))
        assert (code, out) == (2, "")
        assert "\x1b[31m" in screen
        assert str(name) in screen
        assert "[CKB-202]" in screen
        assert screen.count("\r\n") > 1

    @pytest.mark.parametrize("changes", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
    def test_are_plain_where_colour_is_not_wanted(self, tmp_path, changes):
        _, _, screen = on_terminal(command("inspect", tmp_path / "nothing"), **changes)
        assert "error: " in screen
        assert "\x1b" not in screen


def test_the_bar_has_no_colour_where_none_is_wanted(tmp_path):
    path = tmp_path / "small.safetensors"
    save_file({"fc.weight": np.ones((9, 8), "f4"), "fc.bias": np.ones(9, "f4")}, path)
    _, _, screen = on_terminal(
        command("convert", path, tmp_path / "out.msgpack", "--to", "flax"), NO_COLOR="1"
    )
    assert "converting" in screen
    assert "\x1b[3" not in screen.replace("\x1b[39m", "")
