"""Stable Diffusion's models: names and shapes of both sides, the torch side from models, Flax's made by hand.

That the models of both sides compute the same is tested with the plugin for transformers.
"""

import re
from pathlib import Path

import numpy as np
import pytest
from support.diffusion_models import MODELS

import ckptbridge_recipes
from bridge_core.plugins import load_recipe
from bridge_core.testing import RecipeContract, RecipeSample

RECIPES = Path(ckptbridge_recipes.__file__).parent / "recipes"
BY_NAME = {model.name: model for model in MODELS}
ATTENDING = ("_blocks.0.attentions", "_blocks.1.attentions", "_blocks_0/attentions", "_blocks_1/attentions")
"""Not every block has attentions."""

INDEX = re.compile(r"\.(\d+)(?=\.|$)")


def weights(name):
    """Return a torch model's weights, random."""
    rng = np.random.default_rng(0)
    return {
        key: rng.standard_normal(tuple(value.shape), np.float32)
        for key, value in BY_NAME[name].torch().state_dict().items()
    }


def as_flax(name, value):
    """Return Flax's name and array of a tensor of torch: indices joined, kernels turned, scales renamed."""
    parts = INDEX.sub(r"_\1", name).split(".")
    if "group_norm" not in name and ".mid_block.attentions_0." in ".".join(parts) and "coder." in name:
        parts[3] = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out_0": "proj_attn"}.get(
            parts[3], parts[3]
        )
    if parts[-1] == "weight":
        parts[-1] = "scale" if value.ndim == 1 else "kernel"
        value = value.transpose(*range(2, value.ndim), 1, 0) if value.ndim > 1 else value
    return "/".join(parts), np.ascontiguousarray(value)


def sample(name, **options):
    source = weights(name)
    made = dict(as_flax(key, value) for key, value in source.items())
    return RecipeSample(source, made, name, **options)


def optional(name):
    """Return the names of a model that only some layers have, on both sides."""
    parts = ("conv_shortcut", "samplers", "add_embedding", "quant_conv", *ATTENDING)
    found = sample(name)
    return frozenset(
        key for side in (found.source, found.target) for key in side if any(p in key for p in parts)
    )


less_by_less = pytest.mark.slow(RecipeContract.test_a_tensor_less_is_refused)


@pytest.mark.slow
class TestUNet(RecipeContract):
    removed = 12
    recipe = load_recipe(RECIPES / "diffusers-unet.toml")
    test_a_tensor_less_is_refused = less_by_less

    def samples(self):
        config = {"_class_name": "UNet2DConditionModel"}
        yield sample("unet", source_config=config, may_lack=optional("unet"))
        flax = {"_class_name": "FlaxUNet2DConditionModel"}
        yield sample("unet-xl", target_config=flax, may_lack=optional("unet-xl"))


@pytest.mark.slow
class TestControlNet(RecipeContract):
    removed = 12
    recipe = load_recipe(RECIPES / "diffusers-controlnet.toml")
    test_a_tensor_less_is_refused = less_by_less

    def samples(self):
        yield sample("controlnet", may_lack=optional("controlnet"))


class TestAutoencoder(RecipeContract):
    removed = 12
    recipe = load_recipe(RECIPES / "diffusers-vae.toml")
    test_a_tensor_less_is_refused = less_by_less

    def samples(self):
        yield sample("vae", may_lack=optional("vae"))
