"""Live Flax objects: read as they are, rebuilt as they were, never changed."""

from __future__ import annotations

import subprocess
import sys
from collections import OrderedDict, namedtuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from flax.core import FrozenDict, freeze
from support.errors import refused

import bridge_flax
from bridge_core import (
    FlatState,
    KeyConflict,
    LimitExceeded,
    MismatchError,
    MissingDependency,
    UnsupportedFeature,
    UsageError,
)
from bridge_core.state.dtypes import DTYPES
from bridge_flax import FlaxFramework, Template, template

FLAX = FlaxFramework()
Pair = namedtuple("Pair", "first second")

# What JAX has no array type for, at least while 64-bit numbers are off.
NUMPY_ONLY = {"int64", "uint64", "float64", "complex128", "float6_e2m3fn", "float6_e3m2fn"}


def every_pattern(dtype):
    """Every bit pattern of narrow dtypes, random bits of wide ones; NaNs of all kinds included."""
    rng = np.random.default_rng(0)
    if dtype == np.bool_:
        return np.array([True, False, True])
    bits = {"int2": 2, "uint2": 2, "int4": 4, "uint4": 4, "float4_e2m1fn": 4, "float6_e2m3fn": 6}
    width = bits.get(dtype.name, 6 if dtype.name == "float6_e3m2fn" else dtype.itemsize * 8)
    if width < 8 and dtype.name.startswith("int"):
        return np.arange(-(2 ** (width - 1)), 2 ** (width - 1)).astype(np.int8).astype(dtype)
    if width <= 16:
        storage = np.uint16 if dtype.itemsize == 2 else np.uint8
        return np.arange(2**width).astype(storage).view(dtype)
    return rng.integers(0, 256, dtype.itemsize * 64, np.uint8).view(dtype)


def same_bits(a, b):
    a, b = np.asarray(a), np.asarray(b)
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def filled(state, seed=0):
    """A state of random float32 values in the shapes of another."""
    rng = np.random.default_rng(seed)
    values = {k: rng.standard_normal(s.shape).astype(s.dtype) for k, s in state.specs().items()}
    return FlatState(values, layout="flax", metadata=state.metadata)


class Net(nn.Module):
    """A little of everything; `extra` decides what is built."""

    extra: bool = False

    def setup(self):
        self.layers = [nn.Dense(4), nn.Dense(4)]
        self.fc = nn.Dense(4)
        self.norm_of_fc = nn.WeightNorm(self.fc)

    @nn.compact
    def __call__(self, x, train=False):
        for layer in self.layers:
            x = layer(x)
        x = self.norm_of_fc(x)
        x = nn.BatchNorm(use_running_average=not train, name="bn")(x)
        x = nn.remat(nn.Dense)(4, name="checked")(x)
        x = nn.Dropout(0.5, deterministic=not train)(x)
        if self.extra:
            x = nn.Dense(9)(x)
        return nn.ConvTranspose(3, (2,), transpose_kernel=True, name="up")(x[:, None])

    def head(self, x):
        return self.fc(x)


class Toy(nnx.Module):
    """NNX with lists, shared modules, wrappers, raw arrays and random state."""

    def __init__(self, width=3, *, rngs):
        self.blocks = nnx.List([nnx.Linear(width, width, rngs=rngs), nnx.BatchNorm(width, rngs=rngs)])
        self.conv = nnx.Conv(2, 4, (3, 3), feature_group_count=2, rngs=rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs)
        self.normed = nnx.WeightNorm(nnx.Linear(width, 5, rngs=rngs), rngs=rngs)
        self.spectral = nnx.SpectralNorm(nnx.Linear(width, 2, rngs=rngs), rngs=rngs)
        self.shared = self.blocks[0]
        self.raw = nnx.data(jnp.arange(3.0))
        self.table = nnx.data({7: nnx.Param(jnp.ones(2))})


class Counter(nnx.Variable):
    """A Variable type that the bridge has never heard of."""


