"""Running Flax models: what they return, what their modules compute, and in which precision."""

from __future__ import annotations

import contextlib
import threading
import warnings
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx, struct
from support.errors import refused

from bridge_core import MismatchError, UnsupportedFeature, UsageError
from bridge_core.plugins import Inputs, RunsModels
from bridge_core.state import ArrayTensor, FlatState
from bridge_flax import FlaxFramework, template

FLAX = FlaxFramework()
KEY = jax.random.key(0)
ROWS = np.random.default_rng(0).normal(size=(3, 4))


def run(model: Any, inputs: Any = ROWS, weights: FlatState | None = None, **options: Any) -> Any:
    if not isinstance(inputs, Inputs):
        inputs = Inputs((inputs,))
    state = FLAX.model_weights(model, inputs) if weights is None else weights
    return FLAX.run_model(model, state, inputs, **options)


def with_values(state: FlatState) -> FlatState:
    rng = np.random.default_rng(1)
    arrays = {key: rng.normal(size=spec.shape).astype(spec.dtype) for key, spec in state.specs().items()}
    return state.replace(tensors=arrays, metadata=state.metadata)


def paths(calls: Any) -> list[str]:
    return [".".join(call.path) for call in calls]


class Block(nn.Module):
    @nn.compact
    def __call__(self, x, _=None):
        return x + nn.Dense(4, name="fc")(nn.LayerNorm(name="norm")(x)), None


class Perceptron(nnx.Module):
    def __init__(self, rngs):
        self.fc = nnx.Linear(4, 4, rngs=rngs)
        self.again = self.fc
        self.drop = nnx.Dropout(0.5, rngs=rngs)
        self.table = nnx.Variable(jnp.arange(4.0))

    def __call__(self, x):
        return self.drop(self.again(self.fc(x)) + self.table[...])


# What can be run


def test_the_adapter_runs_models():
    assert isinstance(FLAX, RunsModels)


@pytest.mark.slow
def test_every_form_of_a_model_gives_the_same_outputs():
    module = nn.Dense(2)
    variables = module.init(KEY, jnp.zeros((1, 4)))
    expected = np.asarray(module.apply(variables, jnp.asarray(ROWS, jnp.float32)))
    weights = FLAX.model_weights((module, variables), Inputs((ROWS,)))
    for model in (
        (module, variables),
        (module, variables["params"]),
        module.bind(variables),
        (module.apply, variables),
        (lambda tree, x: module.apply(tree, x), variables),
    ):
        assert FLAX.runs(model)
        np.testing.assert_array_equal(run(model).outputs[""], expected)
    assert FLAX.runs(module)
    assert [*FLAX.model_weights(module, Inputs((ROWS,)))] == [*weights]
    np.testing.assert_array_equal(run(module, weights=weights).outputs[""], expected)


def test_every_form_of_an_nnx_module_gives_the_same_outputs():
    module = nnx.Linear(4, 2, rngs=nnx.Rngs(0))
    expected = np.asarray(module(jnp.asarray(ROWS, jnp.float32)))
    abstract = nnx.eval_shape(lambda: nnx.Linear(4, 2, rngs=nnx.Rngs(0)))
    weights = FLAX.model_weights(module, Inputs())
    for model in (module, abstract, template(module), nnx.split(module)):
        assert FLAX.runs(model)
        assert dict(FLAX.model_weights(model, Inputs()).specs()) == dict(weights.specs())
        np.testing.assert_array_equal(run(model, weights=weights).outputs[""], expected)


@pytest.mark.parametrize("value", [None, {}, {"w": np.zeros(2)}, nn.Dense, jax.nn.relu, (len, {"a": "b"})])
def test_other_objects_are_not_run(value):
    assert not FLAX.runs(value)


def test_the_template_of_a_linen_module_is_refused_with_what_to_return():
    model = template(nn.Dense(2), jnp.zeros((1, 4)))
    assert FLAX.runs(model)
    with refused(UsageError, "template", "Linen", hint="(module, variables)"):
        FLAX.model_weights(model, Inputs((ROWS,)))


