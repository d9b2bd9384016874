"""Modules run in copies: with the given weights, every call shown, in float64, themselves unchanged."""

from __future__ import annotations

import dataclasses
import random
import sys
import warnings
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import pytest
import torch
from support.errors import refused
from torch import nn
from torch.nn import functional

from bridge_core import UnsupportedFeature, UsageError
from bridge_core.plugins import Inputs
from bridge_torch import TorchFramework

FRAMEWORK = TorchFramework()
X = np.random.default_rng(0).standard_normal((2, 5, 8)).astype(np.float32)
IMAGES = np.random.default_rng(1).standard_normal((2, 4, 9, 9)).astype(np.float32)


@pytest.fixture(autouse=True)
def _random():
    with torch.random.fork_rng():
        torch.manual_seed(7)
        yield


class Computing(nn.Module):
    """Computes what a function computes with it."""

    def __init__(self, compute, **modules):
        super().__init__()
        self.compute = compute
        for name, module in modules.items():
            setattr(self, name, module)

    def forward(self, *args, **kwargs):
        return self.compute(self, *args, **kwargs)


def run(model, *positional, weights=None, named=None, **options):
    inputs = Inputs(positional, named or {})
    weights = FRAMEWORK.model_weights(model, inputs) if weights is None else weights
    return FRAMEWORK.run_model(model, weights, inputs, **options)


def paths(result):
    return [".".join(call.path) for call in result.calls]


def state(model):
    return {name: tensor.detach().numpy().copy() for name, tensor in model.state_dict().items()}


# The module


def test_statistics_that_training_changes_are_returned_and_the_module_stays_as_it_was():
    model = nn.Sequential(nn.BatchNorm2d(4), nn.Dropout(0.5))
    before = state(model)
    result = run(model, IMAGES)
    assert set(result.updates) == {("0", "running_mean"), ("0", "running_var"), ("0", "num_batches_tracked")}
    assert result.updates["0", "num_batches_tracked"] == 1
    np.testing.assert_allclose(result.updates["0", "running_mean"], IMAGES.mean((0, 2, 3)) / 10, atol=1e-6)
    assert (result.outputs[""] == 0).mean() > 0.3
    assert model.training
    assert all(np.array_equal(before[name], array) for name, array in state(model).items())
    assert run(model.eval(), IMAGES).updates == {}


def test_updates_are_float64_in_a_run_in_float64():
    updates = run(nn.BatchNorm2d(4), IMAGES, precision="float64").updates
    np.testing.assert_allclose(
        updates[("running_mean",)], IMAGES.astype(np.float64).mean((0, 2, 3)) / 10, rtol=1e-12
    )


def test_attributes_and_global_state_are_as_before():
    def compute(self, x):
        self.count += 1
        self.cache.append(x)
        torch.set_default_dtype(torch.float64)
        return self.layer(x) * random.random() * np.random.rand() * torch.rand(1)

    model = Computing(compute, layer=nn.Linear(8, 8))
    model.count, model.cache = 0, []
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
    first, again = run(model, X), run(model, X)
    assert np.array_equal(first.outputs[""], again.outputs[""])
    assert (model.count, model.cache) == (0, [])
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    assert np.array_equal(np.random.get_state()[1], before[2])
    assert torch.get_default_dtype() == torch.float32
    assert torch.backends.mha.get_fastpath_enabled()
    assert not model.layer._forward_hooks
    assert "forward" not in vars(model.layer)


def test_a_module_on_the_meta_device_runs_with_the_given_weights():
    real = nn.Sequential(nn.Linear(8, 3), nn.BatchNorm1d(5))
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(8, 3), nn.BatchNorm1d(5))
    weights = FRAMEWORK.state(real)
    assert np.array_equal(run(model, X, weights=weights).outputs[""], run(real, X).outputs[""])
    assert model[0].weight.device.type == "meta"
    with refused(UsageError, "no values", key=("0", "weight")):
        run(model, X)


