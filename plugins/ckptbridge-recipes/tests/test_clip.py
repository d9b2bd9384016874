"""CLIP of transformers and of OpenAI's code: one model's weights under both sides' names, made by hand."""

import numpy as np
from support.rule_proofs import RECIPES

from bridge_core.plugins import load_recipe
from bridge_core.testing import RecipeContract, RecipeSample

IMAGE, TEXT = (24, 2, 96), (12, 3, 40)  # width, layers, width of the MLP
PATCHES, PATCH, WORDS, LENGTH, SHARED = 9, 5, 37, 7, 10


def sample(name, *, buffers=False):
    rng = np.random.default_rng(0)
    ours, theirs = {}, {}

    def normal(*shape):
        return rng.standard_normal(shape).astype(np.float32)

    def both(our_name, their_name, *shape):
        ours[our_name] = theirs[their_name] = normal(*shape)

    def layer(our_name, their_name, out, into):
        both(f"{our_name}.weight", f"{their_name}.weight", out, into)
        both(f"{our_name}.bias", f"{their_name}.bias", out)

    def norm(our_name, their_name, width):
        both(f"{our_name}.weight", f"{their_name}.weight", width)
        both(f"{our_name}.bias", f"{their_name}.bias", width)

    def tower(our_name, their_name, width, layers, hidden):
        for n in range(layers):
            one, other = f"{our_name}.{n}", f"{their_name}.{n}"
            for leaf, shape in (("weight", (width, width)), ("bias", (width,))):
                parts = [normal(*shape) for _ in range(3)]
                for x, part in zip("qkv", parts, strict=True):
                    ours[f"{one}.self_attn.{x}_proj.{leaf}"] = part
                theirs[f"{other}.attn.in_proj_{leaf}"] = np.concatenate(parts)
            layer(f"{one}.self_attn.out_proj", f"{other}.attn.out_proj", width, width)
            norm(f"{one}.layer_norm1", f"{other}.ln_1", width)
            norm(f"{one}.layer_norm2", f"{other}.ln_2", width)
            layer(f"{one}.mlp.fc1", f"{other}.mlp.c_fc", hidden, width)
            layer(f"{one}.mlp.fc2", f"{other}.mlp.c_proj", width, hidden)

    tower("vision_model.encoder.layers", "visual.transformer.resblocks", *IMAGE)
    tower("text_model.encoder.layers", "transformer.resblocks", *TEXT)
    at = "vision_model.embeddings"
    both(f"{at}.class_embedding", "visual.class_embedding", IMAGE[0])
    both(f"{at}.patch_embedding.weight", "visual.conv1.weight", IMAGE[0], 3, PATCH, PATCH)
    both(f"{at}.position_embedding.weight", "visual.positional_embedding", 1 + PATCHES, IMAGE[0])
    norm("vision_model.pre_layrnorm", "visual.ln_pre", IMAGE[0])
    norm("vision_model.post_layernorm", "visual.ln_post", IMAGE[0])
    at = "text_model.embeddings"
    both(f"{at}.token_embedding.weight", "token_embedding.weight", WORDS, TEXT[0])
    both(f"{at}.position_embedding.weight", "positional_embedding", LENGTH, TEXT[0])
    norm("text_model.final_layer_norm", "ln_final", TEXT[0])
    for own, other, width in (
        ("visual_projection", "visual.proj", IMAGE[0]),
        ("text_projection", "text_projection", TEXT[0]),
    ):
        ours[f"{own}.weight"] = normal(SHARED, width)
        theirs[other] = np.ascontiguousarray(ours[f"{own}.weight"].T)
    both("logit_scale", "logit_scale")
    return RecipeSample(source=ours, target=theirs, source_config={"model_type": "clip"}, name=name)


class TestClipOpenai(RecipeContract):
    recipe = load_recipe(RECIPES / "clip-openai.toml")

    def samples(self):
        yield sample("two towers of different sizes")
