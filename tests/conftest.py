"""What holds for every test: how XLA compiles, how many examples Hypothesis draws, and what is skipped."""

import os

import pytest
from support.examples import load_profile
from support.missing import skip_what_needs_missing_packages, skipped_if_missing

# Each model runs once, so that XLA's expensive optimizations do not pay.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")

load_profile()
skip_what_needs_missing_packages()

collect_ignore = ["support"]  # no tests, and no doctests


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup():
    with skipped_if_missing():
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call():
    with skipped_if_missing():
        return (yield)
