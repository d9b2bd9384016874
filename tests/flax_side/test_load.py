"""`bridge_flax.load` and `bridge_flax.save` in one process; `test_meshes.py` has those of several."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from support.errors import refused
from support.http_server import HttpServer

import bridge_core
import bridge_flax
from bridge_core import MismatchError, SourceNotFound, UnsupportedFeature, UsageError

SPEC = jax.ShapeDtypeStruct


@pytest.fixture
def path(tmp_path):
    """A torch checkpoint of one linear layer."""
    random = np.random.default_rng(0)
    state = {
        "fc.weight": random.standard_normal((3, 4), dtype="float32"),
        "fc.bias": random.standard_normal(3, dtype="float32"),
    }
    path = tmp_path / "model.safetensors"
    bridge_core.save_state(state, path, layout="torch")
    return path


def like(dtype="float32", **sharding):
    return {"fc": {"kernel": SPEC((4, 3), dtype, **sharding), "bias": SPEC((3,), dtype, **sharding)}}


def expected(path):
    with bridge_core.open_state(path) as state:
        return {"kernel": np.array(state["fc.weight"]).T, "bias": np.array(state["fc.bias"])}


def check(tree, values):
    for name, value in values.items():
        assert isinstance(tree[name], jax.Array)
        assert np.array_equal(np.asarray(tree[name]), value)


def one_device():
    return NamedSharding(Mesh(np.array(jax.devices()[:1]), ("x",)), PartitionSpec("x"))


@pytest.mark.parametrize("options", [{}, {"workers": 1, "max_ram": 1}, {"max_ram": "1MB"}])
def test_a_path_becomes_arrays(path, options):
    check(bridge_flax.load(path, like=like(), **options)["fc"], expected(path))


def test_the_arrays_have_the_shardings_of_like(path):
    sharding = one_device()
    tree = bridge_flax.load(path, like=like(sharding=sharding))
    check(tree["fc"], expected(path))
    assert {leaf.sharding for leaf in jax.tree.leaves(tree)} == {sharding}
    again = bridge_flax.load(path, like=tree)
    assert {leaf.sharding for leaf in jax.tree.leaves(again)} == {sharding}


def test_a_url_becomes_sharded_arrays(path):
    pytest.importorskip("ckptbridge_remote")
    with HttpServer({"model.safetensors": path.read_bytes()}) as server:
        tree = bridge_flax.load(f"{server.url}/model.safetensors", like=like(sharding=one_device()))
    check(tree["fc"], expected(path))


def test_it_equals_from_neutral_bit_for_bit(path):
    with bridge_core.open_state(path) as state:
        usual = bridge_flax.from_neutral(bridge_core.to_neutral(state, framework="torch"), like=like())
    loaded = bridge_flax.load(path, like=like())
    assert jax.tree.structure(usual) == jax.tree.structure(loaded)
    for one, other in zip(*map(jax.tree.leaves, (usual, loaded)), strict=True):
        assert np.asarray(one).tobytes() == np.asarray(other).tobytes()


class Model(nnx.Module):
    def __init__(self, rngs):
        self.fc = nnx.Linear(4, 3, rngs=rngs)


def test_an_abstract_module_becomes_a_module(path):
    abstract = nnx.eval_shape(lambda: Model(nnx.Rngs(0)))
    model = bridge_flax.load(path, like=abstract)
    assert isinstance(model, Model)
    values = expected(path)
    check({"kernel": model.fc.kernel[...], "bias": model.fc.bias[...]}, values)
    inputs = np.ones((1, 4), "float32")
    assert np.allclose(model.fc(inputs), inputs @ values["kernel"] + values["bias"], atol=1e-5)


@pytest.mark.parametrize("source", ["weights", "a train state"])
def test_of_a_train_state_only_the_weights_are_loaded(path, source):
    optax = pytest.importorskip("optax")
    from flax.training.train_state import TrainState

    optimizer = optax.adam(1e-3)
    params = like()
    abstract = TrainState(7, None, params, optimizer, jax.eval_shape(optimizer.init, params))
    if source == "a train state":
        weights = bridge_flax.load(path, like=params)
        path = path.with_name("state.msgpack")
        bridge_flax.save(TrainState(3, None, weights, optimizer, optimizer.init(weights)), path)
    state = bridge_flax.load(path, like=abstract)
    assert jax.tree.all(jax.tree.map(lambda leaf: isinstance(leaf, jax.Array), state.params))
    assert state.step == 7
    assert state.opt_state == abstract.opt_state
    state = state.replace(opt_state=optimizer.init(state.params))
    assert state.apply_gradients(grads=state.params).step == 8


def test_a_template_becomes_a_module(path):
    model = bridge_flax.load(path, like=bridge_flax.template(Model))
    check({"kernel": model.fc.kernel[...]}, {"kernel": expected(path)["kernel"]})


def test_the_dtype_is_the_source_s_or_as_asked(path):
    assert bridge_flax.load(path, like=like("bfloat16"))["fc"]["bias"].dtype == jnp.float32
    assert bridge_flax.load(path, like=like(), dtype="bfloat16")["fc"]["bias"].dtype == jnp.bfloat16


def test_what_may_be_missing_stays(path):
    old = jnp.arange(2.0)
    tree = bridge_flax.load(path, like={**like(), "scale": old}, allow_missing=["scale"])
    assert np.array_equal(tree["scale"], old)
    check(tree["fc"], expected(path))
    with refused(UsageError, "no values", key=("scale",)):
        bridge_flax.load(path, like={**like(), "scale": SPEC((2,), "float32")}, allow_missing=["scale"])


def test_what_does_not_match_is_refused_before_a_value_is_read(path):
    with refused(MismatchError, "scale"):
        bridge_flax.load(path, like={**like(), "scale": SPEC((2,), "float32")})


@pytest.mark.parametrize("wrong", [None, "model.safetensors"])
def test_like_is_a_live_object(path, wrong):
    with refused(UsageError, "like="):
        bridge_flax.load(path, like=wrong)


def test_a_missing_file_is_refused(tmp_path):
    with refused(SourceNotFound, "does not exist"):
        bridge_flax.load(tmp_path / "no.safetensors", like=like())


def test_saving_equals_save_state(path, tmp_path):
    tree = bridge_flax.load(path, like=like())
    saved = bridge_flax.save(tree, tmp_path / "one.safetensors", verify=True)
    assert [file.name for file in saved.files] == ["one.safetensors"]
    state = bridge_flax.FlaxFramework().state(tree)
    bridge_core.save_state(state, tmp_path / "other.safetensors")
    assert (tmp_path / "one.safetensors").read_bytes() == (tmp_path / "other.safetensors").read_bytes()
    with refused(bridge_core.DestinationExists, "exists"):
        bridge_flax.save(tree, tmp_path / "one.safetensors")


@pytest.mark.parametrize(
    ("name", "options", "format"),
    [
        ("folder/", {}, "safetensors"),
        ("a.msgpack", {}, "msgpack"),
        ("a.npz", {}, "npz"),
        ("plain", {}, "safetensors"),
        ("plain", {"format": "msgpack"}, "msgpack"),
        ("shards", {"max_shard_size": 20}, "safetensors"),
    ],
)
def test_the_format_is_that_of_the_suffix_or_safetensors(path, tmp_path, name, options, format):
    tree = bridge_flax.load(path, like=like())
    saved = bridge_flax.save(tree, f"{tmp_path}/{name}", **options)
    assert saved.format == format
    check(bridge_flax.load(f"{tmp_path}/{name}", like=like())["fc"], expected(path))


def test_a_tensor_that_jax_cannot_hold_is_not_sharded(tmp_path):
    from bridge_flax.trees.loading import _require_fitting

    tensor = bridge_core.ArrayTensor(np.zeros(2, "float64"))
    with refused(UnsupportedFeature, "float64", hint="dtype=", key=("a",)):
        _require_fitting(("a",), tensor)


def test_a_partition_spec_without_a_mesh_is_refused(path):
    like = {"params": {"fc": {"kernel": jax.ShapeDtypeStruct((4, 4), "float32", sharding=PartitionSpec())}}}
    with refused(UsageError, "[4, 4]", "no mesh", hint="NamedSharding"):
        bridge_flax.load(path, like=like)


@pytest.mark.parametrize("kind", [jax.sharding.AxisType.Explicit, jax.sharding.AxisType.Auto])
def test_the_mesh_that_is_set_has_the_devices_of_abstract_shardings(path, kind):
    mesh = jax.make_mesh((1,), ("x",), axis_types=(kind,))

    class Annotated(nnx.Module):
        def __init__(self, rngs):
            init = nnx.with_partitioning(nnx.initializers.lecun_normal(), ("x",))
            self.fc = nnx.Linear(4, 3, kernel_init=init, rngs=rngs)

    with jax.set_mesh(mesh):
        abstract = nnx.eval_shape(lambda: Annotated(nnx.Rngs(0)))
        model = bridge_flax.load(path, like=abstract)
    check({"kernel": model.fc.kernel[...], "bias": model.fc.bias[...]}, expected(path))
    sharding = model.fc.kernel[...].sharding
    assert sharding.mesh == mesh
    assert sharding.spec[0] == "x"
    with refused(UsageError, "'x'", "without devices", hint="jax.set_mesh", key=("fc", "kernel")):
        bridge_flax.load(path, like=abstract)
