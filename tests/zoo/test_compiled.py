"""Plans of every family of transformers as functions of live arrays: bit-equal to `Plan.apply`, both ways."""

import jax
import numpy as np
import pytest
from support.arrays import assert_same_bits
from support.live import from_torch, to_torch
from zoo import harness
from zoo.test_zoo import BUILT

from bridge_core import default_registry, plan_conversion
from ckptbridge_transformers import flax_template
from ckptbridge_transformers.families import rules_for

FAST = [case for case in BUILT if case.fast]
OTHERS = {case.family: case for case in reversed(BUILT) if case.family not in {fast.family for fast in FAST}}
"""The first case of each family that has none of the fast ones."""

every_family = pytest.mark.parametrize(
    "case",
    [
        *(pytest.param(case, id=case.name, marks=pytest.mark.slow) for case in FAST),
        *(pytest.param(case, id=case.name, marks=pytest.mark.zoo) for case in OTHERS.values()),
    ],
)


@pytest.fixture(autouse=True)
def clip():
    with harness.old_clip():
        yield


def assert_compiles(plan, state):
    """Compare a plan on JAX arrays, jitted, and on torch tensors with its result in numpy."""
    result = plan.apply(state)
    expected = {".".join(key): result[key] for key in result}
    on_torch = plan.to_torch()
    found = {"torch": on_torch({key: to_torch(state[key]) for key in on_torch.sources})}
    found["torch"] = {name: from_torch(tensor) for name, tensor in found["torch"].items()}
    # torch counts batches in int64, of which JAX has no arrays by default.
    with jax.enable_x64(any(array.dtype == np.int64 for array in expected.values())):
        on_jax = plan.to_jax()
        arrays = {".".join(key): state[key] for key in on_jax.sources}
        found["jax"] = {name: np.asarray(array) for name, array in jax.jit(on_jax)(arrays).items()}
    for framework, arrays in found.items():
        assert arrays.keys() == expected.keys()
        for name, array in expected.items():
            assert_same_bits(arrays[name], array, f"{framework}: {name}")


@every_family
def test_plans_compile_both_ways(case):
    source, model = harness.build_torch(case), harness.build_flax(case)
    rules = rules_for(source.config, type(model).__name__)
    frameworks = default_registry().frameworks
    assert_compiles(
        plan_conversion(source, to="flax", like=flax_template(model), rules=rules),
        frameworks["torch"].state(source),
    )
    params = harness.to_flax(source, model)
    assert_compiles(
        plan_conversion(params, to="torch", like=source, model=flax_template(model), rules=rules),
        frameworks["flax"].state(params),
    )
