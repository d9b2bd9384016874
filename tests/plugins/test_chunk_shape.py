"""What a plugin's tensors say about their chunks is handed on, if it can be true."""

from __future__ import annotations

import contextlib
from types import SimpleNamespace

import numpy as np
import pytest

from bridge_core import FlatState
from bridge_core.plugins.guarded_tensors import guarded_state
from bridge_core.state.tensors import LazyTensor, TensorSpec

SPEC = TensorSpec((3, 4), np.dtype("f4"))


def guarded(tensor):
    state = guarded_state(FlatState({("w",): tensor}), contextlib.nullcontext)
    return state.tensor(("w",))


def tensor_of(chunk):
    return LazyTensor(SPEC, lambda region: np.zeros(SPEC.shape, "f4")[region], chunk)


@pytest.mark.parametrize("chunk", [(), (3, 4), (1, 2), (np.int64(2), 9)])
def test_the_chunk_shape_is_handed_on(chunk):
    found = guarded(tensor_of(chunk)).chunk_shape
    assert found == chunk
    assert all(type(n) is int for n in found)


def test_a_tensor_without_a_chunk_shape_has_none():
    assert guarded(SimpleNamespace(spec=SPEC, read=lambda region: None)).chunk_shape == ()


@pytest.mark.parametrize(
    "chunk", [(3,), (0, 4), (3, -1), (1.5, 2), None, [3, 4], ("3", "4"), 3, (True, 4, 4)]
)
def test_a_chunk_shape_that_cannot_be_is_an_error_of_the_plugin(chunk):
    with pytest.raises(TypeError, match="chunk shape of 'w'"):
        guarded(tensor_of(chunk))