def test_a_buffer_without_a_value_is_named():
    with torch.device("meta"):
        model = nn.Linear(8, 3)
        model.register_buffer("inv_freq", torch.ones(4), persistent=False)
    with refused(UsageError, "inv_freq", hint="meta", key=("inv_freq",)):
        run(model, X, weights=FRAMEWORK.state(nn.Linear(8, 3)))


def test_lazy_modules_get_their_shapes_from_the_inputs():
    model = nn.Sequential(nn.LazyLinear(3), nn.LazyBatchNorm1d())
    weights = FRAMEWORK.model_weights(model, Inputs((X,)))
    assert weights.spec("0.weight").shape == (3, 8)
    assert weights.spec("1.running_mean").shape == (5,)
    with refused(UsageError, "uninitialised", key=("0", "weight")):
        weights["0.weight"]
    real = nn.Sequential(nn.Linear(8, 3), nn.BatchNorm1d(5))
    assert np.array_equal(run(model, X, weights=FRAMEWORK.state(real)).outputs[""], run(real, X).outputs[""])
    assert nn.parameter.is_lazy(model[0].weight)


def test_tied_parameters_stay_tied():
    model = nn.ModuleDict({"a": nn.Linear(8, 8, bias=False), "b": nn.Linear(8, 8, bias=False)})
    model["b"].weight = model["a"].weight

    def compute(self, x):
        self.layers["a"].weight.mul_(2)
        return self.layers["b"](x)

    model = Computing(compute, layers=model)
    weights = FRAMEWORK.state(model)
    result = run(model, X)
    assert np.array_equal(
        result.outputs[""], functional.linear(torch.from_numpy(X), model.layers["a"].weight * 2).detach()
    )
    assert set(result.updates) == {("layers", "a", "weight"), ("layers", "b", "weight")}
    other = weights.replace(tensors={key: weights[key] + (key[1] == "b") for key in weights})
    with refused(UsageError, "layers.a.weight", "layers.b.weight", hint="same"):
        run(model, X, weights=other)


def test_names_that_hooks_of_the_state_dict_make_are_loaded_through_it():
    model = nn.Linear(8, 8)
    model._register_state_dict_hook(lambda _, tensors, *__: tensors.update(weight=tensors["weight"].clone()))
    model.register_load_state_dict_pre_hook(lambda *_: None)
    weights = FRAMEWORK.state(nn.Linear(8, 8))
    assert np.array_equal(
        run(model, X, weights=weights).outputs[""],
        functional.linear(
            torch.from_numpy(X), *map(torch.from_numpy, (weights["weight"] * 1, weights["bias"] * 1))
        ),
    )


@pytest.mark.parametrize("precision", ["native", "float64"])
@pytest.mark.filterwarnings("ignore:`torch")
@pytest.mark.filterwarnings("ignore:The given NumPy array is not writable")
def test_scripted_modules_run_with_a_note(precision):
    inner = torch.jit.script(nn.Sequential(nn.Linear(8, 3), nn.ReLU()))
    weights = FRAMEWORK.state(nn.Sequential(nn.Sequential(nn.Linear(8, 3))))
    result = run(nn.Sequential(inner), X, weights=weights, trace=True, precision=precision)
    expected = np.maximum(X @ weights["0.0.weight"].T + weights["0.0.bias"], 0)
    np.testing.assert_allclose(result.outputs[""], expected, atol=1e-5)
    assert paths(result) == ["", "0"]
    assert "0.0" in result.notes[0]
    assert paths(run(inner, X, trace=True)) == [""]
    assert not torch.nn.modules.module._global_forward_hooks
    assert not torch.nn.modules.module._global_forward_pre_hooks


