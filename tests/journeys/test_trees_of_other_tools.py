"""Trees as other tools write them: right, or refused with the tensors' names and a way on."""

import jax
import numpy as np
import pytest
from flax import linen, nnx, serialization
from flax.traverse_util import flatten_dict
from safetensors.numpy import save_file
from support.errors import refused

import bridge_core
import bridge_flax
import bridge_torch
from bridge_core import AmbiguousLayerError, UnclaimedTensorError

FLOATS = np.random.default_rng(0)


def numbers(*shape, dtype="float32"):
    return FLOATS.standard_normal(shape).astype(dtype)


def codes(*shape, dtype="int32"):
    return FLOATS.integers(0, 100, shape).astype(dtype)


def write(tree, path):
    if path.suffix == ".msgpack":
        path.write_bytes(serialization.msgpack_serialize(tree))
    elif path.suffix == ".npz":
        np.savez(path, **tree)
    else:
        save_file(tree, path)
    return path


def converted(source, folder, to="torch", **options):
    bridge_core.convert(source, folder / "made.npz", to=to, **options)
    with bridge_core.open_state(folder / "made.npz") as state:
        return {bridge_core.join_key(key): state[key] for key in state}


K, B = numbers(4, 4), numbers(4)
DENSE = {"kernel": K, "bias": B}
TREE = {
    "params": {"Dense_0": DENSE, "Norm_0": {"scale": B, "bias": B}, "Embed_0": {"embedding": numbers(7, 4)}}
}
RANDOM = {"key": {"value": codes(2, dtype="uint32")}, "count": {"value": np.uint32(3)}}


@pytest.mark.parametrize(
    ("separator", "suffix"),
    [
        *((separator, ".npz") for separator in ("__", "|", ":", "::", "//", " ", "->", "_")),
        ("|", ".safetensors"),
        ("|", ".msgpack"),
        ("/", ".msgpack"),
        (".", ".msgpack"),
    ],
)
def test_names_joined_by_what_nobody_splits_at_are_refused(separator, suffix, tmp_path):
    source = write(flatten_dict(TREE, sep=separator), tmp_path / f"f{suffix}")
    name = separator.join(["params", "Dense_0", "kernel"])
    with refused(UnclaimedTensorError) as caught:
        converted(source, tmp_path, layout="flax")
    assert name in caught.value.reasons


@pytest.mark.parametrize(
    "leaf",
    [
        "params|Norm_0|scale",
        "a__Embed_0__embedding",
        "bn/gamma:0",
        "bn/moving_mean:0",
        "['params']['n']['scale']",
    ],
)
def test_names_of_one_axis_that_hold_a_path_are_refused(leaf, tmp_path):
    source = write({leaf: B, "fc/kernel": K, "fc/bias": B}, tmp_path / "f.npz")
    with refused(UnclaimedTensorError) as caught:
        converted(source, tmp_path, layout="flax")
    assert [key.rpartition(".")[2] for key in caught.value.reasons] == [leaf.rpartition("/")[2]]


@pytest.mark.parametrize(
    ("tree", "expected"),
    [
        ({"fc": {"kernel": {"value": K}, "bias": B}}, {"fc.weight": K.T, "fc.bias": B}),
        ({"params": {"fc": {"kernel": {"value": K, "names": {"0": "a", "1": ""}}}}}, {"fc.weight": K.T}),
        ({"fc": {"kernel": {"value": K}}, "drop": {"rngs": RANDOM}}, {"fc.weight": K.T}),
        ({"value": DENSE, "policy": DENSE}, {"value.weight": K.T, "policy.weight": K.T}),
        ({"kernel": {"value": DENSE}}, {"kernel.value.weight": K.T}),
        ({"params": {"params": DENSE, "cache": DENSE}}, {"params.weight": K.T, "cache.weight": K.T}),
        ({"b": {0: {"l": {0: DENSE, 1: DENSE}}}}, {"b.0.l.0.weight": K.T, "b.0.l.1.weight": K.T}),
        ({0: DENSE, 1: DENSE}, {"0.weight": K.T, "1.bias": B}),
    ],
    ids=["half boxed", "partitioned", "random state", "value", "kernel", "params", "lists", "integers"],
)
def test_boxes_integers_and_odd_names_of_modules(tree, expected, tmp_path):
    made = converted(write(tree, tmp_path / "f.msgpack"), tmp_path)
    for name, value in expected.items():
        np.testing.assert_array_equal(made[name], value)
    assert not any("value" in name and name not in expected for name in made if "bias" not in name)


