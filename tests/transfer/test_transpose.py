"""The transpose: the same bytes from numpy and from a compiled kernel, whatever the elements and axes."""

from __future__ import annotations

import itertools
import sys

import numpy as np
import pytest
from support.arrays import random_array

from bridge_core import FlatState, convert, open_state, save_state
from bridge_core.state.dtypes import DTYPES
from bridge_core.transfer import load_values, transpose as module
from bridge_core.transfer.transpose import copy_into, kernel_for, move_plane

LARGE = 1 << 40
SHAPES = [(1, 7), (300, 500), (1030, 257), (2305, 300), (64, 300, 20, 3), (40, 130, 600), (3, 3, 200, 130)]
SIZES = ["uint8", "bfloat16", "float16", "float32", "float64", "complex64", "complex128"]


@pytest.fixture(scope="module")
def kernel():
    pytest.importorskip("cv2")
    return kernel_for(LARGE)


def orders(shape):
    return [axes for axes in itertools.permutations(range(len(shape))) if axes != tuple(range(len(shape)))]


@pytest.mark.parametrize("dtype", SIZES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("compiled", [False, True], ids=["numpy", "compiled"])
def test_every_order_of_axes_gives_the_bytes_of_a_plain_copy(dtype, shape, compiled, request):
    """Payloads of NaN included: random bits are moved, not values."""
    chosen = request.getfixturevalue("kernel") if compiled else None
    source = random_array(shape, DTYPES[dtype], 1)
    for axes in orders(shape)[:8]:
        turned = source.transpose(axes)
        out = np.empty(turned.shape, turned.dtype)
        copy_into(out, turned, chosen)
        assert out.tobytes() == np.ascontiguousarray(turned).tobytes(), axes


@pytest.mark.parametrize("dtype", SIZES)
def test_a_plane_goes_into_part_of_a_larger_one(dtype, kernel):
    source = random_array((130, 70), DTYPES[dtype], 2)
    for chosen in (None, kernel):
        out = np.zeros((100, 400), source.dtype)
        move_plane(out[10:80, 200:330], source.T, chosen)
        assert out[10:80, 200:330].tobytes() == np.ascontiguousarray(source.T).tobytes()
        out[10:80, 200:330] = 0
        assert not out.any(), "elements around the plane were written"


def test_a_small_job_imports_nothing(monkeypatch):
    monkeypatch.setattr(module, "_opencv", lambda: pytest.fail("the kernel was asked for"))
    assert kernel_for(1 << 20) is None


def test_without_the_package_there_is_no_kernel(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    module._opencv.cache_clear()
    try:
        assert kernel_for(LARGE) is None
    finally:
        module._opencv.cache_clear()


def test_files_and_loaded_arrays_are_the_same_with_the_kernel(tmp_path, monkeypatch, kernel):
    """Through the whole engine: blocks, strips of large tensors, and loading."""
    values = {
        ("big", "weight"): random_array((1500, 2100), DTYPES["bfloat16"], 3),
        ("big", "bias"): random_array((1500,), DTYPES["bfloat16"], 4),
        ("conv", "weight"): random_array((300, 200, 3, 3), DTYPES["float32"], 5),
        ("conv", "bias"): random_array((300,), DTYPES["float32"], 6),
    }
    source = tmp_path / "model.safetensors"
    save_state(FlatState(values, layout="torch"), source)
    made = {}
    for name, threshold in (("numpy", LARGE), ("compiled", 0)):
        monkeypatch.setattr(module, "_WORTH_LOADING", threshold)
        target = tmp_path / f"{name}.safetensors"
        convert(source, target, to="flax", max_ram="16MB")
        with open_state(target) as state:
            made[name] = (
                target.read_bytes(),
                {key: value.tobytes() for key, value in load_values(state).items()},
            )
    assert made["numpy"] == made["compiled"]
    with open_state(tmp_path / "compiled.safetensors") as state:
        assert state["big", "kernel"].tobytes() == np.ascontiguousarray(values["big", "weight"].T).tobytes()
