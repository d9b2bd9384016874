"""Plans as functions of live arrays: what they take, refuse and return; traced, sharded, differentiated."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from flax import linen, nnx
from flax.training.train_state import TrainState
from flax.traverse_util import unflatten_dict
from support.arrays import assert_same_bits
from support.errors import refused
from support.live import from_torch, to_torch
from torch import nn

from bridge_core import (
    KeyConflict,
    Plan,
    PlanError,
    Step,
    TensorSpec,
    UnsupportedFeature,
    UsageError,
    default_registry,
    plan_conversion,
)
from bridge_core.ops import Cast, Concat, Duplicate, Fill, Offset, Permute, RequireEqual, Sum, Unpad
from bridge_core.plan import Dropped, compile_plan
from bridge_core.plugins import array_ops_of

A, B, C = ("a",), ("b",), ("c", "d")
F32 = np.dtype("float32")


def spec(*shape, dtype=F32):
    return TensorSpec(shape, np.dtype(dtype))


def plan_of(specs, *steps, **more):
    return Plan("torch", "flax", specs, steps, **more)


def transposing(*ops, shape=(2, 3), **more):
    return plan_of({A: spec(*shape)}, Step((A,), (C,), ops or (Permute((1, 0)),)), **more)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(7, 8)
        self.conv = nn.Conv2d(3, 4, (2, 3))
        self.norm = nn.BatchNorm2d(4)
        self.attention = nn.MultiheadAttention(8, 2)
        self.rnn = nn.LSTM(8, 5)
        self.head = nn.Linear(8, 7, bias=False)
        self.head.weight = self.embed.weight


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return Net()


def applied(plan, arrays):
    result = plan.apply(arrays)
    return {".".join(key): result[key] for key in result}


def assert_compiles(plan, arrays):
    """Compare both frameworks, and JAX jitted and eager, with `Plan.apply`."""
    expected = applied(plan, arrays)
    compiled = plan.to_jax()
    for function in (jax.jit(compiled), compiled):
        found = function({".".join(key): array for key, array in arrays.items()})
        assert set(found) == set(expected)
        for name, array in expected.items():
            assert_same_bits(np.asarray(found[name]), array, name)
    found = plan.to_torch()({key: to_torch(array) for key, array in arrays.items()})
    assert set(found) == set(expected)
    for name, array in expected.items():
        assert_same_bits(from_torch(found[name]), array, name)


def test_plan_of_a_model_has_the_bits_of_apply(net):
    state = default_registry().framework("torch").state(net)
    plan = plan_conversion(net, to="flax")
    assert all(op in plan.describe() for op in ("permute", "sum(2)", "split"))
    expected = applied(plan, dict(state.items()))
    found = jax.jit(plan.to_jax())({key: state[key] for key in plan.to_jax().sources})
    assert set(found) == set(expected)
    for name, array in expected.items():
        assert_same_bits(np.asarray(found[name]), array, name)
    found = plan.to_torch()(net.state_dict())
    for name, array in expected.items():
        assert_same_bits(from_torch(found[name]), array, name)


def test_casts_and_sums_have_the_bits_of_apply():
    arrays = {A: np.array([[1e-40, np.nan, 3.1]] * 2, F32), B: np.array([[2e-40, 1, -0.0]] * 2, F32)}
    plan = plan_of(
        {A: spec(2, 3), B: spec(2, 3)},
        Step((A, B), (C,), (Sum(2), Permute((1, 0)), Cast("float32", "bfloat16"))),
    )
    assert_compiles(plan, arrays)


def test_constants_need_no_source():
    plan = plan_of({}, Step((), (A,), (Fill(1, spec(2)),)), Step((), (B,), (Fill(0, spec(3)),)))
    assert_compiles(plan, {})


@pytest.mark.parametrize("form", [lambda a: {("c", "d"): a}, lambda a: {"c.d": a}, lambda a: {"c": {"d": a}}])
def test_sources_by_key_by_name_or_nested(form):
    plan = plan_of({C: spec(2, 3)}, Step((C,), (A,), (Permute((1, 0)),)))
    array = jnp.arange(6, dtype=jnp.float32).reshape(2, 3)
    assert_same_bits(np.asarray(plan.to_jax()(form(array))["a"]), np.asarray(array).T)


def test_targets_of_one_name_are_refused():
    keys = ("a", "b.c"), ("a.b", "c")
    plan = plan_of({A: spec(2), B: spec(2)}, Step((A,), (keys[0],)), Step((B,), (keys[1],)))
    with refused(KeyConflict, *keys, "a.b.c", hint="rules="):
        plan.to_torch()


def test_sources_of_one_name_are_known_by_their_keys():
    one, other = ("a", "b.c"), ("a.b", "c")
    function = plan_of(
        {one: spec(2), other: spec(2)}, Step((one, other), (A,), (Concat(0, (2, 2)),))
    ).to_torch()
    ones, zeros = torch.ones(2), torch.zeros(2)
    for arrays in ({one: ones, other: zeros}, {"a": {"b.c": ones}, "a.b": {"c": zeros}}):
        assert function(arrays)["a"].tolist() == [1, 1, 0, 0]
    with refused(PlanError, "a.b.c", hint="plan the conversion"):
        function({"a.b.c": ones, other: zeros})


def test_an_array_that_is_given_twice_is_refused():
    function = plan_of({C: spec(2)}, Step((C,), (A,))).to_torch()
    with refused(PlanError, key=C, hint="once"):
        function({"c.d": torch.ones(2), "c": {"d": torch.zeros(2)}})


def test_parts_of_names_may_contain_dots():
    tree = {"params": {"a.b": {"table": jnp.ones((2, 3))}, "a": {"c": jnp.zeros(3)}}}
    plan = plan_conversion(tree, to="neutral", accept_guesses=True)
    compiled = plan.to_jax()
    for arrays in (tree, {key: np.ones(s.shape, s.dtype) for key, s in plan.specs.items()}):
        assert set(compiled(arrays)) == {"a.b.table", "a.c"}
    assert_same_bits(np.asarray(compiled(tree)["a.b.table"]), np.ones((2, 3), F32))


def test_results_unflatten_into_a_tree():
    tree = unflatten_dict(transposing().to_jax()({"a": np.ones((2, 3), F32)}), sep=".")
    assert tree["c"]["d"].shape == (3, 2)


def test_ties_share_one_tensor():
    plan = transposing(ties={B: C})
    found = plan.to_torch()({"a": torch.ones(2, 3)})
    assert found["b"] is found["c.d"]


def test_tied_source_may_be_absent():
    plan = plan_of({A: spec(2), B: spec(2)}, Step((B,), (C,)), Step((A,), (A,)), source_ties={B: A})
    found = plan.to_torch()({"a": torch.ones(2)})
    assert torch.equal(found["c.d"], torch.ones(2))


def test_dropped_sources_may_be_passed():
    plan = replace(transposing(), specs={A: spec(2, 3), B: spec(4)}, dropped=(Dropped(B, "not needed"),))
    compiled = plan.to_torch()
    assert compiled.ignored == {B}
    assert set(compiled({"a": torch.ones(2, 3)})) == set(
        compiled({"a": torch.ones(2, 3), "b": torch.ones(4)})
    )


@pytest.mark.parametrize(
    ("arrays", "named"),
    [
        ({}, ("1 source array missing", "a")),
        ({"a": torch.ones(2, 3), "z": torch.ones(1)}, ("1 array not in the plan", "z")),
        ({"a": torch.ones(3, 2)}, ("expected float32[2, 3]", "got float32[3, 2]")),
        ({"a": torch.ones(2, 3, dtype=torch.bfloat16)}, ("float32[2, 3]", "bfloat16[2, 3]")),
    ],
)
def test_other_arrays_are_refused(arrays, named):
    with refused(PlanError, *named):
        transposing().to_torch()(arrays)


def test_other_arrays_are_refused_while_tracing():
    with refused(PlanError, "expected float32[2, 3]", "got float32[3, 2]", key=A):
        jax.jit(transposing().to_jax())({"a": jnp.ones((3, 2))})


def test_arrays_of_another_framework_are_refused():
    with refused(UsageError, "torch.Tensor", "ndarray", hint="from_dlpack", key=A):
        transposing().to_torch()({"a": np.ones((2, 3), F32)})
    with refused(UsageError, "Tensor", key=A):
        transposing().to_jax()({"a": torch.ones(2, 3)})
    with refused(UsageError, "a mapping", "list"):
        transposing().to_torch()([1])


class Blocks(nnx.Module):
    """Lists, a batch norm, and random state."""

    def __init__(self, rngs):
        self.blocks = nnx.List([nnx.Linear(3, 3, rngs=rngs) for _ in range(2)])
        self.norm = nnx.BatchNorm(3, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)


def of_blocks(form):
    module = Blocks(nnx.Rngs(0))
    return form(module), {"norm.running_mean", "blocks.1.weight"}


def of_boxes():
    kernel = linen.with_partitioning(linen.initializers.lecun_normal(), ("in", "out"))
    variables = linen.Dense(4, kernel_init=kernel).init(jax.random.key(0), jnp.ones((1, 3)))
    return variables, {"weight"}


def of_train_state():
    params = {"blocks": [{"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)}]}
    state = TrainState.create(apply_fn=None, params=params, tx=optax.adam(1e-3))
    return state, {"blocks.0.weight", "blocks.0.bias"}


@pytest.mark.parametrize(
    "make",
    [lambda: of_blocks(nnx.state), lambda: of_blocks(lambda module: module), of_boxes, of_train_state],
    ids=["nnx state", "nnx module", "boxes", "train state"],
)
def test_the_object_that_was_planned_is_taken(make):
    source, names = make()
    state = default_registry().framework("flax").state(source)
    plan = plan_conversion(source, to="torch")
    expected = applied(plan, {key: state[key] for key in plan.specs})
    assert set(expected) >= names
    with jax.enable_x64(True):  # torch counts batches in int64
        compiled = plan.to_jax()
        for found in (compiled(source), jax.jit(compiled)(source)):
            for name, array in expected.items():
                assert_same_bits(np.asarray(found[name]), array, name)


def test_a_module_of_torch_is_taken_with_its_gradients():
    linear = nn.Linear(3, 4)
    plan_conversion(linear, to="flax").to_torch()(linear)["kernel"].sum().backward()
    assert torch.equal(linear.weight.grad, torch.ones(4, 3))


def test_explicit_shardings_that_do_not_fit_are_refused():
    mesh = jax.make_mesh((1, 1), ("x", "y"), axis_types=(jax.sharding.AxisType.Explicit,) * 2)
    one, other = (
        jax.device_put(np.ones((2, 3), F32), jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(n)))
        for n in "xy"
    )
    for op in (Concat(0, (2, 2)), Sum(2)):
        joining = plan_of({A: spec(2, 3), B: spec(2, 3)}, Step((A, B), (C,), (op,))).to_jax()
        with jax.set_mesh(mesh), refused(UsageError, "shardings", hint="jax.sharding.reshard", key=C):
            joining({"a": one, "b": other})


def test_arrays_of_numpy_in_another_byte_order_become_arrays_of_jax():
    for op in (Permute((1, 0)), Duplicate(1)):
        found = transposing(op).to_jax()({"a": np.arange(6, dtype=">f4").reshape(2, 3)})["c.d"]
        assert isinstance(found, jax.Array)
        assert found.sum() == 15


def test_64_bits_that_were_switched_off_after_compiling_are_refused():
    with jax.enable_x64(True):
        wide = plan_of({A: spec(2, 3, dtype="float64")}, Step((A,), (C,), (Permute((1, 0)),))).to_jax()
    with refused(UnsupportedFeature, "float64", hint="jax_enable_x64", key=A):
        wide({"a": np.ones((2, 3))})


@pytest.mark.parametrize("op", [Offset(1.0), Unpad(1, 3, 2), Offset(1.0, rounding=True)])
def test_checks_are_refused_by_name_unless_skipped(op):
    plan = transposing(op)
    with refused(UnsupportedFeature, op, hint="skip_checks=True", key=C):
        plan.to_jax()
    array = np.zeros((2, 3), F32)
    found = plan.to_jax(skip_checks=True)({"a": array})
    assert_same_bits(np.asarray(found["c.d"]), applied(plan, {A: array})["c.d"])


def test_checks_inside_parallel_chains_are_found():
    plan = plan_of({A: spec(2), B: spec(2)}, Step((A, B), (C,), (RequireEqual(2),)))
    with refused(UnsupportedFeature, "requireequal(2)", key=C):
        plan.to_torch()


def test_refused_casts_name_the_tensor():
    with refused(UnsupportedFeature, "cast(float32, int8)", "flax", key=C):
        transposing(Cast("float32", "int8")).to_jax()


def test_64_bits_are_refused_where_jax_has_none():
    plan = plan_of({A: spec(2, dtype="float64")}, Step((A,), (C,)))
    with refused(UnsupportedFeature, "float64", hint="jax_enable_x64", key=C):
        plan.to_jax()
    counting = plan_of({}, Step((), (C,), (Fill(0, spec(dtype="int64")),)))
    with refused(UnsupportedFeature, "int64", hint="like=", key=C):
        counting.to_jax()


def test_unknown_frameworks_are_refused():
    with refused(UsageError, "mxnet"):
        transposing().compile("mxnet")


class _Plain:
    """An adapter without primitives."""

    def __getattr__(self, name):
        if name == "array_ops":
            raise AttributeError(name)
        return getattr(default_registry().framework("torch"), name)


def test_framework_without_primitives_is_refused(monkeypatch):
    registry = default_registry()
    monkeypatch.setattr(type(registry), "framework", lambda self, name: _Plain())
    with refused(UnsupportedFeature, "torch", hint="flax"):
        array_ops_of("torch", registry)


class Lying(Permute):
    def emit(self, ops, arrays, specs):
        return arrays


def test_op_that_gives_other_shapes_than_it_declares_is_refused():
    with refused(PlanError, "float32[3, 2]", "float32[2, 3]", key=C):
        transposing(Lying((1, 0))).to_torch()


def test_plan_with_problems_is_refused():
    plan = transposing(problems=type(transposing().problems)(missing=(B,)))
    with pytest.raises(Exception, match="b"):
        compile_plan(plan, array_ops_of("torch"))


def test_torch_stays_on_its_device():
    plan = transposing(Permute((1, 0)), Duplicate(1))
    fill = replace(plan, steps=(*plan.steps, Step((), (B,), (Fill(1, spec(2)),))))
    found = fill.to_torch()({"a": torch.ones(2, 3, device="meta")})
    assert {tensor.device.type for tensor in found.values()} == {"meta"}
    assert found["c.d"].shape == (3, 2)


def test_torch_gradients_flow_back():
    plan = plan_of(
        {A: spec(2, 3), B: spec(2, 3)},
        Step((A, B), (C,), (Concat(1, (3, 3)), Permute((1, 0)), Cast("float32", "bfloat16"))),
    )
    one, other = (torch.ones(2, 3, requires_grad=True) for _ in range(2))
    plan.to_torch()({"a": one, "b": other})["c.d"].float().sum().backward()
    assert torch.equal(one.grad, torch.ones(2, 3))
    assert torch.equal(other.grad, torch.ones(2, 3))


def test_jax_gradients_flow_back():
    ops = (Concat(1, (3, 3)), Cast("float32", "bfloat16"), Permute((1, 0)))
    plan = plan_of({A: spec(2, 3), B: spec(2, 3)}, Step((A, B), (C,), ops), Step((B, A), (A,), (Sum(2),)))
    compiled = plan.to_jax()

    def loss(arrays):
        results = compiled(arrays)
        return results["c.d"].astype(jnp.float32).sum() + 2 * results["a"].sum()

    gradients = jax.jit(jax.grad(loss))({"a": jnp.ones((2, 3)), "b": jnp.ones((2, 3))})
    assert {name: float(array.min()) for name, array in gradients.items()} == {"a": 3.0, "b": 3.0}


_SHARDED = """
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
from bridge_core import Plan, Step, TensorSpec
from bridge_core.ops import Cast, Concat, Permute, Split, Stack