@pytest.fixture(scope="module")
def toy():
    return Toy(rngs=nnx.Rngs(0))


# Linen trees: reading


@pytest.mark.parametrize("name", DTYPES)
def test_every_dtype_is_read_and_built_bit_for_bit(name):
    source = every_pattern(DTYPES[name])
    state = FLAX.state({"layer": {"kernel": source}})
    assert same_bits(state["layer", "kernel"], source)
    built = FLAX.build(state, None)["layer"]["kernel"]
    assert same_bits(built, source)
    assert isinstance(built, np.ndarray if name in NUMPY_ONLY else jax.Array)
    assert same_bits(FLAX.state({"layer": {"kernel": built}})["layer", "kernel"], source)


def test_64_bit_numbers_become_jax_arrays_where_jax_holds_them():
    with jax.enable_x64(True):
        built = FLAX.build(FlatState({("a",): np.array([2**40])}), None)["a"]
        assert isinstance(built, jax.Array)
        assert built[0] == 2**40


def test_arrays_are_read_without_a_copy():
    array, mine = jnp.arange(12.0), np.arange(3.0)
    state = FLAX.state({"a": array, "b": mine})
    assert state["a",].__array_interface__["data"] == np.asarray(array).__array_interface__["data"]
    assert np.shares_memory(state["b",], mine)


@pytest.mark.parametrize(
    ("tree", "form"),
    [
        ({"params": {"kernel": np.ones(2)}}, "variables"),
        ({"params": {"a": {"kernel": np.ones(2)}}, "memory": {"a": np.ones(2)}}, "variables"),
        ({"batch_stats": {"mean": np.ones(2)}}, "variables"),
        ({"a": {"kernel": np.ones(2)}}, "params"),
        ({"params": np.ones(2)}, "params"),
        ({"batch_stats": {"mean": np.ones(2)}, "a": np.ones(1)}, "params"),
    ],
)
def test_collection_heads_are_told_from_module_names(tree, form):
    assert FLAX.state(tree).metadata.tree_form == {"flax": form}


def test_keys_are_the_tree_and_empty_nodes_are_kept():
    tree = {"params": freeze({"b": {"kernel": np.ones(2)}, "a": {}}), "cache": None}
    tree["batch_stats"] = {"x": (np.ones(1), [np.ones(2), ()]), "y": Pair(np.ones(3), 2)}
    state = FLAX.state(tree)
    assert list(state) == [
        ("params", "b", "kernel"),
        ("batch_stats", "x", "0"),
        ("batch_stats", "x", "1", "0"),
        ("batch_stats", "y", "first"),
        ("batch_stats", "y", "second"),
    ]
    assert state.metadata.empty == (("params", "a"), ("cache",), ("batch_stats", "x", "1", "1"))
    assert FLAX.build(state, None)["params"]["a"] == {}


def test_abstract_leaves_have_specs_and_raise_when_read():
    state = FLAX.state({"a": {"kernel": jax.ShapeDtypeStruct((2, 3), jnp.bfloat16)}})
    assert str(state.spec(("a", "kernel"))) == "bfloat16[2, 3]"
    with refused(UsageError, "bfloat16[2, 3]", key=("a", "kernel")):
        state["a", "kernel"]


@pytest.mark.parametrize("mesh", [None, jax.make_mesh((1,), ("x",), devices=jax.devices()[:1])])
def test_boxes_are_opened_and_put_back(mesh):
    box = nn.Partitioned(jnp.ones((2, 3)), names=("x", None), mesh=mesh)
    logical = nn.LogicallyPartitioned(jnp.ones(3), names=("embed",))
    tree = {"a": {"kernel": box, "bias": logical}}
    state = FLAX.state(tree)
    assert list(state) == [("a", "kernel"), ("a", "bias")]
    built = FLAX.build(filled(state), tree)
    assert built["a"]["kernel"].names == ("x", None)
    assert built["a"]["kernel"].mesh is mesh
    assert isinstance(built["a"]["bias"], nn.LogicallyPartitioned)
    assert same_bits(built["a"]["kernel"].value, filled(state)["a", "kernel"])


