"""CLIP of transformers and of open_clip give the same outputs with the same weights, converted both ways."""

import numpy as np
import pytest
import torch
import transformers
from stubs import imported, stub_torchvision
from support.rule_proofs import assert_same_outputs, randomised, stored, torch_file

from bridge_core import convert

pytestmark = pytest.mark.proof

stub_torchvision()
open_clip = imported("open_clip")

IMAGE, TEXT = (24, 2, 4), (12, 3, 3)  # width, layers, heads
SIDE, PATCH, WORDS, LENGTH, SHARED = 15, 5, 37, 7, 10

rng = np.random.default_rng(0)
PICTURES = torch.from_numpy(rng.standard_normal((2, 3, SIDE, SIDE)).astype(np.float32))
TOKENS = torch.from_numpy(rng.integers(3, WORDS - 1, (3, LENGTH)))
TOKENS[:, 4] = WORDS - 1  # the end of the text, the largest number of all


def ours(activation):
    def sizes(width, layers, heads):
        return dict(
            hidden_size=width,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            intermediate_size=4 * width,
            hidden_act=activation,
        )

    config = transformers.CLIPConfig(
        vision_config=dict(sizes(*IMAGE), image_size=SIDE, patch_size=PATCH),
        text_config=dict(
            sizes(*TEXT), vocab_size=WORDS, max_position_embeddings=LENGTH, eos_token_id=WORDS - 1
        ),
        projection_dim=SHARED,
        attn_implementation="eager",
    )
    return randomised(transformers.CLIPModel(config))


def theirs(activation):
    width, layers, heads = IMAGE
    vision = dict(layers=layers, width=width, head_width=width // heads, patch_size=PATCH, image_size=SIDE)
    width, layers, heads = TEXT
    text = dict(context_length=LENGTH, vocab_size=WORDS, width=width, heads=heads, layers=layers)
    return randomised(
        open_clip.model.CLIP(
            SHARED,
            open_clip.model.CLIPVisionCfg(**vision),
            open_clip.model.CLIPTextCfg(**text),
            quick_gelu=activation == "quick_gelu",
        ),
        seed=1,
    )


def outputs(model):
    with torch.no_grad():
        if isinstance(model, transformers.CLIPModel):
            return model(input_ids=TOKENS, pixel_values=PICTURES).logits_per_image
        return model.get_logits(PICTURES, TOKENS)[0]


@pytest.fixture(params=["quick_gelu", "gelu"])
def activation(request):
    return request.param


def converted(model, into, tmp_path):
    """Return the second model with the first one's weights."""
    source = torch_file(model, tmp_path / "source" / "model.safetensors")
    convert(source, tmp_path / "made.safetensors", to="torch", recipe="clip-openai")
    made = {name: torch.from_numpy(value) for name, value in stored(tmp_path / "made.safetensors").items()}
    into.load_state_dict(made, strict=True)
    return into


def test_from_transformers(activation, tmp_path):
    model = ours(activation)
    assert_same_outputs(outputs(converted(model, theirs(activation), tmp_path)), outputs(model))


def test_from_open_clip(activation, tmp_path):
    model = theirs(activation)
    assert_same_outputs(outputs(converted(model, ours(activation), tmp_path)), outputs(model))


def test_other_weights_give_other_outputs(tmp_path):
    """The control: keys and values of one layer change places, which no shape shows."""
    model = ours("gelu")
    wanted = outputs(model)
    attention = model.text_model.encoder.layers[1].self_attn
    attention.k_proj, attention.v_proj = attention.v_proj, attention.k_proj
    with pytest.raises(AssertionError):
        assert_same_outputs(outputs(converted(model, theirs("gelu"), tmp_path)), wanted)


