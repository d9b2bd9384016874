"""Models of many structures: nothing is found in right ports, and one mistake in each is named."""

import pytest
from support.proof_others import OTHERS, models

from bridge_core.proof import prove

SLOW = ("norm as a function", "gated, without modules")


def proof(name, mistake=None):
    source, target, inputs = models(name, mistake)
    return prove(source_model=source, model=target, inputs=inputs, rules=OTHERS[name].rules)


def marked(name):
    return pytest.param(name, marks=pytest.mark.slow if name in SLOW else pytest.mark.zoo)


@pytest.mark.parametrize("name", [marked(name) for name in OTHERS])
def test_right_ports_are_equal(name):
    proved = proof(name)

    assert proved.equal, "\n".join(proved.lines())
    assert not proved.causes


@pytest.mark.parametrize("side", ["source", "target"])
@pytest.mark.parametrize("name", [marked(name) for name in OTHERS])
def test_the_mistake_is_named(name, side):
    proved = proof(name, side)

    assert not proved.equal
    assert proved.causes[0].code in OTHERS[name].codes
