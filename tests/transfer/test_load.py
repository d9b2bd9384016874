"""Loading values into arrays that the caller gives, and with a budget."""

from __future__ import annotations

import numpy as np
import pytest
from support.errors import refused

from bridge_core import UsageError, open_state, save_state
from bridge_core.ops import OpTensor, Permute
from bridge_core.testing.harness import MB, traced_memory
from bridge_core.transfer import load_values


@pytest.fixture
def opened(tmp_path):
    """A state on a file, and its values."""
    values = {"a": np.arange(12.0, dtype=np.float32).reshape(3, 4), "b": np.arange(5, dtype=np.int64)}
    save_state(values, tmp_path / "a.safetensors")
    with open_state(tmp_path / "a.safetensors") as state:
        yield state, {(name,): value for name, value in values.items()}


def test_values_are_read_into_given_arrays(opened):
    state, values = opened
    out = {("a",): np.empty((3, 4), np.float32)}
    loaded = load_values(state, out=out)
    assert loaded.tensor("a").array is out["a",]
    for key, value in values.items():
        assert np.array_equal(loaded.tensor(key).array, value)


def test_arrays_that_values_do_not_fit_into_are_refused(opened):
    state, _ = opened
    read_only = np.empty((3, 4), np.float32)
    read_only.flags.writeable = False
    wrong = [
        read_only,
        np.empty((4, 3), np.float32),
        np.empty((4, 3), np.float32).T,
        np.empty((3, 4), np.float64),
        np.empty((3, 4), np.dtype(np.float32).newbyteorder(">")),
    ]
    for array in wrong:
        with refused(UsageError, "out=", "float32[3, 4]", key=("a",)):
            load_values(state, out={("a",): array})


def test_a_small_budget_bounds_the_buffers(tmp_path):
    weight = np.arange(4 * MB, dtype=np.float32).reshape(2048, 2048)
    save_state({"a": weight}, tmp_path / "a.safetensors")
    with open_state(tmp_path / "a.safetensors") as state:
        spec = type(state.spec("a"))((2048, 2048), np.dtype(np.float32))
        turned = state.replace(tensors={("a",): OpTensor(Permute((1, 0)), (state.tensor("a"),), 0, spec)})
        out = {("a",): np.empty((2048, 2048), np.float32)}
        with traced_memory() as measured:
            load_values(turned, out=out, workers=1, max_ram="2MB")
    assert np.array_equal(out["a",], weight.T)
    assert measured.nbytes < 4 * MB
    with refused(UsageError, "1 MB"):
        load_values(turned, max_ram=1000)
