"""The profiles of Hypothesis: chosen by the environment, and none with a deadline."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from hypothesis import settings
from support.examples import PROFILE, examples

CHOSEN = """
from hypothesis import settings
from support.examples import examples, load_profile
load_profile()
print(settings.default.derandomize, settings.default.deadline, settings.default.max_examples, examples(3))
"""


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, "False None 100 3"),
        ({"CI": "true"}, "True None 100 3"),
        ({"CI": "true", "HYPOTHESIS_PROFILE": "dev"}, "False None 100 3"),
        ({"HYPOTHESIS_PROFILE": "nightly"}, "False None 1000 30"),
        ({"HYPOTHESIS_PROFILE": "ci", "TIMES_EXAMPLES": "2"}, "True None 200 6"),
    ],
    ids=str,
)
def test_the_environment_chooses_the_profile(environment, expected):
    chosen = ("CI", "HYPOTHESIS_PROFILE", "TIMES_EXAMPLES")
    others = {name: value for name, value in os.environ.items() if name not in chosen}
    others["PYTHONPATH"] = os.pathsep.join(sys.path)
    done = subprocess.run(
        [sys.executable, "-c", CHOSEN], env=others | environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == expected.split()


def test_every_test_runs_under_the_chosen_profile():
    assert settings.default.derandomize == (PROFILE == "ci")
    assert settings.default.deadline is None
    assert settings.default.max_examples == examples(100)