@pytest.mark.parametrize(
    "wrap",
    [
        nn.utils.parametrizations.weight_norm,
        nn.utils.parametrizations.spectral_norm,
        pytest.param(nn.utils.weight_norm, marks=pytest.mark.filterwarnings("ignore::FutureWarning")),
        nn.utils.spectral_norm,
    ],
)
@pytest.mark.parametrize("precision", ["native", "float64"])
def test_normed_weights_are_computed_from_the_given_ones(wrap, precision):
    model, other = (nn.Sequential(wrap(nn.Linear(8, 3))).eval() for _ in range(2))
    result = run(model, X, weights=FRAMEWORK.state(other), trace=True, precision=precision)
    np.testing.assert_allclose(result.outputs[""], other(torch.from_numpy(X)).detach(), atol=1e-5)
    assert paths(result) == ["", "0"]
    assert result.calls[1].type == "torch.nn.modules.linear.Linear"


def test_tensors_in_attributes_are_float64_too():
    model = Computing(lambda self, x: x @ self.tables["a"][0], layer=nn.Linear(8, 8))
    model.tables = {"a": [torch.ones(8, 8), nn.Parameter(torch.ones(2))]}
    assert run(model, X, precision="float64").outputs[""].dtype == np.float64
    assert model.tables["a"][0].dtype == torch.float32


def test_a_weight_of_another_shape_or_kind_is_named():
    model = nn.Linear(8, 8)
    weights = FRAMEWORK.state(model)
    arrays = {key: weights[key] for key in weights}
    with refused(UsageError, "[8]", "[1, 8]", key=("bias",)):
        run(model, X, weights=weights.replace(tensors={**arrays, ("bias",): arrays["bias",][None]}))
    with refused(UsageError, "float32", "int32", key=("bias",)):
        run(model, X, weights=weights.replace(tensors={**arrays, ("bias",): np.ones(8, np.int32)}))
    with refused(UsageError, "does not have", "biass", hint="bias", key=("biass",)):
        run(model, X, weights=weights.replace(tensors={**arrays, ("biass",): np.ones(8)}))
    with refused(UsageError, "do not have bias", hint="biass", key=("bias",)):
        tensors = {("weight",): arrays["weight",], ("biass",): np.ones(8)}
        run(model, X, weights=weights.replace(tensors=tensors))


def test_what_is_not_a_weight_is_copied():
    model = nn.Linear(8, 8)
    model.register_buffer("shift", torch.ones(8), persistent=False)
    model.table, model.derived = [torch.ones(8)], model.weight * 2
    model.forward = lambda x: x + model.shift
    compute = lambda self, x: self.a.derived[0] + self.a.shift.add_(1) + self.a.table[0].mul_(3) + 0 * x  # noqa: E731
    outer = Computing(compute, a=model)
    for precision, dtype in (("native", np.float32), ("float64", np.float64)):
        assert run(outer, X, precision=precision).outputs[""].dtype == dtype
    assert torch.equal(model.shift, torch.ones(8))
    assert torch.equal(model.table[0], torch.ones(8))


# Inputs


@dataclasses.dataclass
class Pair:
    left: Any
    right: Any = None


class Point(NamedTuple):
    x: Any
    y: Any


def test_inputs_get_the_dtypes_that_the_module_needs():
    seen = {}

    def compute(self, *args, **named):
        seen.update({**dict(enumerate(args)), **named})
        return self.layer.weight

    model = Computing(compute, layer=nn.Linear(2, 2).to(torch.bfloat16))
    narrow = np.ones(2, ml_dtypes.bfloat16)
    values = (np.array([1, 2], np.int8), np.array([True]), X, narrow, torch.ones(2), X.astype(">f8")[::-1])
    run(model, *values, 3, named={"flag": True, "pair": Pair([X], None), "point": Point(np.float32(2), (X,))})
    assert [seen[at].dtype for at in range(6)] == [torch.int64, torch.bool, *[torch.bfloat16] * 4]
    assert (seen[6], seen["flag"], seen["point"].x) == (3, True, 2.0)
    assert seen["pair"].left[0].dtype == seen["point"].y[0].dtype == torch.bfloat16
    run(model, *values, precision="float64")
    assert [seen[at].dtype for at in range(6)] == [torch.int64, torch.bool, *[torch.float64] * 4]


