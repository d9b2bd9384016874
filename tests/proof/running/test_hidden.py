"""What rounding hides: equal outputs whose float64 runs differ for a known cause."""

import numpy as np
import pytest
from support.schemas import check_document
from support.toy_stacks import X, model, proof

from bridge_core.proof import Cause
from bridge_core.proof.running.hidden import _of_one_constant


def test_an_epsilon_that_rounding_hides_is_named_and_the_proof_stays_equal():
    done = proof(model("torch", blocks=1), model("flax", blocks=1, changed=(0, {"eps": 1e-6})), inputs=X * 8)
    assert done.equal
    assert done.first is None
    assert done.hidden.first.source == "block0.norm"
    assert done.hidden.causes[0].code == "epsilon"
    assert (done.hidden.causes[0].source, done.hidden.causes[0].target) == ("1e-05", "1e-06")
    assert done.hidden.error == done.error_in_float64
    check_document("prove", done.to_json())
    text = "\n".join(done.lines())
    assert "hidden by rounding in these values" in text
    assert "hides" in done.lines()[1]
    assert "Hidden by rounding" in done.html()


@pytest.mark.parametrize("factor", [1 + 1e-8, 1 + 6e-8])
def test_constants_in_float32_are_no_difference(factor):
    """A scale or a table that one side holds in float32 makes float64 runs differ, too."""

    def scaled(x, run):
        return np.maximum(x, 0) * (np.float64(factor) if run.precision == "float64" else np.float32(1))

    done = proof(model("torch"), model("flax", changed=(1, {"act": scaled})))
    assert done.equal
    assert done.error_in_float64 > 1e-10
    assert done.hidden is None
    assert any("float64" in note for note in done.notes)


def test_nothing_is_hidden_in_a_right_port():
    assert proof(model("torch"), model("flax")).hidden is None


@pytest.mark.parametrize(
    ("source", "target", "same"),
    [
        ("0.35355339059", "0.35355338454", True),
        ("1e-05", "1e-06", False),
        ("1e4 (half)", "1e4 (half)", True),
        ("halves", "neighbours", False),
        ("gelu", "gelu_tanh", False),
        ("[1, 2]", "[1, 2, 3]", False),
    ],
)
def test_one_constant_in_two_precisions(source, target, same):
    assert _of_one_constant(Cause("c", "", source, target, 1.0, 0.0, "")) == same
