"""An encoder and a decoder with one mistake each: both models are run, and layer and cause are named."""

import functools

import jax
import pytest
from support.proof_transformers import (
    DECODER_MISTAKES,
    DECODER_PLACES,
    ENCODER_MISTAKES,
    ENCODER_PLACES,
    decoder_inputs,
    encoder_inputs,
)

from bridge_core.proof import prove

KINDS = {
    "encoder": (ENCODER_MISTAKES, ENCODER_PLACES),
    "decoder": (DECODER_MISTAKES, DECODER_PLACES),
    "nnx": (DECODER_MISTAKES, DECODER_PLACES),
}
MIRRORED = {
    "missing_positions": "extra_positions",
    "missing_residual": "extra_residual",
}
"""Code of a mistake in the target -> the code where the source has it, if that is another one."""

SLOW = [
    ("nnx", "window", "target"),
    ("encoder", "mask_sign", "target"),
    ("decoder", "kv_tile", "target"),
    ("decoder", "rotary_layout", "source"),
]
EACH = [
    (kind, mistake, side)
    for kind in KINDS
    for mistake in KINDS[kind][0]
    for side in ("source", "target")
    if (mistake, side) != ("untied", "target")  # a tied source gives the target's own head the same values
]


@functools.cache
def inputs(kind):
    return encoder_inputs() if kind == "encoder" else decoder_inputs()


@functools.cache
def source(kind, mistake):
    from support.proof_transformers_torch import TorchDecoder, TorchEncoder

    return (TorchEncoder if kind == "encoder" else TorchDecoder)(mistake=mistake).eval()


@functools.cache
def variables(kind):
    """Return a target's variables, which are the same for all mistakes."""
    from support.proof_transformers_linen import LinenDecoder, LinenEncoder

    made = (LinenEncoder if kind == "encoder" else LinenDecoder)()
    given = inputs(kind)
    return made.init(jax.random.key(0), *(given if isinstance(given, tuple) else (given,)))


@functools.cache
def target(kind, mistake):
    from support.proof_transformers_linen import LinenDecoder, LinenEncoder
    from support.proof_transformers_nnx import NnxDecoder

    if kind == "nnx":
        return NnxDecoder(mistake=mistake)
    return (LinenEncoder if kind == "encoder" else LinenDecoder)(mistake=mistake), variables(kind)


def proof(kind, mistake=None, side="target"):
    return prove(
        source_model=source(kind, mistake if side == "source" else None),
        model=target(kind, mistake if side == "target" else None),
        inputs=inputs(kind),
        allow_unexpected=["head.weight"] if mistake == "untied" else (),
    )


def marked(case):
    return pytest.param(*case, marks=pytest.mark.slow if case in SLOW else pytest.mark.zoo)


@pytest.mark.zoo
@pytest.mark.parametrize("kind", KINDS)
def test_right_models_are_equal(kind):
    result = proof(kind)

    assert result.equal
    assert result.causes == ()


@pytest.mark.parametrize(("kind", "mistake", "side"), [marked(case) for case in EACH])
def test_layer_and_cause_are_named(kind, mistake, side):
    result = proof(kind, mistake, side)

    codes, places = KINDS[kind]
    code = codes[mistake]
    assert not result.equal
    assert result.causes[0].code in (code, MIRRORED.get(code, code))
    if mistake in places:
        first = result.first
        if first is None:  # random numbers: the module that draws them is part of the cause
            assert f"in {places[mistake]} " in result.causes[0].text
            return
        assert places[mistake] in (first.source, *(first.before or ()))
