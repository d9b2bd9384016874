"""Whisper of transformers and of OpenAI's code: one model's weights under both sides' names, made by hand."""

import numpy as np
from support.rule_proofs import RECIPES

from bridge_core.plugins import load_recipe
from bridge_core.testing import RecipeContract, RecipeSample

WIDTH, HIDDEN, MELS, SOUNDS, PLACES, WORDS = 12, 20, 5, 11, 7, 37
LAYERS = {"encoder": 2, "decoder": 3}

CONFIG = {"model_type": "whisper", "d_model": WIDTH}


def sample(name):
    rng = np.random.default_rng(0)
    ours, theirs = {}, {}

    def both(our_name, their_name, *shape):
        ours[f"model.{our_name}"] = theirs[their_name] = rng.standard_normal(shape).astype(np.float32)

    def layer(our_name, their_name, *shape, bias=True):
        both(f"{our_name}.weight", f"{their_name}.weight", *shape)
        if bias:
            both(f"{our_name}.bias", f"{their_name}.bias", shape[0])

    def attention(our_name, their_name):
        for x, other in (("q", "query"), ("k", "key"), ("v", "value"), ("out", "out")):
            layer(f"{our_name}.{x}_proj", f"{their_name}.{other}", WIDTH, WIDTH, bias=x != "k")

    for side, layers in LAYERS.items():
        for n in range(layers):
            one, other = f"{side}.layers.{n}", f"{side}.blocks.{n}"
            attention(f"{one}.self_attn", f"{other}.attn")
            layer(f"{one}.self_attn_layer_norm", f"{other}.attn_ln", WIDTH)
            if side == "decoder":
                attention(f"{one}.encoder_attn", f"{other}.cross_attn")
                layer(f"{one}.encoder_attn_layer_norm", f"{other}.cross_attn_ln", WIDTH)
            layer(f"{one}.fc1", f"{other}.mlp.0", HIDDEN, WIDTH)
            layer(f"{one}.fc2", f"{other}.mlp.2", WIDTH, HIDDEN)
            layer(f"{one}.final_layer_norm", f"{other}.mlp_ln", WIDTH)
    layer("encoder.conv1", "encoder.conv1", WIDTH, MELS, 3)
    layer("encoder.conv2", "encoder.conv2", WIDTH, WIDTH, 3)
    both("encoder.embed_positions.weight", "encoder.positional_embedding", SOUNDS, WIDTH)
    both("decoder.embed_positions.weight", "decoder.positional_embedding", PLACES, WIDTH)
    both("decoder.embed_tokens.weight", "decoder.token_embedding.weight", WORDS, WIDTH)
    layer("encoder.layer_norm", "encoder.ln_post", WIDTH)
    layer("decoder.layer_norm", "decoder.ln", WIDTH)
    return RecipeSample(source=ours, target=theirs, source_config=CONFIG, name=name)


class TestWhisperOpenai(RecipeContract):
    recipe = load_recipe(RECIPES / "whisper-openai.toml")

    def samples(self):
        yield sample("a decoder with more layers than the encoder")
