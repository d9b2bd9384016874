"""Every built-in format keeps the contract, and the contract notices each way of breaking it."""

from __future__ import annotations

import inspect
import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings, strategies as st

from bridge_core.errors import TruncatedFile, UnsupportedFeature
from bridge_core.formats.npz import NpzFormat
from bridge_core.formats.safetensors import SafetensorsFormat
from bridge_core.state.flat_state import FlatState
from bridge_core.state.tensors import ArrayTensor, LazyTensor
from bridge_core.testing import FormatContract


class TestSafetensors(FormatContract):
    format = SafetensorsFormat()


class TestNpz(FormatContract):
    format = NpzFormat()


def _with_tensors(state, change):
    return state.replace(tensors={key: change(tensor) for key, tensor in state.tensors().items()})


def _whole(tensor):
    return tensor.read(tuple(slice(0, n, 1) for n in tensor.spec.shape))


class Eager(SafetensorsFormat):
    def open(self, file):
        return _with_tensors(super().open(file), lambda t: ArrayTensor(_whole(t)))


class ReadsAllForASlice(SafetensorsFormat):
    def open(self, file):
        return _with_tensors(
            super().open(file), lambda t: LazyTensor(t.spec, lambda region: _whole(t)[region])
        )


class IgnoresSteps(SafetensorsFormat):
    def open(self, file):
        def read(tensor, region):
            return tensor.read(tuple(slice(s.start, s.stop, 1) for s in region))

        return _with_tensors(super().open(file), lambda t: LazyTensor(t.spec, lambda region: read(t, region)))


class Greedy(SafetensorsFormat):
    def write(self, state, target):
        super().write(_with_tensors(state, lambda t: ArrayTensor(_whole(t))), target)


class IgnoresStrides(SafetensorsFormat):
    """What the safetensors library does to arrays that are not C-contiguous."""

    def write(self, state, target):
        def memory_order(tensor):
            array = _whole(tensor)
            return ArrayTensor(array.ravel(order="K").reshape(array.shape))

        super().write(_with_tensors(state, memory_order), target)


class LosesPayloads(SafetensorsFormat):
    def write(self, state, target):
        def quiet(tensor):
            array = _whole(tensor)
            return (
                ArrayTensor(np.where(np.isnan(array), np.float32("nan"), array))
                if (array.dtype == np.float32)
                else tensor
            )

        super().write(_with_tensors(state, quiet), target)


class LosesScalars(SafetensorsFormat):
    def open(self, file):
        return _with_tensors(super().open(file), lambda t: ArrayTensor(np.atleast_1d(_whole(t))))


class Forgetful(SafetensorsFormat):
    def write(self, state, target):
        super().write(FlatState(state.tensors(), layout="torch"), target)


class SplitsKeys(SafetensorsFormat):
    def write(self, state, target):
        joined = {tuple(".".join(key).split(".")): t for key, t in state.tensors().items()}
        super().write(FlatState(joined, layout=state.layout), target)


class ClaimsNested(SafetensorsFormat):
    capabilities = replace(SafetensorsFormat.capabilities, nested=True)


class WritesBeforeRefusing(SafetensorsFormat):
    def write(self, state, target):
        target.path.write_bytes(b"begun")
        super().write(state, target)


class CastsWhatItLacks(SafetensorsFormat):
    def write(self, state, target):
        def cast(tensor):
            if tensor.spec.dtype.name in self.capabilities.dtypes:
                return tensor
            return ArrayTensor(np.zeros(tensor.spec.shape, np.float32))

        super().write(_with_tensors(state, cast), target)


class AcceptsTruncation(SafetensorsFormat):
    def open(self, file):
        try:
            return super().open(file)
        except TruncatedFile:
            return FlatState({}, close=file.close)


class RaisesRaw(SafetensorsFormat):
    def open(self, file):
        try:
            return super().open(file)
        except Exception as err:
            raise ValueError(str(err)) from err


