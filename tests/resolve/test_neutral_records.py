"""A record of a layer holds as far as it fits the tensors that are there."""

import numpy as np
import pytest

from bridge_core import FlatState, StateMetadata, TensorSpec, plan_conversion
from bridge_core.plugins import default_registry
from bridge_core.resolve.neutral_records import NeutralRecords
from bridge_core.state import LayerInfo


def specs(**shapes):
    return {name.replace("__", "."): TensorSpec(shape, np.dtype("float32")) for name, shape in shapes.items()}


def records(**layers):
    metadata = StateMetadata(layers={(name,): info for name, info in layers.items()})
    return NeutralRecords(FlatState({}, layout="neutral", metadata=metadata), default_registry(), {})


CONV = LayerInfo("conv", "module", ("kernel", "bias"), transforms={"torch": "torch.conv"})


def test_a_record_that_fits_is_taken_as_it_is():
    assert records().fitted(CONV, specs(kernel=(3, 3, 4, 5), bias=(5,))) is CONV


def test_a_record_is_trimmed_to_what_is_left():
    assert records().fitted(CONV, specs(kernel=(3, 3, 4, 5))).leaves == ("kernel",)
    assert records().fitted(CONV, specs()) is None


def test_nobody_knows_the_axes_of_what_is_there_instead_of_a_layers_leaves():
    info = records(a=CONV).fitted(CONV, specs(other=(3,)))
    assert (info.kind, info.evidence, info.unclaimed, info.origin) == (None, "unclaimed", ("other",), "")
    info = records(a=CONV).fitted(CONV, specs(other=(3, 3, 4, 5), bias=(5,)))
    assert (info.kind, info.leaves, info.unclaimed, info.origin) == ("conv", ("bias",), ("other",), "")


@pytest.mark.parametrize(
    "shapes",
    [
        {"kernel": (4, 5), "bias": (5,)},
        {"kernel": (3, 3, 4, 5), "bias": (4,)},
        {"kernel": (3, 3, 4, 5), "bias": (5, 1)},
    ],
)
def test_a_record_that_does_not_fit_is_not_believed(shapes):
    assert records().fitted(CONV, specs(**shapes)) is None


def test_splits_that_do_not_multiply_up_are_not_believed():
    linear = LayerInfo("linear", "metadata", ("kernel",), axis_splits={"out": (2, 3)})
    assert records().fitted(linear, specs(kernel=(4, 6))) is linear
    assert records().fitted(linear, specs(kernel=(4, 8))) is None


def test_leaves_that_the_kind_does_not_have_are_not_believed():
    assert records().fitted(LayerInfo("linear", "rule", ("weight",)), specs(weight=(4, 6))) is None


@pytest.mark.parametrize("evidence", ["structure", "module", "name", ""])
def test_plain_parameters_of_the_first_version_are_unclaimed(evidence):
    info = records(a=CONV).fitted(LayerInfo("parameter", evidence, ("mix",)), specs(mix=(4, 4)))
    assert (info.kind, info.evidence, info.unclaimed, info.origin) == (None, "unclaimed", ("mix",), "torch")


@pytest.mark.parametrize("evidence", ["rule", "metadata", "template", "guess"])
def test_plain_parameters_that_something_vouched_for_stay(evidence):
    info = LayerInfo("parameter", evidence, ("mix",))
    assert records(a=CONV).fitted(info, specs(mix=(4, 4))) is info


def test_leaves_beside_a_layer_of_the_first_version_are_unclaimed():
    info = records(a=CONV).fitted(CONV, specs(kernel=(3, 4, 5), bias=(5,), lora_A=(2, 4)))
    assert (info.kind, info.unclaimed, info.origin) == ("conv", ("lora_A",), "torch")


def test_what_no_plugin_provides_is_named():
    found = records()
    assert found.named(LayerInfo("bilinear", "module", ("kernel",)))[2] == "bilinear"
    assert found.named(LayerInfo(None, "undecided", ("w",), ("torch.gone", "parameter")))[2] == "torch.gone"
    candidates, misfits, missing = found.named(LayerInfo(None, "unclaimed", (), ("torch.linear",)))
    assert (candidates, [t.name for t in misfits], missing) == ((), ["torch.linear"], "")


@pytest.mark.parametrize("evidence", ["undecided", "unclaimed", "module", ""])
@pytest.mark.parametrize("candidates", [(), ("parameter",), ("torch.embedding", "parameter")])
def test_an_undecided_record_of_no_layer_does_not_make_a_kernel_a_plain_parameter(evidence, candidates):
    info = LayerInfo(None, evidence, ("kernel", "bias"), candidates)
    kernel = np.arange(4, dtype=np.float32).reshape(2, 2)
    tensors = {("a", "kernel"): kernel, ("a", "bias"): np.ones(2, np.float32)}
    state = FlatState(tensors, layout="neutral", metadata=StateMetadata(layers={("a",): info}))
    plan = plan_conversion(state, to="torch")
    assert plan.evidence == {"structure": 2}
    assert np.array_equal(plan.apply(state)["a.weight"], kernel.T)
