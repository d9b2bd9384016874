"""A conversion in parts whose process is killed, at every step of writing, goes on and does nothing twice."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from support.work_parts import SHARD, in_one_process, list_of, without_manifest, write_source

from bridge_core import convert, finish_work, run_part, verify_manifest

posix = pytest.mark.skipif(os.name == "nt", reason="there is no SIGKILL")

KILLED_AT = """
import os, signal, sys
from bridge_core.checkpoint.destinations import LocalFolder
import bridge_core

wanted, steps = int(sys.argv[3]), 0

def step():
    global steps
    if steps == wanted:
        os.kill(os.getpid(), signal.SIGKILL)
    steps += 1

put, remove = LocalFolder.put, LocalFolder.remove

def stepwise_put(self, name, fill):
    def stepwise_fill(path):
        step()
        fill(path)
        step()
    size = put(self, name, stepwise_fill)
    step()
    return size

def stepwise_remove(self, name):
    step()
    remove(self, name)

LocalFolder.put, LocalFolder.remove = stepwise_put, stepwise_remove
bridge_core.convert(
    sys.argv[1], sys.argv[2], to="flax", max_shard_size=3000, resume=True, workers=1
)
print(steps)
"""


def steps_of(folder, wanted):
    """Run until a step; return the steps that were made, or None if the process was killed."""
    source, target = folder / "source.safetensors", folder / "out"
    process = subprocess.run(
        [sys.executable, "-c", KILLED_AT, source, target, str(wanted)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode in (0, -signal.SIGKILL), process.stderr
    return int(process.stdout) if process.returncode == 0 else None


def complete(folder):
    """Return the inode and time of each file that has a receipt, or that a manifest records."""
    out = folder / "out"
    receipts = {
        path.name.removesuffix(".receipt.json") for path in out.glob(".ckptbridge-work/*.receipt.json")
    }
    finished = (out / "ckptbridge-manifest.json").exists()
    files = out.glob("*.msgpack") if finished else (out / name for name in receipts)
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in files}


def goes_on_after(folder, wanted):
    write_source(folder / "source.safetensors", layers=4)
    assert steps_of(folder, wanted) is None
    before = complete(folder)
    convert(folder / "source.safetensors", folder / "out", to="flax", max_shard_size=SHARD, resume=True)
    after = {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in (folder / "out").iterdir()}
    assert before.items() <= after.items()
    assert not (folder / "out" / ".ckptbridge-work").exists()
    assert without_manifest(folder / "out") == in_one_process(folder)
    assert verify_manifest(folder / "out").intact
    return before


# The list, then for each of 4 files the file and its receipt, the index, the manifest; then removals.
STEPS = 3 * (1 + 2 * 4 + 1 + 1) + 5


@posix
@pytest.mark.parametrize(("step", "finished"), [(8, 1), (5, 0), (STEPS - 1, 4)])
def test_a_killed_conversion_goes_on(tmp_path, step, finished):
    assert len(goes_on_after(tmp_path, step)) == finished


@posix
@pytest.mark.slow
def test_the_steps_are_all_that_there_are(tmp_path):
    write_source(tmp_path / "source.safetensors", layers=4)
    assert steps_of(tmp_path, 10_000) == STEPS


@posix
@pytest.mark.slow
@pytest.mark.parametrize("step", range(STEPS))
def test_a_conversion_that_is_killed_at_any_step_goes_on(tmp_path, step):
    goes_on_after(tmp_path, step)


@posix
@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
def test_parts_that_are_killed_at_any_moment_are_completed(tmp_path, seed):
    work = list_of(tmp_path, 2, layers=40)
    (tmp_path / "work.json").write_text(work.to_text())
    command = [sys.executable, "-m", "bridge_core", "work", "run", tmp_path / "work.json", "--part"]
    processes = [
        subprocess.Popen([*command, part], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        for part in ("1", "2", "2")  # two processes at one part
    ]
    wanted = int(np.random.default_rng(seed).integers(1, 36))
    while len(complete(tmp_path)) < wanted and any(process.poll() is None for process in processes):
        time.sleep(0.001)
    for process in processes:
        process.kill()
        process.communicate()
    before = complete(tmp_path)
    assert before
    for part in (1, 2):
        run_part(work, part)
    after = complete(tmp_path)
    finish_work(work)
    assert before.items() <= after.items()
    assert without_manifest(tmp_path / "out") == in_one_process(tmp_path)
    assert not [path for path in (tmp_path / "out").iterdir() if path.name.startswith(".")]