# Weights


def test_a_linen_module_has_shapes_of_parameters_and_values_of_constants():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            table = self.variable("constants", "table", lambda: jnp.arange(4.0))
            return nn.Dense(2)(x * table.value)

    weights = FLAX.model_weights(Net(), Inputs((ROWS,)))
    with refused(UsageError, "no values"):
        weights[("params", "Dense_0", "kernel")]
    np.testing.assert_array_equal(weights[("constants", "table")], np.arange(4.0))
    assert weights.metadata.modules[()].settings["constants"] == ("table",)


def test_variables_of_nnx_that_are_no_parameters_are_constants():
    weights = FLAX.model_weights(Perceptron(nnx.Rngs(0)), Inputs())
    assert weights.metadata.modules[()].settings["constants"] == ("table",)
    assert all("constants" not in info.settings for path, info in weights.metadata.modules.items() if path)


def test_code_that_depends_on_values_is_initialised_with_them():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(2)(x) if x.sum() > 0 else x

    assert ("params", "Dense_0", "kernel") in FLAX.model_weights(Net(), Inputs((np.ones((1, 4)),)))


def test_weights_of_another_model_are_refused():
    weights = FLAX.model_weights(nn.Dense(3), Inputs((ROWS,)))
    with refused(MismatchError, "params.kernel"):
        run(nn.Dense(2), weights=with_values(weights))


# Inputs and outputs


def test_inputs_are_arrays_of_jax_and_flags_stay_flags():
    seen = {}

    def model(variables, x, ids, flag, *, names, scale):
        seen.update(x=x, ids=ids, flag=flag, names=names, scale=scale)
        return x

    inputs = Inputs((ROWS, np.arange(3), False), {"names": {"mask": np.ones(2, bool)}, "scale": 0.5})
    run((model, {"w": np.zeros(1)}), inputs)
    assert (seen["x"].dtype, seen["ids"].dtype) == (np.float32, np.int32)
    assert (seen["flag"], seen["scale"]) == (False, 0.5)
    assert seen["names"]["mask"].dtype == bool
    run(
        (model, {"w": np.zeros(1)}),
        Inputs((jnp.zeros(2, jnp.bfloat16), *inputs.positional[1:]), inputs.named),
    )
    assert seen["x"].dtype == jnp.bfloat16


def test_outputs_of_all_containers_have_names():
    class Pair(NamedTuple):
        first: Any
        second: Any

    @dataclass
    class Plain:
        logits: Any
        loss: Any = None

    @struct.dataclass
    class Struct:
        hidden: Any

    def model(variables, x):
        return {"a": Pair(x, [x, None]), "b": Plain(x), "c": Struct(x.astype(jnp.bfloat16)), "d": 3}

    outputs = run((model, {"w": np.zeros(1)})).outputs
    assert [*outputs] == ["a.first", "a.second.0", "b.logits", "c.hidden", "d"]
    assert outputs["c.hidden"].dtype == jnp.bfloat16
    assert all(type(array) is np.ndarray for array in outputs.values())


@pytest.mark.parametrize("error", [ValueError("no such token"), SystemExit("no such token")])
def test_a_model_that_fails_or_ends_the_program_is_an_error_with_the_reason(error):
    def model(variables, x):
        warnings.warn("careful", stacklevel=1)
        raise error

    with refused(UsageError, "model", type(error).__name__, "no such token", hint="--inputs"):
        run((model, {"w": np.zeros(1)}))


# What a model is given


def test_random_streams_and_mutable_collections_are_given_only_where_they_are_asked_for():
    class Asking(nn.Module):
        @nn.compact
        def __call__(self, x):
            training = self.has_rng("dropout") or self.is_mutable_collection("batch_stats")
            return nn.BatchNorm(use_running_average=not training)(x)

    variables = Asking().init(KEY, jnp.zeros((1, 4)))
    assert run((Asking(), variables)).updates == {}


