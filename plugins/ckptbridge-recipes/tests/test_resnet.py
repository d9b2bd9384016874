"""The recipes of ResNets, on weights that were made by hand."""

import numpy as np
import pytest
from support.rule_proofs import RECIPES
from support.vision_weights import LINEN, Both

from bridge_core.plugins import load_recipe
from bridge_core.testing import RecipeContract, RecipeSample

STAGES = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}


def weights_of(depth, names, both=None):
    """Return the weights of a narrow ResNet.

    ``names`` gives, for a block's stage, its number there and its number among all, the name of the block, of
    its convolutions and norms, and of its projection's.
    """
    both = both or Both(LINEN)
    stem, blocks, last = names
    both.conv("conv1", stem[0], 2, 3, 7)
    both.batch_norm("bn1", stem[1], 2)
    channels, number, bottleneck = 2, 0, depth >= 50
    for stage, count in enumerate(STAGES[depth]):
        for block in range(count):
            width = 2 << stage
            out = width * 4 if bottleneck else width
            sizes = [(width, channels, 1), (width, width, 3), (out, width, 1)]
            sizes = sizes if bottleneck else [(width, channels, 3), (width, width, 3)]
            at = f"layer{stage + 1}.{block}"
            conv, norm, projection = blocks(depth, stage, block, number)
            for n, (to, into, size) in enumerate(sizes):
                both.conv(f"{at}.conv{n + 1}", conv.format(n), to, into, size)
                both.batch_norm(f"{at}.bn{n + 1}", norm.format(n), to)
            if channels != out or (stage and not block):
                both.conv(f"{at}.downsample.0", projection[0], out, channels)
                both.batch_norm(f"{at}.downsample.1", projection[1], out)
            channels, number = out, number + 1
    both.dense("fc", last(depth), 5, channels)
    return both


def of_flax(depth, stage, block, number):
    at = f"{'BottleneckResNetBlock' if depth >= 50 else 'ResNetBlock'}_{number}"
    return f"{at}/Conv_{{}}", f"{at}/BatchNorm_{{}}", (f"{at}/conv_proj", f"{at}/norm_proj")


def of_jax_resnet(depth, stage, block, number):
    at = f"layers_{number + 2}"
    skip = f"{at}/ResNetSkipConnection_0/ConvBlock_0"
    return (
        f"{at}/ConvBlock_{{}}/Conv_0",
        f"{at}/ConvBlock_{{}}/BatchNorm_0",
        (f"{skip}/Conv_0", f"{skip}/BatchNorm_0"),
    )


def of_flaxmodels(depth, stage, block, number):
    at, count = (f"Bottleneck_{number}", 3) if depth >= 50 else (f"BasicBlock_{number}", 2)
    return f"{at}/Conv_{{}}", f"{at}/BatchNorm_{{}}", (f"{at}/Conv_{count}", f"{at}/BatchNorm_{count}")


NAMES = {
    "resnet-flax": (("conv_init", "bn_init"), of_flax, lambda depth: "Dense_0"),
    "resnet-flaxmodels": (("Conv_0", "BatchNorm_0"), of_flaxmodels, lambda depth: "Dense_0"),
    "resnet-jax-resnet": (
        ("layers_0/ConvBlock_0/Conv_0", "layers_0/ConvBlock_0/BatchNorm_0"),
        of_jax_resnet,
        lambda depth: f"layers_{sum(STAGES[depth]) + 3}",
    ),
}


class Depths(RecipeContract):
    """A ResNet with few layers, and one with bottlenecks."""

    depths = (18, 50)

    def samples(self):
        for depth in self.depths:
            both = weights_of(depth, NAMES[self.recipe.name])
            yield RecipeSample(both.source, both.target, f"ResNet-{depth}", may_lack=both.counters)


class TestFlax(Depths):
    recipe = load_recipe(RECIPES / "resnet-flax.toml")


@pytest.mark.slow
class TestJaxResnet(Depths):
    recipe = load_recipe(RECIPES / "resnet-jax-resnet.toml")


