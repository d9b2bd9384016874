"""The benchmarks measure what they say they measure, and every script runs."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"


def load(name):
    spec = importlib.util.spec_from_file_location(f"benchmarks_{name}", FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def measure():
    return load("measure")


def test_a_process_peak_holds_its_own_memory_and_not_the_callers(measure):
    ballast, wanted = np.ones(300 << 20, np.uint8), 256 << 20
    small = measure.run(measure.python("pass")).peak_bytes
    large = measure.run(measure.python(f"b = bytearray(b'x') * {wanted}")).peak_bytes
    assert ballast[-1]
    assert small < 100 << 20
    # The kernel counts pages in batches, and may be a few hundred behind.
    assert 0.985 * wanted <= large - small < 1.1 * wanted


def test_a_failed_process_is_an_error_with_what_it_said(measure):
    with pytest.raises(RuntimeError, match=r"\b3\b.*\nno"):
        measure.run(measure.python("import sys; print('no', file=sys.stderr); sys.exit(3)"))


def test_rounds_are_interleaved_and_the_first_does_not_count(measure, capsys):
    calls = []

    def contestant(name):
        return lambda: calls.append(name) or measure.Run(len(calls), 1)

    results = measure.interleaved({n: contestant(n) for n in "abc"}, 2, once=["c"])
    warming_up, first, second = calls[:2], calls[2:5], calls[5:]
    assert sorted(warming_up) == ["a", "b"]
    assert sorted(first) == ["a", "b", "c"]
    assert sorted(second) == ["a", "b"]
    counted = {n: [turn for turn, name in enumerate(calls, 1) if name == n and turn > 2] for n in "abc"}
    assert {name: [run.seconds for run in runs] for name, runs in results.items()} == counted


def test_no_contestant_always_follows_the_same_one(measure, capsys):
    def order():
        calls = []
        contestants = {n: lambda n=n: calls.append(n) or measure.Run(1, 1) for n in "abcd"}
        measure.interleaved(contestants, 8)
        return calls

    calls = order()
    rounds = {tuple(calls[i : i + 4]) for i in range(4, len(calls), 4)}
    assert len(rounds) > 4
    assert order() == calls


def test_no_round_is_begun_past_the_time_but_one_counts(measure, capsys):
    results = measure.interleaved({"a": lambda: measure.Run(1, 1)}, 50, seconds=0.0)
    assert len(results["a"]) == 1


def test_noise_is_the_same_by_whatever_regions_it_is_read():
    noise = load("checkpoints").noise((37, 53), seed=5)
    whole = noise.read((slice(0, 37, 1), slice(0, 53, 1))).view(np.uint16)
    parts = [noise.read((slice(i, i + 10 if i < 30 else 37, 1), slice(0, 53, 1))) for i in (0, 10, 20, 30)]
    assert np.array_equal(np.concatenate(parts).view(np.uint16), whole)
    picked = noise.read((slice(3, 30, 4), slice(7, 50, 3))).view(np.uint16)
    assert np.array_equal(picked, whole[3:30:4, 7:50:3])


def test_noise_longer_than_its_pool_goes_on():
    checkpoints = load("checkpoints")
    count = 2 * checkpoints._POOL + 5
    whole = checkpoints.noise((count,), seed=1).read((slice(0, count, 1),)).view(np.uint16)
    tail = checkpoints.noise((count,), seed=1).read((slice(count - 9, count, 1),)).view(np.uint16)
    assert np.array_equal(whole[-9:], tail)


SHARDED = ["--sizes", "70MB", "--shard", "30MB", "--repeats", "1", "--with-plain-script"]
AT_NIGHT = [
    ("file_to_file", SHARDED),
    # A dozen processes that each import torch, jax and flax.
    ("load", ["--sizes", "70MB", "--repeats", "1"]),
    ("from_pretrained", ["--sizes", "30MB", "--repeats", "1"]),
]
SCRIPTS = [
    ("remote", ["--sizes", "5MB", "--delays", "0", "5", "--repeats", "1"]),
    ("file_to_file", [*SHARDED, "--only", "to Flax, sharded, verified", "sharded Flax to torch"]),
    ("file_to_file", ["--sizes", "70MB", "--repeats", "1", "--cold", "--only", "rename only"]),
    ("memory", ["--sizes", "70MB"]),
    ("stacking", ["--layers", "1", "3", "--repeats", "1"]),
    ("plan_time", ["--keys", "100", "--repeats", "1"]),
    ("rules_plan", ["--keys", "100", "--repeats", "1"]),
    ("match", ["--pairs", "small"]),
    ("transpose_kernel", ["--size", "1MB", "--repeats", "1"]),
    ("import_time", ["--repeats", "1"]),
    ("work", ["--sizes", "70MB", "--shard", "20MB", "--repeats", "1", "--lists", "600"]),
    ("work", ["--lists-only", "--repeats", "1", "--lists", "600"]),
]


@pytest.mark.parametrize(
    ("script", "options"),
    [
        *(pytest.param(*one, marks=pytest.mark.zoo, id=f"{one[0]}-all") for one in AT_NIGHT),
        *(pytest.param(*one, marks=pytest.mark.slow, id=f"{one[0]}-{n}") for n, one in enumerate(SCRIPTS)),
    ],
)
def test_the_script_runs_and_writes_its_results(script, options, tmp_path):
    stored = tmp_path / "results.json"
    work = ["--work", str(tmp_path), "--json", str(stored), "--plot", str(tmp_path / "plot.png")]
    command = [sys.executable, str(FOLDER / f"{script}.py"), *options, *work]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout
    results = json.loads(stored.read_text())
    assert results["benchmark"] == script
    assert results["machine"]["processors"] >= 1
    if importlib.util.find_spec("matplotlib"):
        assert 0 < (tmp_path / "plot.png").stat().st_size < 60_000
