"""What holds for every test: threads, garbage, XLA's effort, what Hypothesis draws, and what is skipped."""

import gc
import os

import pytest
from support.examples import load_profile
from support.missing import skip_what_needs_missing_packages, skipped_if_missing

# Each model runs once, so that XLA's expensive optimizations do not pay.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")

# Every worker has a CPU: threads of torch that wait for each other by spinning take it from the others.
os.environ.setdefault("OMP_NUM_THREADS", "1")

load_profile()
skip_what_needs_missing_packages()

collect_ignore = ["support"]  # no tests, and no doctests


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """Collect without looking for garbage: modules and tests stay to the end, and are not looked at again."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.fixture
def tmp_path(tmp_path):
    """A refusal looks three folders up for a checkpoint: none of these holds what other tests made."""
    inner = tmp_path / "a/b"
    inner.mkdir(parents=True)
    return inner


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup():
    with skipped_if_missing():
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call():
    with skipped_if_missing():
        return (yield)
