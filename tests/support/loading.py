"""Opens files with the real other side's code, and compares what is in them."""

import flax.serialization
import numpy as np
import safetensors.flax
import safetensors.torch
import torch
from flax.traverse_util import flatten_dict, unflatten_dict

from support.torch_bits import bits_of


def load_torch(path):
    """Return a torch file's or a safetensors file's tensors."""
    if path.suffix == ".safetensors":
        return safetensors.torch.load_file(path)
    return torch.load(path, weights_only=True)


def load_flax(path):
    """Return the tree of a msgpack file, or of a safetensors file with dotted names."""
    if path.suffix == ".safetensors":
        return unflatten_dict(safetensors.flax.load_file(path), sep=".")
    return flax.serialization.msgpack_restore(path.read_bytes())


def assert_same_tensors(found, wanted):
    """Both hold the same names, and tensors of one dtype, one shape and equal bits."""
    assert set(found) == set(wanted)
    for name, tensor in wanted.items():
        assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape), name
        assert bits_of(found[name]) == bits_of(tensor), name


def assert_same_trees(found, wanted):
    """As `assert_same_tensors`, for trees of arrays."""
    assert_same_tensors(*({k: np.asarray(v) for k, v in flatten_dict(t).items()} for t in (found, wanted)))


def largest_difference(found, wanted):
    """Return the largest absolute difference of two arrays of one shape."""
    found, wanted = np.asarray(found), np.asarray(wanted)
    assert found.shape == wanted.shape
    return float(np.abs(found - wanted).max())