def test_typed_random_keys_travel_as_their_data():
    tree = {"noise": {"key": jax.random.split(jax.random.key(3, impl="rbg"), 2)}}
    state = FLAX.state(tree)
    assert state["noise", "key"].dtype == np.uint32
    for like in (tree, jax.eval_shape(lambda: tree)):
        built = FLAX.build(state, like)["noise"]["key"]
        assert jax.random.key_impl(built) == jax.random.key_impl(tree["noise"]["key"])
        assert same_bits(jax.random.key_data(built), state["noise", "key"])


def test_all_leaves_that_are_no_tensors_are_named():
    with refused(UnsupportedFeature, "2 values", "a.x (expected an array, got str)", "a.y", "object"):
        FLAX.state({"a": {"x": "text", "y": np.array([object()]), "z": np.ones(1)}})


def test_names_that_collide_as_strings_are_refused():
    with refused(KeyConflict, "'1'", hint="Rename", key=("a",)):
        FLAX.state({"a": {1: np.ones(1), "1": np.ones(1)}})


def test_a_tree_that_holds_itself_is_refused():
    tree = {"a": np.ones(1)}
    tree["self"] = tree
    assert not FLAX.accepts(tree)
    with refused(LimitExceeded, "256 levels", key=("self",) * 8):
        FLAX.state(tree)


def test_traced_and_deleted_arrays_are_refused():
    with refused(UsageError, hint="outside of jit", key=("a",)):
        jax.jit(lambda tree: FLAX.state(tree))({"a": jnp.ones(2)})
    array = jnp.ones(2)
    array.delete()
    with refused(UsageError, "deleted", key=("a",)):
        FLAX.state({"a": array})


# Linen trees: building


@pytest.mark.parametrize("container", [dict, OrderedDict, FrozenDict])
def test_containers_come_back_as_they_were(container):
    like = container({"params": container({"b": container({"kernel": np.ones((2, 2))}), "a": container()})})
    built = FLAX.build(FLAX.state(like), like)
    assert type(built) is type(built["params"]) is type(built["params"]["a"]) is container
    assert list(built["params"]) == ["b", "a"]


def test_lists_tuples_numbers_and_integer_names_come_back():
    like = {"a": [np.ones(1), (np.ones(2), None)], 3: Pair(True, 1.5), "n": 7, "e": {"list": []}}
    built = FLAX.build(FLAX.state(like), like)
    assert isinstance(built[3], Pair)
    assert built[3] == (True, 1.5)
    assert type(built[3].first) is bool
    assert type(built["n"]) is int
    assert isinstance(built["a"], list)
    assert built["a"][1][1] is None
    assert built["e"] == {"list": []}
    assert built["e"]["list"] is not like["e"]["list"]


@pytest.mark.parametrize("dtype", ["float32", "int64", "bfloat16"])
@pytest.mark.parametrize("aligned", [True, False])
def test_results_do_not_follow_later_changes_of_the_source(dtype, aligned):
    raw = np.zeros(4096 + 64, np.uint8)
    start = -raw.ctypes.data % 64 + (0 if aligned else 8)
    source = raw[start : start + 4096].view(DTYPES[dtype])
    built = FLAX.build(FlatState({("a",): source}), None)["a"]
    raw[:] = 0x3F
    assert np.asarray(built).tobytes() == bytes(4096)


def test_transposed_views_are_built_in_their_own_order():
    source = np.arange(6.0, dtype=np.float32).reshape(2, 3).T[::-1]
    assert same_bits(FLAX.build(FlatState({("a",): source}), None)["a"], np.ascontiguousarray(source))


def test_a_sharded_target_gives_sharded_arrays():
    mesh = jax.make_mesh((1,), ("x",), devices=jax.devices()[:1])
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("x"))
    like = {"a": jax.ShapeDtypeStruct((4, 2), jnp.float32, sharding=sharding)}
    state = filled(FLAX.state(like))
    built = FLAX.build(state, like)["a"]
    assert built.sharding == sharding
    assert same_bits(built, state["a",])