mesh = Mesh(np.array(jax.devices()).reshape(4, 2), ("x", "y"))
shape, f32 = (16, 16), np.dtype("float32")
specs = {(n,): TensorSpec(shape, f32) for n in "qkvab"}
steps = (
    Step((("q",), ("k",), ("v",)), (("qkv",),), (Concat(0, (16, 16, 16)), Permute((1, 0)))),
    Step((("a",), ("b",)), (("layers",),), (Stack(0, 2), Cast("float32", "bfloat16"))),
)
plan = Plan("torch", "flax", specs, steps)
values = {n: np.random.default_rng(i).normal(size=shape).astype(f32) for i, n in enumerate("qkvab")}
expected = {".".join(k): v for k, v in plan.apply({(n,): v for n, v in values.items()}).items()}
source = NamedSharding(mesh, P("x", "y"))
outputs = {"qkv": NamedSharding(mesh, P("y", "x")), "layers": NamedSharding(mesh, P(None, "y", "x"))}
function = jax.jit(
    plan.compile("flax"), in_shardings=({n: source for n in values},), out_shardings=outputs, donate_argnums=0
)
given = {n: jax.device_put(v, source) for n, v in values.items()}
found = function(given)
for name, array in found.items():
    assert array.sharding == outputs[name], name
    assert len(array.addressable_shards) == 8
    assert np.asarray(array).tobytes() == np.ascontiguousarray(expected[name]).tobytes(), name
print(sum(array.is_deleted() for array in given.values()), "deleted")

turned = Step((("a",),), (("b",),), (Permute((1, 0)),))
same = Plan("torch", "flax", {("a",): TensorSpec(shape, f32)}, (turned,))
given = {"a": jax.device_put(values["a"], source)}
found = jax.jit(same.to_jax(), donate_argnums=0, out_shardings={"b": source})(given)
assert given["a"].is_deleted()
assert np.asarray(found["b"]).tobytes() == np.ascontiguousarray(values["a"].T).tobytes()
"""


def test_sharded_and_donated_on_eight_devices():
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", _SHARDED],
        env={**os.environ, **flags},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
