"""A CNN in torch against Linen and NNX, with one mistake each: both models are run and the cause is named."""

import functools

import pytest
from support.proof_cnn import MISTAKES, RULES, cnn_inputs, linen_cnn, nnx_cnn, torch_cnn

from bridge_core.proof import prove

FLAX = {"linen": linen_cnn, "nnx": nnx_cnn}
MIRRORED = {"missing_bias": "extra_bias", "missing_residual": "extra_residual"}

ALWAYS = [("norm epsilon", "nnx", "source")]
SLOW = [
    ("stride", "linen", "target"),
    ("training", "linen", "source"),
    ("dropout", "nnx", "target"),
]
EACH = [(mistake, flax, side) for mistake in MISTAKES for flax in FLAX for side in ("source", "target")]


@functools.cache
def torch_model(mistake):
    return torch_cnn(mistake)


@functools.cache
def flax_model(flax, mistake):
    return FLAX[flax](mistake)


def proof(source=None, target=None, flax="linen"):
    return prove(
        source_model=torch_model(source), model=flax_model(flax, target), inputs=cnn_inputs(), rules=RULES
    )


def marked(case):
    if case in ALWAYS:
        return pytest.param(*case)
    return pytest.param(*case, marks=pytest.mark.slow if case in SLOW else pytest.mark.zoo)


@pytest.mark.slow
@pytest.mark.parametrize("flax", FLAX)
def test_right_ports_are_equal(flax):
    proved = proof(flax=flax)

    assert proved.equal
    assert not proved.causes


@pytest.mark.parametrize(("mistake", "flax", "side"), [marked(case) for case in EACH])
def test_layer_and_cause_are_named(mistake, flax, side):
    proved = proof(**{side: mistake}, flax=flax)

    code, layer = MISTAKES[mistake]
    assert not proved.equal
    assert proved.causes[0].code == (MIRRORED.get(code, code) if side == "source" else code)
    if mistake == "dropout" and proved.first is None:  # whoever draws is known, and no layer is wrong
        return
    named = proved.first.before or (proved.first.source, proved.first.target)
    assert layer in named
