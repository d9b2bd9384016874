"""The contract of an adapter that runs models: nothing is changed, and what it shows is what happened."""

from __future__ import annotations

import contextlib
import copy
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest

from bridge_core.errors import BridgeError, UnsupportedFeature, UsageError
from bridge_core.plugins import SETTING_NAMES, Inputs, ModelRun, Precision, ReadsSettings, RunsModels
from bridge_core.state import FlatState
from bridge_core.testing.live_objects import FOREIGN, answers_yes, shown_key
from bridge_core.testing.run_values import (
    copy_of,
    equal_inputs,
    is_below,
    is_float,
    is_plain,
    other_values,
    readable_arrays,
    same_arrays,
    with_arrays,
    with_values,
)

__all__ = ["ModelRunContract"]


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
            samples.append((model, inputs, with_values(state)))
        assert samples, "models() gives nothing to test with"
        return samples

    def _run(self, model: Any, weights: FlatState, inputs: Inputs, **options: Any) -> ModelRun:
        """Run a model on copies of inputs: that a run changes them is the matter of one test."""
        return self._run_on(model, weights, copy.deepcopy(inputs), **options)

    def _run_on(self, model: Any, weights: FlatState, inputs: Inputs, **options: Any) -> ModelRun:
        run = self.framework.run_model(model, weights, inputs, **options)
        assert isinstance(run, ModelRun), f"expected a ModelRun, got a {type(run).__name__}"
        return run

    def _is_repeatable(self, model: Any, weights: FlatState, inputs: Inputs) -> bool:
        """Return whether two runs are equal; if not, the test of the seed fails, and others say nothing."""
        first, second = (self._run(model, weights, inputs) for _ in range(2))
        return same_arrays(first.outputs, second.outputs)

    # Recognising

    def test_it_runs_its_own_models_and_no_other_objects(self) -> None:
        """An object that it cannot run is for another adapter."""
        assert isinstance(self.framework, RunsModels), (
            f"{type(self.framework).__name__} does not have all methods of RunsModels"
        )
        for model, _ in self.models():
            assert self.framework.runs(model), f"`runs` is false for a {type(model).__name__} of models()"
        for value in (*FOREIGN, np.zeros(2), *self.foreign()):
            taken = answers_yes(self.framework.runs, value)  # pytest would look into the value itself
            assert not taken, f"`runs` is true for {value!r}, which is not a model: test for the type"

    def test_inputs_that_a_model_offers_are_inputs_of_it(self) -> None:
        """Or it offers none."""
        for model, _, weights in self._samples():
            offered = self.framework.example_inputs(model)
            if offered is not None:
                assert isinstance(offered, Inputs), f"expected Inputs or None, got {offered!r}"
                try:
                    outputs = self._run(model, weights, offered).outputs
                except Exception as err:
                    pytest.fail(f"the inputs of `example_inputs` are not taken by `run_model`: {err}")
                assert outputs, "a run on the inputs of `example_inputs` has no outputs"

    # Weights

    def test_weights_are_a_state_in_its_layout(self) -> None:
        """With the types of the modules."""
        for _, _, weights in self._samples():
            assert weights.layout == self.framework.name, (
                f"expected the layout {self.framework.name!r}, got {weights.layout!r}"
            )
            assert len(weights), "`model_weights` returned no tensor"
            assert weights.metadata.modules, "`model_weights` gave no types: fill StateMetadata(modules=...)"

    def test_a_run_computes_with_the_given_weights(self) -> None:
        """Not with the model's own: other weights give other outputs."""
        for model, inputs, weights in self._samples():
            other = with_arrays(weights, {key: other_values(weights[key]) for key in weights})
            changed = self._run(model, other, inputs).outputs
            assert not same_arrays(changed, self._run(model, weights, inputs).outputs), (
                "other weights give the same outputs: compute with `weights`, not with those of the model"
            )
            if not same_arrays(changed, self._run(model, copy_of(other), inputs).outputs):
                assert not self._is_repeatable(model, weights, inputs), "equal weights give other outputs"

    def test_weights_of_another_model_are_refused(self) -> None:
        """Missing, unknown and misshapen ones."""
        for model, inputs, weights in self._samples():
            tied = {*weights.metadata.ties, *weights.metadata.ties.values()}
            free = [key for key in weights if key not in tied]
            arrays = {key: weights[key] for key in weights}
            key = free[-1]
            longer = np.zeros((*arrays[key].shape, 3), arrays[key].dtype)
            for what, tensors in (
                ("is missing", {other: array for other, array in arrays.items() if other != key}),
                ("has a neighbour that is unknown", {**arrays, (*key[:-1], "no_such_weight"): longer}),
                (f"has the shape {list(longer.shape)}", {**arrays, key: longer}),
            ):
                try:
                    self._run(model, with_arrays(weights, tensors), inputs)
                except BridgeError:
                    continue
                pytest.fail(f"{shown_key(key)} {what}, and the model was run: raise MismatchError")

    # Running

    def test_a_run_changes_nothing(self) -> None:
        """Neither the model, nor the weights, nor the inputs."""
        for model, inputs, weights in self._samples():
            own = readable_arrays(self.framework.model_weights(model, inputs))
            given = {key: np.array(weights[key]) for key in weights}
            before = copy.deepcopy(inputs)
            for options in ({"trace": True}, {"precision": "float64"}, {"precision": "reordered"}):
                with contextlib.suppress(UnsupportedFeature):
                    self._run_on(model, weights, inputs, **options)
            after = readable_arrays(self.framework.model_weights(model, before))
            assert same_arrays(own, after), "a run changed the weights of the model itself: run a copy"
            assert same_arrays(given, {key: np.array(weights[key]) for key in weights}), (
                "a run changed the weights that it was given: copy them"
            )
            assert equal_inputs(before, inputs), "a run changed its inputs: copy them"

    def test_outputs_and_updates_are_arrays(self) -> None:
        """Outputs by name; updates by key, in the shape and dtype of the weight."""
        for model, inputs, weights in self._samples():
            run = self._run(model, weights, inputs)
            assert run.outputs, "the run has no outputs"
            for name, array in run.outputs.items():
                assert isinstance(name, str), f"expected texts as names of outputs, got {name!r}"
                assert isinstance(array, np.ndarray), (
                    f"output {name!r}: expected an array of numpy, got a {type(array).__name__}"
                )
            assert "" not in run.outputs or len(run.outputs) == 1, "only a single array is named ''"
            for key, array in run.updates.items():
                assert key in weights, f"updates name {shown_key(key)}, which is not a weight"
                expected, got = weights.spec(key), (array.shape, array.dtype)
                assert got == (expected.shape, expected.dtype), (
                    f"update of {shown_key(key)}: expected {expected}, got "
                    f"{array.dtype.name}{list(array.shape)}"
                )
            assert all(isinstance(note, str) for note in run.notes), "expected texts as notes"

    def test_the_same_seed_gives_the_same_run(self) -> None:
        """With and without a trace, whatever was drawn before."""
        for model, inputs, weights in self._samples():
            first = self._run(model, weights, inputs, seed=3)
            self._run(model, weights, inputs, seed=4)
            for trace in (False, True):
                again = self._run(model, weights, inputs, seed=3, trace=trace)
                same = same_arrays(first.outputs, again.outputs) and same_arrays(first.updates, again.updates)
                assert same, (
                    f"two runs of one seed differ, the second with trace={trace}: seed every generator by "
                    "`seed`, in each run"
                )

    def test_inputs_that_do_not_fit_are_refused(self) -> None:
        """With the reason, as a mistake of the caller."""
        for model, _, weights in self._samples():
            error: Exception | None = None
            try:
                self._run(model, weights, self.wrong_inputs())
            except Exception as err:
                error = err
            assert type(error) is UsageError, (
                f"inputs that the model does not take: expected UsageError, got {type(error).__name__}: "
                f"{error}"
            )

    # Tracing

    def test_calls_are_recorded_only_where_asked_for(self) -> None:
        """A trace takes memory."""
        for model, inputs, weights in self._samples():
            calls = self._run(model, weights, inputs).calls
            assert calls == (), f"{len(calls)} calls were recorded without trace=True"

    def test_the_first_call_is_the_models_own(self) -> None:
        """It contains all others, and its outputs are those of the run."""
        for model, inputs, weights in self._samples():
            run = self._run(model, weights, inputs, trace=True)
            assert run.calls, "trace=True recorded no call"
            root, *others = run.calls
            assert root.path == (), f"expected the model's own call first, got {shown_key(root.path)}"
            for call in others:
                assert root.began < call.began, f"{shown_key(call.path)} began before the model's own call"
            assert same_arrays(root.outputs, run.outputs), (
                "the outputs of the model's own call are not those of the run: record what was returned"
            )

    def test_calls_are_in_order_and_nested(self) -> None:
        """Each inside another or next to it; every place is the start or the end of one call."""
        for model, inputs, weights in self._samples():
            calls = self._run(model, weights, inputs, trace=True).calls
            places = sorted(place for call in calls for place in (call.began, call.ended))
            assert len(places) == len({*places}), "two calls began or ended at one place: count both"
            assert [call.began for call in calls] == sorted(call.began for call in calls), (
                "the calls are not in the order in which they began"
            )
            around: list[Any] = []
            for call in calls:
                while around and around[-1].ended < call.began:
                    around.pop()
                for outer in around:
                    assert outer.ended > call.ended, (
                        f"{shown_key(call.path)} began in {shown_key(outer.path)} and ended after it"
                    )
                around.append(call)

    def test_paths_are_those_of_the_weights(self) -> None:
        """Modules with weights are called by the path of their keys, and some are called."""
        for model, inputs, weights in self._samples():
            calls = self._run(model, weights, inputs, trace=True).calls
            modules = weights.metadata.modules
            with_weights = [path for path in modules if modules[path].parameters]
            assert any(call.path in with_weights for call in calls), (
                "no call has the path of a module with weights: name modules as in the keys of the weights"
            )
            for call in calls:
                assert call.path in modules or not is_below(call.path, weights), (
                    f"a call has the path {shown_key(call.path)}, where `model_weights` has no module"
                )
                assert call.type, f"the call of {shown_key(call.path)} has no type"
                arrays = (*call.inputs.values(), *call.outputs.values())
                assert all(isinstance(array, np.ndarray) for array in arrays), (
                    f"the call of {shown_key(call.path)}: expected arrays of numpy"
                )

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
                assert not is_float(array) or array.dtype == np.float64, (
                    f"a run with precision='float64' has an array of {array.dtype}: compute all in float64"
                )
            if self._is_far(native, run) and not self._is_repeatable(model, weights, inputs):
                continue
            far = self._is_far(native, run)
            assert not far, f"precision='float64': {far}"
            assert [call.path for call in native.calls] == [call.path for call in run.calls], (
                "precision='float64' calls other modules than the native run"
            )

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
                if name in run.outputs:
                    assert run.outputs[name].dtype == array.dtype, (
                        f"precision='reordered': output {name!r} is {run.outputs[name].dtype}, and "
                        f"{array.dtype} in the native run"
                    )
            far = self._is_far(native, run)
            changed = changed or not same_arrays(native.outputs, run.outputs)
            if far and not self._is_repeatable(model, weights, inputs):
                continue
            assert not far, f"precision='reordered': {far}"
        assert changed or not offered, (
            "no model computes differently with precision='reordered': take its sums in another order, or "
            "raise UnsupportedFeature"
        )

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

    def _is_far(self, native: ModelRun, run: ModelRun) -> str:
        """Return how a run differs from the native one beyond rounding; empty if it does not."""
        if [*native.outputs] != [*run.outputs] or {*native.updates} != {*run.updates}:
            return f"expected the outputs {[*native.outputs]}, got {[*run.outputs]}"
        for name, array in native.outputs.items():
            other = run.outputs[name]
            if other.shape != array.shape:
                return f"output {name!r}: expected the shape {list(array.shape)}, got {list(other.shape)}"
            if array.dtype.kind in "biu" or not array.size:
                continue
            left, right = array.astype(np.complex128), other.astype(np.complex128)
            apart, largest = float(np.abs(left - right).max()), max(1.0, float(np.abs(left).max()))
            if not apart <= self.near * largest:
                return f"output {name!r} differs by {apart:.3g} from the native run ({largest:.3g} at most)"
        return ""

    # Settings

    def test_settings_have_known_names_and_the_paths_of_calls(self) -> None:
        """Of every module that is called, with the same type; values are plain."""
        reader: Any = self.framework
        if not isinstance(reader, ReadsSettings):
            return
        for model, inputs, weights in self._samples():
            before = readable_arrays(self.framework.model_weights(model, inputs))
            settings = reader.model_settings(model, inputs)
            assert same_arrays(before, readable_arrays(self.framework.model_weights(model, inputs))), (
                "`model_settings` changed the model"
            )
            for path, module in settings.items():
                assert isinstance(path, tuple), f"expected tuples as paths of settings, got {path!r}"
                where = f"the settings of {shown_key(path)}"
                unknown = {*module.values, *module.unread} - SETTING_NAMES
                assert not unknown, f"{where}: {sorted(unknown)} are not in SETTING_NAMES"
                both = {*module.values} & {*module.unread}
                assert not both, f"{where}: {sorted(both)} have a value and are unread, too"
                for name, value in module.values.items():
                    assert is_plain(value), f"{where}: expected a plain value of {name}, got {value!r}"
            modules = weights.metadata.modules
            for call in self._run(model, weights, inputs, trace=True).calls:
                if call.path not in settings:
                    assert call.path not in {(), *modules}, (
                        f"{shown_key(call.path)} is called, and `model_settings` does not have it"
                    )
                else:
                    assert settings[call.path].type == call.type, (
                        f"the settings of {shown_key(call.path)} are of {settings[call.path].type}, and the "
                        f"call is of {call.type}"
                    )