def test_arrays_of_jax_are_inputs_too():
    import jax.numpy as jnp

    model = nn.Linear(8, 8)
    assert np.array_equal(run(model, jnp.asarray(X)).outputs[""], run(model, X).outputs[""])


def test_operations_in_place_do_not_change_inputs_or_records():
    def compute(self, x):
        y = self.layer(x)
        y.add_(1)
        x.mul_(2)
        return y, self.layer(x)

    before = X.copy()
    result = run(Computing(compute, layer=nn.Linear(8, 8)), X, trace=True)
    assert np.array_equal(X, before)
    _, first, second = result.calls
    np.testing.assert_allclose(first.outputs[""] + 1, result.outputs["0"])
    assert np.array_equal(first.inputs["0"] * 2, second.inputs["0"])
    assert np.array_equal(result.calls[0].inputs["0"], before)


@pytest.mark.parametrize(
    ("value", "named"),
    [
        (np.array(["a"]), "<U1"),
        (np.array([object()]), "object"),
        (np.array([2**63], np.uint64), str(2**63)),
        (np.ones(2, np.longdouble), "float128"),
    ],
)
def test_arrays_that_torch_does_not_have_are_refused(value, named):
    with refused(UsageError, named):
        run(nn.Linear(8, 8), value)


# Outputs


class Cache:
    def __init__(self, keys):
        self.layers = [Pair(keys, keys + 1)]
        self.size, self._hidden, self.again = 3, keys, self


def test_outputs_are_named_by_their_place():
    def compute(self, x):
        y = self.layer(x)
        return {"a": y, "b": (y, None, [y]), "c": Point(y, 3), "d": Pair(y), "e": Cache(y), 3: "text"}

    names = ["a", "b.0", "b.2.0", "c.x", "d.left", "e.layers.0.left", "e.layers.0.right"]
    assert [*run(Computing(compute, layer=nn.Linear(8, 8)), X).outputs] == names


def test_two_entries_of_one_name_are_both_there():
    compute = lambda self, x: {"a.b": self.layer(x), "a": {"b": x}}  # noqa: E731
    assert [*run(Computing(compute, layer=nn.Linear(8, 8)), X).outputs] == ["a.b", "a.b#2"]


def test_dtypes_of_torch_become_those_of_numpy():
    result = run(nn.Linear(8, 8).to(torch.bfloat16), X)
    assert result.outputs[""].dtype == ml_dtypes.bfloat16
    sparse = run(Computing(lambda self, x: self.layer(x).relu().to_sparse(), layer=nn.Linear(8, 8)), X)
    assert sparse.outputs[""].shape == (2, 5, 8)


def test_outputs_that_numpy_does_not_have_are_refused():
    def compute(self, x):
        return {"texts": torch.nested.nested_tensor([self.layer(x[0]), self.layer(x[1, :2])])}

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with refused(UnsupportedFeature, "texts", "nested"):
            run(Computing(compute, layer=nn.Linear(8, 8)), X)
    with refused(UsageError, "no arrays", "text"):
        run(Computing(lambda self, x: "text", layer=nn.Linear(8, 8)), X)


# Failures


def exits(self, x):
    sys.exit(3)


def fails(self, x):
    raise KeyError("mask")


@pytest.mark.parametrize(
    ("model", "inputs", "named"),
    [
        (Computing(exits, layer=nn.Linear(8, 8)), (X,), ("SystemExit", "3")),
        (Computing(fails, layer=nn.Linear(8, 8)), (X,), ("KeyError", "mask")),
        (nn.Linear(8, 8), (), ("TypeError", "input")),
        (nn.Linear(9, 8), (X,), ("RuntimeError", "9x8")),
        (nn.Embedding(3, 8), (np.array([3]),), ("IndexError",)),
        (nn.ModuleList([nn.Linear(8, 8)]), (X,), ("ModuleList", "forward")),
    ],
)
def test_a_model_that_fails_is_a_mistake_of_the_caller_with_its_reason(model, inputs, named):
    with refused(UsageError, *named, hint="model"):
        run(model, *inputs)


