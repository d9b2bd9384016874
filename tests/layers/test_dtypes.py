"""Every dtype crosses bit for bit: NaN payloads, infinities, denormals, and integers of any size."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from support.arrays import assert_same_bits, random_array
from support.models import assert_same_state_dict, assert_same_tree, from_neutral, to_neutral
from torch import nn

from bridge_core.state.dtypes import DTYPES

FLOATS = [
    *("float32", "float16", "bfloat16", "float64"),
    *("float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu"),
]
OTHERS = [
    "bool",
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "complex64",
    "complex128",
]
JAX_ONLY = [
    "float8_e3m4",
    "float8_e4m3",
    "float8_e4m3b11fnuz",
    "float4_e2m1fn",
    "int2",
    "uint2",
    "int4",
    "uint4",
]


def to_torch(array):
    """A torch tensor of the same bits; bfloat16 and fp8 pass as integers."""
    name = array.dtype.name
    if array.dtype.isbuiltin == 1:
        return torch.from_numpy(array.copy())
    integers = {1: np.uint8, 2: np.int16}[array.dtype.itemsize]
    return torch.from_numpy(array.view(integers).copy()).view(getattr(torch, name))


class Everything(nn.Module):
    """A layer of every kind, and bare parameters and buffers."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(5, 4)
        self.fc = nn.Linear(4, 3)
        self.conv = nn.Conv2d(3, 4, 2)
        self.up = nn.ConvTranspose2d(3, 2, 2)
        self.ln = nn.LayerNorm((3, 2))
        self.bn = nn.BatchNorm2d(3)
        self.act = nn.PReLU(3)
        self.wn = torch.nn.utils.parametrizations.weight_norm(nn.Linear(4, 3))
        self.token = nn.Parameter(torch.zeros(1, 2, 3))
        self.register_buffer("table", torch.zeros(2, 3))


def filled(dtype):
    """A state dict of random bits: floating-point entries in one dtype, the counter an integer."""
    state_dict = {}
    for i, (name, tensor) in enumerate(Everything().state_dict().items()):
        wanted = dtype if tensor.is_floating_point() else "int64"
        state_dict[name] = to_torch(random_array(tuple(tensor.shape), wanted, seed=i))
    return state_dict


@pytest.mark.parametrize("dtype", FLOATS)
def test_torch_to_flax_and_back_keeps_every_bit(dtype):
    original = filled(dtype)
    neutral = to_neutral(original, "torch", module=Everything())
    assert {spec.dtype.name for key, spec in neutral.specs().items() if key[-1] != "num_batches_tracked"} == {
        dtype
    }
    assert_same_state_dict(from_neutral(neutral, "torch"), original)

    tree = from_neutral(neutral, "flax")
    leaf = tree["params"]["conv"]["kernel"]
    assert leaf.dtype == DTYPES[dtype]
    assert_same_bits(np.asarray(leaf), np.asarray(neutral["conv", "kernel"]))
    back = from_neutral(to_neutral(tree, "flax"), "torch", like=original)
    counters = {"bn.num_batches_tracked"}
    assert_same_state_dict(without(back, counters), without(original, counters))


@pytest.mark.parametrize("dtype", [*FLOATS, *JAX_ONLY])
def test_flax_to_neutral_and_back_keeps_every_bit(dtype):
    tree = {
        "params": {
            "embed": {"embedding": random_array((5, 4), dtype, 1)},
            "fc": {"kernel": random_array((4, 3), dtype, 2), "bias": random_array((3,), dtype, 3)},
            "conv": {"kernel": random_array((2, 2, 3, 3), dtype, 4)},
            "ln": {"scale": random_array((3,), dtype, 5), "bias": random_array((3,), dtype, 6)},
            "token": random_array((1, 2), dtype, 7),
        },
        "batch_stats": {"bn": {"mean": random_array((3,), dtype, 8), "var": random_array((3,), dtype, 9)}},
    }
    back = from_neutral(to_neutral(tree, "flax"), "flax", like=tree)
    assert_same_tree(back, tree)
    assert_same_tree(from_neutral(to_neutral(tree, "flax"), "flax"), back)
    if dtype in FLOATS:
        there = from_neutral(to_neutral(tree, "flax", accept_guesses=True), "torch")
        again = from_neutral(to_neutral(there, "torch", accept_guesses=True), "flax", like=tree)
        assert_same_tree(again, tree)


@pytest.mark.parametrize("dtype", [*FLOATS, *OTHERS])
def test_bare_parameters_and_buffers_keep_every_bit(dtype):
    values = random_array((2, 3, 4), dtype)
    original = {"a.table": to_torch(values), "a.scalar": to_torch(random_array((), dtype, 1))}
    tree = from_neutral(to_neutral(original, "torch"), "flax")
    assert_same_bits(np.asarray(tree["a"]["table"]), values)
    assert_same_state_dict(from_neutral(to_neutral(tree, "flax"), "torch"), original)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "float8_e4m3fn", "int32", "bool"])
def test_nnx_variables_keep_every_bit(dtype):
    class Holder(nnx.Module):
        def __init__(self):
            self.table = nnx.Variable(jnp.zeros((2, 3), DTYPES[dtype]))
            self.fc = nnx.Linear(4, 3, param_dtype=jnp.bfloat16, rngs=nnx.Rngs(0))

    original = {
        "table": to_torch(random_array((2, 3), dtype)),
        "fc.weight": to_torch(random_array((3, 4), "bfloat16", 1)),
        "fc.bias": to_torch(random_array((3,), "bfloat16", 2)),
    }
    made = from_neutral(to_neutral(original, "torch"), "flax", like=nnx.eval_shape(Holder))
    assert type(made.table) is nnx.Variable
    assert_same_bits(np.asarray(made.table[...]), random_array((2, 3), dtype))
    assert_same_state_dict(from_neutral(to_neutral(made, "flax"), "torch", like=original), original)


def test_what_jnp_would_narrow_stays_as_it_is():
    original = {
        "big": torch.tensor([2**40, -(2**62)]),
        "huge": torch.tensor([1e300, 5e-324], dtype=torch.float64),
    }
    tree = from_neutral(to_neutral(original, "torch"), "flax")
    assert np.asarray(tree["big"]).tolist() == [2**40, -(2**62)]
    assert np.asarray(tree["huge"]).tolist() == [1e300, 5e-324]
    assert_same_state_dict(from_neutral(to_neutral(tree, "flax"), "torch"), original)


@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.arange(24.0).reshape(4, 6).t(),
        lambda: torch.arange(24.0).reshape(4, 6)[::2, ::3],
        lambda: torch.arange(6.0).expand(4, 6),
        lambda: torch.zeros(0, 6),
        lambda: torch.arange(24.0).reshape(4, 6)[1:3],
    ],
    ids=["transposed", "strided", "expanded", "empty", "part"],
)
def test_memory_of_any_shape_is_read_exactly(make):
    original = {"fc.weight": make(), "fc.bias": torch.arange(float(make().shape[0]))}
    tree = from_neutral(to_neutral(original, "torch"), "flax")
    assert_same_bits(np.asarray(tree["fc"]["kernel"]), original["fc.weight"].numpy().T.copy())
    back = from_neutral(to_neutral(tree, "flax"), "torch")
    assert_same_state_dict(back, {name: tensor.contiguous() for name, tensor in original.items()})


def without(state_dict, names):
    return {name: tensor for name, tensor in state_dict.items() if name not in names}
