"""Mistakes in small transformers are named by running both sides."""

import numpy as np
import pytest
from support.proof_transformers import (
    DECODER_MISTAKES,
    ENCODER_MISTAKES,
    decoder_inputs,
    encoder_inputs,
)

from bridge_core.proof.running import prove

KINDS = {"encoder": ENCODER_MISTAKES, "decoder": DECODER_MISTAKES, "nnx": DECODER_MISTAKES}
SOME = [
    ("encoder", "mask_sign", "target"),
    ("decoder", "kv_tile", "target"),
    ("nnx", "window", "target"),
]
EACH = [
    (kind, mistake, side)
    for kind in KINDS
    for mistake in KINDS[kind]
    for side in ("source", "target")
    if (mistake, side) != ("untied", "target")  # a tied source gives the target's own head the same values
]


def proof(kind, mistake=None, side="target"):
    from support.proof_transformers_linen import LinenDecoder, LinenEncoder
    from support.proof_transformers_nnx import NnxDecoder
    from support.proof_transformers_torch import TorchDecoder, TorchEncoder

    source, target = {
        "encoder": (TorchEncoder, LinenEncoder),
        "decoder": (TorchDecoder, LinenDecoder),
        "nnx": (TorchDecoder, NnxDecoder),
    }[kind]
    return prove(
        source_model=source(mistake=mistake if side == "source" else None).eval(),
        model=target(mistake=mistake if side == "target" else None),
        inputs=encoder_inputs() if kind == "encoder" else decoder_inputs(),
        allow_unexpected=["head.weight"] if mistake == "untied" else (),
    )


@pytest.mark.parametrize(
    "kind",
    [pytest.param(kind, marks=pytest.mark.slow if kind == "nnx" else pytest.mark.zoo) for kind in KINDS],
)
def test_right_models_are_equal(kind):
    result = proof(kind)

    assert result.equal
    assert result.causes == ()


@pytest.mark.parametrize(
    ("kind", "mistake", "side"),
    [pytest.param(*one, marks=pytest.mark.slow if one in SOME else pytest.mark.zoo) for one in EACH],
)
def test_a_mistake_is_named(kind, mistake, side):
    result = proof(kind, mistake, side)

    assert not result.equal
    assert result.causes[0].code == KINDS[kind][mistake]


def transformers_models(name, **settings):
    import transformers

    sizes = {
        "Llama": {
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
        },
        "Bert": {"hidden_size": 24, "intermediate_size": 40, "num_attention_heads": 4},
        "GPT2": {"n_embd": 24, "n_layer": 2, "n_head": 4, "n_positions": 32},
    }[name]
    common = {"vocab_size": 32, "attn_implementation": "eager"}
    if name != "GPT2":
        common |= {"num_hidden_layers": 2, "max_position_embeddings": 32}
    config, source, target = (
        getattr(transformers, f) for f in (f"{name}Config", f"{name}Model", f"Flax{name}Model")
    )
    return source(config(**{**sizes, **common, **settings})).eval(), target(config(**sizes, **common))


@pytest.mark.zoo
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("name", "settings", "code"),
    [
        ("Llama", {"rope_theta": 5e5}, "rotary_theta"),
        ("Bert", {"num_attention_heads": 6}, "head_count"),
        ("GPT2", {"scale_attn_weights": False}, "attention_scale"),
        ("GPT2", {"n_head": 2}, "head_count"),
    ],
)
def test_attention_written_as_one_function_is_identified(name, settings, code):
    source, target = transformers_models(name, **settings)
    ids = np.random.default_rng(0).integers(3, 30, (2, 9))
    mask = (np.arange(9) < np.array([6, 9])[:, None]).astype(int)

    result = prove(source_model=source, model=target, inputs={"input_ids": ids, "attention_mask": mask})

    assert result.causes[0].code == code
