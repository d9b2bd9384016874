"""The option --compile-plans: the plans of a sample of tests are compared, and other bits are found."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from support import compiled_plans

from bridge_core import Plan, Step, TensorSpec
from bridge_core.ops import Cast, Permute

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.counts  # what the plugin of these tests counts, not that of the run


def test_the_plans_of_a_sample_of_tests_are_compared():
    options = ["-q", "-n0", "-p", "no:cacheprovider", "--compile-plans", "tests/plan/test_plan.py"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.returncode == 0, done.stdout[-3000:]
    numbers = {framework: int(n) for n, framework in re.findall(r"(\d+) (\w+): compared", done.stdout)}
    assert numbers["torch"] > 20, done.stdout
    assert numbers["jax"] > 10, done.stdout


@pytest.fixture
def plugin():
    plugin = compiled_plans.CompiledPlans()
    plugin.pytest_configure()
    yield plugin
    plugin.pytest_unconfigure()


def applied_in_a_test(plugin, op, *, mark=None):
    """Apply a plan as the body of a test does, and return what the plugin counts."""
    spec = TensorSpec((2, 3), np.dtype("float32"))
    plan = Plan("torch", "flax", {("a",): spec}, (Step((("a",),), (("b",),), (op,)),))
    running = plugin.pytest_runtest_call(SimpleNamespace(get_closest_marker={mark: True}.get))
    next(running)
    plan.apply({("a",): np.arange(6, dtype=np.float32).reshape(2, 3)})
    with pytest.raises(StopIteration):
        running.send(None)
    return dict(plugin.outcomes)


def test_equal_bits_are_counted(plugin):
    both = {("torch", "compared"): 1, ("jax", "compared"): 1}
    assert applied_in_a_test(plugin, Permute((1, 0))) == both


@pytest.mark.parametrize("framework", ["torch", "jax"])
def test_other_bits_fail_the_test(plugin, monkeypatch, framework):
    def reshaped(self, array, axes):
        return array.reshape([array.shape[axis] for axis in axes])

    monkeypatch.setattr(type(getattr(compiled_plans, framework.upper())), "transpose", reshaped)
    with pytest.raises(pytest.fail.Exception, match=rf"{framework}: b\n.*\n.*permute"):
        applied_in_a_test(plugin, Permute((1, 0)))
    assert plugin.outcomes[framework, "different"] == 1


def test_refusals_are_counted_by_reason(plugin):
    outcomes = applied_in_a_test(plugin, Cast("float32", "int8"))
    assert all("refused: cast: " in outcome and "float32 to int8" in outcome for _, outcome in outcomes)
    assert {framework for framework, _ in outcomes} == {"torch", "jax"}


def test_plans_of_tests_that_count_are_not_compared(plugin):
    assert applied_in_a_test(plugin, Permute((1, 0)), mark="counts") == {}