def test_a_precision_that_a_model_cannot_have_is_named():
    def compute(self, x):
        if x.dtype == torch.float64:
            raise TypeError("only float32")
        return self.layer(x)

    with refused(UnsupportedFeature, "float64", "only float32", hint="native"):
        run(Computing(compute, layer=nn.Linear(8, 8)), X, precision="float64")


def test_warnings_of_a_model_do_not_escape():
    def compute(self, x):
        warnings.warn("deprecated", stacklevel=1)
        return self.layer(x)

    assert run(Computing(compute, layer=nn.Linear(8, 8)), X).outputs


def test_a_model_that_cannot_be_copied_is_refused():
    model = nn.Linear(8, 8)
    model.generator = (value for value in [])
    with refused(UsageError, "copied", "generator"):
        run(model, X)


# Traces


def test_modules_are_shown_however_they_are_called():
    def compute(self, x, *, scale, training=True):
        x = self.a(x) * scale
        try:
            self.broken(x)
        except RuntimeError:
            x = self.a.forward(input=x)
        return self.outer(x)

    inner = nn.Linear(8, 8)
    model = Computing(
        compute,
        a=nn.Linear(8, 8),
        broken=nn.Sequential(nn.ReLU(), nn.Linear(3, 3)),
        outer=nn.Sequential(inner, nn.Sequential(inner)),
    )
    named = {"scale": np.float32(2), "training": False}
    result = run(model, X, named=named, trace=True)
    assert paths(result) == ["", "a", "broken.0", "a", "outer", "outer.0", "outer.1", "outer.0"]
    root, first, _, direct, *_ = result.calls
    assert root.plain == {"scale": 2.0, "training": False}
    assert [*first.inputs] == ["0"]
    assert [*direct.inputs] == ["input"]
    assert [(call.began, call.ended) for call in result.calls][:2] == [(0, 17), (1, 2)]
    assert "broken.1" in result.notes[0]
    assert "outer" not in result.notes[0]


def test_hooks_of_the_module_are_part_of_its_call():
    layer = nn.Linear(8, 8)
    layer.register_forward_pre_hook(lambda _, args: (args[0] * 0,))
    layer.register_forward_hook(lambda _, args, output: output + 1)
    _, call = run(nn.Sequential(layer), X, trace=True).calls
    assert not call.inputs["0"].any()
    np.testing.assert_allclose(call.outputs[""][0, 0], layer.bias.detach() + 1, rtol=1e-6)


@pytest.mark.parametrize("masked", [False, True])
def test_layers_with_a_fast_path_call_their_modules(masked):
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval()
    named = {"src_key_padding_mask": np.array([[0, 0, 0, 1, 1], [0] * 5], bool)} if masked else {}
    result = run(model, X, named=named, trace=True)
    assert {"layers.0.self_attn", "layers.1.linear2"} <= {*paths(result)}
    assert result.notes == ()
    assert np.array_equal(run(model, X, named=named).outputs[""], result.outputs[""])


@pytest.mark.slow  # torch's compiler is imported
def test_types_and_paths_of_torch_compile():
    model = nn.Sequential(nn.Linear(8, 3), nn.ReLU())
    compiled = torch._dynamo.eval_frame.OptimizedModule(model, lambda function: function)
    result = run(nn.Sequential(compiled), X, trace=True)
    assert paths(result) == ["", "0", "0._orig_mod", "0._orig_mod.0", "0._orig_mod.1"]


# Precisions


def casting(self, x):
    weights = functional.softmax(self.layer(x).float(), -1, dtype=torch.float32).to(torch.bfloat16)
    table = torch.zeros(3, 8, dtype=torch.float32) + torch.from_numpy(np.ones(8, np.float32)) / 3
    return (weights @ table.T.type(torch.bfloat16)).half() + torch.arange(3.0) / 7


