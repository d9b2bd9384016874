"""The recipes of ConvNeXt, on weights that were made by hand."""

import pytest
from support.rule_proofs import RECIPES
from support.vision_weights import Both

from bridge_core.plugins import load_recipe
from bridge_core.testing import RecipeContract, RecipeSample

STAGES = ((1, 6), (2, 9), (1, 13), (3, 10))
"""Blocks and channels of each."""

CONFIG = {"model_type": "convnext"}


def weights_of():
    """Return the weights under the names of transformers and of bonsai."""
    both = Both({leaf: f"{{}}/{leaf}" for leaf in ("kernel", "scale", "bias")})
    both.conv("convnext.embeddings.patch_embeddings", "embedding_layer/layers/0", 6, 3, 4, bias=True)
    both.norm("convnext.embeddings.layernorm", "embedding_layer/layers/1", 6)
    before = 6
    for s, (count, width) in enumerate(STAGES):
        old, new = f"convnext.encoder.stages.{s}", f"stages/{s}"
        if s:
            both.norm(f"{old}.downsampling_layer.0", f"{new}/downsample_layers/0", before)
            both.conv(
                f"{old}.downsampling_layer.1", f"{new}/downsample_layers/1", width, before, 2, bias=True
            )
        for b in range(count):
            block, at = f"{old}.layers.{b}", f"{new}/layers/{b}"
            both.conv(f"{block}.dwconv", f"{at}/dwconv", width, 1, 7, bias=True)
            both.norm(f"{block}.layernorm", f"{at}/norm", width)
            both.dense(f"{block}.pwconv1", f"{at}/pwconv1", 4 * width, width)
            both.dense(f"{block}.pwconv2", f"{at}/pwconv2", width, 4 * width)
            both.source[f"{block}.layer_scale_parameter"] = both.target[f"{at}/gamma"] = both.values(width)
        before = width
    both.norm("convnext.layernorm", "norm", before)
    both.dense("classifier", "head", 5, before)
    return both


def of_facebook(weights):
    """Return the names of facebookresearch/ConvNeXt for those of transformers."""
    found = {}
    for name, value in weights.items():
        if ".embeddings." in name:
            old, new = ("patch_embeddings", "0") if "patch" in name else ("layernorm", "1")
            name = name.replace(f"convnext.embeddings.{old}", f"downsample_layers.0.{new}")
        elif ".stages." in name:
            stage, _, rest = name.removeprefix("convnext.encoder.stages.").partition(".")
            if rest.startswith("downsampling_layer."):
                name = f"downsample_layers.{stage}.{rest.removeprefix('downsampling_layer.')}"
            else:
                rest = rest.removeprefix("layers.").replace("layer_scale_parameter", "gamma")
                name = f"stages.{stage}.{rest.replace('layernorm', 'norm')}"
        else:
            name = name.replace("convnext.layernorm", "norm").replace("classifier", "head")
        found[name] = value
    return found


@pytest.mark.slow
class TestBonsai(RecipeContract):
    recipe = load_recipe(RECIPES / "convnext-bonsai.toml")

    def samples(self):
        both = weights_of()
        yield RecipeSample(both.source, both.target, source_config=CONFIG)


class TestFacebook(RecipeContract):
    recipe = load_recipe(RECIPES / "convnext-facebook.toml")

    def samples(self):
        both = weights_of()
        yield RecipeSample(both.source, of_facebook(both.source), source_config=CONFIG)