@pytest.mark.slow
def test_sharded_arrays_are_read_once_and_built_part_by_part():
    script = """
import jax, numpy as np
from bridge_core import FlatState, TensorSpec
from bridge_core.state import LazyTensor
from bridge_flax import FlaxFramework
read = []
def reader(region):
    read.append(region[0])
    return np.arange(8, dtype=np.float32)[region]
state = FlatState({("a",): LazyTensor(TensorSpec((8,), np.dtype("float32")), reader)})
mesh = jax.make_mesh((4,), ("x",))
sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("x"))
built = FlaxFramework().build(state, {"a": jax.ShapeDtypeStruct((8,), "float32", sharding=sharding)})["a"]
assert len(built.addressable_shards) == 4 and (np.asarray(built) == np.arange(8)).all()
assert [(r.start, r.stop) for r in read] == [(0, 8)], read
read.clear()
everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
built = FlaxFramework().build(state, {"a": jax.ShapeDtypeStruct((8,), "float32", sharding=everywhere)})["a"]
assert [(r.start, r.stop) for r in read] == [(0, 8)], read
assert len({s.data.unsafe_buffer_pointer() for s in built.addressable_shards}) == 4
mesh = jax.make_mesh((2, 2), ("x", "y"))
table = np.arange(48).reshape(6, 8).astype(np.int32)
for spec in [("x", "y"), (None, "y"), ("y",), ()]:
    where = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*spec))
    state = FlaxFramework().state({"a": jax.device_put(table, where)})
    for rows in [slice(None), slice(1, 5), slice(0, 6, 4), slice(5, None), slice(2, 2), -1]:
        for columns in [slice(None), slice(1, 8, 3), slice(6, 2, -2), slice(4, 5), 3]:
            assert (state.read(("a",), (rows, columns)) == table[rows, columns]).all(), (spec, rows, columns)
"""
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=4", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", script], env=flags, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_a_mismatch_lists_everything_at_once():
    like = {"a": np.ones(2), "b": {"c": np.ones(3)}, "d": np.ones(1)}
    state = FlatState({("a",): np.ones(2), ("b", "c"): np.ones((3, 1)), ("x",): np.ones(1)})
    with refused(MismatchError, "1 missing: d", "1 unexpected: x", "1 of another shape: b.c") as caught:
        FLAX.build(state, like)
    assert caught.value.missing == ("d",)
    assert caught.value.unexpected == ("x",)
    (mismatched,) = caught.value.mismatched
    assert all(text in mismatched for text in ("b.c", "expected float64[3]", "got float64[3, 1]"))


# NNX


def test_nnx_keys_types_and_random_state(toy):
    state = FLAX.state(toy)
    assert ("blocks", "0", "kernel") in state
    assert ("table", "7") in state
    assert ("normed", "scales", "kernel") in state
    assert not [key for key in state if key[0] in ("drop", "shared")]
    assert state.metadata.tree_form == {"flax": "nnx"}
    assert state.metadata.collections == {
        ("blocks", "1", "mean"): "BatchStat",
        ("blocks", "1", "var"): "BatchStat",
        ("spectral", "batch_stats", "kernel/u"): "BatchStat",
        ("spectral", "batch_stats", "kernel/sigma"): "BatchStat",
    }


def test_nnx_modules_are_described(toy):
    modules = FLAX.state(toy).metadata.modules
    conv = modules["conv",]
    assert conv.types[0] == "flax.nnx.nn.linear.Conv"
    assert "flax.nnx.module.Module" in conv.types
    wanted = {"kernel_size": (3, 3), "feature_group_count": 2, "in_features": 2, "use_bias": True}
    assert wanted.items() <= conv.settings.items()
    assert set(conv.parameters) == {"kernel", "bias"}
    assert set(modules["blocks", "1"].parameters) == {"scale", "bias", "mean", "var"}
    assert set(modules[()].parameters) == {"raw", "table.7"}


