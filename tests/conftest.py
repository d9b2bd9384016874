"""What holds for every test: how XLA compiles, and that tests without their packages are skipped."""

import os

import pytest
from support.missing import skip_what_needs_missing_packages, skipped_if_missing

# Each model runs once, so that XLA's expensive optimizations do not pay.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")

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