HAIKU = {
    "norm": {"layer_norm": {"scale": B, "offset": B}},
    "statistics": {"bn/~/mean_ema": {"average": B, "hidden": B}},
    "nested statistics": {"bn": {"~": {"var_ema": {"average": B}}}},
    "linear": {"mlp/~/linear_0": {"w": K, "b": B}},
    "convolution": {"conv2_d": {"w": numbers(3, 3, 4, 4)}},
    "attention": {"mha": {name: {"w": K} for name in ("query", "key", "value", "linear")}},
}


@pytest.mark.parametrize("name", HAIKU)
def test_haikus_layers_are_refused(name, tmp_path):
    with refused(UnclaimedTensorError) as caught:
        converted(write(HAIKU[name], tmp_path / "h.msgpack"), tmp_path)
    layer = next(iter(HAIKU[name])).partition("/")[0]
    assert any(key.startswith(layer) for key in caught.value.reasons)


def test_a_scale_with_another_neighbour_is_a_tensor_of_its_module(tmp_path):
    tree = {"fc": DENSE, "mix": {"scale": B, "shift": B}}
    np.testing.assert_array_equal(converted(write(tree, tmp_path / "f.msgpack"), tmp_path)["mix.scale"], B)


LAYERS = {
    "dense": lambda n, i, o: {"kernel": numbers(n, i, o), "bias": numbers(n, o)},
    "without bias": lambda n, i, o: {"kernel": numbers(n, i, o)},
    "convolution": lambda n, i, o: {"kernel": numbers(n, 3, 3, i, o), "bias": numbers(n, o)},
    "convolution of one axis": lambda n, i, o: {"kernel": numbers(n, 3, i, o), "bias": numbers(n, o)},
    "embedding": lambda n, i, o: {"embedding": numbers(n, 7, i)},
    "heads": lambda n, i, o: {"kernel": numbers(n, i, 2, 2), "bias": numbers(n, 2, 2)},
}


@pytest.mark.parametrize("sizes", [(3, 4, 4), (4, 4, 4), (4, 4, 6), (6, 4, 6), (1, 4, 4)], ids=str)
@pytest.mark.parametrize("name", LAYERS)
def test_stacks_and_replicas_of_layers_are_refused(name, sizes, tmp_path):
    tree = {"params": {"blocks": {"mix": LAYERS[name](*sizes)}}}
    with pytest.raises((AmbiguousLayerError, UnclaimedTensorError)) as caught:
        converted(write(tree, tmp_path / "f.msgpack"), tmp_path)
    assert all(key.startswith("params.blocks.mix.") for key in caught.value.keys)


def variables_of(model, inputs):
    shapes = jax.eval_shape(model.init, jax.random.key(0), inputs)
    return jax.tree.map(lambda leaf: numbers(*leaf.shape), shapes)


def scanned(layer, length):
    """Return a model that scans over a stack of one layer, and its variables."""

    class Block(linen.Module):
        @linen.compact
        def __call__(self, x, _):
            return layer(name="mix")(x), None

    class Model(linen.Module):
        @linen.compact
        def __call__(self, x):
            stack = linen.scan(Block, variable_axes={"params": 0}, split_rngs={"params": True}, length=length)
            return stack(name="blocks")(x, None)[0]

    inputs = jax.ShapeDtypeStruct((2, 3, 4, 4), "float32")
    return bridge_flax.template(Model(), inputs), variables_of(Model(), inputs)


def attention(name, use_bias=True):
    return linen.MultiHeadDotProductAttention(2, use_bias=use_bias, name=name)


SCANNED = {
    "dense": lambda name: linen.Dense(4, name=name),
    "without bias": lambda name: linen.Dense(4, use_bias=False, name=name),
    "general": lambda name: linen.DenseGeneral((4,), use_bias=False, name=name),
    "convolution": lambda name: linen.Conv(4, (3, 3), name=name),
    "attention": attention,
    "attention without bias": lambda name: attention(name, use_bias=False),
}


@pytest.mark.parametrize(
    ("name", "length"), [*((name, 4) for name in SCANNED), ("dense", 3), ("attention", 2)]
)
def test_a_stack_is_not_one_layer_though_its_module_is_known(name, length):
    template, variables = scanned(SCANNED[name], length)
    with refused(UnclaimedTensorError) as caught:
        bridge_torch.from_neutral(bridge_flax.to_neutral(variables, module=template))
    assert any("blocks.mix." in key for key in caught.value.reasons)


