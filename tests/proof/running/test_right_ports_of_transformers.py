"""Transformers' own pairs of classes, torch against Flax, on the same weights: nothing is found."""

import functools

import pytest
from zoo import harness, seq2seq, speech, text, vision

from bridge_core.proof import prove
from ckptbridge_transformers.families import rules_for

CASES = {
    case.name: case
    for case in (*text.CASES, *seq2seq.CASES, *vision.CASES, *speech.CASES)
    if not case.no_flax
}
SLOW = ("bert-model", "llama-model")
PORTS = (
    *SLOW,
    "gpt2-model",
    "vit-base",
    "albert-model",
    "roberta-model",
    "electra-model",
    "distilbert-model",
    "roberta-prelayernorm-model",
    "gpt-neo-model",
    "gptj-model",
    "gemma-model",
    "mistral-model",
    "bloom-model",
    "opt-model",
    "bart-base",
    "t5-base",
    "whisper-base",
    "clip-base",
    "resnet-base-basic",
)


@functools.cache
def pair(name):
    """Return both models, each with random weights of its own."""
    case = CASES[name]
    source = harness.find_class(case.torch)(harness.outspoken(case.config()), **case.torch_kwargs).eval()
    target = harness.find_class(case.flax)(harness.outspoken(case.config()), **case.flax_kwargs)
    return source, target


def inputs(name):
    case = CASES[name]
    given = case.inputs()
    return {"source": given, "target": given if case.flax_inputs is None else case.flax_inputs(given)}


def marked(name):
    return pytest.param(name, marks=pytest.mark.slow if name in SLOW else pytest.mark.zoo)


def test_there_are_twenty():
    assert len(set(PORTS)) == 20


@pytest.mark.filterwarnings("ignore")  # of transformers
@pytest.mark.parametrize("name", [marked(name) for name in PORTS])
def test_a_right_port_is_equal(name):
    with harness.old_clip():
        source, target = pair(name)
        rules = rules_for(source.config, type(target).__name__)
        done = prove(source_model=source, model=target, inputs=inputs(name), rules=rules)

    assert done.equal, "\n".join(done.lines())
    assert not done.causes
    assert done.control < 1e-4