@pytest.mark.slow
class TestFlaxmodels(Depths):
    recipe = load_recipe(RECIPES / "resnet-flaxmodels.toml")


HAIKU_AT = "res_net{depth}/~/block_group_{stage}/~/block_{block}/~"


def of_haiku(depth, stage, block, number):
    at = HAIKU_AT.format(depth=depth, stage=stage, block=block)
    return f"{at}/conv_{{}}", f"{at}/batchnorm_{{}}", (f"{at}/shortcut_conv", f"{at}/shortcut_batchnorm")


class Haiku(Both):
    """Norms have axes of size one, and averages with two copies and a counter."""

    def __init__(self):
        super().__init__({"kernel": "{}/w", "scale": "{}/scale", "bias": "{}/offset"})

    def dense(self, torch, tree, out, into):
        super().dense(torch, tree, out, into)
        self.target[f"{tree}/b"] = self.target.pop(f"{tree}/offset")

    def norm(self, torch, tree, size):
        super().norm(torch, tree, size)
        for leaf in ("scale", "offset"):
            self.target[f"{tree}/{leaf}"] = self.target[f"{tree}/{leaf}"].reshape(1, 1, 1, size)

    def batch_norm(self, torch, tree, size):
        self.norm(torch, tree, size)
        for own, average in (("running_mean", "mean_ema"), ("running_var", "var_ema")):
            value = self.values(size, positive=True)
            self.source[f"{torch}.{own}"] = value
            for leaf in ("average", "hidden"):
                self.target[f"{tree}/~/{average}/{leaf}"] = value.reshape(1, 1, 1, size)
            self.target[f"{tree}/~/{average}/counter"] = np.array(size, np.int32)
        self.source[f"{torch}.num_batches_tracked"] = np.array(size, np.int64)


@pytest.mark.slow
class TestHaiku(RecipeContract):
    removed = 10
    recipe = load_recipe(RECIPES / "resnet-haiku.toml")

    def samples(self):
        for depth in (18, 50):
            net = f"res_net{depth}/~"
            names = (
                (f"{net}/initial_conv", f"{net}/initial_batchnorm"),
                of_haiku,
                lambda depth: f"res_net{depth}/~/logits",
            )
            both = weights_of(depth, names, Haiku())
            # Counters become int32, which might round.
            yield RecipeSample(both.source, both.target, f"ResNet-{depth}", tolerance=1e-12)


@pytest.mark.slow
class TestBonsai(RecipeContract):
    recipe = load_recipe(RECIPES / "resnet-bonsai.toml")

    def samples(self):
        for name, start in (("a projection in each stage", 6), ("none in the first", 8)):
            both = Both()
            at = "resnet.embedder.embedder"
            both.conv(f"{at}.convolution", "stem/conv", start, 3, 7)
            both.batch_norm(f"{at}.normalization", "stem/bn", start)
            channels = start
            for stage, (count, out) in enumerate(((1, 8), (2, 12), (1, 20), (3, 28))):
                for block in range(count):
                    old = f"resnet.encoder.stages.{stage}.layers.{block}"
                    new = f"layer{stage}/blocks/{block}"
                    width = out // 4
                    for n, sizes in enumerate(((width, channels, 1), (width, width, 3), (out, width, 1))):
                        both.conv(f"{old}.layer.{n}.convolution", f"{new}/conv{n}", *sizes)
                        both.batch_norm(f"{old}.layer.{n}.normalization", f"{new}/bn{n}", sizes[0])
                    if channels != out or (stage and not block):
                        both.conv(f"{old}.shortcut.convolution", f"{new}/downsample/conv", out, channels)
                        both.batch_norm(f"{old}.shortcut.normalization", f"{new}/downsample/bn", out)
                    channels = out
            both.dense("classifier.1", "fc", 5, channels)
            yield RecipeSample(
                both.source,
                both.target,
                name,
                {"model_type": "resnet", "layer_type": "bottleneck"},
                may_lack=both.counters,
            )
