"""Checkpoints that Orbax saved, old and new, read without a template: every key, dtype, shape and bit."""

from __future__ import annotations

import numpy as np
import pytest
from support.arrays import assert_same_bits
from support.errors import refused
from support.orbax_values import SAMPLE, cases, old_cases

from bridge_core import UsageError, open_state

OLD = sorted(old_cases())


def assert_item(path, item):
    wanted = item.expected()
    with open_state(path, step=item.step, entry=item.entry) as state:
        assert set(state) == set(wanted)
        for key, array in wanted.items():
            spec = state.spec(key)
            assert (spec.dtype, spec.shape) == (array.dtype, array.shape), key
            assert_same_bits(state[key], array, "/".join(key))
            if array.ndim and array.size > 1:
                region = tuple(slice(n // 3, n - n // 4) for n in array.shape)
                assert_same_bits(state.read(key, region), array[region], f"part of {key}")
        assert state.layout in (None, "flax")


@pytest.mark.parametrize("name", OLD)
def test_what_orbax_of_2023_saved_is_read(stored, name):
    for item in old_cases()[name]:
        assert_item(stored / "orbax-0.4.8" / name, item)


@pytest.mark.parametrize("name", SAMPLE)
def test_what_orbax_of_2026_saved_is_read(stored, name):
    for item in cases()[name].items:
        assert_item(stored / "orbax-0.12.8" / name, item)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(cases()))
def test_what_the_installed_orbax_saves_is_read(matrix, name):
    for item in cases()[name].items:
        assert_item(matrix / name, item)


@pytest.mark.parametrize(
    ("path", "latest"),
    [
        ("orbax-0.4.8/manager", 20),
        ("orbax-0.4.8/single", 20),
        ("orbax-0.4.8/flax", 20),
        ("orbax-0.12.8/manager-ocdbt-zarr2", 100),
        ("orbax-0.12.8/prefixed", 7),
    ],
)
def test_the_latest_step_by_number_is_read(stored, path, latest):
    entry = "params" if "manager" in path else None
    with open_state(stored / path, entry=entry) as state:
        assert state.metadata.provenance["step"] == str(latest)
        latest_tensors = next(
            item.expected()
            for made in (old_cases(), {name: case.items for name, case in cases().items()})
            for item in made.get(path.partition("/")[2], ())
            if item.step == latest and item.entry in (entry, "default", None)
        )
        for key, array in latest_tensors.items():
            assert_same_bits(state[key], array, "/".join(key))


@pytest.mark.parametrize("path", ["orbax-0.4.8/manager/3", "orbax-0.12.8/manager-ocdbt-zarr2/12"])
def test_a_step_and_an_item_can_be_the_source(stored, path):
    step = int(path.rpartition("/")[2])
    made = cases()["manager-ocdbt-zarr2"].items if step == 12 else old_cases()["manager"]
    for item in made:
        if item.step == step:
            wanted = item.expected()
            for source, entry in ((stored / path, item.entry), (stored / path / item.entry, None)):
                with open_state(source, entry=entry) as state:
                    assert {key: array.tobytes() for key, array in wanted.items()} == {
                        key: np.asarray(state[key]).tobytes() for key in state
                    }


@pytest.mark.parametrize("path", ["orbax-0.4.8/manager", "orbax-0.12.8/manager-ocdbt-zarr2"])
def test_a_step_an_item_or_an_entry_that_is_not_there(stored, path):
    with refused(UsageError, "4"):
        open_state(stored / path, step=4)
    with refused(UsageError, "JSON"):
        open_state(stored / path, entry="metadata")
    with refused(UsageError, "nothing"):
        open_state(stored / path, entry="nothing")


def test_an_entry_in_an_item(stored):
    with open_state(stored / "orbax-0.12.8/manager-ocdbt-zarr2", step=5, entry="params.params.norm") as state:
        assert set(state) == {("scale",), ("bias",)}
