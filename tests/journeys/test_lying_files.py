"""Metadata, indexes and rule files with random damage: converted whole, or refused by an error of ours.

A draw that fails is printed with its seed. To run it again:

    LYING_FILES_SEED=1234 pytest tests/journeys/test_lying_files.py -k "not long" -n 0

`LYING_FILES_SECONDS` says how long the slow test draws; `.ci/nightly` sets it. It begins at the seed
`LYING_FILES_START`, or else at one that the day gives.
"""

from __future__ import annotations

import os
import time

import pytest
from support.fuzzing import Corpus, draw, run

SAMPLE = 30
SECONDS = float(os.environ.get("LYING_FILES_SECONDS", "10"))
SEED = os.environ.get("LYING_FILES_SEED")
START = int(os.environ.get("LYING_FILES_START", str(int(time.time() // 86400) * 1_000_000)))
SHOWN = 5


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return Corpus(tmp_path_factory.mktemp("corpus"))


def check(corpus, seeds, folder):
    """Run draws, and fail with the faults of all of them."""
    made = refused = 0
    faults = []
    for seed in seeds:
        drawn = draw(corpus, seed)
        try:
            counts = run(drawn, folder)
            made, refused = made + counts[0], refused + counts[1]
        except Exception as err:  # whatever came out is what is looked for
            faults.append(f"{drawn}\n  => {type(err).__name__}: {err}")
    print(f"{made} converted, {refused} refused, {len(faults)} draws at fault")
    assert not faults, f"{len(faults)} draws are at fault:\n\n" + "\n\n".join(faults[:SHOWN])
    return made, refused


def test_a_sample_of_lying_files_is_converted_whole_or_refused(corpus, tmp_path):
    seeds = range(SAMPLE) if SEED is None else [int(SEED)]
    made, refused = check(corpus, seeds, tmp_path)
    assert SEED is not None or min(made, refused) > SAMPLE / 3, "a fuzzer that sees one outcome shows little"


@pytest.mark.slow
def test_lying_files_for_a_long_time(corpus, tmp_path):
    end = time.monotonic() + SECONDS

    def seeds():
        seed = START
        while time.monotonic() < end:
            yield seed
            seed += 1

    check(corpus, seeds(), tmp_path)
