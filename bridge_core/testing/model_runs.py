"""The contract of an adapter that runs models: nothing is changed, and what it shows is what happened."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pytest

from bridge_core.errors import BridgeError, UnsupportedFeature, UsageError
from bridge_core.plugins import SETTING_NAMES, Inputs, ModelRun, Precision, ReadsSettings, RunsModels
from bridge_core.state import Array, FlatState, Key
from bridge_core.testing.strategies import same_bits

__all__ = ["ModelRunContract"]

_FOREIGN: tuple[Any, ...] = (
    *(None, 3, "text", b"bytes", object(), object, len, [], {}, {"a": "b"}, np.zeros(2)),
    FlatState({("a",): np.zeros(2)}),
)


class ModelRunContract(ABC):
    """Subclass it as ``Test...``, set ``framework`` and give it small models with inputs.

    Attributes:
        framework: The adapter under test, with the methods of `bridge_core.plugins.RunsModels`; those of
            `bridge_core.plugins.ReadsSettings` are tested if it has them.
        near: Largest difference between two precisions, relative to the largest output.
    """

    framework: Any
    near: float = 1e-4

    @abstractmethod
    def models(self) -> Iterable[tuple[Any, Inputs]]:
        """Return models with inputs: of every type that the adapter runs, one with dropout on."""

    def foreign(self) -> Iterable[Any]:
        """Return further objects that the adapter cannot run: weights without a model."""
        return ()

    def wrong_inputs(self) -> Inputs:
        """Return inputs that no model takes."""
        return Inputs(named={"no_such_argument": np.zeros(2, np.float32)})

    def _samples(self) -> list[tuple[Any, Inputs, FlatState]]:
        samples = []
        for model, inputs in self.models():
            state = self.framework.model_weights(model, inputs)
            samples.append((model, inputs, _with_values(state)))
        assert samples, "models() gives nothing to test with"
        return samples

    def _run(self, model: Any, weights: FlatState, inputs: Inputs, **options: Any) -> ModelRun:
        run = self.framework.run_model(model, weights, inputs, **options)
        assert isinstance(run, ModelRun)
        return run

    # Recognising

    def test_it_runs_its_own_models_and_no_other_objects(self) -> None:
        """An object that it cannot run is for another adapter."""
        assert isinstance(self.framework, RunsModels)
        for model, _ in self.models():
            assert self.framework.runs(model)
        for value in (*_FOREIGN, *self.foreign()):
            assert not _answer(self.framework.runs, value), f"{value!r} would be run"

    def test_inputs_that_a_model_offers_are_inputs_of_it(self) -> None:
        """Or it offers none."""
        for model, _, weights in self._samples():
            offered = self.framework.example_inputs(model)
            if offered is not None:
                assert isinstance(offered, Inputs)
                assert self._run(model, weights, offered).outputs

    # Weights

    def test_weights_are_a_state_in_its_layout(self) -> None:
        """With the types of the modules."""
        for _, _, weights in self._samples():
            assert weights.layout == self.framework.name
            assert len(weights)
            assert weights.metadata.modules

    def test_a_run_computes_with_the_given_weights(self) -> None:
        """Not with the model's own: other weights give other outputs."""
        for model, inputs, weights in self._samples():
            other = _replaced(weights, {key: _other(weights[key]) for key in weights})
            changed = self._run(model, other, inputs).outputs
            assert not _same(changed, self._run(model, weights, inputs).outputs)
            assert _same(changed, self._run(model, _copied(other), inputs).outputs)

    def test_weights_of_another_model_are_refused(self) -> None:
        """Missing, unknown and misshapen ones."""
        for model, inputs, weights in self._samples():
            tied = {*weights.metadata.ties, *weights.metadata.ties.values()}
            free = [key for key in weights if key not in tied]
            arrays = {key: weights[key] for key in weights}
            key = free[-1]
            longer = np.zeros((*arrays[key].shape, 3), arrays[key].dtype)
            for tensors in (
                {other: array for other, array in arrays.items() if other != key},
                {**arrays, (*key[:-1], "no_such_weight"): longer},
                {**arrays, key: longer},
            ):
                with pytest.raises(BridgeError):
                    self._run(model, _replaced(weights, tensors), inputs)

    # Running

    def test_a_run_changes_nothing(self) -> None:
        """Neither the model, nor the weights, nor the inputs."""
        for model, inputs, weights in self._samples():
            own = _readable(self.framework.model_weights(model, inputs))
            given = {key: np.array(weights[key]) for key in weights}
            before = copy.deepcopy(inputs)
            for options in ({"trace": True}, {"precision": "float64"}, {"precision": "reordered"}):
                self._optional_run(model, weights, inputs, **options)
            assert _same(own, _readable(self.framework.model_weights(model, inputs)))
            assert _same(given, {key: np.array(weights[key]) for key in weights})
            _check_equal_inputs(before, inputs)

    def test_outputs_and_updates_are_arrays(self) -> None:
        """Outputs by name; updates by key, in the shape and dtype of the weight."""
        for model, inputs, weights in self._samples():
            run = self._run(model, weights, inputs)
            assert run.outputs
            assert all(isinstance(name, str) for name in run.outputs)
            assert all(isinstance(array, np.ndarray) for array in run.outputs.values())
            assert "" not in run.outputs or len(run.outputs) == 1
            for key, array in run.updates.items():
                assert (array.shape, array.dtype) == (weights.spec(key).shape, weights.spec(key).dtype)

    def test_the_same_seed_gives_the_same_run(self) -> None:
        """With and without a trace, whatever was drawn before."""
        for model, inputs, weights in self._samples():
            first = self._run(model, weights, inputs, seed=3)
            self._run(model, weights, inputs, seed=4)
            for trace in (False, True):
                again = self._run(model, weights, inputs, seed=3, trace=trace)
                assert _same(first.outputs, again.outputs)
                assert _same(first.updates, again.updates)

    def test_inputs_that_do_not_fit_are_refused(self) -> None:
        """With the reason, as a mistake of the caller."""
        for model, _, weights in self._samples():
            with pytest.raises(UsageError) as caught:
                self._run(model, weights, self.wrong_inputs())
            assert type(caught.value) is UsageError

    # Tracing

    def test_calls_are_recorded_only_where_asked_for(self) -> None:
        """A trace takes memory."""
        for model, inputs, weights in self._samples():
            assert self._run(model, weights, inputs).calls == ()

    def test_the_first_call_is_the_models_own(self) -> None:
        """It contains all others, and its outputs are those of the run."""
        for model, inputs, weights in self._samples():
            run = self._run(model, weights, inputs, trace=True)
            root, *others = run.calls
            assert root.path == ()
            assert all(root.began < call.began < call.ended < root.ended for call in others)
            assert _same(root.outputs, run.outputs)

    def test_calls_are_in_order_and_nested(self) -> None:
        """Each inside another or next to it; every place is the start or the end of one call."""
        for model, inputs, weights in self._samples():
            calls = self._run(model, weights, inputs, trace=True).calls
            places = sorted(place for call in calls for place in (call.began, call.ended))
            assert len(places) == len({*places})
            assert [call.began for call in calls] == sorted(call.began for call in calls)
            around: list[Any] = []
            for call in calls:
                while around and around[-1].ended < call.began:
                    around.pop()
                assert all(outer.ended > call.ended for outer in around)
                around.append(call)

    def test_paths_are_those_of_the_weights(self) -> None:
        """Modules with weights are called by the path of their keys, and some are called."""
        for model, inputs, weights in self._samples():
            calls = self._run(model, weights, inputs, trace=True).calls
            modules = weights.metadata.modules
            with_weights = [path for path in modules if modules[path].parameters]
            assert any(call.path in with_weights for call in calls)
            for call in calls:
                assert call.path in modules or not _below(call.path, weights), call.path
                assert call.type
                assert all(isinstance(a, np.ndarray) for a in (*call.inputs.values(), *call.outputs.values()))

    # Precisions

    def test_float64_is_near_and_entirely_float64(self) -> None:
        """All arrays of floats that a run returns, those of calls included."""
        for model, inputs, weights in self._samples():
            native = self._run(model, weights, inputs, trace=True)
            run = self._optional_run(model, weights, inputs, trace=True, precision="float64")
            if run is None:
                continue
            recorded = [array for call in run.calls for array in call.outputs.values()]
            for array in (*run.outputs.values(), *run.updates.values(), *recorded):
                assert not _is_real(array) or array.dtype == np.float64, array.dtype
            self._check_near(native, run)
            assert [call.path for call in native.calls] == [call.path for call in run.calls]

    def test_sums_in_another_order_differ_by_rounding(self) -> None:
        """In the dtypes of the native run; for at least one model in some bits."""
        offered, changed = False, False
        for model, inputs, weights in self._samples():
            native = self._run(model, weights, inputs)
            run = self._optional_run(model, weights, inputs, precision="reordered")
            if run is None:
                continue
            offered = True
            for name, array in native.outputs.items():
                assert run.outputs[name].dtype == array.dtype
            self._check_near(native, run)
            changed = changed or not _same(native.outputs, run.outputs)
        assert changed or not offered, "no model computes differently with its sums in another order"

    def _optional_run(
        self, model: Any, weights: FlatState, inputs: Inputs, **options: Any
    ) -> ModelRun | None:
        """Return a run; None where the adapter does not offer the precision for this model."""
        precision: Precision = options.get("precision", "native")
        try:
            return self._run(model, weights, inputs, **options)
        except UnsupportedFeature:
            if precision == "native":
                raise
            return None

    def _check_near(self, native: ModelRun, run: ModelRun) -> None:
        assert [*native.outputs] == [*run.outputs]
        assert {*native.updates} == {*run.updates}
        for name, array in native.outputs.items():
            other = run.outputs[name]
            assert other.shape == array.shape
            if array.dtype.kind == "b" or array.dtype.kind in "iu" or not array.size:
                continue
            left, right = array.astype(np.complex128), other.astype(np.complex128)
            assert np.abs(left - right).max() <= self.near * max(1.0, float(np.abs(left).max())), name

    # Settings

    def test_settings_have_known_names_and_the_paths_of_calls(self) -> None:
        """Of every module that is called, with the same type; values are plain."""
        reader: Any = self.framework
        if not isinstance(reader, ReadsSettings):
            return
        for model, inputs, weights in self._samples():
            before = _readable(self.framework.model_weights(model, inputs))
            settings = reader.model_settings(model, inputs)
            assert _same(before, _readable(self.framework.model_weights(model, inputs)))
            for path, module in settings.items():
                assert isinstance(path, tuple)
                names = {*module.values, *module.unread}
                assert names <= SETTING_NAMES, sorted(names - SETTING_NAMES)
                assert not {*module.values} & {*module.unread}
                assert all(_is_plain(value) for value in module.values.values()), (path, module.values)
            for call in self._run(model, weights, inputs, trace=True).calls:
                assert call.path in settings, call.path
                assert settings[call.path].type == call.type