@pytest.mark.slow
def test_training_updates_statistics_and_draws_by_the_seed():
    class Training(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.BatchNorm(use_running_average=False)(x)
            return nn.Dropout(0.5, deterministic=False)(x)

    model = (Training(), Training().init({"params": KEY, "dropout": KEY}, jnp.zeros((1, 4))))
    first, again, other = (run(model, seed=seed, trace=True) for seed in (1, 1, 2))
    mean = ROWS.mean(0) * 0.01
    assert {key[-1] for key in first.updates} == {"mean", "var"}
    np.testing.assert_allclose(first.updates["batch_stats", "BatchNorm_0", "mean"], mean, rtol=1e-5)
    np.testing.assert_array_equal(first.outputs[""], again.outputs[""])
    assert (first.outputs[""] != other.outputs[""]).any()
    # The attempts without streams and mutable collections leave no calls behind.
    assert paths(first.calls) == ["", "BatchNorm_0", "Dropout_0"]


@pytest.mark.slow
def test_an_nnx_module_is_not_changed_and_its_streams_start_anew():
    model = Perceptron(nnx.Rngs(0))
    call, before = Perceptron.__call__, jax.tree.leaves(nnx.state(model))
    first, again, other = (run(model, seed=seed, trace=True) for seed in (1, 1, 2))
    assert all(a is b for a, b in zip(before, jax.tree.leaves(nnx.state(model)), strict=True))
    assert Perceptron.__call__ is call
    np.testing.assert_array_equal(first.outputs[""], again.outputs[""])
    assert (first.outputs[""] != other.outputs[""]).any()


# Traces


def test_calls_are_nested_with_their_arrays_and_plain_arguments():
    class Inner(nn.Module):
        def setup(self):
            self.embed = nn.Embed(5, 4)

        def encode(self, ids, *, scale):
            return self.embed(ids) * scale

        def decode(self, x):
            return self.embed.attend(x)

    class Outer(nn.Module):
        def setup(self):
            self.inner = Inner()

        def __call__(self, ids, train=False):
            return self.helper(ids)

        def helper(self, ids):
            return self.inner.decode(self.inner.encode(ids, scale=2.0))

    ids = np.arange(3)
    inputs = Inputs((ids,), {"train": False})
    weights = with_values(FLAX.model_weights(Outer(), inputs))
    calls = run(Outer(), inputs, weights, trace=True).calls
    assert paths(calls) == ["", "inner", "inner.embed", "inner", "inner.embed"]
    assert [(call.began, call.ended) for call in calls] == [(0, 9), (1, 4), (2, 3), (5, 8), (6, 7)]
    assert (calls[0].plain, calls[1].plain) == ({"train": False}, {"scale": 2.0})
    table = weights["params", "inner", "embed", "embedding"]
    np.testing.assert_array_equal(calls[2].outputs[""], table[:3])
    np.testing.assert_array_equal(calls[4].inputs["0"], table[:3] * 2)
    assert calls[2].type == "flax.linen.linear.Embed"
    assert all(type(array) is np.ndarray for call in calls for array in call.outputs.values())


@pytest.mark.slow
def test_each_step_of_a_scanned_block_is_a_call():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            block = nn.scan(
                nn.remat(Block), variable_axes={"params": 0}, split_rngs={"params": True}, length=2
            )
            return block(name="blocks")(x, None)[0]

    weights = with_values(FLAX.model_weights(Net(), Inputs((ROWS,))))
    result = run(Net(), weights=weights, trace=True)
    assert paths(result.calls) == ["", *["blocks", "blocks.norm", "blocks.fc"] * 2]
    assert result.notes == ()
    kernel = weights["params", "blocks", "fc", "kernel"]
    for step, call in enumerate([call for call in result.calls if call.path == ("blocks", "fc")]):
        bias = weights["params", "blocks", "fc", "bias"][step]
        np.testing.assert_allclose(call.inputs["0"] @ kernel[step] + bias, call.outputs[""], rtol=1e-5)


@pytest.mark.slow
def test_calls_under_vmap_are_not_seen_and_noted():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            many = nn.vmap(Block, variable_axes={"params": 0}, split_rngs={"params": True})
            return nn.Dense(2, name="out")(many(name="many")(x)[0])

    weights = with_values(FLAX.model_weights(Net(), Inputs((ROWS,))))
    result = run(Net(), weights=weights, trace=True)
    assert paths(result.calls) == ["", "out"]
    assert any("many" in note and "vmap" in note for note in result.notes)


def test_a_function_shows_no_modules():
    result = run((lambda tree, x: x * tree["w"], {"w": np.ones(4, np.float32)}), trace=True)
    assert result.calls == ()
    assert any("lambda" in note for note in result.notes)


@pytest.mark.slow
def test_modules_of_nnx_are_seen_through_its_transforms():
    class Net(nnx.Module):
        def __init__(self, rngs):
            self.stack = nnx.vmap(lambda key: nnx.Linear(4, 4, rngs=nnx.Rngs(key)))(rngs.params.split(2))
            self.shared = Perceptron(rngs)

        def __call__(self, x):
            x = nnx.scan(lambda x, fc: fc(x), in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)(x, self.stack)
            return nnx.remat(lambda module, x: module(x))(self.shared, x)

    model = nnx.eval_shape(lambda: Net(nnx.Rngs(0)))
    weights = with_values(FLAX.model_weights(model, Inputs()))
    calls = run(model, weights=weights, trace=True).calls
    first = min("again", "fc")
    assert paths(calls) == ["", "stack", "stack", "shared", *[f"shared.{first}"] * 2, "shared.drop"]


class Compiled(nnx.Module):
    def __init__(self):
        self.fc = nnx.Linear(4, 4, rngs=nnx.Rngs(0))

    @nnx.jit
    def __call__(self, x):
        return self.fc(x)


CompiledDense = nn.jit(nn.Dense)


class OfCompiled(nn.Module):
    @nn.compact
    def __call__(self, x):
        return CompiledDense(4, name="fc")(x)


def test_a_linen_module_in_nnx_runs():
    module = nnx.bridge.ToNNX(nn.Dense(2), rngs=nnx.Rngs(0)).lazy_init(jnp.zeros((1, 4)))
    assert paths(run(module, trace=True).calls) == [""]


@pytest.mark.slow
@pytest.mark.parametrize("model", [Compiled(), OfCompiled()], ids=["nnx", "linen"])
def test_modules_in_functions_that_jax_has_compiled_before_are_seen(model):
    weights = with_values(FLAX.model_weights(model, Inputs((ROWS,))))
    run(model, weights=weights)
    for precision in ("native", "native", "reordered", "float64"):
        assert paths(run(model, weights=weights, trace=True, precision=precision).calls) == ["", "fc"]
    bare = FlatState({key: weights[key] for key in weights}, layout="flax")
    assert paths(run(model, weights=bare, trace=True).calls) == ["", "fc"]
    assert (
        weights.metadata.modules.keys() == FLAX.model_weights(model, Inputs((ROWS,))).metadata.modules.keys()
    )


def test_classes_are_restored_after_an_error_and_other_threads_are_not_recorded():
    class Failing(nnx.Module):
        def __init__(self):
            self.other = Perceptron(nnx.Rngs(0))

        def __call__(self, x):
            def elsewhere():
                with contextlib.suppress(jax.errors.UnexpectedTracerError):  # a trace is of one thread
                    self.other.fc(x)

            thread = threading.Thread(target=elsewhere)
            thread.start()
            thread.join()
            raise ValueError("too late")

    call = Perceptron.__call__, Failing.__call__
    with refused(UsageError, "too late"):
        run(Failing(), trace=True)
    assert (Perceptron.__call__, Failing.__call__) == call


# Precisions


class InFloat32(nn.Module):
    """Asks for shorter dtypes at every place where a model can."""

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(4, dtype=jnp.bfloat16)(x)
        x = jax.nn.softmax(x.astype(jnp.float32)).astype(jnp.bfloat16)
        x = x.at[:, 0].set(x[:, 1] * jnp.float32(0.1))
        x = jax.lax.fori_loop(0, 2, lambda _, x: jnp.sin(x), x)
        return nn.LayerNorm(dtype=jnp.float32)(x)


def test_float64_is_float64_also_where_the_model_asks_for_less():
    weights = with_values(FLAX.model_weights(InFloat32(), Inputs((ROWS,))))
    result = run(InFloat32(), weights=weights, precision="float64", trace=True)
    get = lambda *key: weights[("params", *key)].astype(np.float64)  # noqa: E731
    x = ROWS @ get("Dense_0", "kernel") + get("Dense_0", "bias")
    x = np.exp(x) / np.exp(x).sum(-1, keepdims=True)
    x[:, 0] = x[:, 1] * 0.1
    x = np.sin(np.sin(x))
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    expected = x * get("LayerNorm_0", "scale") + get("LayerNorm_0", "bias")
    # The constant 0.1 is one of float32 in the model.
    np.testing.assert_allclose(result.outputs[""], expected, rtol=1e-6)
    np.testing.assert_array_equal(result.calls[0].outputs[""], result.outputs[""])
    assert {array.dtype for call in result.calls for array in call.outputs.values()} == {np.dtype("float64")}
    assert not jax.config.jax_enable_x64


@pytest.mark.slow
def test_float64_draws_the_numbers_of_the_native_run():
    model = Perceptron(nnx.Rngs(0))
    native, wide = run(model), run(model, precision="float64")
    np.testing.assert_allclose(native.outputs[""], wide.outputs[""], rtol=1e-5)
    assert wide.outputs[""].dtype == np.float64


@pytest.mark.slow
def test_loops_with_a_carry_of_fixed_dtype_run_in_float64():
    model = nn.RNN(nn.GRUCell(2))
    inputs = Inputs((ROWS[None],))
    weights = with_values(FLAX.model_weights(model, inputs))
    native, wide = (run(model, inputs, weights, precision=kind) for kind in ("native", "float64"))
    np.testing.assert_allclose(native.outputs[""], wide.outputs[""], rtol=1e-5)
    assert wide.outputs[""].dtype == np.float64


class OnValues(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(2, dtype=jnp.float32)(x if x.sum() > 0 else -x)


@pytest.mark.slow
def test_code_that_depends_on_values_runs_in_float64_and_cannot_be_reordered():
    weights = with_values(FLAX.model_weights(OnValues(), Inputs((ROWS,))))
    wide = run(OnValues(), weights=weights, precision="float64").outputs[""]
    kernel, bias = (weights["params", "Dense_0", name].astype(np.float64) for name in ("kernel", "bias"))
    np.testing.assert_allclose(wide, (ROWS if ROWS.sum() > 0 else -ROWS) @ kernel + bias, rtol=1e-14)
    with refused(UnsupportedFeature, "OnValues"):
        run(OnValues(), weights=weights, precision="reordered")


REORDERED = {
    "dot": (lambda a, b: a @ b, (5, 33), (33, 7)),
    "batched": (lambda a, b: jnp.einsum("bij,bkj->bik", a, b), (2, 3, 17), (2, 4, 17)),
    "sum": (lambda a: a.sum((0, 2)), (5, 3, 21)),
    "norm": (lambda a: jax.nn.standardize(a), (3, 41)),
    "jit": (jax.jit(lambda a, b: jax.nn.softmax(a @ b)), (5, 33), (33, 7)),
    "scan": (lambda a, b: jax.lax.scan(lambda c, w: (c @ w, c.sum()), a, b), (3, 9), (2, 9, 9)),
    "while": (lambda a, b: jax.lax.fori_loop(0, 2, lambda _, c: c @ b, a), (3, 9), (9, 9)),
    "cond": (lambda a, b: jax.lax.cond(a[0, 0] > 9, lambda: a, lambda: a @ b), (9, 9), (9, 9)),
    "checkpoint": (jax.checkpoint(lambda a, b: jnp.tanh(a @ b)), (3, 9), (9, 9)),
}
CONVOLUTIONS = [
    {"padding": "SAME"},
    {"padding": "VALID", "window_strides": (2, 3)},
    {"padding": ((1, 2), (0, 3)), "window_strides": (3, 2)},
    {"padding": ((2, 1), (1, 1)), "lhs_dilation": (2, 3), "window_strides": (3, 2)},
    {"padding": ((0, 4), (-1, 2)), "rhs_dilation": (2, 1)},
    {"padding": "SAME", "feature_group_count": 2},
]
REORDERED |= {
    f"conv{i}": (
        lambda a, b, options=options: jax.lax.conv_general_dilated(
            a, b, **{"window_strides": (1, 1), **options}, dimension_numbers=("NHWC", "HWIO", "NHWC")
        ),
        (2, 9, 11, 6),
        (3, 4, 6 // options.get("feature_group_count", 1), 4),
    )
    for i, options in enumerate(CONVOLUTIONS)
}


@pytest.mark.parametrize(
    "name",
    [name if name in ("dot", "conv3") else pytest.param(name, marks=pytest.mark.slow) for name in REORDERED],
)
def test_sums_in_another_order_differ_in_last_bits_only(name):
    from bridge_flax.trees.evaluate import evaluate
    from bridge_flax.trees.rules import Reordered

    function, *shapes = REORDERED[name]
    rng = np.random.default_rng(2)
    arrays = [rng.normal(size=shape) for shape in shapes]
    with jax.enable_x64(True):
        closed = jax.make_jaxpr(function)(*arrays)
        results = jax.jit(lambda *args: evaluate(closed, args, Reordered()))(*arrays)
        expected = jax.tree.leaves(jax.jit(function)(*arrays))
        changed = False
        for other, array in zip(results, expected, strict=True):
            np.testing.assert_allclose(other, array, rtol=1e-12, atol=1e-13)
            changed = changed or bool((np.asarray(other) != np.asarray(array)).any())
    assert changed


@pytest.mark.slow
def test_a_reordered_run_has_the_native_dtypes_and_calls():
    model = (nn.Dense(4), nn.Dense(4).init(KEY, jnp.zeros((1, 64))))
    rows = np.random.default_rng(0).normal(size=(9, 64))
    native, other = (run(model, rows, precision=kind, trace=True) for kind in ("native", "reordered"))
    assert other.outputs[""].dtype == np.float32
    assert (native.outputs[""] != other.outputs[""]).any()
    np.testing.assert_allclose(native.outputs[""], other.outputs[""], rtol=1e-4, atol=1e-5)
    assert paths(native.calls) == paths(other.calls)
    np.testing.assert_array_equal(other.calls[0].outputs[""], other.outputs[""])


# transformers


def test_an_object_like_a_model_of_transformers_is_called_with_params():
    class FlaxPreTrainedModel:
        module = nn.Dense(2)
        params = module.init(KEY, jnp.zeros((1, 4)))["params"]

        def __call__(self, x, params=None, dropout_rng=None, train=False):
            assert (dropout_rng is not None) == train
            return SimpleNamespace(x=1), self.module.apply({"params": params or self.params}, x)

    model = FlaxPreTrainedModel()
    weights = with_values(FLAX.model_weights(model, Inputs((ROWS,))))
    for train in (False, True):
        result = run(model, Inputs((ROWS,), {"train": train}), weights, trace=True)
        expected = ROWS @ weights[("kernel",)] + weights[("bias",)]
        np.testing.assert_allclose(result.outputs["1"], expected, rtol=1e-5)
        assert paths(result.calls) == [""]
    assert isinstance(weights.tensor(("kernel",)), ArrayTensor)