def test_nnx_weight_norm_owns_what_it_wraps(toy):
    modules = FLAX.state(toy).metadata.modules
    assert set(modules["normed",].parameters) == {
        "scales.kernel",
        "layer_instance.kernel",
        "layer_instance.bias",
    }
    assert modules["normed",].settings["transpose_kernel"] is False
    assert modules["normed",].settings["weight_norm"] == {
        "scales.kernel": ("normed", "layer_instance", "kernel")
    }
    assert modules["normed", "layer_instance"].parameters == ()
    assert set(modules["spectral", "layer_instance"].parameters) == {"kernel", "bias"}


@pytest.mark.parametrize("abstract", [False, True])
@pytest.mark.parametrize(
    "as_given",
    [lambda m: m, nnx.state, nnx.unpack, lambda m: nnx.as_pure(nnx.state(m, nnx.Param))],
    ids=["module", "state", "graph_state", "pure_state"],
)
def test_nnx_objects_come_back_as_they_were(abstract, as_given):
    module = nnx.eval_shape(lambda: Toy(rngs=nnx.Rngs(5))) if abstract else Toy(rngs=nnx.Rngs(5))
    like = as_given(module)
    before = jax.tree.leaves(like)
    values = filled(FLAX.state(like))
    built = FLAX.build(values, like)
    assert type(built) is type(like)
    assert jax.tree.structure(built) == jax.tree.structure(like)
    state = FLAX.state(built)
    assert list(state) == list(values)
    assert state.metadata == values.metadata
    assert all(same_bits(state[key], values[key]) for key in values)
    assert all(a is b for a, b in zip(before, jax.tree.leaves(like), strict=True))
    assert not [leaf for leaf in jax.tree.leaves(built) if isinstance(leaf, jax.ShapeDtypeStruct)]


def test_a_built_module_is_new_shares_what_was_shared_and_keeps_its_random_state(toy):
    values = filled(FLAX.state(toy))
    old = np.asarray(toy.blocks[0].kernel[...])
    built = FLAX.build(values, toy)
    assert built is not toy
    assert built.shared is built.blocks[0]
    assert same_bits(built.shared.kernel[...], values["blocks", "0", "kernel"])
    assert same_bits(toy.blocks[0].kernel[...], old)
    assert built.drop.rngs.key is not toy.drop.rngs.key
    assert same_bits(
        jax.random.key_data(built.drop.rngs.key[...]), jax.random.key_data(toy.drop.rngs.key[...])
    )
    built.drop.rngs()
    assert int(toy.drop.rngs.count[...]) == 0
    x = jnp.ones((2, 3))
    np.testing.assert_allclose(
        built.blocks[0](x), x @ values["blocks", "0", "kernel"] + values["blocks", "0", "bias"], atol=1e-5
    )


def test_abstract_random_state_starts_at_seed_zero():
    like = nnx.eval_shape(lambda: Toy(rngs=nnx.Rngs(9)))
    built = FLAX.build(filled(FLAX.state(like)), like)
    assert same_bits(jax.random.key_data(built.drop.rngs.key[...]), jax.random.key_data(jax.random.key(0)))
    assert int(built.drop.rngs.count[...]) == 0
    assert built.drop(jnp.ones((4, 3))).shape == (4, 3)


@pytest.mark.parametrize("options", [{}, {"ref": True}, {"hijax": True}, {"note": "mine"}])
def test_variables_keep_their_type_and_metadata(options):
    class Holder(nnx.Module):
        def __init__(self):
            self.count = Counter(jnp.ones(2), **options)
            self.tree = nnx.Param({"x": jnp.ones(2), "none": None})

    like = Holder()
    state = FLAX.state(like)
    assert state.metadata.collections == {("count",): "Counter"}
    assert state.metadata.empty == (("tree", "none"),)
    built = FLAX.build(filled(state), like)
    assert isinstance(built.count, Counter)
    assert built.count.get_metadata() == like.count.get_metadata()
    assert same_bits(built.count[...], filled(state)["count",])
    assert same_bits(like.count[...], np.ones(2, np.float32))
    assert set(built.tree.get_value()) == {"x", "none"}


