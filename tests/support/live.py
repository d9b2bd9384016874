"""Chains of ops on live arrays of JAX and torch, compared with numpy."""

from __future__ import annotations

import jax
import numpy as np
import torch

from bridge_core import TensorSpec, UnsupportedFeature
from bridge_core.ops import emit_chain
from bridge_core.plugins import array_ops_of
from bridge_core.state.dtypes import DTYPES, is_floating
from bridge_torch.torch_objects.tensors import NAMES

JAX, TORCH = array_ops_of("flax"), array_ops_of("torch")


def to_torch(array):
    """A tensor of its own with the bits of a numpy array."""
    return TORCH.constant(np.asarray(array))


def from_torch(tensor):
    """The bits of a tensor in numpy, in the dtype of the same name."""
    dtype, tensor = DTYPES[NAMES[tensor.dtype]], tensor.detach().contiguous()
    if is_floating(dtype) and dtype.itemsize < 4:
        integers = torch.uint8 if dtype.itemsize == 1 else torch.int16
        return tensor.view(integers).numpy().view(dtype)
    return tensor.numpy()


def numpy_results(chain, arrays):
    with np.errstate(all="ignore"):
        for op in chain:
            arrays = op.apply(arrays)
    return arrays


def live_results(chain, arrays, *, eager=True):
    """How it was computed -> the results, of each framework that does not refuse the chain by name."""
    specs = tuple(TensorSpec(array.shape, array.dtype) for array in arrays)
    results = {}
    if compiles(JAX, chain, specs):
        emit = jax.jit(lambda *given: tuple(emit_chain(JAX, chain, given, specs)))
        results["jax, jitted"] = [np.asarray(result) for result in emit(*arrays)]
        if eager:
            given = [jax.numpy.asarray(array) for array in arrays]
            results["jax"] = [np.asarray(result) for result in emit_chain(JAX, chain, given, specs)]
    if compiles(TORCH, chain, specs):
        given = [to_torch(array) for array in arrays]
        results["torch"] = [from_torch(result) for result in emit_chain(TORCH, chain, given, specs)]
    return results


def compiles(array_ops, chain, specs):
    """Whether the primitives compute a chain, and do not refuse it by name."""
    try:
        array_ops.traced(lambda near, given: emit_chain(near, chain, given, specs), specs)
    except UnsupportedFeature:
        return False
    return True