def _answer(question: Any, value: Any) -> bool:
    try:
        return bool(question(value))
    except Exception:  # raising means no
        return False


def _readable(state: FlatState) -> dict[Key, Array]:
    """Return copies of the values that a state has; a model may have none of its own."""
    arrays = {}
    for key in state:
        try:
            arrays[key] = np.array(state[key])
        except BridgeError:
            continue
    return arrays


def _with_values(state: FlatState) -> FlatState:
    """Return the state with random values in place of those that the model does not have."""
    arrays = _readable(state)
    rng = np.random.default_rng(5)
    for key, spec in state.specs().items():
        if key not in arrays:
            values = rng.uniform(0.1, 0.5, spec.shape) * rng.choice([-1, 1], spec.shape)
            arrays[key] = (np.abs(values) if key[-1] in _POSITIVE else values).astype(spec.dtype)
    ties = state.metadata.ties
    return _replaced(state, {key: arrays[ties.get(key, key)] for key in state})


_POSITIVE = ("running_var", "scale", "var")


def _copied(state: FlatState) -> FlatState:
    return _replaced(state, {key: np.array(state[key]) for key in state})


def _replaced(state: FlatState, arrays: Mapping[Key, Array]) -> FlatState:
    """Return a state with other values, whose ties hold for them too."""
    return state.replace(tensors=arrays, metadata=state.metadata)


def _other(array: Array) -> Array:
    """Return other values that a weight of this dtype may have; integers and flags stay."""
    if array.dtype.kind in "biu":
        return np.array(array)
    return np.asarray(array * 1.25 + 0.125).astype(array.dtype)


def _below(path: Key, state: FlatState) -> bool:
    return any(key[: len(path)] == path for key in state)


def _is_real(array: Array) -> bool:
    return array.dtype.kind not in "biuc"


def _is_plain(value: Any) -> bool:
    if isinstance(value, tuple):
        return all(_is_plain(item) for item in value)
    return value is None or isinstance(value, bool | int | float | str)


def _same(left: Mapping[Any, Array], right: Mapping[Any, Array]) -> bool:
    return left.keys() == right.keys() and all(same_bits(left[name], right[name]) for name in left)


def _check_equal_inputs(before: Inputs, after: Inputs) -> None:
    """Compare arrays at the top level; containers by their printed form."""
    for left, right in (
        *zip(before.positional, after.positional, strict=True),
        *((before.named[name], after.named[name]) for name in before.named),
    ):
        if isinstance(left, np.ndarray):
            assert same_bits(left, right)
        else:
            assert repr(left) == repr(right)