# Templates


def test_a_linen_template_has_the_names_and_shapes_of_init():
    model, x = Net(extra=True), jnp.ones((2, 5))
    made = template(model, jax.ShapeDtypeStruct((2, 5), jnp.float32), train=True)
    real = model.init(jax.random.key(0), x, train=True)
    assert made.kind == "linen"
    assert made.state.specs() == FLAX.state(real).specs()
    built = FLAX.build(filled(made.state), made)
    assert jax.tree.structure(built) == jax.tree.structure(real)
    assert model.apply(built, x).shape == model.apply(real, x).shape


def test_a_linen_template_describes_the_modules():
    made = template(Net(), jnp.ones((2, 5)))
    modules = made.state.metadata.modules
    assert modules[()].types[0].endswith("Net")
    assert modules["layers_1",].types[0] == "flax.linen.linear.Dense"
    assert modules["layers_1",].parameters == ("bias", "kernel")
    assert modules["checked",].types[0] == "flax.linen.linear.Dense"
    assert modules["up",].settings["transpose_kernel"] is True
    assert modules["up",].settings["kernel_size"] == (2,)
    assert set(modules["bn",].parameters) == {"scale", "bias", "mean", "var"}


@pytest.mark.parametrize("depth", [0, 1])
def test_linen_weight_norm_names_the_weight_it_scales(depth):
    class Outer(nn.Module):
        @nn.compact
        def __call__(self, x):
            return Net(name="net")(x)

    prefix = ("net",) * depth
    modules = template([Net, Outer][depth](), jnp.ones((2, 5))).state.metadata.modules
    norm, layer = modules[*prefix, "norm_of_fc"], modules[*prefix, "fc"]
    assert norm.parameters == ("fc/kernel/scale",)
    assert norm.settings["weight_norm"] == {"fc/kernel/scale": (*prefix, "fc", "kernel")}
    assert layer.settings["scaled_by"] == {"kernel": (*prefix, "norm_of_fc", "fc/kernel/scale")}


def test_linen_weight_norm_at_the_root_names_the_weight_it_scales():
    modules = template(nn.WeightNorm(nn.Dense(3)), jnp.ones((2, 5))).state.metadata.modules
    assert modules[()].settings["weight_norm"] == {
        "layer_instance/kernel/scale": ("layer_instance", "kernel")
    }


def test_linen_method_and_rngs_are_passed_on():
    keys = {"params": jax.random.key(1), "dropout": jax.random.key(2)}
    made = template(Net(), jnp.ones((2, 5)), rngs=keys, method="head")
    assert set(made.state) == {("params", "fc", "kernel"), ("params", "fc", "bias")}


def test_a_function_that_returns_params_alone_is_a_template_with_types():
    def init(key, shape):
        return Net().init(key, jnp.ones(shape))["params"]

    made = template(init, jax.random.key(0), (2, 5))
    assert made.kind == "linen"
    assert made.state.metadata.modules["up",].settings["transpose_kernel"] is True
    assert made.state.metadata.modules["layers_1",].parameters == ("bias", "kernel")
    assert set(made.state.specs()) == {
        key[1:] for key in template(Net(), jnp.ones((2, 5))).state if key[0] == "params"
    }


def test_a_function_that_rearranges_what_models_made_tells_names_alone():
    def init():
        return {"net": Net().init(jax.random.key(0), jnp.ones((2, 5)))["params"]}

    made = template(init)
    assert ("net", "fc", "kernel") in made.state
    assert made.state.metadata.modules == {}


def test_a_function_that_returns_something_else_is_refused():
    def make_model():
        return [jnp.ones(2)]

    with refused(UsageError, "make_model", "nnx.Module", "got list"):
        template(make_model)


