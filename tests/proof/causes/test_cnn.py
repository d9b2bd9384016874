"""A CNN in torch against Linen and NNX, with one mistake each: both models are run and the cause is named."""

import pytest
from support.proof_cnn import MISTAKES, RULES, cnn_inputs, linen_cnn, nnx_cnn, torch_cnn

from bridge_core.proof.running import prove

FLAX = {"linen": linen_cnn, "nnx": nnx_cnn}
MIRRORED = {"missing_bias": "extra_bias", "missing_residual": "extra_residual"}


def proof(source=None, target=None, flax="linen"):
    return prove(source_model=torch_cnn(source), model=FLAX[flax](target), inputs=cnn_inputs(), rules=RULES)


@pytest.mark.zoo
@pytest.mark.parametrize("flax", FLAX)
def test_right_ports_are_equal(flax):
    proved = proof(flax=flax)
    assert proved.equal
    assert not proved.causes


@pytest.mark.zoo
@pytest.mark.parametrize("mistake", MISTAKES)
@pytest.mark.parametrize("flax", FLAX)
def test_the_mistake_of_the_target_is_named(mistake, flax):
    proved = proof(target=mistake, flax=flax)
    assert not proved.equal
    assert proved.causes[0].code == MISTAKES[mistake].code


@pytest.mark.zoo
@pytest.mark.parametrize("mistake", MISTAKES)
def test_the_mistake_of_the_source_is_named(mistake):
    proved = proof(source=mistake)
    assert not proved.equal
    assert proved.causes[0].code == MIRRORED.get(MISTAKES[mistake].code, MISTAKES[mistake].code)
