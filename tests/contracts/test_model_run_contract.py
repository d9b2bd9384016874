"""The adapter of torch keeps the contract of running models, and the contract notices ways of breaking it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from support.broken_plugins import check_fault, check_healthy, fault, parameters
from torch import nn

from bridge_core import FlatState, StateMetadata, UsageError
from bridge_core.plugins import Inputs, ModelRun, ModuleCall, ModuleSettings
from bridge_core.state import ModuleInfo
from bridge_core.testing import ModelRunContract
from bridge_torch import TorchFramework


class Attending(nn.Module):
    """Calls a module twice, has tied weights, named inputs and outputs in containers."""

    def __init__(self):
        super().__init__()
        self.wte = nn.Embedding(11, 8)
        self.ln = nn.LayerNorm(8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.gru = nn.GRU(8, 8, batch_first=True)
        self.head = nn.Linear(8, 11, bias=False)
        self.head.weight = self.wte.weight
        self.register_buffer("shift", torch.ones(8))

    def forward(self, ids, *, scale=1.0, mask=None):
        x = self.ln(self.wte(ids) * scale + self.shift)
        y, weights = self.attention(x, x, x)
        y, state = self.gru(self.ln(x + y))
        return {"logits": self.head(y), "cache": (weights, [state, None])}


def with_seed(make):
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return make()


def convolutional():
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1, groups=3),
        nn.BatchNorm2d(6),
        nn.GELU(),
        nn.Conv2d(6, 6, 3, stride=2, groups=6),
        nn.GroupNorm(2, 6),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(6, 5),
        nn.Dropout(0.5),
    )


class TestTorch(ModelRunContract):
    framework = TorchFramework()

    def models(self):
        rng = np.random.default_rng(0)
        images = rng.standard_normal((2, 3, 6, 6)).astype(np.float32)
        ids = rng.integers(0, 11, (2, 5)).astype(np.int32)
        yield with_seed(convolutional), Inputs((images,))
        yield with_seed(convolutional).eval(), Inputs((images,))
        yield with_seed(Attending).eval(), Inputs((ids,), {"scale": 0.5})
        yield nn.LazyLinear(3), Inputs((images,))
        with torch.device("meta"):
            yield Attending(), Inputs((ids,))

    def foreign(self):
        return nn.Linear(2, 3).state_dict(), torch.ones(2), torch.relu, nn.Linear


class Toy:
    """A model of two matrices and a dropout."""

    def __init__(self):
        rng = np.random.default_rng(2)
        self.a, self.b = (rng.standard_normal((16, 16)).astype(np.float32) for _ in "ab")


class Toys:
    """An adapter that fulfils the contract; each subclass breaks it in one way."""

    name = "toy"
    draws = None

    def runs(self, model):
        return isinstance(model, Toy)

    def example_inputs(self, model):
        return None

    def model_weights(self, model, inputs):
        modules = {
            (): ModuleInfo(("toy.Toy",)),
            ("a",): ModuleInfo(("toy.Matrix",), parameters=("w",)),
            ("b",): ModuleInfo(("toy.Matrix",), parameters=("w",)),
        }
        tensors = {("a", "w"): model.a.copy(), ("b", "w"): model.b.copy()}
        return FlatState(tensors, layout="toy", metadata=StateMetadata(modules=modules))

    def check(self, model, weights, inputs):
        own = self.model_weights(model, inputs).specs()
        if weights.specs() != own or len(inputs.positional) != 1 or inputs.named:
            raise UsageError("expected the model's weights and one array.")

    def multiply(self, x, w, precision):
        order = np.arange(16)[::-1] if precision == "reordered" else np.arange(16)
        return x[:, order] @ w[order]

    def run_model(self, model, weights, inputs, *, trace=False, precision="native", seed=0):
        self.check(model, weights, inputs)
        dtype = np.float64 if precision == "float64" else np.float32
        (x,), a, b = inputs.positional, weights["a", "w"], weights["b", "w"]
        x = x.astype(dtype)
        kept = (self.draws or np.random.default_rng(seed)).random(16) > 0.5
        y = self.multiply(x, a.astype(dtype), precision) * kept
        z = self.multiply(y, b.astype(dtype), precision)
        calls = (
            ModuleCall((), "toy.Toy", {"0": x}, {"": z}, {}, 0, 5),
            ModuleCall(("a",), "toy.Matrix", {"0": x}, {"": y}, {}, 1, 2),
            ModuleCall(("b",), "toy.Matrix", {"0": y}, {"": z}, {}, 3, 4),
        )
        return ModelRun({"": z}, calls if trace else ())

    def model_settings(self, model, inputs=None):
        matrix = ModuleSettings("toy.Matrix", {"bias": False, "dtype": "float32"}, ("scale",))
        return {(): ModuleSettings("toy.Toy"), ("a",): matrix, ("b",): matrix}


class RunsEverything(Toys):
    def runs(self, model):
        return True


class OffersWrongInputs(Toys):
    def example_inputs(self, model):
        return Inputs((np.zeros((2, 3), np.float32),))


class ChangesTheModel(Toys):
    def run_model(self, model, weights, inputs, **options):
        run = super().run_model(model, weights, inputs, **options)
        model.a += 1
        return run


class ChangesTheInputs(Toys):
    def run_model(self, model, weights, inputs, **options):
        run = super().run_model(model, weights, inputs, **options)
        inputs.positional[0][:] += 1
        return run


class IgnoresTheWeights(Toys):
    def run_model(self, model, weights, inputs, **options):
        self.check(model, weights, inputs)
        return super().run_model(model, self.model_weights(model, inputs), inputs, **options)


class TakesOtherWeights(Toys):
    def check(self, model, weights, inputs):
        if len(inputs.positional) != 1:
            raise UsageError("expected one array.")


class IgnoresTheSeed(Toys):
    draws = np.random.default_rng(0)


class RaisesItsOwnError(Toys):
    def check(self, model, weights, inputs):
        if len(inputs.positional) != 1:
            raise TypeError("expected one array")
        super().check(model, weights, inputs)


class AlwaysTraces(Toys):
    def run_model(self, model, weights, inputs, *, trace=False, **options):
        return super().run_model(model, weights, inputs, trace=True, **options)


class ChangesCalls(Toys):
    """Changes the calls of a trace."""

    def run_model(self, model, weights, inputs, **options):
        run = super().run_model(model, weights, inputs, **options)
        return replace(run, calls=tuple(self.changed(call) for call in run.calls))


class ShowsOtherOutputs(ChangesCalls):
    def changed(self, call):
        return call if call.path else replace(call, outputs={"": call.outputs[""] + 1})


class NestsWrongly(ChangesCalls):
    def changed(self, call):
        return replace(call, ended=3.5) if call.path == ("a",) else call


class NamesOtherPaths(ChangesCalls):
    def changed(self, call):
        return replace(call, path=("model", *call.path)) if call.path else call


class RecordsInFloat32(ChangesCalls):
    def changed(self, call):
        return replace(call, outputs={"": call.outputs[""].astype(np.float32)}) if call.path else call


class IsWrongReordered(Toys):
    def multiply(self, x, w, precision):
        return super().multiply(x, w, precision) * (1.01 if precision == "reordered" else 1)


class IsWrongInFloat64(Toys):
    def multiply(self, x, w, precision):
        return super().multiply(x, w, precision) * (1.01 if precision == "float64" else 1)


class ReordersNothing(Toys):
    def multiply(self, x, w, precision):
        return super().multiply(x, w, "native")


class InventsSettings(Toys):
    def model_settings(self, model, inputs=None):
        return {path: replace(s, values={"epsilon": 1}) for path, s in super().model_settings(model).items()}


class ForgetsAModule(Toys):
    def model_settings(self, model, inputs=None):
        return {path: s for path, s in super().model_settings(model).items() if path != ("b",)}


class ToyContract(ModelRunContract):
    framework = Toys()

    def models(self):
        yield Toy(), Inputs((np.random.default_rng(3).standard_normal((2, 16)).astype(np.float32),))


RECOGNISED, OFFERED = (
    "test_it_runs_its_own_models_and_no_other_objects",
    "test_inputs_that_a_model_offers_are_inputs_of_it",
)
UNCHANGED, FLOAT64 = "test_a_run_changes_nothing", "test_float64_is_near_and_entirely_float64"
REORDERED, SETTINGS = (
    "test_sums_in_another_order_differ_by_rounding",
    "test_settings_have_known_names_and_the_paths_of_calls",
)
FAULTS = [
    (RunsEverything, RECOGNISED, "None", "type"),
    (OffersWrongInputs, OFFERED, "example_inputs"),
    (ChangesTheModel, UNCHANGED, "the model itself"),
    (ChangesTheInputs, UNCHANGED, "inputs"),
    (IgnoresTheWeights, "test_a_run_computes_with_the_given_weights", "compute with `weights`"),
    (TakesOtherWeights, "test_weights_of_another_model_are_refused", "MismatchError"),
    (IgnoresTheSeed, "test_the_same_seed_gives_the_same_run", "seed"),
    (RaisesItsOwnError, "test_inputs_that_do_not_fit_are_refused", "TypeError", "UsageError"),
    (AlwaysTraces, "test_calls_are_recorded_only_where_asked_for", "3 calls"),
    (ShowsOtherOutputs, "test_the_first_call_is_the_models_own", "what was returned"),
    (NestsWrongly, "test_calls_are_in_order_and_nested", "'a'"),
    (NamesOtherPaths, "test_paths_are_those_of_the_weights", "keys of the weights"),
    (RecordsInFloat32, FLOAT64, "float32"),
    (IsWrongInFloat64, FLOAT64, "differs by"),
    (IsWrongReordered, REORDERED, "differs by"),
    (ReordersNothing, REORDERED, "another order"),
    (InventsSettings, SETTINGS, "epsilon"),
    (ForgetsAModule, SETTINGS, "'b'"),
]
TABLE = [
    fault(ToyContract, test, *words, name=broken.__name__, framework=broken())
    for broken, test, *words in FAULTS
]


@pytest.mark.parametrize(
    "one", parameters(TABLE, sample=["RunsEverything", "IgnoresTheWeights"], rest=pytest.mark.zoo)
)
def test_a_broken_adapter_is_caught(one, tmp_path):
    check_fault(one, tmp_path)


def test_a_strangers_adapter_is_healthy(tmp_path):
    check_healthy(ToyContract, tmp_path, TABLE)