def test_linen_boxes_stay_in_the_tree_of_a_template():
    init = nn.with_partitioning(nn.initializers.ones, ("x", None))
    made = template(nn.Dense(3, kernel_init=init), jnp.ones((2, 5)))
    assert ("params", "kernel") in made.state
    built = FLAX.build(filled(made.state), made)
    assert built["params"]["kernel"].names == ("x", None)


@pytest.mark.parametrize(
    "make",
    [
        lambda: template(Toy, rngs=nnx.Rngs(0)),
        lambda: template(Toy),
        lambda: template(Toy, 3),
        lambda: template(lambda rngs: Toy(3, rngs=rngs)),
        lambda: template(lambda: Toy(rngs=nnx.Rngs(0))),
        lambda: template(Toy(rngs=nnx.Rngs(0))),
        lambda: template(nnx.eval_shape(lambda: Toy(rngs=nnx.Rngs(0)))),
    ],
)
def test_every_way_to_an_nnx_template(make, toy):
    made = make()
    real = FLAX.state(toy)
    assert made.kind == "nnx"
    assert made.state.specs() == real.specs()
    assert made.state.metadata == real.metadata
    with refused(UsageError, key=("raw",)):
        made.state["raw",]
    values = filled(made.state)
    built, again = FLAX.build(values, made), FLAX.build(values, made)
    assert isinstance(built, Toy)
    assert built.blocks[0].kernel is not again.blocks[0].kernel
    assert same_bits(built.conv.kernel[...], values["conv", "kernel"])
    assert isinstance(built.blocks[1].mean, nnx.BatchStat)
    assert built.drop(jnp.ones((4, 3))).shape == (4, 3)


class Bare(nnx.Module):
    """An array that is neither declared as data nor in a Variable."""

    def __init__(self, *, rngs):
        self.inner = nnx.Sequential(nnx.Linear(2, 2, rngs=rngs))
        self.inner.bare = jnp.ones(3)


@pytest.mark.parametrize(
    "make",
    [
        lambda: template(Bare),
        lambda: template(Bare(rngs=nnx.Rngs(0))),
        lambda: nnx.eval_shape(lambda: Bare(rngs=nnx.Rngs(0))),
    ],
    ids=["class", "module", "eval_shape"],
)
def test_bare_arrays_are_never_lost(make):
    jax.clear_caches()  # nnx.eval_shape fails on a structure with a bare array that JAX has seen before
    like = make()
    state = FLAX.state(like)
    assert state.spec(("inner", "bare")) == FLAX.state(Bare(rngs=nnx.Rngs(0))).spec(("inner", "bare"))
    with refused(UsageError, key=("inner", "bare")):
        state["inner", "bare"]
    assert same_bits(FLAX.build(filled(state), like).inner.bare, filled(state)["inner", "bare"])


def test_an_array_that_cannot_be_saved_from_being_lost_is_named():
    class Hidden(nnx.Module):
        def __init__(self):
            self.hidden = (jnp.ones(2),)

    with refused(UsageError, "hidden.0", hint="nnx.data"):
        template(Hidden)


def test_the_callers_random_streams_are_not_advanced():
    rngs = nnx.Rngs(0)
    template(Toy, rngs=rngs)
    assert int(rngs.params.count[...]) == 0


def test_templates_make_no_weights():
    huge = 1 << 20  # squared: 4 TiB of float32

    class Big(nnx.Module):
        def __init__(self, *, rngs):
            self.linear = nnx.Linear(huge, huge, rngs=rngs)

    linen = template(nn.Dense(huge), jax.ShapeDtypeStruct((1, huge), jnp.float32))
    assert linen.state.spec(("params", "kernel")).nbytes == 1 << 42
    assert template(Big).state.spec(("linear", "kernel")).nbytes == 1 << 42
    for made in (linen, template(Big)):
        assert not [leaf for leaf in jax.tree.leaves(made.tree) if isinstance(leaf, jax.Array | np.ndarray)]


