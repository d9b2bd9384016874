"""A lower precision on one side is a difference; on both, or where sums only cancel, it is not."""

import numpy as np
import pytest
from support.toy_models import Function
from support.toy_stacks import block, model, proof

from bridge_core.proof.running import Control
from bridge_core.proof.running.uneven import uneven_rounding


def rounded(x, run):
    """ReLU in float16; a run in float64 computes this in float64, too."""
    x = np.maximum(x, 0)
    return x if run.precision == "float64" else x.astype(np.float16).astype(x.dtype)


HALF = (1, {"act": rounded})
SINGLE = frozenset({"float32"})
SHORT = frozenset({"float32", "float16"})


@pytest.mark.parametrize(("side", "dtypes"), [("source", frozenset()), ("target", SHORT)])
def test_one_side_in_a_lower_precision_is_different(side, dtypes):
    sides = [model(name, changed=HALF, dtypes=dtypes) for name in ("torch", "flax")]
    other = ("torch", "flax").index("flax" if side == "source" else "torch")
    sides[other] = model(("torch", "flax")[other], dtypes=SINGLE if dtypes else dtypes)
    done = proof(*sides)
    assert not done.equal
    assert done.error_in_float64 < 1e-13
    assert done.control < 1e-5 < done.error < max(done.controls) * 2
    (cause,) = done.causes
    assert cause.code == "precision"
    assert "block1.act" in cause.text
    assert f"The {side}" in cause.text
    assert cause.error_with < 1e-13 < cause.error_without
    assert (done.first.source, done.first.before) == ("block1", ("block1.down", "block1.down"))
    assert ("float16" in cause.text) == bool(dtypes)
    assert any(f"The {side} rounds" in text for text in done.problems)


def test_both_sides_in_a_lower_precision_are_equal():
    assert proof(model("torch", changed=HALF), model("flax", changed=HALF)).equal


def test_a_large_control_of_the_same_dtypes_is_not_a_lower_precision():
    """Sums that cancel round coarsely, too."""
    sides = model("torch", dtypes=SINGLE), model("flax", changed=HALF, dtypes=SINGLE)
    assert proof(*sides).equal


def test_without_both_runs_in_float64_it_cannot_be_told():
    assert uneven_rounding(Control(1e-3, None, None), Control(1e-7, None, object())) is None
    assert uneven_rounding(Control(1e-3, None, object()), Control(1e-7, None, object())).coarse == "source"
    assert uneven_rounding(Control(1e-6, None, object()), Control(1e-7, None, object())) is None


def test_a_mistake_beside_a_lower_precision_comes_first(monkeypatch):
    monkeypatch.setattr("bridge_core.proof.running.search.find_causes", lambda site: ())
    wrong = model("flax", changed=(0, {"eps": 1e-2}))
    wrong.body.modules["block1"] = block(act=rounded)
    done = proof(model("torch"), wrong)
    assert done.first.source == "block0.norm"
    assert "precision" not in [cause.code for cause in done.causes]
    wrong.body.modules["block2"].modules["act"] = Function(rounded)
    assert proof(model("torch"), wrong).first.source == "block0.norm"
