"""What holds for every test: threads, garbage, XLA's work, what Hypothesis draws, and what is skipped."""

import gc
import os
import shutil

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


ROOM_FOR_COMPILED = 64 << 20
"""Bytes of compiled functions that are kept; random shapes add some in every run."""


def pytest_addoption(parser):
    parser.addoption(
        "--compile-plans",
        action="store_true",
        help="compile each plan that a test applies for torch and JAX, and compare the bits",
    )


def pytest_configure(config):
    """Keep what XLA compiles: workers and later runs need the same small functions again and again."""
    if config.getoption("compile_plans"):
        from support.compiled_plans import CompiledPlans

        config.pluginmanager.register(CompiledPlans(), "compiled-plans")
    if not hasattr(config, "cache"):  # -p no:cacheprovider
        return
    folder = config.cache.mkdir("jax")
    if not hasattr(config, "workerinput"):
        sizes = [path.stat().st_size for path in folder.iterdir()]
        if sum(sizes) > ROOM_FOR_COMPILED:
            shutil.rmtree(folder)
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(folder))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    # Another worker may still be writing an entry: it is compiled once more.
    config.addinivalue_line("filterwarnings", "ignore:Error reading persistent compilation cache")


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
