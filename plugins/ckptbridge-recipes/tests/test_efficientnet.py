"""The recipes of EfficientNet, on weights that were made by hand."""

import numpy as np
import pytest
from support.rule_proofs import RECIPES
from support.vision_weights import KERAS, Both

from bridge_core.plugins import load_recipe
from bridge_core.testing import RecipeContract, RecipeSample

STAGES = {"B0": (1, 2, 2, 3, 3, 4, 1), "B4": (2, 4, 4, 6, 6, 8, 2)}


class Keras(Both):
    def __init__(self):
        super().__init__(KERAS)

    def bias(self, torch, tree, size):
        self.source[f"{torch}.bias"] = self.target[f"{tree}/bias:0"] = self.values(size)


def of_keras(stages):
    both = Keras()
    root = "efficientnet"
    both.conv(f"{root}.embeddings.convolution", "stem_conv", 4, 3, 3)
    both.batch_norm(f"{root}.embeddings.batchnorm", "stem_bn", 4)
    number, before = 0, 4
    for stage, count in enumerate(stages):
        out = 3 + stage
        for block in range(count):
            old, new = f"{root}.encoder.blocks.{number}", f"block{stage + 1}{'abcdefgh'[block]}"
            wide, squeezed = (2 * before if stage else before), 1 + number % 3
            if stage:
                both.conv(f"{old}.expansion.expand_conv", f"{new}_expand_conv", wide, before)
                both.batch_norm(f"{old}.expansion.expand_bn", f"{new}_expand_bn", wide)
            depthwise = both.values(wide, 1, 3, 5)
            both.source[f"{old}.depthwise_conv.depthwise_conv.weight"] = depthwise
            both.target[f"{new}_dwconv/depthwise_kernel:0"] = np.array(
                depthwise.transpose(2, 3, 0, 1), order="C"
            )
            both.batch_norm(f"{old}.depthwise_conv.depthwise_norm", f"{new}_bn", wide)
            for part, to, into in (("reduce", squeezed, wide), ("expand", wide, squeezed)):
                both.conv(f"{old}.squeeze_excite.{part}", f"{new}_se_{part}", to, into)
                both.bias(f"{old}.squeeze_excite.{part}", f"{new}_se_{part}", to)
            both.conv(f"{old}.projection.project_conv", f"{new}_project_conv", out, wide)
            both.batch_norm(f"{old}.projection.project_bn", f"{new}_project_bn", out)
            number, before = number + 1, out
    both.conv(f"{root}.encoder.top_conv", "top_conv", 11, before)
    both.batch_norm(f"{root}.encoder.top_bn", "top_bn", 11)
    both.put("kernel", "classifier", "predictions", kernel := both.values(5, 11), kernel.T)
    both.bias("classifier", "predictions", 5)
    return both


@pytest.mark.slow
class TestKeras(RecipeContract):
    recipe = load_recipe(RECIPES / "efficientnet-keras.toml")
    removed = 4

    def samples(self):
        for name, stages in STAGES.items():
            both = of_keras(stages)
            # Counters are left out, so that no conversion is called exact.
            yield RecipeSample(
                both.source,
                both.target,
                name,
                {"model_type": "efficientnet"},
                not_written=both.counters,
                tolerance=1e-12,
            )