class TakesAll(SafetensorsFormat):
    def sniff(self, file):
        return True


class KnowsNone(SafetensorsFormat):
    def sniff(self, file):
        return False


class StaysOpen(SafetensorsFormat):
    def open(self, file):
        state = super().open(file)
        return FlatState(state.tensors(), layout=state.layout, metadata=state.metadata)


class Restless(SafetensorsFormat):
    count = itertools.count()

    def write(self, state, target):
        extra = {"written": str(next(self.count))}
        super().write(state.replace(metadata=state.metadata.with_(extra=extra)), target)


class MisdeclaresDtypes(SafetensorsFormat):
    capabilities = replace(
        SafetensorsFormat.capabilities, dtypes=SafetensorsFormat.capabilities.dtypes | {"complex128"}
    )


CUT = "test_a_file_cut_off_anywhere_is_refused"
REFUSE = "test_a_dtype_it_lacks_is_refused_before_a_byte_is_written"
SNIFF = "test_sniffing_knows_its_own_files_and_no_others"


def _without_shrinking(test):
    """A failure is all that is asked for here, not the smallest one."""
    if not hasattr(test, "hypothesis"):
        return test
    inner = test.hypothesis.inner_test

    @given(data=st.data())
    @settings(
        max_examples=50,
        phases=[Phase.generate],
        database=None,
        derandomize=True,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    def once(self, path, data):
        inner(self, path, data)

    return once


@pytest.mark.parametrize(
    ("broken", "test"),
    [
        (Eager, "test_opening_reads_no_values"),
        (ReadsAllForASlice, "test_a_slice_reads_about_its_own_bytes"),
        (IgnoresSteps, "test_a_region_is_a_slice_of_the_whole"),
        (Greedy, "test_writing_asks_for_bounded_blocks"),
        (IgnoresStrides, "test_every_memory_order_is_written_exactly"),
        (IgnoresStrides, "test_random_states_survive"),
        (LosesPayloads, "test_every_bit_pattern_of_every_declared_dtype_survives"),
        (LosesScalars, "test_shapes_without_elements_or_axes_survive"),
        (Forgetful, "test_metadata_survives"),
        (Forgetful, "test_every_layout_survives"),
        (SplitsKeys, "test_parts_of_keys_may_hold_any_text"),
        (ClaimsNested, "test_dots_in_parts_are_no_separators"),
        (WritesBeforeRefusing, REFUSE),
        (CastsWhatItLacks, REFUSE),
        (AcceptsTruncation, CUT),
        (AcceptsTruncation, "test_an_empty_file_is_refused"),
        (RaisesRaw, CUT),
        (RaisesRaw, "test_flipped_bits_are_found_or_harmless"),
        (RaisesRaw, "test_bytes_put_in_or_taken_out_are_found_or_harmless"),
        (RaisesRaw, "test_foreign_content_raises_nothing_else"),
        (TakesAll, SNIFF),
        (KnowsNone, SNIFF),
        (StaysOpen, "test_closing_the_state_closes_the_file"),
        (Restless, "test_random_states_survive"),
        (MisdeclaresDtypes, "test_every_bit_pattern_of_every_declared_dtype_survives"),
    ],
)
def test_the_contract_notices(tmp_path, broken, test):
    class Contract(FormatContract):
        format = broken()

    given = {
        "path": tmp_path / "file.safetensors",
        "tmp_path": tmp_path,
        "workers": 1,
        "content": b"<html>",
        "layout": "neutral",
    }
    method = _without_shrinking(getattr(FormatContract, test))
    wanted = inspect.signature(method).parameters
    raised = {RaisesRaw: ValueError, MisdeclaresDtypes: UnsupportedFeature}
    with pytest.raises(raised.get(broken, (AssertionError, pytest.fail.Exception))):
        method(Contract(), **{name: value for name, value in given.items() if name in wanted})