def test_casts_of_a_model_do_not_narrow_float64():
    model = Computing(casting, layer=nn.Linear(8, 8).to(torch.bfloat16))
    weight, bias = (np.asarray(p.detach().double()) for p in (model.layer.weight, model.layer.bias))
    logits = np.exp(X.astype(np.float64) @ weight.T + bias)
    table = np.full((8, 3), np.float64(np.float32(1))) / 3
    expected = logits / logits.sum(-1, keepdims=True) @ table + np.arange(3) / 7
    result = run(model, X, precision="float64", trace=True)
    np.testing.assert_allclose(result.outputs[""], expected, rtol=1e-14)
    assert {str(array.dtype) for call in result.calls for array in call.outputs.values()} == {"float64"}
    assert run(model, X).outputs[""].dtype == np.float32


def drawing(self, x):
    y = functional.dropout(self.layer(x), 0.5, True) + torch.rand(8) + torch.randn_like(x)
    y = y + torch.nn.init.trunc_normal_(torch.empty(8)) + torch.bernoulli(torch.full((8,), 0.5))
    return y * (0.7 + torch.rand(2, 1, 1, dtype=x.dtype)).floor() + torch.rand(8, dtype=torch.float32)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("precision", ["float64", "reordered"])
def test_random_numbers_are_the_same_in_every_precision(dtype, precision):
    model = Computing(drawing, layer=nn.Linear(8, 8).to(dtype))
    native, other = run(model, X, seed=5), run(model, X, seed=5, precision=precision)
    left, right = (r.outputs[""].astype(np.float64) for r in (native, other))
    np.testing.assert_allclose(left, right, atol=1e-5 if dtype == torch.float32 else 0.1)
    assert np.abs(run(model, X, seed=6).outputs[""].astype(np.float64) - left).max() > 0.5


def test_complex_numbers_have_two_float64():
    result = run(nn.Linear(8, 3, dtype=torch.complex64), X.astype(np.complex64), precision="float64")
    assert result.outputs[""].dtype == np.complex128


def test_bits_of_a_number_stay_those_of_its_dtype():
    def compute(self, x):
        return self.layer(x).sum() * 0 + torch.tensor([1], dtype=torch.int32).view(torch.float32).view(
            torch.int32
        )

    result = run(Computing(compute, layer=nn.Linear(8, 8)), X, precision="float64")
    assert result.outputs[""] == 1


# What a model offers


class Offering(nn.Linear):
    def __init__(self, **offered):
        super().__init__(8, 8)
        for name, value in offered.items():
            setattr(self, name, value)


def test_inputs_that_a_model_offers():
    assert FRAMEWORK.example_inputs(nn.Linear(8, 8)) is None
    offered = FRAMEWORK.example_inputs(Offering(dummy_inputs={"input": torch.ones(2, 8)}))
    assert np.array_equal(offered.named["input"], np.ones((2, 8)))
    assert FRAMEWORK.example_inputs(Offering(dummy_inputs={"input_ids": torch.ones(2, 8)})) is None
    assert FRAMEWORK.example_inputs(Offering(example_input_array=torch.ones(2, 8))).positional[0].shape == (
        2,
        8,
    )
    assert FRAMEWORK.example_inputs(Offering(example_input_array=(torch.ones(1), 3))) is None


def test_constants_are_named_in_the_weights():
    model = nn.Sequential(nn.BatchNorm1d(8), nn.Linear(8, 8))
    model[1].register_buffer("inv_freq", torch.ones(8))
    model[1].register_buffer("count", torch.ones(8, dtype=torch.int64))
    modules = FRAMEWORK.model_weights(model, Inputs((X,))).metadata.modules
    assert modules[("1",)].settings["constants"] == ("inv_freq",)
    assert "constants" not in modules[("0",)].settings
