"""The profiles of Hypothesis: chosen by the environment, and none with a deadline."""

from __future__ import annotations

import runpy

import pytest
from hypothesis import settings
from support import examples as support_examples
from support.examples import PROFILE, examples, load_profile


@pytest.fixture
def chosen(monkeypatch):
    """Load the profile that an environment chooses, as a new process does."""

    def load(environment):
        for name in ("CI", "HYPOTHESIS_PROFILE", "TIMES_EXAMPLES"):
            monkeypatch.delenv(name, raising=False)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        fresh = runpy.run_path(support_examples.__file__)
        fresh["load_profile"]()
        return fresh

    yield load
    load_profile()


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, (False, None, 100, 3)),
        ({"CI": "true"}, (True, None, 100, 3)),
        ({"CI": "true", "HYPOTHESIS_PROFILE": "dev"}, (False, None, 100, 3)),
        ({"HYPOTHESIS_PROFILE": "nightly"}, (False, None, 1000, 30)),
        ({"HYPOTHESIS_PROFILE": "ci", "TIMES_EXAMPLES": "2"}, (True, None, 200, 6)),
    ],
    ids=str,
)
def test_the_environment_chooses_the_profile(environment, expected, chosen):
    fresh = chosen(environment)
    default = settings.default
    assert (default.derandomize, default.deadline, default.max_examples, fresh["examples"](3)) == expected


def test_every_test_runs_under_the_chosen_profile():
    assert settings.default.derandomize == (PROFILE == "ci")
    assert settings.default.deadline is None
    assert settings.default.max_examples == examples(100)