@pytest.mark.parametrize(
    ("call", "named", "hint"),
    [
        (lambda: template(nn.Dense, 3), ["class Dense"], "template(Dense(...)"),
        (lambda: template(3), ["got int"], "linen.Module"),
        (lambda: template(lambda: 3), ["<lambda>", "nnx.Module", "got int"], "<lambda>"),
        (lambda: template(Toy(rngs=nnx.Rngs(0)), 3), ["Toy", "got 1"], "template(Toy, ...)"),
        (lambda: (lambda r: template(lambda: Toy(rngs=r)))(nnx.Rngs(0)), ["<lambda>", "nnx.Rngs"], "rngs="),
        (lambda: FLAX.state(nn.Dense(3)), ["Linen module Dense"], "bridge_flax.template(module"),
        (lambda: FLAX.state(3), ["got int"], "nnx.Module"),
    ],
)
def test_what_has_no_template_is_refused_clearly(call, named, hint):
    with refused(UsageError, *named, hint=hint):
        call()


# Recognition


def test_what_is_accepted(toy):
    array = np.ones(2)
    good = [
        {"params": {"kernel": array}},
        freeze({"a": {"kernel": jnp.ones(2)}}),
        {"a": jax.ShapeDtypeStruct((2,), jnp.float32)},
        {"a": {"kernel": nn.Partitioned(jnp.ones(2), names=(None,))}},
        {0: {"kernel": array}, "step": 3},
        toy,
        toy.blocks,
        nnx.state(toy),
        nnx.unpack(toy),
        nnx.to_pure_dict(nnx.state(toy.blocks)),
        nnx.to_pure_dict(nnx.state(toy)),
        template(Toy),
        nn.Dense(3),  # so that what to give instead can be said
    ]
    torch = pytest.importorskip("torch")
    bad = [
        {},
        {"a": {}},
        {"step": 3},
        {("a", "kernel"): array},
        {"a.kernel": array},
        {"a": torch.ones(2)},
        {"a": {"kernel": array, "x": torch.ones(2)}},
        {"a": "text", "b": array},
        FlatState({("a",): array}),
        torch.nn.Linear(1, 1),
        array,
        None,
    ]
    assert [value for value in good if not FLAX.accepts(value)] == []
    assert [value for value in bad if FLAX.accepts(value)] == []


@pytest.mark.parametrize(
    ("names", "flax"),
    [
        (["params.a.kernel", "batch_stats.a.mean"], True),
        (["params.a.weight"], False),
        (["params.weight", "params.bias"], False),
        (["params.bias", "batch_stats.mean"], True),
        (["a.kernel", "a.bias", "ln.scale"], True),
        (["embed.embedding"], True),
        (["a.kernel", "b.kernel", "ln.weight"], True),
        (["a.weight", "a.bias"], False),
        (["a.weight", "b.weight", "own.kernel"], False),
        (["bn.weight", "bn.running_mean", "scale"], False),
        (["a.bias"], False),
        ([], False),
    ],
)
def test_names_tell_flax_from_torch(names, flax):
    assert FLAX.owns({tuple(name.split(".")): None for name in names}) is flax


def test_recognition_imports_no_framework():
    script = (
        "import sys, numpy as np, bridge_flax\n"
        "f = bridge_flax.FlaxFramework()\n"
        "assert f.accepts({'a': {'kernel': np.ones(1)}}) and not f.accepts(3) and not f.accepts({})\n"
        "assert f.owns({('a', 'kernel'): None}) and bridge_flax.bridge_layer_transforms()\n"
        "assert not {'jax', 'flax', 'torch', 'msgpack'} & set(sys.modules), sorted(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_a_missing_flax_is_told_with_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "bridge_flax.trees", None)
    monkeypatch.delattr(bridge_flax, "trees", raising=False)
    with refused(MissingDependency, hint="ckptbridge[flax]"):
        FLAX.state({"a": np.ones(1)})


def test_a_template_is_its_state():
    made = template(Toy)
    assert isinstance(made, Template)
    assert FLAX.state(made) is made.state
