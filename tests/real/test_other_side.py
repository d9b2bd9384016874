"""Files written here, opened by the libraries they are meant for: every dtype each knows, bit for bit."""

import flax.serialization
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors
import safetensors.flax
import safetensors.numpy
import safetensors.torch
import torch
from flax.traverse_util import flatten_dict, unflatten_dict
from support.arrays import random_array
from support.loading import assert_same_tensors
from support.torch_bits import bits_of
from support.torch_files import DTYPES as TORCH_DTYPES, name_of

import bridge_core
from bridge_core import FlatState, convert, save_state
from bridge_core.state.dtypes import DTYPES, PACKED

FORMATS = bridge_core.default_registry().formats
SHAPES = {"matrix": (3, 4), "deep": (2, 1, 3, 2), "vector": (6,), "none": (0, 2)}
TORCH_NAMES = [name_of(dtype) for dtype in TORCH_DTYPES]
SAFE_NAMES = [name for name in TORCH_NAMES if name in FORMATS["safetensors"].capabilities.dtypes]
JAX_NAMES = [
    *("bool", "int8", "int16", "int32", "uint8", "uint16", "uint32"),
    *("float16", "float32", "bfloat16", "complex64"),
]
"""What `safetensors.flax` knows, less the 64-bit numbers, which JAX holds only if asked to."""
NUMPY_NAMES = [name for name, dtype in DTYPES.items() if dtype.isbuiltin == 1]


def arrays_of(dtype):
    made = {(dtype, name): random_array(shape, dtype, seed=len(name)) for name, shape in SHAPES.items()}
    if dtype not in PACKED:  # two values of these share a byte, where a format packs them
        made[dtype, "scalar"] = random_array((), dtype)
    made[dtype, "transposed"] = random_array((4, 6), dtype).T
    made[dtype, "reversed"] = random_array((6, 2), dtype)[::-1]
    return made


def written(path, names, layout):
    """Write every shape in these dtypes, and return what was written."""
    held = {key: array for name in names for key, array in arrays_of(name).items()}
    save_state(FlatState(held, layout=layout), path)
    return held


def assert_holds(found, held, *, joined=True):
    assert set(found) == {".".join(key) if joined else key for key in held}
    for key, array in held.items():
        value = found[".".join(key) if joined else key]
        assert tuple(value.shape) == array.shape, key
        assert name_of(value.dtype) == array.dtype.name, key
        assert bits_of(value) == array.tobytes(), key


@pytest.mark.parametrize("mapped", [False, True], ids=["eager", "mmap"])
def test_torch_loads_torch_files(mapped, tmp_path):
    assert set(TORCH_NAMES) <= FORMATS["torch"].capabilities.dtypes
    held = written(tmp_path / "w.pt", TORCH_NAMES, "torch")
    found = torch.load(tmp_path / "w.pt", weights_only=True, mmap=mapped)
    assert_holds(found, held)


@pytest.mark.parametrize("mapped", [False, True], ids=["eager", "mmap"])
def test_torch_loads_tied_weights_as_one_storage(mapped, tmp_path):
    table = torch.nn.Embedding(6, 4)
    head = torch.nn.Linear(4, 6, bias=False)
    head.weight = table.weight
    convert(torch.nn.ModuleDict({"table": table, "head": head}), tmp_path / "n.npz", to="neutral")
    convert(tmp_path / "n.npz", tmp_path / "w.pt", to="torch")
    found = torch.load(tmp_path / "w.pt", weights_only=True, mmap=mapped)
    assert_same_tensors(found, {"table.weight": table.weight, "head.weight": table.weight})
    first, second = (value.untyped_storage().data_ptr() for value in found.values())
    assert first == second


def test_torch_opens_safetensors(tmp_path):
    held = written(tmp_path / "w.safetensors", SAFE_NAMES, "torch")
    assert_holds(safetensors.torch.load_file(tmp_path / "w.safetensors"), held)
    with safetensors.safe_open(tmp_path / "w.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}
        assert_holds({name: file.get_tensor(name) for name in file.keys()}, held)  # noqa: SIM118
        rows = file.get_slice("float32.matrix")[1:, ::2]
    assert bits_of(rows) == held["float32", "matrix"][1:, ::2].tobytes()


def test_numpy_opens_safetensors(tmp_path):
    known = [name for name in NUMPY_NAMES if name in FORMATS["safetensors"].capabilities.dtypes]
    held = written(tmp_path / "w.safetensors", [*known, "bfloat16"], "flax")
    assert_holds(safetensors.numpy.load_file(tmp_path / "w.safetensors"), held)
    with safetensors.safe_open(tmp_path / "w.safetensors", "np") as file:
        assert file.metadata() == {"format": "flax"}
        assert_holds({name: file.get_tensor(name) for name in file.keys()}, held)  # noqa: SIM118


def test_flax_opens_safetensors(tmp_path):
    held = written(tmp_path / "w.safetensors", JAX_NAMES, "flax")
    assert_holds(safetensors.flax.load_file(tmp_path / "w.safetensors"), held)
    with safetensors.safe_open(tmp_path / "w.safetensors", "flax") as file:
        assert_holds({name: file.get_tensor(name) for name in file.keys()}, held)  # noqa: SIM118


def test_flax_restores_msgpack(tmp_path):
    held = written(tmp_path / "w.msgpack", DTYPES, "flax")
    tree = flax.serialization.msgpack_restore((tmp_path / "w.msgpack").read_bytes())
    assert_holds({key: np.asarray(value) for key, value in flatten_dict(tree).items()}, held, joined=False)


def test_flax_fills_its_own_tree_from_msgpack(tmp_path):
    held = written(tmp_path / "w.msgpack", JAX_NAMES, "flax")
    target = unflatten_dict({key: jnp.zeros(array.shape, array.dtype) for key, array in held.items()})
    filled = flax.serialization.from_bytes(target, (tmp_path / "w.msgpack").read_bytes())
    assert_holds({key: np.asarray(value) for key, value in flatten_dict(filled).items()}, held, joined=False)


def test_numpy_loads_npz(tmp_path):
    """What numpy has no name for stands as unsigned integers of the same width, beside the names."""
    held = written(tmp_path / "w.npz", DTYPES, "torch")
    with np.load(tmp_path / "w.npz", allow_pickle=False) as file:
        found = {name: file[name] for name in file.files}
    beside = found.pop("__ckptbridge__")
    assert beside.dtype == np.uint8
    for key, array in held.items():
        if array.dtype.name not in NUMPY_NAMES:
            name = ".".join(key)
            assert found[name].dtype == np.dtype(f"u{array.dtype.itemsize}")
            found[name] = found[name].view(array.dtype)
    assert_holds(found, held)


def test_control_one_changed_bit_is_seen(tmp_path):
    held = written(tmp_path / "w.pt", ["float32"], "torch")
    found = torch.load(tmp_path / "w.pt", weights_only=True)
    found["float32.deep"].view(torch.int32)[0, 0, 0, 0] ^= 1
    with pytest.raises(AssertionError):
        assert_holds(found, held)
