"""``--compile-plans``: the plans that tests apply are compiled for torch and JAX, and the bits compared.

A test that applied a plan whose compiled function gives other bits fails. The summary has how many plans were
compared, and why others were not: the reason of the framework, or of this module. The plans of tests with the
mark ``counts`` are not compared, since they count what is read.
"""

from __future__ import annotations

import contextlib
import functools
import re
import warnings
from collections import Counter

import jax
import numpy as np
import pytest
import torch

from bridge_core import KeyConflict, Plan, UnsupportedFeature
from bridge_core.ops import OpTensor, OverflowCount
from bridge_core.plan import compile_plan
from bridge_core.state import ArrayTensor, FileTensor, StridedFileTensor, as_state
from support.arrays import same_bits
from support.live import JAX, TORCH, from_torch, to_torch

LARGEST = 4 << 20
"""Bytes of a plan's sources and targets; larger ones are not compared."""

_KEY = "compiled_plans"


class CompiledPlans:
    """A plugin of pytest that compares while it is registered.

    Attributes:
        outcomes: (framework, what became of a plan) -> how many plans.
    """

    def __init__(self):
        self.outcomes = Counter()
        self._differences = []
        self._jitted = set()
        self._compares = False
        self._apply = Plan.apply

    def pytest_configure(self):
        outer = self

        @functools.wraps(self._apply)
        def apply(plan, state):
            result = outer._apply(plan, state)
            if outer._compares:
                with _unnoticed():
                    outer._compare(plan, state)
            return result

        Plan.apply = apply

    def pytest_unconfigure(self):
        Plan.apply = self._apply

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item):
        self._compares = item.get_closest_marker("counts") is None
        try:
            return (yield)
        finally:
            self._compares = False
            differences, self._differences = self._differences, []
            if differences:
                pytest.fail("compiled plans give other bits than Plan.apply:\n" + "\n".join(differences))

    def pytest_sessionfinish(self, session):
        if hasattr(session.config, "workeroutput"):
            session.config.workeroutput[_KEY] = [[*key, number] for key, number in self.outcomes.items()]

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node):
        for framework, outcome, number in getattr(node, "workeroutput", {}).get(_KEY, ()):
            self.outcomes[framework, outcome] += number

    def pytest_terminal_summary(self, terminalreporter):
        terminalreporter.section("compiled plans")
        for (framework, outcome), number in self.outcomes.most_common():
            terminalreporter.line(f"{number:6} {framework}: {outcome}")

    def _compare(self, plan, state):
        """Compare a plan on both frameworks with what `Plan.apply` makes of the values."""
        try:
            arrays = _arrays(plan, as_state(state))
            applied = self._apply(plan, arrays)
            expected = {".".join(key): np.asarray(applied[key]) for key in applied}
        except _NotCompared as reason:
            self.outcomes["both", f"not compared: {reason}"] += 1
            return
        except Exception as err:
            self.outcomes["both", f"not compared: {type(err).__name__} where values are read"] += 1
            return
        dtypes = {array.dtype.name for array in (*arrays.values(), *expected.values())}
        self._compare_on("torch", plan, arrays, expected)
        # Equal ops on equal shapes are the same to XLA, whatever the names are.
        identity = tuple((tuple(plan.specs[key] for key in step.sources), step.ops) for step in plan.steps)
        if identity in self._jitted:
            self.outcomes["jax", "the same ops as another plan"] += 1
            return
        self._jitted.add(identity)
        with jax.enable_x64(bool(dtypes & {"int64", "uint64", "float64", "complex128"})):
            self._compare_on("jax", plan, arrays, expected)

    def _compare_on(self, framework, plan, arrays, expected):
        try:
            compiled = compile_plan(plan, JAX if framework == "jax" else TORCH, skip_checks=True)
            needed = {key: array for key, array in arrays.items() if key in compiled.sources}
            if framework == "jax":
                found = {name: np.asarray(value) for name, value in jax.jit(compiled)(needed).items()}
            else:
                tensors = {key: to_torch(array) for key, array in needed.items()}
                found = {name: from_torch(tensor) for name, tensor in compiled(tensors).items()}
        except (KeyConflict, UnsupportedFeature) as err:
            self.outcomes[framework, f"refused: {_without_details(err.message)}"] += 1
            return
        except Exception as err:
            self._differences.append(f"{framework}: {type(err).__name__}: {err}\n{plan.describe()}")
            return
        differing = [n for n in {*found, *expected} if not same_bits(found.get(n), expected.get(n))]
        if differing:
            self._differences.append(f"{framework}: {', '.join(sorted(differing))}\n{plan.describe()}")
        self.outcomes[framework, "different" if differing else "compared"] += 1


def _arrays(plan, state):
    """Return copies of the values that a plan is applied to, by key.

    Raises:
        _NotCompared: There are too many, or a test's own code reads them.
    """
    specs = [*plan.specs.values(), *plan.target_specs().values()]
    if sum(spec.nbytes for spec in specs) > LARGEST:
        raise _NotCompared(f"more than {LARGEST} bytes")
    for tensor in state.tensors().values():
        for read in _read_by(tensor):
            if not isinstance(read, ArrayTensor | FileTensor | StridedFileTensor):
                raise _NotCompared(f"sources are read by {type(read).__name__}")
    return {key: np.array(state[key]) for key in state}


def _read_by(tensor):
    """Yield the tensors that ops on tensors read."""
    if isinstance(tensor, OpTensor):
        for inner in tensor.inputs:
            yield from _read_by(inner)
    else:
        yield tensor


@contextlib.contextmanager
def _unnoticed():
    """Hide from a test that something else is computed, and from this what a test changed."""
    with OverflowCount(), warnings.catch_warnings(), np.errstate(all="ignore"), torch.device("cpu"):
        warnings.simplefilter("ignore")
        yield


class _NotCompared(Exception):
    pass


def _without_details(message):
    """Return why an op is refused, without its parameters, so that equal reasons are counted together."""
    return re.sub(r"^(\w+)\([^:]*\) cannot be compiled for \w+: ", r"\1: ", message)
