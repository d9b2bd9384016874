"""Transformers' pairs with another config, mask or positions on one side: layer and cause are named."""

import functools

import numpy as np
import pytest
from zoo import harness

from bridge_core.proof import prove

SMALL = {
    "vocab_size": 32,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 32,
}
GROUPED = {**SMALL, "hidden_size": 32, "num_key_value_heads": 2}
GPT = {"vocab_size": 32, "n_embd": 24, "n_layer": 2, "n_head": 4, "n_positions": 32}
FAMILIES = {
    "Bert": SMALL,
    "Roberta": {**SMALL, "pad_token_id": 1},
    "GPT2": GPT,
    "GPTJ": {**GPT, "n_head": 2, "rotary_dim": 4},
    "GPTNeo": {
        "vocab_size": 32,
        "hidden_size": 24,
        "num_layers": 2,
        "num_heads": 4,
        "intermediate_size": 40,
        "max_position_embeddings": 32,
        "attention_types": [[["local", "global"], 1]],
        "window_size": 3,
    },
    "Llama": GROUPED,
    "Gemma": {**GROUPED, "head_dim": 8},
    "Bloom": {"vocab_size": 32, "hidden_size": 24, "n_layer": 2, "n_head": 4},
    "OPT": {**SMALL, "ffn_dim": 40, "word_embed_proj_dim": 24},
    "ViT": {
        "image_size": 12,
        "patch_size": 4,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 24,
    },
    "Bart": {
        "vocab_size": 40,
        "d_model": 16,
        "encoder_layers": 2,
        "decoder_layers": 2,
        "encoder_attention_heads": 2,
        "decoder_attention_heads": 2,
        "encoder_ffn_dim": 24,
        "decoder_ffn_dim": 24,
        "max_position_embeddings": 20,
    },
}

IDS = np.random.default_rng(0).integers(3, 30, (2, 9))
MASK = (np.arange(9) < np.array([6, 9])[:, None]).astype(int)
TEXT = {"input_ids": np.where(MASK == 1, IDS, 1), "attention_mask": MASK}
INPUTS = {
    "ViT": {"pixel_values": np.random.default_rng(0).standard_normal((2, 3, 12, 12)).astype(np.float32)},
    "Bart": {**TEXT, "decoder_input_ids": IDS[:, :5]},
}
PLACES = np.broadcast_to(np.arange(9), (2, 9))

SLOW = [("GPT2", {"n_head": 2}, "head_count")]
CONFIGS = [
    *SLOW,
    ("Bert", {"hidden_act": "gelu_new"}, "activation"),
    ("Bert", {"layer_norm_eps": 1e-3}, "epsilon"),
    ("Bert", {"num_attention_heads": 6}, "head_count"),
    ("Bert", {"num_attention_heads": 6, "attn_implementation": "sdpa"}, "head_count"),
    ("GPT2", {"scale_attn_weights": False}, "attention_scale"),
    ("GPT2", {"activation_function": "gelu"}, "activation"),
    ("GPTNeo", {"window_size": 4}, "window"),
    ("GPTJ", {"rotary_dim": 8}, "rotary_size"),
    ("Llama", {"rope_theta": 5e5}, "rotary_theta"),
    ("Llama", {"rope_theta": 5e5, "attn_implementation": "sdpa"}, "rotary_theta"),
    ("Llama", {"rms_norm_eps": 1e-3}, "epsilon"),
    ("Llama", {"hidden_act": "gelu"}, "activation"),
    ("ViT", {"num_attention_heads": 4}, "head_count"),
    ("ViT", {"layer_norm_eps": 1e-3}, "epsilon"),
    ("ViT", {"hidden_act": "gelu_new"}, "activation"),
]
GIVEN = [
    ("Bert", {}, {"attention_mask": None}, "mask"),
    ("Bert", {"attention_mask": None}, {}, "mask"),
    ("Bert", {}, {"position_ids": PLACES + 1}, "position_offset"),
    ("GPT2", {}, {"attention_mask": None}, "mask"),
    ("GPT2", {}, {"position_ids": PLACES + 2}, "position_offset"),
    ("Roberta", {}, {"position_ids": PLACES}, "positions"),
]

pytestmark = pytest.mark.filterwarnings("ignore")  # of transformers


def config(name, **changed):
    import transformers

    options = {"attn_implementation": "eager", **FAMILIES[name], **changed}
    return getattr(transformers, f"{name}Config")(**options)


@functools.cache
def flax_model(name):
    return harness.find_class(f"Flax{name}Model")(config(name))


def proof(name, changed=(), source=(), target=()):
    """Run a family's torch model, its config changed, against its Flax model."""
    both = INPUTS.get(name, TEXT)
    given = {
        side: {key: value for key, value in {**both, **dict(own)}.items() if value is not None}
        for side, own in (("source", source), ("target", target))
    }
    with harness.old_clip():
        model = harness.find_class(f"{name}Model")(config(name, **dict(changed))).eval()
        return prove(source_model=model, model=flax_model(name), inputs=given)


@pytest.mark.parametrize(
    ("name", "changed", "code"),
    [pytest.param(*case, marks=pytest.mark.slow if case in SLOW else pytest.mark.zoo) for case in CONFIGS],
)
def test_another_config_is_named(name, changed, code):
    done = proof(name, changed)

    assert not done.equal
    assert done.causes[0].code == code


@pytest.mark.zoo
@pytest.mark.parametrize(("name", "source", "target", "code"), GIVEN)
def test_masks_and_positions_of_one_side_are_named(name, source, target, code):
    done = proof(name, source=source, target=target)

    assert not done.equal
    assert done.causes[0].code == code


@pytest.mark.zoo
def test_another_implementation_of_the_same_attention_is_equal():
    assert proof("Bert", {"attn_implementation": "sdpa"}).equal