VMAPPED = {
    "linear": lambda rngs: nnx.Linear(4, 4, rngs=rngs),
    "general": lambda rngs: nnx.LinearGeneral(4, (2, 2), rngs=rngs),
    "general without bias": lambda rngs: nnx.LinearGeneral(4, (2, 2), use_bias=False, rngs=rngs),
    "embedding": lambda rngs: nnx.Embed(7, 4, rngs=rngs),
    "batch norm": lambda rngs: nnx.BatchNorm(4, rngs=rngs),
    "cell": lambda rngs: nnx.LSTMCell(4, 4, rngs=rngs),
}


@pytest.mark.parametrize("name", VMAPPED)
def test_an_ensemble_is_not_one_layer(name):
    many = nnx.split_rngs(splits=4)(nnx.vmap(VMAPPED[name], in_axes=0, out_axes=0))
    model = nnx.Dict(ensemble=many(nnx.Rngs(0)))
    with refused(UnclaimedTensorError) as caught:
        bridge_torch.from_neutral(bridge_flax.to_neutral(model))
    assert any(key.startswith("ensemble.") for key in caught.value.reasons)


def test_general_layers_that_are_single_convert():
    class Model(linen.Module):
        @linen.compact
        def __call__(self, x):
            x = linen.DenseGeneral((2, 6), use_bias=False, name="split")(x)
            return linen.DenseGeneral(3, axis=(-2, -1), name="join")(x)

    inputs = jax.ShapeDtypeStruct((2, 4), "float32")
    template = bridge_flax.template(Model(), inputs)
    variables = variables_of(Model(), inputs)
    made = bridge_torch.from_neutral(bridge_flax.to_neutral(variables, module=template))
    for name, shape in (("split", (4, 12)), ("join", (12, 3))):
        kernel = np.asarray(variables["params"][name]["kernel"]).reshape(shape)
        np.testing.assert_array_equal(made[f"{name}.weight"].numpy(), kernel.T)


PACKED = {
    "EXL3": {"a.trellis": codes(2, 8, 4, dtype="int16"), "a.suh": numbers(8)},
    "Marlin": {"a.B": codes(2, 8), "a.s": numbers(1, 8)},
    "AQLM": {"a.codes": codes(8, 1, 1, dtype="int8"), "a.codebooks": numbers(1, 16, 1, 8)},
    "QuIP": {"a.Qidxs": codes(8, 1), "a.SU": numbers(8)},
    "HQQ": {"a.W_q": codes(8, 8, dtype="uint8"), "a.scale": numbers(8, 1), "a.zero": numbers(8, 1)},
    "quanto": {"a.weight._data._data": codes(4, 8, dtype="uint8"), "a.weight._scale": numbers(8, 1)},
    "torch": {"a._packed_params._packed_params": codes(8, 8, dtype="int8"), "a.scale": numbers(1)},
    "OFT": {"a.oft_blocks": numbers(2, 4, 4)},
    "VeRA": {"vera_A": numbers(2, 8), "a.vera_lambda_b": numbers(8)},
    "DeepSpeed": {"single_partition_of_fp32_groups": numbers(40)},
    "averages": {"shadow_params.0": numbers(8, 4)},
    "a mask of pruning": {"a.weight_mask": numbers(4, 4)},
}


@pytest.mark.parametrize("name", PACKED)
def test_packed_joined_and_adapted_tensors_are_refused(name, tmp_path):
    source = {"p.weight": numbers(6, 4), "p.bias": numbers(6), **PACKED[name]}
    with refused(UnclaimedTensorError) as caught:
        converted(source, tmp_path, to="flax", layout="torch")
    assert next(iter(PACKED[name])) in caught.value.reasons


def test_integers_that_layers_hold_beside_numbers_are_copied(tmp_path):
    own = {
        "attn.bias": codes(1, 1, 4, 4, dtype="uint8"),
        "attn.relative_position_index": codes(4, 4, dtype="int64"),
        "attn.causal_mask": codes(4, 4, dtype="uint8"),
        "attn.masked_bias": numbers(),
        "emb.position_ids": codes(1, 4),
    }
    source = {"p.weight": numbers(6, 4), "p.bias": numbers(6), **own}
    made = converted(source, tmp_path, to="flax", layout="torch")
    for name, value in own.items():
        np.testing.assert_array_equal(made[name], value)
