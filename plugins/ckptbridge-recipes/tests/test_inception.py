"""The recipe of Inception v3, on weights that were made by hand."""

import pytest
from support.rule_proofs import RECIPES
from support.vision_weights import Both

from bridge_core.plugins import load_recipe
from bridge_core.testing import RecipeContract, RecipeSample

BLOCKS = {
    "A": "1x1 5x5_1 5x5_2 3x3dbl_1 3x3dbl_2 3x3dbl_3 _pool",
    "B": "3x3 3x3dbl_1 3x3dbl_2 3x3dbl_3",
    "C": "1x1 7x7_1 7x7_2 7x7_3 7x7dbl_1 7x7dbl_2 7x7dbl_3 7x7dbl_4 7x7dbl_5 _pool",
    "D": "3x3_1 3x3_2 7x7x3_1 7x7x3_2 7x7x3_3 7x7x3_4",
    "E": "1x1 3x3_1 3x3_2a 3x3_2b 3x3dbl_1 3x3dbl_2 3x3dbl_3a 3x3dbl_3b _pool",
}
MIXED = {
    **{f"Mixed_5{letter}": f"A_{n}" for n, letter in enumerate("bcd")},
    "Mixed_6a": "B_0",
    **{f"Mixed_6{letter}": f"C_{n}" for n, letter in enumerate("bcde")},
    "Mixed_7a": "D_0",
    **{f"Mixed_7{letter}": f"E_{n}" for n, letter in enumerate("bc")},
}
STEM = ("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "Conv2d_3b_1x1", "Conv2d_4a_3x3")


def weights_of(*, auxiliary):
    both = Both()
    width = 3

    def layer(old, new):
        nonlocal width
        size = ((1, 1), (1, 7), (3, 1))[width % 3]
        both.conv(f"{old}.conv", f"{new}/Conv_0", width + 1, width, size)
        width = 2 + (width - 1) % 7
        both.batch_norm(f"{old}.bn", f"{new}/BatchNorm_0", both.source[f"{old}.conv.weight"].shape[0])

    for n, name in enumerate(STEM):
        layer(name, f"BasicConv2d_{n}")
    for name, block in MIXED.items():
        for n, branch in enumerate(BLOCKS[block[0]].split()):
            layer(f"{name}.branch{branch}", f"Inception{block}/BasicConv2d_{n}")
    if auxiliary:
        layer("AuxLogits.conv0", "InceptionAux_0/BasicConv2d_0")
        layer("AuxLogits.conv1", "InceptionAux_0/BasicConv2d_1")
        both.dense("AuxLogits.fc", "InceptionAux_0/Dense_0/Dense_0", 5, 7)
    both.dense("fc", "Dense_0/Dense_0", 5, 6)
    return both


@pytest.mark.slow
class TestFid(RecipeContract):
    removed = 8
    recipe = load_recipe(RECIPES / "inception-fid.toml")

    def samples(self):
        for name, auxiliary in (("torchvision", True), ("pytorch-fid", False)):
            both = weights_of(auxiliary=auxiliary)
            # Counters are left out, so that no conversion is called exact.
            yield RecipeSample(both.source, both.target, name, not_written=both.counters, tolerance=1e-12)
